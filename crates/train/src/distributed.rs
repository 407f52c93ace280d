//! Training by several processes: how their group ([`runtime::distributed`]) carries what
//! checkpoints have to agree on.

use std::error::Error;
use std::time::Duration;

use runtime::distributed::{GroupError, ProcessGroup};

use crate::checkpoint::Exchange;

/// For processes that are alive and slow, such as one that still writes to a slow disk. That one is
/// dead is found out much earlier, by the group.
const SLOWEST: Duration = Duration::from_secs(60 * 60);

impl Exchange for ProcessGroup {
    fn process_index(&self) -> usize {
        self.index()
    }

    fn process_count(&self) -> usize {
        self.count()
    }

    fn gather(&self, key: &str, value: Vec<u8>) -> Result<Option<Vec<Vec<u8>>>, String> {
        ProcessGroup::gather(self, key, &value, SLOWEST).map_err(|error| sentence(&error))
    }

    fn broadcast(&self, key: &str, value: Vec<u8>) -> Result<Vec<u8>, String> {
        ProcessGroup::broadcast(self, key, 0, &value, SLOWEST).map_err(|error| sentence(&error))
    }
}

fn sentence(error: &GroupError) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::Arc;

    use runtime::distributed::{GroupOptions, Launch, LaunchFlags, Variables};

    use super::*;
    use crate::trainer::agree_to_stop;

    fn join(index: u32, coordinator: &str) -> ProcessGroup {
        let flags = LaunchFlags {
            index: Some(index),
            count: Some(2),
            coordinator: Some(coordinator.to_string()),
            ..LaunchFlags::default()
        };
        let launch = Launch::find(&flags, &Variables::new()).unwrap().unwrap();
        ProcessGroup::join(&launch, &GroupOptions::default()).unwrap()
    }

    #[test]
    fn a_group_carries_what_checkpoints_exchange() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let coordinator = format!("127.0.0.1:{port}");
        let run = |index: u32| {
            let group: Arc<ProcessGroup> = Arc::new(join(index, &coordinator));
            let exchange: Arc<dyn Exchange> = group.clone();
            assert_eq!(exchange.process_index(), index as usize);
            assert_eq!(exchange.process_count(), 2);
            let mine = vec![index as u8; 3];
            let all = exchange.gather("report", mine.clone()).unwrap();
            let first = index == 0;
            assert_eq!(all, first.then(|| vec![vec![0; 3], vec![1; 3]]));
            assert_eq!(exchange.broadcast("verdict", mine).unwrap(), [0; 3]);
            group.leave().unwrap();
            // What comes too late is an error, not a wait.
            assert!(exchange.gather("report", Vec::new()).unwrap_err().contains("has left"));
        };
        std::thread::scope(|scope| {
            let run = &run;
            let other = scope.spawn(move || run(1));
            run(0);
            other.join().unwrap();
        });
    }

    /// A signal may reach one host only, and the others would wait for it.
    #[test]
    fn all_stop_when_one_is_asked_to() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let coordinator = format!("127.0.0.1:{port}");
        let run = |index: u32| {
            let group = join(index, &coordinator);
            for asked in [[false, false], [false, true], [true, false], [true, true]] {
                let stops = agree_to_stop(&group, asked[index as usize]).unwrap();
                assert_eq!(stops, asked.contains(&true), "{asked:?}");
            }
            group.leave().unwrap();
        };
        std::thread::scope(|scope| {
            let run = &run;
            let other = scope.spawn(move || run(1));
            run(0);
            other.join().unwrap();
        });
        assert!(agree_to_stop(&ProcessGroup::alone(), true).unwrap());
        assert!(!agree_to_stop(&ProcessGroup::alone(), false).unwrap());
    }
}

//! How many files a server may have open: every connection is one, and what systems allow at first is
//! often less than what they allow on request.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::console;

/// Besides connections: listeners, plugins, the model's files, what a compiler opens.
const OTHERS: u64 = 256;

/// The fewest connections, whatever the limit.
const CONNECTIONS_MIN: usize = 16;

/// Raises the limit as far as it goes; how many of `wanted` connections there can be.
pub fn make_room(wanted: usize) -> usize {
    let allowed = raise();
    let possible = connections(wanted, allowed);
    if let Some(files) = allowed.filter(|_| possible < wanted) {
        console::remark(format!(
            "warning: this process may open {files} files at most, so there can be {possible} connections at once instead of {wanted}; raise the limit to {} (`ulimit -Hn`, or LimitNOFILE of systemd)",
            wanted as u64 + OTHERS
        ));
    }
    possible
}

/// The limit after it was raised; none if there is none.
fn raise() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // What the system does not grant is no reason not to start.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
    getrlimit(Resource::Nofile).current
}

fn connections(wanted: usize, files: Option<u64>) -> usize {
    let Some(files) = files else { return wanted };
    let room = usize::try_from(files.saturating_sub(OTHERS)).unwrap_or(usize::MAX);
    wanted.min(room.max(CONNECTIONS_MIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_no_more_connections_than_files() {
        assert_eq!(connections(4096, None), 4096);
        assert_eq!(connections(4096, Some(1 << 20)), 4096);
        assert_eq!(connections(4096, Some(1024)), 768);
        assert_eq!(connections(4096, Some(100)), CONNECTIONS_MIN);
    }

    #[test]
    fn the_limit_is_raised_as_far_as_it_goes() {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        // Enough for the tests that run beside this one.
        let lower = maximum.map_or(4096, |most| most / 4 * 3);
        setrlimit(Resource::Nofile, Rlimit { current: Some(lower), maximum }).unwrap();
        assert_eq!(raise(), maximum);
    }
}

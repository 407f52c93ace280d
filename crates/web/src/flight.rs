//! Counts requests from their heads' arrival until their answers have been sent, so that a server
//! knows when it may stop, and a connection when it is idle.

use std::sync::Arc;

use tokio::sync::watch;

/// A number of requests.
#[derive(Clone, Debug, Default)]
pub struct Flights {
    count: Arc<watch::Sender<usize>>,
}

/// Requests under way; each drop takes one off every count that it was added to.
#[derive(Debug)]
pub struct InFlight {
    counts: [Arc<watch::Sender<usize>>; 2],
}

impl Flights {
    pub fn new() -> Flights {
        Flights::default()
    }

    /// One more, here and in `other`.
    pub fn begin(&self, other: &Flights) -> InFlight {
        let counts = [Arc::clone(&self.count), Arc::clone(&other.count)];
        for count in &counts {
            count.send_modify(|count| *count += 1);
        }
        InFlight { counts }
    }

    /// Follows the count.
    pub fn watch(&self) -> watch::Receiver<usize> {
        self.count.subscribe()
    }

    /// Returns once there are none.
    pub async fn none(&self) {
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = self.watch().wait_for(|count| *count == 0).await;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        for count in &self.counts {
            count.send_modify(|count| *count -= 1);
        }
    }
}

//! Whether and when another backend is asked, so that a pool that is sick as a whole does not get
//! several times its load on top.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use web::random::random_number;

/// Retries are at most this share of the requests of the last seconds,
const SHARE_MAX: f64 = 0.2;
/// or so many of them, which is what a few clients need when one of few backends dies.
const FLOOR: f64 = 100.0;
const BUCKETS: usize = 10;
const BUCKET: Duration = Duration::from_secs(1);
const BACK_OFF: Duration = Duration::from_millis(20);
const BACK_OFF_MAX: Duration = Duration::from_millis(500);

/// How many retries the whole gateway may make, by what it was asked in the last ten seconds. Answers
/// that go on elsewhere are none: most of their work is done, and there is no other way to end them.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    window: Mutex<Window>,
}

#[derive(Debug)]
struct Window {
    started: Instant,
    /// The bucket that is being filled, counted from the start.
    current: u64,
    requests: [u32; BUCKETS],
    retries: [u32; BUCKETS],
}

impl RetryBudget {
    pub fn new() -> RetryBudget {
        let window = Window {
            started: Instant::now(),
            current: 0,
            requests: [0; BUCKETS],
            retries: [0; BUCKETS],
        };
        RetryBudget { window: Mutex::new(window) }
    }

    /// A request came.
    pub fn request(&self) {
        self.with(|window, at| window.requests[at] = window.requests[at].saturating_add(1));
    }

    /// Whether one more retry fits in; then it counts.
    pub fn take(&self) -> bool {
        self.with(|window, at| {
            let sum = |counts: &[u32]| counts.iter().map(|&count| f64::from(count)).sum::<f64>();
            let allowed = (sum(&window.requests) * SHARE_MAX).max(FLOOR);
            let fits = sum(&window.retries) < allowed;
            if fits {
                window.retries[at] += 1;
            }
            fits
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut Window, usize) -> T) -> T {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let now = window.started.elapsed().as_secs() / BUCKET.as_secs();
        for step in 1..=(now - window.current).min(BUCKETS as u64) {
            let at = ((window.current + step) % BUCKETS as u64) as usize;
            window.requests[at] = 0;
            window.retries[at] = 0;
        }
        window.current = now;
        act(&mut window, (now % BUCKETS as u64) as usize)
    }
}

/// Anything up to a time that doubles with each retry, so that those who failed together do not come
/// back together. AWS's "full jitter":
/// <https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>
pub(super) fn back_off(retries: u32) -> Duration {
    let most = BACK_OFF.saturating_mul(1 << retries.saturating_sub(1).min(10)).min(BACK_OFF_MAX);
    let share = (random_number() >> 11) as f64 / (1_u64 << 53) as f64;
    most.mul_f64(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn retries_are_a_share_of_requests_and_come_back_with_time() {
        let budget = RetryBudget::new();
        let spend = || (0..10_000).take_while(|_| budget.take()).count();
        assert_eq!(spend(), FLOOR as usize);
        for _ in 0..1_000 {
            budget.request();
        }
        assert_eq!(spend(), 100);
        tokio::time::advance(BUCKET * (BUCKETS as u32 - 1)).await;
        assert!(!budget.take(), "what was spent nine seconds ago still counts");
        tokio::time::advance(BUCKET).await;
        assert_eq!(spend(), FLOOR as usize);
    }

    #[test]
    fn back_off_grows_up_to_a_limit() {
        assert!((0..100).all(|_| back_off(1) <= BACK_OFF));
        assert!((0..100).all(|_| back_off(30) <= BACK_OFF_MAX));
    }
}

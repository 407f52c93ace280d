//! Who goes next when there is no room for all: requests wait by their tenants' priority, tenants of the
//! same priority take turns, and when too many wait, those who matter least are refused first.
//!
//! Knows tenants by name and priority only.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

/// Room for requests.
#[derive(Clone, Debug)]
pub struct Admission {
    shared: Arc<Mutex<State>>,
}

/// A request that may go on; its room is given to the next one when it is dropped.
#[derive(Debug)]
pub struct Permit {
    shared: Arc<Mutex<State>>,
    tenant: Arc<str>,
}

/// Why a request may not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Shed {
    #[error("the gateway has no room; try again in {} s", .retry_after.as_secs())]
    Full { retry_after: Duration },
    #[error("the gateway had no room for so long that the request was given up")]
    Waited { retry_after: Duration },
}

#[derive(Debug)]
struct State {
    in_flight_max: usize,
    waiting_max: usize,
    wait_max: Duration,
    in_flight: usize,
    by_tenant: HashMap<Arc<str>, usize>,
    waiting: Vec<Waiter>,
    next_number: u64,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    priority: i32,
    tenant: Arc<str>,
    granted: oneshot::Sender<Option<Permit>>,
}

/// What those are told who are refused.
const RETRY_AFTER: Duration = Duration::from_secs(1);

impl Admission {
    pub fn new(in_flight_max: usize, waiting_max: usize, wait_max: Duration) -> Admission {
        let state = State {
            in_flight_max,
            waiting_max,
            wait_max,
            in_flight: 0,
            by_tenant: HashMap::new(),
            waiting: Vec::new(),
            next_number: 0,
        };
        Admission { shared: Arc::new(Mutex::new(state)) }
    }

    /// Takes effect for requests that come from now on, and for those that wait.
    pub fn change(&self, in_flight_max: usize, waiting_max: usize, wait_max: Duration) {
        let granted = {
            let mut state = self.lock();
            (state.in_flight_max, state.waiting_max, state.wait_max) =
                (in_flight_max, waiting_max, wait_max);
            let free = state.in_flight_max.saturating_sub(state.in_flight);
            (0..free).map_while(|_| state.take_next()).collect::<Vec<_>>()
        };
        granted.into_iter().for_each(|waiter| self.grant(waiter));
    }

    pub fn in_flight(&self) -> usize {
        self.lock().in_flight
    }

    pub fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Returns when there is room.
    ///
    /// # Errors
    /// When too many wait that matter as much or more, or none was found until `deadline` or within the
    /// longest time to wait.
    pub async fn enter(
        &self,
        tenant: &Arc<str>,
        priority: i32,
        deadline: Instant,
    ) -> Result<Permit, Shed> {
        let (mut granted, until, number) = {
            let mut state = self.lock();
            if state.in_flight < state.in_flight_max && state.waiting.is_empty() {
                state.begin(tenant);
                return Ok(self.permit(tenant));
            }
            if state.waiting.len() >= state.waiting_max {
                match state.least_important() {
                    Some(least) if state.waiting[least].priority < priority => {
                        let waiter = state.waiting.swap_remove(least);
                        // It may have left just now.
                        let _ = waiter.granted.send(None);
                    }
                    _ => return Err(Shed::Full { retry_after: RETRY_AFTER }),
                }
            }
            let (granted, receiver) = oneshot::channel();
            let number = state.next_number;
            state.next_number += 1;
            state.waiting.push(Waiter { number, priority, tenant: Arc::clone(tenant), granted });
            (receiver, deadline.min(Instant::now() + state.wait_max), number)
        };
        let _forget = Forget { admission: self, number };
        match timeout_at(until, &mut granted).await {
            Ok(Ok(Some(permit))) => Ok(permit),
            Ok(_) => Err(Shed::Full { retry_after: RETRY_AFTER }),
            // Granted in the very last moment: `granted` is dropped, and its permit with it.
            Err(_) => Err(Shed::Waited { retry_after: RETRY_AFTER }),
        }
    }

    fn permit(&self, tenant: &Arc<str>) -> Permit {
        Permit { shared: Arc::clone(&self.shared), tenant: Arc::clone(tenant) }
    }

    /// Gives a waiter its room, which has been taken in its name already.
    fn grant(&self, waiter: Waiter) {
        let permit = self.permit(&waiter.tenant);
        // If it has left, the permit comes back and is dropped here, outside of the lock.
        let _ = waiter.granted.send(Some(permit));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a waiter out of the queue when its request is given up.
struct Forget<'a> {
    admission: &'a Admission,
    number: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        let mut state = self.admission.lock();
        state.waiting.retain(|waiter| waiter.number != self.number);
    }
}

impl State {
    fn begin(&mut self, tenant: &Arc<str>) {
        self.in_flight += 1;
        *self.by_tenant.entry(Arc::clone(tenant)).or_default() += 1;
    }

    fn end(&mut self, tenant: &Arc<str>) {
        self.in_flight -= 1;
        if let Some(count) = self.by_tenant.get_mut(tenant) {
            *count -= 1;
            if *count == 0 {
                self.by_tenant.remove(tenant);
            }
        }
    }

    /// The waiter whose turn it is, counted as under way.
    fn take_next(&mut self) -> Option<Waiter> {
        let under_way = |tenant: &Arc<str>| self.by_tenant.get(tenant).copied().unwrap_or(0);
        let next = self.waiting.iter().enumerate().min_by_key(|(_, waiter)| {
            (Reverse(waiter.priority), under_way(&waiter.tenant), waiter.number)
        });
        let waiter = next.map(|(index, _)| index).map(|index| self.waiting.swap_remove(index))?;
        self.begin(&waiter.tenant);
        Some(waiter)
    }

    /// Of those who wait, the last one of the lowest priority.
    fn least_important(&self) -> Option<usize> {
        let waiting = self.waiting.iter().enumerate();
        let least = waiting.min_by_key(|(_, waiter)| (waiter.priority, Reverse(waiter.number)));
        least.map(|(index, _)| index)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let admission = Admission { shared: Arc::clone(&self.shared) };
        let next = {
            let mut state = admission.lock();
            state.end(&self.tenant);
            match state.in_flight < state.in_flight_max {
                true => state.take_next(),
                false => None,
            }
        };
        if let Some(waiter) = next {
            admission.grant(waiter);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(tenant: &str) -> Arc<str> {
        Arc::from(tenant)
    }

    fn far() -> Instant {
        Instant::now() + Duration::from_secs(3600)
    }

    async fn settle() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    /// Starts a request that says its name when its turn comes.
    fn start(
        admission: &Admission,
        tenant: &'static str,
        priority: i32,
        order: &Arc<Mutex<Vec<&'static str>>>,
    ) -> tokio::task::JoinHandle<Result<Permit, Shed>> {
        let (admission, order) = (admission.clone(), Arc::clone(order));
        tokio::spawn(async move {
            let permit = admission.enter(&name(tenant), priority, far()).await?;
            order.lock().unwrap().push(tenant);
            Ok(permit)
        })
    }

    #[tokio::test(start_paused = true)]
    async fn priority_comes_first_then_whoever_has_least() {
        let admission = Admission::new(1, 10, Duration::from_secs(60));
        let first = admission.enter(&name("first"), 0, far()).await.unwrap();
        let order = Arc::default();
        let mut started = Vec::new();
        for (tenant, priority) in [("low", -1), ("a", 0), ("b", 0), ("high", 5)] {
            started.push(start(&admission, tenant, priority, &order));
            settle().await;
        }
        assert_eq!((admission.in_flight(), admission.waiting()), (1, 4));
        drop(first);
        // Each goes at once, which lets in the next.
        let gone =
            started.into_iter().map(|task| tokio::spawn(async { task.await.unwrap().map(drop) }));
        for task in gone.collect::<Vec<_>>() {
            task.await.unwrap().unwrap();
        }
        assert_eq!(*order.lock().unwrap(), ["high", "a", "b", "low"]);
        assert_eq!((admission.in_flight(), admission.waiting()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenant_with_many_requests_does_not_keep_others_out() {
        let admission = Admission::new(2, 10, Duration::from_secs(60));
        let held = [
            admission.enter(&name("many"), 0, far()).await.unwrap(),
            admission.enter(&name("many"), 0, far()).await.unwrap(),
        ];
        let order = Arc::default();
        let many = start(&admission, "many", 0, &order);
        settle().await;
        let few = start(&admission, "few", 0, &order);
        settle().await;
        let [one, _other] = held;
        drop(one);
        let _few = few.await.unwrap().unwrap();
        assert_eq!(*order.lock().unwrap(), ["few"]);
        assert!(!many.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn who_matters_least_is_refused_when_too_many_wait() {
        let admission = Admission::new(1, 1, Duration::from_secs(60));
        let held = admission.enter(&name("a"), 0, far()).await.unwrap();
        let order = Arc::default();
        let low = start(&admission, "low", 0, &order);
        settle().await;
        let full = Shed::Full { retry_after: RETRY_AFTER };
        assert_eq!(admission.enter(&name("same"), 0, far()).await.unwrap_err(), full);
        let high = start(&admission, "high", 1, &order);
        settle().await;
        assert_eq!(low.await.unwrap().unwrap_err(), full);
        drop(held);
        assert!(high.await.unwrap().is_ok());
        settle().await;
        assert_eq!((admission.in_flight(), admission.waiting()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_has_an_end_and_who_leaves_is_forgotten() {
        let admission = Admission::new(1, 10, Duration::from_secs(5));
        let held = admission.enter(&name("a"), 0, far()).await.unwrap();
        let waited = admission.enter(&name("b"), 0, far()).await.unwrap_err();
        assert_eq!(waited, Shed::Waited { retry_after: RETRY_AFTER });
        let order = Arc::default();
        let leaving = start(&admission, "c", 0, &order);
        settle().await;
        leaving.abort();
        settle().await;
        assert_eq!(admission.waiting(), 0);
        drop(held);
        assert_eq!(admission.in_flight(), 0);
        admission.change(0, 10, Duration::from_secs(5));
        let waits = start(&admission, "d", 0, &order);
        settle().await;
        admission.change(1, 10, Duration::from_secs(5));
        assert!(waits.await.unwrap().is_ok());
    }
}

//! Threads that share one piece of work at a time. Made for work of microseconds: they spin for a while
//! before they sleep. Knows no kernel.

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, TryLockError};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// How long a thread looks for more work before it sleeps: longer than what lies between two products of a
/// layer, shorter than anyone would notice on a machine with other work.
const SPIN: Duration = Duration::from_micros(150);

/// More threads than this were never measured.
const THREADS_MAX: usize = 256;

/// `Pool::state` is the number of the job (upper half), whether it may be joined, and how many threads are
/// in it.
const OPEN: u64 = 1 << 31;
const ONE_JOB: u64 = 1 << 32;
const INSIDE: u64 = OPEN - 1;

/// How many threads take part, the caller among them.
pub fn threads() -> usize {
    static THREADS: OnceLock<usize> = OnceLock::new();
    *THREADS.get_or_init(|| {
        std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX)
    })
}

/// Does parts `0..parts` of `task`, each once, on as many threads as are free; the caller's is one. While
/// another caller has the threads, this one works alone.
///
/// # Panics
/// If `task` does, after all threads have left it.
pub(crate) fn run(parts: usize, task: &(dyn Fn(usize) + Sync)) {
    static POOL: OnceLock<Option<&'static Pool>> = OnceLock::new();
    let pool = if parts > 1 { *POOL.get_or_init(Pool::start) } else { None };
    if let Some(pool) = pool {
        let turn = match pool.turn.try_lock() {
            Ok(turn) => Some(turn),
            Err(TryLockError::Poisoned(turn)) => Some(turn.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        if turn.is_some() {
            return pool.run(parts, task);
        }
    }
    (0..parts).for_each(task);
}

struct Pool {
    state: AtomicU64,
    /// The first part that nobody has taken.
    next: AtomicUsize,
    job: UnsafeCell<Job>,
    panicked: AtomicBool,
    /// Held by the caller whose job it is.
    turn: Mutex<()>,
    workers: OnceLock<Vec<Worker>>,
}

struct Worker {
    is_asleep: AtomicBool,
    thread: Thread,
}

#[derive(Clone, Copy)]
struct Job {
    task: &'static (dyn Fn(usize) + Sync),
    parts: usize,
}

// SAFETY: `job` is written only while the state is closed with nobody inside, by the holder of `turn`, and read
// only by threads that are counted inside; the rest is made to be shared.
unsafe impl Sync for Pool {}

/// Closes the job and waits until nobody is in it, also when the caller's own part panics.
struct Closing<'a>(&'a Pool);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.state.fetch_and(!OPEN, Ordering::SeqCst);
        let mut looks = 0_u32;
        while self.0.state.load(Ordering::SeqCst) & INSIDE != 0 {
            looks = looks.saturating_add(1);
            if looks < 10_000 {
                std::hint::spin_loop();
            } else {
                // The other thread has lost its processor, perhaps to this one.
                std::thread::yield_now();
            }
        }
    }
}

impl Pool {
    /// `None` where there is one processor, or no thread can be started.
    fn start() -> Option<&'static Pool> {
        if threads() < 2 {
            return None;
        }
        // Lives as long as the process, as its threads do.
        let pool: &'static Pool = Box::leak(Box::new(Pool {
            state: AtomicU64::new(0),
            next: AtomicUsize::new(0),
            job: UnsafeCell::new(Job { task: &|_| (), parts: 0 }),
            panicked: AtomicBool::new(false),
            turn: Mutex::new(()),
            workers: OnceLock::new(),
        }));
        let spawn = |number: usize| {
            let thread = std::thread::Builder::new().name(format!("kernels-{number}"));
            let handle = thread.spawn(move || pool.work(number)).ok()?;
            let thread = handle.thread().clone();
            Some(Worker { is_asleep: AtomicBool::new(false), thread })
        };
        let workers: Vec<Worker> = (0..threads() - 1).map_while(spawn).collect();
        let has_any = !workers.is_empty();
        // Set once, here.
        let _ = pool.workers.set(workers);
        has_any.then_some(pool)
    }

    /// The caller holds `turn`.
    fn run(&self, parts: usize, task: &(dyn Fn(usize) + Sync)) {
        // SAFETY: only the lifetime changes. Nobody calls it after `Closing` is dropped, below.
        let task: &'static (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(task) };
        let job = Job { task, parts };
        // SAFETY: the state is closed and nobody inside, which the last caller waited for; this one holds `turn`.
        unsafe { *self.job.get() = job };
        self.next.store(0, Ordering::Relaxed);
        self.panicked.store(false, Ordering::Relaxed);
        let before = self.state.load(Ordering::Relaxed);
        let opened = (before & !(ONE_JOB - 1)).wrapping_add(ONE_JOB) | OPEN;
        self.state.store(opened, Ordering::SeqCst);
        let closing = Closing(self);
        for worker in self.workers.get().into_iter().flatten().take(parts - 1) {
            // Read after the state was opened, as a worker looks at the state after it says that it sleeps:
            // one of the two sees the other.
            if worker.is_asleep.swap(false, Ordering::SeqCst) {
                worker.thread.unpark();
            }
        }
        self.take_parts(job);
        drop(closing);
        if self.panicked.load(Ordering::Relaxed) {
            resume_unwind(Box::new("a kernel panicked in another thread"));
        }
    }

    fn take_parts(&self, job: Job) {
        loop {
            let part = self.next.fetch_add(1, Ordering::Relaxed);
            if part >= job.parts {
                return;
            }
            (job.task)(part);
        }
    }

    /// What a worker does all its life.
    fn work(&self, number: usize) {
        let mut seen = 0;
        let mut idle_since = Instant::now();
        let mut looks = 0_u32;
        loop {
            let state = self.state.load(Ordering::SeqCst);
            let job_number = state / ONE_JOB;
            let is_new = job_number != seen;
            if is_new && state & OPEN != 0 {
                let joined = self.state.compare_exchange(
                    state,
                    state + 1,
                    Ordering::SeqCst,
                    Ordering::Relaxed,
                );
                if joined.is_ok() {
                    // SAFETY: this thread is counted inside, so the job stays what it is, and its task alive.
                    let job = unsafe { *self.job.get() };
                    if catch_unwind(AssertUnwindSafe(|| self.take_parts(job))).is_err() {
                        self.panicked.store(true, Ordering::Relaxed);
                    }
                    self.state.fetch_sub(1, Ordering::SeqCst);
                    seen = job_number;
                    idle_since = Instant::now();
                }
                continue;
            }
            if is_new {
                // Too late for that one, but there may be more where it came from.
                seen = job_number;
                idle_since = Instant::now();
            }
            std::hint::spin_loop();
            looks = looks.wrapping_add(1);
            if looks.is_multiple_of(64) && idle_since.elapsed() > SPIN {
                self.sleep(number, seen);
                idle_since = Instant::now();
            }
        }
    }

    fn sleep(&self, number: usize, seen: u64) {
        // Not there before all threads were started; then it just goes on looking.
        let Some(worker) = self.workers.get().and_then(|workers| workers.get(number)) else {
            return std::thread::yield_now();
        };
        worker.is_asleep.store(true, Ordering::SeqCst);
        if self.state.load(Ordering::SeqCst) / ONE_JOB == seen {
            std::thread::park();
        }
        worker.is_asleep.store(false, Ordering::SeqCst);
    }
}

/// A slice that several threads write to, each its own places.
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    length: usize,
    _borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: it hands out nothing but what callers of `slice` promise to be theirs alone.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Shared<'a, T> {
        Shared { start: slice.as_mut_ptr(), length: slice.len(), _borrow: PhantomData }
    }

    /// `length` places from `start` on.
    ///
    /// # Panics
    /// If they do not lie within.
    ///
    /// # Safety
    /// As long as the result lives, nothing else may be borrowed that shares a place with it.
    #[inline(always)]
    #[expect(clippy::mut_from_ref, reason = "the caller promises that places are not shared")]
    pub(crate) unsafe fn slice(&self, start: usize, length: usize) -> &mut [T] {
        assert!(start <= self.length && length <= self.length - start, "outside of a shared slice");
        // SAFETY: within the slice (just checked), which is borrowed for `'a`; the caller promises the rest.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), length) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn every_part_is_done_once_whoever_calls() {
        let call = || {
            for round in 0..2_000 {
                let counts: Vec<AtomicUsize> = (0..round % 17).map(|_| 0.into()).collect();
                run(counts.len(), &|part| {
                    counts[part].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(call);
            }
        });
    }

    #[test]
    fn threads_that_fell_asleep_are_woken() {
        if threads() < 2 {
            return;
        }
        let caller = std::thread::current().id();
        let mut helped = false;
        // Others may hold the threads, so it may take some attempts.
        for _ in 0..200 {
            std::thread::sleep(4 * SPIN);
            let others = AtomicUsize::new(0);
            run(2, &|_| {
                let start = Instant::now();
                if std::thread::current().id() != caller {
                    others.fetch_add(1, Ordering::Relaxed);
                }
                while others.load(Ordering::Relaxed) == 0
                    && start.elapsed() < Duration::from_millis(50)
                {
                    std::hint::spin_loop();
                }
            });
            helped |= others.load(Ordering::Relaxed) > 0;
        }
        assert!(helped);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let panics = || {
            run(8, &|part| {
                std::thread::sleep(Duration::from_micros(200));
                if part % 2 == 1 {
                    // Without the words that a panic prints.
                    resume_unwind(Box::new("odd"));
                }
            });
        };
        for _ in 0..5 {
            assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
        }
        let done = AtomicUsize::new(0);
        run(8, &|_| {
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.load(Ordering::Relaxed), 8);
    }
}

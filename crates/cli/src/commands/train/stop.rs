//! What SIGTERM, SIGINT and SIGHUP do to a run. Knows no step: the trainer looks at a flag.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use runtime::distributed::ProcessGroup;
use train::trainer::agree_to_stop;

use crate::console::{self, Progress};
use crate::failure::{Exit, Failure};

/// What there is to do for a run that is asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing: there is nothing to save, and nobody who waits for this process.
    Alone,
    /// Others would wait for this process: all of them stop at the same place.
    Together,
    /// A step ends, and is saved.
    Training,
    /// Nothing: what was trained is saved, and what comes after can be done again.
    Ended,
}

/// Set by the first signal; the second ends the process.
pub struct Stop {
    asked: Arc<AtomicBool>,
    phase: Arc<Mutex<Phase>>,
}

impl Stop {
    /// From now on. Once in a process.
    ///
    /// # Errors
    /// When the system does not let signals be handled.
    pub fn on_signal(progress: Arc<Progress>) -> Result<Stop, Failure> {
        let stop = Stop { asked: Arc::default(), phase: Arc::new(Mutex::new(Phase::Alone)) };
        let (asked, phase) = (stop.asked.clone(), stop.phase.clone());
        ctrlc::set_handler(move || {
            // Held until the process has ended, so that no first step begins meanwhile.
            let phase = lock(&phase);
            if asked.swap(true, Ordering::Relaxed) {
                runtime::end_process(Exit::Interrupted as i32);
            }
            match *phase {
                // At once: compiling, or reading what there is, may take longer than one who wants
                // the machine back has patience.
                Phase::Alone => {
                    progress.clear();
                    console::remark(BEFORE_THE_FIRST_STEP);
                    runtime::end_process(Exit::Stopped as i32);
                }
                Phase::Ended => {
                    progress.clear();
                    console::remark(AFTER_THE_LAST_STEP);
                    runtime::end_process(Exit::Stopped as i32);
                }
                Phase::Together => console::remark(
                    "stopping before the first step, with the other processes (once more ends at once)",
                ),
                Phase::Training => console::remark(
                    "stopping after this step, with everything saved (once more ends at once)",
                ),
            }
        })?;
        Ok(stop)
    }

    /// The others are known.
    pub fn joined(&self, group: &ProcessGroup) {
        if group.count() > 1 {
            *lock(&self.phase) = Phase::Together;
        }
    }

    /// Whether the run stops here, where nothing has been done yet. All processes ask.
    ///
    /// # Errors
    /// A group that has failed.
    pub fn before_training(&self, group: &ProcessGroup) -> Result<bool, Failure> {
        let stops = agree_to_stop(group, self.asked().load(Ordering::Relaxed))?;
        if stops {
            console::remark(BEFORE_THE_FIRST_STEP);
        }
        Ok(stops)
    }

    /// The first step comes next: what is asked from now on is done after it.
    pub fn training_begins(&self) {
        *lock(&self.phase) = Phase::Training;
    }

    /// The last step was made, for a command that goes on with the result.
    ///
    /// # Errors
    /// Where it was asked to stop during that step.
    pub fn training_ended(&self) -> Result<(), Failure> {
        let mut phase = lock(&self.phase);
        *phase = Phase::Ended;
        match self.asked().load(Ordering::Relaxed) {
            true => {
                console::remark(AFTER_THE_LAST_STEP);
                Err(Failure::silent(Exit::Stopped))
            }
            false => Ok(()),
        }
    }

    /// For the trainer.
    pub fn asked(&self) -> &AtomicBool {
        &self.asked
    }
}

const AFTER_THE_LAST_STEP: &str =
    "stopped, with everything that was trained saved: start the same command again";

const BEFORE_THE_FIRST_STEP: &str =
    "stopped before the first step, with nothing to save: start the same command again";

fn lock(phase: &Mutex<Phase>) -> MutexGuard<'_, Phase> {
    phase.lock().unwrap_or_else(PoisonError::into_inner)
}

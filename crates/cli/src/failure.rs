//! How a command fails: one sentence and an exit code.

use std::fmt;

/// Codes of the process, documented in `fungible --help`. Clap itself exits with 2 for bad usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Failure = 1,
    Usage = 2,
    /// A program does not fit the target's memory.
    DoesNotFit = 3,
    /// Training was asked to stop, and everything is saved (`EX_TEMPFAIL` of sysexits: try again).
    Stopped = 75,
    Interrupted = 130,
}

#[derive(Debug)]
pub struct Failure {
    message: String,
    exit: Exit,
}

pub type Outcome = Result<(), Failure>;

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure { message: message.into(), exit }
    }

    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Usage, message)
    }

    /// Ends with a code after everything was said.
    pub fn silent(exit: Exit) -> Failure {
        Failure::new(exit, "")
    }

    /// Whether there is something to say.
    pub fn is_silent(&self) -> bool {
        self.message.is_empty()
    }

    pub fn code(&self) -> u8 {
        self.exit as u8
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

/// The error and its sources in one line; a source that its parent already quotes is left out.
impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::new(Exit::Failure, plan::words::with_sources(&error))
    }
}

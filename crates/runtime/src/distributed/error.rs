//! What can go wrong between processes, each a sentence that names the process.

use std::io;
use std::sync::Arc;

use super::launch::LaunchError;

/// Why a group did not come about, or is no more. Can be told several times, so it is `Clone`.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    #[error(transparent)]
    Launch(#[from] Arc<LaunchError>),
    #[error(
        "process 0 coordinates and cannot listen on {address}; another job may have the port, so choose another for all processes"
    )]
    Listen { address: String, source: Arc<io::Error> },
    #[error(
        "the coordinator (process 0) could not be reached at {coordinator} within {seconds} s; check that it runs and that the address is right"
    )]
    NoCoordinator { coordinator: String, seconds: f64, source: Arc<io::Error> },
    #[error("the coordinator at {coordinator} refused this process: {reason}")]
    Refused { coordinator: String, reason: String },
    #[error("{} did not come{} within {seconds} s", processes(missing, *count), to(meeting))]
    Missing {
        /// Indices of processes.
        missing: Vec<u32>,
        count: u32,
        /// What they were waited for; empty for the start.
        meeting: String,
        seconds: f64,
    },
    #[error("nobody put the key `{key}` within {seconds} s")]
    NotPut { key: String, seconds: f64 },
    /// Another process ended, or said that it cannot go on.
    #[error("{reason}")]
    Failed { reason: String },
    #[error(
        "the coordinator (process 0, at {coordinator}) did not answer for {seconds} s; it ended or its machine is out of reach"
    )]
    Lost { coordinator: String, seconds: f64, source: Arc<io::Error> },
    #[error("`{what}` is {bytes} bytes long, and processes exchange at most {limit_bytes} at once")]
    TooLarge { what: String, bytes: usize, limit_bytes: usize },
    #[error("this process has left the others")]
    Left,
}

impl From<LaunchError> for GroupError {
    fn from(error: LaunchError) -> GroupError {
        GroupError::Launch(Arc::new(error))
    }
}

/// `process 2 of 4`, `processes 1, 2 and 3 of 4`. Of many, the first few.
pub(super) fn processes(indices: &[u32], count: u32) -> String {
    const SHOWN: usize = 8;
    let mut names: Vec<String> = indices.iter().take(SHOWN).map(u32::to_string).collect();
    if indices.len() > SHOWN {
        names.push(format!("{} more", indices.len() - SHOWN));
    }
    match names.as_slice() {
        [] => format!("a process of {count}"),
        [one] => format!("process {one} of {count}"),
        [first @ .., last] => format!("processes {} and {last} of {count}", first.join(", ")),
    }
}

fn to(meeting: &str) -> String {
    if meeting.is_empty() { String::new() } else { format!(" to `{meeting}`") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_processes_are_named() {
        let missing = |missing: &[u32], meeting: &str| {
            let (missing, meeting) = (missing.to_vec(), meeting.to_string());
            GroupError::Missing { missing, count: 4, meeting, seconds: 300.0 }.to_string()
        };
        assert_eq!(missing(&[2], ""), "process 2 of 4 did not come within 300 s");
        assert_eq!(
            missing(&[1, 2, 3], "save"),
            "processes 1, 2 and 3 of 4 did not come to `save` within 300 s"
        );
        let many: Vec<u32> = (1..12).collect();
        assert_eq!(processes(&many, 12), "processes 1, 2, 3, 4, 5, 6, 7, 8 and 3 more of 12");
    }
}

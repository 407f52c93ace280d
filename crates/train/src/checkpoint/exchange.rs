//! How the processes of a run agree on a checkpoint. Only the interface is here, and the run of one
//! process; what carries the messages is elsewhere.

/// Collects a value from every process, and hands one to every process.
///
/// All processes make the same calls. Calls with the same key meet: the first in one process with the
/// first in the others, the second with the second. Calls with different keys may come from different
/// threads at the same time. They block until everybody who matters took part, and fail when that
/// takes too long.
pub trait Exchange: Send + Sync {
    fn process_index(&self) -> usize;

    fn process_count(&self) -> usize;

    /// Everybody's value, in the order of processes, for process 0; nothing for the others, who need
    /// not wait.
    ///
    /// # Errors
    /// Why the processes could not reach each other.
    fn gather(&self, key: &str, value: Vec<u8>) -> Result<Option<Vec<Vec<u8>>>, String>;

    /// The value that process 0 gives, for everybody. What the others give is not looked at.
    ///
    /// # Errors
    /// Why the processes could not reach each other.
    fn broadcast(&self, key: &str, value: Vec<u8>) -> Result<Vec<u8>, String>;
}

/// A run of one process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Exchange for Alone {
    fn process_index(&self) -> usize {
        0
    }

    fn process_count(&self) -> usize {
        1
    }

    fn gather(&self, _key: &str, value: Vec<u8>) -> Result<Option<Vec<Vec<u8>>>, String> {
        Ok(Some(vec![value]))
    }

    fn broadcast(&self, _key: &str, value: Vec<u8>) -> Result<Vec<u8>, String> {
        Ok(value)
    }
}

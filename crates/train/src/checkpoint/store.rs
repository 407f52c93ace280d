//! Where the bytes of checkpoints are: a folder or an object store, behind one small interface.
//! Knows paths and bytes, nothing of what is in them.

use std::fmt;
use std::fs::File;
use std::sync::Arc;

mod folder;
mod object;

pub use folder::FolderStore;
pub use object::ObjectFolder;

/// Added to the name of a file that [`Store::put`] has not completed; an interrupted one stays behind.
pub(super) const UNFINISHED: &str = ".new";

/// Why a store did not do what it was asked for. `path` is what a user would type.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{path} does not exist")]
    Missing { path: String },
    #[error(
        "the disk is full while writing {path}; free some space, or point the checkpoints elsewhere"
    )]
    Full { path: String, source: BoxedError },
    #[error("no permission to use {path}; check who may read and write there")]
    Permission { path: String, source: BoxedError },
    #[error("{path} has fewer than {needed_bytes} bytes: it was cut off")]
    Short { path: String, needed_bytes: u64 },
    #[error("there are no credentials for {path}: {advice}")]
    Credentials { path: String, advice: &'static str, source: BoxedError },
    #[error("{path} is a file, and checkpoints are in a folder: give a folder")]
    NotAFolder { path: String },
    #[error("{path} could not be used")]
    Other { path: String, source: BoxedError },
    #[error("another run is saving checkpoints in {path}; give each run a folder of its own")]
    InUse { path: String },
    #[error("`{location}` is no place for checkpoints: {reason}")]
    Location { location: String, reason: String },
}

pub type BoxedError = Box<dyn std::error::Error + Send + Sync>;

/// Folders, one level deep, of files that are written once. Paths are `folder/file`.
///
/// Every call blocks. Calls from several threads, and from several processes on different files, are
/// fine.
pub trait Store: fmt::Debug + Send + Sync {
    /// A path as a user would type it, for messages; of the store itself if `path` is empty.
    fn display(&self, path: &str) -> String;

    /// The names of the folders.
    ///
    /// # Errors
    /// When they cannot be listed. A store that nothing was written to yet has none.
    fn folders(&self) -> Result<Vec<String>, StoreError>;

    /// The names of a folder's files; none if there is no such folder.
    ///
    /// # Errors
    /// When they cannot be listed.
    fn files(&self, folder: &str) -> Result<Vec<String>, StoreError>;

    /// A file's length, or nothing if it is not there.
    ///
    /// # Errors
    /// When the store cannot tell.
    fn size_bytes(&self, path: &str) -> Result<Option<u64>, StoreError>;

    /// Fills `destination` with the file's bytes from `offset` on.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Short`], or what else went wrong.
    fn read(&self, path: &str, offset: u64, destination: &mut [u8]) -> Result<(), StoreError>;

    /// Starts a file of about so many bytes. It is there, durably, when it is finished.
    ///
    /// # Errors
    /// When it cannot be started.
    fn create(&self, path: &str, expected_bytes: u64) -> Result<Box<dyn Upload>, StoreError>;

    /// Writes a small file such that others see the old one or the new one, whole; durably.
    ///
    /// # Errors
    /// When it cannot be written; then the old one is untouched.
    fn put(&self, path: &str, bytes: &[u8]) -> Result<(), StoreError>;

    /// Removes a file, durably; it is fine if there is none.
    ///
    /// # Errors
    /// When it cannot be removed.
    fn delete(&self, path: &str) -> Result<(), StoreError>;

    /// Removes a folder if nothing is in it.
    ///
    /// # Errors
    /// When an empty folder cannot be removed.
    fn delete_empty_folder(&self, folder: &str) -> Result<(), StoreError>;

    /// Keeps other runs from saving here, as far as the store can do that.
    ///
    /// # Errors
    /// [`StoreError::InUse`].
    fn claim(&self) -> Result<Claim, StoreError>;

    /// How [`Store::read`] is best called.
    fn read_sizes(&self) -> ReadSizes;
}

/// What makes reading fast.
#[derive(Clone, Copy, Debug)]
pub struct ReadSizes {
    /// To skip fewer bytes than this costs more than to read them.
    pub gap_bytes: usize,
    /// Bytes to ask for at once. Also what is held in memory meanwhile.
    pub block_bytes: usize,
}

/// A file being written. If it is dropped unfinished, what was written is removed as far as possible.
pub trait Upload: Send {
    /// Appends.
    ///
    /// # Errors
    /// When the bytes cannot be written.
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError>;

    /// Makes the file durable.
    ///
    /// # Errors
    /// When the file cannot be completed.
    fn finish(self: Box<Self>) -> Result<(), StoreError>;
}

/// Held while a run saves; the system lets go of it when the process dies.
#[derive(Debug)]
pub struct Claim {
    pub(super) _lock: Option<File>,
}

/// Opens a folder, or a URL such as `s3://bucket/path` or `gs://bucket/path`. Credentials and
/// endpoints come from the environment, as the `object_store` crate documents (`AWS_ACCESS_KEY_ID`,
/// `AWS_ENDPOINT`, `GOOGLE_APPLICATION_CREDENTIALS`, ...), or from the machine's own identity.
///
/// # Errors
/// [`StoreError::Location`] for what is neither. Nothing is looked up yet.
pub fn open(location: &str) -> Result<Arc<dyn Store>, StoreError> {
    if location.is_empty() {
        let reason = "it is empty; give a folder or a URL".to_string();
        return Err(StoreError::Location { location: String::new(), reason });
    }
    match location.split_once("://") {
        None => Ok(Arc::new(FolderStore::new(location))),
        Some(_) => Ok(Arc::new(ObjectFolder::open(location)?)),
    }
}

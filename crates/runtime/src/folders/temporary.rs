//! Folders for work in progress, and names that nobody else has. Knows nothing of what is in them.
//!
//! Process ids do not tell owners apart: two containers that share a cache may both be process 1.
//! So names are random, and a folder is in use as long as somebody holds the lock in it, which the
//! system lets go of when its owner dies.

use std::fs::{self, File, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{FolderError, create_folder};

/// The file in a temporary folder whose lock its owner holds.
const LOCK: &str = "lock";

/// Decides about folders whose lock says nothing: a file system may have no locks, and an owner may
/// have died before it took its own. Nothing that this program does in such a folder takes longer.
const LEFTOVER_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// A second attempt is rare already.
const ATTEMPTS: usize = 16;

/// 32 characters that nobody else has: `RandomState` is seeded by the operating system.
pub(crate) fn unique_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
    let half = |which: u8| RandomState::new().hash_one((which, count, time, std::process::id()));
    format!("{:016x}{:016x}", half(0), half(1))
}

/// A folder of this process's own. Removed, with what is left in it, when dropped.
#[derive(Debug)]
pub struct TemporaryFolder {
    path: PathBuf,
    /// Held for as long as the folder is in use.
    _lock: File,
}

impl TemporaryFolder {
    pub(super) fn make(parent: &Path) -> Result<TemporaryFolder, FolderError> {
        create_folder(parent)?;
        sweep_leftovers(parent);
        for _ in 0..ATTEMPTS {
            let path = parent.join(unique_name());
            match claim(&path) {
                Ok(Some(lock)) => return Ok(TemporaryFolder { path, _lock: lock }),
                Ok(None) => {}
                Err(source) => {
                    let _ = fs::remove_dir_all(&path);
                    return Err(FolderError::from_io(&path, source));
                }
            }
        }
        Err(FolderError::from_io(parent, io::ErrorKind::AlreadyExists.into()))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        // The lock is let go of after this. What cannot be removed now is swept by a later run.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Makes the folder and takes its lock; nothing if it is there already, or somebody swept it before
/// the lock was taken.
fn claim(path: &Path) -> io::Result<Option<File>> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
        made => made?,
    }
    let lock_path = path.join(LOCK);
    let lock = File::options().write(true).create_new(true).open(&lock_path)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock_path.exists().then_some(lock)),
        Err(TryLockError::WouldBlock) => Ok(None),
        // Without locks, a sweep goes by age.
        Err(TryLockError::Error(_)) => Ok(Some(lock)),
    }
}

/// Removes the folders that nobody uses.
fn sweep_leftovers(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        // Held while removing, so that an owner that is just about to take it does not.
        let lock = File::options().write(true).open(path.join(LOCK));
        let unused = match lock.as_ref().map(File::try_lock) {
            Ok(Ok(())) => true,
            Ok(Err(TryLockError::WouldBlock)) => false,
            Ok(Err(TryLockError::Error(_))) | Err(_) => is_old(&entry),
        };
        if unused {
            let _ = fs::remove_dir_all(path);
        }
    }
}

fn is_old(entry: &fs::DirEntry) -> bool {
    let modified = entry.metadata().and_then(|data| data.modified()).ok();
    let age = modified.and_then(|time| SystemTime::now().duration_since(time).ok());
    age.is_some_and(|age| age > LEFTOVER_AGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goes away with the test, which is in no other's way.
    struct Parent(PathBuf);

    impl Parent {
        fn new() -> Parent {
            let path = std::env::temp_dir().join(format!("fungible-temporary-{}", unique_name()));
            create_folder(&path).unwrap();
            Parent(path)
        }

        /// A folder as a process leaves it that was killed.
        fn leftover(&self, name: &str, lock: bool) -> PathBuf {
            let path = self.0.join(name);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("half a download"), b"bytes").unwrap();
            if lock {
                File::create(path.join(LOCK)).unwrap();
            }
            path
        }
    }

    impl Drop for Parent {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_dead_process_leaves_nothing_behind() {
        let parent = Parent::new();
        let leftover = parent.leftover("leftover", true);
        let mine = TemporaryFolder::make(&parent.0).unwrap();
        assert!(!leftover.exists());
        let path = mine.path().to_path_buf();
        assert!(path.exists());
        drop(mine);
        assert!(!path.exists());
    }

    /// As another process's would be, whatever its id: only the lock counts.
    #[test]
    fn a_folder_in_use_is_not_swept() {
        let parent = Parent::new();
        let in_use = TemporaryFolder::make(&parent.0).unwrap();
        fs::write(in_use.path().join("work"), b"half").unwrap();
        let a_day_ago = SystemTime::now() - 2 * LEFTOVER_AGE;
        File::open(in_use.path()).unwrap().set_modified(a_day_ago).unwrap();
        let second = TemporaryFolder::make(&parent.0).unwrap();
        assert_eq!(fs::read(in_use.path().join("work")).unwrap(), b"half");
        assert_ne!(in_use.path(), second.path());
    }

    #[test]
    fn without_a_lock_age_decides() {
        let parent = Parent::new();
        // The name that an owner with this process's id would have had before names were random.
        let young = parent.leftover(&format!("{}-0", std::process::id()), false);
        let old = parent.leftover("4294967295-0", false);
        let time = SystemTime::now() - 2 * LEFTOVER_AGE;
        File::open(&old).unwrap().set_modified(time).unwrap();
        sweep_leftovers(&parent.0);
        assert!(young.exists());
        assert!(!old.exists());
    }

    #[test]
    fn a_folder_that_is_there_is_nobody_elses() {
        let parent = Parent::new();
        let taken = parent.leftover("taken", false);
        assert!(claim(&taken).unwrap().is_none());
        assert!(taken.join("half a download").exists());
        assert!(claim(&parent.0.join("free")).unwrap().is_some());
    }

    #[test]
    fn names_are_unique() {
        let names: std::collections::HashSet<String> = (0..1000).map(|_| unique_name()).collect();
        assert_eq!(names.len(), 1000);
        assert!(names.iter().all(|name| name.len() == 32));
    }
}

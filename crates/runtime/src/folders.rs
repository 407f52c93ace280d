//! Where this program keeps what it downloads and compiles, and how a file gets there whole or not
//! at all. Knows paths and locks only, nothing of what is in the files.
//!
//! ```text
//! <cache>/plugins/<name>/<version>/...   a plugin as its wheels lay it out, with `installed.json`
//! <cache>/models/<name>/...              model files
//! <cache>/downloads/<wheel>              wheels that were fetched but not unpacked yet
//! <cache>/compiled/<key>                 compiled programs
//! <cache>/locks/<name>.lock              one process at a time installs a package
//! <cache>/temporary/<process>-<n>/       work in progress; leftovers are swept
//! ```

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// Nothing that this program does in a temporary folder takes longer, so older ones are leftovers.
const LEFTOVER_AGE: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error(
        "no place for the cache: none of FUNGIBLE_CACHE, XDG_CACHE_HOME and HOME is set; set FUNGIBLE_CACHE to a folder"
    )]
    NoHome,
    #[error(
        "the disk is full while writing {path}; free some space or point FUNGIBLE_CACHE at another disk"
    )]
    DiskFull { path: PathBuf, source: io::Error },
    #[error(
        "no permission to write {path}; make it writable or point FUNGIBLE_CACHE at another folder"
    )]
    Permission { path: PathBuf, source: io::Error },
    #[error("cannot use {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

impl FolderError {
    /// Sorts an I/O error into what the user can do about it.
    pub fn from_io(path: &Path, source: io::Error) -> FolderError {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                FolderError::DiskFull { path, source }
            }
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                FolderError::Permission { path, source }
            }
            _ => FolderError::Io { path, source },
        }
    }
}

/// The root of the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheFolder {
    root: PathBuf,
}

impl CacheFolder {
    /// `FUNGIBLE_CACHE`, else `XDG_CACHE_HOME/fungible`, else `~/.cache/fungible`.
    ///
    /// # Errors
    /// [`FolderError::NoHome`] when none of these is set.
    pub fn from_environment() -> Result<CacheFolder, FolderError> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        if let Some(root) = set("FUNGIBLE_CACHE") {
            return Ok(CacheFolder::at(root));
        }
        if let Some(cache) = set("XDG_CACHE_HOME") {
            return Ok(CacheFolder::at(Path::new(&cache).join("fungible")));
        }
        let home = set("HOME").or_else(|| set("USERPROFILE")).ok_or(FolderError::NoHome)?;
        Ok(CacheFolder::at(Path::new(&home).join(".cache").join("fungible")))
    }

    pub fn at(root: impl Into<PathBuf>) -> CacheFolder {
        CacheFolder { root: root.into() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn plugin(&self, name: &str, version: &str) -> PathBuf {
        self.root.join("plugins").join(name).join(version)
    }

    pub fn model(&self, name: &str) -> PathBuf {
        self.root.join("models").join(name)
    }

    pub fn downloads(&self) -> PathBuf {
        self.root.join("downloads")
    }

    pub fn compiled(&self) -> PathBuf {
        self.root.join("compiled")
    }

    /// A fresh folder on the cache's own file system, so that a rename out of it is atomic.
    /// Removed, with what is left in it, when dropped.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn temporary(&self) -> Result<TemporaryFolder, FolderError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let parent = self.root.join("temporary");
        sweep_leftovers(&parent);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("{}-{count}", std::process::id()));
        create_folder(&path)?;
        Ok(TemporaryFolder { path })
    }

    /// Takes the lock called `name`; `waiting` is called once if another process holds it.
    ///
    /// # Errors
    /// When the lock file cannot be made.
    pub fn lock(&self, name: &str, waiting: impl FnOnce()) -> Result<FolderLock, FolderError> {
        let folder = self.root.join("locks");
        create_folder(&folder)?;
        let path = folder.join(format!("{name}.lock"));
        let wrap = |source| FolderError::from_io(&path, source);
        let file =
            File::options().create(true).truncate(false).write(true).open(&path).map_err(wrap)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                waiting();
                file.lock().map_err(wrap)?;
            }
            Err(TryLockError::Error(source)) => return Err(wrap(source)),
        }
        Ok(FolderLock { _file: file })
    }
}

/// Held until dropped; the operating system lets go of it when the process dies.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

#[derive(Debug)]
pub struct TemporaryFolder {
    path: PathBuf,
}

impl TemporaryFolder {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        // What cannot be removed now is swept by a later run.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Makes a folder and its parents.
///
/// # Errors
/// When it cannot be made.
pub fn create_folder(path: &Path) -> Result<(), FolderError> {
    fs::create_dir_all(path).map_err(|source| FolderError::from_io(path, source))
}

/// Writes a file so that a reader, or the next run after a crash, sees all of it or none.
///
/// # Errors
/// When it cannot be written; nothing is left behind.
pub fn write_whole(path: &Path, pieces: &[&[u8]]) -> Result<(), FolderError> {
    use std::io::Write;
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}-{count}.tmp", std::process::id()));
    let partial = path.with_file_name(name);
    let write = || -> io::Result<()> {
        let mut file = File::create(&partial)?;
        for piece in pieces {
            file.write_all(piece)?;
        }
        file.sync_data()?;
        fs::rename(&partial, path)
    };
    write().map_err(|source| {
        let _ = fs::remove_file(&partial);
        FolderError::from_io(path, source)
    })
}

/// Removes temporary folders whose process has ended.
fn sweep_leftovers(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.split_once('-')).map(|(id, _)| id);
        let ended = process.is_some_and(process_has_ended);
        let modified = entry.metadata().and_then(|data| data.modified()).ok();
        let age = modified.and_then(|time| SystemTime::now().duration_since(time).ok());
        if ended || age.is_some_and(|age| age > LEFTOVER_AGE) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Known only where the system lists its processes as files; elsewhere age decides.
fn process_has_ended(id: &str) -> bool {
    cfg!(target_os = "linux")
        && Path::new("/proc/self").exists()
        && !Path::new("/proc").join(id).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_process_leaves_nothing_behind() {
        let root = std::env::temp_dir().join(format!("fungible-folders-{}", std::process::id()));
        let cache = CacheFolder::at(&root);
        // Process ids are far below this on every system.
        let leftover = root.join("temporary").join("4294967295-0");
        create_folder(&leftover).unwrap();
        let mine = cache.temporary().unwrap();
        assert!(mine.path().exists());
        if cfg!(target_os = "linux") {
            assert!(!leftover.exists());
        }
        let path = mine.path().to_path_buf();
        drop(mine);
        assert!(!path.exists());
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_write_that_fails_leaves_no_partial_file() {
        let root = std::env::temp_dir().join(format!("fungible-write-{}", std::process::id()));
        create_folder(&root).unwrap();
        // The name is taken by a folder, so the rename at the end fails.
        create_folder(&root.join("taken").join("inside")).unwrap();
        assert!(write_whole(&root.join("taken"), &[b"bytes"]).is_err());
        let left: Vec<_> = fs::read_dir(&root).unwrap().flatten().collect();
        assert_eq!(left.len(), 1);
        fs::remove_dir_all(root).unwrap();
    }
}

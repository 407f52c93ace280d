//! Where this program keeps what it downloads and compiles, and how a file gets there whole or not
//! at all. Knows paths and locks only, nothing of what is in the files.
//!
//! ```text
//! <cache>/plugins/<name>/<version>/...   a plugin as its wheels lay it out, with `installed.json`
//! <cache>/models/<name>/...              model files
//! <cache>/datasets/<name>/...            texts to train on
//! <cache>/downloads/<archive>            archives that were fetched but not unpacked yet
//! <cache>/tokens/<key>                   texts as token ids
//! <cache>/compiled/<key>                 compiled programs
//! <cache>/locks/<name>.lock              one process at a time installs a package
//! <cache>/temporary/<random>/            work in progress, locked; leftovers are swept
//! ```

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

mod temporary;

pub use temporary::TemporaryFolder;
pub(crate) use temporary::unique_name;

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
    #[error("cannot use {path}: {source}; put it right or point FUNGIBLE_CACHE at another folder")]
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

    pub fn dataset(&self, name: &str) -> PathBuf {
        self.root.join("datasets").join(name)
    }

    pub fn downloads(&self) -> PathBuf {
        self.root.join("downloads")
    }

    pub fn tokens(&self) -> PathBuf {
        self.root.join("tokens")
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
        TemporaryFolder::make(&self.root.join("temporary"))
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
    fill_whole(path, |file| pieces.iter().try_for_each(|piece| file.write_all(piece)))
}

fn fill_whole(
    path: &Path,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<(), FolderError> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.tmp", unique_name()));
    let partial = path.with_file_name(name);
    let write = || -> io::Result<()> {
        let mut file = File::options().write(true).create_new(true).open(&partial)?;
        fill(&mut file)?;
        file.sync_data()?;
        fs::rename(&partial, path)
    };
    write().map_err(|source| {
        let _ = fs::remove_file(&partial);
        FolderError::from_io(path, source)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_fills_up_leaves_the_old_file_and_no_partial_one() {
        use std::io::Write;
        let root = std::env::temp_dir().join(format!("fungible-full-{}", unique_name()));
        create_folder(&root).unwrap();
        let path = root.join("file");
        write_whole(&path, &[b"o", b"ld"]).unwrap();
        let error = fill_whole(&path, |file| {
            file.write_all(b"half of")?;
            Err(io::ErrorKind::StorageFull.into())
        })
        .unwrap_err();
        assert!(matches!(error, FolderError::DiskFull { .. }), "{error}");
        assert!(error.to_string().contains("the disk is full"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(&root).unwrap().count(), 1);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_write_that_fails_leaves_no_partial_file() {
        let root = std::env::temp_dir().join(format!("fungible-write-{}", unique_name()));
        create_folder(&root).unwrap();
        // The name is taken by a folder, so the rename at the end fails.
        create_folder(&root.join("taken").join("inside")).unwrap();
        assert!(write_whole(&root.join("taken"), &[b"bytes"]).is_err());
        let left: Vec<_> = fs::read_dir(&root).unwrap().flatten().collect();
        assert_eq!(left.len(), 1);
        fs::remove_dir_all(root).unwrap();
    }
}

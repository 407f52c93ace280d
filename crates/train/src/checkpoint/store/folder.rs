//! A local folder, or one on a shared file system, as a store. What is reported as written has been
//! given to the disk (`fsync` of the file and of its folder).

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::{Claim, ReadSizes, Store, StoreError, UNFINISHED, Upload};

/// Its lock is held by the run that saves here.
const LOCK: &str = "saving.lock";

/// A system call costs about as much as copying this.
const GAP_BYTES: usize = 16 << 10;

/// Fits the processor's caches, so that a checksum of what was just read does not wait for memory.
const BLOCK_BYTES: usize = 1 << 20;

#[derive(Debug)]
pub struct FolderStore {
    root: PathBuf,
}

impl FolderStore {
    /// The folder need not be there yet.
    pub fn new(root: impl Into<PathBuf>) -> FolderStore {
        FolderStore { root: root.into() }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn list(&self, folder: &Path, folders: bool) -> Result<Vec<String>, StoreError> {
        let wrap = |source| error(folder, source);
        let entries = match fs::read_dir(folder) {
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(wrap)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(wrap)?;
            // Names that are no text are not ours.
            if let Ok(name) = entry.file_name().into_string()
                && entry.file_type().map_err(wrap)?.is_dir() == folders
            {
                names.push(name);
            }
        }
        Ok(names)
    }
}

impl Store for FolderStore {
    fn display(&self, path: &str) -> String {
        self.at(path).display().to_string()
    }

    fn folders(&self) -> Result<Vec<String>, StoreError> {
        self.list(&self.root, true)
    }

    fn files(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        self.list(&self.at(folder), false)
    }

    fn size_bytes(&self, path: &str) -> Result<Option<u64>, StoreError> {
        let path = self.at(path);
        match fs::metadata(&path) {
            Ok(data) => Ok(Some(data.len())),
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(error(&path, source)),
        }
    }

    fn read(&self, path: &str, offset: u64, destination: &mut [u8]) -> Result<(), StoreError> {
        let path = self.at(path);
        let needed_bytes = offset.saturating_add(destination.len() as u64);
        let mut read = || {
            let mut file = File::open(&path)?;
            file.seek(SeekFrom::Start(offset))?;
            file.read_exact(destination)
        };
        read().map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => {
                StoreError::Short { path: path.display().to_string(), needed_bytes }
            }
            _ => error(&path, source),
        })
    }

    fn create(&self, path: &str, _expected_bytes: u64) -> Result<Box<dyn Upload>, StoreError> {
        let path = self.at(path);
        make_parent(&path)?;
        let file = File::create(&path).map_err(|source| error(&path, source))?;
        Ok(Box::new(FileUpload { path, file, finished: false }))
    }

    fn put(&self, path: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.at(path);
        make_parent(&path)?;
        let mut unfinished = path.clone().into_os_string();
        unfinished.push(UNFINISHED);
        let unfinished = PathBuf::from(unfinished);
        let write = || {
            let mut file = File::create(&unfinished)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&unfinished, &path)
        };
        write().map_err(|source| {
            let _ = fs::remove_file(&unfinished);
            error(&path, source)
        })?;
        sync_parent(&path)
    }

    fn delete(&self, path: &str) -> Result<(), StoreError> {
        let path = self.at(path);
        match fs::remove_file(&path) {
            Ok(()) => sync_parent(&path),
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(error(&path, source)),
        }
    }

    fn delete_empty_folder(&self, folder: &str) -> Result<(), StoreError> {
        let path = self.at(folder);
        match fs::remove_dir(&path) {
            Ok(()) => Ok(()),
            Err(kept)
                if [io::ErrorKind::NotFound, io::ErrorKind::DirectoryNotEmpty]
                    .contains(&kept.kind()) =>
            {
                Ok(())
            }
            Err(source) => Err(error(&path, source)),
        }
    }

    fn claim(&self) -> Result<Claim, StoreError> {
        let path = self.at(LOCK);
        make_parent(&path)?;
        let lock = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(|source| error(&path, source))?;
        match lock.try_lock() {
            Ok(()) => Ok(Claim { _lock: Some(lock) }),
            Err(TryLockError::WouldBlock) => {
                Err(StoreError::InUse { path: self.root.display().to_string() })
            }
            // A file system without locks: the user has to see to it.
            Err(TryLockError::Error(_)) => Ok(Claim { _lock: None }),
        }
    }

    fn read_sizes(&self) -> ReadSizes {
        ReadSizes { gap_bytes: GAP_BYTES, block_bytes: BLOCK_BYTES }
    }
}

struct FileUpload {
    path: PathBuf,
    file: File,
    finished: bool,
}

impl Upload for FileUpload {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.write_all(bytes).map_err(|source| error(&self.path, source))
    }

    fn finish(mut self: Box<Self>) -> Result<(), StoreError> {
        self.file.sync_all().map_err(|source| error(&self.path, source))?;
        sync_parent(&self.path)?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for FileUpload {
    fn drop(&mut self) {
        if !self.finished {
            // Room on the disk is what was missing, perhaps. What stays is swept later.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes the folder of a file, durably.
fn make_parent(path: &Path) -> Result<(), StoreError> {
    let Some(parent) = path.parent() else { return Ok(()) };
    if parent.as_os_str().is_empty() || parent.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(parent).map_err(|source| error(parent, source))?;
    sync_parent(parent)
}

/// A name is durable when its folder is.
fn sync_parent(path: &Path) -> Result<(), StoreError> {
    let Some(parent) = path.parent() else { return Ok(()) };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    match File::open(parent).and_then(|folder| folder.sync_all()) {
        Ok(()) => Ok(()),
        // Some file systems cannot do this for folders, and need not.
        Err(unable)
            if [io::ErrorKind::InvalidInput, io::ErrorKind::Unsupported]
                .contains(&unable.kind()) =>
        {
            Ok(())
        }
        Err(source) => Err(error(parent, source)),
    }
}

/// Sorts an I/O error into what the user can do about it.
fn error(path: &Path, source: io::Error) -> StoreError {
    // Somewhere on the way there is a file, perhaps written with a slash at its end.
    let without_slash = |above: &Path| above.components().as_path().to_path_buf();
    if matches!(source.kind(), io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists)
        && let Some(file) = path.ancestors().map(without_slash).find(|above| above.is_file())
    {
        return StoreError::NotAFolder { path: file.display().to_string() };
    }
    let path = path.display().to_string();
    match source.kind() {
        io::ErrorKind::NotFound => StoreError::Missing { path },
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            StoreError::Full { path, source: source.into() }
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            StoreError::Permission { path, source: source.into() }
        }
        _ => StoreError::Other { path, source: source.into() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_put_replaces_what_was_there_and_leaves_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let store = FolderStore::new(root.path().join("not/made/yet"));
        for bytes in [b"old".as_slice(), b"new one", b""] {
            store.put("step/manifest.json", bytes).unwrap();
            assert_eq!(fs::read(store.at("step/manifest.json")).unwrap(), bytes);
            assert_eq!(names(&store.at("step")), ["manifest.json"]);
        }
        // The name is taken by a folder, so the rename at the end fails.
        fs::create_dir_all(store.at("step/taken/inside")).unwrap();
        assert!(store.put("step/taken", b"bytes").is_err());
        assert_eq!(names(&store.at("step")), ["manifest.json", "taken"]);
    }

    #[test]
    fn a_file_is_no_folder() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("text.txt");
        fs::write(&file, "in the way").unwrap();
        for below in ["", "checkpoints"] {
            let store = FolderStore::new(file.join(below));
            let path = file.display().to_string();
            for refused in [
                store.folders().unwrap_err(),
                store.put("step/data", b"bytes").unwrap_err(),
                store.claim().unwrap_err(),
            ] {
                let StoreError::NotAFolder { path: named } = &refused else { panic!("{refused}") };
                assert_eq!(*named, path);
            }
        }
    }

    #[test]
    fn an_upload_that_is_dropped_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let store = FolderStore::new(root.path());
        let mut upload = store.create("step/data", 4).unwrap();
        upload.write(b"half").unwrap();
        drop(upload);
        assert!(names(&store.at("step")).is_empty());
        let mut upload = store.create("step/data", 4).unwrap();
        upload.write(b"wh").unwrap();
        upload.write(b"ole").unwrap();
        upload.finish().unwrap();
        assert_eq!(store.size_bytes("step/data").unwrap(), Some(5));
    }

    #[test]
    fn what_is_not_there_and_what_is_cut_off_are_told_apart() {
        let root = tempfile::tempdir().unwrap();
        let store = FolderStore::new(root.path());
        store.put("step/data", &[1; 100]).unwrap();
        let mut room = [0; 8];
        let cut_off = store.read("step/data", 96, &mut room).unwrap_err();
        assert!(matches!(cut_off, StoreError::Short { needed_bytes: 104, .. }), "{cut_off}");
        let missing = store.read("step/other", 0, &mut room).unwrap_err();
        assert!(matches!(missing, StoreError::Missing { .. }), "{missing}");
        assert!(store.files("nowhere").unwrap().is_empty());
        store.delete("step/other").unwrap();
        // Not empty, so it stays.
        store.delete_empty_folder("step").unwrap();
        assert_eq!(store.folders().unwrap(), ["step"]);
    }
}

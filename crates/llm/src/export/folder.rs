//! A folder that appears whole or not at all: written under another name beside its place, then
//! moved there. Knows nothing of what is in it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::error::ExportError;

/// Files of which every exported folder has one.
const MARKS: [&str; 2] = ["config.json", "adapter_config.json"];
/// Tries for a name that nobody uses; one nearly always is enough.
const ATTEMPTS: u32 = 100;

/// A folder under way. Removed when dropped, unless it was [finished](NewFolder::finish).
pub(super) struct NewFolder {
    /// Where it is written.
    path: PathBuf,
    /// Where it will be.
    target: PathBuf,
}

impl NewFolder {
    /// Begins a folder that will be at `target`. An empty folder there is taken over; what an earlier
    /// export wrote is replaced if `overwrite`, at the end.
    ///
    /// # Errors
    /// When something else is there, or the place cannot be written to.
    pub(super) fn begin(target: &Path, overwrite: bool) -> Result<NewFolder, ExportError> {
        let failed = |path: &Path, source| ExportError::Folder { path: path.to_owned(), source };
        // What a link leads to is replaced, not the link; and `out/.` gets a name.
        let target = match fs::canonicalize(target) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => target.to_owned(),
            Err(source) => return Err(failed(target, source)),
        };
        check_replaceable(&target, overwrite)?;
        let name = target.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.ok_or_else(|| failed(&target, io::ErrorKind::InvalidFilename.into()))?;
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(parent).map_err(|source| failed(parent, source))?;
        for attempt in 0..ATTEMPTS {
            let path = parent.join(format!(".{name}.partial-{attempt}"));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(NewFolder { path, target }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(failed(&target, source)),
            }
        }
        Err(failed(&parent.join(format!(".{name}.partial-0")), io::ErrorKind::AlreadyExists.into()))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Moves the folder to its place, and returns that.
    ///
    /// # Errors
    /// When it cannot be moved. What was there before stays then.
    pub(super) fn finish(self, overwrite: bool) -> Result<PathBuf, ExportError> {
        let failed = |source| ExportError::Folder { path: self.target.clone(), source };
        // Somebody else may have put something there meanwhile.
        check_replaceable(&self.target, overwrite)?;
        let mut old = self.path.clone().into_os_string();
        old.push("-replaced");
        let old = PathBuf::from(old);
        let replaces = self.target.exists() && !is_empty(&self.target);
        sync(&self.path);
        if replaces {
            // From an overwriting that was interrupted when its new folder was in place already.
            let _ = fs::remove_dir_all(&old);
            fs::rename(&self.target, &old).map_err(failed)?;
        }
        // An empty folder in the way is replaced by the system.
        if let Err(source) = fs::rename(&self.path, &self.target) {
            if replaces {
                let _ = fs::rename(&old, &self.target);
            }
            return Err(failed(source));
        }
        if replaces {
            // The new one is in its place; what cannot be removed of the old one is only litter.
            let _ = fs::remove_dir_all(&old);
        }
        if let Some(parent) = self.target.parent() {
            sync(parent);
        }
        Ok(self.target.clone())
    }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        // Gone already when it was finished.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Makes the names in a folder outlive a power failure, where the file system can.
fn sync(folder: &Path) {
    if let Ok(folder) = fs::File::open(folder) {
        let _ = folder.sync_all();
    }
}

fn check_replaceable(target: &Path, overwrite: bool) -> Result<(), ExportError> {
    let path = || target.to_owned();
    match fs::metadata(target) {
        Err(_) => Ok(()),
        Ok(metadata) if !metadata.is_dir() => Err(ExportError::NotAFolder { path: path() }),
        Ok(_) if is_empty(target) => Ok(()),
        Ok(_) if !overwrite => Err(ExportError::NotEmpty { path: path() }),
        // A slip of the finger must not cost somebody's documents.
        Ok(_) if !MARKS.iter().any(|mark| target.join(mark).is_file()) => {
            Err(ExportError::NotAnExport { path: path() })
        }
        Ok(_) => Ok(()),
    }
}

/// A folder that cannot be listed counts as full.
fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

//! Puts a package of the registry into the cache folder: fetched by the user's own pip, checked,
//! unpacked, and only then moved to its place in one step. Prints nothing; progress goes to the
//! caller.

mod build_backend;
mod pip;
mod unpack;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest;
use crate::folders::{CacheFolder, FolderError, create_folder};
use crate::registry::{Archive, Package, PackageKind};

/// Stands in a package's folder once everything else does.
const MARKER: &str = "installed.json";

#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    #[error(
        "`{name}` is made for {made_for}, this machine is {os} {arch}; {}",
        hint_for_other_machine(name)
    )]
    UnsupportedMachine { name: String, made_for: String, os: &'static str, arch: &'static str },
    #[error(
        "no working pip was found (tried {tried}); install Python 3 with pip, or set FUNGIBLE_PYTHON to a Python that has it"
    )]
    NoPip { tried: String },
    #[error(
        "cannot download {package}: the package index was not reached ({detail}); check the network or pip's proxy settings and run this again"
    )]
    NoNetwork { package: String, detail: String },
    #[error(
        "{package} {version} was not found in the package index that pip uses ({detail}); check the network and pip's index settings"
    )]
    NotInIndex { package: String, version: String, detail: String },
    #[error(
        "the downloaded {package} is not the expected file (SHA-256 {got}, expected {expected}); nothing was installed, check for a proxy or a mirror that alters files and run this again"
    )]
    HashMismatch { package: String, expected: String, got: String },
    #[error("pip failed while downloading {package}: {detail}")]
    Pip { package: String, detail: String },
    #[error("the archive {file} is damaged: {detail}; run this again")]
    DamagedArchive { file: String, detail: String },
    #[error(transparent)]
    Folder(#[from] FolderError),
}

fn hint_for_other_machine(name: &str) -> &'static str {
    match name {
        "cpu" => "point FUNGIBLE_CPU_PLUGIN at a PJRT CPU plugin built for it",
        "tpu" => "point FUNGIBLE_TPU_PLUGIN at a libtpu built for it",
        _ => "point FUNGIBLE_CUDA_PLUGIN at a PJRT CUDA plugin built for it",
    }
}

/// What an installation tells while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress<'a> {
    /// License terms that the user should see.
    Notice(&'a str),
    /// Another process is installing the same package.
    Waiting,
    Downloading {
        package: &'a str,
        bytes_done: u64,
        bytes_total: u64,
    },
    Verifying {
        package: &'a str,
        bytes_done: u64,
        bytes_total: u64,
    },
    Unpacking {
        package: &'a str,
        bytes_done: u64,
        bytes_total: u64,
    },
}

/// A package in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    pub folder: PathBuf,
    /// The plugin's library, the model's file or the folder of the data set's documents.
    pub main_file: PathBuf,
    /// Where ptxas and libdevice are, for a CUDA plugin.
    pub cuda_folder: Option<PathBuf>,
}

/// What [`MARKER`] says: which archives the folder was made from.
#[derive(Deserialize, PartialEq, Serialize)]
struct Marker {
    /// Named when all archives were wheels; folders that were made then stay valid.
    #[serde(rename = "wheel_sha256")]
    sha256: Vec<String>,
}

impl Marker {
    fn of(package: &Package) -> Marker {
        Marker { sha256: package.archives.iter().map(|archive| archive.sha256.clone()).collect() }
    }
}

/// Installs into one cache folder.
#[derive(Clone, Debug)]
pub struct Installer {
    cache: CacheFolder,
    python: Option<PathBuf>,
    pip_environment: Vec<(OsString, OsString)>,
}

impl Installer {
    /// The Python to use is found when it is needed: `FUNGIBLE_PYTHON`, else `python3`, `python`,
    /// `pip3` and `pip` on the path.
    pub fn new(cache: CacheFolder) -> Installer {
        let python = std::env::var_os("FUNGIBLE_PYTHON").filter(|value| !value.is_empty());
        Installer { cache, python: python.map(PathBuf::from), pip_environment: Vec::new() }
    }

    /// Uses this Python and no other.
    #[must_use]
    pub fn with_python(mut self, python: impl Into<PathBuf>) -> Installer {
        self.python = Some(python.into());
        self
    }

    /// Sets a variable for pip, such as `PIP_FIND_LINKS`.
    #[must_use]
    pub fn with_pip_environment(
        mut self,
        name: impl Into<OsString>,
        value: impl Into<OsString>,
    ) -> Installer {
        self.pip_environment.push((name.into(), value.into()));
        self
    }

    /// The package's place, whether it is installed or not.
    pub fn folder(&self, package: &Package) -> PathBuf {
        match package.kind {
            PackageKind::Plugin => self.cache.plugin(&package.name, &package.version),
            PackageKind::Model => self.cache.model(&package.name),
            PackageKind::Dataset => self.cache.dataset(&package.name),
        }
    }

    /// The package, if this very version of it is installed.
    pub fn installed(&self, package: &Package) -> Option<Installed> {
        let folder = self.folder(package);
        let marker: Marker = serde_json::from_slice(&fs::read(folder.join(MARKER)).ok()?).ok()?;
        let main_file = folder.join(&package.main_file);
        (marker == Marker::of(package) && main_file.exists()).then(|| Installed {
            main_file,
            cuda_folder: package.cuda_folder.as_ref().map(|path| folder.join(path)),
            folder,
        })
    }

    /// Fetches and unpacks the package unless it is there. An interrupted installation leaves the
    /// archives that were complete, and the next one goes on from them.
    ///
    /// # Errors
    /// See [`InstallError`]; nothing half-written is left in the package's place.
    pub fn install(
        &self,
        package: &Package,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Installed, InstallError> {
        if let Some(installed) = self.installed(package) {
            return Ok(installed);
        }
        if !package.suits_this_machine() {
            return Err(InstallError::UnsupportedMachine {
                name: package.name.clone(),
                made_for: package.made_for(),
                os: std::env::consts::OS,
                arch: std::env::consts::ARCH,
            });
        }
        let _lock = self.cache.lock(&package.name, || progress(Progress::Waiting))?;
        if let Some(installed) = self.installed(package) {
            return Ok(installed);
        }
        if let Some(notice) = &package.notice {
            progress(Progress::Notice(notice));
        }
        let mut archives = Vec::new();
        for archive in &package.archives {
            archives.push((archive, self.fetch(archive, progress)?));
        }
        let staging = self.cache.temporary()?;
        let content = staging.path().join("content");
        for (archive, path) in &archives {
            unpack::unpack(archive, path, &content, progress)?;
        }
        let marker = serde_json::to_vec(&Marker::of(package)).unwrap_or_default();
        crate::folders::write_whole(&content.join(MARKER), &[&marker])?;
        let folder = self.folder(package);
        replace_folder(&content, &folder, staging.path())?;
        for (_, path) in &archives {
            // An archive that stays costs space, nothing else.
            let _ = fs::remove_file(path);
        }
        self.installed(package).ok_or_else(|| InstallError::DamagedArchive {
            file: package.name.clone(),
            detail: format!("it has no {}", package.main_file),
        })
    }

    /// The verified archive's path in the downloads folder.
    fn fetch(
        &self,
        archive: &Archive,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<PathBuf, InstallError> {
        let downloads = self.cache.downloads();
        create_folder(&downloads)?;
        let kept = downloads.join(&archive.file);
        if kept.is_file() {
            if self.verify(archive, &kept, progress).is_ok() {
                return Ok(kept);
            }
            fs::remove_file(&kept).map_err(|source| FolderError::from_io(&kept, source))?;
        }
        let temporary = self.cache.temporary()?;
        let pip = pip::Pip::find(self.python.as_deref(), &self.pip_environment)?;
        let fetched = pip.download(archive, temporary.path(), progress)?;
        self.verify(archive, &fetched, progress)?;
        fs::rename(&fetched, &kept).map_err(|source| FolderError::from_io(&kept, source))?;
        Ok(kept)
    }

    /// pip has compared hashes already; this also covers a pip whose configuration turns that off.
    fn verify(
        &self,
        archive: &Archive,
        path: &Path,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(), InstallError> {
        let package = archive.package.as_str();
        let bytes_total = archive.size_bytes;
        let got = digest::of_file(path, |bytes_done| {
            progress(Progress::Verifying { package, bytes_done, bytes_total });
        })
        .map_err(|source| FolderError::from_io(path, source))?;
        if got == archive.sha256 {
            return Ok(());
        }
        Err(InstallError::HashMismatch {
            package: package.to_string(),
            expected: archive.sha256.clone(),
            got,
        })
    }
}

/// Moves `content` to `folder`. What stood there (an incomplete or older copy) is moved away first,
/// since a folder that is not empty cannot be renamed over.
fn replace_folder(content: &Path, folder: &Path, staging: &Path) -> Result<(), FolderError> {
    let wrap = |source| FolderError::from_io(folder, source);
    if let Some(parent) = folder.parent() {
        create_folder(parent)?;
    }
    if folder.exists() {
        fs::rename(folder, staging.join("replaced")).map_err(wrap)?;
    }
    fs::rename(content, folder).map_err(wrap)
}

//! Opening a library file, and saying in one sentence why that did not work.
//!
//! Knows files and the operating system's loader; the only thing it knows of PJRT is the name of the
//! symbol to look for.

use std::fs::File;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};

use crate::elf;
use crate::error::{Error, Result};
use crate::sys::GetPjrtApi;

/// The file's one canonical path.
pub(crate) fn locate(path: &Path) -> Result<PathBuf> {
    let load_error = |reason: &str, source: std::io::Error| Error::Load {
        path: path.to_owned(),
        reason: reason.to_owned(),
        source: Box::new(source),
    };
    let canonical = path.canonicalize().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            load_error("there is no such file, so install it or correct the path", error)
        }
        _ => load_error("the path cannot be followed", error),
    })?;
    if canonical.is_dir() {
        let error = std::io::Error::from(std::io::ErrorKind::IsADirectory);
        return Err(load_error("it is a folder, so name the library inside it", error));
    }
    Ok(canonical)
}

/// Opens the library for good and finds the symbol that makes it a plugin.
pub(crate) fn open(path: &Path) -> Result<GetPjrtApi> {
    let load_error = |reason: String, source: Box<dyn std::error::Error + Send + Sync>| {
        Error::Load { path: path.to_owned(), reason, source }
    };
    let mut file = File::open(path)
        .map_err(|error| load_error(format!("it cannot be opened ({error})"), error.into()))?;
    if let Some(reason) = elf::unfit(&mut file) {
        let source = std::io::Error::from(std::io::ErrorKind::InvalidData);
        return Err(load_error(reason, source.into()));
    }
    drop(file);
    #[cfg(unix)]
    let opened = {
        use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
        // SAFETY: runs the library's initializers. The caller of `Plugin::load` chose the file and was
        // told so. `RTLD_LOCAL` keeps several plugins, each with its own copy of XLA, apart.
        unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.map(libloading::Library::from)
    };
    #[cfg(not(unix))]
    // SAFETY: as above.
    let opened = unsafe { libloading::Library::new(path) };

    let library = match opened {
        // Never dropped, hence never unloaded: see `Plugin`.
        Ok(library) => ManuallyDrop::new(library),
        Err(error) => return Err(load_error(loader_reason(&error), error.into())),
    };
    // SAFETY: the symbol of this name has this type in every plugin.
    let symbol = unsafe { library.get::<GetPjrtApi>(b"GetPjrtApi\0") };
    match symbol {
        Ok(symbol) => Ok(*symbol),
        Err(_) => Err(Error::NotAPlugin { path: path.to_owned() }),
    }
}

/// The loader's own words for a file of the right kind: usually a library that it needs in turn.
fn loader_reason(error: &libloading::Error) -> String {
    let mut words = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        words = inner.to_string();
        source = inner.source();
    }
    format!("the system's loader refuses it ({words}), so a library that it needs may be missing")
}

//! From what the configuration calls a source to the files that it consists of. Reads no contents.

use std::fs;
use std::path::{Path, PathBuf};

use runtime::install::Installer;
use runtime::registry::{self, PackageKind};

use super::config::{Format, SourceConfig};
use super::{DataError, Progress};

/// One file with documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SourceFile {
    pub(super) path: PathBuf,
    pub(super) format: Format,
    pub(super) bytes: u64,
}

/// The files of a source, in an order that depends on their names only. A known data set is
/// installed if need be; a folder or file of the same name is reached as `./name`.
pub(super) fn files(
    source: &SourceConfig,
    installer: &Installer,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<SourceFile>, DataError> {
    let name = source.path.as_str();
    let known = registry::find(name).filter(|package| package.kind == PackageKind::Dataset);
    let path = match known {
        Some(package) => {
            let installed = installer
                .install(package, &mut |step| progress(Progress::Installing(step)))
                .map_err(|error| DataError::Install {
                    name: name.to_owned(),
                    source: Box::new(error),
                })?;
            installed.main_file
        }
        None => PathBuf::from(name),
    };
    if path.is_dir() {
        return folder(&path, source.format);
    }
    if path.is_file() {
        return Ok(vec![file(path, source.format)?]);
    }
    let found = matches(name)?;
    if found.is_empty() {
        let known: Vec<&str> = registry::datasets().map(|package| package.name.as_str()).collect();
        return Err(DataError::NotFound { path: name.to_owned(), known: known.join(", ") });
    }
    found.into_iter().map(|path| file(path, source.format)).collect()
}

/// Files that a pattern matches; none for what is not a pattern.
fn matches(pattern: &str) -> Result<Vec<PathBuf>, DataError> {
    // As a shell does it, and as folders are read here: hidden files are not meant.
    let options = glob::MatchOptions { require_literal_leading_dot: true, ..Default::default() };
    let paths = glob::glob_with(pattern, options).map_err(|error| DataError::Pattern {
        pattern: pattern.to_owned(),
        detail: error.to_string(),
    })?;
    let mut found = Vec::new();
    for path in paths {
        let path = path.map_err(|error| {
            let path = error.path().to_path_buf();
            DataError::Read { path, source: error.into() }
        })?;
        if path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// All files below a folder, hidden ones left out. With a given format, all of them have it;
/// otherwise only those whose names say theirs are taken, since a README may lie beside them.
fn folder(path: &Path, format: Option<Format>) -> Result<Vec<SourceFile>, DataError> {
    let mut paths = Vec::new();
    collect(path, &mut paths)?;
    paths.sort();
    if format.is_none() {
        paths.retain(|path| guess(path).is_some());
    }
    if paths.is_empty() {
        return Err(DataError::EmptyFolder { path: path.to_path_buf() });
    }
    paths.into_iter().map(|path| file(path, format)).collect()
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) -> Result<(), DataError> {
    let unreadable = |source| DataError::Read { path: folder.to_path_buf(), source };
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        // A link to a folder may lead back up, so only links to files are followed.
        if entry.file_type().map_err(unreadable)?.is_dir() {
            collect(&path, paths)?;
        } else if path.is_file() {
            paths.push(path);
        }
    }
    Ok(())
}

fn file(path: PathBuf, format: Option<Format>) -> Result<SourceFile, DataError> {
    let Some(format) = format.or_else(|| guess(&path)) else {
        return Err(DataError::Format { path });
    };
    match fs::metadata(&path) {
        Ok(metadata) => Ok(SourceFile { path, format, bytes: metadata.len() }),
        Err(source) => Err(DataError::Read { path, source }),
    }
}

fn guess(path: &Path) -> Option<Format> {
    match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "txt" | "text" | "md" => Some(Format::Text),
        "jsonl" | "ndjson" => Some(Format::Jsonl),
        "parquet" => Some(Format::Parquet),
        _ => None,
    }
}

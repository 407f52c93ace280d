//! A stand-in for the build system of a source archive. pip does not download such an archive
//! without asking it for its name and version, for which it fetches a build system and runs the
//! archive's own code. What is wanted is a file with a known hash, so pip finds this module in the
//! place of setuptools and gets the answer from it: nothing of the archive runs, nothing else is
//! fetched, and it makes no difference which Python there is.

use std::path::{Path, PathBuf};

use crate::folders::{FolderError, create_folder, write_whole};
use crate::registry::Archive;

/// Puts the module under `folder` and returns what `PYTHONPATH` must begin with.
///
/// # Errors
/// When it cannot be written.
pub fn write(archive: &Archive, folder: &Path) -> Result<PathBuf, FolderError> {
    let path = folder.join("python");
    let package = path.join("setuptools");
    create_folder(&package)?;
    write_whole(&package.join("__init__.py"), &[])?;
    write_whole(&package.join("build_meta.py"), &[module(archive).as_bytes()])?;
    Ok(path)
}

/// PEP 517's hook for metadata, the only one that `pip download` calls, under the name that it uses
/// for archives that say nothing of their build system and under the one for those that do.
fn module(archive: &Archive) -> String {
    let Archive { package, version, .. } = archive;
    let folder = format!("{}-{version}.dist-info", package.replace('-', "_"));
    format!(
        r#"import os


def prepare_metadata_for_build_wheel(folder, config_settings=None):
    os.mkdir(os.path.join(folder, "{folder}"))
    with open(os.path.join(folder, "{folder}", "METADATA"), "w") as file:
        file.write("Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    return "{folder}"


class __legacy__:
    prepare_metadata_for_build_wheel = staticmethod(prepare_metadata_for_build_wheel)
"#
    )
}

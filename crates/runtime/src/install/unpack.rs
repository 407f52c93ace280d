//! Takes the files that the registry names out of an archive: a wheel, which is a zip archive, or a
//! compressed tar archive. Every other member is ignored, so an archive cannot write outside the
//! package's folder.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use std::rc::Rc;

use flate2::read::GzDecoder;
use zip::ZipArchive;
use zip::result::ZipError;

use super::{InstallError, Progress};
use crate::folders::{FolderError, create_folder};
use crate::registry::{Archive, Member};

const BLOCK_BYTES: usize = 1 << 20;

/// Unpacks the archive's members into `folder`.
///
/// # Errors
/// [`InstallError::DamagedArchive`] for anything wrong with the archive, else I/O errors.
pub fn unpack(
    archive: &Archive,
    path: &Path,
    folder: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), InstallError> {
    let file = File::open(path).map_err(|source| FolderError::from_io(path, source))?;
    let file = io::BufReader::new(file);
    match archive.is_wheel() {
        true => unpack_zip(archive, file, folder, progress),
        false => unpack_tar(archive, file, folder, progress),
    }
}

fn damaged(archive: &Archive, detail: String) -> InstallError {
    InstallError::DamagedArchive { file: archive.file.clone(), detail }
}

fn unpack_zip(
    archive: &Archive,
    file: io::BufReader<File>,
    folder: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), InstallError> {
    let damaged = |detail: String| damaged(archive, detail);
    let mut zip = ZipArchive::new(file).map_err(|source| damaged(source.to_string()))?;
    let mut bytes_total = 0;
    for member in &archive.members {
        let entry = zip.by_name(&member.path).map_err(|source| match source {
            ZipError::FileNotFound => damaged(format!("it has no {}", member.path)),
            other => damaged(other.to_string()),
        })?;
        bytes_total += entry.size();
    }
    let mut bytes_before = 0;
    for member in &archive.members {
        let mut entry = zip.by_name(&member.path).map_err(|source| damaged(source.to_string()))?;
        bytes_before += take(archive, member, &mut entry, folder, |bytes| {
            let bytes_done = bytes_before + bytes;
            progress(Progress::Unpacking { package: &archive.package, bytes_done, bytes_total });
        })?;
    }
    Ok(())
}

/// A tar archive has no list of its members, so it is read from front to back, and progress counts
/// compressed bytes.
fn unpack_tar(
    archive: &Archive,
    file: io::BufReader<File>,
    folder: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), InstallError> {
    let unreadable = |source: io::Error| damaged(archive, source.to_string());
    let mut wanted: HashMap<&str, &Member> =
        archive.members.iter().map(|member| (member.path.as_str(), member)).collect();
    let bytes_total = archive.size_bytes;
    let read = Rc::new(Cell::new(0));
    let counted = Counted { from: file, bytes: read.clone() };
    let mut tar = tar::Archive::new(GzDecoder::new(counted));
    for entry in tar.entries().map_err(unreadable)? {
        let mut entry = entry.map_err(unreadable)?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        // Links would lead out of the folder, or to files that are not there.
        if entry.header().entry_type().is_file()
            && let Some(member) = wanted.remove(path.as_str())
        {
            take(archive, member, &mut entry, folder, |_| {})?;
        }
        let bytes_done = read.get().min(bytes_total);
        progress(Progress::Unpacking { package: &archive.package, bytes_done, bytes_total });
    }
    match archive.members.iter().find(|member| wanted.contains_key(member.path.as_str())) {
        Some(member) => Err(damaged(archive, format!("it has no {}", member.path))),
        None => Ok(()),
    }
}

/// Counts what is read through it, for whoever no longer owns the reader.
struct Counted<R> {
    from: R,
    bytes: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, block: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(block)?;
        self.bytes.set(self.bytes.get() + count as u64);
        Ok(count)
    }
}

/// Copies one member to its place; returns its size in bytes.
fn take(
    archive: &Archive,
    member: &Member,
    from: &mut impl Read,
    folder: &Path,
    seen: impl FnMut(u64),
) -> Result<u64, InstallError> {
    let destination = folder.join(member.destination());
    if let Some(parent) = destination.parent() {
        create_folder(parent)?;
    }
    let bytes = copy(from, &destination, seen).map_err(|failure| match failure {
        Failure::Reading(source) => damaged(archive, format!("{}: {source}", member.path)),
        Failure::Writing(source) => FolderError::from_io(&destination, source).into(),
    })?;
    restore_run_bit(member, &destination)
        .map_err(|source| FolderError::from_io(&destination, source))?;
    Ok(bytes)
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
    fn a_full_disk_is_named_and_is_not_the_archives_fault() {
        let name = format!("fungible-unpack-{}", crate::folders::unique_name());
        let folder = std::env::temp_dir().join(name);
        create_folder(&folder).unwrap();
        let path = folder.join("tiny.whl");
        let mut zip = zip::ZipWriter::new(File::create(&path).unwrap());
        zip.start_file("library.so", zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(b"not really a library").unwrap();
        zip.finish().unwrap();
        std::os::unix::fs::symlink("/dev/full", folder.join("library.so")).unwrap();
        let archive = Archive {
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
        let error = unpack(&archive, &path, &folder, &mut |_| {}).unwrap_err();
        fs::remove_dir_all(folder).unwrap();
        assert!(
            matches!(&error, InstallError::Folder(FolderError::DiskFull { path, .. }) if path.ends_with("library.so")),
            "{error}"
        );
    }
}

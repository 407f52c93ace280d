//! Installing from an index: a folder of archives made here, through the real pip.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../../../tests/support/mod.rs"]
mod shared;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use runtime::CacheFolder;
use runtime::folders::FolderError;
use runtime::install::{InstallError, Installer, Progress};
use runtime::registry::{Archive, Member, Package, PackageKind};

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let name = format!("fungible-install-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(path.join("index")).unwrap();
        Folder(path)
    }

    fn index(&self) -> PathBuf {
        self.0.join("index")
    }

    fn cache(&self) -> PathBuf {
        self.0.join("cache")
    }

    /// With this folder's index and no other.
    fn installer(&self) -> Installer {
        Installer::new(CacheFolder::at(self.cache()))
            .with_pip_environment("PIP_NO_INDEX", "1")
            .with_pip_environment("PIP_FIND_LINKS", self.index())
            .with_pip_environment("PIP_CONFIG_FILE", "/dev/null")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn has_pip(test: &str) -> bool {
    let python = std::env::var_os("FUNGIBLE_PYTHON").unwrap_or_else(|| "python3".into());
    let answer = Command::new(python).args(["-m", "pip", "--version"]).output();
    let found = answer.is_ok_and(|answer| answer.status.success());
    if !found {
        shared::skip(test, "there is no pip");
    }
    found
}

const FILE: &str = "tiny_plugin-1.0-py3-none-any.whl";
const LIBRARY: &[u8] = b"not really a library";

fn write_wheel(path: &Path, library: &[u8]) {
    let mut wheel = zip::ZipWriter::new(File::create(path).unwrap());
    let options = zip::write::SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Deflated)
        .unix_permissions(0o644);
    let mut add = |name: &str, content: &[u8]| {
        wheel.start_file(name, options).unwrap();
        wheel.write_all(content).unwrap();
    };
    add("tiny_plugin/plugin.so", library);
    add("tiny_plugin/bin/tool", b"#!/bin/sh\n");
    add("tiny_plugin/not-wanted.txt", b"stays in the wheel");
    add(
        "tiny_plugin-1.0.dist-info/METADATA",
        b"Metadata-Version: 2.1\nName: tiny-plugin\nVersion: 1.0\n",
    );
    add(
        "tiny_plugin-1.0.dist-info/WHEEL",
        b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    );
    add("tiny_plugin-1.0.dist-info/RECORD", b"");
    wheel.finish().unwrap();
}

fn sha256(path: &Path) -> String {
    use sha2::Digest;
    let digest = sha2::Sha256::digest(fs::read(path).unwrap());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn member(path: &str, destination: Option<&str>, executable: bool) -> Member {
    Member { path: path.to_string(), destination: destination.map(str::to_string), executable }
}

/// The package whose wheel stands in the folder's index.
fn package(folder: &Folder) -> Package {
    let path = folder.index().join(FILE);
    write_wheel(&path, LIBRARY);
    Package {
        name: "tiny".to_string(),
        kind: PackageKind::Plugin,
        version: "1.0".to_string(),
        main_file: "tiny_plugin/plugin.so".to_string(),
        cuda_folder: None,
        description: "a plugin for tests".to_string(),
        hub_id: None,
        license: "none".to_string(),
        notice: Some("read this first".to_string()),
        archives: vec![Archive {
            package: "tiny-plugin".to_string(),
            version: "1.0".to_string(),
            file: FILE.to_string(),
            sha256: sha256(&path),
            size_bytes: fs::metadata(&path).unwrap().len(),
            os: None,
            arch: None,
            tags: None,
            members: vec![
                member("tiny_plugin/plugin.so", None, false),
                member("tiny_plugin/bin/tool", Some("tool"), true),
            ],
        }],
    }
}

const SOURCES_FILE: &str = "tiny_texts-1.0.tar.gz";

/// A data set as a source archive whose `setup.py` must not run: it would leave a file.
fn dataset(folder: &Folder) -> Package {
    let path = folder.index().join(SOURCES_FILE);
    let ran = folder.0.join("ran");
    let compressed =
        flate2::write::GzEncoder::new(File::create(&path).unwrap(), flate2::Compression::fast());
    let mut archive = tar::Builder::new(compressed);
    let mut add = |name: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_cksum();
        archive.append_data(&mut header, format!("tiny_texts-1.0/{name}"), content).unwrap();
    };
    let setup = format!("open({:?}, 'w').write('it ran')\n", ran.display().to_string());
    add("setup.py", setup.as_bytes());
    add("PKG-INFO", b"Metadata-Version: 1.0\nName: tiny-texts\nVersion: 1.0\n");
    add("not-wanted.txt", b"stays in the archive");
    add("texts/one.txt", b"once upon a time");
    let long = format!("texts/{}.txt", "long-".repeat(40));
    add(&long, b"a name that has no room in a header");
    archive.into_inner().unwrap().finish().unwrap();
    Package {
        name: "tiny-texts".to_string(),
        kind: PackageKind::Dataset,
        version: "1.0".to_string(),
        main_file: "texts".to_string(),
        cuda_folder: None,
        description: "texts for tests".to_string(),
        hub_id: None,
        license: "none".to_string(),
        notice: None,
        archives: vec![Archive {
            package: "tiny-texts".to_string(),
            version: "1.0".to_string(),
            file: SOURCES_FILE.to_string(),
            sha256: sha256(&path),
            size_bytes: fs::metadata(&path).unwrap().len(),
            os: None,
            arch: None,
            tags: None,
            members: vec![
                member("tiny_texts-1.0/texts/one.txt", Some("texts/1.txt"), false),
                member(&format!("tiny_texts-1.0/{long}"), Some("texts/2.txt"), false),
            ],
        }],
    }
}

/// Every file below the cache, other than locks.
fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .flat_map(|entry| match entry.path() {
            path if path.is_dir() => files(&path),
            path => vec![path],
        })
        .filter(|path| path.extension().is_none_or(|extension| extension != "lock"))
        .collect();
    found.sort();
    found
}

#[test]
fn a_package_is_fetched_checked_and_put_in_place() {
    if !has_pip("a_package_is_fetched_checked_and_put_in_place") {
        return;
    }
    let folder = Folder::new("whole");
    let package = package(&folder);
    let installer = folder.installer();
    assert_eq!(installer.installed(&package), None);
    let (mut notices, mut unpacked) = (Vec::new(), 0);
    let installed = installer
        .install(&package, &mut |progress| match progress {
            Progress::Notice(notice) => notices.push(notice.to_string()),
            Progress::Unpacking { bytes_done, bytes_total, .. } => {
                assert!(bytes_done <= bytes_total);
                unpacked = bytes_done;
            }
            _ => {}
        })
        .unwrap();
    assert_eq!(notices, ["read this first"]);
    assert_eq!(unpacked, (LIBRARY.len() + "#!/bin/sh\n".len()) as u64);
    assert_eq!(installed.folder, folder.cache().join("plugins/tiny/1.0"));
    assert_eq!(fs::read(&installed.main_file).unwrap(), LIBRARY);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |name: &str| {
            fs::metadata(installed.folder.join(name)).unwrap().permissions().mode() & 0o777
        };
        assert_eq!(mode("tool"), 0o755);
        assert_eq!(mode("tiny_plugin/plugin.so"), 0o644);
    }
    // Nothing but the package is left, and a second call does nothing.
    let expected: Vec<PathBuf> = ["installed.json", "tiny_plugin/plugin.so", "tool"]
        .iter()
        .map(|name| installed.folder.join(name))
        .collect();
    assert_eq!(files(&folder.cache()), expected);
    fs::remove_file(folder.index().join(FILE)).unwrap();
    let again = installer.install(&package, &mut |_| panic!("nothing is to be done")).unwrap();
    assert_eq!(again, installed);
}

#[test]
fn a_file_that_is_not_the_expected_one_is_refused() {
    if !has_pip("a_file_that_is_not_the_expected_one_is_refused") {
        return;
    }
    let folder = Folder::new("hash");
    let package = package(&folder);
    write_wheel(&folder.index().join(FILE), b"something else entirely");
    let error = folder.installer().install(&package, &mut |_| {}).unwrap_err();
    let InstallError::HashMismatch { expected, got, .. } = &error else { panic!("{error}") };
    assert_eq!(*expected, package.archives[0].sha256);
    assert_eq!(*got, sha256(&folder.index().join(FILE)));
    assert!(files(&folder.cache()).is_empty(), "{:?}", files(&folder.cache()));
}

#[test]
fn a_truncated_download_is_fetched_again() {
    if !has_pip("a_truncated_download_is_fetched_again") {
        return;
    }
    let folder = Folder::new("truncated");
    let package = package(&folder);
    let downloads = folder.cache().join("downloads");
    fs::create_dir_all(&downloads).unwrap();
    let whole = fs::read(folder.index().join(FILE)).unwrap();
    fs::write(downloads.join(FILE), &whole[..whole.len() / 2]).unwrap();
    folder.installer().install(&package, &mut |_| {}).unwrap();
}

#[test]
fn a_finished_download_is_not_fetched_again() {
    let folder = Folder::new("resumed");
    let package = package(&folder);
    let downloads = folder.cache().join("downloads");
    fs::create_dir_all(&downloads).unwrap();
    fs::rename(folder.index().join(FILE), downloads.join(FILE)).unwrap();
    let installer = folder.installer().with_python("no-such-python");
    installer.install(&package, &mut |_| {}).unwrap();
}

#[test]
fn a_damaged_wheel_leaves_nothing() {
    let folder = Folder::new("damaged");
    let mut package = package(&folder);
    let downloads = folder.cache().join("downloads");
    fs::create_dir_all(&downloads).unwrap();
    let whole = fs::read(folder.index().join(FILE)).unwrap();
    let path = downloads.join(FILE);
    fs::write(&path, &whole[..whole.len() - 10]).unwrap();
    // As if the registry itself had the hash of the damaged file.
    package.archives[0].sha256 = sha256(&path);
    let error = folder.installer().install(&package, &mut |_| {}).unwrap_err();
    assert!(matches!(error, InstallError::DamagedArchive { .. }), "{error}");
    assert_eq!(files(&folder.cache()), [path]);
}

#[test]
fn a_member_that_is_missing_is_named() {
    let folder = Folder::new("missing");
    let mut package = package(&folder);
    let downloads = folder.cache().join("downloads");
    fs::create_dir_all(&downloads).unwrap();
    fs::rename(folder.index().join(FILE), downloads.join(FILE)).unwrap();
    package.archives[0].members.push(member("tiny_plugin/absent", None, false));
    let message = folder.installer().install(&package, &mut |_| {}).unwrap_err().to_string();
    assert!(message.contains("tiny_plugin/absent"), "{message}");
    assert!(!folder.cache().join("plugins").exists());
}

#[test]
fn a_package_that_the_index_lacks_is_named() {
    if !has_pip("a_package_that_the_index_lacks_is_named") {
        return;
    }
    let folder = Folder::new("absent");
    let package = package(&folder);
    fs::remove_file(folder.index().join(FILE)).unwrap();
    let error = folder.installer().install(&package, &mut |_| {}).unwrap_err();
    assert!(matches!(error, InstallError::NotInIndex { .. }), "{error}");
    assert!(error.to_string().contains("tiny-plugin 1.0"), "{error}");
}

#[test]
fn no_pip_says_how_to_get_one() {
    let folder = Folder::new("nopip");
    let package = package(&folder);
    let installer = folder.installer().with_python("no-such-python");
    let message = installer.install(&package, &mut |_| {}).unwrap_err().to_string();
    assert!(message.contains("`no-such-python -m pip`"), "{message}");
    assert!(message.contains("FUNGIBLE_PYTHON"), "{message}");
    assert!(files(&folder.cache()).is_empty());
}

#[test]
fn another_machine_is_refused_before_anything_is_fetched() {
    let folder = Folder::new("machine");
    let mut package = package(&folder);
    package.archives[0].os = Some("plan9".to_string());
    package.archives[0].arch = Some("pdp11".to_string());
    let message = folder.installer().install(&package, &mut |_| {}).unwrap_err().to_string();
    assert!(message.contains("made for plan9 pdp11"), "{message}");
    assert!(message.contains(std::env::consts::ARCH), "{message}");
}

/// A cache folder that cannot be written to. A file in its place stands for one, since the user
/// that runs the tests may be allowed to write everywhere.
#[test]
fn a_folder_that_cannot_be_written_to_is_named() {
    let folder = Folder::new("readonly");
    let package = package(&folder);
    fs::write(folder.cache(), b"in the way").unwrap();
    let error = folder.installer().install(&package, &mut |_| {}).unwrap_err();
    let InstallError::Folder(FolderError::Io { path, .. }) = &error else { panic!("{error}") };
    assert!(path.starts_with(folder.cache()), "{error}");
}

#[test]
fn two_installations_at_once_do_not_meet() {
    if !has_pip("two_installations_at_once_do_not_meet") {
        return;
    }
    let folder = Folder::new("race");
    let package = package(&folder);
    std::thread::scope(|scope| {
        let install = || folder.installer().install(&package, &mut |_| {}).unwrap();
        let both = [scope.spawn(install), scope.spawn(install)];
        let [first, second] = both.map(|thread| thread.join().unwrap());
        assert_eq!(first, second);
    });
}

#[test]
fn a_source_archive_is_taken_apart_and_nothing_of_it_runs() {
    if !has_pip("a_source_archive_is_taken_apart_and_nothing_of_it_runs") {
        return;
    }
    let folder = Folder::new("sources");
    let package = dataset(&folder);
    let installed = folder.installer().install(&package, &mut |_| {}).unwrap();
    assert_eq!(installed.folder, folder.cache().join("datasets/tiny-texts"));
    assert_eq!(installed.main_file, installed.folder.join("texts"));
    assert_eq!(fs::read(installed.main_file.join("1.txt")).unwrap(), b"once upon a time");
    let expected: Vec<PathBuf> = ["installed.json", "texts/1.txt", "texts/2.txt"]
        .iter()
        .map(|name| installed.folder.join(name))
        .collect();
    assert_eq!(files(&folder.cache()), expected);
    assert!(!folder.0.join("ran").exists(), "pip ran the archive's setup.py");
}

#[test]
fn a_damaged_source_archive_leaves_nothing() {
    let folder = Folder::new("damaged-sources");
    let mut package = dataset(&folder);
    let downloads = folder.cache().join("downloads");
    fs::create_dir_all(&downloads).unwrap();
    let whole = fs::read(folder.index().join(SOURCES_FILE)).unwrap();
    let path = downloads.join(SOURCES_FILE);
    for bytes in [&whole[..whole.len() / 2], b"no archive"] {
        fs::write(&path, bytes).unwrap();
        // As if the registry itself had the hash of the damaged file.
        package.archives[0].sha256 = sha256(&path);
        let error = folder.installer().install(&package, &mut |_| {}).unwrap_err();
        assert!(matches!(error, InstallError::DamagedArchive { .. }), "{error}");
        assert!(error.to_string().contains(SOURCES_FILE), "{error}");
        assert_eq!(files(&folder.cache()), std::slice::from_ref(&path));
    }
    fs::write(&path, &whole).unwrap();
    package.archives[0].sha256 = sha256(&path);
    package.archives[0].members.push(member("tiny_texts-1.0/absent", None, false));
    let message = folder.installer().install(&package, &mut |_| {}).unwrap_err().to_string();
    assert!(message.contains("tiny_texts-1.0/absent"), "{message}");
}

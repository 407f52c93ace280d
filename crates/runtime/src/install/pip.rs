//! Runs `pip download`, so that the user's proxies, mirrors and credentials apply and this program
//! needs no HTTP client. Knows one archive at a time.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::{InstallError, Progress, build_backend};
use crate::folders::{FolderError, create_folder, write_whole};
use crate::registry::Archive;

const POLL: Duration = Duration::from_millis(100);

/// A way to call pip that answered.
pub struct Pip {
    command: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
}

impl Pip {
    /// # Errors
    /// [`InstallError::NoPip`] when no candidate answers.
    pub fn find(
        python: Option<&Path>,
        environment: &[(OsString, OsString)],
    ) -> Result<Pip, InstallError> {
        let module = |python: &OsStr| vec![python.to_os_string(), "-m".into(), "pip".into()];
        let candidates = match python {
            Some(python) => vec![module(python.as_os_str())],
            None => vec![
                module(OsStr::new("python3")),
                module(OsStr::new("python")),
                vec!["pip3".into()],
                vec!["pip".into()],
            ],
        };
        let answers = |command: &Vec<OsString>| {
            let mut pip = Command::new(&command[0]);
            pip.args(&command[1..]).arg("--version").stdin(Stdio::null());
            let status = pip.stdout(Stdio::null()).stderr(Stdio::null()).status();
            status.is_ok_and(|status| status.success())
        };
        match candidates.iter().find(|command| answers(command)) {
            Some(command) => {
                Ok(Pip { command: command.clone(), environment: environment.to_vec() })
            }
            None => {
                let spell = |command: &Vec<OsString>| {
                    let words: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
                    format!("`{}`", words.join(" "))
                };
                let tried: Vec<String> = candidates.iter().map(spell).collect();
                Err(InstallError::NoPip { tried: tried.join(", ") })
            }
        }
    }

    /// Downloads one archive into `folder` and returns its path.
    ///
    /// # Errors
    /// Whatever pip's output says went wrong, sorted by what the user can do about it.
    pub fn download(
        &self,
        archive: &Archive,
        folder: &Path,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<PathBuf, InstallError> {
        let destination = folder.join("archive");
        // pip streams into its temporary folder first: with its own one, the bytes can be counted
        // and are removed with ours if it is killed.
        let scratch = folder.join("pip");
        create_folder(&destination)?;
        create_folder(&scratch)?;
        let requirements = folder.join("requirements.txt");
        let line =
            format!("{}=={} --hash=sha256:{}\n", archive.package, archive.version, archive.sha256);
        write_whole(&requirements, &[line.as_bytes()])?;
        let output = folder.join("output");

        let mut command = self.command(archive, &destination, &scratch, &requirements);
        if archive.is_wheel() {
            command.arg("--only-binary=:all:");
        } else {
            command.args(["--no-binary=:all:", "--no-build-isolation"]);
            // Pips that could still run a `setup.py` without any build system would do so.
            command.env("PIP_USE_PEP517", "1");
            let stand_in = build_backend::write(archive, folder)?;
            command.env("PYTHONPATH", before_python_path(&stand_in));
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let log = File::create(&output).map_err(|source| FolderError::from_io(&output, source))?;
        let log_too = log.try_clone().map_err(|source| FolderError::from_io(&output, source))?;
        command.stdin(Stdio::null()).stdout(log).stderr(log_too);
        let failed =
            |detail: String| InstallError::Pip { package: archive.package.clone(), detail };
        let child = command.spawn().map_err(|source| failed(source.to_string()))?;
        let status = Running(child)
            .wait(|| {
                let bytes_done =
                    (bytes_under(&scratch) + bytes_under(&destination)).min(archive.size_bytes);
                let bytes_total = archive.size_bytes;
                let package = archive.package.as_str();
                progress(Progress::Downloading { package, bytes_done, bytes_total });
            })
            .map_err(|source| failed(source.to_string()))?;
        let said = fs::read(&output).unwrap_or_default();
        if !status.success() {
            return Err(explain(archive, folder, &String::from_utf8_lossy(&said)));
        }
        let path = destination.join(&archive.file);
        if path.is_file() {
            return Ok(path);
        }
        Err(failed(format!("it did not fetch {}", archive.file)))
    }

    fn command(
        &self,
        archive: &Archive,
        destination: &Path,
        scratch: &Path,
        requirements: &Path,
    ) -> Command {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]);
        command.args(["download", "--disable-pip-version-check", "--no-input", "--no-deps"]);
        command.args(["--require-hashes", "--progress-bar", "off"]);
        if let Some(tags) = &archive.tags {
            // Named in full, so that any Python finds a wheel that was built for another one: only
            // the shared library inside is used.
            command.args(["--platform", &tags.platform, "--python-version", &tags.python]);
            command.args(["--implementation", &tags.implementation, "--abi", &tags.abi]);
        }
        command.arg("--dest").arg(destination).arg("--requirement").arg(requirements);
        // Newer pips go on where a broken connection stopped; older ones ignore the variable.
        command.env("PIP_RESUME_RETRIES", "5").env("PYTHONUTF8", "1");
        for variable in ["TMPDIR", "TEMP", "TMP"] {
            command.env(variable, scratch);
        }
        command
    }
}

/// The user's own modules stay findable behind `folder`: pip may be among them.
fn before_python_path(folder: &Path) -> OsString {
    let rest = std::env::var_os("PYTHONPATH").unwrap_or_default();
    let rest = std::env::split_paths(&rest).filter(|path| !path.as_os_str().is_empty());
    // Only a path with the separator in its name cannot be joined; pip then does without the rest.
    std::env::join_paths(std::iter::once(folder.to_path_buf()).chain(rest))
        .unwrap_or_else(|_| folder.as_os_str().to_os_string())
}

/// A child that does not outlive an early return.
struct Running(Child);

impl Running {
    fn wait(mut self, mut poll: impl FnMut()) -> std::io::Result<ExitStatus> {
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            poll();
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both are errors only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn bytes_under(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(data) if data.is_dir() => bytes_under(&entry.path()),
        Ok(data) => data.len(),
        // pip removed it in the meantime.
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

/// Turns pip's words into one of our errors. pip has one exit status for everything, so its text
/// is all there is to go by; what is not recognized is passed on.
fn explain(archive: &Archive, folder: &Path, said: &str) -> InstallError {
    let package = archive.package.clone();
    let line = |needle: &str| said.lines().find(|line| line.contains(needle)).map(str::trim);
    let last_error = said
        .lines()
        .rev()
        .find(|line| line.starts_with("ERROR:"))
        .or_else(|| said.lines().rev().find(|line| !line.trim().is_empty()))
        .map_or("it said nothing", |line| line.trim_start_matches("ERROR:").trim())
        .to_string();
    if said.contains("DO NOT MATCH THE HASHES") {
        let after = |label: &str| {
            line(label)
                .and_then(|line| line.split_whitespace().last())
                .unwrap_or("unknown")
                .to_string()
        };
        let (expected, got) = (after("Expected sha256"), after("Got "));
        return InstallError::HashMismatch { package, expected, got };
    }
    if said.contains("No space left on device") || said.contains("Disk quota exceeded") {
        let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
        return FolderError::from_io(folder, source).into();
    }
    if said.contains("Permission denied") {
        let source = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        return FolderError::from_io(folder, source).into();
    }
    const UNREACHED: [&str; 7] = [
        "Retrying (Retry",
        "NewConnectionError",
        "Failed to establish a new connection",
        "Name or service not known",
        "Temporary failure in name resolution",
        "Read timed out",
        "Max retries exceeded",
    ];
    if let Some(reason) = UNREACHED.iter().find_map(|needle| line(needle)) {
        return InstallError::NoNetwork { package, detail: short(reason) };
    }
    if said.contains("No matching distribution found") {
        let version = archive.version.clone();
        return InstallError::NotInIndex { package, version, detail: short(&last_error) };
    }
    InstallError::Pip { package, detail: short(&last_error) }
}

/// pip's lines run to hundreds of characters of nested exceptions; the innermost one says why.
fn short(line: &str) -> String {
    const LIMIT: usize = 160;
    let inner = line.rsplit(">: ").next().unwrap_or(line);
    let inner = inner.split("')").next().unwrap_or(inner).trim();
    match inner.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{}…", &inner[..end]),
        None => inner.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive() -> Archive {
        crate::registry::find("cpu").unwrap().archives[0].clone()
    }

    #[test]
    fn an_unreachable_index_is_not_a_missing_package() {
        let said = "WARNING: Retrying (Retry(total=0, connect=None)) after connection broken by \
            'ProxyError('Cannot connect to proxy.', NewConnectionError('<pip._vendor.urllib3 object at \
            0x7fee>: Failed to establish a new connection: [Errno 111] Connection refused'))': /simple/x/\n\
            ERROR: Could not find a version that satisfies the requirement x==1 (from versions: none)\n\
            ERROR: No matching distribution found for x==1\n";
        let error = explain(&archive(), Path::new("folder"), said);
        let InstallError::NoNetwork { detail, .. } = error else { panic!("{error}") };
        assert_eq!(detail, "Failed to establish a new connection: [Errno 111] Connection refused");
    }

    #[test]
    fn both_hashes_are_reported() {
        let said = "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.\n    \
            libtpu==0.0.52 from x:\n        Expected sha256 aa11\n             Got        bb22\n";
        let error = explain(&archive(), Path::new("folder"), said);
        let InstallError::HashMismatch { expected, got, .. } = error else { panic!("{error}") };
        assert_eq!((expected.as_str(), got.as_str()), ("aa11", "bb22"));
    }

    #[test]
    fn a_full_disk_is_one() {
        let said = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n";
        let error = explain(&archive(), Path::new("folder"), said);
        assert!(matches!(error, InstallError::Folder(FolderError::DiskFull { .. })), "{error}");
    }

    #[test]
    fn anything_else_is_passed_on() {
        let error = explain(&archive(), Path::new("folder"), "ERROR: something new\n");
        assert!(error.to_string().ends_with("something new"), "{error}");
    }
}

//! Files of one JSON object per line, each of some step, that survive crashes and resumes.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::marker::PhantomData;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::growing::Growing;
use super::{MetricsError, write_whole};

/// What belongs to a step.
pub trait Stepped {
    fn step(&self) -> usize;
}

/// A file of lines that grows.
#[derive(Debug)]
pub struct StepLog<T> {
    file: Growing,
    kind: PhantomData<fn(T)>,
}

/// What became of the lines that were there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    pub kept: usize,
    /// Lines of steps that will be made again.
    pub later: usize,
    /// Lines that a crash left torn or damaged.
    pub unreadable: usize,
}

impl<T: Stepped + Serialize + DeserializeOwned> StepLog<T> {
    /// Opens the file of a run that goes on after step `through` (0: a new run). Lines of later
    /// steps and lines that cannot be read are removed, so that in the end every step is there once.
    ///
    /// # Errors
    /// When the folder or the file cannot be made, read or written.
    pub fn open(path: &Path, through: usize) -> Result<(StepLog<T>, Kept), MetricsError> {
        let wrong = |source| MetricsError::write(path, source);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(wrong)?;
        }
        let mut kept = Kept::default();
        let mut text = Vec::new();
        kept.unreadable = for_each_line::<T>(path, |line, entry| {
            if entry.step() > through {
                kept.later += 1;
            } else {
                kept.kept += 1;
                text.extend_from_slice(line);
            }
        })?;
        if kept.later + kept.unreadable > 0 {
            write_whole(path, &text)?;
        }
        let file = File::options().create(true).append(true).open(path).map_err(wrong)?;
        let file = Growing::new(path.to_path_buf(), file);
        Ok((StepLog { file, kind: PhantomData }, kept))
    }

    /// Writes one line.
    ///
    /// # Errors
    /// When the disk is full, or the file cannot be written. The line waits then, and is written before
    /// the next one.
    pub fn append(&mut self, entry: &T) -> Result<(), MetricsError> {
        let line = serde_json::to_vec(entry);
        let mut line =
            line.map_err(|source| MetricsError::write(&self.file.path, source.into()))?;
        line.push(b'\n');
        self.file.append(&line)
    }

    /// Writes what waits.
    ///
    /// # Errors
    /// As [`StepLog::append`].
    pub fn finish(&mut self) -> Result<(), MetricsError> {
        self.file.append(&[])
    }
}

/// Every entry of a file that can be read; none if there is no file.
///
/// # Errors
/// When the file is there and cannot be read.
pub fn read<T: Stepped + DeserializeOwned>(path: &Path) -> Result<Vec<T>, MetricsError> {
    let mut entries = Vec::new();
    for_each_line::<T>(path, |_, entry| entries.push(entry))?;
    Ok(entries)
}

/// Hands over every whole line that can be read, with its line break, and counts the others. A last
/// line without its line break is one of those: the write was cut short.
fn for_each_line<T: DeserializeOwned>(
    path: &Path,
    mut take: impl FnMut(&[u8], T),
) -> Result<usize, MetricsError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(MetricsError::read(path, error)),
    };
    let mut reader = BufReader::new(file);
    let (mut line, mut unreadable) = (Vec::new(), 0);
    loop {
        line.clear();
        let length =
            reader.read_until(b'\n', &mut line).map_err(|error| MetricsError::read(path, error))?;
        if length == 0 {
            return Ok(unreadable);
        }
        match serde_json::from_slice(&line) {
            Ok(entry) if line.ends_with(b"\n") => take(&line, entry),
            _ => unreadable += 1,
        }
    }
}

//! JSON lines: an object per line, with `text` or `messages`.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{Item, document};
use crate::data::DataError;

pub(super) struct Lines {
    path: PathBuf,
    file: BufReader<File>,
    column: Option<String>,
    line: u64,
    bytes_done: u64,
    /// Pieces of a long document.
    waiting: VecDeque<Item>,
}

impl Lines {
    pub(super) fn open(path: &Path, column: Option<&str>) -> Result<Lines, DataError> {
        let path = path.to_path_buf();
        match File::open(&path) {
            Ok(file) => Ok(Lines {
                path,
                file: BufReader::new(file),
                column: column.map(str::to_owned),
                line: 0,
                bytes_done: 0,
                waiting: VecDeque::new(),
            }),
            Err(source) => Err(DataError::Read { path, source }),
        }
    }

    /// The next line that is not blank, as items; none at the end of the file.
    fn read(&mut self) -> Result<Option<Vec<Item>>, DataError> {
        let mut line = Vec::new();
        loop {
            line.clear();
            let count = self
                .file
                .read_until(b'\n', &mut line)
                .map_err(|source| DataError::Read { path: self.path.clone(), source })?;
            if count == 0 {
                return Ok(None);
            }
            self.line += 1;
            self.bytes_done += count as u64;
            if line.iter().any(|byte| !byte.is_ascii_whitespace()) {
                break;
            }
        }
        let fields: Map<String, Value> = serde_json::from_slice(&line).map_err(|source| {
            DataError::Json { path: self.path.clone(), line: self.line, source }
        })?;
        document(fields, self.column.as_deref(), &self.path, self.line, self.bytes_done).map(Some)
    }
}

impl Iterator for Lines {
    type Item = Result<Item, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.waiting.is_empty() {
            match self.read() {
                Ok(items) => self.waiting.extend(items?),
                Err(error) => return Some(Err(error)),
            }
        }
        self.waiting.pop_front().map(Ok)
    }
}

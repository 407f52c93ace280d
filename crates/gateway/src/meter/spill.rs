//! Records on their way into a SQLite database that is away, in a file beside it, one JSON object a
//! line. So the end of the process loses none of them; they go into the database when it is back, or
//! when a gateway next starts.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::record::Record;

pub(super) struct Spill {
    path: PathBuf,
    file: Option<File>,
}

impl Spill {
    /// `gateway.db` has its beside it as `gateway.db-records`.
    pub(super) fn beside(database: &Path) -> Spill {
        let mut path = database.as_os_str().to_owned();
        path.push("-records");
        Spill { path: PathBuf::from(path), file: None }
    }

    /// What an earlier process left. A line that was cut off, because the process ended while it
    /// wrote it, was never confirmed.
    pub(super) fn read(&self) -> io::Result<Vec<Record>> {
        let file = match File::open(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            opened => opened?,
        };
        let mut records = Vec::new();
        for line in BufReader::new(file).split(b'\n') {
            let line = line?;
            if line.is_empty() {
                continue;
            }
            match serde_json::from_slice(&line) {
                Ok(record) => records.push(record),
                Err(error) => tracing::warn!(
                    target: "fungible::gateway",
                    file = %self.path.display(),
                    error = &error as &dyn std::error::Error,
                    "a line of the records that were kept cannot be read"
                ),
            }
        }
        Ok(records)
    }

    pub(super) fn append<'a>(
        &mut self,
        records: impl Iterator<Item = &'a Record>,
    ) -> io::Result<()> {
        // First of all the end of a line that an earlier process may have left without one.
        let mut lines = b"\n".to_vec();
        for record in records {
            serde_json::to_writer(&mut lines, record)?;
            lines.push(b'\n');
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let mut options = OpenOptions::new();
                options.append(true).create(true);
                #[cfg(unix)]
                std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
                none.insert(options.open(&self.path)?)
            }
        };
        let length = file.metadata()?.len();
        let written = file.write_all(&lines);
        if written.is_err() {
            // A disk that filled up on the way has half a line, on which the next would go on.
            file.set_len(length)?;
        }
        written
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), File::sync_data)
    }

    /// Everything in it is in the database.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        self.file = None;
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }
}

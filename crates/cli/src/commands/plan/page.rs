//! `--html`: a plan as a page in a file.

use std::fs::File;
use std::path::{Path, PathBuf};

use plan::report::Report;
use plan::row::Row;
use runtime::folders::write_whole;

use super::wish;
use crate::arguments::plan::PlanShared;
use crate::failure::{Exit, Failure, Outcome};

/// Whether the page could be written, before minutes of compiling.
///
/// # Errors
/// The path cannot be written to.
pub fn check(shared: &PlanShared) -> Outcome {
    let Some(path) = &shared.html else { return Ok(()) };
    let Some(name) = path.file_name().filter(|_| !path.is_dir()) else {
        return Err(refused(path, "it is a folder; name a file, such as plan.html"));
    };
    let mut trial = std::ffi::OsString::from(".");
    trial.push(name);
    trial.push(format!(".{}.tmp", std::process::id()));
    let trial: PathBuf = path.with_file_name(trial);
    File::options().write(true).create_new(true).open(&trial).map_err(|why| refused(path, why))?;
    std::fs::remove_file(&trial).map_err(|why| refused(path, why))
}

fn refused(path: &Path, why: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Failure, format!("cannot write --html {}: {why}", path.display()))
}

/// All of the page, or nothing.
pub fn write(path: &Path, title: &str, rows: &[Row], shared: &PlanShared) -> Outcome {
    let wish = wish(shared)?;
    let (goal, version) = (shared.minimize.into(), env!("CARGO_PKG_VERSION"));
    let page = Report { title, rows, goal, wish: &wish, version }.page();
    Ok(write_whole(path, &[page.as_bytes()])?)
}

//! `fungible export`: from a checkpoint of a training run to a model that other programs load.

use llm::FloatType;
use llm::export::{ExportOptions, ExportProgress, Exported};
use runtime::CacheFolder;
use serde_json::json;
use train::checkpoint::Latest;
use train::export::{ExportError, find};
use train::saved::SavedRun;

use crate::arguments::ExportArguments;
use crate::console::{self, BOLD, Progress, decimal_size, shell_word, short_number, styled};
use crate::failure::{Exit, Failure, Outcome};
use crate::model;

/// A model or an adapter that was written.
pub struct Written {
    exported: Exported,
    float_type: FloatType,
    adapter: bool,
    /// The checkpoint that it was.
    location: String,
    step: u64,
}

pub fn run(arguments: &ExportArguments) -> Outcome {
    let written = write(arguments, &Progress::new())?;
    if arguments.json {
        print_json(&written);
        return Ok(());
    }
    tell(&written);
    if !arguments.adapter {
        let folder = written.exported.folder.display().to_string();
        console::line(format_args!(
            "  next  fungible generate \"Once upon a time\" --model {}",
            shell_word(&folder)
        ));
    }
    Ok(())
}

/// Writes what is asked for.
pub fn write(arguments: &ExportArguments, progress: &Progress) -> Result<Written, Failure> {
    progress.spin("looking for the newest checkpoint that is intact");
    let Latest { checkpoint, damaged } = find(&arguments.checkpoint, arguments.step)?;
    progress.clear();
    let (step, location) = (checkpoint.step(), checkpoint.location());
    for worse in &damaged {
        console::warning(&format!(
            "the checkpoint of step {} is damaged ({}); exporting step {step}",
            worse.step, worse.reason
        ));
    }
    let run = SavedRun::of(checkpoint)?;
    let float_type = match (arguments.dtype, arguments.adapter) {
        (Some(dtype), _) => dtype.into(),
        (None, true) => FloatType::F32,
        (None, false) => run.float_type(),
    };
    let options =
        ExportOptions { overwrite: arguments.overwrite, ..ExportOptions::new(float_type) };
    let on_progress = &mut |ExportProgress { done_bytes, total_bytes }| {
        progress.bytes("writing", done_bytes, total_bytes);
    };
    let exported = match arguments.adapter {
        true => run.export_adapter(&arguments.folder, &options, on_progress).map_err(advise)?,
        false => {
            let base = match (&arguments.base, run.base()) {
                (Some(_), None) => {
                    return Err(Failure::usage(format!(
                        "--base is for adapters, and the run of {location} trained the whole model"
                    )));
                }
                (None, None) => None,
                (now, Some(then)) => Some(base(now.as_deref().unwrap_or(then), progress)?),
            };
            run.export_model(&arguments.folder, base.as_ref(), &options, on_progress)
                .map_err(advise)?
        }
    };
    progress.clear();
    Ok(Written { exported, float_type, adapter: arguments.adapter, location, step })
}

fn print_json(written: &Written) {
    let Written { exported, float_type, adapter, location, step } = written;
    console::line(json!({
        "folder": exported.folder,
        "files": exported.files,
        "parameters": exported.parameters,
        "bytes": exported.bytes,
        "dtype": float_type.to_string(),
        "adapter": adapter,
        "checkpoint": location,
        "step": step,
    }));
}

/// Says what was written where.
pub fn tell(written: &Written) {
    let Written { exported, float_type, adapter, step, .. } = written;
    let (what, folder) = (if *adapter { "adapter" } else { "model" }, exported.folder.display());
    console::styled_line(styled(BOLD, &format!("wrote the {what} of step {step} to {folder}")));
    console::line(format_args!(
        "  {} parameters in {float_type}, {}",
        short_number(exported.parameters as f64),
        decimal_size(exported.bytes)
    ));
}

/// Adds the flag that helps, which libraries do not know of.
fn advise(error: ExportError) -> Failure {
    let has_flag = matches!(&error, ExportError::Export(llm::export::ExportError::NotEmpty { .. }));
    let failure = Failure::from(error);
    match has_flag {
        true => Failure::new(
            Exit::Failure,
            format!("{failure}, or replace what an earlier export wrote there with --overwrite"),
        ),
        false => failure,
    }
}

/// The model that adapters are merged into.
fn base(name: &str, progress: &Progress) -> Result<llm::ModelFiles, Failure> {
    let cache = CacheFolder::from_environment()?;
    model::open(name, &cache, progress).map_err(|failure| {
        Failure::usage(format!(
            "the adapters were trained on `{name}`, which cannot be opened: {failure}; say where it is with --base, or export the adapter alone with --adapter"
        ))
    })
}

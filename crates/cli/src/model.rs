//! What MODEL on the command line means: a known name, a folder or a file.

use std::path::{Path, PathBuf};

use llm::files::OpenError;
use llm::{ModelConfig, ModelFiles, shapes};
use runtime::CacheFolder;
use runtime::install::{Installer, Progress as Step};
use runtime::registry::{self, Package, PackageKind};
use train::export::is_of_run;

use crate::console::{Progress, shell_word};
use crate::failure::{Exit, Failure};

/// Opens a model, fetching it first if it is a known name that is not here yet.
pub fn open(model: &str, cache: &CacheFolder, progress: &Progress) -> Result<ModelFiles, Failure> {
    let path = locate(model, cache, progress)?;
    ModelFiles::open(&path).map_err(|error| match &error {
        OpenError::NoConfig { .. } if is_of_run(model) => Failure::new(
            Exit::Failure,
            format!(
                "{model} holds checkpoints of a training run, not a model: write one with `fungible export {} model`, and give `model` instead",
                shell_word(model)
            ),
        ),
        OpenError::Adapter { .. } => Failure::new(
            Exit::Failure,
            format!(
                "{error}; for the run that trained it, `fungible export RUN model` does that, and `model` is what to give"
            ),
        ),
        _ => error.into(),
    })
}

/// Only what the model is; weights need not be here.
pub fn config(
    model: &str,
    cache: &CacheFolder,
    progress: &Progress,
) -> Result<ModelConfig, Failure> {
    if let Some(config) = shapes::find(model) {
        return Ok(config?);
    }
    let path = Path::new(model);
    let file = match path.is_dir() {
        true => path.join("config.json"),
        false => path.to_path_buf(),
    };
    if file.is_file() && file.extension().is_some_and(|extension| extension == "json") {
        let text = std::fs::read_to_string(&file)
            .map_err(|error| Failure::new(Exit::Failure, format!("{}: {error}", file.display())))?;
        return Ok(ModelConfig::from_json(&text)?);
    }
    Ok(open(model, cache, progress)?.config)
}

fn locate(model: &str, cache: &CacheFolder, progress: &Progress) -> Result<PathBuf, Failure> {
    let known = registry::find(model).filter(|package| package.kind == PackageKind::Model);
    if let Some(package) = known {
        return install(package, cache, progress);
    }
    if Path::new(model).exists() {
        return Ok(PathBuf::from(model));
    }
    let names: Vec<&str> = registry::models().map(|package| package.name.as_str()).collect();
    if shapes::find(model).is_some() {
        return Err(Failure::usage(format!(
            "`{model}` is known by its shape only, which is enough for `fungible compile`; give a folder or a .gguf file with its weights"
        )));
    }
    // As the hub has it: an owner and a name.
    let parts: Vec<&str> = model.split('/').collect();
    let is_id = parts.len() == 2 && !parts.iter().any(|part| part.is_empty() || *part == "..");
    Err(Failure::usage(format!(
        "there is no model `{model}`: it is no folder or file, and known names are {}; a model of the Hugging Face hub is not fetched: `hf download {} --local-dir FOLDER`, then give FOLDER",
        names.join(", "),
        if is_id { shell_word(model) } else { "ID".to_string() }
    )))
}

/// Fetches a package of the registry unless it is here; returns its main file.
pub fn install(
    package: &'static Package,
    cache: &CacheFolder,
    progress: &Progress,
) -> Result<PathBuf, Failure> {
    let installer = Installer::new(cache.clone());
    if let Some(installed) = installer.installed(package) {
        return Ok(installed.main_file);
    }
    let installed = installer.install(package, &mut |step| show_installation(progress, &step))?;
    progress.clear();
    Ok(installed.main_file)
}

/// Shows how far an installation is.
pub fn show_installation(progress: &Progress, step: &Step<'_>) {
    match *step {
        Step::Notice(text) => progress.note(text),
        Step::Waiting => progress.spin("waiting for another installation"),
        Step::Downloading { package, bytes_done, bytes_total } => {
            progress.bytes(&format!("fetching {package}"), bytes_done, bytes_total);
        }
        Step::Verifying { package, bytes_done, bytes_total } => {
            progress.bytes(&format!("verifying {package}"), bytes_done, bytes_total);
        }
        Step::Unpacking { package, bytes_done, bytes_total } => {
            progress.bytes(&format!("unpacking {package}"), bytes_done, bytes_total);
        }
    }
}

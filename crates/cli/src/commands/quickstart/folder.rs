//! The output folder of a quickstart: whose it is, how far it is, its config and its data. Trains nothing.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use train::checkpoint::Checkpoints;
use train::config::Config;

use crate::failure::{Exit, Failure, Outcome};

/// In the program, so that it works without the repository.
const CONFIG: &str = include_str!("../../../../../examples/finetune-smollm2.toml");
const DATA: &str = include_str!("../../../../../examples/data/fungible.jsonl");

/// By this file a folder is known as a quickstart's.
const DATA_FILE: &str = "quickstart.jsonl";
/// Exported models go there.
const MODEL: &str = "model";

/// How many conversations are trained on.
pub fn conversations() -> usize {
    DATA.lines().count()
}

pub struct Folder {
    path: PathBuf,
    steps: usize,
}

/// What there is to be done in a folder.
#[derive(Debug, PartialEq, Eq)]
pub enum State {
    New,
    Begun { step: u64 },
    Finished,
    Overwritten,
}

impl Folder {
    /// # Errors
    /// A folder that holds something else is left alone.
    pub fn at(path: &Path, steps: usize) -> Result<Folder, Failure> {
        let folder = Folder { path: path.to_path_buf(), steps };
        let shown = path.display();
        match fs::read_dir(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(folder),
            Err(error) if error.kind() == ErrorKind::NotADirectory => Err(Failure::usage(format!(
                "{shown} is not a folder; choose another with --output"
            ))),
            Err(error) => Err(Failure::new(
                Exit::Failure,
                format!("cannot look into {shown}: {error}; choose another folder with --output"),
            )),
            Ok(_) if folder.data().is_file() => Ok(folder),
            Ok(mut entries) => match entries.next() {
                None => Ok(folder),
                Some(_) => Err(Failure::usage(format!(
                    "{shown} holds something else than an earlier quickstart; choose another folder with --output"
                ))),
            },
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn model(&self) -> PathBuf {
        self.path.join(MODEL)
    }

    fn data(&self) -> PathBuf {
        self.path.join(DATA_FILE)
    }

    /// How far an earlier quickstart came.
    ///
    /// # Errors
    /// Checkpoints that this quickstart cannot go on from.
    pub fn state(&self, overwrite: bool) -> Result<State, Failure> {
        let config = self.config()?;
        let steps = Checkpoints::open(&config.checkpoint.folder)?.list()?;
        let Some(&last) = steps.last() else { return Ok(State::New) };
        if overwrite {
            return Ok(State::Overwritten);
        }
        let shown = self.path.display();
        if fs::read(self.data())? != DATA.as_bytes() {
            return Err(Failure::usage(format!(
                "{shown} was trained on other data, maybe by another version of this program: start anew with --overwrite, or choose another folder with --output"
            )));
        }
        match last.cmp(&(self.steps as u64)) {
            std::cmp::Ordering::Less => Ok(State::Begun { step: last }),
            std::cmp::Ordering::Equal => Ok(State::Finished),
            std::cmp::Ordering::Greater => Err(Failure::usage(format!(
                "{shown} has an earlier quickstart of {last} steps, and --steps is {}: start anew with --overwrite, or choose another folder with --output",
                self.steps
            ))),
        }
    }

    /// The example's config, with the data and the output here.
    ///
    /// # Errors
    /// A path that a config cannot hold.
    pub fn config(&self) -> Result<Config, Failure> {
        let text = |path: &Path| match path.to_str() {
            // As TOML has it too.
            Some(path) => Ok(serde_json::Value::from(path).to_string()),
            None => Err(Failure::usage(format!(
                "{} is not valid UTF-8; choose another folder with --output",
                path.display()
            ))),
        };
        let sets = [
            format!("output.folder={}", text(&self.path)?),
            format!("data.sources=[{{path={}}}]", text(&self.data())?),
            format!("training.steps={}", self.steps),
            "training.log_every=2".to_string(),
            "checkpoint.every=5".to_string(),
            // A part of the steps, which may be few.
            format!("schedule.warmup_steps={}", (self.steps / 10).max(1)),
            "samples.prompts=[]".to_string(),
        ];
        Config::parse(CONFIG, &sets, "quickstart").map_err(Failure::from)
    }

    /// What marks the folder as ours comes into it first.
    pub fn write_data(&self) -> Outcome {
        let failed = |what: &str, path: &Path, error: std::io::Error| {
            Failure::new(
                Exit::Failure,
                format!(
                    "cannot {what} {}: {error}; choose another folder with --output",
                    path.display()
                ),
            )
        };
        fs::create_dir_all(&self.path).map_err(|error| failed("create", &self.path, error))?;
        let data = self.data();
        if fs::read(&data).is_ok_and(|known| known == DATA.as_bytes()) {
            return Ok(());
        }
        fs::write(&data, DATA).map_err(|error| failed("write", &data, error))
    }
}

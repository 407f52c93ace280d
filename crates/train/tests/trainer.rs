//! The loop of training, call by call: how a run ends, and what its checkpoints say of it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use runtime::distributed::ProcessGroup;
use runtime::{CacheFolder, PluginKind};
use support::{model, shared};
use train::checkpoint::Checkpoints;
use train::config::Config;
use train::metrics::StepRecord;
use train::setup::{Model, step_options};
use train::trainer::{Beginning, Event, Outcome, Records, Setup, Trainer};

const CONFIG: &str = r#"
[model]
from = "smollm2"
[data]
sequence_length = 16
validation_fraction = 0.2
[[data.sources]]
path = "TEXT"
[training]
steps = 4
batch_size = 2
eval_every = 1
eval_batches = 2
[optimizer]
learning_rate = 1e-3
[checkpoint]
every = 2
"#;

/// A run of a tiny model in a folder of its own.
struct Place {
    folder: tempfile::TempDir,
    setup: Setup,
}

impl Place {
    /// `None` after saying that `test` is skipped.
    fn new(test: &str, settings: &[&str]) -> Option<Place> {
        let runtime = support::open(&shared::cpu_plugin(test)?, 1);
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
        fs::write(path("text.txt"), "It rains on the hill. ".repeat(100)).unwrap();
        let text = CONFIG.replace("TEXT", &path("text.txt"));
        let mut sets: Vec<String> = settings.iter().map(|set| set.to_string()).collect();
        sets.push(format!("output.folder={}", path("out")));
        let config = Config::parse(&text, &sets, "tiny").unwrap();
        let cache = CacheFolder::at(folder.path().join("cache"));
        let files = model("smollm2");
        let model = Model::open(&config, Some(&files), None, None, &cache, &mut |_| {}).unwrap();
        let mesh = config.mesh.to_mesh();
        let options = step_options(&config, &model.config, PluginKind::Cpu, mesh).unwrap();
        let data = model.data(&config, &cache, &mut |_| {}).unwrap();
        let group = Arc::new(ProcessGroup::alone());
        Some(Place { folder, setup: Setup { config, model, data, options, runtime, group } })
    }

    fn output(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    fn checkpoints(&self) -> Checkpoints {
        Checkpoints::open(self.output().join("checkpoints").to_str().unwrap()).unwrap()
    }
}

/// Puts a file where a folder was.
fn replace_with_a_file(folder: &Path) {
    fs::remove_dir_all(folder).unwrap();
    fs::write(folder, "in the way").unwrap();
}

/// However soon a save fails, that of the last step is never taken for one after which training goes
/// on.
#[test]
fn a_last_save_that_fails_at_once_is_an_end_without_a_save() {
    let test = "a_last_save_that_fails_at_once_is_an_end_without_a_save";
    for (stopped, last) in [(false, 4), (true, 1)] {
        let Some(place) = Place::new(test, &["checkpoint.every=0"]) else { return };
        let folder = place.output().join("checkpoints");
        let mut warnings = Vec::new();
        let mut on_event = |event: Event<'_>| match event {
            Event::Step { record, .. } if record.step == last => replace_with_a_file(&folder),
            // Time for the save to fail before the loop goes on.
            Event::Saving { .. } => std::thread::sleep(Duration::from_millis(300)),
            Event::Warning(text) => warnings.push(text),
            _ => {}
        };
        let mut trainer =
            Trainer::new(&place.setup, place.checkpoints(), &Beginning::Anew, &mut on_event)
                .unwrap();
        let end = trainer.run(&AtomicBool::new(stopped), None).unwrap();
        let Outcome::Unsaved(unsaved) = end else { panic!("{end:?}") };
        assert_eq!((unsaved.step, unsaved.stays), (last as u64, None));
        drop(trainer);
        assert!(warnings.is_empty(), "{warnings:?}");
    }
}

/// What a run costs is its wall time, with what is done between steps, however often it is stopped.
#[test]
fn wall_time_goes_on_with_the_run() {
    const BETWEEN: Duration = Duration::from_millis(300);
    let Some(place) = Place::new("wall_time_goes_on_with_the_run", &[]) else { return };
    let mut between = |event: Event<'_>| {
        if let Event::Step { .. } = event {
            std::thread::sleep(BETWEEN);
        }
    };
    let open = |trainer: &Trainer<'_>| {
        let (step, seconds) = (trainer.step(), trainer.seconds());
        Records::open(&place.setup, &place.output(), "tiny", step, seconds).unwrap()
    };
    let mut trainer =
        Trainer::new(&place.setup, place.checkpoints(), &Beginning::Anew, &mut between).unwrap();
    assert_eq!((trainer.step(), trainer.seconds()), (0, None));
    let mut records = open(&trainer);
    let end = trainer.run(&AtomicBool::new(true), Some(&mut records)).unwrap();
    assert!(matches!(end, Outcome::Stopped { step: 1 }), "{end:?}");
    drop((trainer, records));

    let latest = place.checkpoints().latest().unwrap().unwrap();
    let seconds = latest.checkpoint.sections()["position"]["seconds"].as_f64().unwrap();
    let steps: Vec<StepRecord> =
        train::metrics::read(&place.output().join("metrics.jsonl")).unwrap();
    assert_eq!(steps.len(), 1);
    assert!(seconds >= BETWEEN.as_secs_f64() + steps[0].seconds, "{seconds}: {steps:?}");
    let beginning = Beginning::After(Box::new(latest));
    let mut nothing = |_: Event<'_>| {};
    let trainer =
        Trainer::new(&place.setup, place.checkpoints(), &beginning, &mut nothing).unwrap();
    assert_eq!((trainer.step(), trainer.seconds()), (1, Some(seconds)));
    let end = open(&trainer).finish().unwrap();
    assert!(end.summary.chip_seconds >= seconds, "{:?} of {seconds}", end.summary);
    // Of a checkpoint that does not say it, the steps are known.
    let records = Records::open(&place.setup, &place.output(), "tiny", 1, None).unwrap();
    assert!(records.finish().unwrap().summary.chip_seconds >= steps[0].seconds);
}

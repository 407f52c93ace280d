//! A training run, predicted and then begun.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use train::config::Config;

use super::process::watch;
use super::{CheckError, Checked, Figure, Gpu, TIME_MODEL, What, device, median};
use crate::here::{self, Measurer, Memory, Progress};

/// Steps that do not count: memory is taken from the system in them.
const WARM_UP: usize = 1;
/// Steps that count.
const STEPS: usize = 5;

/// A line of the run's log.
#[derive(Deserialize)]
struct Step {
    seconds: f64,
}

pub fn check(
    name: &'static str,
    text: &str,
    measurer: &Measurer,
    gpu: Option<&Gpu>,
    progress: &Progress<'_>,
) -> Result<Checked, CheckError> {
    let folder = measurer.cache.temporary()?;
    let path = |name: &str| folder.path().join(name);
    let write = |name: &str, contents: &str| {
        let path = path(name);
        fs::write(&path, contents).map_err(|source| CheckError::Write { path, source })
    };
    write("text.txt", &words())?;
    let mut config = text.to_string();
    // A path in a TOML literal.
    let _ = write!(
        config,
        "\n[[data.sources]]\npath = '{}'\n\n[output]\nfolder = '{}'\n",
        path("text.txt").display(),
        path("run").display(),
    );
    write("config.toml", &config)?;
    let config = Config::load(&path("config.toml"), &[])?;
    let sizes = config.model.from_scratch(None, config.data.sequence_length)?;
    let Some(sizes) = sizes else {
        return Err(here::HereError::Broken { message: "it names no model".to_string() }.into());
    };
    let predict = || here::train_step(measurer, &config, &sizes, Memory::Renewed, progress);
    let (how, step, memory) = match gpu {
        None => {
            let speed = predict()?;
            let drawn = here::drawn_words(speed.drawn.as_ref());
            (format!("{}{drawn}", speed.how), speed.step, Some(speed.memory))
        }
        Some(gpu) => {
            progress("compiling the training step for the time model");
            let step = gpu.train_step(&measurer.cache, &config, &sizes)?;
            (TIME_MODEL.to_string(), step, None)
        }
    };
    progress("compiling and running the whole training step");
    let log = path("run").join("metrics.jsonl");
    let config_path = path("config.toml").display().to_string();
    let seen =
        watch(measurer, &["train", &config_path, "--device", device(gpu)], folder.path(), || {
            seconds(&log).len() >= WARM_UP + STEPS
        })?;
    let times: Vec<f64> = seconds(&log).into_iter().skip(WARM_UP).collect();
    // Before the run and after it: what else the machine does changes within minutes.
    let step = match gpu {
        None => step.mean(predict()?.step),
        Some(_) => step,
    };
    let measured_times = times.len();
    let mut figures = vec![Figure {
        of: format!("{name}: a step of training"),
        what: What::Step,
        predicted: step.seconds,
        low: step.low_seconds,
        high: step.high_seconds,
        measured: median(times),
        tokens: Some(config.training.batch_size * config.data.sequence_length),
    }];
    figures.extend(memory.zip(seen.peak_bytes).map(|(memory, peak_bytes)| Figure {
        of: format!("{name}: memory while training"),
        what: What::PeakMemory,
        predicted: memory.peak_bytes as f64,
        low: memory.low_bytes as f64,
        high: memory.high_bytes as f64,
        measured: peak_bytes as f64,
        tokens: None,
    }));
    Ok(Checked { shape: name, how, figures, measured_times })
}

/// Of the steps so far.
fn seconds(log: &Path) -> Vec<f64> {
    let text = fs::read_to_string(log).unwrap_or_default();
    let step = |line: &str| serde_json::from_str::<Step>(line).ok();
    text.lines().filter_map(step).map(|step| step.seconds).collect()
}

/// Text to learn from, of words that are none: what is measured does not depend on it.
fn words() -> String {
    const SYLLABLES: [&str; 12] =
        ["ba", "le", "mi", "no", "ru", "ta", "se", "ki", "do", "fu", "ga", "ho"];
    let mut text = String::new();
    for place in 0..20_000_u64 {
        let mut word = place.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
        for _ in 0..2 + word % 3 {
            text.push_str(SYLLABLES[(word % 12) as usize]);
            word /= 12;
        }
        text.push(' ');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read_from_a_log_that_is_being_written() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("metrics.jsonl");
        assert!(seconds(&log).is_empty());
        fs::write(&log, "{\"step\":1,\"seconds\":2.5}\n{\"step\":2,\"seconds\":1.5}\n{\"st")
            .unwrap();
        assert_eq!(seconds(&log), [2.5, 1.5]);
    }

    #[test]
    fn there_is_text_enough() {
        let text = words();
        assert!(text.len() > 60_000, "{}", text.len());
        let different: std::collections::HashSet<&str> = text.split(' ').collect();
        assert!(different.len() > 500, "{}", different.len());
    }
}

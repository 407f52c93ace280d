//! The report of a run: one HTML file that needs nothing else, made of what the run wrote down.
//! Knows no trainer: a report can be made again of the files at any time.

mod curve;
mod picture;
mod words;

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::curve::{Points, smoothed, thinned};
use self::words::{duration, escaped, figure, grouped, short};
use super::{MetricsError, RunSummary, Sample, StepRecord, log, write_whole};

pub use picture::loss_curve_svg;

/// What a report says besides curves and samples; `run.json` in the output folder. Texts are shown
/// as they are, and rows without a text are left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunFacts {
    pub title: String,
    /// Name or shape of the model, such as `llama, 4 layers, 192 wide`.
    pub model: String,
    pub parameters: usize,
    /// How many of them get gradients.
    pub trained_parameters: usize,
    pub data: String,
    pub mesh: String,
    pub device: String,
    /// Chip time, money, energy, where they are known.
    pub cost: Option<RunSummary>,
    /// The resolved config as TOML.
    pub config: String,
    /// Programs and plugins with their versions.
    pub versions: Vec<(String, String)>,
}

/// All that a report is made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReportData {
    pub facts: RunFacts,
    pub records: Vec<StepRecord>,
    pub samples: Vec<Sample>,
}

impl ReportData {
    /// Reads `run.json`, `metrics.jsonl` and `samples.jsonl` of an output folder.
    ///
    /// # Errors
    /// When `run.json` is not there or not of that form, or a file cannot be read.
    pub fn read(folder: &Path) -> Result<ReportData, MetricsError> {
        let path = folder.join("run.json");
        let text = fs::read_to_string(&path).map_err(|source| MetricsError::read(&path, source))?;
        let facts = serde_json::from_str(&text)
            .map_err(|source| MetricsError::Form { path: path.clone(), source })?;
        let records = log::read(&folder.join("metrics.jsonl"))?;
        let samples = log::read(&folder.join("samples.jsonl"))?;
        Ok(ReportData { facts, records, samples })
    }
}

impl RunFacts {
    /// Writes `run.json` into the output folder.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), MetricsError> {
        let path = folder.join("run.json");
        let mut text = serde_json::to_vec_pretty(self)
            .map_err(|error| MetricsError::write(&path, error.into()))?;
        text.push(b'\n');
        write_whole(&path, &text)
    }
}

/// Makes `report.html` in an output folder of the files in it, and says where it is.
///
/// # Errors
/// As [`ReportData::read`], and when the report cannot be written.
pub fn write_from_files(folder: &Path) -> Result<PathBuf, MetricsError> {
    let path = folder.join("report.html");
    write_whole(&path, render(&ReportData::read(folder)?).as_bytes())?;
    Ok(path)
}

const STYLE: &str = include_str!("report/page.css");
const SCRIPT: &str = include_str!("report/page.js");

/// The report as one HTML page.
pub fn render(data: &ReportData) -> String {
    let facts = &data.facts;
    let title = escaped(&facts.title);
    let subtitle: Vec<&str> =
        [facts.model.as_str(), &facts.device].into_iter().filter(|text| !text.is_empty()).collect();
    let subtitle = escaped(&subtitle.join(" on "));
    // `<` would end the script element.
    let charts = charts(&data.records).to_string().replace('<', "\\u003c");
    let body = [
        tiles(data),
        curves(data),
        table("Run", &rows(data)),
        samples(&data.samples),
        folded("Configuration", &facts.config),
        table("Versions", &facts.versions),
    ];
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <header>\n<h1>{title}</h1>\n<p>{subtitle}</p>\n</header>\n{}</main>\n\
         <script type=\"application/json\" id=\"charts\">{charts}</script>\n\
         <script>\n{SCRIPT}</script>\n</body>\n</html>\n",
        body.concat(),
    )
}

/// The figures that one looks for first.
fn tiles(data: &ReportData) -> String {
    let numbers = Numbers::of(&data.records);
    let tile = |name: &str, value: Option<String>, unit: &str| {
        value.map_or(String::new(), |value| {
            format!("<div><dt>{name}</dt><dd>{value}</dd><dd class=\"unit\">{unit}</dd></div>\n")
        })
    };
    let tiles = [
        tile("Training loss", numbers.loss.map(figure), "nats per token"),
        tile("Validation", numbers.bits_per_byte.map(figure), "bits per byte"),
        tile("Speed", numbers.tokens_per_second.map(short), "tokens/s"),
        tile("Trained on", (numbers.tokens > 0).then(|| short(numbers.tokens as f64)), "tokens"),
        tile("Time", (!data.records.is_empty()).then(|| duration(numbers.seconds)), "in steps"),
    ];
    format!("<dl class=\"tiles\">\n{}</dl>\n", tiles.concat())
}

/// What the records say together.
struct Numbers {
    tokens: usize,
    seconds: f64,
    skipped: usize,
    resumes: usize,
    first_loss: Option<f64>,
    /// Smoothed, at the end.
    loss: Option<f64>,
    validation_loss: Option<f64>,
    bits_per_byte: Option<f64>,
    /// Medians, since the first step may compile and some wait for a disk.
    tokens_per_second: Option<f64>,
    utilization: Option<f64>,
}

impl Numbers {
    fn of(records: &[StepRecord]) -> Numbers {
        let losses: Vec<f64> = records.iter().map(|record| record.loss).collect();
        let finite = |value: &f64| value.is_finite();
        Numbers {
            tokens: records.iter().map(|record| record.tokens).sum(),
            seconds: records.iter().map(|record| record.seconds).sum(),
            skipped: records.iter().filter(|record| record.skipped).count(),
            resumes: records.iter().filter(|record| record.resumed).count(),
            first_loss: losses.iter().copied().find(finite),
            loss: smoothed(&losses).last().copied().filter(finite),
            validation_loss: records.iter().rev().find_map(|record| record.validation_loss),
            bits_per_byte: records.iter().rev().find_map(|record| record.bits_per_byte),
            tokens_per_second: median(records.iter().map(|record| record.tokens_per_second)),
            utilization: median(records.iter().filter_map(|record| record.mfu)),
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn rows(data: &ReportData) -> Vec<(String, String)> {
    let (facts, numbers) = (&data.facts, Numbers::of(&data.records));
    let steps = data.records.last().map_or(0, |record| record.step);
    let mut parameters = grouped(facts.parameters);
    if facts.trained_parameters != facts.parameters {
        let _ = write!(parameters, ", {} of them trained", grouped(facts.trained_parameters));
    }
    let mut steps = grouped(steps);
    for (count, what) in [(numbers.skipped, "skipped"), (numbers.resumes, "resumed")] {
        match (count, what) {
            (0, _) => {}
            (1, "resumed") => steps.push_str(", resumed once"),
            (times, "resumed") => {
                let _ = write!(steps, ", resumed {times} times");
            }
            (count, what) => {
                let _ = write!(steps, ", {count} {what}");
            }
        }
    }
    let loss = numbers.loss.zip(numbers.first_loss).map(|(last, first)| {
        format!("{} at first, {} at the end (smoothed)", figure(first), figure(last))
    });
    let validation = numbers.validation_loss.map(|loss| {
        let bits = numbers.bits_per_byte.map(|bits| format!(", {} bits per byte", figure(bits)));
        format!("{} nats per token{}", figure(loss), bits.unwrap_or_default())
    });
    let cost = facts.cost.as_ref();
    let money = cost.map(|cost| match cost.money() {
        Some(money) => format!("about {money}: {}", cost.source),
        None => cost.source.clone(),
    });
    let energy = cost.map(|cost| match cost.energy() {
        Some(energy) => energy,
        None => "not known: no meter, and no power in the catalog for this chip".to_string(),
    });
    let rows = [
        ("Model", Some(facts.model.clone())),
        ("Parameters", (facts.parameters > 0).then_some(parameters)),
        ("Data", Some(facts.data.clone())),
        ("Mesh", Some(facts.mesh.clone())),
        ("Device", Some(facts.device.clone())),
        ("Steps", Some(steps)),
        ("Tokens", Some(grouped(numbers.tokens))),
        ("Time in steps", Some(duration(numbers.seconds))),
        (
            "Speed",
            numbers.tokens_per_second.map(|rate| format!("{} tokens/s (median)", figure(rate))),
        ),
        (
            "MFU",
            numbers.utilization.map(|share| {
                format!(
                    "{:.1} % of the chips' bf16 peak (median); model FLOPs, causal attention at half",
                    share * 100.0
                )
            }),
        ),
        ("Training loss", loss),
        ("Validation loss", validation),
        ("Chip time", cost.map(RunSummary::chip_time)),
        ("Cost", money),
        ("Energy", energy),
    ];
    let rows = rows.into_iter().filter_map(|(name, text)| Some((name.to_string(), text?)));
    rows.filter(|(_, text)| !text.is_empty()).collect()
}

fn table(title: &str, rows: &[(String, String)]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut html = format!("<section>\n<h2>{title}</h2>\n<table>\n");
    for (name, text) in rows {
        let _ = writeln!(
            html,
            "<tr><th scope=\"row\">{}</th><td>{}</td></tr>",
            escaped(name),
            escaped(text)
        );
    }
    html.push_str("</table>\n</section>\n");
    html
}

fn folded(title: &str, text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    format!("<details>\n<summary>{title}</summary>\n<pre>{}</pre>\n</details>\n", escaped(text))
}

/// Places for the curves, which the script draws at the width of the screen. Without scripts the
/// loss is there as a picture.
fn curves(data: &ReportData) -> String {
    if data.records.is_empty() {
        return "<p>No step was finished.</p>\n".to_string();
    }
    let place = |key: &str| {
        let still = match key {
            "loss" => format!("<noscript>{}</noscript>", loss_curve_svg(&data.records)),
            _ => String::new(),
        };
        format!("<figure data-chart=\"{key}\">{still}</figure>\n")
    };
    let small: String = ["lr", "grad_norm", "tokens_per_second"].into_iter().map(place).collect();
    format!("{}<div class=\"small\">\n{small}</div>\n", place("loss"))
}

/// Points per curve: as many as a wide screen has columns, with the least and the greatest of each.
const POINTS_MAX: usize = 2000;
/// Marks at single steps are too many to tell apart beyond this.
const MARKS_MAX: usize = 1000;

/// What the script draws.
fn charts(records: &[StepRecord]) -> Value {
    let validation: Points =
        records.iter().filter_map(|record| Some((record.step, record.validation_loss?))).collect();
    let points = |of: fn(&StepRecord) -> f64| -> Points {
        records.iter().map(|record| (record.step, of(record))).collect()
    };
    let mut losses = noisy(&points(|record| record.loss));
    if !validation.is_empty() {
        losses.push(series("validation", "points", &validation));
    }
    let norms = points(|record| record.grad_norm);
    // Spikes would press all else to the ground.
    let middle = median(norms.iter().map(|&(_, value)| value)).unwrap_or(0.0);
    let spikes = norms.iter().any(|&(_, value)| value.is_finite() && value > 20.0 * middle);
    let marks = |of: fn(&StepRecord) -> bool| -> Vec<usize> {
        let marked: Vec<usize> =
            records.iter().filter(|record| of(record)).map(|record| record.step).collect();
        let every = marked.len().div_ceil(MARKS_MAX).max(1);
        marked.into_iter().step_by(every).collect()
    };
    let rates = vec![series("", "line", &points(|record| record.lr))];
    let speeds = noisy(&points(|record| record.tokens_per_second));
    json!({
        "charts": [
            { "key": "loss", "title": "Loss", "unit": "nats per token", "zero": false, "log": false, "series": losses },
            { "key": "lr", "title": "Learning rate", "unit": "", "zero": true, "log": false, "series": rates },
            { "key": "grad_norm", "title": "Gradient norm", "unit": "", "zero": true, "log": spikes, "series": noisy(&norms) },
            { "key": "tokens_per_second", "title": "Speed", "unit": "tokens/s", "zero": true, "log": false, "series": speeds },
        ],
        "skipped": marks(|record| record.skipped),
        "resumed": marks(|record| record.resumed),
    })
}

/// A curve as it is, and smoothed.
fn noisy(points: &Points) -> Vec<Value> {
    let values: Vec<f64> = points.iter().map(|&(_, value)| value).collect();
    let smooth: Points = points.iter().map(|&(step, _)| step).zip(smoothed(&values)).collect();
    vec![series("each step", "raw", points), series("smoothed", "line", &smooth)]
}

fn series(name: &str, role: &str, points: &Points) -> Value {
    let points = thinned(points, POINTS_MAX);
    let steps: Vec<usize> = points.iter().map(|&(step, _)| step).collect();
    let values: Vec<Option<f64>> = points.iter().map(|&(_, value)| six_digits(value)).collect();
    json!({ "name": name, "role": role, "x": steps, "y": values })
}

/// Enough for any screen, and half the file.
fn six_digits(value: f64) -> Option<f64> {
    format!("{value:.5e}").parse().ok().filter(|value: &f64| value.is_finite())
}

/// How many samples of a prompt are shown at once; the others are folded.
const SAMPLES_SHOWN: usize = 4;

fn samples(samples: &[Sample]) -> String {
    if samples.is_empty() {
        return String::new();
    }
    let mut prompts: Vec<&str> = Vec::new();
    for sample in samples {
        if !prompts.contains(&sample.prompt.as_str()) {
            prompts.push(&sample.prompt);
        }
    }
    let mut html = "<section>\n<h2>Samples</h2>\n".to_string();
    for prompt in prompts {
        let of_prompt: Vec<&Sample> =
            samples.iter().filter(|sample| sample.prompt == prompt).collect();
        let last = of_prompt.len() - 1;
        // First, last, and some between at equal distances.
        let shown = |index: usize| {
            last < SAMPLES_SHOWN
                || (0..SAMPLES_SHOWN).any(|part| part * last / (SAMPLES_SHOWN - 1) == index)
        };
        let list = |indices: &mut dyn Iterator<Item = usize>| {
            let items: String = indices.map(|index| sample(of_prompt[index])).collect();
            format!("<ol class=\"samples\">\n{items}</ol>\n")
        };
        html.push_str(&list(&mut (0..=last).filter(|&index| shown(index))));
        if last >= SAMPLES_SHOWN {
            let _ = writeln!(
                html,
                "<details>\n<summary>All {} samples</summary>\n{}</details>",
                last + 1,
                list(&mut (0..=last))
            );
        }
    }
    html.push_str("</section>\n");
    html
}

fn sample(sample: &Sample) -> String {
    format!(
        "<li><span class=\"step\">step {}</span><div class=\"text\"><b>{}</b>{}</div></li>\n",
        grouped(sample.step),
        escaped(&sample.prompt),
        escaped(&sample.text)
    )
}

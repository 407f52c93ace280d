//! `fungible plan check`: how far the planner is off on this machine.

use plan::check::{Checked, Figure, Gpu, Shape, What, check, defaults, find, names};
use plan::here::Measurer;
use runtime::{PluginKind, Target, chips};
use serde_json::{Value, json};

use crate::arguments::Device;
use crate::arguments::plan::CheckArguments;
use crate::commands::probe;
use crate::console::{self, DIM, GREEN, Progress, RED, gibibytes, styled};
use crate::failure::{Exit, Failure, Outcome};
use crate::open::Place;

/// What makes this program measure.
pub const MEASURE: &str = "measure";

pub fn run(arguments: &CheckArguments) -> Outcome {
    let shapes = shapes(&arguments.shape)?;
    let progress = Progress::new();
    let gpu = gpu(arguments.device, &progress)?;
    let place = Place::find(Device::Cpu, None, &progress)?;
    let measurer = measurer(&place)?;
    let mut all = Vec::new();
    for shape in shapes {
        let say = |task: &str| match progress.is_visible() {
            true => progress.spin(&format!("{}: {task}", shape.name)),
            false => console::remark(format_args!("{}: {task} ...", shape.name)),
        };
        let checked = check(shape, &measurer, gpu.as_ref(), &say);
        progress.clear();
        let checked = checked?;
        if !arguments.json {
            print(shape, &checked);
        }
        all.push(checked);
    }
    let figures = || all.iter().flat_map(|checked| &checked.figures);
    let off = figures().filter(|figure| !figure.passes()).count();
    let count = figures().count();
    match arguments.json {
        true => console::line(value(&all, gpu.as_ref())),
        false => console::line(format_args!(
            "{} of {count} predictions are within {:.0} % (times) and {:.0} % (memory) of what was measured",
            count - off,
            plan::check::TIME_LIMIT * 100.0,
            plan::check::MEMORY_LIMIT * 100.0,
        )),
    }
    match off {
        0 => Ok(()),
        _ => Err(Failure::new(
            Exit::Failure,
            format!(
                "{off} of {count} predictions are off by more than that; if other work was done on this machine meanwhile, check again without it"
            ),
        )),
    }
}

/// How the planner starts processes that measure on this machine's processor.
pub fn measurer(place: &Place) -> Result<Measurer, Failure> {
    Ok(Measurer {
        program: std::env::current_exe()?,
        arguments: vec![MEASURE.to_string()],
        cache: place.cache.clone(),
        location: place.discovery.find(PluginKind::Cpu)?,
    })
}

/// The GPU to be checked, if it is to be one.
fn gpu(device: Device, progress: &Progress) -> Result<Option<Gpu>, Failure> {
    let place = Place::find(device, None, progress)?;
    let location = match place.kind {
        PluginKind::Cpu => return Ok(None),
        PluginKind::Cuda => place.discovery.find(PluginKind::Cuda)?,
        PluginKind::Tpu => {
            return Err(Failure::usage(
                "plan check runs on this machine's processor or an NVIDIA GPU; give --device cpu or cuda",
            ));
        }
    };
    // A process of its own says what GPU it is: it would take the GPU's memory in this one.
    let found = probe::start(&location).map_err(|reason| Failure::new(Exit::Failure, reason))?;
    let devices = found.devices.unwrap_or_else(|| Err("no GPU shows".to_string()));
    let devices = devices.map_err(|reason| Failure::new(Exit::Failure, reason))?;
    let kind = devices.split_once(" x ").map_or(devices.as_str(), |(_, kind)| kind);
    let Some(chip) = chips::of_device(kind) else {
        return Err(Failure::new(
            Exit::Failure,
            format!(
                "the catalog has no {kind}, so nothing can be predicted for it; --device cpu checks the processor"
            ),
        ));
    };
    Ok(Some(Gpu { target: Target::new(chip, 1)?, location }))
}

fn shapes(wanted: &[String]) -> Result<Vec<&'static Shape>, Failure> {
    if wanted.is_empty() {
        return Ok(defaults().collect());
    }
    let shape = |name: &String| {
        find(name).ok_or_else(|| {
            let known: Vec<&str> = names().collect();
            Failure::usage(format!("--shape {name} is not known; choose from {}", known.join(", ")))
        })
    };
    wanted.iter().map(shape).collect()
}

fn amount(what: What, of: f64) -> String {
    match what {
        What::PeakMemory => gibibytes(of as u64),
        _ if of < 1.0 => format!("{:.1} ms", of * 1e3),
        _ => format!("{of:.2} s"),
    }
}

fn name(what: What) -> &'static str {
    match what {
        What::Step => "step",
        What::FirstToken => "first token",
        What::NextToken => "next token",
        What::PeakMemory => "peak memory",
    }
}

fn print(shape: &Shape, checked: &Checked) {
    console::styled_line(styled(console::BOLD, shape.says));
    for figure in &checked.figures {
        let Figure { what, predicted, low, high, measured, .. } = *figure;
        let rate = |seconds: f64| figure.tokens.map(|tokens| tokens as f64 / seconds);
        let rates = match (rate(predicted), rate(measured)) {
            (Some(predicted), Some(measured)) => {
                format!(" ({predicted:.1} and {measured:.1} tokens/s)")
            }
            _ => String::new(),
        };
        let mark = match figure.passes() {
            true => styled(GREEN, "PASS"),
            false => styled(RED, "OFF "),
        };
        console::styled_line(format_args!(
            "  {mark}  {}: predicted {} ({} to {}), measured {}: {:+.1} %{rates}",
            figure.of,
            amount(what, predicted),
            amount(what, low),
            amount(what, high),
            amount(what, measured),
            figure.error() * 100.0,
        ));
    }
    console::styled_line(styled(DIM, &format!("        {}", checked.how)));
}

fn value(all: &[Checked], gpu: Option<&Gpu>) -> Value {
    let figure = |figure: &Figure| {
        let per_second = |seconds: f64| figure.tokens.map(|tokens| tokens as f64 / seconds);
        json!({
            "of": figure.of,
            "what": name(figure.what),
            "unit": if figure.what == What::PeakMemory { "bytes" } else { "seconds" },
            "predicted": figure.predicted,
            "low": figure.low,
            "high": figure.high,
            "measured": figure.measured,
            "predicted_tokens_per_second": per_second(figure.predicted),
            "measured_tokens_per_second": per_second(figure.measured),
            "error": figure.error(),
            "limit": figure.what.limit(),
            "passes": figure.passes(),
        })
    };
    let checked = all.iter().map(|checked| {
        json!({
            "shape": checked.shape,
            "how": checked.how,
            "measured_times": checked.measured_times,
            "figures": checked.figures.iter().map(figure).collect::<Vec<Value>>(),
        })
    });
    let device = gpu.map_or_else(|| "cpu".to_string(), |gpu| gpu.target.to_string());
    json!({ "device": device, "shapes": checked.collect::<Vec<Value>>() })
}

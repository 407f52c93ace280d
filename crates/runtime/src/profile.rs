//! Where a compiled program's time goes, estimated without the hardware: every instruction of the
//! optimized program with its seconds, how often it runs, and the line of the model it comes from.
//!
//! TPU compilers write the cycles they expect next to most instructions; what has none is timed from
//! its bytes, its matrix products and the chip's peaks, and what goes between devices from the links.
//! An estimate compares programs; it is no measurement. Knows no model, and no way to compile.

mod links;
mod module;
mod place;
mod proto;
mod rates;
mod shape;
mod temporaries;
#[cfg(test)]
mod tests;
mod timeline;
mod trips;
mod work;

use std::collections::HashMap;

use serde::Serialize;

use crate::chips::Hosting;
use crate::discover::PluginKind;
use crate::targets::Target;

use links::Links;
use module::Module;
use place::Place;
use rates::Rates;
pub use temporaries::Temporary;
use timeline::{Step, Timelines};

/// How many temporaries are kept.
const TEMPORARIES_MAX: usize = 50;
/// A loop in a loop in a loop of a damaged program must not reach infinity.
const TIMES_MAX: f64 = 1e18;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    #[error(
        "the optimized program cannot be read: {0}; it must be an XLA module in protobuf, as `fungible profile --dump` writes it"
    )]
    Unreadable(String),
    #[error(
        "there are no peak rates for `{0}`, so nothing can be estimated for it; measure it with `fungible bench` instead"
    )]
    NoFigures(String),
}

/// Where a time comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The compiler's own cycles over the chip's clock.
    Compiler,
    /// Bytes over memory bandwidth.
    Bytes,
    /// Bytes over the links between devices.
    Links,
    /// The longer of bytes over bandwidth and matrix products over their peak rate.
    Roofline,
}

impl Source {
    pub fn name(self) -> &'static str {
        match self {
            Source::Compiler => "compiler",
            Source::Bytes => "bytes",
            Source::Links => "links",
            Source::Roofline => "roofline",
        }
    }
}

/// The estimated cost of one run of a program on one device.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Profile {
    pub total_seconds: f64,
    /// Transfers that run beside other instructions and are not in the total.
    pub hidden_seconds: f64,
    /// By where the time comes from; each list is sorted, the costliest first.
    pub by_source: Vec<Share>,
    pub by_opcode: Vec<Share>,
    /// By parameter path, all layers together (`model.layers.*.mlp`), or by source file where there
    /// is no path.
    pub by_path: Vec<Share>,
    /// Every instruction that takes time, the costliest first.
    pub instructions: Vec<Costed>,
    /// The largest values in the device's main memory that are no arguments and no results.
    pub largest_temporaries: Vec<Temporary>,
    /// What the estimate could not know, one sentence each.
    pub unknown: Vec<String>,
}

/// A part of the total.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Share {
    pub name: String,
    pub seconds: f64,
    /// Of the total, from 0 to 1.
    pub share: f64,
}

/// One instruction's cost, over all its runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Costed {
    pub name: String,
    pub opcode: String,
    /// The parameter path of the scope that it was traced in; may be empty.
    pub path: String,
    /// File and line that traced it; may be empty.
    pub line: String,
    pub seconds: f64,
    /// Of the total, from 0 to 1.
    pub share: f64,
    /// What it takes beside other instructions, and is not waited for.
    pub hidden_seconds: f64,
    pub times: f64,
    /// Bytes of main memory, or handed to the links, in one run.
    pub bytes: u64,
    /// Operations of matrix products in one run; TPU products are counted without padding.
    pub flops: f64,
    pub source: Source,
}

/// Whether programs for a target can be estimated, to be asked before they are compiled.
///
/// # Errors
/// [`ProfileError::NoFigures`] if the chip's peak rates are not known.
pub fn check(target: &Target) -> Result<(), ProfileError> {
    Rates::of(target.chip).map(drop)
}

/// Estimates the optimized program that a compiler returned for a target.
///
/// # Errors
/// Bytes that are no program, and targets without peak rates.
pub fn profile(code: &[u8], target: &Target) -> Result<Profile, ProfileError> {
    let rates = Rates::of(target.chip)?;
    let proto = module::decode(code)?;
    let module = Module::new(&proto, target.plugin() == PluginKind::Tpu);
    if module.computation(module.entry).is_none() {
        return Err(ProfileError::Unreadable("it has no entry".to_string()));
    }
    let links = Links::of(target.chip);
    let mut timelines = Timelines::new(&module, rates, links, target.devices());
    let total_seconds = timelines.run(module.entry)?.seconds;
    let visits = visits(&module, &timelines);
    let mut instructions = Vec::new();
    let mut largest_temporaries = Vec::new();
    for id in timelines.finished.iter().rev() {
        let Some(visit) = visits.get(id) else { continue };
        let (Some(timeline), Some(computation)) = (timelines.get(*id), module.computation(*id))
        else {
            continue;
        };
        for step in &timeline.steps {
            let place = place::of(&module, computation, step.instruction, &visit.around);
            instructions.push(costed(step, place, visit.times, total_seconds));
        }
        let entry = *id == module.entry;
        largest_temporaries.extend(temporaries::made(&module, computation, &visit.around, entry));
    }
    instructions.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    largest_temporaries.sort_by_key(|temporary| std::cmp::Reverse(temporary.padded_bytes));
    largest_temporaries.truncate(TEMPORARIES_MAX);
    let shares = |name: fn(&Costed) -> String| shares(&instructions, total_seconds, name);
    Ok(Profile {
        total_seconds,
        hidden_seconds: instructions.iter().map(|costed| costed.hidden_seconds).sum(),
        by_source: shares(|costed| costed.source.name().to_string()),
        by_opcode: shares(|costed| costed.opcode.clone()),
        by_path: shares(part_of_model),
        largest_temporaries,
        unknown: unknown(target, &timelines, &instructions),
        instructions,
    })
}

/// How often a computation runs, and the place of what runs it.
#[derive(Default)]
struct Visit {
    times: f64,
    around: Place,
}

/// Every computation that runs, from the entry down: callers come before what they call.
fn visits(module: &Module<'_>, timelines: &Timelines<'_, '_>) -> HashMap<i64, Visit> {
    let mut visits =
        HashMap::from([(module.entry, Visit { times: 1.0, around: Place::default() })]);
    for id in timelines.finished.iter().rev() {
        let (Some(timeline), Some(computation)) = (timelines.get(*id), module.computation(*id))
        else {
            continue;
        };
        for call in &timeline.calls {
            let Some(visit) = visits.get(id) else { break };
            let times = (visit.times * call.times as f64).min(TIMES_MAX);
            let around = match visits.contains_key(&call.computation) {
                true => None,
                false => Some(place::of(module, computation, call.instruction, &visit.around)),
            };
            let called = visits.entry(call.computation).or_default();
            called.times = (called.times + times).min(TIMES_MAX);
            called.around = around.unwrap_or_else(|| std::mem::take(&mut called.around));
        }
    }
    visits
}

fn costed(step: &Step<'_>, place: Place, times: f64, total_seconds: f64) -> Costed {
    let seconds = step.seconds * times;
    Costed {
        name: step.instruction.name.clone(),
        opcode: step.instruction.opcode.clone(),
        path: place.path,
        line: place.source,
        seconds,
        share: share(seconds, total_seconds),
        hidden_seconds: step.hidden_seconds * times,
        times,
        bytes: step.bytes,
        flops: step.flops,
        source: step.source,
    }
}

fn share(seconds: f64, total_seconds: f64) -> f64 {
    if total_seconds > 0.0 { seconds / total_seconds } else { 0.0 }
}

fn shares(instructions: &[Costed], total_seconds: f64, name: fn(&Costed) -> String) -> Vec<Share> {
    let mut seconds: HashMap<String, f64> = HashMap::new();
    for costed in instructions {
        *seconds.entry(name(costed)).or_default() += costed.seconds;
    }
    let share = |(name, seconds)| Share { name, seconds, share: share(seconds, total_seconds) };
    let mut shares: Vec<Share> = seconds.into_iter().map(share).collect();
    shares.sort_by(|a, b| b.seconds.total_cmp(&a.seconds).then_with(|| a.name.cmp(&b.name)));
    shares
}

/// The path with layer numbers left out, else the source file, else what is known to be neither.
fn part_of_model(costed: &Costed) -> String {
    if !costed.path.is_empty() {
        let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let part = |part| if is_number(part) { "*" } else { part };
        return costed.path.split('.').map(part).collect::<Vec<_>>().join(".");
    }
    match costed.line.rsplit_once(':') {
        Some((file, _)) => file.to_string(),
        None => "(made by the compiler)".to_string(),
    }
}

/// What a reader of the figures should know.
fn unknown(target: &Target, timelines: &Timelines<'_, '_>, costed: &[Costed]) -> Vec<String> {
    let mut unknown = Vec::new();
    for name in &timelines.endless {
        unknown.push(format!("how often the loop `{name}` runs is not known; it counts once"));
    }
    let used = |source| costed.iter().any(|costed| costed.source == source);
    if let Some(hertz) = target.chip.clock_hertz
        && !target.chip.clock_was_checked()
        && used(Source::Compiler)
    {
        let gigahertz = hertz / 1e9;
        unknown.push(format!(
            "the clock of {} is taken to be {gigahertz} GHz, which was not checked against programs of known speed",
            target.chip.name
        ));
    }
    if let Hosting::Hosts { gpus_per_host, .. } = target.chip.hosting
        && target.chips > gpus_per_host
        && used(Source::Links)
    {
        unknown.push(format!(
            "collectives over more than {gpus_per_host} GPUs are timed as if NVLink joined all of them"
        ));
    }
    unknown
}

//! Where a compiled program's time goes, estimated without the hardware: every instruction of the
//! optimized program with its seconds, how often it runs, and the line of the model it comes from.
//!
//! TPU compilers write the cycles they expect next to most instructions; what has none is timed from
//! its bytes, its matrix products and what the chip reaches of its peaks, and what goes between devices
//! from the links. An estimate is no measurement, and says how wrong it may be. The guide to it is
//! `docs/planning-model.md`. Knows no model, and no way to compile.

mod bounds;
mod cost;
mod efficiency;
mod estimate;
mod groups;
mod hosts;
mod links;
mod module;
mod place;
mod proto;
mod rates;
mod shape;
mod stripped;
mod temporaries;
#[cfg(test)]
mod tests;
mod timeline;
mod torus;
mod trips;
mod unestimated;
mod work;

use std::collections::HashMap;

use serde::Serialize;

use crate::discover::PluginKind;
use crate::targets::Target;

pub use bounds::Bound;
use cost::Costs;
use efficiency::Band;
use estimate::Estimate;
use module::Module;
use place::Place;
use rates::Rates;
pub use stripped::stripped;
pub use temporaries::Temporary;
use timeline::{Step, Timelines};
use unestimated::Kinds;
pub use unestimated::Unestimated;

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
    /// Bytes over what the memory reaches.
    Bytes,
    /// Bytes over the links between devices, and steps.
    Links,
    /// The longer of bytes, and of matrix products over the rate that they reach.
    Roofline,
}

impl Source {
    const ALL: [Source; 4] = [Source::Compiler, Source::Bytes, Source::Links, Source::Roofline];

    pub fn name(self) -> &'static str {
        match self {
            Source::Compiler => "compiler",
            Source::Bytes => "bytes",
            Source::Links => "links",
            Source::Roofline => "roofline",
        }
    }
}

/// What a caller knows of a program beyond its text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProfileOptions {
    /// How often the loops turn whose trips depend on data, such as the loop over pages of a decode
    /// step; once if not given.
    pub unstated_loop_turns: Option<u64>,
}

/// The estimated cost of one run of a program on one device.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// What is likely.
    pub total_seconds: f64,
    /// The shortest and the longest that would not surprise: every source of times has a range
    /// ([`Profile::ranges`]), and all are off in the same direction at once.
    pub low_seconds: f64,
    pub high_seconds: f64,
    /// Transfers that run beside other instructions and are not in the total.
    pub hidden_seconds: f64,
    /// What is waited for; the shares add up to 1.
    pub bounds: Vec<BoundShare>,
    /// By where the time comes from; each list is sorted, the costliest first.
    pub by_source: Vec<Share>,
    pub by_opcode: Vec<Share>,
    /// By parameter path, all layers together (`model.layers.*.mlp`), or by source file where there
    /// is no path.
    pub by_path: Vec<Share>,
    /// How far off the times of each source may be.
    pub ranges: Vec<Range>,
    /// What the compiler has no estimate for, and what stands in for it.
    pub unestimated: Vec<Unestimated>,
    /// Every instruction that takes time, the costliest first.
    pub instructions: Vec<Costed>,
    /// The largest values in the device's main memory that are no arguments and no results.
    pub largest_temporaries: Vec<Temporary>,
    /// What the estimate could not know, or had to be told, one sentence each.
    pub unknown: Vec<String>,
}

impl Profile {
    /// What is waited for most; nothing if the program does nothing.
    pub fn bound_by(&self) -> Option<Bound> {
        self.bounds.first().filter(|share| share.seconds > 0.0).map(|share| share.bound)
    }
}

/// The part of the total that a part of the machine is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct BoundShare {
    pub bound: Bound,
    pub seconds: f64,
    /// Of the total, from 0 to 1.
    pub share: f64,
}

/// How far off the times of a source may be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Range {
    pub source: Source,
    pub seconds: f64,
    pub low_seconds: f64,
    pub high_seconds: f64,
    pub reason: &'static str,
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
    /// What is likely, and the shortest and longest that would not surprise.
    pub seconds: f64,
    pub low_seconds: f64,
    pub high_seconds: f64,
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
    pub bound: Bound,
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
    profile_with(code, target, &ProfileOptions::default())
}

/// The same, with what the caller knows beyond the program.
///
/// # Errors
/// As [`profile`].
pub fn profile_with(
    code: &[u8],
    target: &Target,
    options: &ProfileOptions,
) -> Result<Profile, ProfileError> {
    check(target)?;
    let proto = module::decode(code)?;
    let module = Module::new(&proto, target.plugin() == PluginKind::Tpu);
    if module.computation(module.entry).is_none() {
        return Err(ProfileError::Unreadable("it has no entry".to_string()));
    }
    let mut timelines = Timelines::new(Costs::new(&module, target)?, options);
    let total = timelines.run(module.entry)?.seconds;
    let total_seconds = total.likely;
    let visits = visits(&module, &timelines);
    let mut sums = Sums::default();
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
            sums.add(&module, step, visit.times);
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
        low_seconds: total.low,
        high_seconds: total.high,
        hidden_seconds: instructions.iter().map(|costed| costed.hidden_seconds).sum(),
        bounds: sums.bounds(total_seconds),
        by_source: shares(|costed| costed.source.name().to_string()),
        by_opcode: shares(|costed| costed.opcode.clone()),
        by_path: shares(part_of_model),
        ranges: sums.ranges(target.plugin()),
        unestimated: sums.kinds.finish(total_seconds),
        largest_temporaries,
        unknown: unknown(target, options, &timelines, &instructions),
        instructions,
    })
}

/// What the steps come to together.
#[derive(Default)]
struct Sums {
    bounds: HashMap<Bound, f64>,
    sources: Vec<(Source, Estimate)>,
    kinds: Kinds,
}

impl Sums {
    fn add(&mut self, module: &Module<'_>, step: &Step<'_>, times: f64) {
        let waited = step.waited * times;
        let cost = &step.cost;
        *self.bounds.entry(Bound::Starts).or_default() += waited.likely * cost.starting;
        *self.bounds.entry(cost.bound).or_default() += waited.likely * (1.0 - cost.starting);
        self.sources.push((cost.source, waited));
        let seconds = [waited.likely, step.hidden_seconds() * times];
        self.kinds.add(module, step.instruction, cost, times, seconds);
    }

    fn bounds(&self, total_seconds: f64) -> Vec<BoundShare> {
        let share = |bound: Bound| {
            let seconds = self.bounds.get(&bound).copied().unwrap_or(0.0);
            BoundShare { bound, seconds, share: share(seconds, total_seconds) }
        };
        let mut shares: Vec<BoundShare> = Bound::ALL.into_iter().map(share).collect();
        shares.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        shares
    }

    fn ranges(&self, plugin: PluginKind) -> Vec<Range> {
        let range = |source: Source| {
            let of = self.sources.iter().filter(|(of, _)| *of == source);
            let sum = of.fold(None, |sum: Option<Estimate>, (_, waited)| {
                Some(sum.unwrap_or_default() + *waited)
            })?;
            let reason = Band::of(source, plugin).reason;
            let (low_seconds, high_seconds) = (sum.low, sum.high);
            Some(Range { source, seconds: sum.likely, low_seconds, high_seconds, reason })
        };
        let mut ranges: Vec<Range> = Source::ALL.into_iter().filter_map(range).collect();
        ranges.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        ranges
    }
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
    let waited = step.waited * times;
    // Less may be waited for where all takes longer.
    let ends = [waited.low, waited.likely, waited.high];
    Costed {
        name: step.instruction.name.clone(),
        opcode: step.instruction.opcode.clone(),
        path: place.path,
        line: place.source,
        seconds: waited.likely,
        low_seconds: ends.into_iter().fold(f64::INFINITY, f64::min),
        high_seconds: ends.into_iter().fold(0.0, f64::max),
        share: share(waited.likely, total_seconds),
        hidden_seconds: step.hidden_seconds() * times,
        times,
        bytes: step.cost.bytes,
        flops: step.cost.flops,
        source: step.cost.source,
        bound: step.cost.bound,
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
fn unknown(
    target: &Target,
    options: &ProfileOptions,
    timelines: &Timelines<'_, '_>,
    costed: &[Costed],
) -> Vec<String> {
    let mut unknown = Vec::new();
    for name in &timelines.endless {
        unknown.push(match options.unstated_loop_turns {
            Some(turns) => format!(
                "how often the loop `{name}` runs depends on data; it counts {turns} times, as was asked"
            ),
            None => format!("how often the loop `{name}` runs is not known; it counts once"),
        });
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
    unknown
}

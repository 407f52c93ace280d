//! When each scheduled instruction runs and for how long. A computation is a line of instructions
//! one after the other, beside which transfers run that were started earlier; what they take beyond
//! the instructions between their start and their end is what is waited for.

use std::collections::HashMap;

use super::links::{self, Collective, Links};
use super::module::{Computation, Module};
use super::proto::HloInstruction;
use super::rates::Rates;
use super::trips::trips;
use super::work::{self, Flops};
use super::{ProfileError, Source};

/// Deeper nesting of loops and calls than any compiler makes is damage.
const DEPTH_MAX: usize = 64;

/// An instruction that takes time by itself.
#[derive(Clone, Debug)]
pub struct Step<'a> {
    pub instruction: &'a HloInstruction,
    /// Waited for, each time that it runs.
    pub seconds: f64,
    /// Beside other instructions, each time that it runs.
    pub hidden_seconds: f64,
    pub source: Source,
    pub bytes: u64,
    pub flops: f64,
}

/// A computation that runs because of an instruction.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    pub instruction: &'a HloInstruction,
    pub computation: i64,
    pub times: u64,
}

#[derive(Clone, Debug, Default)]
pub struct Timeline<'a> {
    pub seconds: f64,
    pub steps: Vec<Step<'a>>,
    pub calls: Vec<Call<'a>>,
    /// Where most of the time comes from.
    pub source: Option<Source>,
    /// Bytes and operations of one run, here and in what is called.
    pub bytes: u64,
    pub flops: f64,
    /// Whether data goes between devices, here or in what is called.
    pub communicates: bool,
}

/// Timelines of computations, each made once.
pub struct Timelines<'m, 'a> {
    module: &'m Module<'a>,
    rates: Rates,
    links: Links,
    devices: usize,
    done: HashMap<i64, Timeline<'a>>,
    /// Computations in the order in which they were finished: callees before callers.
    pub finished: Vec<i64>,
    under_way: Vec<i64>,
    /// Loops whose trips cannot be known, counted as one.
    pub endless: Vec<String>,
}

/// A transfer that was started and has not ended.
struct Transfer {
    step: usize,
    seconds: f64,
    started_seconds: f64,
    lane: Lane,
}

/// What serves one transfer at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    Memory,
    /// Both directions of the links.
    Links,
    Forward,
    Backward,
}

impl Lane {
    /// Devices that pass data on in opposite directions do not wait for each other.
    fn of(instruction: &HloInstruction, over_links: bool) -> Lane {
        let pairs = &instruction.source_target_pairs;
        let forward = pairs.iter().filter(|pair| pair.target > pair.source).count();
        match (over_links, pairs.is_empty()) {
            (false, _) => Lane::Memory,
            (true, true) => Lane::Links,
            (true, false) if 2 * forward > pairs.len() => Lane::Forward,
            (true, false) => Lane::Backward,
        }
    }

    /// The places of its directions among the lanes' clocks.
    fn clocks(self) -> &'static [usize] {
        match self {
            Lane::Memory => &[0],
            Lane::Links => &[1, 2],
            Lane::Forward => &[1],
            Lane::Backward => &[2],
        }
    }
}

impl<'m, 'a> Timelines<'m, 'a> {
    pub fn new(module: &'m Module<'a>, rates: Rates, links: Links, devices: usize) -> Self {
        Timelines {
            module,
            rates,
            links,
            devices,
            done: HashMap::new(),
            finished: Vec::new(),
            under_way: Vec::new(),
            endless: Vec::new(),
        }
    }

    pub fn get(&self, computation: i64) -> Option<&Timeline<'a>> {
        self.done.get(&computation)
    }

    /// Makes the timeline of a computation and of all that it calls.
    pub fn run(&mut self, id: i64) -> Result<&Timeline<'a>, ProfileError> {
        if !self.done.contains_key(&id) {
            if self.under_way.contains(&id) || self.under_way.len() > DEPTH_MAX {
                let reason = format!("computation {id} calls itself or is nested too deep");
                return Err(ProfileError::Unreadable(reason));
            }
            self.under_way.push(id);
            let timeline = match self.module.computation(id) {
                Some(computation) => self.computation(computation)?,
                None => Timeline::default(),
            };
            self.under_way.pop();
            self.done.insert(id, timeline);
            self.finished.push(id);
        }
        Ok(self.done.entry(id).or_default())
    }

    fn computation(&mut self, computation: &Computation<'a>) -> Result<Timeline<'a>, ProfileError> {
        let mut line = Line::default();
        for &instruction in &computation.order {
            self.instruction(computation, instruction, &mut line)?;
        }
        Ok(line.finish())
    }

    fn instruction(
        &mut self,
        computation: &Computation<'a>,
        instruction: &'a HloInstruction,
        line: &mut Line<'a>,
    ) -> Result<(), ProfileError> {
        let called = instruction.called_computation_ids.as_slice();
        match instruction.opcode.as_str() {
            opcode if is_free(opcode, &instruction.custom_call_target) => {}
            "while" => {
                let times = trips(self.module, computation, instruction).unwrap_or_else(|| {
                    self.endless.push(instruction.name.clone());
                    1
                });
                for &id in called {
                    self.call(instruction, id, times, line)?;
                }
            }
            "conditional" => {
                // One branch runs; without its condition, the costliest is meant.
                let mut costliest: Option<(f64, i64)> = None;
                for &id in called {
                    let seconds = self.run(id)?.seconds;
                    if costliest.is_none_or(|(most, _)| seconds > most) {
                        costliest = Some((seconds, id));
                    }
                }
                if let Some((_, id)) = costliest {
                    self.call(instruction, id, 1, line)?;
                }
            }
            "call" | "custom-call" if !called.is_empty() => {
                for &id in called {
                    self.call(instruction, id, 1, line)?;
                }
            }
            "async-update" => line.restart(computation, instruction),
            opcode if opcode.ends_with("-done") => line.end(computation, instruction),
            opcode if opcode.ends_with("-start") || opcode == "send" || opcode == "recv" => {
                let (step, over_links) = self.transfer(computation, instruction)?;
                line.start(step, over_links);
            }
            _ => {
                let step = self.step(computation, instruction)?;
                line.communicates |= step.source == Source::Links;
                line.seconds += step.seconds;
                line.steps.push(step);
            }
        }
        Ok(())
    }

    fn call(
        &mut self,
        instruction: &'a HloInstruction,
        id: i64,
        times: u64,
        line: &mut Line<'a>,
    ) -> Result<(), ProfileError> {
        let timeline = self.run(id)?;
        line.seconds += timeline.seconds * times as f64;
        line.communicates |= timeline.communicates;
        line.bytes = line.bytes.saturating_add(timeline.bytes.saturating_mul(times));
        line.flops += timeline.flops * times as f64;
        line.called_source = timeline.source.or(line.called_source);
        line.calls.push(Call { instruction, computation: id, times });
        Ok(())
    }

    /// A synchronous instruction.
    fn step(
        &mut self,
        computation: &Computation<'a>,
        instruction: &'a HloInstruction,
    ) -> Result<Step<'a>, ProfileError> {
        let config = &instruction.backend_config;
        let over_links = self.collective_seconds(computation, instruction)?;
        let kernel = (instruction.opcode == "custom-call").then(|| stated_cost(config)).flatten();
        let (bytes, flops) = kernel.unwrap_or_else(|| {
            let bytes = match Collective::of(&instruction.opcode) {
                Some(_) => links::operand_bytes(computation.operands(instruction)),
                None => work::bytes(self.module, computation, instruction),
            };
            (bytes, work::flops(self.module, computation, instruction))
        });
        let estimate = estimated_cycles(config)
            .and_then(|cycles| Some(cycles as f64 / self.rates.clock_hertz?));
        let (seconds, source) = match (estimate, Collective::of(&instruction.opcode)) {
            (Some(seconds), _) => (seconds, Source::Compiler),
            (None, Some(_)) => (0.0, Source::Links),
            (None, None) => self.floor(bytes, flops),
        };
        // What a fusion computes, it computes while its data is under way.
        let (seconds, source) = match over_links {
            Some(links) if links > seconds => (links, Source::Links),
            _ => (seconds, source),
        };
        Ok(Step { instruction, seconds, hidden_seconds: 0.0, source, bytes, flops: flops.count })
    }

    /// What the chip's peaks allow.
    fn floor(&self, bytes: u64, flops: Flops) -> (f64, Source) {
        let moving = bytes as f64 / self.rates.memory_bytes_per_second;
        let computing = flops.count / self.rates.flops_per_second(flops.element_bits);
        match flops.count > 0.0 {
            true => (moving.max(computing), Source::Roofline),
            false => (moving, Source::Bytes),
        }
    }

    /// Seconds over the links of a collective, or of those in a fusion.
    fn collective_seconds(
        &mut self,
        computation: &Computation<'a>,
        instruction: &HloInstruction,
    ) -> Result<Option<f64>, ProfileError> {
        if let Some(collective) = Collective::of(&instruction.opcode) {
            let bytes = links::operand_bytes(computation.operands(instruction)) as f64;
            let group = links::group_size(instruction, self.devices);
            return Ok(Some(self.links.seconds(collective, bytes, group)));
        }
        if instruction.opcode != "fusion" {
            return Ok(None);
        }
        let mut seconds = None;
        for &id in &instruction.called_computation_ids {
            let timeline = self.run(id)?;
            if timeline.communicates {
                let links = timeline.steps.iter().filter(|step| step.source == Source::Links);
                let links: f64 = links.map(|step| step.seconds + step.hidden_seconds).sum();
                seconds = Some(seconds.unwrap_or(0.0) + links);
            }
        }
        Ok(seconds)
    }

    /// What runs beside other instructions once it is started, and whether it is on the links.
    fn transfer(
        &mut self,
        computation: &Computation<'a>,
        instruction: &'a HloInstruction,
    ) -> Result<(Step<'a>, bool), ProfileError> {
        if instruction.opcode == "async-start" {
            let mut step = Step {
                instruction,
                seconds: 0.0,
                hidden_seconds: 0.0,
                source: Source::Bytes,
                bytes: 0,
                flops: 0.0,
            };
            let mut over_links = false;
            for &id in &instruction.called_computation_ids {
                let timeline = self.run(id)?;
                step.seconds += timeline.seconds;
                over_links |= timeline.communicates;
                step.bytes = step.bytes.saturating_add(timeline.bytes);
                step.flops += timeline.flops;
                step.source = timeline.source.unwrap_or(step.source);
            }
            return Ok((step, over_links));
        }
        let (bytes, seconds, source) = match self.collective_seconds(computation, instruction)? {
            Some(seconds) => {
                let bytes = links::operand_bytes(computation.operands(instruction));
                (bytes, seconds, Source::Links)
            }
            // A copy: its result is (destination, source, context), so both ends are counted.
            None => {
                let bytes = self.module.stored(instruction);
                (bytes, bytes as f64 / self.rates.memory_bytes_per_second, Source::Bytes)
            }
        };
        let step = Step { instruction, seconds, hidden_seconds: 0.0, source, bytes, flops: 0.0 };
        Ok((step, source == Source::Links))
    }
}

/// A timeline under construction.
#[derive(Default)]
struct Line<'a> {
    seconds: f64,
    steps: Vec<Step<'a>>,
    calls: Vec<Call<'a>>,
    bytes: u64,
    flops: f64,
    called_source: Option<Source>,
    communicates: bool,
    /// By the id of the instruction that started them.
    transfers: HashMap<i64, Transfer>,
    /// When the transfers so far are through, by [`Lane::clocks`].
    free_seconds: [f64; 3],
}

impl<'a> Line<'a> {
    fn start(&mut self, mut step: Step<'a>, over_links: bool) {
        let seconds = std::mem::take(&mut step.seconds);
        self.communicates |= over_links;
        let id = step.instruction.id;
        let transfer = Transfer {
            step: self.steps.len(),
            seconds,
            started_seconds: self.seconds,
            lane: Lane::of(step.instruction, over_links),
        };
        self.steps.push(step);
        self.transfers.insert(id, transfer);
    }

    /// The transfer really starts here.
    fn restart(&mut self, computation: &Computation<'a>, update: &HloInstruction) {
        let now = self.seconds;
        if let Some(start) = started(computation, update)
            && let Some(transfer) = self.transfers.get_mut(&start)
        {
            transfer.started_seconds = now;
        }
    }

    fn end(&mut self, computation: &Computation<'a>, done: &HloInstruction) {
        let start = started(computation, done);
        if let Some(transfer) = start.and_then(|start| self.transfers.remove(&start)) {
            self.wait(&transfer);
        }
    }

    fn wait(&mut self, transfer: &Transfer) {
        let clocks = transfer.lane.clocks();
        let mut until = transfer.started_seconds;
        for &clock in clocks {
            until = until.max(self.free_seconds[clock]);
        }
        until += transfer.seconds;
        for &clock in clocks {
            self.free_seconds[clock] = until;
        }
        // Not `clamp`, which panics where damage made infinities of both.
        let waited = (until - self.seconds).max(0.0).min(transfer.seconds);
        self.seconds += waited;
        if let Some(step) = self.steps.get_mut(transfer.step) {
            step.seconds = waited;
            step.hidden_seconds = transfer.seconds - waited;
        }
    }

    fn finish(mut self) -> Timeline<'a> {
        let mut open: Vec<Transfer> =
            self.transfers.drain().map(|(_, transfer)| transfer).collect();
        open.sort_by_key(|transfer| transfer.step);
        for transfer in &open {
            self.wait(transfer);
        }
        let whole = |step: &&Step<'_>| step.seconds + step.hidden_seconds;
        let longest = self.steps.iter().max_by(|a, b| whole(a).total_cmp(&whole(b)));
        let source = longest.map(|step| step.source).or(self.called_source);
        let own = self.steps.iter().map(|step| step.bytes).fold(0, u64::saturating_add);
        Timeline {
            seconds: self.seconds,
            source,
            bytes: self.bytes.saturating_add(own),
            flops: self.flops + self.steps.iter().map(|step| step.flops).sum::<f64>(),
            communicates: self.communicates,
            calls: self.calls,
            steps: self.steps,
        }
    }
}

/// The instruction that started what this one updates or ends.
fn started(computation: &Computation<'_>, instruction: &HloInstruction) -> Option<i64> {
    let mut instruction = computation.operand(instruction, 0)?;
    for _ in 0..64 {
        match instruction.opcode.as_str() {
            "async-update" | "copy" | "get-tuple-element" => {
                instruction = computation.operand(instruction, 0)?;
            }
            _ => return Some(instruction.id),
        }
    }
    None
}

/// What is there for the compiler only.
fn is_free(opcode: &str, custom_call_target: &str) -> bool {
    matches!(
        opcode,
        "parameter"
            | "constant"
            | "tuple"
            | "get-tuple-element"
            | "bitcast"
            | "after-all"
            | "add-dependency"
            | "opt-barrier"
            | "partition-id"
            | "replica-id"
            | "domain"
    ) || matches!(
        custom_call_target,
        "AllocateBuffer" | "ConcatBitcast" | "AssumeGatherIndicesInBound" | "Sharding"
    )
}

/// The compiler's own figure, wherever in its config; enormous ones say that it has none.
fn estimated_cycles(config: &[u8]) -> Option<u64> {
    const KEY: &[u8] = b"\"estimated_cycles\":\"";
    let start = config.windows(KEY.len()).position(|window| window == KEY)? + KEY.len();
    let digits = config[start..].split(|&byte| byte == b'"').next()?;
    let cycles: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (1..1 << 50).contains(&cycles).then_some(cycles)
}

/// Bytes and operations that a kernel of its own says it takes (Pallas's `cost_estimate`). The type
/// is not said, so the products count as bf16's.
fn stated_cost(config: &[u8]) -> Option<(u64, Flops)> {
    let config: serde_json::Value = serde_json::from_slice(config).ok()?;
    let cost = config.get("custom_call_config")?.get("cost_estimate")?;
    let figure = |name| {
        let value = cost.get(name)?;
        value.as_u64().or_else(|| value.as_str()?.parse().ok())
    };
    let count = figure("flops").unwrap_or(0) as f64;
    Some((figure("bytes_accessed")?, Flops { count, element_bits: 16 }))
}

//! When each scheduled instruction runs and for how long. A computation is a line of instructions
//! one after the other, beside which transfers run that were started earlier; what they take beyond
//! the instructions between their start and their end is what is waited for.

use std::collections::HashMap;

use super::cost::{Cost, Costs};
use super::estimate::Estimate;
use super::module::Computation;
use super::proto::HloInstruction;
use super::trips::trips;
use super::{ProfileError, ProfileOptions, Source};

/// Deeper nesting of loops and calls than any compiler makes is damage.
const DEPTH_MAX: usize = 64;

/// An instruction that takes time by itself.
#[derive(Clone, Debug)]
pub struct Step<'a> {
    pub instruction: &'a HloInstruction,
    pub cost: Cost,
    /// Of its time, what is waited for, each time that it runs; the rest is beside other instructions.
    pub waited: Estimate,
}

impl Step<'_> {
    pub fn hidden_seconds(&self) -> f64 {
        (self.cost.seconds.likely - self.waited.likely).max(0.0)
    }
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
    pub seconds: Estimate,
    pub steps: Vec<Step<'a>>,
    pub calls: Vec<Call<'a>>,
    /// What takes longest, here or in what is called last.
    pub longest: Option<Cost>,
    /// Bytes and operations of one run, here and in what is called.
    pub bytes: u64,
    pub flops: f64,
    /// Whether data goes between devices, here or in what is called.
    pub communicates: bool,
}

/// Timelines of computations, each made once.
pub struct Timelines<'m, 'a> {
    costs: Costs<'m, 'a>,
    options: &'m ProfileOptions,
    done: HashMap<i64, Timeline<'a>>,
    /// Computations in the order in which they were finished: callees before callers.
    pub finished: Vec<i64>,
    under_way: Vec<i64>,
    /// Loops whose trips the program does not say.
    pub endless: Vec<String>,
}

/// A transfer that was started and has not ended.
struct Transfer {
    step: usize,
    seconds: Estimate,
    started: Estimate,
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
    pub fn new(costs: Costs<'m, 'a>, options: &'m ProfileOptions) -> Self {
        Timelines {
            costs,
            options,
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
            let module = self.costs.module;
            let timeline = match module.computation(id) {
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
                let stated = trips(self.costs.module, computation, instruction);
                let times = stated.unwrap_or_else(|| {
                    self.endless.push(instruction.name.clone());
                    self.options.unstated_loop_turns.unwrap_or(1)
                });
                for &id in called {
                    self.call(instruction, id, times, line)?;
                }
            }
            "conditional" => {
                // One branch runs; without its condition, the costliest is meant.
                let mut costliest: Option<(f64, i64)> = None;
                for &id in called {
                    let seconds = self.run(id)?.seconds.likely;
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
                line.communicates |= step.cost.source == Source::Links;
                line.seconds += step.waited;
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
        line.called = timeline.longest.or(line.called);
        line.bytes = line.bytes.saturating_add(timeline.bytes.saturating_mul(times));
        line.flops += timeline.flops * times as f64;
        line.calls.push(Call { instruction, computation: id, times });
        Ok(())
    }

    /// A synchronous instruction.
    fn step(
        &mut self,
        computation: &Computation<'a>,
        instruction: &'a HloInstruction,
    ) -> Result<Step<'a>, ProfileError> {
        let cost = match self.costs.collective(computation, instruction) {
            Some(cost) => cost,
            None => {
                let local = self.costs.local(computation, instruction);
                // What a fusion computes, it computes while its data is under way.
                match self.fused_collectives(instruction)? {
                    Some(links) if links.seconds.likely > local.seconds.likely => Cost {
                        seconds: links.seconds.max(&local.seconds),
                        bytes: local.bytes,
                        flops: local.flops,
                        ..links
                    },
                    _ => local,
                }
            }
        };
        Ok(Step { instruction, cost, waited: cost.seconds })
    }

    /// What goes over the links inside a fusion.
    fn fused_collectives(
        &mut self,
        instruction: &HloInstruction,
    ) -> Result<Option<Cost>, ProfileError> {
        let mut all: Option<Cost> = None;
        if instruction.opcode != "fusion" {
            return Ok(None);
        }
        for &id in &instruction.called_computation_ids {
            if !self.costs.module.communicates(id) {
                continue;
            }
            let links = self.run(id)?.steps.iter().map(|step| step.cost);
            for cost in links.filter(|cost| cost.source == Source::Links) {
                let all = all.get_or_insert(Cost { seconds: Estimate::default(), ..cost });
                all.seconds += cost.seconds;
            }
        }
        Ok(all)
    }

    /// What runs beside other instructions once it is started, and whether it is on the links.
    fn transfer(
        &mut self,
        computation: &Computation<'a>,
        instruction: &'a HloInstruction,
    ) -> Result<(Step<'a>, bool), ProfileError> {
        let mut over_links = false;
        let cost = if instruction.opcode == "async-start" {
            let mut whole = Cost::nothing();
            for &id in &instruction.called_computation_ids {
                let timeline = self.run(id)?;
                over_links |= timeline.communicates;
                whole = Cost {
                    seconds: whole.seconds + timeline.seconds,
                    bytes: whole.bytes.saturating_add(timeline.bytes),
                    flops: whole.flops + timeline.flops,
                    ..timeline.longest.unwrap_or(whole)
                };
            }
            whole
        } else {
            match self.costs.collective(computation, instruction) {
                Some(cost) => {
                    over_links = true;
                    cost
                }
                None => self.costs.copy(instruction),
            }
        };
        Ok((Step { instruction, cost, waited: Estimate::default() }, over_links))
    }
}

/// A timeline under construction.
#[derive(Default)]
struct Line<'a> {
    seconds: Estimate,
    steps: Vec<Step<'a>>,
    calls: Vec<Call<'a>>,
    called: Option<Cost>,
    bytes: u64,
    flops: f64,
    communicates: bool,
    /// By the id of the instruction that started them.
    transfers: HashMap<i64, Transfer>,
    /// When the transfers so far are through, by [`Lane::clocks`].
    free: [Estimate; 3],
}

impl<'a> Line<'a> {
    fn start(&mut self, step: Step<'a>, over_links: bool) {
        self.communicates |= over_links;
        let id = step.instruction.id;
        let transfer = Transfer {
            step: self.steps.len(),
            seconds: step.cost.seconds,
            started: self.seconds,
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
            transfer.started = now;
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
        let begun =
            clocks.iter().fold(transfer.started, |begun, &clock| begun.max(&self.free[clock]));
        let until = begun + transfer.seconds;
        for &clock in clocks {
            self.free[clock] = until;
        }
        // Not `clamp`, which panics where damage made infinities of both.
        let waited = until.each(&self.seconds, |until, now| (until - now).max(0.0));
        let waited = waited.each(&transfer.seconds, f64::min);
        self.seconds += waited;
        if let Some(step) = self.steps.get_mut(transfer.step) {
            step.waited = waited;
        }
    }

    fn finish(mut self) -> Timeline<'a> {
        let mut open: Vec<Transfer> =
            self.transfers.drain().map(|(_, transfer)| transfer).collect();
        open.sort_by_key(|transfer| transfer.step);
        for transfer in &open {
            self.wait(transfer);
        }
        let costs = self.steps.iter().map(|step| step.cost);
        let longest =
            costs.max_by(|a, b| a.seconds.likely.total_cmp(&b.seconds.likely)).or(self.called);
        let own = self.steps.iter().map(|step| step.cost.bytes).fold(0, u64::saturating_add);
        Timeline {
            seconds: self.seconds,
            bytes: self.bytes.saturating_add(own),
            flops: self.flops + self.steps.iter().map(|step| step.cost.flops).sum::<f64>(),
            communicates: self.communicates,
            calls: self.calls,
            longest,
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

//! A compiled program with everything found by id. Whatever refers to something that is not there
//! refers to nothing, since the bytes may come from a damaged file. Knows no times.

use std::collections::{HashMap, HashSet};

use prost::Message;

use super::ProfileError;
use super::links::Collective;
use super::proto::{
    HloComputation, HloInstruction, HloModule, ModuleWithConfig, Shape, StackFrames,
};

/// The module in the bytes, with its config around it or without.
pub fn decode(code: &[u8]) -> Result<HloModule, ProfileError> {
    // A module without config has a name in this place, which reads as no module.
    if let Ok(ModuleWithConfig { module: Some(module) }) = ModuleWithConfig::decode(code)
        && !module.computations.is_empty()
    {
        return Ok(module);
    }
    match HloModule::decode(code) {
        Ok(module) if !module.computations.is_empty() => Ok(module),
        Ok(_) => Err(ProfileError::Unreadable("it has no computations".to_string())),
        Err(error) => Err(ProfileError::Unreadable(error.to_string())),
    }
}

pub struct Module<'a> {
    computations: HashMap<i64, Computation<'a>>,
    pub entry: i64,
    /// The opcodes that occur, which is how generated names are told from ours.
    pub opcodes: HashSet<&'a str>,
    pub frames: Option<&'a StackFrames>,
    /// Whether memory spaces other than the first are fast memory on the chip, as on TPUs.
    pub has_fast_memory: bool,
    /// Computations with a collective in them.
    communicating: HashSet<i64>,
}

pub struct Computation<'a> {
    pub proto: &'a HloComputation,
    by_id: HashMap<i64, usize>,
    users: HashMap<i64, Vec<&'a HloInstruction>>,
    /// In the order in which they run.
    pub order: Vec<&'a HloInstruction>,
}

impl<'a> Module<'a> {
    pub fn new(proto: &'a HloModule, has_fast_memory: bool) -> Module<'a> {
        let sequences = proto.schedule.as_ref().map(|schedule| &schedule.sequences);
        let scheduled = |computation: &HloComputation| {
            let sequence = sequences.and_then(|sequences| sequences.get(&computation.id));
            sequence.map_or(&[][..], |sequence| &sequence.instruction_ids)
        };
        let computation =
            |proto: &'a HloComputation| (proto.id, Computation::new(proto, scheduled(proto)));
        let all = proto.computations.iter().flat_map(|computation| &computation.instructions);
        Module {
            computations: proto.computations.iter().map(computation).collect(),
            entry: proto.entry_computation_id,
            opcodes: all.map(|instruction| instruction.opcode.as_str()).collect(),
            frames: proto.stack_frames.as_ref(),
            has_fast_memory,
            communicating: communicating(proto),
        }
    }

    /// Whether data goes between devices in a computation, or in what it calls.
    pub fn communicates(&self, computation: i64) -> bool {
        self.communicating.contains(&computation)
    }

    pub fn computation(&self, id: i64) -> Option<&Computation<'a>> {
        self.computations.get(&id)
    }

    /// Bytes of a value in the device's main memory.
    pub fn stored(&self, instruction: &HloInstruction) -> u64 {
        let arrays = instruction.shape.as_ref().map(Shape::arrays).unwrap_or_default();
        let main = |array: &&Shape| !self.has_fast_memory || array.memory_space() == 0;
        let bytes = arrays.into_iter().filter(main).map(Shape::stored_bytes);
        bytes.fold(0, u64::saturating_add)
    }

    /// The computations that an instruction calls.
    pub fn called(&self, instruction: &HloInstruction) -> impl Iterator<Item = &Computation<'a>> {
        instruction.called_computation_ids.iter().filter_map(|&id| self.computation(id))
    }
}

fn communicating(proto: &HloModule) -> HashSet<i64> {
    let mut found = HashSet::new();
    // What calls comes after what is called; damage that turns them round is not looked into.
    for computation in &proto.computations {
        let communicates = computation.instructions.iter().any(|instruction| {
            Collective::of(&instruction.opcode).is_some()
                || instruction.called_computation_ids.iter().any(|id| found.contains(id))
        });
        if communicates {
            found.insert(computation.id);
        }
    }
    found
}

impl<'a> Computation<'a> {
    fn new(proto: &'a HloComputation, scheduled: &[i64]) -> Computation<'a> {
        let mut by_id = HashMap::new();
        let mut users: HashMap<i64, Vec<&HloInstruction>> = HashMap::new();
        for (place, instruction) in proto.instructions.iter().enumerate() {
            by_id.insert(instruction.id, place);
            for &operand in &instruction.operand_ids {
                users.entry(operand).or_default().push(instruction);
            }
        }
        let in_order = |id: &i64| by_id.get(id).and_then(|&place| proto.instructions.get(place));
        let order: Vec<&HloInstruction> = scheduled.iter().filter_map(in_order).collect();
        let whole = order.len() == proto.instructions.len();
        // Without a schedule, the order of the list, in which operands come first.
        let order = if whole { order } else { proto.instructions.iter().collect() };
        Computation { proto, by_id, users, order }
    }

    pub fn instruction(&self, id: i64) -> Option<&'a HloInstruction> {
        self.by_id.get(&id).and_then(|&place| self.proto.instructions.get(place))
    }

    pub fn operand(
        &self,
        instruction: &HloInstruction,
        index: usize,
    ) -> Option<&'a HloInstruction> {
        instruction.operand_ids.get(index).and_then(|&id| self.instruction(id))
    }

    pub fn operands(
        &self,
        instruction: &HloInstruction,
    ) -> impl Iterator<Item = &'a HloInstruction> {
        instruction.operand_ids.iter().filter_map(|&id| self.instruction(id))
    }

    pub fn users(&self, instruction: &HloInstruction) -> &[&'a HloInstruction] {
        self.users.get(&instruction.id).map_or(&[], Vec::as_slice)
    }

    pub fn root(&self) -> Option<&'a HloInstruction> {
        self.instruction(self.proto.root_id)
    }

    pub fn parameter(&self, number: usize) -> Option<&'a HloInstruction> {
        self.proto.instructions.iter().find(|instruction| {
            instruction.opcode == "parameter"
                && usize::try_from(instruction.parameter_number) == Ok(number)
        })
    }
}

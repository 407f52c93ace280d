//! Several adapters in one program, of which each row of a batch has one or none: what punica and S-LoRA
//! call heterogeneous batches (Sheng et al., "S-LoRA", 2023).
//!
//! The adapters' matrices lie in slots of one rank, one behind the other. Every row meets all of them,
//! and what is not its own adapter's is left out in between, so a row's numbers do not depend on what
//! the other slots hold or the other rows have, and there is one product instead of one for each row.
//! The scale is part of B.

use graph::{DType, Tensor, ops};

use super::super::blocks::Axes;
use super::super::parameters::{Parameters, panel_product};
use crate::config::ModelConfig;

/// Room for adapters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LoraSlots {
    /// Adapters at once.
    pub slots: usize,
    /// The rank of each; a lower one is filled up with zeros.
    pub rank: usize,
}

impl LoraSlots {
    /// Bytes of all of it, for every matrix that can be adapted.
    pub fn bytes(self, config: &ModelConfig, dtype: DType) -> u64 {
        let (hidden, mlp) = (config.hidden_size, config.intermediate_size);
        let queries = config.num_attention_heads * config.head_dim;
        let keys = config.num_key_value_heads * config.head_dim;
        let attention = 2 * (hidden + queries) + 2 * (hidden + keys);
        let numbers = (attention + 3 * (hidden + mlp)) * config.num_hidden_layers;
        (numbers * self.slots * self.rank * dtype.bytes()) as u64
    }
}

/// The adapters of a program's rows.
#[derive(Clone, Copy)]
pub(crate) struct SlotOfRows<'g> {
    pub room: LoraSlots,
    /// `[batch, slot]` bool; none while tracing on the side.
    chosen: Option<Tensor<'g>>,
}

impl<'g> SlotOfRows<'g> {
    /// `numbers` `[batch]` s32 are those of the rows' slots, from 1; 0 is for no adapter.
    pub fn new(room: LoraSlots, numbers: Tensor<'g>) -> SlotOfRows<'g> {
        let slot = ops::iota(numbers.graph(), DType::S32, "slot", room.slots) + 1.0;
        SlotOfRows { room, chosen: Some(numbers.equal(slot)) }
    }

    /// The same without rows.
    pub fn aside<'h>(self) -> SlotOfRows<'h> {
        SlotOfRows { room: self.room, chosen: None }
    }
}

/// What the rows' adapters add to the product of `x` with the matrix at `weights`.
#[track_caller]
pub(super) fn adapt_rows<'g>(
    weights: &Parameters<'g>,
    of_rows: SlotOfRows<'g>,
    x: Tensor<'g>,
    inputs: Axes<'_>,
    outputs: Axes<'_>,
) -> Tensor<'g> {
    let ranks = [("slot", of_rows.room.slots), ("rank", of_rows.room.rank)];
    let down = product(&weights.at("lora_A"), x, inputs, &ranks);
    let own = match of_rows.chosen {
        Some(chosen) => {
            let none = ops::constant(x.graph(), down.shape().dtype, 0.0);
            chosen.select(down, none).transpose(&down.shape().names())
        }
        None => down,
    };
    product(&weights.at("lora_B"), own, &ranks, outputs)
}

/// The product of `x` with the slots' matrices `[outputs, inputs]`, over `inputs`.
#[track_caller]
fn product<'g>(
    weights: &Parameters<'g>,
    x: Tensor<'g>,
    inputs: Axes<'_>,
    outputs: Axes<'_>,
) -> Tensor<'g> {
    if let Some(panels) = weights.slot_panels(inputs, outputs) {
        return panel_product(x, panels, inputs, outputs);
    }
    let contract: Vec<_> = inputs.iter().map(|&(axis, _)| axis).collect();
    x.dot(weights.slot_matrix(inputs, outputs), &contract)
}

//! How the numbers of a matrix in panels are held, and how many bytes that takes. Knows no file.

use std::collections::BTreeMap;
use std::fmt;

use super::codes::Grouping;
use super::{Checkpoint, FloatType, WeightsError};

/// Rows of a panel.
pub(crate) const LANES: usize = 16;
/// Columns of a quantized matrix come in blocks of so many.
const BLOCK: usize = 32;

/// How the numbers of a matrix in panels are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Packing {
    F32,
    /// For an even number of columns.
    Bf16,
    /// 8-bit codes with a scale and an offset, in f16 or f32, per `group` of 16 or 32 columns; for a
    /// multiple of 32 columns.
    Q8 {
        group: usize,
        scales: FloatType,
    },
    /// 4-bit codes, likewise.
    Q4 {
        group: usize,
        scales: FloatType,
    },
}

/// One of the tensors that make up a matrix in panels. The last two are empty for floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PanelPart {
    Values,
    Scales,
    Offsets,
}

/// How the matrices of a checkpoint are to be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Quantization {
    /// As the file holds them: no number is changed.
    AsStored,
    /// As f32.
    None,
    /// With 8 bits, whatever the file has.
    Q8,
    /// With 4 bits, whatever the file has.
    Q4,
}

impl Quantization {
    /// How a matrix `[rows, inputs]` that is stored as `stored` is held.
    pub fn packing(self, stored: Packing, inputs: usize) -> Packing {
        let wanted = match self {
            Quantization::AsStored => stored,
            Quantization::None => Packing::F32,
            Quantization::Q8 => Packing::Q8 { group: 32, scales: FloatType::F16 },
            Quantization::Q4 => Packing::Q4 { group: 32, scales: FloatType::F16 },
        };
        match wanted.refusal(inputs) {
            None => wanted,
            Some(_) => Packing::F32,
        }
    }
}

impl Checkpoint {
    /// How each of its matrices is held.
    ///
    /// # Errors
    /// None that its own table does not make.
    pub fn packings(
        &self,
        quantization: Quantization,
    ) -> Result<BTreeMap<String, Packing>, WeightsError> {
        let mut packings = BTreeMap::new();
        for name in self.names() {
            let info = self.info(name)?;
            if info.shape.len() == 2 {
                let packing = quantization.packing(self.packing(name)?, info.row_elements());
                packings.insert(name.to_owned(), packing);
            }
        }
        Ok(packings)
    }
}

impl Packing {
    /// Bytes of a part of a matrix `[rows, inputs]`.
    pub fn bytes(self, rows: usize, inputs: usize, part: PanelPart) -> usize {
        rows.next_multiple_of(LANES) * self.row_bytes(inputs, part)
    }

    pub(super) fn row_bytes(self, inputs: usize, part: PanelPart) -> usize {
        match (self, part) {
            (Packing::F32, PanelPart::Values) => inputs * 4,
            (Packing::Bf16, PanelPart::Values) => inputs * 2,
            (Packing::Q8 { .. }, PanelPart::Values) => inputs,
            (Packing::Q4 { .. }, PanelPart::Values) => inputs / 2,
            (Packing::F32 | Packing::Bf16, _) => 0,
            (Packing::Q8 { group, scales } | Packing::Q4 { group, scales }, _) => {
                inputs.checked_div(group).unwrap_or(0) * scales.size_bytes()
            }
        }
    }

    /// `None` for floats.
    pub(super) fn grouping(self) -> Option<Grouping> {
        match self {
            Packing::F32 | Packing::Bf16 => None,
            Packing::Q8 { group, scales } => Some(Grouping { bits: 8, group, scales }),
            Packing::Q4 { group, scales } => Some(Grouping { bits: 4, group, scales }),
        }
    }

    /// Why a matrix of so many columns cannot be held so.
    pub(super) fn refusal(self, inputs: usize) -> Option<String> {
        if self == Packing::Bf16 && !inputs.is_multiple_of(2) {
            return Some(format!("its {inputs} columns are no whole pairs"));
        }
        let Grouping { group, scales, .. } = self.grouping()?;
        if !matches!(group, 16 | 32) {
            Some("only groups of 16 and of 32 columns are known".to_owned())
        } else if scales == FloatType::Bf16 {
            Some("scales are f16 or f32".to_owned())
        } else if !inputs.is_multiple_of(BLOCK) {
            Some(format!("its {inputs} columns are no multiple of {BLOCK}"))
        } else {
            None
        }
    }
}

impl fmt::Display for Packing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, self.grouping()) {
            (_, Some(Grouping { bits, group, scales })) => {
                write!(formatter, "{bits} bits with {scales} scales for {group} columns each")
            }
            (Packing::Bf16, None) => formatter.write_str("bf16"),
            (_, None) => formatter.write_str("f32"),
        }
    }
}

//! What the planner and the process that measures for it say to each other: a job, then a question a
//! line and an answer a line, as JSON. Knows no device.

use std::collections::BTreeMap;
use std::path::PathBuf;

use graph::DType;
use llm::FloatType;
use llm::models::PanelPlan;
use llm::weights::Packing;
use runtime::worker::MemoryUse;
use serde::{Deserialize, Serialize};

/// What begins every answer: vendors' libraries write to the same output.
pub const ANSWER: &str = "fungible-measured ";

/// What is to be measured.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Job {
    /// The cache folder.
    pub cache: PathBuf,
    /// The plugin's library.
    pub plugin: PathBuf,
    /// The model, as a `config.json`.
    pub model: String,
    pub work: Work,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub enum Work {
    Training {
        /// The config of the run, as TOML.
        config: String,
    },
    Serving(Serving),
}

/// The shapes of a server's programs.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Serving {
    /// How matrices are held, by name, where native functions can be used.
    pub matrices: BTreeMap<String, Matrix>,
    /// Type of the KV cache; that of the activations if not given.
    pub kv_cache: Option<Number>,
    /// Sequences at once.
    pub slots: usize,
    /// Tokens of a page of the cache.
    pub page: usize,
    /// Tokens of the longest sequence.
    pub context: usize,
    /// Rows of the decode programs, ascending.
    pub batches: Vec<usize>,
    /// Tokens of the prefill programs, ascending.
    pub chunks: Vec<usize>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub enum Number {
    F32,
    Bf16,
    F16,
}

/// [`Packing`], as a job says it.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub enum Matrix {
    F32,
    Bf16,
    Q8 { group: usize, scales: Number },
    Q4 { group: usize, scales: Number },
}

/// One way to run a job's programs.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Hash, Ord, PartialOrd, Serialize)]
pub enum Case {
    /// A step of training.
    Step,
    /// A chunk of one prompt, its first token at this position.
    Prefill { tokens: usize, position: usize },
    /// A token of every row, each after so many.
    Decode { rows: usize, context: usize },
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub enum Question {
    /// Bring weights to the device.
    Load,
    /// Run a case, and again so many times after that.
    Run {
        case: Case,
        times: usize,
        /// Bytes to go through before each run, so that the processor's cache holds nothing of the run
        /// before.
        between_bytes: u64,
    },
    /// The most memory that this process has had.
    Memory,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub enum Answer {
    /// The programs are compiled; nothing is loaded yet.
    Compiled {
        memory: Option<MemoryUse>,
        /// Of the arrays that stay between runs, such as weights, what a run replaces.
        changing_bytes: u64,
        /// What was resident once the plugin was there, and nothing else; 0 where the system does not tell.
        opened_bytes: u64,
        /// What is resident now; 0 likewise.
        resident_bytes: u64,
    },
    Loaded,
    /// Seconds of every run but the first.
    Ran {
        seconds: Vec<f64>,
    },
    /// Nothing where the system does not tell.
    Memory {
        peak_bytes: Option<u64>,
    },
    Failed {
        message: String,
    },
}

impl From<Number> for DType {
    fn from(number: Number) -> DType {
        match number {
            Number::F32 => DType::F32,
            Number::Bf16 => DType::Bf16,
            Number::F16 => DType::F16,
        }
    }
}

impl From<Number> for FloatType {
    fn from(number: Number) -> FloatType {
        match number {
            Number::F32 => FloatType::F32,
            Number::Bf16 => FloatType::Bf16,
            Number::F16 => FloatType::F16,
        }
    }
}

impl From<FloatType> for Number {
    fn from(float_type: FloatType) -> Number {
        match float_type {
            FloatType::F32 => Number::F32,
            FloatType::Bf16 => Number::Bf16,
            FloatType::F16 => Number::F16,
        }
    }
}

impl From<Matrix> for Packing {
    fn from(matrix: Matrix) -> Packing {
        match matrix {
            Matrix::F32 => Packing::F32,
            Matrix::Bf16 => Packing::Bf16,
            Matrix::Q8 { group, scales } => Packing::Q8 { group, scales: scales.into() },
            Matrix::Q4 { group, scales } => Packing::Q4 { group, scales: scales.into() },
        }
    }
}

impl From<Packing> for Matrix {
    fn from(packing: Packing) -> Matrix {
        match packing {
            Packing::F32 => Matrix::F32,
            Packing::Bf16 => Matrix::Bf16,
            Packing::Q8 { group, scales } => Matrix::Q8 { group, scales: scales.into() },
            Packing::Q4 { group, scales } => Matrix::Q4 { group, scales: scales.into() },
        }
    }
}

impl Serving {
    /// As programs are traced with it.
    pub fn panels(&self) -> PanelPlan {
        self.matrices.iter().map(|(name, &matrix)| (name.clone(), matrix.into())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_understood() {
        let f16 = FloatType::F16;
        let packings = [
            Packing::F32,
            Packing::Bf16,
            Packing::Q8 { group: 32, scales: f16 },
            Packing::Q4 { group: 16, scales: FloatType::F32 },
        ];
        for packing in packings {
            let text = serde_json::to_string(&Matrix::from(packing)).unwrap();
            let matrix: Matrix = serde_json::from_str(&text).unwrap();
            assert_eq!(Packing::from(matrix), packing);
        }
        let question = Question::Run {
            case: Case::Decode { rows: 8, context: 64 },
            times: 3,
            between_bytes: 1 << 27,
        };
        let text = serde_json::to_string(&question).unwrap();
        assert_eq!(serde_json::from_str::<Question>(&text).unwrap(), question);
    }
}

//! LoRA adapters as PEFT lays them out: `adapter_config.json`, and two thin matrices for each adapted
//! one in `adapter_model.safetensors`.
//!
//! The weight that an adapted matrix stands for is `W + scale · B · A` (Hu et al., "LoRA: low-rank
//! adaptation of large language models", 2021). Knows files, but no model and no device.

mod error;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

pub use error::AdapterError;

use crate::weights::Checkpoint;

/// The name of the description in an adapter's folder.
pub const ADAPTER_CONFIG_FILE: &str = "adapter_config.json";
/// The name of the matrices' file there.
pub const ADAPTER_FILE: &str = "adapter_model.safetensors";
/// PEFT wraps a model twice, and names say so.
pub(crate) const PREFIX: &str = "base_model.model.";
const CONFIG_BYTES_MAX: u64 = 16 << 20;

/// What all matrices of an adapter have in common.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterConfig {
    /// Rows of `A`, columns of `B`.
    pub rank: usize,
    pub alpha: f64,
    /// The product is scaled by `alpha / sqrt(rank)` instead of `alpha / rank` (Kalajdzievski,
    /// "A rank stabilization scaling factor", 2023).
    pub rank_stabilized: bool,
    /// What share of the adapted matrices' inputs was left out at random in training.
    pub dropout: f64,
    /// Last parts of the adapted modules' names, such as `q_proj`; empty if the file has a pattern
    /// or says nothing.
    pub target_modules: Vec<String>,
    /// The model that the adapter was trained on, as whoever trained it named it.
    pub base_model: Option<String>,
}

impl AdapterConfig {
    /// What `B · A` of a matrix of this rank is multiplied by.
    pub fn scale(&self, rank: usize) -> f64 {
        let rank = rank.max(1) as f64;
        self.alpha / if self.rank_stabilized { rank.sqrt() } else { rank }
    }

    /// Parses the text of an `adapter_config.json`.
    ///
    /// # Errors
    /// When it is no JSON, or describes what is not plain LoRA.
    pub fn from_json(text: &str) -> Result<AdapterConfig, AdapterError> {
        let raw: Raw =
            serde_json::from_str(text).map_err(|source| AdapterError::Json { source })?;
        refuse_unsupported(&raw)?;
        let (rank, alpha) = (raw.r, raw.lora_alpha.unwrap_or(8.0));
        if rank == 0 || !alpha.is_finite() {
            let what = format!("has rank {rank} and alpha {alpha}");
            return Err(AdapterError::Unsupported { what });
        }
        let target_modules = match raw.target_modules {
            Some(Value::Array(names)) => {
                names.iter().filter_map(Value::as_str).map(str::to_owned).collect()
            }
            _ => Vec::new(),
        };
        Ok(AdapterConfig {
            rank,
            alpha,
            rank_stabilized: raw.use_rslora.unwrap_or(false),
            dropout: raw.lora_dropout.unwrap_or(0.0),
            target_modules,
            base_model: raw.base_model_name_or_path,
        })
    }

    /// The text of an `adapter_config.json`.
    pub fn to_json(&self) -> String {
        // PEFT's own files have a whole number.
        let alpha = match self.alpha {
            whole if whole.fract() == 0.0 && whole.abs() < 1e15 => json!(whole as i64),
            alpha => json!(alpha),
        };
        let config = json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self.base_model,
            "r": self.rank,
            "lora_alpha": alpha,
            "lora_dropout": self.dropout,
            "target_modules": self.target_modules,
            "use_rslora": self.rank_stabilized,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "modules_to_save": null,
        });
        format!("{config:#}\n")
    }
}

#[derive(Deserialize)]
struct Raw {
    peft_type: String,
    r: usize,
    lora_alpha: Option<f64>,
    lora_dropout: Option<f64>,
    use_rslora: Option<bool>,
    target_modules: Option<Value>,
    base_model_name_or_path: Option<String>,
    bias: Option<String>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

fn refuse_unsupported(raw: &Raw) -> Result<(), AdapterError> {
    let refuse = |what: String| Err(AdapterError::Unsupported { what });
    if raw.peft_type != "LORA" {
        return refuse(format!("is of the type `{}`", raw.peft_type));
    }
    if let Some(bias) = raw.bias.as_deref().filter(|bias| *bias != "none") {
        return refuse(format!("has trained biases (`bias` = `{bias}`)"));
    }
    // Each changes what the matrices mean, or brings weights that are none.
    let variants = [
        "use_dora",
        "use_qalora",
        "use_bdlora",
        "lora_bias",
        "fan_in_fan_out",
        "modules_to_save",
        "alpha_pattern",
        "layer_replication",
        "target_parameters",
        "trainable_token_indices",
        "alora_invocation_tokens",
        "arrow_config",
        "kasa_config",
        "monteclora_config",
    ];
    for key in variants {
        let is_off = match raw.rest.get(key) {
            None | Some(Value::Null | Value::Bool(false)) => true,
            Some(Value::Array(list)) => list.is_empty(),
            Some(Value::Object(map)) => map.is_empty(),
            Some(_) => false,
        };
        if !is_off {
            return refuse(format!("uses `{key}`"));
        }
    }
    // These took something out of the base's weights before training began.
    if let Some(Value::String(how)) = raw.rest.get("init_lora_weights")
        && ["pissa", "olora", "corda", "loftq", "lora_ga"].iter().any(|way| how.starts_with(way))
    {
        return refuse(format!("began from changed base weights (`init_lora_weights` = `{how}`)"));
    }
    Ok(())
}

/// One adapted matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdaptedModule {
    /// As the model names it: `model.layers.0.self_attn.q_proj`.
    pub name: String,
    pub rank: usize,
    /// Columns of the adapted matrix and of `A`, `[rank, inputs]`.
    pub inputs: usize,
    /// Rows of the adapted matrix and of `B`, `[outputs, rank]`.
    pub outputs: usize,
}

impl AdaptedModule {
    /// The adapted matrix.
    pub fn weight(&self) -> String {
        format!("{}.weight", self.name)
    }

    /// The matrix that inputs meet first, `[rank, inputs]`.
    pub fn a(&self) -> String {
        format!("{}.lora_A.weight", self.name)
    }

    /// The matrix that gives outputs, `[outputs, rank]`.
    pub fn b(&self) -> String {
        format!("{}.lora_B.weight", self.name)
    }
}

/// An adapter on disk.
#[derive(Debug)]
pub struct Adapter {
    pub config: AdapterConfig,
    /// Sorted by name.
    pub modules: Vec<AdaptedModule>,
    pub(crate) checkpoint: Checkpoint,
}

impl Adapter {
    /// Opens the adapter in `folder`; its matrices are read when they are asked for.
    ///
    /// # Errors
    /// When a file is missing or damaged, the adapter is not plain LoRA, or its matrices do not
    /// belong together.
    pub fn open(folder: &Path) -> Result<Adapter, AdapterError> {
        let path = folder.join(ADAPTER_CONFIG_FILE);
        let unreadable = |source| AdapterError::Read { path: path.clone(), source };
        let config_bytes = std::fs::metadata(&path).map_err(unreadable)?.len();
        if config_bytes > CONFIG_BYTES_MAX {
            return Err(AdapterError::TooLarge { path, bytes: config_bytes });
        }
        let config =
            AdapterConfig::from_json(&std::fs::read_to_string(&path).map_err(unreadable)?)?;
        let unusable = |source| AdapterError::Weights { source: Box::new(source) };
        let checkpoint =
            Checkpoint::open_safetensors(&folder.join(ADAPTER_FILE)).map_err(unusable)?;
        let shape = |name| checkpoint.info(name).map(|info| (name, info.shape.as_slice()));
        let matrices: Result<Vec<(&str, &[usize])>, _> = checkpoint.names().map(shape).collect();
        let modules = pair_up(matrices.map_err(unusable)?)?;
        Ok(Adapter { config, modules, checkpoint })
    }

    /// What the file calls a matrix: with PEFT's prefix, or, from some other tools, without.
    pub(crate) fn stored_name(&self, name: &str) -> String {
        let prefixed = format!("{PREFIX}{name}");
        if self.checkpoint.contains(&prefixed) { prefixed } else { name.to_owned() }
    }
}

/// Pairs up matrices by their names (PEFT's, or a program's own, without the prefix), each with its
/// shape. Sorted by the modules' names.
///
/// # Errors
/// When one is no matrix of an adapted linear layer, or lacks its counterpart.
pub fn pair_up<'a>(
    matrices: impl IntoIterator<Item = (&'a str, &'a [usize])>,
) -> Result<Vec<AdaptedModule>, AdapterError> {
    let wrong = |name: &str, reason: &str| {
        Err(AdapterError::Tensor { name: name.to_owned(), reason: reason.to_owned() })
    };
    let mut shapes: BTreeMap<&str, [Option<[usize; 2]>; 2]> = BTreeMap::new();
    for (name, shape) in matrices {
        let inside = name.strip_prefix(PREFIX).unwrap_or(name);
        let ends = [".lora_A.weight", ".lora_B.weight"].map(|end| inside.strip_suffix(end));
        let (module, half) = match ends {
            [Some(module), _] => (module, 0),
            [_, Some(module)] => (module, 1),
            _ => return wrong(name, "it is neither `lora_A` nor `lora_B` of a linear layer"),
        };
        let &[rows, columns] = shape else { return wrong(name, "it is no matrix") };
        shapes.entry(module).or_default()[half] = Some([rows, columns]);
    }
    let mut modules = Vec::new();
    for (name, halves) in shapes {
        let [Some([rank, inputs]), Some([outputs, columns])] = halves else {
            return wrong(name, "it has only one of its two matrices");
        };
        if columns != rank {
            return wrong(name, &format!("its `lora_A` has rank {rank}, its `lora_B` {columns}"));
        }
        modules.push(AdaptedModule { name: name.to_owned(), rank, inputs, outputs });
    }
    match modules.is_empty() {
        true => Err(AdapterError::Empty),
        false => Ok(modules),
    }
}

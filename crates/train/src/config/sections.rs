//! Every key of the config, once: name, type, default, range, meaning. Knows nothing of what is done
//! with them.

use super::document::{Item, Node, join};
use super::error::ConfigError;
use super::keys::{
    Range, SectionKeys, Value, alternatives, choices, describe, read_key, refuse_unknown, section,
    sentence, wrong_choice,
};
use super::validation::Validation;

section! {
    /// A training run. Relative paths are relative to the working directory.
    pub struct Config {
        /// What is trained.
        model: Model;
        /// What it is trained on.
        data: Data;
        /// How long and how.
        training: Training;
        /// What is done with gradients.
        optimizer: Optimizer;
        /// How the learning rate goes.
        schedule: Schedule;
        /// What happens to bad steps.
        guard: Guard;
        /// Low-rank adapters.
        lora: Option<Lora>;
        /// The devices.
        mesh: MeshAxes;
        /// What is kept to go on from.
        checkpoint: Checkpoint;
        /// Texts written while training.
        samples: Samples;
        /// What is left behind.
        output: Output;
    }
}

section! {
    /// What is trained: a model that exists (`from`), or one from scratch: a well-known `shape`, a
    /// `config` file, or an `architecture` with its sizes.
    pub struct Model {
        /// Start from these weights: a known name such as `smollm2-135m`, a Hugging Face folder, or
        /// a `.gguf` file.
        from: Option<String>;
        /// From scratch, in the shape of a well-known model such as `llama3-8b`.
        shape: Option<String>;
        /// From scratch, as a Hugging Face `config.json` says.
        config: Option<String>;
        /// From scratch, of this family, with the sizes below.
        architecture: Option<ArchitectureName>;
        /// Width of the residual stream.
        hidden_size: Option<usize> => Range::AtLeast(1.0);
        /// Width of the hidden layer of the MLP.
        intermediate_size: Option<usize> => Range::AtLeast(1.0);
        /// Number of layers.
        num_hidden_layers: Option<usize> => Range::AtLeast(1.0);
        /// Query heads.
        num_attention_heads: Option<usize> => Range::AtLeast(1.0);
        /// Key and value heads; as many as query heads if absent.
        num_key_value_heads: Option<usize> => Range::AtLeast(1.0);
        /// Width of a head; if absent, `hidden_size` divided by the query heads.
        head_dim: Option<usize> => Range::AtLeast(2.0);
        /// The longest sequence the model is said to handle; `data.sequence_length` if absent.
        max_position_embeddings: Option<usize> => Range::AtLeast(1.0);
        /// Base of the rotary frequencies; 10000 if absent.
        rope_theta: Option<f64> => Range::Above(0.0);
        /// What the norms add to the mean square; 1e-6 if absent.
        rms_norm_eps: Option<f64> => Range::Above(0.0);
        /// Whether the output layer is the token embedding; not, if absent.
        tie_word_embeddings: Option<bool>;
        /// The tokenizer of this known model, folder or `.gguf` file; the model's own if absent.
        tokenizer: Option<String>;
        /// Train a byte-level BPE tokenizer with so many tokens on the data.
        vocabulary_size: Option<usize> => Range::AtLeast(257.0);
    }
}

section! {
    /// What it is trained on.
    pub struct Data {
        /// Tokens per sequence. Documents are packed into sequences and do not see each other.
        sequence_length: usize = 256 => Range::AtLeast(2.0);
        /// Whether sequences come in random order; else in the order of the files.
        shuffle: bool = true;
        /// Seed of that order.
        seed: u64 = 0;
        /// What the loss is measured on while training.
        validation: Validation;
        /// Instead of `validation`: this part of every source, taken from its end.
        validation_fraction: f64 = 0.0 => Range::Below(0.0, 1.0);
        /// Where text comes from.
        sources: Vec<Source>;
    }
}

section! {
    /// One source of text; any number of them.
    pub struct Source {
        /// A file, a folder, a glob such as `books/*.txt`, or a known name such as `shakespeare`.
        path: String => Range::Given;
        /// What the files hold; guessed from their names if absent.
        format: Option<Format>;
        /// The field or column with the text, or with the messages of a conversation; `text` or
        /// `messages`, whichever is there, if absent.
        column: Option<String>;
        /// This source's share of the sequences, relative to the other sources' weights. If none has
        /// a weight, each has a share in proportion to its size.
        weight: Option<f64> => Range::Above(0.0);
    }
}

section! {
    /// How long and how.
    pub struct Training {
        /// Updates to make.
        steps: usize = 1000 => Range::AtLeast(1.0);
        /// Sequences per update, all devices together.
        batch_size: usize = 16 => Range::AtLeast(1.0);
        /// Parts that a batch is computed in, one after the other, to need less memory.
        accumulation: usize = 1 => Range::AtLeast(1.0);
        /// Seed of fresh weights and of dropout.
        seed: u64 = 0;
        /// Type of the arithmetic in the model. Weights and optimizer state are f32 always.
        dtype: ComputeType = ComputeType::F32;
        /// What is computed again in the backward pass instead of kept: nothing, whole layers, or all
        /// but the products of matrices.
        remat: Remat = Remat::None;
        /// How the compiler gets the layers: written out, or as a loop over one, which takes less time
        /// to compile. If absent, written out for CPUs and for one TPU.
        layers: Option<Layers>;
        /// Weight of the squared logarithm of the softmax's denominator in the loss (z-loss).
        z_loss: f64 = 0.0 => Range::AtLeast(0.0);
        /// Steps between measurements on the validation text; 0 is never. Checkpoints are measured too
        /// if the best are kept (`checkpoint.keep_best`).
        eval_every: usize = 100;
        /// Batches per measurement.
        eval_batches: usize = 8 => Range::AtLeast(1.0);
        /// Steps between lines on a screen that shows no progress bar.
        log_every: usize = 10 => Range::AtLeast(1.0);
    }
}

section! {
    /// What is done with gradients.
    pub struct Optimizer {
        /// AdamW for everything, or Muon for the matrices of the layers and AdamW for the rest.
        name: OptimizerName = OptimizerName::Adamw;
        /// Learning rate at its highest.
        learning_rate: f64 = 3e-4 => Range::AtLeast(0.0);
        /// With Muon: the same for what AdamW updates (embeddings, norms, output layer).
        adamw_learning_rate: f64 = 3e-4 => Range::AtLeast(0.0);
        /// AdamW's decay rates of the mean gradient and the mean square.
        betas: [f64; 2] = [0.9, 0.95] => Range::Below(0.0, 1.0);
        /// What AdamW adds to the root of the mean square.
        epsilon: f64 = 1e-8 => Range::Above(0.0);
        /// Decoupled weight decay of matrices; embeddings, norms and biases have none.
        weight_decay: f64 = 0.1 => Range::AtLeast(0.0);
        /// The norm that all gradients together are cut down to; 0 is no limit.
        clip_norm: f64 = 1.0 => Range::AtLeast(0.0);
        /// With Muon: decay rate of the mean gradient.
        momentum: f64 = 0.95 => Range::Below(0.0, 1.0);
    }
}

section! {
    /// How the learning rate goes: up over the warm-up, then down.
    pub struct Schedule {
        /// The way down: half a cosine, a straight line, not at all, or constant and then a straight
        /// line at the end (`wsd`).
        kind: ScheduleKind = ScheduleKind::Cosine;
        /// Steps of the straight way up.
        warmup_steps: usize = 0;
        /// Steps of the way down. If absent: all after the warm-up, and with `wsd` the last fifth.
        decay_steps: Option<usize> => Range::AtLeast(1.0);
        /// The lowest learning rate as a share of the highest.
        minimum_ratio: f64 = 0.1 => Range::Within(0.0, 1.0);
    }
}

section! {
    /// What happens to bad steps. A step whose loss or gradient is not finite is always skipped.
    pub struct Guard {
        /// Also skip a step whose loss is so many times the running mean; 0 is off.
        spike_factor: f64 = 0.0 => Range::AtLeast(0.0);
        /// Stop after so many skipped steps in a row.
        stop_after: usize = 10 => Range::AtLeast(1.0);
    }
}

section! {
    /// Low-rank adapters: if this section is there, only they are trained, and `model.from` is
    /// frozen.
    pub struct Lora {
        /// Rank of each adapter.
        rank: usize = 8 => Range::AtLeast(1.0);
        /// An adapter's output is multiplied by `alpha / rank`.
        alpha: f64 = 16.0 => Range::Above(0.0);
        /// The matrices that get one.
        targets: Vec<String> = LORA_TARGETS.map(str::to_string).to_vec();
        /// Probability that an input of an adapter is dropped.
        dropout: f64 = 0.0 => Range::Below(0.0, 1.0);
        /// How the frozen weights are held.
        base: BaseType = BaseType::F32;
    }
}

/// The matrices of a layer, by their names in a checkpoint.
pub const LORA_TARGETS: [&str; 7] =
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

section! {
    /// How many devices there are along each axis; their product is the number of devices.
    pub struct MeshAxes {
        /// Copies of the model, each on its part of the batch.
        data: usize = 1 => Range::AtLeast(1.0);
        /// Parts of the batch, over which weights and optimizer state are split too.
        fsdp: usize = 1 => Range::AtLeast(1.0);
        /// Parts that heads, the hidden layer of the MLP and the vocabulary are split into.
        tensor: usize = 1 => Range::AtLeast(1.0);
    }
}

section! {
    /// What is kept to go on from.
    pub struct Checkpoint {
        /// A folder, or `s3://bucket/path`, or `gs://bucket/path`; if empty, `checkpoints` in
        /// `output.folder`.
        folder: String;
        /// Steps between checkpoints; 0 is only at the end.
        every: usize = 100;
        /// The newest so many stay.
        keep_last: usize = 3 => Range::AtLeast(1.0);
        /// So many of the lowest validation loss stay too.
        keep_best: usize = 1;
    }
}

section! {
    /// Texts that the model writes while it is trained, to watch it learn.
    pub struct Samples {
        /// Beginnings to go on from; none is no samples.
        prompts: Vec<String>;
        /// Steps between samples; 0 is only at the end.
        every: usize = 100;
        /// Tokens per sample.
        max_tokens: usize = 100 => Range::AtLeast(1.0);
        /// 0 takes the likeliest token each time; 1 draws as the model says.
        temperature: f64 = 0.8 => Range::AtLeast(0.0);
    }
}

section! {
    /// What is left behind.
    pub struct Output {
        /// Folder for metrics, samples and the report; if empty, `runs/` and the config file's name.
        folder: String;
    }
}

choices! {
    /// A family of models.
    pub enum ArchitectureName {
        /// Llama 1 to 3.x.
        Llama = "llama",
        /// Llama with a sliding window.
        Mistral = "mistral",
        /// Biases on queries, keys and values.
        Qwen2 = "qwen2",
        /// Norms on queries and keys.
        Qwen3 = "qwen3",
    }
}

choices! {
    /// What a file of data holds.
    pub enum Format {
        /// One document.
        Text = "text",
        /// A document per line, under `text` or `messages`.
        Jsonl = "jsonl",
        /// A document per row, in the column `text` or `messages`.
        Parquet = "parquet",
    }
}

choices! {
    /// The type of arithmetic.
    pub enum ComputeType {
        /// 32 bits.
        F32 = "f32",
        /// 16 bits with the exponent of f32.
        Bf16 = "bf16",
    }
}

choices! {
    /// What the backward pass computes again.
    pub enum Remat {
        /// Nothing.
        None = "none",
        /// Whole layers.
        Full = "full",
        /// All but products of matrices.
        Dots = "dots",
    }
}

choices! {
    /// How the layers become a program.
    pub enum Layers {
        /// One after the other.
        Unrolled = "unrolled",
        /// A loop over one.
        Scanned = "scanned",
    }
}

choices! {
    /// How a gradient becomes an update.
    pub enum OptimizerName {
        /// Adam with decoupled weight decay (Loshchilov and Hutter, 2019).
        Adamw = "adamw",
        /// Momentum made orthogonal by Newton-Schulz iteration (Jordan et al., 2024).
        Muon = "muon",
    }
}

choices! {
    /// The way of the learning rate after the warm-up.
    pub enum ScheduleKind {
        /// Half a cosine.
        Cosine = "cosine",
        /// A straight line.
        Linear = "linear",
        /// None.
        Constant = "constant",
        /// Constant, then a straight line at the end.
        Wsd = "wsd",
    }
}

choices! {
    /// How frozen weights are held.
    pub enum BaseType {
        /// 32 bits.
        F32 = "f32",
        /// 16 bits with the exponent of f32.
        Bf16 = "bf16",
        /// Matrices of layers in 8 bits with a scale per row, the rest in `training.dtype`.
        Int8 = "int8",
    }
}

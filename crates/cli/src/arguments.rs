//! Every command and flag, declared once: name, help, default, parsing.

pub mod chips;
pub mod gateway;
pub mod http;
pub mod plan;
pub mod quickstart;
pub mod serve;
pub mod tenants;
pub mod usage;

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

const EXAMPLES: &str = "\
Examples:
  fungible quickstart
  fungible chat
  fungible generate \"The capital of France is\" --max-tokens 16
  fungible score smollm2-135m --text \"The capital of France is Paris.\" --json
  fungible serve
  fungible train examples/shakespeare.toml
  fungible eval smollm2-135m --data held-out.txt
  fungible compile llama3-8b --target v5e-8,v6e-8,h100-1
  fungible plan train llama3-8b --targets v6e-256,h200-64
  fungible chips
  fungible gateway gateway.toml
  fungible doctor

Exit codes:
  0 success   1 failure   2 wrong usage   3 a program does not fit the target   130 interrupted
  75 training was asked to stop (SIGTERM, Ctrl-C) and saved everything: --resume goes on";

/// Train and serve language models on TPUs, NVIDIA GPUs or CPUs from one binary.
#[derive(Debug, Parser)]
#[command(name = "fungible", version, after_help = EXAMPLES, propagate_version = true)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Fine-tune a small model, compare its answers, and serve it: all in a few minutes
    Quickstart(quickstart::QuickstartArguments),
    /// Talk with a model
    Chat(ChatArguments),
    /// Continue a text
    Generate(GenerateArguments),
    /// Serve a model over HTTP, with OpenAI's interface and a chat page
    Serve(serve::ServeArguments),
    /// Print the log-probability of every token of a text
    Score(ScoreArguments),
    /// Train a model from scratch, or fine-tune one, as a config file says
    Train(TrainArguments),
    /// Measure a model's loss, perplexity and bits per byte on text
    Eval(EvalArguments),
    /// Write a checkpoint of a training run as a model that other programs load
    Export(ExportArguments),
    /// Compile a model for chips that need not be here: does it fit, and in how much memory
    Compile(CompileArguments),
    /// Show where a program's time goes on a chip that need not be here
    Profile(ProfileArguments),
    /// Say which chip a job should run on, and what it will cost, before anything is rented
    Plan(plan::PlanArguments),
    /// Show the catalog of chips: memory, peaks, links, power, prices, and where each figure is from
    Chips(chips::ChipsArguments),
    /// One endpoint over many suppliers' servers: routing, failover, tenants, metering
    Gateway(gateway::GatewayArguments),
    /// Say who may use a gateway: keys, models, limits and budgets
    Tenants(tenants::TenantsArguments),
    /// Show what a gateway's tenants asked for: tokens, cost, energy, saved by routing
    Usage(usage::UsageArguments),
    /// Show plugins, devices, caches, targets, and how to get what is missing
    Doctor(DoctorArguments),
    /// Install and list plugins
    Plugin(PluginArguments),
    /// Measure speed
    Bench(BenchArguments),
    /// What `plan` starts to measure a job on this machine
    #[command(hide = true)]
    Measure,
    /// What `doctor` starts for each plugin: vendors' libraries log, wait and abort as they please
    #[command(hide = true)]
    Probe(ProbeArguments),
}

impl Command {
    /// The file of its own that goes over the built-in catalog of chips.
    pub fn catalog(&self) -> Option<&Path> {
        match self {
            Command::Chips(arguments) => arguments.catalog.catalog.as_deref(),
            Command::Plan(arguments) => arguments.catalog(),
            _ => None,
        }
    }
}

/// A count that makes sense.
fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("it must be at least 1".to_string()),
        Ok(count) => Ok(count),
        Err(error) => Err(format!("{error}")),
    }
}

#[derive(Args, Debug)]
pub struct ProbeArguments {
    #[arg(value_enum)]
    pub device: Device,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Device {
    /// A GPU or TPU if there is one with its plugin, else the CPU
    Auto,
    Cpu,
    Cuda,
    Tpu,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    F32,
    Bf16,
    F16,
}

/// Where a model runs, and in which type.
#[derive(Args, Clone, Debug)]
pub struct PlaceArguments {
    /// The kind of device
    #[arg(long, value_enum, default_value_t = Device::Auto)]
    pub device: Device,
    /// Devices as a mesh, such as `data=2,tensor=4`; on the CPU they are virtual
    #[arg(long, value_name = "AXES")]
    pub mesh: Option<String>,
    /// Type of weights, activations and cache; f32 on the CPU, bf16 elsewhere, if not given
    #[arg(long, value_enum)]
    pub dtype: Option<Dtype>,
    /// A PJRT plugin on disk to use for the device
    #[arg(long, value_name = "FILE")]
    pub plugin: Option<PathBuf>,
}

/// Where and how a model generates or scores.
#[derive(Args, Clone, Debug)]
pub struct DeviceArguments {
    #[command(flatten)]
    pub place: PlaceArguments,
    /// Longest sequence in tokens, at most the model's own
    #[arg(long, value_name = "TOKENS", value_parser = at_least_one)]
    pub context: Option<usize>,
}

/// How tokens are chosen, with vLLM's names.
#[derive(Args, Clone, Debug)]
pub struct SamplingArguments {
    /// 0 takes the likeliest token every time [default: 0.7 in a chat, else 0]
    #[arg(long, allow_negative_numbers = true)]
    pub temperature: Option<f32>,
    /// Only this many of the likeliest tokens; 0 for all
    #[arg(long, default_value_t = 0)]
    pub top_k: u32,
    /// Only the likeliest tokens whose probabilities add up to this
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    pub top_p: f32,
    /// Only tokens at least this many times as likely as the likeliest
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub min_p: f32,
    /// Above 1, tokens that were already there become less likely
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    pub repetition_penalty: f32,
    /// The same seed gives the same text
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

const MODEL_HELP: &str =
    "A known name (smollm2-135m), a folder with config.json and safetensors, or a .gguf file";

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  fungible chat
  fungible chat ./Llama-3.2-1B-Instruct --temperature 0.7 --system \"Answer briefly.\"
In the chat: /reset starts over, /exit or Ctrl-D ends, Ctrl-C stops an answer.")]
pub struct ChatArguments {
    #[arg(default_value = "smollm2-135m", help = MODEL_HELP)]
    pub model: String,
    /// The system prompt
    #[arg(long)]
    pub system: Option<String>,
    /// Longest answer
    #[arg(long, default_value_t = 512, value_name = "TOKENS")]
    pub max_tokens: usize,
    #[command(flatten)]
    pub sampling: SamplingArguments,
    #[command(flatten)]
    pub device: DeviceArguments,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  fungible generate \"The capital of France is\" --max-tokens 16
  fungible generate --chat \"Explain rain in one sentence.\" --temperature 0.7 --seed 7
  echo \"Once upon a time\" | fungible generate - --json")]
pub struct GenerateArguments {
    /// The text to continue; `-` reads it from standard input
    pub prompt: String,
    #[arg(long, default_value = "smollm2-135m", help = MODEL_HELP)]
    pub model: String,
    /// Put the prompt into the model's chat template as the user's message
    #[arg(long)]
    pub chat: bool,
    /// The system prompt, with --chat
    #[arg(long, requires = "chat")]
    pub system: Option<String>,
    /// Longest answer
    #[arg(long, default_value_t = 128, value_name = "TOKENS")]
    pub max_tokens: usize,
    /// Stop before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Go on after an end-of-sequence token
    #[arg(long)]
    pub ignore_eos: bool,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub sampling: SamplingArguments,
    #[command(flatten)]
    pub device: DeviceArguments,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  fungible score smollm2-135m --text \"The capital of France is Paris.\"
  fungible score ./model --token-ids 1,2,3 --top 3 --json")]
#[group(id = "scored", required = true, multiple = false, args = ["text", "token_ids"])]
pub struct ScoreArguments {
    #[arg(default_value = "smollm2-135m", help = MODEL_HELP)]
    pub model: String,
    /// The text to score; `-` reads it from standard input
    #[arg(long)]
    pub text: Option<String>,
    /// Token ids to score; needs no tokenizer
    #[arg(long, value_delimiter = ',', value_name = "IDS")]
    pub token_ids: Option<Vec<u32>>,
    /// How many likeliest alternatives to show for each place
    #[arg(long, default_value_t = 5)]
    pub top: usize,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub device: DeviceArguments,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  fungible train examples/shakespeare.toml
  fungible train run.toml --set training.steps=2000 --set optimizer.learning_rate=1e-3
  fungible train run.toml --resume              # after an interruption, on any device and mesh
  fungible train run.toml --target v6e-16 --compile-only
  fungible train --keys                         # every key of a config, with its meaning
SIGTERM or Ctrl-C saves and ends with code 75; a second one ends at once.
Several hosts: start the same command on each, under Slurm, Kubernetes JobSet, Open MPI, torchrun or on \
TPU VMs, or with --process-id, --process-count and --coordinator.")]
pub struct TrainArguments {
    /// The config, a TOML file
    #[arg(required_unless_present = "keys")]
    pub config: Option<PathBuf>,
    /// Change a key of the config, such as `training.steps=500`; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Go on from the newest checkpoint; from the beginning if there is none
    #[arg(long, conflicts_with = "overwrite")]
    pub resume: bool,
    /// Start anew where checkpoints of an earlier run are, and remove those
    #[arg(long)]
    pub overwrite: bool,
    /// Targets such as v6e-16 to compile the step for; they need not be here
    #[arg(long, value_delimiter = ',', requires = "compile_only")]
    pub target: Vec<String>,
    /// Say what the step needs on --target, and run nothing
    #[arg(long, requires = "target")]
    pub compile_only: bool,
    /// Print every key of a config with its meaning and default
    #[arg(long)]
    pub keys: bool,
    /// The kind of device
    #[arg(long, value_enum, default_value_t = Device::Auto)]
    pub device: Device,
    /// A PJRT plugin on disk to use for the device
    #[arg(long, value_name = "FILE")]
    pub plugin: Option<PathBuf>,
    /// Print one JSON object at the end, or for --compile-only, instead of text
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub processes: ProcessArguments,
}

/// Which process of several this is; found in the launcher's environment if not given.
#[derive(Args, Clone, Debug)]
pub struct ProcessArguments {
    /// This process, counted from 0
    #[arg(long, value_name = "N")]
    pub process_id: Option<u32>,
    /// How many processes there are
    #[arg(long, value_name = "N")]
    pub process_count: Option<u32>,
    /// Address of process 0 where the processes meet
    #[arg(long, value_name = "HOST:PORT")]
    pub coordinator: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DataFormat {
    /// A document per file
    Text,
    /// A document or conversation per line
    Jsonl,
    /// A document or conversation per row
    Parquet,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  fungible eval smollm2-135m --data held-out.txt
  fungible eval runs/shakespeare/model --data 'books/*.txt',notes.jsonl --sequence-length 512
  fungible eval ./model --data questions.parquet --column answer --max-batches 50 --json
Of conversations, what the assistant says is measured. Texts are cut at --sequence-length and begin \
anew there, so longer sequences give lower losses; compare models at the same length. Bits per byte do \
not depend on the tokenizer.")]
pub struct EvalArguments {
    #[arg(help = MODEL_HELP)]
    pub model: String,
    /// Files, folders, patterns such as `books/*.txt`, or known names such as `shakespeare`
    #[arg(long, required = true, value_delimiter = ',', value_name = "PATHS")]
    pub data: Vec<String>,
    /// What the files hold; told from their names if not given
    #[arg(long, value_enum)]
    pub format: Option<DataFormat>,
    /// The field or column with the text or the messages; `text` or `messages` if not given
    #[arg(long, value_name = "NAME")]
    pub column: Option<String>,
    /// Tokens per sequence [default: 1024, or the model's longest if that is shorter]
    #[arg(long, value_name = "TOKENS", value_parser = at_least_one)]
    pub sequence_length: Option<usize>,
    /// Sequences at once, all devices together
    #[arg(long, default_value_t = 8, value_parser = at_least_one)]
    pub batch_size: usize,
    /// Stop after so many batches, which are drawn from all the data
    #[arg(long, value_name = "COUNT", value_parser = at_least_one)]
    pub max_batches: Option<usize>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub place: PlaceArguments,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  fungible export runs/shakespeare shakespeare-model
  fungible export runs/shakespeare/checkpoints/step-00000400 model-400 --dtype f32
  fungible export s3://bucket/run model --step 2000
  fungible export runs/lora merged              # adapters merged into the model they were trained on
  fungible export runs/lora adapter --adapter   # in PEFT's layout
The folder loads in transformers, vLLM and `fungible`. What the optimizer remembers is not exported.")]
pub struct ExportArguments {
    /// A run's output folder, a folder or URL (s3://, gs://) with checkpoints, or one of them
    pub checkpoint: String,
    /// The folder to write
    #[arg(value_name = "OUT")]
    pub folder: PathBuf,
    /// The checkpoint of this step; the newest that is intact if not given
    #[arg(long, value_name = "N")]
    pub step: Option<u64>,
    /// Write the adapters of a LoRA run by themselves, in PEFT's layout
    #[arg(long, conflicts_with = "base")]
    pub adapter: bool,
    /// Where the model is that adapters were trained on, if not where it was then
    #[arg(long, value_name = "MODEL")]
    pub base: Option<String>,
    /// Type of the weights [default: what the run computed with; f32 for --adapter]
    #[arg(long, value_enum)]
    pub dtype: Option<Dtype>,
    /// Replace what an earlier export wrote
    #[arg(long)]
    pub overwrite: bool,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  fungible compile smollm2-135m --target v5e-1,h100-1
  fungible compile llama3-8b --target v5e-8,v6e-4,v5p-8,tpu7x-4,h100-1,h200-8,b200-1 --context 8192
  fungible compile ./config.json --target v6e-8 --mesh data=2,tensor=4 --json
Counts are chips. Nothing runs: these are the vendors' own compilers, without the hardware.")]
pub struct CompileArguments {
    #[arg(
        help = "A known name or shape (smollm2-135m, llama3-8b, …), a model folder, a config.json, or a .gguf file"
    )]
    pub model: String,
    /// Targets, such as v5e-1,v6e-4,h100-8
    #[arg(long, required = true, value_delimiter = ',')]
    pub target: Vec<String>,
    /// The mesh over the target's devices; chosen so that it divides the model if not given
    #[arg(long, value_name = "AXES")]
    pub mesh: Option<String>,
    /// Sequences that decode together
    #[arg(long, default_value_t = 8, value_parser = at_least_one)]
    pub batch: usize,
    /// Room of the KV cache, in tokens per sequence
    #[arg(long, default_value_t = 2048, value_name = "TOKENS", value_parser = at_least_one)]
    pub context: usize,
    /// Tokens of one prefill
    #[arg(long, default_value_t = 512, value_name = "TOKENS", value_parser = at_least_one)]
    pub chunk: usize,
    /// Type of weights, activations and cache
    #[arg(long, value_enum, default_value_t = Dtype::Bf16)]
    pub dtype: Dtype,
    /// Write each program's StableHLO into this folder
    #[arg(long, value_name = "FOLDER")]
    pub dump: Option<PathBuf>,
    /// Print how every argument is laid out over the mesh
    #[arg(long)]
    pub layout: bool,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProfileProgram {
    /// One token for each sequence
    Decode,
    /// A chunk of a prompt
    Prefill,
    /// The log-probabilities of a chunk
    Score,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProfileBy {
    Instruction,
    /// The part of the model, all layers together
    Path,
    Opcode,
}

/// What of a profile is shown, and how.
#[derive(Args, Clone, Debug)]
pub struct ProfileShow {
    /// Lines of each table
    #[arg(long, default_value_t = 10, value_parser = at_least_one)]
    pub top: usize,
    /// What the time is added up by
    #[arg(long, value_enum, default_value_t = ProfileBy::Instruction)]
    pub by: ProfileBy,
    /// How often loops turn whose number of turns depends on data, such as over the pages of a decode
    /// step's longest sequence
    #[arg(long, value_name = "N")]
    pub loop_turns: Option<u64>,
    /// Print one JSON object instead of tables
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  fungible profile smollm2-135m --target v6e-1
  fungible profile llama3-8b --target v6e-8 --program prefill --chunk 2048 --by path
  fungible profile llama3-1b --target h100-1 --dump decode.pb
  fungible profile --hlo decode.pb --target h100-1 --top 30
Counts are chips. Nothing runs: times are estimated from what the vendor's compiler made of the program.")]
pub struct ProfileArguments {
    #[arg(
        required_unless_present = "hlo",
        help = "A known name or shape (smollm2-135m, llama3-8b, …), a model folder, a config.json, a .gguf file, or the config of a training run (.toml)"
    )]
    pub model: Option<String>,
    /// The target, such as v6e-1 or h100-8
    #[arg(long)]
    pub target: String,
    /// Which of the model's programs
    #[arg(long, value_enum, default_value_t = ProfileProgram::Decode)]
    pub program: ProfileProgram,
    /// The mesh over the target's devices; chosen so that it divides the model if not given
    #[arg(long, value_name = "AXES")]
    pub mesh: Option<String>,
    /// Sequences that decode together
    #[arg(long, default_value_t = 8, value_parser = at_least_one)]
    pub batch: usize,
    /// Room of the KV cache, in tokens per sequence
    #[arg(long, default_value_t = 2048, value_name = "TOKENS", value_parser = at_least_one)]
    pub context: usize,
    /// Tokens of one prefill or score
    #[arg(long, default_value_t = 512, value_name = "TOKENS", value_parser = at_least_one)]
    pub chunk: usize,
    /// Type of weights, activations and cache
    #[arg(long, value_enum, default_value_t = Dtype::Bf16)]
    pub dtype: Dtype,
    /// How matrices are held, as in `serve`
    #[arg(long, value_enum, default_value_t = serve::Quantization::Auto)]
    pub quantization: serve::Quantization,
    /// Leave attention out, which gives a wrong program, to see what all the rest costs
    #[arg(long)]
    pub without_attention: bool,
    /// Write the compiled program into this file
    #[arg(long, value_name = "FILE")]
    pub dump: Option<PathBuf>,
    /// Of --dump, write only what times are estimated from: no source lines, no constants
    #[arg(long, requires = "dump")]
    pub strip: bool,
    /// Read a compiled program that --dump wrote, instead of compiling a model
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "dump", "without_attention"])]
    pub hlo: Option<PathBuf>,
    #[command(flatten)]
    pub show: ProfileShow,
}

#[derive(Args, Debug)]
pub struct DoctorArguments {
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct PluginArguments {
    #[command(subcommand)]
    pub command: PluginCommand,
}

#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// Fetch a plugin with pip, verify it and keep it in the cache
    Install {
        /// cpu, tpu or cuda13
        name: String,
    },
    /// Show known plugins and where they are
    List {
        /// Print JSON instead of a table
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args, Debug)]
pub struct BenchArguments {
    #[command(subcommand)]
    pub command: BenchCommand,
}

#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Time prefill and decode of a model on this machine
    Model(BenchModelArguments),
    /// Load the serving engine with requests, without HTTP
    Engine(serve::BenchEngineArguments),
    /// A server without a model that answers like one, for measuring and testing gateways
    #[command(hide = true)]
    Backend(gateway::BenchBackendArguments),
    /// Send a server requests, and say how fast it answers
    Serve(BenchServeArguments),
    /// Send the same HTTP request again and again, and say how long answers take to microseconds
    #[command(hide = true)]
    Http(http::BenchHttpArguments),
}

#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  fungible bench model smollm2-135m --batch 1,8 --prefill 512 --json")]
pub struct BenchModelArguments {
    #[arg(default_value = "smollm2-135m", help = MODEL_HELP)]
    pub model: String,
    /// Sequences that decode together; several are measured one after the other
    #[arg(long, value_delimiter = ',', default_value = "1,8", value_parser = at_least_one)]
    pub batch: Vec<usize>,
    /// Tokens of one prefill
    #[arg(long, value_delimiter = ',', default_value = "512", value_name = "TOKENS", value_parser = at_least_one)]
    pub prefill: Vec<usize>,
    /// Timed decode steps
    #[arg(long, default_value_t = 32, value_parser = at_least_one)]
    pub steps: usize,
    /// Timed prefills
    #[arg(long, default_value_t = 5, value_parser = at_least_one)]
    pub repeat: usize,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub device: DeviceArguments,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchEndpoint {
    /// /v1/completions
    Completions,
    /// /v1/chat/completions
    Chat,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  fungible bench serve http://127.0.0.1:8000 --input 512 --output 128 --concurrency 1,8,32
  fungible bench serve localhost:8000 --rate 2,4 --duration 60 --slo ttft=500ms,tpot=50ms
  fungible bench serve localhost:8000 --endpoint chat --dataset prompts.jsonl --plot load.html
  fungible bench serve localhost:8000 --shared-prefix 400 --ignore-eos --json -
Any server with OpenAI's HTTP interface can be measured: this one, vLLM, llama.cpp's, and others.
TTFT is the time to the first token, TPOT the mean time per token after it, ITL the time between \
chunks of the stream.")]
pub struct BenchServeArguments {
    /// The server's address
    pub url: String,
    /// Length of the prompts
    #[arg(long, default_value_t = 512, value_name = "TOKENS", value_parser = at_least_one)]
    pub input: usize,
    /// Length of the answers, at most
    #[arg(long, default_value_t = 128, value_name = "TOKENS", value_parser = at_least_one)]
    pub output: usize,
    /// Clients that each wait for an answer before they ask again; several are measured in turn
    #[arg(long, value_delimiter = ',', default_value = "1,8,32", value_parser = at_least_one)]
    pub concurrency: Vec<usize>,
    /// Send so many requests per second instead, at random times, answered or not
    #[arg(long, value_delimiter = ',', value_name = "PER_SECOND", conflicts_with = "concurrency")]
    pub rate: Vec<f64>,
    /// Requests of each measurement [default: 4 per client and at least 8; 30 s at a rate]
    #[arg(long, conflicts_with = "duration", value_parser = at_least_one)]
    pub requests: Option<usize>,
    /// Send requests for so long, and wait for their answers
    #[arg(long, value_name = "SECONDS")]
    pub duration: Option<f64>,
    /// Requests before the first measurement that do not count
    #[arg(long, default_value_t = 1, value_name = "REQUESTS")]
    pub warm_up: usize,
    /// Which interface is measured
    #[arg(long, value_enum, default_value_t = BenchEndpoint::Completions)]
    pub endpoint: BenchEndpoint,
    /// The model's name [default: the first that the server lists]
    #[arg(long)]
    pub model: Option<String>,
    /// The server's key
    #[arg(long, env = "OPENAI_API_KEY", hide_env_values = true, value_name = "KEY")]
    pub api_key: Option<String>,
    /// Begin all prompts with the same tokens, which servers may compute once
    #[arg(long, default_value_t = 0, value_name = "TOKENS", conflicts_with = "dataset")]
    pub shared_prefix: usize,
    /// Prompts to send in turn instead: lines of JSON with `prompt` or `messages`
    #[arg(long, value_name = "FILE", conflicts_with = "input")]
    pub dataset: Option<PathBuf>,
    /// Ask for answers of full length, whatever the model would say
    #[arg(long)]
    pub ignore_eos: bool,
    /// 0 takes the likeliest token every time
    #[arg(long, default_value_t = 0.0)]
    pub temperature: f64,
    /// Decides prompts and arrivals
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Count requests that keep to these limits on ttft, tpot or latency, such as ttft=500ms,tpot=50ms
    #[arg(long, value_name = "LIMITS")]
    pub slo: Option<::serve::load::Slo>,
    /// A request that takes longer has failed
    #[arg(long, default_value_t = 600.0, value_name = "SECONDS")]
    pub timeout: f64,
    /// Write the figures as JSON; `-` prints them instead of the table
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write charts: a picture (.svg) or a page (.html)
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
}

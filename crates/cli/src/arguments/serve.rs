//! The flags of serving, with vLLM's names where it has one.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{DeviceArguments, MODEL_HELP, at_least_one};
use crate::engine::adapters::{NamedAdapter, named};

/// The address that is listened on if nobody says otherwise: of this machine alone.
pub const LOCAL: &str = "127.0.0.1";

/// How a model is served, whoever asks.
#[derive(Args, Clone, Debug)]
pub struct EngineArguments {
    #[command(flatten)]
    pub device: DeviceArguments,
    /// Sequences that are generated at once [default: 32 on a CPU, 64 elsewhere]
    #[arg(long, visible_alias = "max-batch", value_name = "COUNT", value_parser = at_least_one)]
    pub max_num_seqs: Option<usize>,
    /// Tokens that one step computes at most: how finely long prompts are cut
    #[arg(long, value_name = "TOKENS", default_value_t = 512, value_parser = at_least_one)]
    pub max_num_batched_tokens: usize,
    /// Tokens of a page of the KV cache
    #[arg(long, value_name = "TOKENS", default_value_t = 32, value_parser = at_least_one)]
    pub block_size: usize,
    /// Memory for the KV cache over all devices, such as 4G [default: what all sequences can use, at
    /// most 4G, on a CPU; what weights and programs leave free elsewhere]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub kv_cache_memory: Option<u64>,
    /// Type of the KV cache; that of the activations if not given
    #[arg(long, value_enum)]
    pub kv_cache_dtype: Option<super::Dtype>,
    /// How matrices are held: q8 and q4 are for a CPU, int8 and w8a8 for TPUs and GPUs
    #[arg(long, value_enum, default_value_t = Quantization::Auto)]
    pub quantization: Quantization,
    /// Tokens guessed ahead from what was in the text before; the answer stays the same
    #[arg(long, value_name = "TOKENS", default_value_t = 0)]
    pub num_speculative_tokens: usize,
    /// Compute every prompt from its beginning
    #[arg(long)]
    pub no_enable_prefix_caching: bool,
    /// An adapter (LoRA, in PEFT's layout) that requests can use by this name; may be given several times
    #[arg(long, value_name = "NAME=PATH", value_parser = named)]
    pub adapter: Vec<NamedAdapter>,
    /// Adapters that there is room for [default: as many as are given]
    ///
    /// Where it is given, clients may load adapters while serving, out of any folder of this machine, and
    /// unload all of them: set keys if others can reach the server.
    #[arg(long, value_name = "COUNT")]
    pub max_loras: Option<usize>,
    /// Highest rank of an adapter [default: 16, or the highest that is given]
    #[arg(long, value_name = "RANK", value_parser = at_least_one)]
    pub max_lora_rank: Option<usize>,
    /// Requests that may wait; more are refused with status 429
    #[arg(long, value_name = "COUNT", default_value_t = 1024)]
    pub max_waiting: usize,
}

/// Compiling for chips that need not be here, instead of serving.
#[derive(Args, Clone, Debug)]
pub struct TargetArguments {
    /// With --compile-only: the chips to compile for, such as v6e-8 or h100-1
    #[arg(long, value_name = "NAME", requires = "compile_only")]
    pub target: Option<String>,
    /// Compile every serving program for --target, say what fits, and serve nothing
    #[arg(long, requires = "target")]
    pub compile_only: bool,
    /// With --compile-only: print one JSON object instead of tables
    #[arg(long, requires = "compile_only")]
    pub json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Quantization {
    /// As the file has them on a CPU: a quantized GGUF stays quantized; as --dtype elsewhere
    Auto,
    /// As f32
    None,
    /// With 8 bits, in groups of 32
    Q8,
    /// With 4 bits, in groups of 32
    Q4,
    /// With 8 bits, a scale for each row; products are computed in --dtype
    #[value(alias = "tpu_int8", alias = "w8a16")]
    Int8,
    /// The same, and what they are multiplied with is rounded to 8 bits token by token: less exact, and
    /// faster where steps wait for products and not for memory
    W8a8,
}

#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  fungible serve                                  # SmolLM2 on this machine: http://127.0.0.1:8000
  fungible serve ./Llama-3.2-1B-Instruct --max-batch 64 --context 8192 --host 0.0.0.0 --api-key \"$KEY\"
  fungible serve model.gguf --num-speculative-tokens 3 --kv-cache-memory 2G
  fungible serve --adapter sql=adapters/sql --adapter poem=adapters/poem    # requests say \"model\": \"sql\"
  fungible serve llama3-8b --target v6e-8 --compile-only --context 8192    # nothing runs
The chat page is at /, the OpenAI interface at /v1, its description at /docs, metrics at /metrics.
SIGTERM or Ctrl-C lets answers under way finish; a second one ends at once.")]
pub struct ServeArguments {
    #[arg(default_value = "smollm2-135m", help = MODEL_HELP)]
    pub model: String,
    /// The address to listen on
    #[arg(long, default_value = LOCAL)]
    pub host: String,
    #[arg(long, default_value_t = 8000)]
    pub port: u16,
    /// Names that requests may use for the model; the first is the one that answers carry [default: MODEL]
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    pub served_model_name: Vec<String>,
    /// A key that clients must show; may be given several times
    #[arg(long, value_name = "KEY", env = "FUNGIBLE_API_KEY", hide_env_values = true)]
    pub api_key: Vec<String>,
    /// A file with one key a line, after the owner's name if it has one
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// Certificates for TLS, as PEM
    #[arg(long, value_name = "FILE", requires = "ssl_keyfile")]
    pub ssl_certfile: Option<PathBuf>,
    /// Their private key, as PEM
    #[arg(long, value_name = "FILE", requires = "ssl_certfile")]
    pub ssl_keyfile: Option<PathBuf>,
    /// Pages of this origin may use the interface; `*` for all
    #[arg(long, value_name = "ORIGIN", value_delimiter = ',')]
    pub allowed_origins: Vec<String>,
    /// Longest answer, whatever is asked for
    #[arg(long, value_name = "TOKENS", value_parser = at_least_one)]
    pub max_tokens: Option<usize>,
    /// How the model writes tool calls: hermes, hermes_list, llama3_json or mistral; told from its chat
    /// template if not given
    #[arg(long, value_name = "FORMAT")]
    pub tool_call_parser: Option<String>,
    /// Seconds that answers under way may take when the server is asked to stop
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub drain_seconds: u64,
    /// Do not serve the chat page
    #[arg(long)]
    pub no_page: bool,
    /// Write prompts into the log
    #[arg(long)]
    pub log_prompts: bool,
    /// A line of JSON for each request instead of a line to read
    #[arg(long)]
    pub log_json: bool,
    /// Where a span for each request is sent: a collector of OTLP over HTTP, such as
    /// http://localhost:4318/v1/traces; OpenTelemetry's own variables do as well
    #[arg(long, value_name = "URL")]
    pub otlp_traces_endpoint: Option<String>,
    #[command(flatten)]
    pub target: TargetArguments,
    #[command(flatten)]
    pub engine: EngineArguments,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  fungible bench engine smollm2-135m --concurrency 1,8,32
  fungible bench engine --adapter one=adapters/one --adapter two=adapters/two   # requests take turns with them
  fungible bench engine --null --concurrency 32        # the scheduler alone, with a device that does nothing")]
pub struct BenchEngineArguments {
    #[arg(default_value = "smollm2-135m", help = MODEL_HELP)]
    pub model: String,
    /// Requests at once; several are measured one after the other
    #[arg(long, value_delimiter = ',', default_value = "1,8,32", value_parser = at_least_one)]
    pub concurrency: Vec<usize>,
    /// Tokens of each prompt
    #[arg(long, default_value_t = 128, value_parser = at_least_one)]
    pub input: usize,
    /// Tokens of each answer
    #[arg(long, default_value_t = 128, value_parser = at_least_one)]
    pub output: usize,
    /// Requests per worker
    #[arg(long, default_value_t = 2, value_parser = at_least_one)]
    pub requests: usize,
    /// Measure the engine alone, with a device that does nothing
    #[arg(long)]
    pub null: bool,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub engine: EngineArguments,
}

/// Bytes, with a suffix if there is one.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1u64,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        other => return Err(format!("`{other}` is no unit; use K, M or G")),
    };
    let number: f64 = digits.trim().parse().map_err(|_| format!("`{text}` is no size"))?;
    match number.is_finite() && number > 0.0 {
        true => Ok((number * unit as f64) as u64),
        false => Err("it must be above 0".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("4G"), Ok(4 << 30));
        assert_eq!(size("1.5MiB"), Ok(3 << 19));
        assert_eq!(size("512"), Ok(512));
        assert!(size("4T").is_err() && size("G").is_err() && size("-1G").is_err());
    }
}

//! What can be wrong with an adapter.

use std::io;
use std::path::PathBuf;

use super::ADAPTER_CONFIG_FILE;
use crate::weights::WeightsError;

/// Why an adapter cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    #[error("{} could not be read", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} has {bytes} bytes, which no description needs: fetch it again", .path.display())]
    TooLarge { path: PathBuf, bytes: u64 },
    #[error("`{ADAPTER_CONFIG_FILE}` does not describe a LoRA adapter: fetch the adapter again")]
    Json {
        #[source]
        source: serde_json::Error,
    },
    #[error(
        "the adapter {what}, which is not supported: merge it into its base with PEFT \
         (`merge_and_unload`) and use the merged model"
    )]
    Unsupported { what: String },
    #[error("the adapter's matrices cannot be used")]
    Weights {
        #[source]
        source: Box<WeightsError>,
    },
    #[error("the adapter's tensor `{name}` cannot be used: {reason}")]
    Tensor { name: String, reason: String },
    #[error(
        "the adapter changes `{name}`, which this model does not have or cannot have changed while \
         it serves (only the projections of attention and feed-forward layers can): give the \
         adapter its own base, or merge it"
    )]
    NotAdaptable { name: String },
    #[error(
        "the adapter has rank {rank}, and there is room for rank {most}: start the server with \
         --max-lora-rank {rank}"
    )]
    Rank { rank: usize, most: usize },
    #[error(
        "the adapter was made for another base: its tensor `{name}` is {found:?}, and this model's \
         would be {wanted:?}"
    )]
    Shape { name: String, found: [usize; 2], wanted: [usize; 2] },
    #[error(
        "the adapter's matrices for `{name}` have a number that is not finite in {dtype}: it is \
         damaged, or needs --dtype f32"
    )]
    NotFinite { name: String, dtype: String },
    #[error("the adapter holds no matrices: fetch it again")]
    Empty,
}

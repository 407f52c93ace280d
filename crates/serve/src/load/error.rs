//! What keeps a measurement from beginning. A request that fails is no error but part of the result.

/// Why nothing can be measured.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("`{url}` is no address of a server; give one such as http://127.0.0.1:8000")]
    Url { url: String },
    #[error("cannot prepare for sending requests")]
    Prepare(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("cannot reach {url}; is the server running")]
    Reach {
        url: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("the server refuses {what}: {reason}")]
    Refused { what: &'static str, reason: String },
    #[error("the server lists no models; name one with --model")]
    NoModels,
    #[error("line {line} of the data set {reason}")]
    Dataset { line: usize, reason: String },
    #[error("the data set is empty; it needs a line such as {{\"prompt\": \"Hello\"}}")]
    EmptyDataset,
    #[error(
        "the data set holds conversations, which only the chat endpoint takes; choose that one"
    )]
    Conversations,
    #[error(
        "a prompt of {wanted} tokens is too short: the server adds {added} tokens to every prompt"
    )]
    ShortPrompt { wanted: usize, added: usize },
    #[error(
        "the shared prefix of {prefix} tokens leaves nothing of a prompt of {input} tokens; make it \
         shorter"
    )]
    Prefix { prefix: usize, input: usize },
    #[error(
        "`{text}` is no objective; give some of ttft, tpot and latency, such as ttft=500ms,tpot=50ms"
    )]
    Slo { text: String },
    #[error("a rate of {rate} requests per second makes no sense; give a number above 0")]
    Rate { rate: f64 },
}

//! Requests over HTTP. Knows the interface's JSON, and nothing of how a measurement goes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use reqwest::{RequestBuilder, Response, Url};
use serde_json::{Value, json};

use super::chunk::{self, Usage};
use super::error::LoadError;
use super::events::Events;
use super::measure::Record;
use super::prompts::{Prompt, Work};

/// Where requests go.
#[derive(Clone, Debug)]
pub struct Target {
    /// The server's address, with or without `/v1`.
    pub url: String,
    pub endpoint: Endpoint,
    /// The first one that the server lists, if not given.
    pub model: Option<String>,
    pub api_key: Option<String>,
    /// After which a request counts as failed.
    pub timeout_seconds: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v1/completions`
    Completions,
    /// `/v1/chat/completions`
    Chat,
}

impl Endpoint {
    /// Below the server's address.
    pub fn path(self) -> &'static str {
        match self {
            Endpoint::Completions => "v1/completions",
            Endpoint::Chat => "v1/chat/completions",
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    /// Connects anew for each request.
    fresh: reqwest::Client,
    /// With a slash at its end.
    base: Url,
    endpoint: Endpoint,
    api_key: Option<String>,
    pub(super) model: String,
}

impl Client {
    /// # Errors
    /// When the address is none. Nothing is sent.
    pub(super) fn new(target: &Target) -> Result<Client, LoadError> {
        let base = base(&target.url).ok_or_else(|| LoadError::Url { url: target.url.clone() })?;
        // The cryptography is chosen per process. Whoever chose before us is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let timeout = Duration::try_from_secs_f64(target.timeout_seconds).unwrap_or(Duration::MAX);
        let host = base.host_str().unwrap_or_default();
        let is_here = host == "localhost" || host.starts_with("127.") || host == "[::1]";
        let client = |idle: usize| {
            let client = reqwest::Client::builder().timeout(timeout).pool_max_idle_per_host(idle);
            // A proxy of the environment is for the way out, and would be measured too.
            let client = if is_here { client.no_proxy() } else { client };
            client.build().map_err(|error| LoadError::Prepare(error.into()))
        };
        let (http, fresh) = (client(usize::MAX)?, client(0)?);
        let (endpoint, api_key) = (target.endpoint, target.api_key.clone());
        let model = target.model.clone().unwrap_or_default();
        Ok(Client { http, fresh, base, endpoint, api_key, model })
    }

    pub(super) fn url(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// The first model that the server lists.
    ///
    /// # Errors
    /// When it cannot be reached, wants a key, or lists none.
    pub(super) async fn first_model(&self) -> Result<String, LoadError> {
        let request = self.http.get(self.at("v1/models"));
        let list = self.json("the list of models", request).await?;
        let id = list["data"][0]["id"].as_str().ok_or(LoadError::NoModels)?;
        Ok(id.to_string())
    }

    /// How many tokens a prompt becomes, if the server says so: `/tokenize` as vLLM and this project
    /// have it, or as llama.cpp does.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub(super) async fn count_tokens(&self, text: &str) -> Result<Option<usize>, LoadError> {
        let mut bodies = Vec::new();
        if self.endpoint == Endpoint::Chat {
            let messages = json!([{"role": "user", "content": text}]);
            bodies.push(json!({"model": self.model, "messages": messages,
                "add_generation_prompt": true}));
        }
        bodies.push(json!({"model": self.model, "prompt": text, "content": text,
            "add_special_tokens": true, "add_special": true}));
        for body in bodies {
            let request = self.http.post(self.at("tokenize")).json(&body);
            let Ok(value) = self.json("to count tokens", request).await else { continue };
            let count = value["count"].as_u64().map(|count| count as usize);
            let count = count.or_else(|| Some(value["tokens"].as_array()?.len()));
            // A server that knows no messages counts an empty text.
            if count.is_some_and(|count| count > 0) {
                return Ok(count);
            }
        }
        Ok(None)
    }

    /// How many tokens the server says a prompt has, by asking for one token behind it.
    ///
    /// # Errors
    /// When the request fails.
    pub(super) async fn prompt_tokens(&self, text: &str) -> Result<Option<usize>, LoadError> {
        let mut body = self.body(&Prompt::Text(text.to_string()));
        body["max_tokens"] = json!(1);
        let request = self.http.post(self.at(self.endpoint.path())).json(&body);
        let answer = self.json("a first request", request).await?;
        Ok(answer["usage"]["prompt_tokens"].as_u64().map(|count| count as usize))
    }

    fn at(&self, path: &str) -> Url {
        // Joining a relative path to an address that is a base cannot fail.
        self.base.join(path).unwrap_or_else(|_| self.base.clone())
    }

    fn with_key(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.api_key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    async fn json(&self, what: &'static str, request: RequestBuilder) -> Result<Value, LoadError> {
        let reach = |source| LoadError::Reach { url: self.url().to_string(), source };
        let response = self.with_key(request).send().await.map_err(reach)?;
        if !response.status().is_success() {
            return Err(LoadError::Refused { what, reason: refusal(response).await });
        }
        response.json().await.map_err(reach)
    }

    fn body(&self, prompt: &Prompt) -> Value {
        match (self.endpoint, prompt) {
            (Endpoint::Completions, Prompt::Text(text)) => {
                json!({"model": self.model, "prompt": text})
            }
            (_, Prompt::Messages(messages)) => json!({"model": self.model, "messages": messages}),
            (Endpoint::Chat, Prompt::Text(text)) => {
                json!({"model": self.model, "messages": [{"role": "user", "content": text}]})
            }
        }
    }

    /// The body of a measured request.
    pub(super) fn streaming_body(&self, prompt: &Prompt, work: &Work, number: u64) -> String {
        let mut body = self.body(prompt);
        body["max_tokens"] = json!(work.output_tokens);
        body["temperature"] = json!(work.temperature);
        // Some servers keep seeds in 32 bits.
        body["seed"] = json!(work.seed.wrapping_add(number) & 0x7fff_ffff);
        body["stream"] = json!(true);
        body["stream_options"] = json!({"include_usage": true});
        if work.ignore_eos {
            body["ignore_eos"] = json!(true);
        }
        body.to_string()
    }

    /// Sends a request and reads its answer to the end. Times are seconds since `origin`; `tokens` is
    /// counted up as they come.
    pub(super) async fn stream(&self, body: String, origin: Instant, tokens: &AtomicU64) -> Record {
        let request = self.http.post(self.at(self.endpoint.path()));
        let request = request.header("content-type", "application/json").body(body);
        let request = self.with_key(request);
        let mut reading = Reading::new(origin, tokens);
        let failure = reading.run(request, &self.fresh).await.err();
        reading.finish(failure)
    }
}

/// One stream under way.
struct Reading<'a> {
    origin: Instant,
    tokens: &'a AtomicU64,
    record: Record,
    usage: Option<Usage>,
    /// Chunks with content, and tokens as the chunks say.
    chunks: usize,
    told: usize,
    ended: bool,
}

impl Reading<'_> {
    fn new(origin: Instant, tokens: &AtomicU64) -> Reading<'_> {
        let record = Record { started: origin.elapsed().as_secs_f64(), ..Record::default() };
        Reading { origin, tokens, record, usage: None, chunks: 0, told: 0, ended: false }
    }

    async fn run(
        &mut self,
        request: RequestBuilder,
        fresh: &reqwest::Client,
    ) -> Result<(), String> {
        let mut response = begin(request, fresh).await.map_err(|error| because(&error))?;
        if !response.status().is_success() {
            return Err(refusal(response).await);
        }
        let mut events = Events::default();
        while let Some(bytes) = response.chunk().await.map_err(|error| because(&error))? {
            let now = self.origin.elapsed().as_secs_f64();
            let mut failure = None;
            let pushed = events.push(&bytes, |data| {
                if let Err(reason) = self.event(data, now) {
                    failure.get_or_insert(reason);
                }
            });
            pushed.map_err(|error| error.to_string())?;
            if let Some(reason) = failure {
                return Err(reason);
            }
        }
        match self.ended {
            true => Ok(()),
            false => Err("the stream ended before the answer did".to_string()),
        }
    }

    fn event(&mut self, data: &[u8], now: f64) -> Result<(), String> {
        if data == b"[DONE]" {
            self.ended = true;
            return Ok(());
        }
        let counted = chunk::read(data)?;
        if let Some(error) = counted.error {
            return Err(error);
        }
        self.ended |= counted.is_last;
        self.usage = counted.usage.or(self.usage);
        if counted.has_content {
            let count = counted.tokens.unwrap_or(1);
            self.chunks += 1;
            self.told += counted.tokens.unwrap_or(0);
            self.tokens.fetch_add(count as u64, Ordering::Relaxed);
            match self.record.last {
                Some(last) => self.record.gaps.push((now - last) as f32),
                None => self.record.first = Some(now),
            }
            self.record.last = Some(now);
        }
        Ok(())
    }

    fn finish(mut self, failure: Option<String>) -> Record {
        self.record.ended = self.origin.elapsed().as_secs_f64();
        self.record.failure = failure;
        self.record.input_tokens = self.usage.map(|usage| usage.prompt_tokens);
        self.record.cached_tokens = self.usage.and_then(|usage| usage.cached_tokens());
        let said = self.usage.map_or(0, |usage| usage.completion_tokens);
        let counted = if self.told > 0 { self.told } else { self.chunks };
        self.record.output_tokens = if said > 0 { said } else { counted };
        self.record
    }
}

/// Sends a request; over a new connection if the first ends before an answer begins: a server may close one
/// that was kept open just when it is used again, as llama.cpp's does. The time that this takes counts.
async fn begin(request: RequestBuilder, fresh: &reqwest::Client) -> reqwest::Result<Response> {
    let (http, request) = request.build_split();
    let request = request?;
    let again = request.try_clone();
    match (http.execute(request).await, again) {
        (Err(error), Some(again))
            if error.is_request() && !error.is_connect() && !error.is_timeout() =>
        {
            fresh.execute(again).await
        }
        (result, _) => result,
    }
}

/// The address that paths are joined to.
fn base(url: &str) -> Option<Url> {
    let with_scheme = match url.contains("://") {
        true => url.to_string(),
        false => format!("http://{url}"),
    };
    let url = with_scheme.trim_end_matches('/');
    let url = url.strip_suffix("/v1").unwrap_or(url);
    let url = Url::parse(&format!("{url}/")).ok()?;
    (matches!(url.scheme(), "http" | "https") && url.has_host()).then_some(url)
}

/// Why the server did not do what it was asked.
async fn refusal(response: Response) -> String {
    let status = response.status();
    let text = response.text().await.unwrap_or_default();
    let reason = match serde_json::from_str(&text) {
        Ok(value) => chunk::message(&value),
        Err(_) => text.chars().take(200).collect(),
    };
    format!("{status}: {}", reason.trim()).trim_end_matches(": ").to_string()
}

/// An error with its causes. The address is left out, so that equal failures read equal.
fn because(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no end within the time limit".to_string();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    match error.is_connect() {
        true => format!("cannot connect: {cause}"),
        false => format!("the connection broke: {cause}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_people_write_them() {
        for url in ["localhost:8000", "http://localhost:8000/", "http://localhost:8000/v1/"] {
            assert_eq!(base(url).unwrap().as_str(), "http://localhost:8000/", "{url}");
        }
        let nested = base("https://example.com/api/v1").unwrap();
        assert_eq!(nested.join("v1/models").unwrap().path(), "/api/v1/models");
        for wrong in ["", "ftp://example.com", "http://", "file:///etc"] {
            assert!(base(wrong).is_none(), "{wrong}");
        }
    }
}

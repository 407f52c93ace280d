//! What a server is told at its start.

use std::path::{Path, PathBuf};
use std::time::Duration;

use subtle::{Choice, ConstantTimeEq};

use web::tls::TlsFiles;
use web::traces::TraceSettings;

/// How the server behaves towards its clients.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// Without any, everybody may ask.
    pub api_keys: Vec<ApiKey>,
    pub tls: Option<TlsFiles>,
    /// Who collects a span for each request, if anybody does.
    pub traces: Option<TraceSettings>,
    /// A longer body is refused with 413.
    pub body_bytes_max: usize,
    /// How long a body may take to arrive.
    pub body_limit: Duration,
    /// How long an answer may take from its request to its end.
    pub request_limit: Duration,
    /// For requests that name no length. `None`: 16 for completions, as OpenAI has it, and the rest
    /// of the context elsewhere.
    pub max_tokens_default: Option<usize>,
    /// Longer answers are cut off here.
    pub max_tokens_cap: Option<usize>,
    /// Pages of these origins may use the interface; `*` for all.
    pub cors_origins: Vec<String>,
    /// How long answers under way may take when the server stops.
    pub drain_limit: Duration,
    /// Further connections wait until others have ended.
    pub connections_max: usize,
    /// How long a connection may be without a request, a request's head may take to arrive, and
    /// a TLS handshake may take.
    pub idle_limit: Duration,
    /// How long a client may read nothing of what is sent to it.
    pub write_limit: Duration,
    /// Whether prompts appear in logs.
    pub logs_prompts: bool,
    /// Whether clients may load and unload adapters. They name folders of the server's machine.
    pub adapters_at_run_time: bool,
    /// Whether everybody is served the chat page.
    pub serves_page: bool,
}

impl Default for ServerSettings {
    fn default() -> ServerSettings {
        ServerSettings {
            api_keys: Vec::new(),
            tls: None,
            traces: None,
            body_bytes_max: 16 << 20,
            body_limit: Duration::from_secs(60),
            request_limit: Duration::from_secs(3600),
            max_tokens_default: None,
            max_tokens_cap: None,
            cors_origins: Vec::new(),
            drain_limit: Duration::from_secs(30),
            connections_max: 4096,
            idle_limit: Duration::from_secs(30),
            write_limit: Duration::from_secs(30),
            logs_prompts: false,
            adapters_at_run_time: false,
            serves_page: true,
        }
    }
}

/// What a client must know to be answered.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    secret: String,
    /// Whoever uses this key counts as this owner, whatever the request says.
    owner: Option<String>,
}

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ApiKeyError {
    #[error("an API key is empty; give at least one character")]
    Empty,
    #[error("an API key has {bytes} bytes; {KEY_BYTES_MAX} are the most")]
    TooLong { bytes: usize },
    #[error("an API key has a space or a sign that no header can carry; use letters and digits")]
    NotPrintable,
    #[error("the file of API keys {} could not be read", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("line {line} of {} is no API key", .path.display())]
    Line {
        path: PathBuf,
        line: usize,
        #[source]
        source: Box<ApiKeyError>,
    },
    #[error("the file of API keys {} has none; give it one key a line", .path.display())]
    NoKeys { path: PathBuf },
}

const KEY_BYTES_MAX: usize = 256;

impl ApiKey {
    /// # Errors
    /// When the key is empty, too long, or cannot stand in a header.
    pub fn new(secret: impl Into<String>, owner: Option<String>) -> Result<ApiKey, ApiKeyError> {
        let secret = secret.into();
        match secret.len() {
            0 => return Err(ApiKeyError::Empty),
            bytes if bytes > KEY_BYTES_MAX => return Err(ApiKeyError::TooLong { bytes }),
            _ => {}
        }
        if !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ApiKeyError::NotPrintable);
        }
        Ok(ApiKey { secret, owner })
    }

    /// One key a line, with the owner's name before it if it has one. Empty lines and lines that
    /// begin with `#` are left out.
    ///
    /// # Errors
    /// When the file cannot be read, has no keys, or a line is no key.
    pub fn read_file(path: &Path) -> Result<Vec<ApiKey>, ApiKeyError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ApiKeyError::Read { path: path.to_owned(), source })?;
        let mut keys = Vec::new();
        for (number, line) in (1..).zip(text.lines().map(str::trim)) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (owner, secret) = match line.rsplit_once(char::is_whitespace) {
                Some((owner, secret)) => (Some(owner.trim().to_owned()), secret),
                None => (None, line),
            };
            keys.push(ApiKey::new(secret, owner).map_err(|source| ApiKeyError::Line {
                path: path.to_owned(),
                line: number,
                source: Box::new(source),
            })?);
        }
        if keys.is_empty() {
            return Err(ApiKeyError::NoKeys { path: path.to_owned() });
        }
        Ok(keys)
    }

    pub fn owner(&self) -> Option<&str> {
        self.owner.as_deref()
    }

    /// Takes as long for any key of the right or the wrong length.
    fn is(&self, presented: &str) -> Choice {
        padded(&self.secret).ct_eq(&padded(presented)) & self.secret.len().ct_eq(&presented.len())
    }
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ApiKey").field("owner", &self.owner).finish_non_exhaustive()
    }
}

/// The key that was presented. All are compared, so that the time does not tell which it was.
pub(crate) fn find_key<'k>(keys: &'k [ApiKey], presented: &str) -> Option<&'k ApiKey> {
    let mut found = None;
    for key in keys {
        if bool::from(key.is(presented)) {
            found = Some(key);
        }
    }
    found
}

fn padded(text: &str) -> [u8; KEY_BYTES_MAX] {
    let mut bytes = [0; KEY_BYTES_MAX];
    let length = text.len().min(KEY_BYTES_MAX);
    bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_itself_is_found() {
        let keys = [
            ApiKey::new("one", None).unwrap(),
            ApiKey::new("k".repeat(256), Some("them".to_owned())).unwrap(),
        ];
        assert_eq!(find_key(&keys, "one"), Some(&keys[0]));
        assert_eq!(find_key(&keys, &"k".repeat(256)).unwrap().owner(), Some("them"));
        for wrong in ["", "on", "one\0", "One", &"k".repeat(255), &"k".repeat(257)] {
            assert_eq!(find_key(&keys, wrong), None, "{wrong}");
        }
        assert!(ApiKey::new("", None).is_err());
        assert!(ApiKey::new("k".repeat(257), None).is_err());
        assert!(ApiKey::new("two words", None).is_err());
    }

    #[test]
    fn a_key_is_not_shown() {
        let key = ApiKey::new("secret", Some("team".to_owned())).unwrap();
        assert!(!format!("{key:?}").contains("secret"));
    }
}

//! What the stub understands of a request.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::text::{Script, hash};

/// Answers that name no limit, and those that shall not stop by themselves.
const MAX_TOKENS_DEFAULT: u64 = 4096;
const CHARACTERS_PER_TOKEN: u64 = 4;

#[derive(Deserialize)]
pub(super) struct Body<'a> {
    #[serde(borrow)]
    model: Option<Cow<'a, str>>,
    #[serde(borrow)]
    messages: Option<Vec<Message<'a>>>,
    #[serde(borrow)]
    prompt: Option<&'a RawValue>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    n: Option<u64>,
    seed: Option<i64>,
    #[serde(default)]
    stream: bool,
    stream_options: Option<StreamOptions>,
    #[serde(default)]
    return_token_ids: bool,
    #[serde(default)]
    continue_token_ids: Vec<u32>,
    #[serde(default)]
    continue_final_message: bool,
    #[serde(default)]
    ignore_eos: bool,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    role: Cow<'a, str>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
}

#[derive(Clone, Copy, Default, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

/// A request, understood.
pub(super) struct Asked {
    pub model: String,
    pub is_chat: bool,
    pub is_streamed: bool,
    pub includes_usage: bool,
    pub returns_token_ids: bool,
    pub prompt_tokens: u64,
    /// One for each answer.
    pub scripts: Vec<Script>,
    /// Tokens after which an answer ends at the latest.
    pub max_tokens: u64,
    pub ignores_end: bool,
    /// Tokens that were said elsewhere. They count as answered if their ids were given, and as part
    /// of the prompt if their text was.
    pub said: u64,
    pub said_is_prompt: bool,
}

impl Asked {
    /// # Errors
    /// What is wrong with the request, in words.
    pub fn read(body: &[u8], is_chat: bool) -> Result<Asked, String> {
        let body: Body<'_> = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        let (prompt_hash, characters, said_text) = match is_chat {
            true => chat(&body)?,
            false => completion(&body)?,
        };
        let seed = body.seed.unwrap_or(0);
        let scripts: Vec<Script> = (0..body.n.unwrap_or(1).clamp(1, 128))
            .map(|answer| Script::new(prompt_hash, seed.wrapping_add(answer as i64)))
            .collect();
        let limit = body.max_completion_tokens.or(body.max_tokens);
        let mut asked = Asked {
            model: body.model.map_or_else(|| "stub".to_owned(), Cow::into_owned),
            is_chat,
            is_streamed: body.stream,
            includes_usage: body.stream_options.is_some_and(|options| options.include_usage),
            returns_token_ids: body.return_token_ids,
            prompt_tokens: characters / CHARACTERS_PER_TOKEN + 1,
            scripts,
            max_tokens: limit.unwrap_or(MAX_TOKENS_DEFAULT).max(1),
            ignores_end: body.ignore_eos,
            said: 0,
            said_is_prompt: false,
        };
        asked.take_said(&body.continue_token_ids, &said_text)?;
        Ok(asked)
    }

    /// What was said elsewhere must be what this instance says, too: that is how a token that was
    /// lost or said twice is noticed.
    fn take_said(&mut self, ids: &[u32], text: &str) -> Result<(), String> {
        let [script] = self.scripts[..] else {
            return match ids.is_empty() && text.is_empty() {
                true => Ok(()),
                false => Err("an answer can be continued only where there is one".to_owned()),
            };
        };
        if let Some(wrong) = (0..).zip(ids).position(|(at, id)| script.token(at) != *id) {
            return Err(format!("continue_token_ids[{wrong}] is not what was said here"));
        }
        self.said = ids.len() as u64;
        if !text.is_empty() {
            let found = script.tokens_of(text, MAX_TOKENS_DEFAULT);
            let said = found.ok_or("the text to go on with is not what was said here")?;
            self.said = said;
            self.said_is_prompt = true;
            self.prompt_tokens += said;
            self.max_tokens += said;
        }
        Ok(())
    }

    /// Tokens of one answer, and why it ends there.
    pub fn end(&self, script: &Script) -> (u64, &'static str) {
        let length = if self.ignores_end { u64::MAX } else { script.length() };
        match length <= self.max_tokens {
            true => (length.max(self.said), "stop"),
            false => (self.max_tokens, "length"),
        }
    }
}

type Prompt = (u64, u64, String);

/// The conversation without an assistant's message that is left open, and that message.
fn chat(body: &Body<'_>) -> Result<Prompt, String> {
    let messages = body.messages.as_deref().ok_or("`messages` is missing")?;
    let open =
        messages.last().filter(|last| body.continue_final_message && last.role == "assistant");
    let said = match open.and_then(|message| message.content) {
        Some(content) => {
            serde_json::from_str(content.get()).map_err(|_| "the open message is no text")?
        }
        None => String::new(),
    };
    let asked = &messages[..messages.len() - usize::from(open.is_some())];
    let texts = asked.iter().flat_map(|message| {
        [message.role.as_bytes(), message.content.map_or("", RawValue::get).as_bytes()]
    });
    let parts: Vec<&[u8]> = texts.collect();
    let characters: usize = parts.iter().map(|part| part.len()).sum();
    Ok((hash(&parts), characters as u64, said))
}

/// A prompt ends at its first line break: what follows counts as answered, since that is how others
/// are asked to go on with a text.
fn completion(body: &Body<'_>) -> Result<Prompt, String> {
    let prompt = body.prompt.ok_or("`prompt` is missing")?;
    let Ok(text) = serde_json::from_str::<Cow<'_, str>>(prompt.get()) else {
        return Ok((hash(&[prompt.get().as_bytes()]), prompt.get().len() as u64, String::new()));
    };
    let (asked, said) = match text.split_once('\n') {
        Some((asked, said)) => (asked, said.to_owned()),
        None => (&*text, String::new()),
    };
    Ok((hash(&[asked.as_bytes()]), asked.len() as u64, said))
}

//! The stub's answers, whole or as chunks.

use std::time::Duration;

use hyper::body::Bytes;
use serde_json::json;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until};

use super::asked::Asked;
use super::misbehaviour::{Fate, Mode};
use super::text::{Script, Text};
use crate::body::{Cut, Writer};

const SLOWER: Duration = Duration::from_millis(50);
const FLUSH: Duration = Duration::from_millis(2);
const GARBAGE: &[u8] = b"\xff\x00}{ nonsense \x13\x37\n\n<html>\n\n";

/// What was written is sent when the writer pauses; a connection that breaks off takes the rest along.
async fn flush() {
    // The first pause hands the piece over, the second one has it sent; on a busy machine a sleep alone
    // may be over before it has been a pause at all.
    yield_now().await;
    yield_now().await;
    sleep(FLUSH).await;
}

/// How fast tokens come.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pace {
    /// Until the first token.
    pub first: Duration,
    /// Between tokens; zero for as fast as they can be written.
    pub each: Duration,
}

/// Tokens of one answer that is being said.
struct Saying {
    script: Script,
    text: Text,
    next: u64,
    end: u64,
    finish: &'static str,
}

impl Saying {
    /// Begins behind what was said elsewhere, with what was held back there held back here.
    fn new(asked: &Asked, script: Script) -> Saying {
        let (end, finish) = asked.end(&script);
        let mut text = Text::default();
        for position in 0..asked.said {
            text.push(script.token(position));
        }
        Saying { script, text, next: asked.said, end, finish }
    }

    fn next(&mut self) -> Option<(u32, String)> {
        if self.next >= self.end {
            return None;
        }
        let token = self.script.token(self.next);
        self.next += 1;
        Some((token, self.text.push(token)))
    }
}

fn usage(asked: &Asked) -> serde_json::Value {
    let answered: u64 = asked.scripts.iter().map(|script| asked.end(script).0).sum();
    let answered = answered - if asked.said_is_prompt { asked.said } else { 0 };
    json!({
        "prompt_tokens": asked.prompt_tokens,
        "completion_tokens": answered,
        "total_tokens": asked.prompt_tokens + answered,
        "prompt_tokens_details": {"cached_tokens": 0},
    })
}

/// An answer that is not streamed, which comes with what was said elsewhere if its ids were given.
pub(super) fn whole(asked: &Asked, id: &str) -> Vec<u8> {
    let choices: Vec<serde_json::Value> = (0_u64..)
        .zip(&asked.scripts)
        .map(|(index, script)| {
            let mut saying = Saying::new(asked, *script);
            let mut text = match asked.said_is_prompt {
                true => String::new(),
                false => script.text(asked.said),
            };
            let mut ids: Vec<u32> = (0..asked.said).map(|at| script.token(at)).collect();
            while let Some((token, piece)) = saying.next() {
                text.push_str(&piece);
                ids.push(token);
            }
            text.push_str(saying.text.finish());
            let mut choice =
                json!({"index": index, "finish_reason": saying.finish, "logprobs": null});
            match asked.is_chat {
                true => choice["message"] = json!({"role": "assistant", "content": text}),
                false => choice["text"] = json!(text),
            }
            if asked.returns_token_ids {
                choice["token_ids"] = json!(ids);
            }
            choice
        })
        .collect();
    let object = if asked.is_chat { "chat.completion" } else { "text_completion" };
    json!({
        "id": id, "object": object, "created": super::CREATED_SECONDS, "model": asked.model,
        "choices": choices, "usage": usage(asked),
    })
    .to_string()
    .into_bytes()
}

/// Writes events until the end, or until what is to go wrong goes wrong.
pub(super) struct Events {
    writer: Writer,
    fate: Fate,
    written: u64,
    has_begun: bool,
    /// All chunks begin with it.
    head: String,
    is_chat: bool,
    returns_token_ids: bool,
    includes_usage: bool,
    /// Named where our own server names it: in a chat's first chunk, at a completion's end.
    prompt_ids: String,
}

impl Events {
    pub fn new(writer: Writer, fate: Fate, asked: &Asked, id: &str) -> Events {
        let object = if asked.is_chat { "chat.completion.chunk" } else { "text_completion" };
        let model = serde_json::Value::from(asked.model.as_str());
        let head = format!(
            "data: {{\"id\":\"{id}\",\"object\":\"{object}\",\"created\":{},\"model\":{model},",
            super::CREATED_SECONDS
        );
        Events {
            writer,
            fate,
            written: 0,
            has_begun: asked.said > 0,
            head,
            is_chat: asked.is_chat,
            returns_token_ids: asked.returns_token_ids,
            includes_usage: asked.includes_usage,
            prompt_ids: match asked.returns_token_ids {
                true => format!(
                    ",\"prompt_token_ids\":{:?}",
                    (0..asked.prompt_tokens).collect::<Vec<_>>()
                ),
                false => String::new(),
            },
        }
    }

    pub async fn say(mut self, asked: Asked, pace: Pace) -> Result<(), Cut> {
        let begun = Instant::now();
        let slower = if self.fate.mode == Mode::Slow { SLOWER } else { Duration::ZERO };
        let mut sayings: Vec<Saying> =
            asked.scripts.iter().map(|script| Saying::new(&asked, *script)).collect();
        if asked.is_chat && asked.said == 0 {
            for index in 0..sayings.len() {
                let delta = "{\"role\":\"assistant\",\"content\":\"\"}";
                self.chunk(index, delta, &[], None).await?;
            }
        }
        // A sleep of nothing still costs a turn of the timer.
        if !(pace.first + slower).is_zero() {
            sleep_until(begun + pace.first + slower).await;
        }
        // Times are of a plan, so that how long writing takes does not add up.
        let mut due = Instant::now();
        let mut has_more = true;
        while std::mem::take(&mut has_more) {
            for (index, saying) in sayings.iter_mut().enumerate() {
                let Some((token, piece)) = saying.next() else { continue };
                has_more = true;
                if !piece.is_empty() || self.returns_token_ids {
                    self.text(index, &piece, &[token], None).await?;
                }
            }
            if has_more && !(pace.each + slower).is_zero() {
                due += pace.each + slower;
                sleep_until(due).await;
            }
        }
        for (index, saying) in sayings.iter_mut().enumerate() {
            let rest = saying.text.finish();
            self.text(index, rest, &[], Some(saying.finish)).await?;
        }
        if self.includes_usage {
            let event = format!("{}\"choices\":[],\"usage\":{}}}\n\n", self.head, usage(&asked));
            self.write(event.into_bytes()).await?;
        }
        self.write(b"data: [DONE]\n\n".to_vec()).await
    }

    async fn text(
        &mut self,
        index: usize,
        text: &str,
        ids: &[u32],
        finish: Option<&str>,
    ) -> Result<(), Cut> {
        let text = serde_json::to_string(text).unwrap_or_default();
        let shown = match (self.is_chat, text.as_str()) {
            (true, "\"\"") => "{}".to_owned(),
            (true, text) => format!("{{\"content\":{text}}}"),
            (false, text) => text.to_owned(),
        };
        self.chunk(index, &shown, ids, finish).await
    }

    async fn chunk(
        &mut self,
        index: usize,
        shown: &str,
        ids: &[u32],
        finish: Option<&str>,
    ) -> Result<(), Cut> {
        let name = if self.is_chat { "delta" } else { "text" };
        let ends = finish.is_some();
        let finish = finish.map_or_else(|| "null".to_owned(), |finish| format!("\"{finish}\""));
        let mut event = String::with_capacity(self.head.len() + shown.len() + 160);
        event.push_str(&self.head);
        event.push_str("\"choices\":[{\"index\":");
        event.push_str(&index.to_string());
        event.push_str(",\"");
        event.push_str(name);
        event.push_str("\":");
        event.push_str(shown);
        event.push_str(",\"logprobs\":null,\"finish_reason\":");
        event.push_str(&finish);
        if self.returns_token_ids {
            event.push_str(&format!(",\"token_ids\":{ids:?}"));
        }
        if !self.is_chat && ends {
            event.push_str(&self.prompt_ids);
        }
        event.push_str("}]");
        if self.is_chat && !self.has_begun {
            event.push_str(&self.prompt_ids);
        }
        self.has_begun = true;
        if self.includes_usage {
            event.push_str(",\"usage\":null");
        }
        event.push_str("}\n\n");
        self.write(event.into_bytes()).await
    }

    async fn write(&mut self, mut event: Vec<u8>) -> Result<(), Cut> {
        let left = self.fate.after_bytes.saturating_sub(self.written) as usize;
        let breaks = matches!(self.fate.mode, Mode::Cut | Mode::Stall | Mode::Garbage);
        if breaks && event.len() > left {
            event.truncate(left);
            if self.fate.mode == Mode::Garbage {
                event.extend_from_slice(GARBAGE);
            }
            if !event.is_empty() {
                self.writer.send(Bytes::from(event)).await;
            }
            match self.fate.mode {
                Mode::Stall => std::future::pending::<()>().await,
                _ => flush().await,
            }
            return Err(Cut);
        }
        self.written += event.len() as u64;
        self.writer.send(Bytes::from(event)).await;
        Ok(())
    }
}

/// A whole body, or what is left of it.
pub(super) async fn write_whole(mut writer: Writer, bytes: Vec<u8>, fate: Fate) -> Result<(), Cut> {
    let cut = (fate.after_bytes as usize).min(bytes.len().saturating_sub(1));
    match fate.mode {
        Mode::Garbage => writer.send(Bytes::from_static(GARBAGE)).await,
        Mode::Cut | Mode::Stall => {
            writer.send(Bytes::from(bytes).slice(..cut)).await;
            match fate.mode {
                Mode::Stall => std::future::pending::<()>().await,
                _ => flush().await,
            }
            return Err(Cut);
        }
        _ => writer.send(Bytes::from(bytes)).await,
    }
    Ok(())
}

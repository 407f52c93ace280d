//! `fungible generate`: continues a text.

use std::time::Instant;

use llm::chat::{ChatInput, Message};
use llm::engine::Finish;
use llm::text::{Piece, TextStream};

use crate::arguments::GenerateArguments;
use crate::console::{self, DIM};
use crate::failure::{Exit, Failure, Outcome};
use crate::open::{self, Opened};

pub fn run(arguments: &GenerateArguments) -> Outcome {
    let started = Instant::now();
    let sampling = arguments.sampling.settings(0.0)?;
    let Opened { files, engine, progress } = open::open(&arguments.model, &arguments.device)?;
    // Not before: opening may start this program again, with whatever is left of standard input.
    let prompt = text_or_stdin(&arguments.prompt)?;
    let Some(tokenizer) = files.tokenizer()? else {
        return Err(no_tokenizer(&arguments.model));
    };
    let tokens = match arguments.chat {
        false => tokenizer.encode(&prompt, true)?,
        true => {
            let Some(template) = files.chat_template()? else {
                let message =
                    format!("`{}` has no chat template; leave --chat out", arguments.model);
                return Err(Failure::new(Exit::Failure, message));
            };
            let system = arguments.system.iter().map(|text| Message::new("system", text.clone()));
            let messages = system.chain([Message::new("user", prompt.clone())]).collect();
            tokenizer.encode(&template.render(&ChatInput::new(messages))?, false)?
        }
    };
    let end_tokens: &[u32] =
        if arguments.ignore_eos { &[] } else { &engine.config().eos_token_ids };
    let stop = arguments.stop.iter().filter(|text| !text.is_empty()).cloned().collect();
    let mut stream = TextStream::new(&tokenizer, &tokens, stop);
    let (mut text, mut ids, mut log_probs) = (String::new(), Vec::new(), Vec::new());
    let mut first_token_seconds = None;
    let mut failed = None;
    let mut session = engine.session();
    let show = !arguments.json;
    // Together with the first token: until then, progress has the terminal.
    let begin = || {
        progress.text_begins();
        if show && !arguments.chat {
            console::print_text(&prompt);
        }
    };
    let finish =
        session.generate(&tokens, arguments.max_tokens, &sampling, end_tokens, |generated| {
            if first_token_seconds.is_none() {
                first_token_seconds = Some(started.elapsed().as_secs_f64());
                begin();
            }
            ids.push(generated.token);
            log_probs.push(generated.log_prob);
            let piece = match stream.push(generated.token) {
                Ok(piece) => piece,
                Err(error) => {
                    failed = Some(error);
                    return false;
                }
            };
            emit(&piece, show, &mut text);
            !piece.stopped
        })?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    if first_token_seconds.is_none() {
        begin();
    }
    let stopped = stream.is_stopped();
    emit(&stream.finish()?, show, &mut text);
    let seconds = started.elapsed().as_secs_f64();
    let first = first_token_seconds.unwrap_or(seconds);
    let rate = rate(ids.len(), seconds - first);
    if arguments.json {
        let value = serde_json::json!({
            "text": text,
            "token_ids": ids,
            "log_probs": log_probs,
            "prompt_token_ids": tokens,
            "finish_reason": finish_reason(finish, stopped),
            "seconds_to_first_token": first,
            "tokens_per_second": rate,
        });
        console::line(value);
    } else {
        console::line("");
        let rate = rate.map_or_else(String::new, |rate| format!(", {rate:.1} tokens/s"));
        let line = format!("{} tokens, first after {first:.2} s{rate}", ids.len());
        console::remark(console::styled(DIM, &line));
    }
    Ok(())
}

fn emit(piece: &Piece, show: bool, text: &mut String) {
    text.push_str(&piece.text);
    if show {
        console::print_text(&piece.text);
    }
}

/// Tokens per second after the first one.
pub fn rate(tokens: usize, seconds: f64) -> Option<f64> {
    (tokens > 1 && seconds > 0.0).then(|| (tokens - 1) as f64 / seconds)
}

/// The name that OpenAI's API has for it.
pub fn finish_reason(finish: Finish, stopped: bool) -> &'static str {
    match finish {
        _ if stopped => "stop",
        Finish::EndOfSequence | Finish::Stopped => "stop",
        Finish::Length | Finish::ContextFull => "length",
    }
}

/// The argument itself, or all of standard input for `-`.
pub fn text_or_stdin(argument: &str) -> Result<String, Failure> {
    match argument {
        "-" => Ok(std::io::read_to_string(std::io::stdin())?),
        text => Ok(text.to_string()),
    }
}

pub fn no_tokenizer(model: &str) -> Failure {
    let message = format!(
        "`{model}` has no tokenizer.json; `fungible score --token-ids` is what works without one"
    );
    Failure::new(Exit::Failure, message)
}

//! `fungible chat`: a conversation at the terminal.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use llm::chat::{ChatInput, Message};
use llm::engine::{Finish, Sampling, Session};
use llm::text::TextStream;
use llm::{ChatTemplate, Tokenizer};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use super::generate::{no_tokenizer, rate};
use crate::arguments::ChatArguments;
use crate::console::{self, BOLD, DIM, Progress, styled};
use crate::failure::{Exit, Failure, Outcome};
use crate::open::{self, Opened};

/// Greedy small models repeat themselves; this is what most chat programs take.
const TEMPERATURE: f32 = 0.7;

pub fn run(arguments: &ChatArguments) -> Outcome {
    let sampling = arguments.sampling.settings(TEMPERATURE)?;
    let Opened { files, engine, progress } = open::open(&arguments.model, &arguments.device)?;
    let Some(tokenizer) = files.tokenizer()? else { return Err(no_tokenizer(&arguments.model)) };
    let Some(template) = files.chat_template()? else {
        let message = format!(
            "`{}` has no chat template, so it cannot hold a conversation; use `fungible generate`",
            arguments.model
        );
        return Err(Failure::new(Exit::Failure, message));
    };
    let mut chat = Chat {
        arguments,
        progress: &progress,
        sampling,
        tokenizer: &tokenizer,
        template: &template,
        session: engine.session(),
        end_tokens: &engine.config().eos_token_ids,
        context: engine.context(),
        messages: Vec::new(),
        stop: stop_flag()?,
    };
    chat.reset();
    progress.clear();
    let heading = format!("{} on {}", arguments.model, device_name(&engine));
    console::remark(styled(BOLD, &heading));
    let hint = "/reset starts over, /exit or Ctrl-D ends, Ctrl-C stops an answer";
    console::remark(styled(DIM, hint));
    let mut lines = Lines::new()?;
    while let Some(line) = lines.next()? {
        match line.trim() {
            "" => {}
            "/exit" | "/quit" => break,
            "/reset" => {
                chat.reset();
                console::remark(styled(DIM, "a new conversation"));
            }
            command if command.starts_with('/') => {
                console::warning(&format!(
                    "there is no command {command}; there are /reset and /exit"
                ));
            }
            text => {
                if let Err(failure) = chat.answer(text) {
                    // The conversation goes on without the message that failed.
                    console::error(&failure.to_string());
                }
            }
        }
    }
    Ok(())
}

fn device_name(engine: &llm::engine::Engine) -> String {
    let devices = engine.mesh().devices();
    let kind = devices.first().map_or("nothing", |device| device.kind());
    match devices.len() {
        1 => kind.to_string(),
        count => format!("{count} x {kind}"),
    }
}

/// Set by Ctrl-C while an answer is under way.
fn stop_flag() -> Result<Arc<AtomicBool>, Failure> {
    let flag = Arc::new(AtomicBool::new(false));
    let handler = flag.clone();
    ctrlc::set_handler(move || {
        // A second Ctrl-C before the first took effect ends the program.
        if handler.swap(true, Ordering::SeqCst) {
            runtime::end_process(Exit::Interrupted as i32);
        }
    })?;
    Ok(flag)
}

struct Chat<'a, 'e> {
    arguments: &'a ChatArguments,
    progress: &'a Progress,
    sampling: Sampling,
    tokenizer: &'a Tokenizer,
    template: &'a ChatTemplate,
    session: Session<'e>,
    end_tokens: &'a [u32],
    context: usize,
    messages: Vec<Message>,
    stop: Arc<AtomicBool>,
}

impl Chat<'_, '_> {
    fn reset(&mut self) {
        self.messages.clear();
        let system = self.arguments.system.iter();
        self.messages.extend(system.map(|text| Message::new("system", text.clone())));
    }

    /// Streams the answer to one message. An error leaves the conversation as it was before.
    fn answer(&mut self, text: &str) -> Outcome {
        let before = self.messages.clone();
        self.messages.push(Message::new("user", text));
        let answer = self.stream();
        self.progress.text_ends();
        match answer {
            Ok(answer) => {
                self.messages.push(Message::new("assistant", answer));
                Ok(())
            }
            Err(failure) => {
                self.messages = before;
                Err(failure)
            }
        }
    }

    fn stream(&mut self) -> Result<String, Failure> {
        let tokens = self.prompt()?;
        self.stop.store(false, Ordering::SeqCst);
        let started = Instant::now();
        let mut stream = TextStream::new(self.tokenizer, &tokens, Vec::new());
        let (mut answer, mut count, mut first, mut failed) = (String::new(), 0, None, None);
        let mut sampling = self.sampling.clone();
        // Each turn draws its own numbers, and the whole conversation still follows from the seed.
        sampling.seed = sampling.seed.wrapping_add(self.messages.len() as u64);
        let (max_tokens, stop) = (self.arguments.max_tokens, self.stop.clone());
        let progress = self.progress;
        let finish = self.session.generate(
            &tokens,
            max_tokens,
            &sampling,
            self.end_tokens,
            |generated| {
                if first.is_none() {
                    first = Some(Instant::now());
                    progress.text_begins();
                }
                count += 1;
                match stream.push(generated.token) {
                    Ok(piece) => {
                        console::print_text(&piece.text);
                        answer.push_str(&piece.text);
                    }
                    Err(error) => failed = Some(error),
                }
                failed.is_none() && !stop.load(Ordering::SeqCst)
            },
        )?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        let rest = stream.finish()?.text;
        answer.push_str(&rest);
        console::print_text(&rest);
        console::line("");
        self.stop.store(false, Ordering::SeqCst);
        let ended = match finish {
            Finish::Stopped => ", stopped",
            Finish::Length => ", cut off by --max-tokens",
            Finish::ContextFull => ", cut off by the context",
            Finish::EndOfSequence => "",
        };
        let first = first.unwrap_or(started);
        let speed = rate(count, first.elapsed().as_secs_f64());
        let speed = speed.map_or_else(String::new, |rate| format!(", {rate:.1} tokens/s"));
        let waited = (first - started).as_secs_f64();
        let line = format!("{count} tokens, first after {waited:.2} s{speed}{ended}");
        console::remark(styled(DIM, &line));
        Ok(answer)
    }

    /// The conversation as tokens. When it no longer fits with room for an answer, its oldest turns
    /// are left out, which is said.
    fn prompt(&mut self) -> Result<Vec<u32>, Failure> {
        let room = self.arguments.max_tokens.min(self.context / 4);
        let mut dropped = 0;
        loop {
            let text = self.template.render(&ChatInput::new(self.messages.clone()))?;
            let tokens = self.tokenizer.encode(&text, false)?;
            let system = usize::from(self.arguments.system.is_some());
            let turns = self.messages.len() - system;
            if tokens.len() + room <= self.context || turns <= 1 {
                if dropped > 0 {
                    let message =
                        format!("the context is full: {dropped} old messages were left out");
                    console::warning(&message);
                }
                return Ok(tokens);
            }
            self.messages.drain(system..system + 2.min(turns - 1));
            dropped += 2.min(turns - 1);
        }
    }
}

/// Lines from a terminal with editing and history, or from a pipe as they are.
enum Lines {
    Terminal(Box<DefaultEditor>),
    Pipe(std::io::Stdin),
}

impl Lines {
    fn new() -> Result<Lines, Failure> {
        Ok(match std::io::stdin().is_terminal() {
            true => Lines::Terminal(Box::new(DefaultEditor::new()?)),
            false => Lines::Pipe(std::io::stdin()),
        })
    }

    fn next(&mut self) -> Result<Option<String>, Failure> {
        match self {
            Lines::Pipe(stdin) => {
                let mut line = String::new();
                Ok((stdin.read_line(&mut line)? > 0).then_some(line))
            }
            Lines::Terminal(editor) => loop {
                match editor.readline("> ") {
                    Ok(line) => {
                        editor.add_history_entry(&line)?;
                        return Ok(Some(line));
                    }
                    // Ctrl-C at the prompt drops the line, as a shell does.
                    Err(ReadlineError::Interrupted) => {}
                    Err(ReadlineError::Eof) => return Ok(None),
                    Err(error) => return Err(error.into()),
                }
            },
        }
    }
}

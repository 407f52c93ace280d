//! One question to a model, answered as `fungible generate --chat` answers it.

use llm::chat::{ChatInput, Message};
use llm::engine::Sampling;
use llm::text::TextStream;

use crate::arguments::DeviceArguments;
use crate::commands::generate::no_tokenizer;
use crate::failure::{Exit, Failure};
use crate::open::{self, Opened};

/// Longest answer in tokens: a few sentences, in a few seconds.
const TOKENS_MAX: usize = 48;

/// The likeliest answer. The model leaves the device's memory before this returns.
pub fn answer(model: &str, device: &DeviceArguments, question: &str) -> Result<String, Failure> {
    let Opened { files, engine, progress } = open::open(model, device)?;
    let Some(tokenizer) = files.tokenizer()? else { return Err(no_tokenizer(model)) };
    let Some(template) = files.chat_template()? else {
        return Err(Failure::new(Exit::Failure, format!("`{model}` has no chat template")));
    };
    let input = ChatInput::new(vec![Message::new("user", question)]);
    let tokens = tokenizer.encode(&template.render(&input)?, false)?;
    let mut stream = TextStream::new(&tokenizer, &tokens, Vec::new());
    let (mut text, mut failed) = (String::new(), None);
    let end_tokens = &engine.config().eos_token_ids;
    let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    engine.session().generate(&tokens, TOKENS_MAX, &sampling, end_tokens, |generated| {
        match stream.push(generated.token) {
            Ok(piece) => text.push_str(&piece.text),
            Err(error) => failed = Some(error),
        }
        failed.is_none()
    })?;
    progress.clear();
    if let Some(error) = failed {
        return Err(error.into());
    }
    text.push_str(&stream.finish()?.text);
    Ok(text)
}

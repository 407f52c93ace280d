//! `fungible score`: the log-probability of every token.

use llm::Tokenizer;
use serde_json::{Value, json};

use super::generate::{no_tokenizer, text_or_stdin};
use crate::arguments::ScoreArguments;
use crate::console;
use crate::failure::Outcome;
use crate::open::{self, Opened};

pub fn run(arguments: &ScoreArguments) -> Outcome {
    let Opened { files, engine, progress } = open::open(&arguments.model, &arguments.device)?;
    let tokenizer = files.tokenizer()?;
    let tokens = match (&arguments.text, &arguments.token_ids, &tokenizer) {
        (Some(text), _, Some(tokenizer)) => tokenizer.encode(&text_or_stdin(text)?, true)?,
        (None, Some(ids), _) => ids.clone(),
        _ => return Err(no_tokenizer(&arguments.model)),
    };
    let scores = engine.score(&tokens, arguments.top)?;
    progress.clear();
    let log_probs: Vec<f64> =
        scores.iter().filter_map(|score| score.log_prob).map(f64::from).collect();
    let total: f64 = log_probs.iter().sum();
    let perplexity = (-total / log_probs.len().max(1) as f64).exp();
    let spell = |token: u32| spell(tokenizer.as_ref(), token);
    if arguments.json {
        let tokens: Vec<Value> = scores
            .iter()
            .map(|score| {
                let top: Vec<Value> = score
                    .top
                    .iter()
                    .map(|other| {
                        json!({"id": other.token, "text": spell(other.token), "log_prob": other.log_prob})
                    })
                    .collect();
                json!({"id": score.token, "text": spell(score.token), "log_prob": score.log_prob, "top": top})
            })
            .collect();
        let value = json!({
            "tokens": tokens,
            "total_log_prob": total,
            "perplexity": perplexity,
        });
        console::line(value);
        return Ok(());
    }
    let heading = ["place", "token", "id", "log-prob", "likeliest"];
    let mut rows = vec![heading.map(str::to_string).to_vec()];
    for (place, score) in scores.iter().enumerate() {
        let top: Vec<String> = score
            .top
            .iter()
            .map(|other| {
                format!("{} {:.2}", quoted(spell(other.token), other.token), other.log_prob)
            })
            .collect();
        rows.push(vec![
            place.to_string(),
            quoted(spell(score.token), score.token),
            score.token.to_string(),
            score.log_prob.map_or_else(|| "-".to_string(), |value| format!("{value:.4}")),
            top.join("  "),
        ]);
    }
    console::table(&rows);
    console::line(format_args!("total log-probability {total:.4}, perplexity {perplexity:.4}"));
    Ok(())
}

/// A token's text; nothing without a tokenizer.
fn spell(tokenizer: Option<&Tokenizer>, token: u32) -> Option<String> {
    tokenizer.and_then(|tokenizer| tokenizer.decode(&[token], false).ok())
}

fn quoted(text: Option<String>, token: u32) -> String {
    text.map_or_else(|| format!("#{token}"), |text| format!("{text:?}"))
}

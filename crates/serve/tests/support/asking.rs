//! Asking an engine, and reading all of its answer.

use serve::engine::{Answer, Drawn, Event, Failure, Finished, Request, Sampling};

/// A greedy request that ends at its limit of tokens.
pub fn request(prompt: &[u32], max_tokens: usize) -> Request {
    Request {
        id: String::new(),
        prompt: prompt.to_vec(),
        continued: Vec::new(),
        adapter: None,
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        max_tokens,
        min_tokens: 0,
        end_tokens: Vec::new(),
        top_log_probs: 0,
        constraint: None,
        priority: 0,
        owner: String::new(),
    }
}

/// All that was drawn, and how it ended.
pub fn read(mut answer: Answer) -> Result<(Vec<Drawn>, Finished), Failure> {
    let mut drawn = Vec::new();
    loop {
        match answer.next_blocking().expect("an answer has an end") {
            Event::Started(_) => {}
            Event::Token(token) => drawn.push(token),
            Event::Finished(finished) => return Ok((drawn, finished)),
            Event::Failed(failure) => return Err(failure),
        }
    }
}

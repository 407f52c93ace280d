//! What requests ask: texts of a wanted number of tokens, all different, or those of a data set.
//! Knows no tokenizer: how many tokens a text has is asked of the server.

use std::sync::Arc;

use serde_json::Value;

use super::arrivals::Random;
use super::error::LoadError;
use super::words::WORDS;

/// What every request is like.
#[derive(Clone, Debug)]
pub struct Work {
    /// Length of the prompts; of no meaning for a data set.
    pub input_tokens: usize,
    /// Length of the answers at most.
    pub output_tokens: usize,
    /// How many tokens all prompts begin with. Servers that keep prefixes compute them once.
    pub shared_prefix_tokens: usize,
    /// Prompts to take, in turn, instead of making some.
    pub dataset: Option<Arc<[Prompt]>>,
    pub temperature: f64,
    /// Ask for answers of full length, whatever the model would say.
    pub ignore_eos: bool,
    /// Decides prompts, arrivals and, with the number of a request, its own seed.
    pub seed: u64,
}

/// What one request asks.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    Text(String),
    /// A conversation, in the form of `/v1/chat/completions`.
    Messages(Vec<Value>),
}

/// The prompts of a data set: a JSON object per line, with a text as `prompt`, or a conversation as
/// `messages`. Other keys are passed over, and so are empty lines.
///
/// # Errors
/// [`LoadError::Dataset`] with the line's number, or [`LoadError::EmptyDataset`].
pub fn from_jsonl(text: &str) -> Result<Arc<[Prompt]>, LoadError> {
    let mut prompts = Vec::new();
    for (line, text) in (1..).zip(text.lines()).filter(|(_, text)| !text.trim().is_empty()) {
        let bad = |reason: String| LoadError::Dataset { line, reason };
        let mut value: Value =
            serde_json::from_str(text).map_err(|error| bad(format!("is no JSON: {error}")))?;
        let mut take = |key: &str| value.get_mut(key).map(Value::take).unwrap_or_default();
        let prompt = match (take("prompt"), take("messages")) {
            (Value::String(prompt), _) => Prompt::Text(prompt),
            (_, Value::Array(messages)) if !messages.is_empty() => Prompt::Messages(messages),
            _ => return Err(bad("has neither a text `prompt` nor a list `messages`".to_string())),
        };
        prompts.push(prompt);
    }
    match prompts.is_empty() {
        true => Err(LoadError::EmptyDataset),
        false => Ok(prompts.into()),
    }
}

/// Opens every made prompt: at the beginning of a text many tokenizers cut words otherwise than
/// within it, so the words come behind something that stays.
const OPENING: &str = "Words:";

/// Words that are joined at a time to find those of one token each.
const AT_ONCE: usize = 16;

/// What it takes to make a text of a given number of tokens.
#[derive(Clone, Debug)]
pub(super) struct Maker {
    words: Vec<&'static str>,
    /// Tokens that are there without any words: of the opening, of the chat template.
    added: f64,
    tokens_per_word: f64,
}

impl Maker {
    /// Finds the words that are one token each with `count`, which knows how many tokens a prompt
    /// becomes, and gives none where a server does not say.
    pub(super) fn calibrate(
        mut count: impl FnMut(&str) -> Result<Option<usize>, LoadError>,
    ) -> Result<Option<Maker>, LoadError> {
        let all: Vec<&'static str> = WORDS.split_whitespace().collect();
        let Some(one) = count(&text(&all[..1]))? else { return Ok(None) };
        let Some(two) = count(&text(&all[..2]))? else { return Ok(None) };
        // The first two words are the most frequent ones there are.
        let added = one.saturating_sub(two.saturating_sub(one));
        let mut words = Vec::new();
        for group in all.chunks(AT_ONCE) {
            if count(&text(group))? == Some(added + group.len()) {
                words.extend_from_slice(group);
                continue;
            }
            for word in group {
                if count(&text(&[word]))? == Some(added + 1) {
                    words.push(*word);
                }
            }
        }
        // A tokenizer of bytes or of another script: the average has to do.
        if words.len() < AT_ONCE {
            let tokens = count(&text(&all))?.unwrap_or(all.len()).saturating_sub(added);
            let tokens_per_word = tokens.max(1) as f64 / all.len() as f64;
            return Ok(Some(Maker { words: all, added: added as f64, tokens_per_word }));
        }
        Ok(Some(Maker { words, added: added as f64, tokens_per_word: 1.0 }))
    }

    /// For a server that does not count: `reported` is how many tokens it said a prompt of
    /// [`Maker::probe`] has.
    pub(super) fn estimate(reported: usize) -> Maker {
        let words: Vec<&'static str> = WORDS.split_whitespace().collect();
        let tokens_per_word = reported.max(1) as f64 / words.len() as f64;
        Maker { words, added: 0.0, tokens_per_word }
    }

    /// All words, to see how many tokens they are.
    pub(super) fn probe() -> String {
        text(&WORDS.split_whitespace().collect::<Vec<_>>())
    }

    /// Whether prompts have exactly the number of tokens that is asked for.
    pub(super) fn is_exact(&self) -> bool {
        self.tokens_per_word == 1.0 && self.added > 0.0
    }

    /// How many words make so many tokens, the opening and the template among them.
    fn words(&self, tokens: usize) -> usize {
        ((tokens as f64 - self.added).max(0.0) / self.tokens_per_word).round() as usize
    }

    /// # Errors
    /// When prompts of that length cannot be made.
    pub(super) fn check(&self, work: &Work) -> Result<(), LoadError> {
        if self.words(work.input_tokens) == 0 {
            let (wanted, added) = (work.input_tokens, self.added as usize);
            return Err(LoadError::ShortPrompt { wanted, added });
        }
        if work.shared_prefix_tokens >= work.input_tokens {
            let (prefix, input) = (work.shared_prefix_tokens, work.input_tokens);
            return Err(LoadError::Prefix { prefix, input });
        }
        Ok(())
    }

    /// The prompt of a request, by its number: like no other behind the shared prefix.
    pub(super) fn make(&self, work: &Work, number: u64) -> String {
        let total = self.words(work.input_tokens);
        let shared = self.words(work.shared_prefix_tokens).min(total);
        let mut words = Vec::with_capacity(total);
        let mut draw = |count: usize, random: &mut Random| {
            words.extend((0..count).map(|_| self.words[random.below(self.words.len())]));
        };
        draw(shared, &mut Random::new(work.seed, 2));
        draw(total - shared, &mut Random::new(work.seed, 3 + number));
        text(&words)
    }
}

fn text(words: &[&str]) -> String {
    format!("{OPENING} {}", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(input_tokens: usize, shared_prefix_tokens: usize) -> Work {
        Work {
            input_tokens,
            output_tokens: 1,
            shared_prefix_tokens,
            dataset: None,
            temperature: 0.0,
            ignore_eos: false,
            seed: 0,
        }
    }

    /// A tokenizer of whole words, that knows none with a `w`, and a template of five tokens.
    fn count(text: &str) -> usize {
        5 + text.split(' ').map(|word| if word.contains('w') { 2 } else { 1 }).sum::<usize>()
    }

    #[test]
    fn prompts_have_the_length_asked_for() {
        let maker = Maker::calibrate(|text| Ok(Some(count(text)))).unwrap().unwrap();
        assert!(maker.is_exact());
        assert!(maker.words.len() > 200 && !maker.words.contains(&"was"));
        for tokens in [7, 8, 100, 1000] {
            assert_eq!(count(&maker.make(&work(tokens, 0), 3)), tokens);
        }
        let error = maker.check(&work(6, 0)).unwrap_err();
        assert!(error.to_string().contains("adds 6 tokens"), "{error}");
        assert!(maker.check(&work(100, 100)).is_err());
        assert!(maker.check(&work(100, 99)).is_ok());
    }

    #[test]
    fn prompts_differ_behind_the_shared_prefix() {
        let maker = Maker::calibrate(|text| Ok(Some(count(text)))).unwrap().unwrap();
        let same =
            |a: &str, b: &str| a.split(' ').zip(b.split(' ')).take_while(|(a, b)| a == b).count();
        let (a, b) = (maker.make(&work(200, 0), 0), maker.make(&work(200, 0), 1));
        assert!(same(&a, &b) < 6, "{a} {b}");
        let (a, b) = (maker.make(&work(200, 150), 0), maker.make(&work(200, 150), 1));
        // 150 tokens, of which the template's five are no words.
        assert!((145..150).contains(&same(&a, &b)), "{}", same(&a, &b));
        assert_eq!(a, maker.make(&work(200, 150), 0));
    }

    #[test]
    fn other_tokenizers_are_estimated() {
        let bytes = |text: &str| Ok(Some(text.len()));
        let maker = Maker::calibrate(bytes).unwrap().unwrap();
        assert!(!maker.is_exact());
        let length = maker.make(&work(4000, 0), 1).len();
        assert!(length.abs_diff(4000) < 200, "{length}");
        assert!(Maker::calibrate(|_| Ok(None)).unwrap().is_none());
        let maker = Maker::estimate(Maker::probe().len());
        let length = maker.make(&work(4000, 0), 1).len();
        assert!(length.abs_diff(4000) < 200, "{length}");
    }

    #[test]
    fn data_sets_are_checked() {
        let text = "{\"prompt\": \"a\", \"id\": 1}\n\n{\"messages\": [{\"role\": \"user\", \"content\": \"b\"}]}\n";
        let prompts = from_jsonl(text).unwrap();
        assert_eq!(prompts[0], Prompt::Text("a".to_string()));
        assert!(matches!(&prompts[1], Prompt::Messages(messages) if messages.len() == 1));
        for (text, wanted) in [
            ("{\"prompt\": \"a\"}\noops", "line 2"),
            ("{\"text\": \"a\"}", "neither"),
            ("[1]", "neither"),
            ("\"a\"", "neither"),
            ("{\"messages\": []}", "neither"),
            ("\n", "empty"),
        ] {
            let error = from_jsonl(text).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }
}

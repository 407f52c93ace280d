//! Tokenizers, random answers under a constraint, and a small validator of JSON schemas, written
//! apart from what it checks.

#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::panic, reason = "a test fails by panicking, in its helpers too")]

#[path = "../../../../tests/support/mod.rs"]
pub mod shared;

use std::path::Path;
use std::sync::Arc;

use llm::gguf::{self, Array, Metadata, Numbers};
use llm::tokenizer::TokenizerSettings;
use llm::{ModelFiles, Tokenizer};
use serde_json::{Value, json};
use serve::constraint::ModelStructures;
use serve::engine::Constraint;
use serve::parse::{ReasoningFormat, ToolFormat};
use serve::structure::{StructureError, StructureSpec, Structures};

/// A tokenizer with the structures on it.
pub struct Subject {
    pub tokenizer: Arc<Tokenizer>,
    pub structures: ModelStructures,
    pub vocab_size: usize,
    pub end: u32,
    /// The end of the prompt.
    pub prompt: &'static str,
}

impl Subject {
    pub fn new(
        tokenizer: Tokenizer,
        tools: Option<ToolFormat>,
        reasoning: Option<ReasoningFormat>,
    ) -> Subject {
        let end = tokenizer.eos_token_id().unwrap();
        // A model's vocabulary is padded.
        let vocab_size = (tokenizer.vocab_size() + 1).next_multiple_of(64);
        let tokenizer = Arc::new(tokenizer);
        let structures =
            ModelStructures::new(Arc::clone(&tokenizer), vocab_size, &[end], tools, reasoning);
        // What a template that opens the tag ends with.
        let opens = reasoning == Some(ReasoningFormat::Opened);
        let prompt = if opens { "<think>\n" } else { "" };
        Subject { tokenizer, structures: structures.unwrap(), vocab_size, end, prompt }
    }

    /// A byte-level vocabulary of 384 tokens.
    pub fn tiny() -> Subject {
        Subject::tiny_with(Some(ToolFormat::Hermes), None)
    }

    pub fn tiny_with(tools: Option<ToolFormat>, reasoning: Option<ReasoningFormat>) -> Subject {
        Subject::new(tiny_tokenizer(), tools, reasoning)
    }

    pub fn constraint(&self, spec: &StructureSpec) -> Box<dyn Constraint> {
        self.structures
            .constraint(spec, self.prompt)
            .unwrap_or_else(|error| panic!("{error}: {spec:?}"))
    }

    pub fn refusal(&self, spec: &StructureSpec) -> StructureError {
        match self.structures.constraint(spec, self.prompt) {
            Ok(_) => panic!("accepted: {spec:?}"),
            Err(error) => error,
        }
    }

    pub fn allowed(&self, constraint: &mut dyn Constraint) -> Result<Vec<u32>, String> {
        let mut mask = vec![u32::MAX; self.vocab_size.div_ceil(32)];
        constraint.allow(&mut mask)?;
        let bits = (0..u32::try_from(mask.len() * 32).unwrap())
            .filter(|token| mask[*token as usize / 32] >> (token % 32) & 1 == 1);
        Ok(bits.collect())
    }

    /// Whether the whole of `text` is possible and may end there.
    pub fn accepts(&self, spec: &StructureSpec, text: &str) -> bool {
        let mut constraint = self.constraint(spec);
        for token in self.tokenizer.encode(text, false).unwrap() {
            // Forced text is allowed in one way of cutting it only, but taken in all.
            if constraint.is_complete() || constraint.advance(token).is_err() {
                return false;
            }
        }
        constraint.is_complete()
            || self.allowed(constraint.as_mut()).is_ok_and(|allowed| allowed.contains(&self.end))
    }

    /// A random answer, drawn towards its end after a while.
    pub fn answer(&self, spec: &StructureSpec, seed: u64) -> (Vec<u32>, String) {
        self.answer_behind(spec, "", seed)
    }

    /// The same, with its beginning given.
    pub fn answer_behind(
        &self,
        spec: &StructureSpec,
        beginning: &str,
        seed: u64,
    ) -> (Vec<u32>, String) {
        let closers: Vec<u32> = ["\"", "}", "]", "</tool_call>"]
            .iter()
            .filter_map(|text| self.tokenizer.token_to_id(text))
            .collect();
        let mut constraint = self.constraint(spec);
        let mut random = seed;
        let mut tokens = self.tokenizer.encode(beginning, false).unwrap();
        tokens.iter().for_each(|token| constraint.advance(*token).unwrap());
        while !constraint.is_complete() {
            assert!(tokens.len() < 5_000, "no end: {}", self.text(&tokens));
            let allowed = self
                .allowed(constraint.as_mut())
                .unwrap_or_else(|error| panic!("{error} after {}", self.text(&tokens)));
            assert!(!allowed.is_empty(), "nothing may follow {}", self.text(&tokens));
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let tired = tokens.len() > 12 && (random >> 60) > 4;
            if allowed.contains(&self.end) && (tired || allowed.len() == 1) {
                break;
            }
            let closer = closers.iter().copied().find(|token| tired && allowed.contains(token));
            let drawn = allowed[(random >> 33) as usize % allowed.len()];
            let token = closer.unwrap_or(drawn);
            if token == self.end {
                break;
            }
            constraint.advance(token).unwrap_or_else(|error| {
                panic!("{error}: {token} was allowed after {}", self.text(&tokens))
            });
            tokens.push(token);
        }
        let text = self.text(&tokens);
        (tokens, text)
    }

    pub fn text(&self, tokens: &[u32]) -> String {
        self.tokenizer.decode(tokens, false).unwrap()
    }
}

pub fn tiny_tokenizer() -> Tokenizer {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/models/smollm2");
    ModelFiles::open(&folder).unwrap().tokenizer().unwrap().unwrap()
}

/// The tiny vocabulary with tags as tokens, which text cannot spell if they are `special`.
pub fn tagged_tokenizer(special: bool) -> Tokenizer {
    let mut json: Value = serde_json::from_str(&tiny_tokenizer().to_json().unwrap()).unwrap();
    let added = json["added_tokens"].as_array_mut().unwrap();
    let tags =
        ["<tool_call>", "</tool_call>", "<|python_tag|>", "[TOOL_CALLS]", "<think>", "</think>"];
    for (index, tag) in tags.iter().enumerate() {
        added.push(json!({ "id": 384 + index, "content": tag, "special": special,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false }));
    }
    let settings = TokenizerSettings {
        special_tokens: tiny_tokenizer().special_tokens().clone(),
        ..TokenizerSettings::default()
    };
    Tokenizer::from_json(&json.to_string(), &settings).unwrap()
}

/// A SentencePiece vocabulary: bytes, ASCII and a few words, one of them with a space in front.
pub fn sentence_piece() -> Tokenizer {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    let mut types = vec![2_i32, 3, 3];
    for byte in 0..=255 {
        tokens.push(format!("<0x{byte:02X}>"));
        types.push(6);
    }
    let letters = (' '..='~').map(|character| character.to_string().replace(' ', "▁"));
    let words = ["▁{", "\":", "▁\"", "na", "name", "▁name", "true", "é", "▁▁"];
    let pieces: Vec<String> = letters.chain(words.map(str::to_owned)).collect();
    types.extend(vec![1; pieces.len()]);
    tokens.extend(pieces);
    let scores: Vec<f32> = (0..tokens.len()).map(|index| -(index as f32)).collect();
    let mut metadata = Metadata::default();
    metadata.insert("tokenizer.ggml.model", gguf::Value::String("llama".to_owned()));
    metadata.insert("tokenizer.ggml.tokens", gguf::Value::Array(Array::Strings(tokens)));
    let numbers = |numbers| gguf::Value::Array(Array::Numbers(numbers));
    metadata.insert("tokenizer.ggml.scores", numbers(Numbers::from(scores.as_slice())));
    metadata.insert("tokenizer.ggml.token_type", numbers(Numbers::from(types.as_slice())));
    metadata.insert("tokenizer.ggml.bos_token_id", gguf::Value::Unsigned(1));
    metadata.insert("tokenizer.ggml.eos_token_id", gguf::Value::Unsigned(2));
    Tokenizer::from_gguf(&metadata).unwrap()
}

/// Whether `value` is an instance of `schema`, with what the tests use of JSON Schema.
pub fn valid(root: &Value, schema: &Value, value: &Value) -> bool {
    let Value::Object(members) = schema else { return schema != &Value::Bool(false) };
    let all = |schemas: &Value| {
        schemas
            .as_array()
            .unwrap()
            .iter()
            .map(|schema| valid(root, schema, value))
            .collect::<Vec<_>>()
    };
    members.iter().all(|(key, wanted)| match key.as_str() {
        "$ref" => {
            let pointer = wanted.as_str().unwrap().trim_start_matches('#');
            valid(root, root.pointer(pointer).unwrap(), value)
        }
        "type" => match wanted {
            Value::Array(kinds) => kinds.iter().any(|kind| is_of(kind.as_str().unwrap(), value)),
            kind => is_of(kind.as_str().unwrap(), value),
        },
        "enum" => wanted.as_array().unwrap().iter().any(|choice| same(choice, value)),
        "const" => same(wanted, value),
        "anyOf" => all(wanted).contains(&true),
        "allOf" => !all(wanted).contains(&false),
        "minimum" => value.as_f64().is_none_or(|value| value >= wanted.as_f64().unwrap()),
        "maximum" => value.as_f64().is_none_or(|value| value <= wanted.as_f64().unwrap()),
        "multipleOf" => value.as_f64().is_none_or(|value| value % wanted.as_f64().unwrap() == 0.0),
        "minLength" => value
            .as_str()
            .is_none_or(|text| text.chars().count() as u64 >= wanted.as_u64().unwrap()),
        "maxLength" => value
            .as_str()
            .is_none_or(|text| text.chars().count() as u64 <= wanted.as_u64().unwrap()),
        "minItems" => {
            value.as_array().is_none_or(|items| items.len() as u64 >= wanted.as_u64().unwrap())
        }
        "maxItems" => {
            value.as_array().is_none_or(|items| items.len() as u64 <= wanted.as_u64().unwrap())
        }
        "items" => value.as_array().is_none_or(|items| {
            let first =
                members.get("prefixItems").map_or(0, |items| items.as_array().unwrap().len());
            items.iter().skip(first).all(|item| valid(root, wanted, item))
        }),
        "prefixItems" => value.as_array().is_none_or(|items| {
            wanted
                .as_array()
                .unwrap()
                .iter()
                .zip(items)
                .all(|(schema, item)| valid(root, schema, item))
        }),
        "required" => value.as_object().is_none_or(|object| {
            wanted
                .as_array()
                .unwrap()
                .iter()
                .all(|name| object.contains_key(name.as_str().unwrap()))
        }),
        "properties" => value.as_object().is_none_or(|object| {
            wanted.as_object().unwrap().iter().all(|(name, schema)| {
                object.get(name).is_none_or(|value| valid(root, schema, value))
            })
        }),
        "additionalProperties" => value.as_object().is_none_or(|object| {
            object
                .iter()
                .filter(|(name, _)| {
                    members.get("properties").is_none_or(|known| known.get(name).is_none())
                })
                .all(|(_, value)| valid(root, wanted, value))
        }),
        "pattern" => value.as_str().is_none_or(|text| {
            let mut bytes = wanted.as_str().unwrap().bytes();
            assert!(bytes.by_ref().eq("^[A-Z]{2}-[0-9]{3}$".bytes()), "no other pattern is known");
            let kinds: Vec<bool> = text
                .bytes()
                .enumerate()
                .map(|(at, byte)| match at {
                    0 | 1 => byte.is_ascii_uppercase(),
                    2 => byte == b'-',
                    _ => byte.is_ascii_digit(),
                })
                .collect();
            kinds == [true; 6]
        }),
        "$defs" | "definitions" | "$schema" | "title" | "description" | "format" => true,
        other => panic!("the validator does not know `{other}`"),
    })
}

fn same(left: &Value, right: &Value) -> bool {
    match (left.as_f64(), right.as_f64()) {
        (Some(left), Some(right)) => left == right,
        _ => left == right,
    }
}

fn is_of(kind: &str, value: &Value) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|value| value.fract() == 0.0),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("there is no type `{other}`"),
    }
}

//! Tokenizers from GGUF metadata against llama.cpp and sentencepiece (`goldens/make_tokenizer.py`),
//! and the stream decoder.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panicking and skips by saying so, in its helpers too"
)]

mod support;

use std::collections::BTreeMap;

use llm::gguf::{Array, Metadata, Numbers, Value};
use llm::tokenizer::{TokenizerError, TokenizerSettings};
use llm::{Checkpoint, IncrementalDecoder, ModelFiles, Tokenizer};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    texts: Vec<String>,
    byte_level: BTreeMap<String, Vec<Vec<u32>>>,
    sentence_piece: SentencePiece,
}

#[derive(Deserialize)]
struct SentencePiece {
    tokens: Vec<String>,
    scores: Vec<f32>,
    types: Vec<i32>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("goldens/tokenizer.json")).unwrap()
}

fn strings(values: &[&str]) -> Value {
    Value::Array(Array::Strings(values.iter().map(|value| (*value).to_owned()).collect()))
}

fn string(value: &str) -> Value {
    Value::String(value.to_owned())
}

#[test]
fn byte_level_ids_are_those_of_llama_cpp() {
    let Some(path) = support::smollm2("byte_level_ids_are_those_of_llama_cpp") else { return };
    let golden = golden();
    let (_, gguf) = Checkpoint::open_gguf(&path).unwrap();
    assert!(golden.byte_level.len() >= 6 && golden.texts.len() >= 30);
    for (pre, expected) in &golden.byte_level {
        let mut metadata = gguf.metadata.clone();
        metadata.insert("tokenizer.ggml.pre", string(pre));
        let tokenizer = Tokenizer::from_gguf(&metadata).unwrap();
        for (text, expected) in golden.texts.iter().zip(expected) {
            // llama.cpp does not compose accents first; Hugging Face's Qwen2 tokenizer, which
            // counts, does.
            if pre == "qwen2" && text.contains('\u{301}') {
                continue;
            }
            let ids = tokenizer.encode(text, false).unwrap();
            assert_eq!(&ids, expected, "{pre}: {text:?}");
            assert_eq!(&tokenizer.decode(&ids, false).unwrap(), text, "{pre}");
        }
    }
}

#[test]
fn smollm2_knows_its_special_tokens() {
    let Some(path) = support::smollm2("smollm2_knows_its_special_tokens") else { return };
    let files = llm::ModelFiles::open(&path).unwrap();
    let tokenizer = files.tokenizer().unwrap().unwrap();
    assert_eq!(tokenizer.vocab_size(), 49152);
    assert_eq!((tokenizer.bos_token_id(), tokenizer.eos_token_id()), (Some(1), Some(2)));
    assert_eq!(tokenizer.token_to_id("<|im_end|>"), Some(2));
    assert_eq!(tokenizer.id_to_token(260).as_deref(), Some("Ġthe"));
    // The file says `add_bos_token` = false.
    assert_eq!(tokenizer.encode("The", true).unwrap(), tokenizer.encode("The", false).unwrap());
    assert_eq!(tokenizer.decode(&[1, 504, 2], true).unwrap(), "The");
    assert!(matches!(
        tokenizer.decode(&[49152], true),
        Err(TokenizerError::UnknownId { id: 49152, .. })
    ));

    let messages = vec![llm::chat::Message::new("user", "Hi")];
    let template = files.chat_template().unwrap().unwrap();
    let text = template.render(&llm::chat::ChatInput::new(messages)).unwrap();
    assert!(text.ends_with("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"), "{text}");
    assert_eq!(tokenizer.encode(&text, false).unwrap()[0], 1);
}

fn sentence_piece() -> (Tokenizer, Vec<Case>) {
    let golden = golden().sentence_piece;
    let mut metadata = Metadata::default();
    metadata.insert("tokenizer.ggml.model", string("llama"));
    metadata.insert("tokenizer.ggml.tokens", Value::Array(Array::Strings(golden.tokens)));
    metadata.insert(
        "tokenizer.ggml.scores",
        Value::Array(Array::Numbers(Numbers::from(golden.scores.as_slice()))),
    );
    metadata.insert(
        "tokenizer.ggml.token_type",
        Value::Array(Array::Numbers(Numbers::from(golden.types.as_slice()))),
    );
    metadata.insert("tokenizer.ggml.bos_token_id", Value::Unsigned(1));
    metadata.insert("tokenizer.ggml.eos_token_id", Value::Unsigned(2));
    (Tokenizer::from_gguf(&metadata).unwrap(), golden.cases)
}

#[test]
fn sentence_piece_ids_are_those_of_sentencepiece() {
    let (tokenizer, cases) = sentence_piece();
    assert!(cases.len() >= 30);
    for Case { text, ids } in cases {
        assert_eq!(tokenizer.encode(&text, false).unwrap(), ids, "{text:?}");
        let decoded = tokenizer.decode(&ids, false).unwrap();
        // The stand-in for a space cannot be told from one.
        assert_eq!(decoded, text.replace('▁', " "));
        let framed = tokenizer.encode(&text, true).unwrap();
        assert_eq!(framed, [&[1], ids.as_slice()].concat());
    }
}

/// What every token adds behind a letter, byte for byte, is what decoding shows of it.
fn check_token_bytes(tokenizer: &Tokenizer) {
    let before = tokenizer.encode("a", false).unwrap();
    let context = tokenizer.decode(&before, false).unwrap();
    let mut compared = 0;
    for id in 0..u32::try_from(tokenizer.vocab_size()).unwrap() {
        let bytes = tokenizer.token_bytes(id).unwrap();
        let whole = tokenizer.decode(&[before.as_slice(), &[id]].concat(), false).unwrap();
        // A lone byte of a character shows as U+FFFD, of which there may be fewer than bytes.
        if let (Ok(text), Some(added)) = (String::from_utf8(bytes), whole.strip_prefix(&context)) {
            assert_eq!(added, text, "{id}");
            compared += 1;
        }
    }
    assert!(compared * 2 > tokenizer.vocab_size(), "only {compared} compared");
    assert_eq!(tokenizer.token_bytes(u32::MAX), None);
}

#[test]
fn bytes_of_tokens_are_those_that_decoding_shows() {
    let (tokenizer, _) = sentence_piece();
    check_token_bytes(&tokenizer);
    let newline = tokenizer.token_to_id("<0x0A>").unwrap();
    let byte = tokenizer.token_to_id("<0xFF>").unwrap();
    assert_eq!(tokenizer.token_bytes(newline).unwrap(), b"\n");
    assert_eq!(tokenizer.token_bytes(byte).unwrap(), [0xff]);
    let Some(path) = support::smollm2("bytes_of_tokens_are_those_that_decoding_shows") else {
        return;
    };
    let tokenizer = ModelFiles::open(&path).unwrap().tokenizer().unwrap().unwrap();
    check_token_bytes(&tokenizer);
    // Cut inside a character, the tokens of a text still add up to its bytes.
    let text = "naïve 日本語 😀\n";
    let bytes: Vec<u8> = tokenizer
        .encode(text, false)
        .unwrap()
        .into_iter()
        .flat_map(|id| tokenizer.token_bytes(id).unwrap())
        .collect();
    assert_eq!(bytes, text.as_bytes());
}

fn streamed(tokenizer: &Tokenizer, prompt: &[u32], ids: &[u32]) -> (String, String) {
    let mut decoder = IncrementalDecoder::new(prompt, false);
    let pushed: String = ids.iter().map(|id| decoder.push(tokenizer, *id).unwrap()).collect();
    let rest = decoder.flush(tokenizer).unwrap();
    (pushed, rest)
}

#[test]
fn streams_equal_whole_texts() {
    let (tokenizer, cases) = sentence_piece();
    for Case { text, ids } in cases {
        let whole = tokenizer.decode(&ids, false).unwrap();
        let (pushed, rest) = streamed(&tokenizer, &[], &ids);
        assert_eq!(pushed + &rest, whole, "{text:?}");
        // Cut anywhere, a stream that continues a prompt gives what the prompt lacks.
        for cut in 0..ids.len() {
            let prompt = tokenizer.decode(&ids[..cut], false).unwrap();
            if !prompt.ends_with('\u{fffd}') {
                let (pushed, rest) = streamed(&tokenizer, &ids[..cut], &ids[cut..]);
                assert_eq!(prompt + &pushed + &rest, whole, "{text:?} cut at {cut}");
            }
        }
    }
}

#[test]
fn incomplete_characters_are_held_back_until_complete_or_hopeless() {
    let (tokenizer, _) = sentence_piece();
    let byte = |byte: u8| tokenizer.token_to_id(&format!("<0x{byte:02X}>")).unwrap();
    let prompt = tokenizer.encode("rain", false).unwrap();
    let mut decoder = IncrementalDecoder::new(&prompt, false);
    let mut push = |id| decoder.push(&tokenizer, id).unwrap();
    assert_eq!([push(byte(0xf0)), push(byte(0x9f)), push(byte(0x98))], ["", "", ""]);
    assert_eq!(push(byte(0x80)), "😀");
    // A lone byte that begins a character is all there ever was.
    assert_eq!(push(byte(0xe4)), "");
    assert_eq!(decoder.flush(&tokenizer).unwrap(), "\u{fffd}");
    assert_eq!(decoder.flush(&tokenizer).unwrap(), "");
    // Bytes that can never become a character do not dam up the stream.
    let hopeless: Vec<u32> = std::iter::repeat_n(byte(0xff), 40).collect();
    let (pushed, rest) = streamed(&tokenizer, &prompt, &hopeless);
    assert_eq!((pushed + &rest).chars().filter(|character| *character == '\u{fffd}').count(), 40);
}

/// A byte-level vocabulary of six tokens.
fn tiny() -> Metadata {
    let mut metadata = Metadata::default();
    metadata.insert("tokenizer.ggml.model", string("gpt2"));
    metadata.insert("tokenizer.ggml.pre", string("gpt-2"));
    metadata.insert("tokenizer.ggml.tokens", strings(&["a", "b", "ab", "Ġ", "Ġab", "<end>"]));
    metadata.insert("tokenizer.ggml.merges", strings(&["a b", "Ġ ab"]));
    metadata.insert(
        "tokenizer.ggml.token_type",
        Value::Array(Array::Numbers(Numbers::from(&[1, 1, 1, 1, 1, 3][..]))),
    );
    metadata
}

#[test]
fn wrong_vocabularies_are_errors_that_say_what() {
    assert_eq!(
        Tokenizer::from_gguf(&tiny()).unwrap().encode("ab ab<end>b", false).unwrap(),
        [2, 4, 5, 1]
    );
    let message = |key: &str, value: Value| {
        let mut metadata = tiny();
        metadata.insert(key, value);
        let error = Tokenizer::from_gguf(&metadata).unwrap_err();
        let source = std::error::Error::source(&error)
            .map(|source| format!(": {source}"))
            .unwrap_or_default();
        format!("{error}{source}")
    };
    for (key, value, part) in [
        ("tokenizer.ggml.model", string("t5"), "tokenizer model `t5`"),
        (
            "tokenizer.ggml.pre",
            string("new"),
            "pre-tokenizer `new` in the GGUF metadata is not supported, only gpt-2",
        ),
        ("tokenizer.ggml.tokens", strings(&[]), "missing or empty"),
        (
            "tokenizer.ggml.tokens",
            strings(&["a", "b", "a", "c", "d", "e"]),
            "token `a` appears twice",
        ),
        ("tokenizer.ggml.tokens", strings(&["a", "b"]), "6 token types for 2 tokens"),
        ("tokenizer.ggml.merges", strings(&["ab"]), "`ab` is no pair"),
        ("tokenizer.ggml.merges", strings(&["a c"]), "`c`"),
        ("tokenizer.ggml.merges", string("a b"), "`tokenizer.ggml.merges` is a string"),
        (
            "tokenizer.ggml.eos_token_id",
            Value::Unsigned(6),
            "`tokenizer.ggml.eos_token_id` is 6, beyond its 6 tokens",
        ),
    ] {
        let message = message(key, value);
        assert!(message.contains(part), "{message} should contain {part}");
    }
}

#[test]
fn tokenizer_json_with_its_settings() {
    let json = r#"{
        "version": "1.0", "truncation": {"max_length": 2, "strategy": "LongestFirst",
        "stride": 0, "direction": "Right"},
        "padding": null, "normalizer": null, "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": null,
        "decoder": null,
        "added_tokens": [{"id": 0, "content": "<s>", "single_word": false, "lstrip": false,
        "rstrip": false,
                          "normalized": false, "special": true}],
        "model": {"type": "WordLevel", "vocab": {"<s>": 0, "</s>": 1, "<unk>": 2, "rain": 3,
        "river": 4}, "unk_token": "<unk>"}
    }"#;
    let settings = |text: &str| TokenizerSettings::from_json(text).unwrap();
    let plain = Tokenizer::from_json(json, &TokenizerSettings::default()).unwrap();
    // The file's own truncation must not cut prompts.
    assert_eq!(plain.encode("rain river rain", true).unwrap(), [3, 4, 3]);
    let framed = settings(
        r#"{"bos_token": {"content": "<s>", "lstrip": false}, "eos_token": "</s>",
        "pad_token": null,
            "add_bos_token": true, "add_eos_token": true,
            "chat_template": [{"name": "default", "template": "D"}, {"name": "rag",
            "template": "R"}]}"#,
    );
    assert_eq!(framed.chat_template.as_deref(), Some("D"));
    assert_eq!(framed.named_chat_templates["rag"], "R");
    let tokenizer = Tokenizer::from_json(json, &framed).unwrap();
    assert_eq!(tokenizer.encode("rain", true).unwrap(), [0, 3, 1]);
    assert_eq!(tokenizer.encode("rain", false).unwrap(), [3]);
    assert_eq!(tokenizer.special_tokens().len(), 2);

    let unknown = Tokenizer::from_json(json, &settings(r#"{"eos_token": "<end>"}"#)).unwrap_err();
    assert!(unknown.to_string().contains("`eos_token` is `<end>`"), "{unknown}");
    assert!(matches!(Tokenizer::from_json("{", &framed), Err(TokenizerError::Json { .. })));
    assert!(TokenizerSettings::from_json("[]").is_err());
}

//! What a source can be, and what is said of one that is no good.

use proptest::prelude::*;
use train::data::Format;

use super::*;

/// All of a source's tokens, row by row.
fn tokens(sandbox: &Sandbox, source: SourceConfig) -> Vec<i32> {
    let data = sandbox.open(&config(8, &[source]), 1).unwrap();
    let steps = 0..data.training.batches();
    steps.flat_map(|step| data.training.batch(step, 0..1).unwrap().tokens).collect()
}

#[test]
fn a_file_a_folder_and_a_pattern() {
    let sandbox = Sandbox::new();
    sandbox.write("data/a.txt", "first");
    sandbox.write("data/b/c.txt", "second");
    sandbox.write("data/.hidden.txt", "never");
    sandbox.write("data/LICENSE", "not a text for us");
    let path = |name: &str| sandbox.path(name).to_str().unwrap().to_owned();
    let text = |source: SourceConfig| sandbox.text(tokens(&sandbox, source));
    assert_eq!(
        text(at(&path("data"))),
        "first<|endoftext|>second<|endoftext|><|endoftext|><|endoftext|><|endoftext|>"
    );
    assert_eq!(text(at(&path("data/*.txt"))), "first<|endoftext|><|endoftext|><|endoftext|>");
    assert!(text(at(&path("data/**/*.txt"))).contains("second"));
    let all = SourceConfig { format: Some(Format::Text), ..at(&path("data")) };
    assert!(text(all).contains("not a text for us"));
    let named = SourceConfig { format: Some(Format::Text), ..at(&path("data/LICENSE")) };
    assert!(text(named).starts_with("not a text"));
}

#[test]
fn lines_of_json() {
    let sandbox = Sandbox::new();
    let path = sandbox.write(
        "data.jsonl",
        "{\"text\": \"one\", \"id\": 1}\n\n{\"text\": \"\"}\n{\"text\": null}\n{\"id\": 2, \"text\": \"tw\\u00f6\"}",
    );
    let text = sandbox.text(tokens(&sandbox, at(&path)));
    assert_eq!(text, "one<|endoftext|>twö");
    let path = sandbox.write("other.jsonl", "{\"story\": \"once\"}\n");
    let source = SourceConfig { column: Some("story".to_owned()), ..at(&path) };
    assert!(sandbox.text(tokens(&sandbox, source)).starts_with("once<|endoftext|>"));
}

#[test]
fn gaps_are_of_either_kind() {
    let mut sandbox = Sandbox::new();
    let template = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n\
        {% endfor %}";
    sandbox.template = Some(ChatTemplate::new(template, &Default::default()).unwrap());
    let gap = r#"{"messages": null}"#;
    let chat = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    for lines in [[gap, chat], [chat, gap]] {
        let path = sandbox.write("chat.jsonl", lines.join("\n"));
        let data = sandbox.open(&config(32, &[at(&path)]), 1).unwrap();
        assert_eq!(data.training.sources()[0].documents, 1);
        assert!(data.training.batch(0, 0..1).unwrap().targets_count() > 0);
    }
    // A gap before the first conversation does not hide the template.
    let open = |sandbox: &Sandbox| {
        let path = sandbox.write("chat.jsonl", [gap, chat].join("\n"));
        sandbox.open(&config(32, &[at(&path)]), 1).unwrap().training.batch(0, 0..1).unwrap()
    };
    let before = open(&sandbox);
    sandbox.template =
        Some(ChatTemplate::new(&template.replace(": ", "> "), &Default::default()).unwrap());
    assert_ne!(open(&sandbox), before);
    let path = sandbox.write("gaps.jsonl", gap);
    assert!(sandbox.refusal(at(&path)).contains("no usable document"));
}

#[test]
fn parquet_holds_the_same_as_lines_of_json() {
    let mut sandbox = Sandbox::new();
    let expected = tokens(&sandbox, at(&fixture("text.jsonl")));
    assert!(sandbox.text(expected.clone()).contains("Document 19: na na na na bätman 🦇"));
    for compression in ["none", "snappy", "gzip", "zstd"] {
        let source = at(&fixture(&format!("text-{compression}.parquet")));
        assert_eq!(tokens(&sandbox, source), expected, "{compression}");
    }
    // `name` shows that what a message lacks is absent, not null.
    let template = "{% for message in messages %}{{ message.role }}{{ message.name is defined }}: \
        {{ message.content }}\n{% endfor %}";
    sandbox.template = Some(ChatTemplate::new(template, &Default::default()).unwrap());
    let open = |name: &str| sandbox.open(&config(128, &[at(&fixture(name))]), 3).unwrap();
    let expected = open("chat.jsonl").training.batch(0, 0..3).unwrap();
    assert_eq!(open("chat.parquet").training.batch(0, 0..3).unwrap(), expected);
    assert!(expected.targets_count() > 0);
    let source =
        SourceConfig { column: Some("story".to_owned()), ..at(&fixture("text-snappy.parquet")) };
    let message = sandbox.refusal(source);
    assert!(
        message
            .ends_with("has no column `story`, only `number`, `text`: say which one with `column`"),
        "{message}"
    );
}

#[test]
fn what_is_wrong_is_said() {
    let mut sandbox = Sandbox::new();
    let refusal = |name: &str, content: &[u8]| sandbox.refusal(at(&sandbox.write(name, content)));
    let message = refusal("latin1.txt", b"caf\xe9 au lait");
    assert!(message.contains("latin1.txt is not text in UTF-8 (byte 3)"), "{message}");
    let mut late = "line\n".repeat(500_000).into_bytes();
    late.extend(b"\xff");
    let message = refusal("late.txt", &late);
    assert!(message.contains("(byte 2500000)"), "{message}");
    for (name, content) in [("empty.txt", &b""[..]), ("blank.txt", b" \n"), ("no.jsonl", b"\n\n")] {
        let message = refusal(name, content);
        assert!(message.contains(name) && message.contains("no usable document"), "{message}");
    }
    let message = refusal("bad.jsonl", b"{\"text\": \"a\"}\n{\"text\": \"a\n");
    assert!(message.contains("bad.jsonl:2: the line is not a JSON object"), "{message}");
    let message = refusal("array.jsonl", b"[1]\n");
    assert!(message.contains("array.jsonl:1:"), "{message}");
    let message = refusal("field.jsonl", b"{\"text\": \"a\"}\n{\"body\": \"a\"}\n");
    assert!(
        message.contains("field.jsonl:2: there is no `text` or `messages`, only `body`"),
        "{message}"
    );
    let message = refusal("number.jsonl", b"{\"text\": 3}\n");
    assert!(message.contains("number.jsonl:1: `text` is a number"), "{message}");
    let message = refusal("role.jsonl", b"{\"messages\": [{\"content\": \"a\"}]}\n");
    assert!(
        message.contains("role.jsonl:1: `messages` holds something that is no message"),
        "{message}"
    );
    let message =
        refusal("chat.jsonl", b"{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}\n");
    assert!(message.contains("no chat template"), "{message}");
    let message = refusal("mixed.jsonl", b"{\"text\": \"a\"}\n{\"messages\": []}\n");
    assert!(message.contains("mixes texts and conversations"), "{message}");
    let message = refusal("broken.parquet", b"PAR1 but not really");
    assert!(message.contains("broken.parquet is not a Parquet file"), "{message}");
    let message = refusal("data.xyz", b"text");
    assert!(message.contains("data.xyz cannot be told from its name"), "{message}");

    let missing = sandbox.path("nothing");
    let message = sandbox.refusal(at(missing.to_str().unwrap()));
    assert!(
        message.contains("there is no data at") && message.contains("shakespeare"),
        "{message}"
    );
    std::fs::create_dir(&missing).unwrap();
    let message = sandbox.refusal(at(missing.to_str().unwrap()));
    assert!(message.contains("holds no `.txt`"), "{message}");

    // A template that contradicts the data, and one that hides the answers.
    let chat = br#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    let path = sandbox.write("chat.jsonl", chat);
    let with_template = |sandbox: &mut Sandbox, template: &str| {
        sandbox.template = Some(ChatTemplate::new(template, &Default::default()).unwrap());
    };
    with_template(&mut sandbox, "{{ raise_exception('only tools may speak') }}");
    let message = sandbox.refusal(at(&path));
    assert!(
        message.contains("chat.jsonl:1:") && message.contains("only tools may speak"),
        "{message}"
    );
    with_template(&mut sandbox, "{{ messages | length }}{{ messages[0].content }}");
    let message = sandbox.refusal(at(&path));
    assert!(message.contains("chat.jsonl:1: it cannot be told"), "{message}");
}

/// A schema that nests so deep that a recursion over it would need more than a stack.
#[test]
fn a_parquet_schema_that_nests_without_end_is_refused() {
    const GROUPS: u32 = 300_000;
    let sandbox = Sandbox::new();
    let mut footer = vec![0x15, 2, 0x19, 0xfc];
    let count = GROUPS + 1;
    footer.extend([count & 0x7f | 0x80, count >> 7 & 0x7f | 0x80, count >> 14].map(|b| b as u8));
    for _ in 0..GROUPS {
        // Required, named `a`, with one child.
        footer.extend([0x35, 0, 0x18, 1, b'a', 0x15, 2, 0]);
    }
    footer.extend([0x15, 2, 0x25, 0, 0x18, 1, b'a', 0]);
    // No rows in no row groups.
    footer.extend([0x16, 0, 0x19, 0x0c, 0]);
    let mut bytes = b"PAR1".to_vec();
    bytes.extend(&footer);
    bytes.extend((footer.len() as u32).to_le_bytes());
    bytes.extend(b"PAR1");
    let message = sandbox.refusal(at(&sandbox.write("deep.parquet", bytes)));
    assert!(message.contains("deep.parquet is not a Parquet file that can be read"), "{message}");
    assert!(message.contains("nest more than 64 levels deep"), "{message}");
}

#[test]
fn the_model_sets_limits() {
    let sandbox = Sandbox::new();
    let path = sandbox.write("text.txt", "bätman");
    let open = |model: ModelSide<'_>, sequence_length: usize| {
        let config = config(sequence_length, &[at(&path)]);
        Data::open(&config, &model, &sandbox.cache, 1, &mut |_| {}).map(|_| ())
    };
    let small = ModelSide { vocab_size: 100, ..sandbox.model() };
    let message = explain(&open(small, 8).unwrap_err());
    assert!(message.contains("the tokenizer does not match the model"), "{message}");
    assert!(message.contains("vocabulary ends at 100"), "{message}");
    let short = ModelSide { max_positions: Some(8), ..sandbox.model() };
    open(short, 8).unwrap();
    let message = explain(&open(short, 9).unwrap_err());
    assert!(message.contains("sequence_length is 9, the model takes at most 8"), "{message}");
}

#[test]
fn the_configuration_takes_paths_and_tables() {
    let parse = |text: &str| toml::from_str::<DataConfig>(text).map_err(|error| error.to_string());
    assert_eq!(parse("").unwrap(), DataConfig::default());
    let config = parse(
        "sources = [\"a.txt\", { path = \"b\", format = \"jsonl\", column = \"c\", weight = 2 }]\n\
         validation = \"v.txt\"\nsequence_length = 64\nshuffle = false\nseed = 3",
    )
    .unwrap();
    assert_eq!(config.sources[0], at("a.txt"));
    assert_eq!(
        config.sources[1],
        SourceConfig {
            path: "b".to_owned(),
            format: Some(Format::Jsonl),
            column: Some("c".to_owned()),
            weight: Some(2.0)
        }
    );
    assert_eq!(config.validation, [at("v.txt")]);
    let json = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<DataConfig>(&json).unwrap(), config);
    let tables = parse("[[sources]]\npath = \"a\"\n[[sources]]\npath = \"b\"\n").unwrap();
    assert_eq!(tables.sources, [at("a"), at("b")]);
    for (text, needle) in [
        ("shufle = true", "shufle"),
        ("sources = [{ path = \"a\", wieght = 1 }]", "wieght"),
        ("sources = [{ format = \"text\" }]", "path"),
        ("sources = [{ path = \"a\", format = \"xml\" }]", "xml"),
        ("sources = 3", "a path, a table with `path`, or a list of them"),
    ] {
        let message = parse(text).unwrap_err();
        assert!(message.contains(needle), "{message}");
    }
    for (text, needle) in [
        ("", "no data is named"),
        ("sources = \"a\"\nsequence_length = 1", "sequence_length is 1"),
        ("sources = \"a\"\nvalidation_fraction = 1.0", "validation_fraction is 1"),
        ("sources = \"a\"\nvalidation_fraction = 0.1\nvalidation = \"b\"", "leave one out"),
        ("sources = [{ path = \"a\", weight = 0 }]", "not a positive number"),
        ("sources = [\"a\", { path = \"b\", weight = 1 }]", "some have none"),
    ] {
        let message = parse(text).unwrap().check().unwrap_err().to_string();
        assert!(message.contains(needle), "{message}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    /// Whatever is in a file, the answer is data or an error.
    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let sandbox = Sandbox::new();
        for name in ["a.txt", "a.jsonl", "a.parquet"] {
            let path = sandbox.write(name, &bytes);
            let _ = sandbox.open(&config(8, &[at(&path)]), 1);
        }
    }

    #[test]
    fn damaged_parquet_is_survived(
        name in prop::sample::select(vec!["text-none", "text-snappy", "text-gzip", "text-zstd", "chat"]),
        places in prop::collection::vec((0.0..1.0_f64, any::<u8>()), 1..4),
    ) {
        let sandbox = Sandbox::new();
        let mut bytes = std::fs::read(fixture(&format!("{name}.parquet"))).unwrap();
        for (place, value) in places {
            let at = (place * bytes.len() as f64) as usize;
            bytes[at] = value;
        }
        let path = sandbox.write("a.parquet", &bytes);
        let _ = sandbox.open(&config(8, &[at(&path)]), 1);
    }
}

//! Configs as users write them: what is understood, what is refused and how, and that nothing is
//! lost on the way through a checkpoint.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::error::Error;
use std::fs;
use std::path::Path;

use graph::Mesh;
use llm::{Architecture, ModelConfig};
use proptest::prelude::*;
use train::config::{
    ArchitectureName, BaseType, Config, ConfigError, Format, OptimizerName, ScheduleKind,
    check_mesh,
};
use train::data::SourceConfig;

const SHAKESPEARE: &str = r#"
[model]
architecture = "llama"
hidden_size = 192
intermediate_size = 512
num_hidden_layers = 4
num_attention_heads = 6
num_key_value_heads = 2
vocabulary_size = 1024

[data]
sequence_length = 256
validation_fraction = 0.02

[[data.sources]]
path = "shakespeare"
format = "text"

[training]
steps = 500

[optimizer]
name = "muon"
learning_rate = 0.02

[schedule]
kind = "wsd"
warmup_steps = 20
"#;

const FINE_TUNE: &str = r#"
mesh = { data = 2 }
[model]
from = "smollm2-135m"
[[data.sources]]
path = "chat.jsonl"
[[data.sources]]
path = "books/*.txt"
weight = 3
[lora]
base = "bf16"
"#;

fn parse(text: &str, sets: &[&str]) -> Result<Config, ConfigError> {
    let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
    Config::parse(text, &sets, "example")
}

fn refusal(text: &str, sets: &[&str]) -> String {
    parse(text, sets).unwrap_err().to_string()
}

/// The example with one line put after a header.
fn with(header: &str, line: &str) -> String {
    assert!(SHAKESPEARE.contains(header), "{header}");
    SHAKESPEARE.replacen(header, &format!("{header}\n{line}"), 1)
}

#[test]
fn what_is_written_and_what_is_left_out() {
    let config = parse(SHAKESPEARE, &[]).unwrap();
    assert_eq!(config.model.architecture, Some(ArchitectureName::Llama));
    assert_eq!(config.data.sources.len(), 1);
    assert_eq!(config.data.sources[0].format, Some(Format::Text));
    assert_eq!(config.data.sources[0].weight, None);
    assert_eq!(config.optimizer.name, OptimizerName::Muon);
    assert_eq!(config.optimizer.betas, [0.9, 0.95]);
    assert_eq!(config.schedule.kind, ScheduleKind::Wsd);
    assert_eq!(config.lora, None);
    assert_eq!(config.output.folder, "runs/example");
    assert_eq!(config.checkpoint.folder, "runs/example/checkpoints");

    let config = parse(FINE_TUNE, &[]).unwrap();
    let lora = config.lora.unwrap();
    assert_eq!((lora.rank, lora.alpha, lora.base), (8, 16.0, BaseType::Bf16));
    assert_eq!(lora.targets.len(), 7);
    assert_eq!(config.data.sources[1].weight, Some(3.0));
    assert_eq!(config.mesh.to_mesh(), Mesh::new(&[("data", 2)]));
}

#[test]
fn flags_count_more_than_the_file() {
    let config = parse(
        FINE_TUNE,
        &[
            "data.sources.0.weight=2",
            "training.steps=7",
            "mesh={fsdp=4}",
            "output.folder=elsewhere",
        ],
    )
    .unwrap();
    assert_eq!(config.data.sources[0].weight, Some(2.0));
    assert_eq!(config.training.steps, 7);
    assert_eq!((config.mesh.data, config.mesh.fsdp), (1, 4));
    assert_eq!(config.checkpoint.folder, "elsewhere/checkpoints");
    let config = parse(SHAKESPEARE, &["samples.prompts=[\"ROMEO:\"]", "training.dtype=bf16"]);
    assert_eq!(config.unwrap().samples.prompts, ["ROMEO:"]);
    let config = parse(SHAKESPEARE, &["data.sources.1.path=more.txt"]).unwrap();
    assert_eq!(config.data.sources[1].path, "more.txt");
}

#[test]
fn validation_is_a_path_or_tables() {
    let text = SHAKESPEARE.replace("validation_fraction = 0.02\n", "");
    let read = |flag: &str| {
        let config = parse(&text, &[flag]).unwrap();
        // However it was written, nothing is lost where it is printed.
        let again = Config::parse(&config.to_toml(), &[], "x").unwrap();
        assert_eq!(again, config, "{}", config.to_toml());
        let sources = train::setup::data_config(&config).validation;
        let words = |source: SourceConfig| (source.path, source.column, source.format);
        sources.into_iter().map(words).collect::<Vec<_>>()
    };
    let plain = |path: &str| (path.to_string(), None, None);
    assert_eq!(read("data.validation=held.txt"), [plain("held.txt")]);
    assert_eq!(read("data.validation=[\"a.txt\", \"b.txt\"]"), [plain("a.txt"), plain("b.txt")]);
    let table = |path: &str, column: &str| {
        (path.to_string(), Some(column.to_string()), Some(train::data::Format::Jsonl))
    };
    assert_eq!(
        read("data.validation={path=\"v.dat\", format=\"jsonl\", column=\"story\"}"),
        [table("v.dat", "story")]
    );
    assert_eq!(
        read("data.validation=[\"a.txt\", {path=\"v\", format=\"jsonl\", column=\"c\"}]"),
        [plain("a.txt"), table("v", "c")]
    );
    assert_eq!(read("data.validation=[]"), []);
    let sections = "[[data.validation]]\npath = \"v\"\ncolumn = \"c\"\nformat = \"jsonl\"\n";
    let config = parse(&format!("{text}\n{sections}"), &[]).unwrap();
    assert_eq!(config.to_toml().matches("[[data.validation]]").count(), 1);
    let wrong = |flag: &str| refusal(&text, &[flag]);
    assert!(
        wrong("data.validation=5")
            .ends_with("it must be a path, a section with `path`, or a list of them")
    );
    let message = wrong("data.validation=[5]");
    assert!(message.starts_with("`data.validation.0` is 5"), "{message}");
    assert!(wrong("data.validation=").contains("it must be a path"));
    assert!(wrong("data.validation={column=\"c\"}").contains("`data.validation.path` is"));
    let message = wrong("data.validation={path=\"a\", colum=\"c\"}");
    assert!(message.contains("unknown key `colum` in [data.validation]"), "{message}");
    assert!(message.ends_with("did you mean `column`?"), "{message}");
    let message = wrong("data.validation={path=\"a\", weight=2}");
    assert!(message.ends_with("it belongs in [[data.sources]]"), "{message}");
}

#[test]
fn unknown_keys_are_refused_with_a_hint() {
    let message = refusal(&with("[training]", "stesp = 5"), &[]);
    assert_eq!(message, "unknown key `stesp` in [training] (line 20): did you mean `steps`?");
    let message = refusal(&with("[optimizer]", "dtype = \"bf16\""), &[]);
    assert!(
        message.ends_with("`dtype` in [optimizer] (line 23): it belongs in [training]"),
        "{message}"
    );
    let message = refusal(&with("[[data.sources]]", "wieght = 5"), &[]);
    assert!(message.contains("in [data.sources.0] (line 16): did you mean `weight`?"), "{message}");
    let message = refusal(SHAKESPEARE, &["trainning.steps=5"]);
    let expected =
        "unknown key `trainning` in the config (--set trainning.steps=5): did you mean `training`?";
    assert_eq!(message, expected);
    let message = refusal(&with("[schedule]", "zzz = 5"), &[]);
    assert!(message.ends_with("the keys here are kind, warmup_steps, decay_steps, minimum_ratio"));
    let message = refusal(SHAKESPEARE, &["mesh.expert=2"]);
    assert!(
        message
            .ends_with("expert parallelism is not supported; the axes are data, fsdp and tensor")
    );
}

#[test]
fn wrong_values_are_named_with_their_place() {
    let cases = [
        (
            "training.steps=0",
            "`training.steps` is 0 (--set training.steps=0): it must be at least 1",
        ),
        ("training.steps=many", "it must be a whole number, 0 or more"),
        ("training.steps=-3", "it must be a whole number, 0 or more"),
        ("training.steps=1.5", "it must be a whole number, 0 or more"),
        (
            "optimizer.name=adam",
            "is \"adam\" (--set optimizer.name=adam): it must be \"adamw\" or \"muon\"",
        ),
        ("optimizer.betas=[0.9]", "it must be a list of two numbers"),
        ("optimizer.betas=[0.9, 1.0]", "it must be at least 0 and below 1"),
        ("optimizer.learning_rate=fast", "it must be a number"),
        ("optimizer.learning_rate=nan", "nan is not a finite number"),
        ("data.shuffle=1", "it must be true or false"),
        ("data.seed=99999999999999999999", "is too large a number"),
        ("data.sources=shakespeare", "it must be a list of a section"),
        ("data.sources.0.path=", "it must be not empty"),
        ("data.sources.0.weight=0", "it must be above 0"),
        ("model.vocabulary_size=256", "it must be at least 257"),
        ("samples.prompts=[1]", "`samples.prompts.0` is 1"),
        ("training=5", "`training` is 5 (--set training=5): it must be a section"),
        ("schedule.minimum_ratio=2", "it must be from 0 to 1"),
    ];
    for (flag, expected) in cases {
        let message = refusal(SHAKESPEARE, &[flag]);
        assert!(message.contains(expected), "{flag}: {message}");
    }
    let message = refusal(&SHAKESPEARE.replace("steps = 500", "steps = 0"), &[]);
    assert_eq!(message, "`training.steps` is 0 (line 20): it must be at least 1");
}

#[test]
fn contradictions_are_refused() {
    let cases: [(&str, &[&str], &str); 16] = [
        (SHAKESPEARE, &["model.from=smollm2-135m"], "has both `from` and `architecture`"),
        ("[model]\n", &[], "does not say what to train"),
        (SHAKESPEARE, &["lora.rank=4"], "[lora] adapts a model that exists: set model.from"),
        (SHAKESPEARE, &["model.tokenizer=smollm2-135m"], "model.tokenizer is given too"),
        (FINE_TUNE, &["model.vocabulary_size=1024"], "model.from go with its own tokens"),
        (
            FINE_TUNE,
            &["model.hidden_size=64"],
            "model.hidden_size is only for a model described by",
        ),
        (FINE_TUNE, &["model.head_dim=64"], "model.head_dim is only for a model described by"),
        (FINE_TUNE, &["lora.targets=[\"qproj\"]"], "did you mean `q_proj`?"),
        (FINE_TUNE, &["lora.targets=[]"], "lora.targets is empty"),
        (FINE_TUNE, &["data.sources=[]"], "there is no data"),
        (SHAKESPEARE, &["data.validation=held.txt"], "both say what to hold out"),
        (SHAKESPEARE, &["training.accumulation=3"], "it could be 1, 2, 4, 8 or 16"),
        (SHAKESPEARE, &["mesh.data=2", "mesh.fsdp=3"], "does not divide the 16 sequences"),
        (SHAKESPEARE, &["schedule.warmup_steps=501"], "is more than training.steps = 500"),
        (SHAKESPEARE, &["schedule.decay_steps=490"], "together more than training.steps = 500"),
        (SHAKESPEARE, &["guard.spike_factor=0.5"], "must be 0 (off) or above 1"),
    ];
    for (text, sets, expected) in cases {
        let message = refusal(text, sets);
        assert!(message.contains(expected), "{sets:?}: {message}");
    }
    let message = refusal(&SHAKESPEARE.replace("hidden_size = 192", ""), &[]);
    assert_eq!(message, "model.hidden_size is missing: `architecture` needs it");
}

#[test]
fn files_are_named_in_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.toml");
    let error = Config::load(&path, &[]).unwrap_err();
    assert!(matches!(error, ConfigError::NotAConfig { .. }), "{error}");
    assert!(error.to_string().contains("tiny.toml: it does not exist; give"), "{error}");
    std::fs::write(&path, "[model\n").unwrap();
    let error = Config::load(&path, &[]).unwrap_err();
    assert!(error.to_string().contains("tiny.toml"), "{error}");
    assert!(error.source().unwrap().to_string().starts_with("line 1, column 7: "), "{error:?}");
    std::fs::write(&path, SHAKESPEARE).unwrap();
    assert_eq!(Config::load(&path, &[]).unwrap().output.folder, "runs/tiny");
}

#[test]
fn a_config_survives_being_printed() {
    for text in [SHAKESPEARE, FINE_TUNE] {
        let config =
            parse(text, &["samples.prompts=[\"a \\\"b\\\"\\n\"]", "optimizer.epsilon=1e-30"]);
        let config = config.unwrap();
        let again = Config::parse(&config.to_toml(), &[], "another name").unwrap();
        assert_eq!(again, config);
        assert!(config.to_toml().contains("[training]\nsteps = "), "{}", config.to_toml());
    }
}

#[test]
fn differences_are_listed_and_the_model_is_fixed() {
    let before = parse(SHAKESPEARE, &[]).unwrap();
    let now = parse(SHAKESPEARE, &["training.steps=600", "mesh.data=2"]).unwrap();
    assert_eq!(before.differences(&before), []);
    let keys: Vec<String> = now.resumes(&before).unwrap().into_iter().map(|d| d.key).collect();
    assert_eq!(keys, ["training.steps", "mesh.data"]);
    let difference = &now.differences(&before)[0];
    assert_eq!(
        (difference.before.as_deref(), difference.now.as_deref()),
        (Some("500"), Some("600"))
    );

    let wider = parse(SHAKESPEARE, &["model.hidden_size=384"]).unwrap();
    let message = wider.resumes(&before).unwrap_err().to_string();
    assert!(message.contains("`model.hidden_size` = 192, and it is 384 now"), "{message}");
    let full = parse(&FINE_TUNE.replace("[lora]\nbase = \"bf16\"", ""), &[]).unwrap();
    let message = full.resumes(&parse(FINE_TUNE, &[]).unwrap()).unwrap_err().to_string();
    assert!(message.contains("`lora.rank` = 8, and it is not set now"), "{message}");
    let moved = parse(FINE_TUNE, &["model.from=elsewhere/model.gguf"]).unwrap();
    assert_eq!(moved.resumes(&parse(FINE_TUNE, &[]).unwrap()).unwrap().len(), 1);
}

#[test]
fn a_model_from_scratch() {
    let config = parse(SHAKESPEARE, &[]).unwrap();
    let model = config.model.from_scratch(None, config.data.sequence_length).unwrap().unwrap();
    assert_eq!(model.architecture, Architecture::Llama);
    assert_eq!((model.vocab_size, model.hidden_size, model.head_dim), (1024, 192, 32));
    assert_eq!(model.max_position_embeddings, 256);

    let shape = |sets: &[&str]| {
        let sources = "[[data.sources]]\npath = \"x\"\n[model]\nshape = \"llama3-8b\"\n";
        let config = parse(sources, sets).unwrap();
        config.model.from_scratch(None, 128).map(|model| model.unwrap())
    };
    assert_eq!(shape(&[]).unwrap().vocab_size, 128_256);
    let small = shape(&["model.vocabulary_size=512"]).unwrap();
    assert_eq!((small.vocab_size, small.bos_token_id, small.eos_token_ids), (512, None, vec![]));
    let message = shape(&["model.shape=llama9"]).unwrap_err().to_string();
    assert!(message.contains("\"llama9\", which is not known: choose from llama3-1b"), "{message}");

    let odd = parse(SHAKESPEARE, &["model.num_key_value_heads=4"]).unwrap();
    let error = odd.model.from_scratch(None, 256).unwrap_err();
    assert!(error.source().unwrap().to_string().contains("num_key_value_heads"), "{error:?}");
    assert_eq!(parse(FINE_TUNE, &[]).unwrap().model.from_scratch(None, 256).unwrap(), None);
}

/// SmolLM2-135M: 576 wide, 9 query and 3 key/value heads, 1536 in the MLP.
fn smollm2() -> ModelConfig {
    let json = r#"{"model_type": "llama", "vocab_size": 49152, "hidden_size": 576,
        "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3}"#;
    ModelConfig::from_json(json).unwrap()
}

#[test]
fn meshes_that_do_not_divide_are_refused_with_those_that_would() {
    let model = smollm2();
    let refusal = |axes: &[(&str, usize)], sequences| {
        check_mesh(&Mesh::new(axes), &model, sequences).unwrap_err().to_string()
    };
    for axes in
        [&[][..], &[("tensor", 3)], &[("data", 2), ("fsdp", 4)], &[("fsdp", 8), ("tensor", 3)]]
    {
        assert_eq!(check_mesh(&Mesh::new(axes), &model, 16), Ok(()), "{axes:?}");
    }
    assert_eq!(
        refusal(&[("tensor", 6)], 12),
        "mesh axis `tensor` = 6 does not divide the heads: neither 3 key/value heads nor 3 query heads \
         for each: `tensor` could be 1 or 3; meshes of 6 devices that would do: data=6; data=3,fsdp=2; \
         data=2,fsdp=3; fsdp=6; data=2,tensor=3; fsdp=2,tensor=3"
    );
    assert!(refusal(&[("tensor", 5)], 16).ends_with("1 or 3; no mesh of 5 devices would do"));
    assert!(refusal(&[("data", 3)], 16).contains("`data` = 3 does not divide the 16 sequences computed at once: `data` could be 1, 2, 4, 8 or 16"));
    assert!(
        refusal(&[("fsdp", 5)], 15)
            .contains("does not divide the model's width of 576: `fsdp` could be 1 or 3")
    );
    assert!(
        refusal(&[("data", 8), ("fsdp", 4)], 16)
            .contains("`data` = 8 does not divide the 4 sequences that each of fsdp = 4")
    );
    assert!(refusal(&[("expert", 2)], 16).contains("expert parallelism is not supported"));
    assert!(refusal(&[("model", 2)], 16).contains("the axes are data, fsdp and tensor"));
    assert!(
        refusal(&[("data", usize::MAX), ("fsdp", 3)], 16)
            .contains("more devices than can be counted")
    );
}

#[test]
fn every_key_is_documented_once_and_the_reference_shows_it() {
    let reference = Config::reference();
    let mut paths = Vec::new();
    for section in Config::sections() {
        assert!(reference.contains(&format!("### `{}`", section.header)));
        for key in section.keys {
            assert!(key.meaning.ends_with('.'), "{}: {}", key.path, key.meaning);
            assert!(!paths.contains(&key.path), "{}", key.path);
            paths.push(key.path);
        }
    }
    assert!(reference.contains("### `[[data.sources]]`"), "{reference}");
    assert!(
        reference.contains("| `steps` | whole number, at least 1 | `1000` | Updates to make. |"),
        "{reference}"
    );
    // Every key that a printed config has is one of them.
    for line in parse(FINE_TUNE, &[]).unwrap().differences(&parse(SHAKESPEARE, &[]).unwrap()) {
        let path = line.key.replace("sources.0", "sources[]").replace("sources.1", "sources[]");
        assert!(paths.contains(&path), "{path}");
    }
}

/// With `FUNGIBLE_UPDATE_DOCS` set it writes the guide's table instead of comparing.
#[test]
fn the_guide_has_the_reference() {
    const MARKS: [&str; 2] = ["<!-- keys: begin -->\n", "<!-- keys: end -->\n"];
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/training.md");
    let guide = fs::read_to_string(&path).unwrap();
    let (before, rest) = guide.split_once(MARKS[0]).unwrap();
    let (written, after) = rest.split_once(MARKS[1]).unwrap();
    let expected = format!("\n{}\n", Config::reference());
    if std::env::var_os("FUNGIBLE_UPDATE_DOCS").is_some() {
        fs::write(&path, [before, MARKS[0], &expected, MARKS[1], after].concat()).unwrap();
        return;
    }
    assert!(
        written == expected,
        "docs/training.md does not have the keys as they are; FUNGIBLE_UPDATE_DOCS=1 cargo test -p \
         fungible-train --test config writes them"
    );
}

proptest! {
    #[test]
    fn any_text_is_survived(text in "(?s).{0,120}") {
        let _ = parse(&text, &[]);
    }

    #[test]
    fn any_value_of_any_key_is_survived(key in 0usize..80, value in "[-0-9a-z.\"{}\\[\\]=, ]{0,12}") {
        let keys: Vec<String> =
            Config::sections().into_iter().flat_map(|section| section.keys).map(|key| key.path).collect();
        let path = keys[key % keys.len()].replace("[]", ".0");
        if let Ok(config) = parse(SHAKESPEARE, &[&format!("{path}={value}")]) {
            prop_assert_eq!(Config::parse(&config.to_toml(), &[], "x").unwrap(), config);
        }
    }

    #[test]
    fn a_mesh_that_is_proposed_is_accepted(data in 1usize..9, fsdp in 1usize..9, tensor in 1usize..9, sequences in 1usize..65) {
        let mesh = Mesh::new(&[("data", data), ("fsdp", fsdp), ("tensor", tensor)]);
        let Err(error) = check_mesh(&mesh, &smollm2(), sequences) else { return Ok(()) };
        let message = error.to_string();
        let Some((_, proposed)) = message.split_once("that would do: ") else { return Ok(()) };
        for text in proposed.trim_end_matches(" and others").split("; ") {
            // One device has no axes.
            let proposal = if text == "one device" { Mesh::single() } else { runtime::parse_mesh(text).unwrap() };
            prop_assert_eq!(proposal.devices(), mesh.devices());
            prop_assert_eq!(check_mesh(&proposal, &smollm2(), sequences), Ok(()));
        }
    }
}

//! What is kept between runs, and what becomes of it when something goes wrong.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;

fn kept(sandbox: &Sandbox) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(sandbox.cache.tokens()) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn tokens_are_made_once() {
    let sandbox = Sandbox::new();
    let path = sandbox.write("text.txt", "some text ".repeat(1000));
    let config = config(16, &[at(&path)]);
    assert!(sandbox.steps(&config).contains(&"Tokenizing".to_owned()));
    let files = kept(&sandbox);
    assert_eq!(files.len(), 1);
    assert_eq!(sandbox.steps(&config), ["Reading", "Verifying"]);
    // Another sequence length needs no other tokens, and a moved file is the same file.
    let moved = sandbox.path("moved.txt");
    fs::rename(&path, &moved).unwrap();
    let moved = super::config(32, &[at(moved.to_str().unwrap())]);
    assert_eq!(sandbox.steps(&moved), ["Reading", "Verifying"]);
    assert_eq!(kept(&sandbox), files);
    // One byte more does.
    sandbox.write("text.txt", "some text ".repeat(1000) + "!");
    assert!(sandbox.steps(&config).contains(&"Tokenizing".to_owned()));
    assert_eq!(kept(&sandbox).len(), 2);
}

#[test]
fn another_tokenizer_or_template_makes_other_tokens() {
    let mut sandbox = Sandbox::new();
    let text = sandbox.write("text.txt", "some text ".repeat(100));
    let chat = sandbox.write(
        "chat.jsonl",
        r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#,
    );
    let template =
        "{% for message in messages %}{{ message.role }}: {{ message.content }};{% endfor %}";
    let use_template = |sandbox: &mut Sandbox, template: &str| {
        sandbox.template = Some(ChatTemplate::new(template, &Default::default()).unwrap());
    };
    use_template(&mut sandbox, template);
    let text = config(16, &[at(&text)]);
    let chat = config(16, &[at(&chat)]);
    sandbox.open(&text, 1).unwrap();
    sandbox.open(&chat, 1).unwrap();
    assert_eq!(kept(&sandbox).len(), 2);
    use_template(&mut sandbox, &template.replace(';', "!"));
    sandbox.open(&text, 1).unwrap();
    assert_eq!(kept(&sandbox).len(), 2, "a template makes no difference to text");
    sandbox.open(&chat, 1).unwrap();
    assert_eq!(kept(&sandbox).len(), 3);
    let json = sandbox.tokenizer.to_json().unwrap();
    let json = json.replace("\"add_prefix_space\":false", "\"add_prefix_space\":true");
    let settings = llm::tokenizer::TokenizerSettings::default();
    sandbox.tokenizer = Tokenizer::from_json(&json, &settings).unwrap();
    sandbox.open(&text, 1).unwrap();
    assert_eq!(kept(&sandbox).len(), 4);
}

#[test]
fn a_damaged_file_is_noticed_and_made_again() {
    let sandbox = Sandbox::new();
    let path = sandbox.write("text.txt", "some text ".repeat(1000));
    let config = config(16, &[at(&path)]);
    let expected = sandbox.open(&config, 4).unwrap().training.batch(3, 0..4).unwrap();
    let file = kept(&sandbox).remove(0);
    let whole = fs::read(&file).unwrap();
    let mut flipped = whole.clone();
    flipped[1000] ^= 4;
    for damaged in [&flipped[..], &whole[..whole.len() / 2], b"", b"something else entirely"] {
        fs::write(&file, damaged).unwrap();
        let mut told = Vec::new();
        let mut note = |step: Progress<'_>| {
            if let Progress::Damaged { path, reason } = step {
                told.push((path.to_path_buf(), reason.to_owned()));
            }
        };
        let data = Data::open(&config, &sandbox.model(), &sandbox.cache, 4, &mut note).unwrap();
        assert_eq!(data.training.batch(3, 0..4).unwrap(), expected);
        assert!(!told.is_empty() && told.iter().all(|(path, _)| *path == file), "{told:?}");
        assert_eq!(fs::read(&file).unwrap(), whole);
    }
}

#[test]
fn an_interruption_leaves_nothing_half_written() {
    let sandbox = Sandbox::new();
    let path = sandbox.write("text.txt", "some text in a line\n".repeat(1 << 18));
    let config = config(64, &[at(&path)]);
    let interrupted = catch_unwind(AssertUnwindSafe(|| {
        let mut stop = |step: Progress<'_>| {
            assert!(!matches!(step, Progress::Tokenizing { .. }), "interrupted");
        };
        Data::open(&config, &sandbox.model(), &sandbox.cache, 1, &mut stop)
    }));
    assert!(interrupted.is_err());
    assert!(kept(&sandbox).is_empty());
    let data = sandbox.open(&config, 1).unwrap();
    assert_eq!(data.training.tokens(), (5 << 20) + 1);
    assert_eq!(kept(&sandbox).len(), 1);
}

#[test]
fn processes_that_share_a_cache_do_not_meet() {
    let sandbox = Sandbox::new();
    let path = sandbox.write("text.txt", "some text in a line\n".repeat(1 << 16));
    let config = config(64, &[at(&path)]);
    let batches: Vec<Batch> = std::thread::scope(|scope| {
        let open = || sandbox.open(&config, 4).unwrap().training.batch(5, 0..4).unwrap();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(open)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(batches.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(kept(&sandbox).len(), 1);
}

/// A cache that cannot be written to; a file in its place stands for one.
#[test]
fn a_cache_that_cannot_be_written_to_is_named() {
    let mut sandbox = Sandbox::new();
    let path = sandbox.write("text.txt", "some text");
    sandbox.cache = CacheFolder::at(sandbox.write("taken", "a file"));
    let message = sandbox.refusal(at(&path));
    assert!(message.contains("taken"), "{message}");
}

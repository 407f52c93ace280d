//! Vocabularies learned from the data.

use train::data::{END_OF_TEXT, LearnedTokenizer};

use super::*;

const TEXT: &str = "To be, or not to be, that is the question:\nWhether 'tis nobler in the mind to \
    suffer\nThe slings and arrows of outrageous fortune, 1602 – bätman 🦇\n";

fn learn(sandbox: &Sandbox, path: &str, vocabulary_size: usize) -> LearnedTokenizer {
    learn_tokenizer(&[at(path)], vocabulary_size, &sandbox.cache, &mut |_| {}).unwrap()
}

#[test]
fn the_same_text_gives_the_same_vocabulary() {
    let sandbox = Sandbox::new();
    let path = sandbox.write("text.txt", TEXT.repeat(5));
    let learned = learn(&sandbox, &path, 300);
    for _ in 0..3 {
        assert_eq!(learn(&sandbox, &path, 300), learned);
    }
    let tokenizer = learned.tokenizer().unwrap();
    assert_eq!(tokenizer.vocab_size(), 300);
    assert_eq!(tokenizer.eos_token_id(), Some(0));
    assert_eq!(tokenizer.id_to_token(0).as_deref(), Some(END_OF_TEXT));
    assert!(tokenizer.is_special(0));
    let ids = tokenizer.encode(TEXT, true).unwrap();
    assert!(ids.len() < TEXT.len() * 3 / 4, "{} tokens", ids.len());
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), TEXT);
    let unseen = "Zwölf Boxkämpfer jagen 東京\u{0}\u{7f}";
    let ids = tokenizer.encode(unseen, true).unwrap();
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), unseen);
}

#[test]
fn bytes_alone_are_a_vocabulary() {
    let sandbox = Sandbox::new();
    let path = sandbox.write("text.txt", TEXT);
    let tokenizer = learn(&sandbox, &path, 257).tokenizer().unwrap();
    assert_eq!(tokenizer.vocab_size(), 257);
    assert_eq!(tokenizer.encode(TEXT, true).unwrap().len(), TEXT.len());
    assert_eq!(tokenizer.encode(END_OF_TEXT, true).unwrap(), [0]);
    let error = learn_tokenizer(&[at(&path)], 256, &sandbox.cache, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("need 257"), "{error}");
}

#[test]
fn conversations_and_nothing_are_refused() {
    let sandbox = Sandbox::new();
    let refusal = |path: &str| {
        let learned = learn_tokenizer(&[at(path)], 300, &sandbox.cache, &mut |_| {});
        learned.unwrap_err().to_string()
    };
    let message = refusal(&fixture("chat.jsonl"));
    assert!(message.contains("no vocabulary is learned"), "{message}");
    let message = refusal(&sandbox.write("empty.txt", ""));
    assert!(message.contains("no usable document"), "{message}");
}

/// The known data set, as far as this machine can fetch it.
#[test]
fn shakespeare_is_known() {
    use runtime::install::{InstallError, Installer};

    let sandbox = Sandbox::new();
    let cache = CacheFolder::from_environment().unwrap();
    let package = runtime::registry::find("shakespeare").unwrap();
    if let Err(
        error @ (InstallError::NoPip { .. }
        | InstallError::NoNetwork { .. }
        | InstallError::NotInIndex { .. }),
    ) = Installer::new(cache.clone()).install(package, &mut |_| {})
    {
        shared::skip("shakespeare_is_known", &error.to_string());
        return;
    }
    let config = DataConfig { validation_fraction: 0.05, ..config(256, &[at("shakespeare")]) };
    let data = Data::open(&config, &sandbox.model(), &cache, 16, &mut |_| {}).unwrap();
    let report = &data.training.sources()[0];
    assert_eq!((report.documents, report.text_bytes), (42, 5_057_198));
    let held_out = data.validation.unwrap().rows() as f64;
    let part = held_out / (held_out + data.training.rows() as f64);
    assert!((0.025..=0.1).contains(&part), "{part}");
}

//! How texts become rows.

use train::data::END_OF_TEXT;

use super::*;

#[test]
fn texts_are_put_end_to_end_and_cut() {
    let sandbox = Sandbox::new();
    sandbox.write("texts/1.txt", "abc");
    sandbox.write("texts/2.txt", "de");
    sandbox.write("texts/3.txt", "fghijk");
    let path = sandbox.path("texts");
    let data = sandbox.open(&config(5, &[at(path.to_str().unwrap())]), 3).unwrap();
    assert!(data.validation.is_none());
    let id = |text: &str| sandbox.tokenizer.encode(text, false).unwrap()[0] as i32;
    let [a, b, c, d, e] = ["a", "b", "c", "d", "e"].map(id);
    let [f, g, h, i, j, k] = ["f", "g", "h", "i", "j", "k"].map(id);
    let batch = data.training.batch(0, 0..3).unwrap();
    check_batch(&batch);
    assert_eq!(batch.tokens, [[a, b, c, END, d], [e, END, f, g, h], [i, j, k, END, END]].concat());
    let x = IGNORE;
    // `d` goes on in the next row, where its second token stands at position 0.
    assert_eq!(batch.targets, [[b, c, END, x, e], [END, x, g, h, i], [j, k, END, x, x]].concat());
    assert_eq!(batch.segments, [[1, 1, 1, 1, 2], [1, 1, 2, 2, 2], [1, 1, 1, 1, 0]].concat());
    assert_eq!(batch.positions, [[0, 1, 2, 3, 0], [0, 1, 0, 1, 2], [0, 1, 2, 3, 0]].concat());
    assert_eq!((batch.tokens_count(), batch.targets_count()), (14, 11));

    let report = data.training.sources();
    assert_eq!((report[0].documents, report[0].tokens, report[0].rows), (3, 14, 3));
    assert_eq!(report[0].text_bytes, 11);
    assert_eq!(data.training.rows(), 3);
    assert_eq!(data.training.batches(), 1);
    assert_eq!(data.training.epoch(2), 2.0);
    // Every byte but the first of each text is a target.
    assert_eq!(data.training.target_bytes(&batch), 8);
    assert!((data.training.bytes_per_token() - 11.0 / 14.0).abs() < 1e-9);
}

#[test]
fn a_text_of_several_megabytes_keeps_every_byte() {
    let sandbox = Sandbox::new();
    let mut text = String::new();
    for number in 0..200_000 {
        text.push_str(&format!("{number}: ünd so weiter\n"));
    }
    assert!(text.len() > 3 << 20);
    let path = sandbox.write("long.txt", &text);
    let data = sandbox.open(&config(1000, &[at(&path)]), 1).unwrap();
    let mut ids = Vec::new();
    for step in 0..data.training.batches() {
        let batch = data.training.batch(step, 0..1).unwrap();
        let used = batch.tokens_count() as usize;
        ids.extend(&batch.tokens[..used]);
    }
    assert_eq!(ids.pop(), Some(END));
    assert!(sandbox.text(ids) == text);
    assert_eq!(data.training.sources()[0].documents, 1);
}

/// Tokens and targets of everything that is trained on or held out.
fn everything(sandbox: &Sandbox, dataset: &train::data::Dataset) -> String {
    let mut ids = Vec::new();
    for step in 0..dataset.batches() {
        let batch = dataset.batch(step, 0..dataset.batch_size()).unwrap();
        check_batch(&batch);
        let places = batch.tokens.iter().zip(&batch.segments);
        ids.extend(places.filter(|(_, segment)| **segment > 0).map(|(id, _)| *id));
        ids.extend(batch.targets.iter().filter(|id| **id >= 0));
    }
    sandbox.text(ids).replace(END_OF_TEXT, "$")
}

#[test]
fn what_is_held_out_is_never_trained_on() {
    let sandbox = Sandbox::new();
    // Upper case is the last twentieth, in the middle of the only text.
    let text = format!(
        "{}{}",
        "abcde fghij ".repeat(79),
        "ABCDEFGHIJKLMNOPQRSTUVWXYZ ABCDEFGHIJKLMNOPQRSTUV"
    );
    let path = sandbox.write("one.txt", &text);
    let mut config = config(16, &[at(&path)]);
    config.validation_fraction = 0.05;
    let data = sandbox.open(&config, 2).unwrap();
    let trained = everything(&sandbox, &data.training);
    let held_out = everything(&sandbox, data.validation.as_ref().unwrap());
    assert!(trained.contains("abc") && !trained.contains(|c: char| c.is_ascii_uppercase()));
    assert!(held_out.contains("ABC") && !held_out.contains(|c: char| c.is_ascii_lowercase()));

    // With a text that ends near there, the cut is between texts.
    let folder = sandbox.path("two");
    sandbox.write("two/1.txt", "abcde ".repeat(200));
    sandbox.write("two/2.txt", "VWXYZ ".repeat(14));
    config.sources = vec![at(folder.to_str().unwrap())];
    let data = sandbox.open(&config, 2).unwrap();
    let trained = everything(&sandbox, &data.training);
    assert!(trained.contains('$') && !trained.contains('V'));
    let validation = data.validation.unwrap();
    assert!(everything(&sandbox, &validation).starts_with("VWXYZ"));
}

#[test]
fn validation_files_among_the_sources_are_left_out() {
    let sandbox = Sandbox::new();
    sandbox.write("d/a.txt", "abcde ".repeat(20));
    let held_out = sandbox.write("d/val.txt", "VWXYZ ".repeat(20));
    // The same text under another name.
    sandbox.write("d/copy.txt", "VWXYZ ".repeat(20));
    let folder = sandbox.path("d");
    let folder = folder.to_str().unwrap();
    let mut config = config(16, &[at(folder)]);
    config.validation = vec![at(&held_out)];
    let mut left_out = Vec::new();
    let mut note = |step: Progress<'_>| {
        if let Progress::LeftOut { source, path } = step {
            left_out.push((source.to_owned(), path.to_path_buf()));
        }
    };
    let data = Data::open(&config, &sandbox.model(), &sandbox.cache, 2, &mut note).unwrap();
    let expected = ["d/copy.txt", "d/val.txt"].map(|name| (folder.to_owned(), sandbox.path(name)));
    assert_eq!(left_out, expected);
    let trained = everything(&sandbox, &data.training);
    assert!(trained.contains("abc") && !trained.contains('V'), "{trained}");
    assert!(everything(&sandbox, &data.validation.unwrap()).contains("VWXYZ"));
    // Where nothing is left, that is said.
    config.sources.push(at(&held_out));
    let message = sandbox.open(&config, 2).unwrap_err().to_string();
    assert!(message.contains("val.txt` is validation data too"), "{message}");
}

#[test]
fn validation_shows_every_row_once_and_counts_every_byte() {
    let mut sandbox = Sandbox::new();
    let training = sandbox.write("training.txt", "something to train on");
    let text = "the quick brown fox jumps over the lazy dog ".repeat(20);
    let held_out = sandbox.write("held-out.txt", &text);
    for shuffle in [false, true] {
        let mut config = config(16, &[at(&training)]);
        config.shuffle = shuffle;
        config.validation = vec![at(&held_out)];
        let data = sandbox.open(&config, 3).unwrap();
        let validation = data.validation.unwrap();
        let (mut bytes, mut targets) = (0, 0);
        for step in 0..validation.batches() {
            let batch = validation.batch(step, 0..3).unwrap();
            bytes += validation.target_bytes(&batch);
            targets += batch.targets_count();
        }
        assert_eq!(bytes, text.len() as u64 - 1);
        assert_eq!(targets, text.len() as u64);
        let beyond = validation.batch(validation.batches(), 0..3).unwrap();
        assert_eq!(beyond.tokens_count(), 0);
        // `eval` measures the same without anything to train on.
        let once = self::config(16, &[at(&held_out)]);
        let once = DataConfig { shuffle, ..once };
        let model = sandbox.model();
        let measured = Data::open_once(&once, &model, &sandbox.cache, 3, &mut |_| {}).unwrap();
        assert_eq!(measured.batch(0, 0..3).unwrap(), validation.batch(0, 0..3).unwrap());
    }
    // Bytes are counted with any vocabulary.
    let source = [at(&held_out)];
    let learned = learn_tokenizer(&source, 300, &sandbox.cache, &mut |_| {}).unwrap();
    sandbox.tokenizer = learned.tokenizer().unwrap();
    let model = ModelSide { vocab_size: 300, ..sandbox.model() };
    let config = config(16, &source);
    let measured = Data::open_once(&config, &model, &sandbox.cache, 1, &mut |_| {}).unwrap();
    let batches = (0..measured.batches()).map(|step| measured.batch(step, 0..1).unwrap());
    let bytes: u64 = batches.map(|batch| measured.target_bytes(&batch)).sum();
    let first = measured.batch(0, 0..1).unwrap().tokens[0];
    assert_eq!(bytes as usize, text.len() - sandbox.text([first]).len());
}

//! Which rows come when.

use std::collections::HashMap;
use std::sync::Arc;

use train::data::{Dataset, Prefetcher};

use super::*;

/// Sources whose rows are told apart by their first two bytes.
fn numbered(sandbox: &Sandbox, name: &str, letter: char, rows: usize) -> SourceConfig {
    let text: String = (0..rows).map(|row| format!("{letter}{row:06}\n")).collect();
    at(&sandbox.write(name, text))
}

fn row(sandbox: &Sandbox, dataset: &Dataset, draw: u64) -> String {
    let size = dataset.batch_size() as u64;
    let at = (draw % size) as usize;
    let batch = dataset.batch(draw / size, at..at + 1).unwrap();
    sandbox.text(batch.tokens).trim_end().to_owned()
}

#[test]
fn an_epoch_shows_every_row_once_in_an_order_of_its_own() {
    let sandbox = Sandbox::new();
    let source = numbered(&sandbox, "a.txt", 'a', 100);
    let in_order = sandbox.open(&config(8, std::slice::from_ref(&source)), 7).unwrap().training;
    let expected: Vec<String> = (0..100).map(|row| format!("a{row:06}")).collect();
    let order = |dataset: &Dataset, epoch: u64| -> Vec<String> {
        (epoch * 100..(epoch + 1) * 100).map(|draw| row(&sandbox, dataset, draw)).collect()
    };
    assert_eq!(order(&in_order, 0), expected);
    assert_eq!(order(&in_order, 3), expected);
    let shuffled = DataConfig { shuffle: true, ..config(8, &[source]) };
    let dataset = sandbox.open(&shuffled, 7).unwrap().training;
    let epochs: Vec<Vec<String>> = (0..3).map(|epoch| order(&dataset, epoch)).collect();
    for epoch in &epochs {
        assert_ne!(*epoch, expected);
        let mut sorted = epoch.clone();
        sorted.sort();
        assert_eq!(sorted, expected);
    }
    assert!(epochs[0] != epochs[1] && epochs[1] != epochs[2]);
    // The same again, and another one for another seed.
    let again = sandbox.open(&shuffled, 7).unwrap().training;
    assert_eq!(order(&again, 1), epochs[1]);
    let other = sandbox.open(&DataConfig { seed: 1, ..shuffled }, 7).unwrap().training;
    assert_ne!(order(&other, 0), epochs[0]);
}

#[test]
fn hosts_and_resumed_runs_see_the_same() {
    let sandbox = Sandbox::new();
    let sources = [numbered(&sandbox, "a.txt", 'a', 31), numbered(&sandbox, "b.txt", 'b', 5)];
    let config = DataConfig { shuffle: true, ..config(8, &sources) };
    let dataset = sandbox.open(&config, 8).unwrap().training;
    let whole: Vec<Batch> = (0..40).map(|step| dataset.batch(step, 0..8).unwrap()).collect();
    for (step, whole) in whole.iter().enumerate() {
        check_batch(whole);
        let (mut tokens, mut targets) = (Vec::new(), Vec::new());
        for rows in [0..1, 1..4, 4..8] {
            let part = dataset.batch(step as u64, rows).unwrap();
            tokens.extend(part.tokens);
            targets.extend(part.targets);
        }
        assert_eq!((&tokens, &targets), (&whole.tokens, &whole.targets));
    }
    // Another process, later, from the middle on.
    let resumed = sandbox.open(&config, 8).unwrap().training;
    for step in 20..40 {
        assert_eq!(resumed.batch(step, 0..8).unwrap(), whole[step as usize]);
    }
    let mut prefetcher = Prefetcher::start(Arc::clone(&dataset), 20, 2..6);
    for step in 20..30 {
        let batch = prefetcher.next_batch().unwrap().unwrap();
        assert_eq!(batch, dataset.batch(step, 2..6).unwrap());
    }
}

fn counts(sandbox: &Sandbox, dataset: &Dataset, draws: u64) -> HashMap<char, u64> {
    let mut counts = HashMap::new();
    for draw in 0..draws {
        let letter = row(sandbox, dataset, draw).chars().next().unwrap();
        *counts.entry(letter).or_default() += 1;
    }
    counts
}

#[test]
fn sources_share_rows_by_weight_or_else_by_size() {
    let sandbox = Sandbox::new();
    let mut sources = [numbered(&sandbox, "a.txt", 'a', 30), numbered(&sandbox, "b.txt", 'b', 10)];
    let by_size = sandbox.open(&config(8, &sources), 4).unwrap().training;
    assert_eq!(counts(&sandbox, &by_size, 40), HashMap::from([('a', 30), ('b', 10)]));
    (sources[0].weight, sources[1].weight) = (Some(0.2), Some(0.8));
    let by_weight = sandbox.open(&config(8, &sources), 4).unwrap().training;
    assert_eq!(counts(&sandbox, &by_weight, 100), HashMap::from([('a', 20), ('b', 80)]));
    // The smaller one has gone through eight epochs, in order each time.
    let rows = (0..100).map(|draw| row(&sandbox, &by_weight, draw));
    let of_b: Vec<String> = rows.filter(|row| row.starts_with('b')).collect();
    for (index, row) in of_b.iter().enumerate() {
        assert_eq!(*row, format!("b{:06}", index % 10));
    }
}

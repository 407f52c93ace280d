//! What a run writes down: the lines of a log over crashes and resumes, arithmetic and money by hand,
//! event files, and a report that shows everything and lets nothing through.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use llm::ModelConfig;
use proptest::prelude::*;
use runtime::chips;
use runtime::meter::Reading;
use train::metrics::report::{ReportData, RunFacts, loss_curve_svg, render, write_from_files};
use train::metrics::{
    Kept, MetricsError, RunSummary, Sample, StepLog, StepRecord, TensorBoard, Trained,
    flops_per_token, matmul_parameters, model_flops_utilization, read,
};

fn record(step: usize) -> StepRecord {
    StepRecord {
        step,
        loss: 2.5,
        grad_norm: 0.75,
        lr: 0.001,
        tokens: 4096,
        seconds: 0.5,
        tokens_per_second: 8192.0,
        mfu: None,
        skipped: false,
        validation_loss: None,
        bits_per_byte: None,
        resumed: false,
    }
}

fn steps(path: &Path) -> Vec<usize> {
    read::<StepRecord>(path).unwrap().into_iter().map(|record| record.step).collect()
}

#[test]
fn a_line_has_exactly_the_promised_names() {
    let line = serde_json::to_string(&record(7)).unwrap();
    assert_eq!(
        line,
        r#"{"step":7,"loss":2.5,"grad_norm":0.75,"lr":0.001,"tokens":4096,"seconds":0.5,"tokens_per_second":8192.0,"mfu":null,"skipped":false}"#
    );
    let full = StepRecord {
        mfu: Some(0.5),
        validation_loss: Some(2.0),
        bits_per_byte: Some(1.5),
        resumed: true,
        ..record(8)
    };
    let line = serde_json::to_string(&full).unwrap();
    assert!(
        line.ends_with(
            r#""skipped":false,"validation_loss":2.0,"bits_per_byte":1.5,"resumed":true}"#
        )
    );
    assert_eq!(serde_json::from_str::<StepRecord>(&line).unwrap(), full);
    // JSON has no NaN.
    let bad = StepRecord { loss: f64::NAN, grad_norm: f64::INFINITY, ..record(9) };
    let line = serde_json::to_string(&bad).unwrap();
    assert!(line.starts_with(r#"{"step":9,"loss":null,"grad_norm":null,"#), "{line}");
    assert!(serde_json::from_str::<StepRecord>(&line).unwrap().loss.is_nan());
}

#[test]
fn every_step_is_there_once_after_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run").join("metrics.jsonl");
    let (mut log, kept) = StepLog::open(&path, 0).unwrap();
    assert_eq!(kept, Kept::default());
    (1..=5).for_each(|step| log.append(&record(step)).unwrap());
    drop(log);
    // The last write was cut short, and a block of an earlier one was lost with the power.
    let mut bytes = fs::read(&path).unwrap();
    bytes.truncate(bytes.len() - 20);
    let second = bytes.iter().position(|&byte| byte == b'\n').unwrap() + 1;
    bytes[second..second + 30].fill(0);
    fs::write(&path, &bytes).unwrap();
    assert_eq!(steps(&path), [1, 3, 4]);

    let (mut log, kept) = StepLog::open(&path, 3).unwrap();
    assert_eq!(kept, Kept { kept: 2, later: 1, unreadable: 2 });
    (4..=6).for_each(|step| log.append(&record(step)).unwrap());
    assert_eq!(steps(&path), [1, 3, 4, 5, 6]);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);

    let (_, kept) = StepLog::<StepRecord>::open(&path, 0).unwrap();
    assert_eq!(kept.later, 5);
    assert_eq!(fs::read(&path).unwrap(), b"");
}

#[test]
fn a_log_that_cannot_be_written_says_where() {
    let folder = tempfile::tempdir().unwrap();
    let taken = folder.path().join("taken");
    fs::write(&taken, "a file").unwrap();
    let error = StepLog::<StepRecord>::open(&taken.join("metrics.jsonl"), 0).unwrap_err();
    assert!(matches!(error, MetricsError::Write { .. }), "{error}");
    assert!(error.to_string().contains("taken"), "{error}");
    assert!(TensorBoard::create(&taken.join("tensorboard"), 0).is_err());
}

proptest! {
    #[test]
    fn any_file_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..400) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut text = Vec::new();
        for step in 1..=3 {
            serde_json::to_writer(&mut text, &record(step)).unwrap();
            text.push(b'\n');
        }
        text.truncate(cut);
        let whole = text.iter().filter(|&&byte| byte == b'\n').count();
        text.extend(&bytes);
        fs::write(&path, &text).unwrap();
        let (mut log, _) = StepLog::open(&path, 3).unwrap();
        log.append(&record(4)).unwrap();
        let found = steps(&path);
        prop_assert!(found.starts_with(&(1..=whole).collect::<Vec<_>>()), "{found:?}");
        prop_assert_eq!(found.last(), Some(&4));
    }
}

fn model(extra: &str) -> ModelConfig {
    let json = format!(
        r#"{{"model_type": "mistral", "vocab_size": 100, "hidden_size": 8, "intermediate_size": 16,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, {extra}}}"#
    );
    ModelConfig::from_json(&json).unwrap()
}

/// By hand: a layer has q 8x8, k 8x4, v 8x4, o 8x8 and three of 8x16 in the MLP, so 576; two layers
/// and the output layer of 8x100 are 1952.
#[test]
fn arithmetic_by_hand() {
    let config = model(r#""sliding_window": null"#);
    assert_eq!(matmul_parameters(&config), 2 * (64 + 32 + 32 + 64 + 3 * 128) + 800);
    // Attention: 6 x 2 layers x 8 wide x 10 tokens.
    let all = flops_per_token(&config, 10, Trained::All);
    assert_eq!(all, 6.0 * 1952.0 + 960.0);
    // The formula of PaLM with full attention has twice that attention.
    assert_eq!(all + 960.0, 6.0 * 1952.0 + 12.0 * 2.0 * 4.0 * 2.0 * 10.0);
    let lora = flops_per_token(&config, 10, Trained::Lora { adapter_parameters: 50 });
    assert_eq!(lora, 4.0 * 1952.0 + 6.0 * 50.0 + 960.0);
    // A window of 4 of 10 tokens: 4 - 16 / 20 = 3.2 keys instead of 5.
    let windowed = flops_per_token(&model(r#""sliding_window": 4"#), 10, Trained::All);
    assert!((windowed - (6.0 * 1952.0 + 12.0 * 2.0 * 8.0 * 3.2)).abs() < 1e-9, "{windowed}");
    assert_eq!(flops_per_token(&model(r#""sliding_window": 40"#), 10, Trained::All), all);
}

/// Llama-3-8B at 8192: 7.504e9 parameters in matrices (8.030e9 less the embedding of 128256 x 4096
/// and the norms), and 6 x 32 x 4096 x 8192 for attention. MaxText reports 7,207 tokens/s for a chip
/// of v6e-256, which is then 41 % of its 918 TFLOP/s.
#[test]
fn a_published_rate_in_our_terms() {
    let config = llm::shapes::find("llama3-8b").unwrap().unwrap();
    let norms = (2 * 32 + 1) * 4096;
    assert_eq!(matmul_parameters(&config) + norms + 128_256 * 4096, 8_030_261_248);
    let flops = flops_per_token(&config, 8192, Trained::All);
    assert_eq!(flops, 6.0 * 7_504_658_432.0 + 6.0 * 32.0 * 4096.0 * 8192.0);
    let chip = chips::find("v6e").unwrap();
    let mfu = model_flops_utilization(flops, 256.0 * 7207.0, chip, 256).unwrap();
    assert!((mfu - 0.404).abs() < 0.001, "{mfu}");
}

#[test]
fn utilization_counts_chips_and_knows_no_peak_of_a_processor() {
    let ironwood = chips::find("tpu7x").unwrap();
    // Two devices are one chip of 2307 TFLOP/s.
    let mfu = model_flops_utilization(1e9, 2307e3 / 2.0, ironwood, 2);
    assert_eq!(mfu, Some(0.5));
    assert_eq!(model_flops_utilization(1e9, 1e3, chips::find("cpu").unwrap(), 1), None);
}

#[test]
fn money_and_energy_by_hand() {
    let summary = |name: &str, devices, seconds| {
        RunSummary::new(Some(chips::find(name).unwrap()), devices, seconds)
    };
    // Eight chips for half an hour are four chip-hours.
    let run = summary("v6e", 8, 1800.0);
    assert_eq!(run.chip_seconds, 14_400.0);
    assert_eq!(run.dollars, Some((4.0 * 2.70, 4.0 * 3.24)));
    assert_eq!(
        run.to_string(),
        "4.0 chip-hours (v6e), about $10.80 to $12.96 ($2.70 (gcp) to $3.24 (gcp) per chip-hour on \
         demand, SkyPilot's catalog, v8/gcp, revision 006059e0f18a, 2026-11-23), no meter and power not known"
    );
    let run = summary("h100", 2, 3600.0);
    assert_eq!(run.money().unwrap(), "$4.58 to $21.96");
    let at_most = "the chips' highest power all the time, without hosts";
    assert_eq!(run.energy().unwrap(), format!("at most 1.40 kWh: {at_most}"));
    assert_eq!(summary("h100", 1, 36.0).energy().unwrap(), format!("at most 7.0 Wh: {at_most}"));
    let reading = Reading { joules: 1.8e6, seconds: 3600.0, meter: "a meter".to_string() };
    let run = run.with_measured(reading);
    assert_eq!(run.kilowatt_hours, Some(0.5));
    assert_eq!(run.energy().unwrap(), "0.50 kWh measured in 3600 s (a meter)");
    // Virtual devices of one processor.
    let run = summary("cpu", 8, 100.0);
    assert_eq!((run.chip_seconds, run.dollars, run.kilowatt_hours), (100.0, None, None));
    assert!(run.to_string().contains("no list price"), "{run}");
    assert_eq!(summary("tpu7x", 8, 60.0).chip_seconds, 240.0);
    let run = RunSummary::new(None, 2, 10.0);
    assert!(run.to_string().starts_with("20 chip-seconds, the chip is not in the catalog"));
}

/// TFRecords of a file: the bytes of each, with lengths that fit.
fn records_of(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = bytes;
    let mut found = Vec::new();
    while !rest.is_empty() {
        let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        found.push(rest[12..12 + length].to_vec());
        rest = &rest[16 + length..];
    }
    found
}

#[test]
fn event_files_hold_what_was_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let mut board = TensorBoard::create(folder.path(), 0).unwrap();
    board.record(&StepRecord { validation_loss: Some(2.0), ..record(1) }).unwrap();
    let sample = Sample { step: 1, prompt: "ROMEO:".to_string(), text: "\nWhat?".to_string() };
    board.sample(&sample).unwrap();
    drop(board);
    // A second one in the same second has a name of its own, and says from where it goes on.
    drop(TensorBoard::create(folder.path(), 1).unwrap());
    let mut files: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 2);
    let events = records_of(&fs::read(&files[0]).unwrap());
    assert_eq!(events.len(), 4);
    let holds = |event: &[u8], text: &str| {
        event.windows(text.len()).any(|window| window == text.as_bytes())
    };
    assert!(holds(&events[0], "brain.Event:2"));
    // A session starts (field 7, status 1) at step 1 (field 2): what was there before is another run's.
    assert_eq!(events[1][9..], [0x10, 1, 0x3a, 2, 0x08, 1]);
    for tag in ["train/loss", "train/grad_norm", "train/learning_rate", "validation/loss"] {
        assert!(holds(&events[2], tag), "{tag}");
    }
    assert!(!holds(&events[2], "train/mfu"));
    assert!(holds(&events[3], "samples/ROMEO:") && holds(&events[3], "    ROMEO:\n    What?"));
    let events = records_of(&fs::read(&files[1]).unwrap());
    assert_eq!(events.len(), 2);
    assert_eq!(events[1][9..], [0x10, 2, 0x3a, 2, 0x08, 1]);
}

fn run() -> ReportData {
    let records = (1..=20).map(|step| StepRecord {
        loss: if step == 7 { f64::NAN } else { 5.0 - step as f64 / 10.0 },
        skipped: step == 7,
        resumed: step == 11,
        validation_loss: (step % 10 == 0).then_some(3.5),
        bits_per_byte: (step % 10 == 0).then_some(2.25),
        ..record(step)
    });
    let sample = |step| Sample {
        step,
        prompt: "</script><script>alert(1)</script>".to_string(),
        text: format!("text of {step} & \"more\""),
    };
    ReportData {
        records: records.collect(),
        samples: (1..=9).map(sample).collect(),
        facts: RunFacts {
            title: "A <b>bold</b> run".to_string(),
            model: "llama, 4 layers".to_string(),
            parameters: 2_163_648,
            trained_parameters: 1024,
            data: "shakespeare".to_string(),
            mesh: "data=2".to_string(),
            device: "CPU".to_string(),
            cost: Some(RunSummary::new(chips::find("v6e"), 1, 3600.0)),
            config: "[model]\nfrom = \"a<b\"\n".to_string(),
            versions: vec![("fungible".to_string(), "0.1.0".to_string())],
        },
    }
}

/// The curves as the page's script gets them.
fn curves(html: &str) -> serde_json::Value {
    let (_, rest) = html.split_once("id=\"charts\">").unwrap();
    serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
}

#[test]
fn a_report_shows_what_happened() {
    let html = render(&run());
    for text in [
        "<h1>A &lt;b&gt;bold&lt;/b&gt; run</h1>",
        "2,163,648, 1,024 of them trained",
        "20, 1 skipped, resumed once",
        "<td>81,920</td>",
        "4.900 at first",
        "3.500 nats per token, 2.250 bits per byte",
        "about $2.70",
        "All 9 samples",
        "from = &quot;a&lt;b&quot;",
        "text of 9 &amp; &quot;more&quot;",
    ] {
        assert!(html.contains(text), "{text} is not in the report");
    }
    // Nothing from elsewhere, and nothing that a sample says is a tag.
    assert!(!html.contains("<script>alert") && !html.contains("<b>bold"));
    for outside in ["http://", "https://", "src=", "@import", "url("] {
        let found = html.replace("http://www.w3.org/2000/svg", "");
        assert!(!found.contains(outside), "{outside}");
    }
    let curves = curves(&html);
    assert_eq!(curves["skipped"], serde_json::json!([7]));
    assert_eq!(curves["resumed"], serde_json::json!([11]));
    let loss = &curves["charts"][0]["series"];
    assert_eq!(loss[0]["y"][0], 4.9);
    assert!(loss[0]["y"][6].is_null(), "{loss}");
    assert_eq!(loss[2]["x"], serde_json::json!([10, 20]));
}

#[test]
fn a_report_is_made_again_of_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let error = write_from_files(folder.path()).unwrap_err();
    assert!(matches!(error, MetricsError::Read { .. }), "{error}");
    fs::write(folder.path().join("run.json"), "[]").unwrap();
    let error = write_from_files(folder.path()).unwrap_err();
    assert!(matches!(error, MetricsError::Form { .. }), "{error}");

    let data = run();
    data.facts.write(folder.path()).unwrap();
    let (mut log, _) = StepLog::open(&folder.path().join("metrics.jsonl"), 0).unwrap();
    data.records.iter().for_each(|record| log.append(record).unwrap());
    let (mut log, _) = StepLog::open(&folder.path().join("samples.jsonl"), 0).unwrap();
    data.samples.iter().for_each(|sample| log.append(sample).unwrap());
    let path = write_from_files(folder.path()).unwrap();
    assert_eq!(fs::read_to_string(path).unwrap(), render(&data));
}

#[test]
fn reports_of_odd_runs() {
    let empty = render(&ReportData::default());
    assert!(empty.contains("No step was finished."));
    let all_skipped = ReportData {
        records: vec![StepRecord { loss: f64::NAN, skipped: true, ..record(1) }],
        ..ReportData::default()
    };
    assert!(!render(&all_skipped).contains("NaN"));
    assert!(!loss_curve_svg(&all_skipped.records).contains("NaN"));
    assert!(!loss_curve_svg(&[]).contains("NaN"));

    let long = ReportData { records: (1..=100_000).map(record).collect(), ..run() };
    let html = render(&long);
    assert!(html.len() < 500_000, "{} bytes", html.len());
    assert!(loss_curve_svg(&long.records).len() < 50_000);
}

#[test]
fn the_loss_curve_as_a_picture() {
    let svg = loss_curve_svg(&run().records);
    assert!(svg.starts_with("<svg xmlns=") && svg.ends_with("</svg>\n"));
    // Two validation points and one in the legend; the rough curve has a gap at the skipped step.
    assert_eq!(svg.matches("<circle").count(), 3);
    let raw = svg.lines().find(|line| line.contains("class=\"raw\"")).unwrap();
    assert_eq!(raw.matches('M').count(), 2, "{raw}");
}

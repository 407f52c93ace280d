//! Training that is interrupted, as a user meets it: killed, asked to stop, moved to another mesh, with
//! a damaged checkpoint. Nothing is lost but the steps since the last checkpoint, and what comes out in
//! the end is what would have come out anyway, bit for bit.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/binary.rs"]
mod binary;
#[path = "support/mod.rs"]
mod shared;
#[path = "support/training.rs"]
mod training;

use std::fs;
use std::time::Duration;

use binary::run;
use training::{EVERY, Left, Running, STEPS, TinyRun, assert_same, words};

/// Starts a run and kills it between its first checkpoint and its second.
fn kill_after_first_checkpoint(tiny: &TinyRun, output: &str) -> Left {
    for _ in 0..20 {
        let left = tiny.left(output);
        if left.folder.exists() {
            fs::remove_dir_all(&left.folder).unwrap();
        }
        let command = &mut tiny.train(output, &[]);
        let mut running = Running::start(command, tiny.sandbox.path("killed"));
        let there = running.wait_until(|| !left.saved_steps().is_empty());
        assert!(there, "{}", running.text("err"));
        let killed = running.kill();
        // On a machine that does something else just then, the run may have come further.
        if killed && left.saved_steps() == [EVERY as u64] {
            return left;
        }
    }
    panic!("never in time for the kill");
}

#[test]
fn a_killed_run_goes_on_to_the_same_end() {
    let test = "a_killed_run_goes_on_to_the_same_end";
    let Some(tiny) = TinyRun::new(test) else { return };
    let (whole, _) = tiny.finish("whole", &[]);
    assert_eq!(whole.records().len(), STEPS);
    let losses = whole.losses();
    assert!(losses[STEPS - 1] < losses[0] - 1.0, "it learns nothing: {losses:?}");
    // Twice the same is the same, or nothing below means anything.
    let (again, _) = tiny.finish("again", &[]);
    assert_same(&again, &whole, STEPS, "uninterrupted");

    let killed = kill_after_first_checkpoint(&tiny, "killed");
    let meshes = ["mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2"];
    for (place, _) in meshes.iter().enumerate() {
        killed.copy_to(&tiny.left(&format!("moved{place}")));
    }
    let (resumed, said) = tiny.finish("killed", &["--resume"]);
    assert!(said.stderr.contains("going on after step 20 from "), "{}", said.stderr);
    assert_same(&resumed, &whole, STEPS, "resumed");
    let marked: Vec<usize> = (1..)
        .zip(resumed.records())
        .filter(|(_, r)| r["resumed"] == true)
        .map(|(s, _)| s)
        .collect();
    assert_eq!(marked, [EVERY + 1]);

    // A checkpoint belongs to no mesh.
    for (place, mesh) in meshes.iter().enumerate() {
        let (moved, said) = tiny.finish(&format!("moved{place}"), &["--resume", "--set", mesh]);
        let key = mesh.split('=').next().unwrap();
        let change = format!("changed since the checkpoint: {key} = 2 (was 1)");
        assert!(said.stderr.contains(&change), "{}", said.stderr);
        assert_eq!(moved.records().len(), STEPS, "{mesh}");
        for (step, (found, expected)) in moved.losses().into_iter().zip(&losses).enumerate() {
            assert!((found - expected).abs() < 1e-4, "{mesh}, step {step}: {found}, {expected}");
        }
    }
}

#[test]
fn a_run_that_is_asked_to_stop_saves_first() {
    let test = "a_run_that_is_asked_to_stop_saves_first";
    let Some(tiny) = TinyRun::new(test) else { return };
    let left = tiny.left("stopped");
    let endless = ["--set", "training.steps=1000000", "--set", "checkpoint.every=0"];
    let command = &mut tiny.train("stopped", &endless);
    let mut running = Running::start(command, tiny.sandbox.path("stopped"));
    assert!(running.wait_until(|| left.records().len() > 10), "{}", running.text("err"));
    let said = running.terminate();
    assert_eq!(said.code, Some(75), "{said:?}");
    assert!(said.stderr.contains("stopping after this step"), "{}", said.stderr);
    let step = left.records().len();
    assert!(said.stdout.contains(&format!("stopped after step {step}, saved")), "{}", said.stdout);
    assert!(said.stdout.contains("run.toml --resume"), "{}", said.stdout);
    assert_eq!(left.newest().unwrap().step(), step as u64);
    // Nothing is measured first, whatever else is due.
    assert!(left.records()[step - 1]["validation_loss"].is_null());
    let fewer = ["--resume", "--set", "training.steps=5"];
    let already = format!("the run is at step {step} already");
    run(&mut tiny.train("stopped", &fewer)).fails_with(&[&already, "training.steps is 5"]);

    let end = format!("training.steps={}", step + 5);
    let (resumed, _) = tiny.finish("stopped", &["--resume", "--set", &end]);
    let (whole, _) = tiny.finish("whole", &["--set", &end]);
    // A run's last step is always measured on the validation text: leave that out.
    assert_eq!(resumed.losses(), whole.losses());
    assert!(resumed.arrays(step + 5) == whole.arrays(step + 5), "the ends differ");
}

/// Before there is anything to save, nothing is waited for.
#[test]
fn a_run_that_is_asked_to_stop_before_its_first_step_ends() {
    let test = "a_run_that_is_asked_to_stop_before_its_first_step_ends";
    let Some(tiny) = TinyRun::new(test) else { return };
    fs::write(tiny.sandbox.path("text.txt"), words(300_000)).unwrap();
    let left = tiny.left("stopped");
    for phase in ["learning a vocabulary", "tokenizing"] {
        let command = &mut tiny.train_anew("stopped", &[]);
        let output = tiny.sandbox.path("stopping");
        let mut running = Running::start(command, output.clone());
        let said = || fs::read_to_string(output.with_extension("err")).unwrap();
        assert!(running.wait_until(|| said().contains(phase)), "{}", said());
        let said = running.terminate();
        assert_eq!(said.code, Some(75), "{said:?}");
        assert!(said.stderr.contains("stopped before the first step"), "{said:?}");
        assert!(left.saved_steps().is_empty() && left.records().is_empty(), "{said:?}");
    }
    run(&mut tiny.train_anew("stopped", &["--set", "training.steps=5"])).success();
    assert_eq!(left.saved_steps(), [5]);
}

/// What cannot be written at the end of a run that is stopped does not hide that it is saved.
#[test]
fn a_stopped_run_without_a_report_is_saved() {
    let Some(tiny) = TinyRun::new("a_stopped_run_without_a_report_is_saved") else { return };
    let left = tiny.left("stopped");
    let command = &mut tiny.train("stopped", &["--set", "training.steps=1000000"]);
    let mut running = Running::start(command, tiny.sandbox.path("stopped"));
    assert!(running.wait_until(|| left.records().len() > 10), "{}", running.text("err"));
    fs::create_dir_all(left.folder.join("report.html/in the way")).unwrap();
    let said = running.terminate();
    assert_eq!(said.code, Some(75), "{said:?}");
    assert!(said.stderr.contains("warning: there is no report: "), "{said:?}");
    assert_eq!(left.newest().unwrap().step(), left.records().len() as u64);
}

/// A short version of `bench/kills`.
#[test]
fn kills_lose_nothing_but_the_steps_since_the_last_checkpoint() {
    const KILLS: u64 = 5;
    let test = "kills_lose_nothing_but_the_steps_since_the_last_checkpoint";
    let Some(tiny) = TinyRun::new(test) else { return };
    let settings = ["--set=training.steps=150", "--set=checkpoint.every=7"];
    let (whole, _) = tiny.finish("whole", &settings);
    let left = tiny.left("killed");
    let mut draw = 20_u64;
    let mut resumed_from = 0;
    for kill in 0..KILLS {
        let resume: &[&str] = if kill == 0 { &[] } else { &["--resume"] };
        let command = &mut tiny.train("killed", &[&settings[..], resume].concat());
        let mut running = Running::start(command, tiny.sandbox.path("life"));
        draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (steps, microseconds) = (draw >> 59, (draw >> 40) % 4000);
        // The first kill comes before there can be anything to go on from, the others some steps on.
        if kill == 0 {
            std::thread::sleep(Duration::from_micros(microseconds));
        } else {
            let until = resumed_from + steps as usize;
            let seen = || left.records().last().and_then(|last| last["step"].as_u64());
            running.wait_until(|| seen().is_some_and(|step| step as usize > until));
            std::thread::sleep(Duration::from_micros(microseconds));
        }
        let before = left.saved_steps().last().copied().unwrap_or(0);
        running.kill();
        let newest = left.newest().map_or(0, |checkpoint| checkpoint.step());
        assert!(newest >= before, "the checkpoint of step {before} is lost, {newest} is left");
        resumed_from = newest as usize;
        // Of everything up to there the records are there too.
        let records = left.records();
        let steps = records.iter().map(|record| record["step"].as_u64().unwrap());
        assert!(steps.take(resumed_from).eq(1..=newest), "step {newest}");
        assert!(records.len() >= resumed_from, "step {newest}");
    }
    assert!(resumed_from > 0, "no kill came after a checkpoint");
    let (end, said) = tiny.finish("killed", &[&settings[..], &["--resume"]].concat());
    let from = format!("going on after step {resumed_from} from ");
    assert!(said.stderr.contains(&from), "{}", said.stderr);
    assert_same(&end, &whole, 150, "after kills");
    assert_eq!(end.saved_steps(), whole.saved_steps());
}

#[test]
fn a_damaged_checkpoint_falls_back_to_the_one_before() {
    let test = "a_damaged_checkpoint_falls_back_to_the_one_before";
    let Some(tiny) = TinyRun::new(test) else { return };
    let (whole, _) = tiny.finish("whole", &[]);
    let damaged = tiny.left("damaged");
    whole.copy_to(&damaged);
    let damage = |step: usize| {
        let folder = damaged.folder.join(format!("checkpoints/step-{step:08}"));
        let data = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let data =
            data.into_iter().find(|path| path.extension().unwrap() == "safetensors").unwrap();
        let mut bytes = fs::read(&data).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(data, bytes).unwrap();
    };
    damage(STEPS);
    let (resumed, said) = tiny.finish("damaged", &["--resume"]);
    let warning =
        said.stderr.lines().find(|line| line.starts_with("warning: ")).unwrap_or_default();
    assert!(warning.contains("the checkpoint of step 40 is damaged ("), "{}", said.stderr);
    assert!(warning.ends_with("going on from step 20"), "{}", said.stderr);
    assert_same(&resumed, &whole, STEPS, "after damage");

    // With none that can be used, none is used, and none is touched.
    damage(STEPS);
    damage(EVERY);
    let said = run(&mut tiny.train("damaged", &["--resume"]));
    said.fails_with(&["checkpoints", "damaged"]);
    assert_eq!(damaged.saved_steps(), [EVERY as u64, STEPS as u64]);
    assert_eq!(damaged.records().len(), STEPS);
}

#[test]
fn a_run_is_not_written_over_unasked() {
    let test = "a_run_is_not_written_over_unasked";
    let Some(tiny) = TinyRun::new(test) else { return };
    let (left, _) = tiny.finish("out", &[]);
    let before = (left.arrays(STEPS), left.records());
    let said = run(&mut tiny.train("out", &[]));
    said.fails_with(&["has checkpoints up to step 40", "--resume", "--overwrite", "output.folder"]);
    assert_eq!(said.code, Some(2));
    assert!(before == (left.arrays(STEPS), left.records()), "something changed");

    // Going on where there is nothing left to do says so, and changes nothing.
    let (_, said) = tiny.finish("out", &["--resume"]);
    assert!(said.stderr.contains("all 40 steps are made already"), "{}", said.stderr);
    assert!(before == (left.arrays(STEPS), left.records()), "something changed");

    // The longer run goes on from the shorter one.
    let (_, said) = tiny.finish("out", &["--resume", "--set", "training.steps=45"]);
    assert!(said.stderr.contains("training.steps = 45 (was 40)"), "{}", said.stderr);
    assert_eq!(left.saved_steps(), [20, 40, 45]);

    // What cannot start does not cost what is there.
    let missing = format!("data.sources=[{{path={:?}}}]", tiny.sandbox.path("missing.txt"));
    for (what, why) in [(missing.as_str(), "there is no data at `"), ("mesh.tensor=4", "`tensor`")]
    {
        let saved = left.arrays(45);
        let said = run(&mut tiny.train("out", &["--overwrite", "--set", what]));
        said.fails_with(&[why]);
        assert_eq!(left.saved_steps(), [20, 40, 45], "{what}");
        assert!(left.arrays(45) == saved && left.records().len() == 45, "{what}");
    }

    let (_, said) = tiny.finish("out", &["--overwrite", "--set", "training.steps=10"]);
    assert!(!said.stderr.contains("going on"), "{}", said.stderr);
    assert_eq!(left.saved_steps(), [10]);
    assert_eq!(left.records().len(), 10);
    assert!(before.1[..10].iter().zip(left.records()).all(|(a, b)| a["loss"] == b["loss"]));
}

/// What `--resume` cannot go on from is told from what it can.
#[test]
fn a_checkpoint_of_another_model_is_refused() {
    let test = "a_checkpoint_of_another_model_is_refused";
    let Some(tiny) = TinyRun::new(test) else { return };
    let (left, _) = tiny.finish("out", &["--set", "training.steps=5"]);
    let before = (left.arrays(5), left.records());
    for (change, parts) in [
        ("model.hidden_size=64", ["model.hidden_size", "64", "32"]),
        ("model.num_hidden_layers=3", ["model.num_hidden_layers", "3", "2"]),
        ("optimizer.name=\"muon\"", ["optimizer.name", "muon", "adamw"]),
    ] {
        let said = run(&mut tiny.train("out", &["--resume", "--set", change]));
        said.fails_with(&parts);
        assert!(before == (left.arrays(5), left.records()), "{change}: something changed");
    }

    // The same keys, and behind them a model of another shape.
    let model = |width: usize| {
        let config = serde_json::json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 300,
            "hidden_size": width, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
            "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": false
        });
        fs::write(tiny.sandbox.path("config.json"), config.to_string()).unwrap();
    };
    let path = tiny.sandbox.path("config.json");
    tiny.change_config(|text| {
        let data = text.find("[data]").unwrap();
        let model = format!("[model]\nconfig = {path:?}\nvocabulary_size = 300\n\n");
        model + &text[data..]
    });
    model(32);
    let settings = ["--set", "training.steps=5"];
    let (left, _) = tiny.finish("described", &settings);
    model(64);
    let said = run(&mut tiny.train("described", &[&settings[..], &["--resume"]].concat()));
    said.fails_with(&["is a checkpoint of another model", "described", "32", "64"]);
    assert_eq!(left.saved_steps(), [5]);
}

/// What the config only names: text, and the weights under adapters.
#[test]
fn what_a_run_stands_on_does_not_change_unnoticed() {
    let test = "what_a_run_stands_on_does_not_change_unnoticed";
    let Some(tiny) = TinyRun::new(test) else { return };
    tiny.finish("out", &["--set", "training.steps=5"]);
    let again = ["--resume", "--set", "training.steps=8"];
    let (_, said) = tiny.finish("out", &again);
    assert!(!said.stderr.contains("is not what it was"), "{said:?}");
    fs::write(tiny.sandbox.path("text.txt"), training::words(5000)).unwrap();
    let (left, said) = tiny.finish("out", &["--resume", "--set", "training.steps=10"]);
    assert!(said.stderr.contains("text.txt is not what it was"), "{said:?}");
    assert_eq!(left.records().len(), 10);

    let model = tiny.sandbox.path("model");
    fs::create_dir(&model).unwrap();
    for file in fs::read_dir(binary::tiny_model("smollm2")).unwrap() {
        let file = file.unwrap().path();
        fs::copy(&file, model.join(file.file_name().unwrap())).unwrap();
    }
    tiny.change_config(|text| {
        let data = text.find("[data]").unwrap();
        format!("[model]\nfrom = {model:?}\n{}\n[lora]\nrank = 2\n", &text[data..])
    });
    let (left, _) = tiny.finish("adapted", &["--set", "training.steps=5"]);
    let weights = model.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    // Every sign turned around.
    bytes[8 + header..].iter_mut().skip(3).step_by(4).for_each(|byte| *byte ^= 0x80);
    fs::write(&weights, bytes).unwrap();
    let parts = ["model.from are not those that the adapters of", "adapted"];
    run(&mut tiny.train("adapted", &["--resume"])).fails_with(&parts);
    let export = |folder: &str, more: &[&str]| {
        let mut command = binary::fungible_with_kept_cache(test).unwrap();
        let adapted = tiny.sandbox.path("adapted");
        command.arg("export").args(more).args([adapted, tiny.sandbox.path(folder)]);
        run(&mut command)
    };
    export("merged", &[]).fails_with(&parts);
    // The adapter alone can be had all the same.
    assert_eq!(export("adapter", &["--adapter"]).code, Some(0));
    assert_eq!(left.saved_steps(), [5]);
}

/// Steps with a loss that is no number or far too high are left out, and too many of them end the run.
#[test]
fn a_run_that_diverges_ends() {
    let Some(tiny) = TinyRun::new("a_run_that_diverges_ends") else { return };
    let left = tiny.left("high");
    let said = run(&mut tiny.train("high", &["--set", "optimizer.learning_rate=1e30"]));
    said.fails_with(&["10 steps in a row were skipped", "NaN", "diverged", "lower learning rate"]);
    assert!(said.stderr.contains("warning: step "), "{}", said.stderr);
    let skipped = |left: &Left| -> Vec<bool> {
        left.records().iter().map(|record| record["skipped"].as_bool().unwrap()).collect()
    };
    let flags = skipped(&left);
    assert!(flags.len() < STEPS && flags.ends_with(&[true; 10]), "{flags:?}");
    assert!(!flags[0] && left.saved_steps().is_empty());
    // Its curves are there to be looked at.
    assert_eq!(said.code, Some(1));
    assert!(said.stdout.contains(&format!("failed after step {}", flags.len())), "{said:?}");
    let report = fs::read_to_string(left.folder.join("report.html")).unwrap();
    assert!(report.contains("</html>"), "{report}");
    assert!(left.records().last().unwrap()["loss"].is_null());

    // Text of another kind, all of a sudden.
    let noise: String =
        words(20_000).chars().rev().map(|letter| (b'~' - letter as u8 % 64) as char).collect();
    fs::write(tiny.sandbox.path("noise.txt"), noise).unwrap();
    let noise = format!("--set=data.sources=[{{path={:?}}}]", tiny.sandbox.path("noise.txt"));
    let guard = ["--set=guard.spike_factor=1.25", "--set=guard.stop_after=3"];
    let until = |steps| [&guard[..], &[steps]].concat();
    let (left, _) = tiny.finish("spikes", &until("--set=training.steps=60"));
    assert_eq!(skipped(&left), [false; 60]);
    let resume = ["--resume", "--set=training.steps=70"];
    let said = run(&mut tiny.train("spikes", &[&guard[..], &resume, &[&noise]].concat()));
    said.fails_with(&["3 steps in a row were skipped up to step 63", "with a loss of "]);
    assert_eq!(skipped(&left), [vec![false; 60], vec![true; 3]].concat());
    // What was saved before is gone on from.
    assert_eq!(left.newest().unwrap().step(), 60);
    let (resumed, _) = tiny.finish("spikes", &[&guard[..], &resume].concat());
    let (whole, _) = tiny.finish("whole", &until("--set=training.steps=70"));
    assert_eq!(resumed.losses(), whole.losses());
    assert!(resumed.arrays(70) == whole.arrays(70), "the ends differ");
}

//! Whatever is wrong with a training run's config, data, model or disk: one sentence that says what, why
//! and what to do, an exit code, and nothing half-written left behind.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/binary.rs"]
mod binary;
#[path = "support/mod.rs"]
mod shared;
#[path = "support/training.rs"]
mod training;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use binary::{Said, run, tiny_model};
use training::{Running, STEPS, TinyRun, assert_same, words};

/// Demands that a run of these arguments fails with `parts` and this code, before it leaves anything.
fn refuse(tiny: &TinyRun, arguments: &[&str], code: i32, parts: &[&str]) -> Said {
    let said = run(&mut tiny.train("out", arguments));
    said.fails_with(parts);
    assert_eq!(said.code, Some(code), "{arguments:?}: {said:?}");
    assert!(!tiny.sandbox.path("out").exists(), "{arguments:?} left something behind");
    assert!(said.stdout.is_empty(), "{arguments:?}: {}", said.stdout);
    said
}

/// A config that starts from one of the tiny models, with more lines at its end.
fn fine_tune(tiny: &TinyRun, model: &str, more: &str) {
    let model = tiny_model(model);
    tiny.change_config(|text| {
        let data = text.find("[data]").unwrap();
        format!("[model]\nfrom = {model:?}\n{}\n{more}", &text[data..])
    });
}

#[test]
fn keys_and_values_that_cannot_be() {
    let Some(tiny) = TinyRun::new("keys_and_values_that_cannot_be") else { return };
    let refuse = |set: &str, parts: &[&str]| {
        refuse(&tiny, &["--set", set], 2, &[parts, &[set]].concat());
    };
    refuse("training.step=4", &["run.toml", "unknown key `step` in [training]", "`steps`?"]);
    refuse("traning.steps=4", &["unknown", "`traning`", "`training`?"]);
    refuse("training.steps=many", &["`training.steps` is \"many\"", "whole number"]);
    refuse("training.steps=0", &["`training.steps` is 0", "at least 1"]);
    refuse("training.steps", &["cannot apply --set", "key=value"]);
    refuse("optimizer.learning_rate=-1", &["`optimizer.learning_rate` is -1", "at least 0"]);
    refuse("optimizer.name=adam", &["`optimizer.name` is \"adam\"", "\"adamw\" or \"muon\""]);
}

#[test]
fn keys_in_the_file_that_cannot_be() {
    let Some(tiny) = TinyRun::new("keys_in_the_file_that_cannot_be") else { return };
    tiny.change_config(|text| text.replace("batch_size = 8", "batchsize = 8"));
    let line = fs::read_to_string(tiny.config()).unwrap();
    let line = 1 + line.lines().position(|line| line.starts_with("batchsize")).unwrap();
    let place = format!("line {line}");
    refuse(&tiny, &[], 2, &["run.toml", "unknown key `batchsize`", &place, "`batch_size`?"]);
    tiny.change_config(|text| text.replace("batchsize = 8", "batch_size = = 8"));
    refuse(&tiny, &[], 2, &["run.toml", &place]);
    fs::remove_file(tiny.config()).unwrap();
    let advice = "give a TOML file, such as examples/shakespeare.toml";
    refuse(&tiny, &[], 2, &["cannot read the config ", "run.toml", "does not exist", advice]);
    fs::write(tiny.config(), b"\xff\xfe\x00\x80").unwrap();
    refuse(&tiny, &[], 2, &["run.toml", "it is not text", advice]);
    fs::remove_file(tiny.config()).unwrap();
    fs::create_dir(tiny.config()).unwrap();
    refuse(&tiny, &[], 2, &["run.toml", "it is a folder", advice]);
}

#[test]
fn a_mesh_that_does_not_divide() {
    let Some(tiny) = TinyRun::new("a_mesh_that_does_not_divide") else { return };
    refuse(
        &tiny,
        &["--set", "mesh.tensor=4"],
        1,
        &[
            "mesh axis `tensor` = 4 does not divide the heads",
            "2 key/value heads",
            "`tensor` could be 1 or 2",
            "meshes of 4 devices that would do: data=4; ",
            "data=2,tensor=2",
        ],
    );
    refuse(
        &tiny,
        &["--set", "mesh.fsdp=3"],
        2,
        &["mesh.fsdp = 3 does not divide the 8 sequences", "could be 1, 2, 4 or 8"],
    );
    let settings = ["--set", "training.accumulation=3"];
    let parts =
        ["training.accumulation = 3 does not divide training.batch_size = 8", "1, 2, 4 or 8"];
    refuse(&tiny, &settings, 2, &parts);
}

#[test]
fn data_with_nothing_in_it() {
    let Some(tiny) = TinyRun::new("data_with_nothing_in_it") else { return };
    let source = |path: &Path| format!("data.sources=[{{path={path:?}}}]");
    for (name, text) in [
        ("empty.txt", ""),
        ("blank.txt", " \n\n\t\n"),
        ("empty.jsonl", "{\"text\": \"\"}\n{\"text\": \"\"}\n"),
    ] {
        let path = tiny.sandbox.path(name);
        fs::write(&path, text).unwrap();
        let parts = [name, "holds no usable document", "give data with some text"];
        refuse(&tiny, &["--set", &source(&path)], 1, &parts);
    }
    let missing = source(&tiny.sandbox.path("missing.txt"));
    refuse(
        &tiny,
        &["--set", &missing],
        1,
        &["there is no data at `", "missing.txt", "shakespeare"],
    );
    let path = tiny.sandbox.path("torn.jsonl");
    fs::write(&path, "{\"text\": \"fine\"}\n{\"text\": \"not fi").unwrap();
    let parts = ["torn.jsonl:2", "not a JSON object"];
    refuse(&tiny, &["--set", &source(&path)], 1, &parts);
    // Enough to train on, and nothing to hold out.
    let path = tiny.sandbox.path("short.txt");
    fs::write(&path, "a b").unwrap();
    refuse(&tiny, &["--set", &source(&path)], 1, &["short.txt", "held out", "nothing to learn"]);
}

#[test]
fn a_model_and_a_tokenizer_that_do_not_match() {
    let Some(tiny) = TinyRun::new("a_model_and_a_tokenizer_that_do_not_match") else { return };
    fine_tune(&tiny, "llama", "");
    refuse(&tiny, &[], 1, &["has no tokenizer", "model.tokenizer"]);
    let other = format!("model.tokenizer={:?}", tiny_model("smollm2"));
    let parts = ["tokenizer has 384 tokens", "vocabulary 256", "belongs to another model"];
    refuse(&tiny, &["--set", &other], 1, &parts);
}

#[test]
fn sequences_longer_than_the_model_takes() {
    let Some(tiny) = TinyRun::new("sequences_longer_than_the_model_takes") else { return };
    fine_tune(&tiny, "smollm2", "");
    let parts = ["sequence_length is 256", "at most 128 positions", "lower `sequence_length`"];
    refuse(&tiny, &["--set", "data.sequence_length=256"], 1, &parts);
}

#[test]
fn adapters_that_cannot_be() {
    let Some(tiny) = TinyRun::new("adapters_that_cannot_be") else { return };
    let parts = ["[lora] adapts a model that exists", "model.from"];
    refuse(&tiny, &["--set", "lora.rank=4"], 2, &parts);
    fine_tune(&tiny, "smollm2", "[lora]\nrank = 4\n");
    let targets = ["--set", "lora.targets=[\"q_proj\", \"v_prj\"]"];
    refuse(&tiny, &targets, 2, &["lora.targets has `v_prj`", "did you mean `v_proj`?"]);
    let base = ["--set", "lora.base=int4"];
    refuse(&tiny, &base, 2, &["lora.base", "int4", "\"bf16\" or \"int8\""]);
}

#[test]
fn targets_that_cannot_be() {
    let Some(tiny) = TinyRun::new("targets_that_cannot_be") else { return };
    let compile = |target| ["--compile-only", "--target", target];
    let parts = ["there is no target `v6-16`", "did you mean `v6e-16`?"];
    refuse(&tiny, &compile("v6-16"), 2, &parts);
    refuse(&tiny, &compile("v5e-3"), 2, &["v5e does not come in 3 chips", "1, 4, 8, 16"]);
    // Sixteen pieces of neither the width of 32 and the 8 sequences.
    let parts = ["mesh axis `fsdp` = 16 does not divide", "could be 1, 2, 4 or 8"];
    refuse(&tiny, &compile("v6e-16"), 1, &parts);
}

/// An output folder that cannot be one.
#[test]
fn a_file_in_the_place_of_the_output() {
    let Some(tiny) = TinyRun::new("a_file_in_the_place_of_the_output") else { return };
    fs::write(tiny.sandbox.path("out"), "in the way").unwrap();
    let said = run(&mut tiny.train("out", &[]));
    said.fails_with(&["out is a file", "give a folder"]);
    assert_eq!(fs::read(tiny.sandbox.path("out")).unwrap(), b"in the way");
    let mut export = tiny.sandbox.fungible();
    export.arg("export").args([tiny.sandbox.path("out"), tiny.sandbox.path("model")]);
    run(&mut export).fails_with(&["out is a file", "give a folder"]);
}

/// What a run leaves must be exported before anything else can use it.
#[test]
fn a_run_in_the_place_of_a_model() {
    let test = "a_run_in_the_place_of_a_model";
    let Some(tiny) = TinyRun::new(test) else { return };
    tiny.finish("a run", &[]);
    let (folder, model) = (tiny.sandbox.path("a run"), tiny.sandbox.path("model"));
    let checkpoints = folder.join("checkpoints");
    let checkpoint = checkpoints.join(format!("step-{STEPS:08}"));
    for place in [&folder, &checkpoints, &checkpoint] {
        let Some(mut generate) = tiny.sandbox.fungible_on_cpu(test) else { return };
        let said = run(generate.args(["generate", "x", "--model"]).arg(place));
        let advice = format!("`fungible export '{}' model`", place.display());
        said.fails_with(&["checkpoints of a training run", &advice]);
    }
    let export = || {
        let mut export = tiny.sandbox.fungible();
        export.arg("export").args([&folder, &model]);
        export
    };
    run(&mut export()).success();
    run(&mut export()).fails_with(&["is not empty", "with --overwrite"]);
    run(export().arg("--overwrite")).success();
}

#[test]
fn a_step_that_no_machine_has_room_for() {
    let Some(tiny) = TinyRun::new("a_step_that_no_machine_has_room_for") else { return };
    let settings = ["--set", "training.batch_size=200000000", "--set", "training.eval_every=0"];
    let said = run(&mut tiny.train("out", &settings));
    said.fails_with(&[
        "`train_step` needs ",
        "this machine has ",
        "data.sequence_length",
        "training.batch_size",
        "training.accumulation",
        "training.remat",
    ]);
}

#[test]
fn another_run_that_saves_in_the_same_place() {
    let test = "another_run_that_saves_in_the_same_place";
    let Some(tiny) = TinyRun::new(test) else { return };
    let left = tiny.left("out");
    // None is removed while the other run looks at it.
    let endless = [
        "--set=training.steps=1000000",
        "--set=checkpoint.every=50",
        "--set=checkpoint.keep_last=9999",
    ];
    let mut running = Running::start(&mut tiny.train("out", &endless), tiny.sandbox.path("first"));
    assert!(running.wait_until(|| !left.saved_steps().is_empty()), "{}", running.text("err"));
    let config = || fs::read_to_string(left.folder.join("config.toml")).unwrap();
    let before = config();
    for flag in ["--resume", "--overwrite"] {
        let said = run(&mut tiny.train("out", &[flag, endless[0]]));
        said.fails_with(&["checkpoints", "another run"]);
        assert_eq!(config(), before, "{flag}");
    }
    // The one that was there did not notice.
    let said = running.terminate();
    assert_eq!(said.code, Some(75), "{said:?}");
    assert!(!said.stderr.contains("warning"), "{}", said.stderr);
    let steps: Vec<u64> = left.records().iter().map(|r| r["step"].as_u64().unwrap()).collect();
    assert!(steps.iter().copied().eq(1..=steps.len() as u64), "{steps:?}");
    assert_eq!(left.newest().unwrap().step(), steps.len() as u64);
}

/// Data is prepared once; a run that is killed meanwhile leaves nothing that a later one would take for
/// whole.
#[test]
fn an_interrupted_tokenization() {
    let Some(tiny) = TinyRun::new("an_interrupted_tokenization") else { return };
    // With a tokenizer that need not be learned first.
    fine_tune(&tiny, "smollm2", "");
    fs::write(tiny.sandbox.path("text.txt"), words(400_000)).unwrap();
    let settings = ["--set", "training.steps=5", "--set", "training.eval_every=0"];
    let tokens = tiny.sandbox.cache().join("tokens");
    let prepared = || fs::read_dir(&tokens).map_or(0, Iterator::count);
    let mut interrupted = 0;
    for delay_milliseconds in [0, 10, 20, 40] {
        let command = &mut tiny.train_anew("out", &settings);
        let mut running = Running::start(command, tiny.sandbox.path("killed"));
        assert!(running.wait_until(|| running_tokenizes(&tiny)), "{}", running.text("err"));
        std::thread::sleep(Duration::from_millis(delay_milliseconds));
        running.kill();
        if prepared() > 0 {
            // It was done before the kill, on a fast machine.
            break;
        }
        interrupted += 1;
    }
    assert!(interrupted > 0, "no kill came in time");
    run(&mut tiny.train_anew("out", &settings)).success();
    tiny.sandbox.assert_clean();
    let (whole, _) = tiny.finish("whole", &settings);
    assert_same(&tiny.left("out"), &whole, 5, "after an interrupted tokenization");
}

fn running_tokenizes(tiny: &TinyRun) -> bool {
    fs::read_to_string(tiny.sandbox.path("killed.err")).unwrap().contains("tokenizing ")
}

/// A shell's script with a disk of 2 MB at `disk`, on which a run is to write to `disk/out`; nothing
/// after saying that the test is skipped. The script has the run's command as `"$@"`.
#[cfg(target_os = "linux")]
fn on_a_small_disk(tiny: &TinyRun, test: &str, settings: &[&str], script: &str) -> Option<Said> {
    fs::create_dir(tiny.sandbox.path("disk")).unwrap();
    let script = format!("mount -t tmpfs -o size=2m tmpfs disk && echo mounted || exit\n{script}");
    let train = tiny.train("disk/out", settings);
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script, "sh"]);
    command.arg(train.get_program()).args(train.get_args());
    for (name, value) in train.get_envs() {
        command.env(name, value.unwrap());
    }
    let why = match command.current_dir(tiny.sandbox.path("")).output() {
        Err(error) => format!("no `unshare` here ({error})"),
        Ok(output) => {
            let said = Said::from(output);
            if said.stdout.starts_with("mounted") {
                return Some(said);
            }
            format!("no disk of its own can be mounted here: {}", said.stderr.trim())
        }
    };
    shared::skip(test, &why);
    None
}

/// Training goes on without more checkpoints than the one there is room for, and says so; that one
/// stays, and is gone on from when there is room.
#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_is_full_when_checkpoints_are_saved() {
    let test = "a_disk_that_is_full_when_checkpoints_are_saved";
    let Some(tiny) = TinyRun::new(test) else { return };
    let settings = ["--set", "checkpoint.every=10"];
    let (whole, _) = tiny.finish("whole", &settings);
    // Room for one and a half checkpoints beside what else a run writes.
    let one = whole.arrays(STEPS).values().map(Vec::len).sum::<usize>();
    let filling = (2 << 20) - one * 3 / 2 - 100_000;
    let script = format!(
        r#"
        head -c {filling} /dev/zero > disk/filling
        "$@"; echo "ended with $?"
        ls disk/out/checkpoints
        cp -r disk/out unsaved
        rm disk/filling
        "$@" --resume; echo "ended with $?"
        cp -r disk/out copied
        "#
    );
    let Some(said) = on_a_small_disk(&tiny, test, &settings, &script) else { return };
    let is_told = |line: &&str| line.starts_with("ended with ") || line.starts_with("step-");
    let lines: Vec<&str> = said.stdout.lines().filter(is_told).collect();
    // The last step of the first run could not be saved, which is a failure.
    assert_eq!(lines, ["ended with 1", "step-00000010", "ended with 0"], "{said:?}");
    for step in [20, 30] {
        let warning = format!("warning: step {step} was not saved in ");
        assert!(said.stderr.contains(&warning), "{}", said.stderr);
    }
    let full = "the disk is full while writing";
    assert!(said.stderr.contains(&format!("training goes on: {full}")), "{}", said.stderr);
    let error = format!("error: step {STEPS}, the last one, was not saved in ");
    assert!(said.stderr.contains(&error), "{}", said.stderr);
    assert!(
        said.stderr.contains("; the checkpoint of step 10 stays, and --resume"),
        "{}",
        said.stderr
    );
    assert!(said.stdout.contains(&format!("ended after step {STEPS}, not saved")), "{said:?}");
    // What the run came to is told all the same.
    let unsaved = tiny.left("unsaved");
    assert_eq!(unsaved.records().len(), STEPS);
    let report = fs::read_to_string(unsaved.folder.join("report.html")).unwrap();
    assert!(report.contains("</html>"), "{report}");
    assert!(said.stderr.contains("going on after step 10 from "), "{}", said.stderr);
    assert_same(&tiny.left("copied"), &whole, STEPS, "after a full disk");
}

/// Not a byte can be written for a while: neither checkpoints nor metrics.
#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_is_full_for_a_while() {
    let test = "a_disk_that_is_full_for_a_while";
    let Some(tiny) = TinyRun::new(test) else { return };
    let settings = [
        "--set=training.steps=1000000",
        "--set=checkpoint.keep_last=1",
        "--set=checkpoint.keep_best=0",
    ];
    let script = r#"
        "$@" 2> said & run=$!
        lasting() { kill -0 $run && sleep 0.02; }
        until ls disk/out/checkpoints/*/manifest.json; do lasting || break; done
        head -c 9999999 /dev/zero > disk/filling
        until grep -q "metrics wait" said && grep -q "was not saved" said; do lasting || break; done
        rm disk/filling
        last=$(ls disk/out/checkpoints | tail -n 1)
        while test -e disk/out/checkpoints/$last; do lasting || break; done
        kill -TERM $run; wait $run; echo "ended with $?"
        cp -r disk/out copied
    "#;
    let Some(said) = on_a_small_disk(&tiny, test, &settings, script) else { return };
    let told = fs::read_to_string(tiny.sandbox.path("said")).unwrap();
    assert!(said.stdout.ends_with("ended with 75\n"), "{said:?}\n{told}");
    let warning = "warning: metrics wait until they can be written, and training goes on: the disk is \
                   full while writing ";
    assert_eq!(told.matches(warning).count(), 1, "{told}");
    // Nothing of what could not be written down then is missing in the end.
    let left = tiny.left("copied");
    let steps: Vec<u64> = left.records().iter().map(|r| r["step"].as_u64().unwrap()).collect();
    assert!(steps.iter().copied().eq(1..=steps.len() as u64), "{steps:?}");
    assert_eq!(left.newest().unwrap().step(), steps.len() as u64);
}

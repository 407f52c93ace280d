//! `fungible plan check` as a user runs it, on shapes so small that they take a second. How far its
//! predictions are off is not looked at: other tests run beside this one.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/binary.rs"]
mod binary;
#[path = "support/mod.rs"]
mod shared;

use binary::{Sandbox, run};
use serde_json::Value;

#[test]
fn what_is_checked_is_told_as_json() {
    let sandbox = Sandbox::new();
    let Some(mut command) = sandbox.fungible_on_cpu("what_is_checked_is_told_as_json") else {
        return;
    };
    command.args(["plan", "check", "--json", "--device", "cpu"]);
    let said = run(command.args(["--shape", "tiny-training", "--shape", "tiny-serving"]));
    // 1 is for predictions that are off, which is no matter here.
    assert!(matches!(said.code, Some(0 | 1)), "{said:?}");
    let value: Value = serde_json::from_str(&said.stdout).unwrap_or_else(|_| panic!("{said:?}"));
    assert_eq!(value["device"], "cpu");
    let shapes = value["shapes"].as_array().unwrap();
    let names: Vec<&str> = shapes.iter().map(|shape| shape["shape"].as_str().unwrap()).collect();
    assert_eq!(names, ["tiny-training", "tiny-serving"]);
    let mut whats = Vec::new();
    for shape in shapes {
        assert!(shape["how"].as_str().unwrap().contains("all 2 layers"), "{shape}");
        for figure in shape["figures"].as_array().unwrap() {
            for key in ["predicted", "low", "high", "measured"] {
                assert!(figure[key].as_f64().unwrap() > 0.0, "{key} of {figure}");
            }
            let error = figure["error"].as_f64().unwrap().abs();
            let within = error <= figure["limit"].as_f64().unwrap();
            assert_eq!(figure["passes"].as_bool().unwrap(), within, "{figure}");
            whats.push(figure["what"].as_str().unwrap());
        }
    }
    // Not every system tells how much memory a process had.
    whats.retain(|&what| what != "peak memory");
    assert_eq!(whats, ["step", "first token", "next token", "next token"]);
    assert!(
        !sandbox
            .cache()
            .join("temporary")
            .read_dir()
            .unwrap()
            .any(|left| { left.unwrap().path().is_dir() })
    );
}

#[test]
fn a_shape_that_is_not_known_is_refused_with_those_that_are() {
    let sandbox = Sandbox::new();
    let said = run(sandbox.fungible().args(["plan", "check", "--shape", "huge"]));
    assert_eq!(said.code, Some(2), "{said:?}");
    for name in ["huge", "smollm2", "serving"] {
        assert!(said.stderr.contains(name), "{said:?}");
    }
    assert!(!sandbox.cache().exists());
}

#[test]
fn help_has_examples() {
    let said = run(Sandbox::new().fungible().args(["plan", "check", "--help"]));
    assert!(said.stdout.contains("fungible plan check --json"), "{said:?}");
}

//! What becomes of a row when another mesh was compiled for it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "report/rows.rs"]
#[allow(dead_code, reason = "shared with the tests of the page, which use all of it")]
mod rows;

use plan::row::{JobFigures, Planned, Verdict};
use rows::{fits, serving, too_big, training};

fn with_step(mesh: &str, seconds: f64) -> Planned {
    let mut plan = training("v6e-16", 1.0, Some(0.1));
    plan.mesh = mesh.to_string();
    let JobFigures::Training(figures) = &mut plan.job else { panic!("{plan:?}") };
    figures.step = rows::time(seconds);
    plan
}

fn mesh(verdict: &Verdict) -> &str {
    &verdict.planned().unwrap().mesh
}

#[test]
fn the_quicker_mesh_is_kept() {
    let mut verdict = fits(with_step("fsdp=16", 2.0)).verdict;
    assert!(!verdict.replace_if_quicker(with_step("data=16", 2.5)));
    assert_eq!(mesh(&verdict), "fsdp=16");
    assert!(verdict.replace_if_quicker(with_step("tensor=16", 1.5)));
    assert_eq!(mesh(&verdict), "tensor=16");
    // Nothing takes the place of what there is not, nor of a server.
    assert!(!too_big("v5e-8").verdict.replace_if_quicker(with_step("data=8", 1.0)));
    assert!(
        !fits(serving("v6e-1", 0.1, true)).verdict.replace_if_quicker(serving("v6e-1", 0.1, true))
    );
}

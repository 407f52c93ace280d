//! What the planner starts to measure a job on this machine: see `plan::here::answer`.

use std::io;

use crate::engine;
use crate::failure::Outcome;

pub fn run() -> Outcome {
    Ok(plan::here::answer::answer(io::stdin().lock(), io::stdout().lock(), engine::register)?)
}

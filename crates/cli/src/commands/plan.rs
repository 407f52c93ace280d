//! `fungible plan`: what a job takes on a chip, before it is rented.

mod check;

use crate::arguments::plan::{PlanArguments, PlanCommand};
use crate::failure::Outcome;

pub fn run(arguments: &PlanArguments) -> Outcome {
    match &arguments.command {
        PlanCommand::Check(arguments) => check::run(arguments),
    }
}

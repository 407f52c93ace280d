//! `fungible plan train`.

use std::path::Path;
use std::time::Instant;

use ::train::config::Config;
use plan::each::Job;
use plan::training::TrainingJob;
use runtime::CacheFolder;

use super::{asks, page, rows, show, wish};
use crate::arguments::plan::PlanTrainArguments;
use crate::commands::train::target::model_config;
use crate::console::{Progress, short_number};
use crate::failure::{Failure, Outcome};

/// What a shape is trained with if nothing else is said: what pre-training of such models is compared by.
const OF_A_SHAPE: [&str; 4] = [
    "data.sequence_length=8192",
    "training.batch_size=512",
    "training.dtype=\"bf16\"",
    "training.remat=\"full\"",
];

pub fn run(arguments: &PlanTrainArguments) -> Outcome {
    let shared = &arguments.shared;
    let wish = wish(shared)?;
    page::check(shared)?;
    let asks = asks(shared)?;
    let config = config(arguments)?;
    let progress = Progress::new();
    let model = model_config(&config, &CacheFolder::from_environment()?, &progress)?;
    let deadline = arguments.budget.map(|budget| Instant::now() + budget);
    let title = format!(
        "Training as {} says: batches of {} sequences of {} tokens",
        arguments.config, config.training.batch_size, config.data.sequence_length
    );
    let job = TrainingJob { config, model, tokens: arguments.tokens, wish };
    let title = format!("{title}, {} tokens in all", short_number(job.total_tokens()));
    let rows = rows(&Job::Training(Box::new(job)), &asks, shared, deadline, &progress)?;
    show::all(&title, &rows, shared)
}

fn config(arguments: &PlanTrainArguments) -> Result<Config, Failure> {
    let name = &arguments.config;
    if llm::shapes::find(name).is_some() {
        let mut sets: Vec<String> = OF_A_SHAPE.map(str::to_string).to_vec();
        sets.extend(arguments.set.iter().cloned());
        return Ok(Config::of_shape_to_plan(name, &sets)?);
    }
    if !Path::new(name).exists() && !name.ends_with(".toml") {
        let shapes: Vec<&str> = llm::shapes::names().collect();
        return Err(Failure::usage(format!(
            "there is no config or shape `{name}`; give a .toml file, or one of {}",
            shapes.join(", ")
        )));
    }
    Ok(Config::load_to_plan(Path::new(name), &arguments.set)?)
}

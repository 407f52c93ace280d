//! `fungible plan`: what a job would take on chips that need not be here.

mod show;
mod train;

use std::sync::Mutex;
use std::time::Instant;

use plan::compile::Planner;
use plan::each::{Event, Job, compilations_at_once};
use plan::goal::Goal;
use plan::row::Row;
use runtime::{CacheFolder, Target};

use crate::arguments::plan::{Minimize, PlanArguments, PlanCommand, PlanShared};
use crate::console::Progress;
use crate::failure::{Failure, Outcome};
use crate::open;

pub fn run(arguments: &PlanArguments) -> Outcome {
    match &arguments.command {
        PlanCommand::Train(arguments) => train::run(arguments),
    }
}

impl From<Minimize> for Goal {
    fn from(minimize: Minimize) -> Goal {
        match minimize {
            Minimize::Cost => Goal::Cost,
            Minimize::Time => Goal::Time,
            Minimize::Energy => Goal::Energy,
        }
    }
}

/// Every name is checked before the first compiler starts.
fn targets(shared: &PlanShared) -> Result<Vec<Target>, Failure> {
    shared.targets.iter().map(|name| open::target(name.trim())).collect()
}

/// Plans for all targets; each row is shown when it is known.
fn rows(
    job: &Job,
    targets: &[Target],
    shared: &PlanShared,
    deadline: Option<Instant>,
    progress: &Progress,
) -> Result<Vec<Row>, Failure> {
    let planner = Planner::new(CacheFolder::from_environment()?)?;
    let threads = shared.jobs.unwrap_or_else(compilations_at_once);
    let under_way = Mutex::new(Vec::<(String, String)>::new());
    let done = Mutex::new(0usize);
    let on_event = |event: Event<'_>| {
        let (Ok(mut under_way), Ok(mut done)) = (under_way.lock(), done.lock()) else { return };
        match event {
            Event::Compiling { target, what } => {
                under_way.retain(|(of, _)| *of != target.to_string());
                under_way.push((target.to_string(), what.to_string()));
            }
            Event::Done(row) => {
                under_way.retain(|(of, _)| *of != row.target);
                *done += 1;
                if !shared.json {
                    progress.clear();
                    show::when_known(row);
                }
            }
        }
        let names: Vec<&str> = under_way.iter().map(|(_, what)| what.as_str()).collect();
        if !names.is_empty() {
            let (done, all) = (*done, targets.len());
            progress.spin(&format!("{done} of {all} known; compiling {}", names.join(" and ")));
        }
    };
    let rows = job.plan(&planner, targets, threads, deadline, &on_event);
    progress.clear();
    Ok(rows)
}

//! `fungible plan`: what a job would take on chips that need not be here.

mod check;
mod page;
mod serve;
mod show;
mod train;

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::Instant;

use plan::compile::Planner;
use plan::each::{Event, Job, News, compilations_at_once};
use plan::goal::Goal;
use plan::price::{Kind, Wish};
use plan::row::Row;
use plan::serving::Ask;
use runtime::chips::{self, Chip, catalog};
use runtime::targets::TargetError;
use runtime::{CacheFolder, PluginKind, Target};

use crate::arguments::plan::{Minimize, PlanArguments, PlanCommand, PlanShared, Purchase};
use crate::console::{self, Progress};
use crate::failure::{Failure, Outcome};

pub fn run(arguments: &PlanArguments) -> Outcome {
    match &arguments.command {
        PlanCommand::Train(arguments) => train::run(arguments),
        PlanCommand::Serve(arguments) => serve::run(arguments),
        PlanCommand::Check(arguments) => check::run(arguments),
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

/// Which prices count.
fn wish(shared: &PlanShared) -> Result<Wish, Failure> {
    let purchase = match shared.purchase {
        Purchase::OnDemand => Kind::OnDemand,
        Purchase::Spot => Kind::Spot,
        Purchase::Committed => Kind::Committed,
    };
    let known: Vec<String> =
        catalog().providers().into_iter().map(|provider| provider.name).collect();
    if let Some(name) = &shared.provider
        && !known.contains(name)
    {
        return Err(Failure::usage(format!(
            "there is no provider `{name}` in the catalog; known are {}",
            known.join(", ")
        )));
    }
    Ok(Wish { purchase, provider: shared.provider.clone() })
}

/// Plans for all targets; each row is shown when it is known.
fn rows(
    job: &Job,
    targets: &[Ask],
    shared: &PlanShared,
    deadline: Option<Instant>,
    progress: &Progress,
) -> Result<Vec<Row>, Failure> {
    let mut planner = Planner::new(CacheFolder::from_environment()?)?;
    if let Ok(program) = std::env::current_exe() {
        planner = planner.with_measuring(program, vec![check::MEASURE.to_string()]);
    }
    let threads = shared.jobs.unwrap_or_else(compilations_at_once);
    let under_way = Mutex::new(Vec::<(String, String)>::new());
    let begun = Mutex::new(HashSet::<String>::new());
    let done = Mutex::new(0usize);
    let on_event = |event: Event<'_>| {
        let (Ok(mut under_way), Ok(mut done)) = (under_way.lock(), done.lock()) else { return };
        match event {
            Event::News { target, news: News::Compiling(what) } => {
                under_way.retain(|(of, _)| of != target);
                // Where no line of progress is seen, it is told once that a target has its turn.
                let is_seen = progress.is_visible() || shared.json;
                if !is_seen && begun.lock().is_ok_and(|mut begun| begun.insert(target.to_string()))
                {
                    console::remark(format_args!("planning for {target} ..."));
                }
                under_way.push((target.to_string(), what.to_string()));
            }
            Event::News { .. } => {}
            Event::Done(row) => {
                under_way.retain(|(of, _)| *of != row.target);
                *done += 1;
            }
            Event::Better(row) => under_way.retain(|(of, _)| *of != row.target),
        }
        if !shared.json {
            show::event(&event, progress);
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

/// Chips with a number, chips alone, or all that there are compilers for. Every name is checked before the
/// first compiler starts.
fn asks(shared: &PlanShared) -> Result<Vec<Ask>, Failure> {
    // What is rented: the processor is here, and is asked for by its name.
    let rented = || chips::chips().iter().filter(|chip| chip.plugin != Some(PluginKind::Cpu));
    let mut asks = Vec::new();
    for name in shared.targets.iter().map(|name| name.trim()) {
        match rented().find(|chip| chip.name == name) {
            _ if name == "all" => asks.extend(rented().map(any)),
            Some(chip) => asks.push(any(chip)),
            None => asks.push(exactly(name)?),
        }
    }
    Ok(asks)
}

fn any(chip: &'static Chip) -> Ask {
    if chip.plugin.is_some() { Ask::Any(chip) } else { Ask::NotCompiled(chip) }
}

/// A chip with a number, as a question; one that nothing compiles for is left out when its turn comes.
fn exactly(name: &str) -> Result<Ask, Failure> {
    match name.parse::<Target>() {
        Ok(target) => Ok(Ask::Exactly(target)),
        Err(TargetError::NoCompiler { target, chip, description }) => match chips::find(chip) {
            Some(chip) => Ok(Ask::NotCompiled(chip)),
            None => {
                let error = TargetError::NoCompiler { target, chip, description };
                Err(Failure::usage(error.to_string()))
            }
        },
        Err(error) => Err(Failure::usage(error.to_string())),
    }
}

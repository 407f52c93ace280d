//! Adapters from flags: how much room they need, and loading them once there is an engine.

use std::collections::BTreeSet;
use std::path::PathBuf;

use llm::adapter::Adapter;
use llm::models::LoraSlots;
use serve::engine::{Answering, Engine};

use crate::arguments::serve::EngineArguments;
use crate::failure::{Exit, Failure, Outcome};

/// The rank that there is room for if nobody says otherwise.
const RANK: usize = 16;

/// An adapter and the name that requests use for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedAdapter {
    pub name: String,
    pub folder: PathBuf,
}

/// `NAME=PATH`.
pub fn named(text: &str) -> Result<NamedAdapter, String> {
    match text.split_once('=') {
        Some((name, folder)) if !name.is_empty() && !folder.is_empty() => {
            Ok(NamedAdapter { name: name.to_owned(), folder: PathBuf::from(folder) })
        }
        _ => Err("give a name and a folder, as in sql=adapters/sql".to_owned()),
    }
}

/// The room that programs need to have for adapters; none if none are to be served.
///
/// # Errors
/// Adapters that cannot be opened, more of them or higher ranks than there is to be room for, and names
/// that are there twice.
pub fn room(arguments: &EngineArguments) -> Result<Option<LoraSlots>, Failure> {
    let given = &arguments.adapter;
    let mut names = BTreeSet::new();
    let mut rank = 0;
    for NamedAdapter { name, folder } in given {
        if !names.insert(name) {
            return Err(Failure::usage(format!("--adapter has the name `{name}` twice")));
        }
        let adapter = Adapter::open(folder).map_err(|error| of_adapter(name, &error.into()))?;
        let own = adapter.modules.iter().map(|module| module.rank).max().unwrap_or(0);
        if let Some(most) = arguments.max_lora_rank.filter(|&most| most < own) {
            return Err(Failure::usage(format!(
                "the adapter `{name}` has rank {own}, and --max-lora-rank is {most}"
            )));
        }
        rank = rank.max(own);
    }
    let slots = arguments.max_loras.unwrap_or(given.len());
    if slots < given.len() {
        let count = given.len();
        return Err(Failure::usage(format!("--max-loras is {slots}, but {count} are given")));
    }
    if slots == 0 && arguments.max_lora_rank.is_some() {
        let message =
            "--max-lora-rank is of no use without adapters: give --adapter or --max-loras as well";
        return Err(Failure::usage(message));
    }
    let rank = arguments.max_lora_rank.unwrap_or(rank.max(RANK));
    Ok((slots > 0).then_some(LoraSlots { slots, rank }))
}

/// Loads the adapters that were given.
///
/// # Errors
/// An adapter that does not suit the model.
pub fn load(engine: &Engine, arguments: &EngineArguments) -> Outcome {
    for NamedAdapter { name, folder } in &arguments.adapter {
        let loaded = engine.load_adapter(name, folder);
        loaded.map_err(|error| of_adapter(name, &Failure::new(Exit::Failure, error)))?;
    }
    Ok(())
}

fn of_adapter(name: &str, failure: &Failure) -> Failure {
    Failure::new(Exit::Failure, format!("--adapter {name}: {failure}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_have_names() {
        let folder = PathBuf::from("a=b/c");
        assert_eq!(named("sql=a=b/c"), Ok(NamedAdapter { name: "sql".to_owned(), folder }));
        for wrong in ["", "sql", "=path", "sql="] {
            assert!(named(wrong).is_err(), "{wrong}");
        }
    }
}

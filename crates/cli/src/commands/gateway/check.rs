//! `fungible gateway check`: a config, and what its backends say.

use gateway::gateway::probe;
use gateway::pools::probe::Probe;
use serde_json::json;

use super::{read, remark_costs};
use crate::arguments::gateway::CheckArguments;
use crate::console;
use crate::failure::{Exit, Failure, Outcome};

pub fn run(arguments: &CheckArguments) -> Outcome {
    let config = read(&arguments.config)?;
    let models: Vec<String> = config.models.iter().map(|model| model.name.clone()).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let probes = runtime.block_on(probe(&config))?;
    if arguments.json {
        console::line(json!({"models": models, "backends": probes}));
    } else {
        show(&probes);
        remark_costs(&config);
    }
    let unusable = probes.iter().filter(|probe| !is_usable(probe)).count();
    match unusable {
        0 => Ok(()),
        count => {
            let message = format!(
                "{count} of {} backends cannot be used as things are; the gateway would start without them and look again",
                probes.len()
            );
            Err(Failure::new(Exit::Failure, message))
        }
    }
}

fn is_usable(probe: &Probe) -> bool {
    probe.problem.is_none() && probe.missing.is_empty()
}

fn show(probes: &[Probe]) {
    let heading = ["", "pool", "provider", "chips", "price", "backend", "answered", "what it says"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for probe in probes {
        let says = match (&probe.problem, probe.missing.as_slice()) {
            (Some(problem), _) => problem.clone(),
            (None, []) => format!("has {}", probe.models.join(", ")),
            (None, missing) => {
                format!("lacks {}; it has {}", missing.join(", "), probe.models.join(", "))
            }
        };
        let chips = match probe.chip.as_str() {
            "" => probe.chips.to_string(),
            chip => format!("{} {chip}", probe.chips),
        };
        let answered = probe.answered_milliseconds;
        rows.push(vec![
            if is_usable(probe) { "ok" } else { "!" }.to_owned(),
            probe.pool.clone(),
            probe.provider.clone(),
            chips,
            probe.price.clone(),
            probe.backend.clone(),
            answered.map_or_else(|| "-".to_owned(), |time| format!("{time:.1} ms")),
            console::remarked_text(&says).into_owned(),
        ]);
    }
    console::table(&rows);
}

//! `fungible plan serve`.

use llm::models::PanelPlan;
use llm::programs::ProgramOptions;
use plan::each::Job;
use plan::serving::ServingJob;
use plan::serving::load::Objectives;
use runtime::{CacheFolder, PluginKind};
use serve::engine::ShapesWish;

use super::{asks, page, rows, show, wish};
use crate::arguments::plan::PlanServeArguments;
use crate::arguments::serve::Quantization;
use crate::console::Progress;
use crate::failure::{Failure, Outcome};
use crate::{engine, model};

pub fn run(arguments: &PlanServeArguments) -> Outcome {
    let shared = &arguments.shared;
    let wish = wish(shared)?;
    page::check(shared)?;
    let asks = asks(shared)?;
    let progress = Progress::new();
    let model = model::config(&arguments.model, &CacheFolder::from_environment()?, &progress)?;
    let tokens = arguments.input + arguments.output;
    if tokens > model.max_position_embeddings {
        return Err(Failure::usage(format!(
            "--input and --output are {tokens} tokens together, and the model handles {}",
            model.max_position_embeddings
        )));
    }
    let (dtype, quantization) = (arguments.dtype, arguments.quantization);
    let options = move |kind: PluginKind| {
        let mut options = ProgramOptions::for_plugin(kind);
        if let Some(dtype) = dtype {
            options.dtype = dtype.into();
        }
        engine::hold(&mut options, quantization, kind, None).map_err(|error| error.to_string())?;
        Ok(options)
    };
    let name = arguments.model.clone();
    let sizes = model.clone();
    let panels = move || panels(&name, &sizes, quantization).map_err(|error| error.to_string());
    let job = Job::Serving(Box::new(ServingJob {
        model,
        options: Box::new(options),
        panels: Box::new(panels),
        shapes: ShapesWish {
            sequences: arguments.max_num_seqs,
            chunk: arguments.max_num_batched_tokens,
            ..ShapesWish::default()
        },
        input: arguments.input,
        output: arguments.output,
        objectives: Objectives { ttft_seconds: arguments.ttft, tpot_seconds: arguments.tpot },
        requests_per_second: arguments.qps,
        wish,
    }));
    let rows = rows(&job, &asks, shared, None, &progress)?;
    let title = title(arguments);
    show::all(&title, &rows, shared)
}

/// What was asked for, in one line.
fn title(arguments: &PlanServeArguments) -> String {
    let mut title = format!(
        "Serving {}: {} tokens in, {} out",
        arguments.model, arguments.input, arguments.output
    );
    let milliseconds = plan::words::milliseconds;
    if let Some(seconds) = arguments.ttft {
        title.push_str(&format!(", first token after {} at most", milliseconds(seconds)));
    }
    if let Some(seconds) = arguments.tpot {
        title.push_str(&format!(", {} a token at most", milliseconds(seconds)));
    }
    if let Some(rate) = arguments.qps {
        title.push_str(&format!(", {rate} requests/s"));
    }
    title
}

/// How a CPU would hold the matrices: those of a model's files, or of a checkpoint as most are.
fn panels(
    name: &str,
    sizes: &llm::ModelConfig,
    quantization: Quantization,
) -> Result<PanelPlan, Failure> {
    let held = engine::held_on_cpu(quantization)?;
    let has_files = llm::shapes::find(name).is_none() && !name.ends_with(".json");
    match has_files {
        true => {
            let files = model::open(name, &CacheFolder::from_environment()?, &Progress::new())?;
            Ok(files.checkpoint.packings(held)?)
        }
        false => Ok(plan::here::held(sizes, held)?),
    }
}

//! `fungible eval`: how well a model predicts some text.

use llm::ModelFiles;
use runtime::{Runtime, RuntimeOptions};
use serde_json::json;
use train::data::{DataConfig, Format, SourceConfig};
use train::evaluate::{EvaluateOptions, Evaluated, Progress as Step, evaluate};

use super::train::show;
use crate::arguments::{DataFormat, EvalArguments};
use crate::console::{self, Progress, short_number};
use crate::failure::{Failure, Outcome};
use crate::model;
use crate::open::{self, Place};

/// Tokens per sequence where neither the user nor the model asks for fewer.
const SEQUENCE_LENGTH: usize = 1024;

pub fn run(arguments: &EvalArguments) -> Outcome {
    let progress = Progress::new();
    let mesh = arguments.place.mesh()?;
    let plugin = arguments.place.plugin.as_deref();
    let place = Place::find(arguments.place.device, plugin, &progress)?;
    place.restart_if_needed(mesh.devices())?;
    let files = model::open(&arguments.model, &place.cache, &progress)?;
    let data = data(arguments, &files)?;
    let runtime_options = RuntimeOptions::new(place.kind).with_cpu_devices(mesh.devices());
    let runtime = Runtime::open(&place.discovery, &runtime_options)?;
    let options = EvaluateOptions {
        mesh,
        dtype: arguments.place.dtype.map(Into::into),
        batch_size: arguments.batch_size,
        max_batches: arguments.max_batches.map(|count| count as u64),
    };
    let on_progress = &mut |step: Step<'_>| tell(&progress, &step);
    let evaluated = evaluate(&files, &runtime, &data, &options, &place.cache, on_progress)?;
    progress.clear();
    for source in &evaluated.sources {
        show::source(&progress, source);
    }
    print(arguments, data.sequence_length, &evaluated);
    Ok(())
}

fn data(arguments: &EvalArguments, files: &ModelFiles) -> Result<DataConfig, Failure> {
    let longest = files.config.max_position_embeddings;
    let sequence_length = arguments.sequence_length.unwrap_or(SEQUENCE_LENGTH.min(longest));
    if sequence_length > longest {
        return Err(Failure::usage(format!(
            "--sequence-length is {sequence_length}, and {} takes at most {longest} tokens",
            arguments.model
        )));
    }
    let format = arguments.format.map(|format| match format {
        DataFormat::Text => Format::Text,
        DataFormat::Jsonl => Format::Jsonl,
        DataFormat::Parquet => Format::Parquet,
    });
    let column = &arguments.column;
    let source =
        |path: &String| SourceConfig { format, column: column.clone(), ..SourceConfig::at(path) };
    Ok(DataConfig {
        sources: arguments.data.iter().map(source).collect(),
        sequence_length,
        // A part of the data should be a fair sample of it.
        shuffle: arguments.max_batches.is_some(),
        ..DataConfig::default()
    })
}

fn tell(progress: &Progress, step: &Step<'_>) {
    match step {
        Step::Data(step) => show::data(progress, step),
        Step::Compiling => progress.spin("preparing the evaluation (compiled once, then kept)"),
        Step::Compiled(info) => {
            progress.clear();
            open::compiled("the evaluation", info);
        }
        Step::Weights { done, total } => progress.bytes("loading weights", *done, *total),
        Step::Batch { done, total } => progress.steps(*done, *total, "batches measured"),
    }
}

fn print(arguments: &EvalArguments, sequence_length: usize, evaluated: &Evaluated) {
    let Evaluated { sums, seconds, .. } = evaluated;
    let tokens_per_second = sums.tokens / seconds;
    if arguments.json {
        console::line(json!({
            "model": arguments.model,
            "data": arguments.data,
            "sequence_length": sequence_length,
            "tokens": sums.tokens as u64,
            "bytes": sums.bytes as u64,
            "loss": sums.loss(),
            "perplexity": sums.perplexity(),
            "bits_per_byte": sums.bits_per_byte(),
            "seconds": seconds,
            "tokens_per_second": tokens_per_second,
        }));
        return;
    }
    let heading =
        ["tokens", "bytes", "loss (nats/token)", "perplexity", "bits per byte", "tokens/s"];
    let row = [
        short_number(sums.tokens),
        short_number(sums.bytes),
        format!("{:.4}", sums.loss()),
        format!("{:.3}", sums.perplexity()),
        format!("{:.4}", sums.bits_per_byte()),
        short_number(tokens_per_second),
    ];
    console::table(&[heading.map(str::to_string).to_vec(), row.to_vec()]);
}

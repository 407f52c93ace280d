//! A server's engine, predicted and then run over a model with weights that are made up.

use std::collections::BTreeMap;
use std::ops::Range;

use llm::FloatType;
use llm::ModelConfig;
use llm::export::{ExportModel, ExportOptions, TensorSource, hugging_face, tensors_of};
use llm::files::Companions;
use llm::weights::{Quantization, ReadError};
use serde::Deserialize;
use serve::engine::{LadderChoice, ladder};

use super::process::watch;
use super::shapes::Serving;
use super::{CheckError, Checked, Figure, Gpu, TIME_MODEL, What, device};
use crate::here::{self, Estimate, HereError, Measurer, Memory, Progress, ServingShape};

/// Tokens of a page of the cache.
const PAGE: usize = 32;

/// Requests that every worker makes, one after the other: the middle one of three counts.
const REQUESTS: usize = 3;

/// Tokens of an answer of which only the first is waited for.
const FIRST_TOKENS: usize = 2;

/// What `bench engine` prints.
#[derive(Deserialize)]
struct Benched {
    rounds: Vec<Round>,
}

#[derive(Deserialize)]
struct Round {
    concurrency: usize,
    ttft_ms_p50: f64,
    itl_ms_p50: f64,
}

pub fn check(
    name: &'static str,
    serving: &Serving,
    measurer: &Measurer,
    gpu: Option<&Gpu>,
    progress: &Progress<'_>,
) -> Result<Checked, CheckError> {
    let Serving { input, output, rows, .. } = *serving;
    let model = ModelConfig::from_json(serving.model)?;
    let most = rows.iter().copied().max().unwrap_or(1);
    let context = (input.max(PAGE + output) + FIRST_TOKENS).next_multiple_of(PAGE);
    let decoded = PAGE + output / 2;
    let choice = LadderChoice {
        context: Some(context),
        sequences: most,
        page: PAGE,
        cache_bytes: u64::MAX,
        chunk: input,
        looks_ahead: gpu.is_some(),
        ..LadderChoice::default()
    };
    let ladder = ladder(&model, &choice, 1);
    let shape = ServingShape {
        model: &model,
        panels: here::held(&model, Quantization::AsStored)?,
        kv_dtype: None,
        slots: most,
        page: PAGE,
        context,
        batches: rows.to_vec(),
        all_batches: ladder.batches.clone(),
        chunks: vec![input],
        all_chunks: ladder.chunks.clone(),
    };
    let predict = || -> Result<_, HereError> {
        let speed = here::serve_steps(measurer, &shape, Memory::Renewed, progress)?;
        let decode = rows.iter().filter_map(|&rows| Some((rows, speed.decode(rows, decoded)?)));
        let decode: BTreeMap<usize, Estimate> = decode.collect();
        let drawn = here::drawn_words(speed.drawn.as_ref());
        Ok((format!("{}{drawn}", speed.how), speed.prefill(input, 0), decode, Some(speed.memory)))
    };
    let (how, first, decode, memory) = match gpu {
        None => predict()?,
        Some(gpu) => {
            progress("compiling the server's programs for the time model");
            let (first, decode) = gpu.serve_steps(&measurer.cache, &model, &ladder, rows)?;
            (TIME_MODEL.to_string(), Some(first), decode.into_iter().collect(), None)
        }
    };
    progress("writing the whole model, with weights that are made up");
    let folder = measurer.cache.temporary()?;
    let files = folder.path().join("model");
    let options = ExportOptions::new(FloatType::Bf16);
    let export = ExportModel { config: &model, companions: &Companions::default() };
    let tensors = tensors_of(&model)?.into_iter().map(|tensor| (tensor.name, tensor.shape));
    hugging_face(&files, export, &mut MadeUp(tensors.collect()), &options, &mut |_| {})?;
    progress("compiling and running the whole server's programs");
    let bench = |concurrency: &str, input: usize, output: usize| {
        let settings = [
            ("--device", device(gpu).to_string()),
            ("--concurrency", concurrency.to_string()),
            ("--requests", REQUESTS.to_string()),
            ("--input", input.to_string()),
            ("--output", output.to_string()),
            ("--max-num-seqs", most.to_string()),
            ("--max-num-batched-tokens", serving.input.to_string()),
            ("--block-size", PAGE.to_string()),
            ("--context", context.to_string()),
        ];
        let path = files.display().to_string();
        let mut arguments = vec!["bench", "engine", &path, "--json", "--no-enable-prefix-caching"];
        arguments.extend(settings.iter().flat_map(|(name, value)| [*name, value.as_str()]));
        let seen = watch(measurer, &arguments, folder.path(), || false)?;
        let benched = seen.said.lines().find_map(|line| serde_json::from_str::<Benched>(line).ok());
        match benched {
            Some(Benched { rounds }) => Ok((rounds, seen.peak_bytes)),
            None => {
                let message = "`bench engine` gave no figures".to_string();
                Err(CheckError::from(HereError::Broken { message }))
            }
        }
    };
    let figure = |of: String, what, predicted: Option<Estimate>, measured_ms, tokens| {
        predicted.map(|predicted| Figure {
            of,
            what,
            predicted: predicted.seconds,
            low: predicted.low_seconds,
            high: predicted.high_seconds,
            measured: measured_ms / 1e3,
            tokens: Some(tokens),
        })
    };
    let (alone, _) = bench("1", input, FIRST_TOKENS)?;
    let numbers: Vec<String> = rows.iter().map(usize::to_string).collect();
    let (rounds, peak_bytes) = bench(&numbers.join(","), PAGE, output)?;
    // Before the run and after it: what else the machine does changes within minutes.
    let (first, decode) = match gpu {
        None => {
            let (_, again, mut decode_again, _) = predict()?;
            for (rows, again) in &mut decode_again {
                *again = decode.get(rows).map_or(*again, |before| before.mean(*again));
            }
            (first.zip(again).map(|(before, again)| before.mean(again)), decode_again)
        }
        Some(_) => (first, decode),
    };
    let mut figures = Vec::new();
    for round in &alone {
        figures.extend(figure(
            format!("{name}: first token after a prompt of {input}"),
            What::FirstToken,
            first,
            round.ttft_ms_p50,
            input,
        ));
    }
    for round in &rounds {
        let rows = round.concurrency;
        figures.extend(figure(
            format!("{name}: a token each for {rows} at once"),
            What::NextToken,
            decode.get(&rows).copied(),
            round.itl_ms_p50,
            rows,
        ));
    }
    figures.extend(memory.zip(peak_bytes).map(|(memory, peak_bytes)| {
        let predicted = memory.peak_bytes(most * (PAGE + output)) as f64;
        Figure {
            of: format!("{name}: memory with {most} sequences"),
            what: What::PeakMemory,
            predicted,
            low: predicted,
            high: predicted,
            measured: peak_bytes as f64,
            tokens: None,
        }
    }));
    let measured_times = REQUESTS;
    Ok(Checked { shape: name, how, figures, measured_times })
}

/// Weights that are small numbers, by the shapes of their tensors.
struct MadeUp(BTreeMap<String, Vec<usize>>);

impl TensorSource for MadeUp {
    fn shape(&self, name: &str) -> Result<Vec<usize>, ReadError> {
        self.0.get(name).cloned().ok_or_else(|| format!("there is no `{name}`").into())
    }

    fn read(&mut self, _: &str, rows: Range<usize>, out: &mut [f32]) -> Result<(), ReadError> {
        let first = rows.start * 31;
        for (place, number) in out.iter_mut().enumerate() {
            *number = ((first + place) * 7919 % 1999) as f32 / 50_000.0 - 0.02;
        }
        Ok(())
    }
}

//! Every correct sample of every operation, compiled and run by a real plugin, against the reference
//! evaluator. `FUNGIBLE_EXTRA_PLUGINS` names further CPU plugins, separated by colons.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::path::PathBuf;

use graph::{
    AttentionKernel, Blocks, DType, EmitOptions, Evaluator, Function, Kernels, Literal,
    QuantizedKernel, Sample, ops,
};
use runtime::{Array, CompileChoices, Discovery, PluginKind, Runtime, RuntimeOptions};
use support::{Folder, shared};

/// Lowerings of attention besides the default: fewer keys than the samples have, so that several
/// blocks are needed; one head after the other in tiles of one, some and all queries (a tile that does
/// not divide the sequence falls back to blocks).
const ATTENTIONS: [AttentionKernel; 4] = [
    AttentionKernel::Portable(Blocks::of(2)),
    AttentionKernel::ByHead(Blocks::of(1)),
    AttentionKernel::ByHead(Blocks::of(2)),
    AttentionKernel::ByHead(Blocks::WHOLE),
];

/// The default lowerings, then the others that a sample's operation has.
fn lowerings(sample: &Sample) -> Vec<Kernels> {
    let mut all = vec![Kernels::default()];
    if sample.name.starts_with("attention") {
        all.extend(ATTENTIONS.map(|attention| Kernels { attention, ..Kernels::default() }));
    }
    if sample.name.starts_with("quantized_dot") {
        let others = [QuantizedKernel::Widened, QuantizedKernel::Rounded];
        all.extend(others.map(|quantized| Kernels { quantized, ..Kernels::default() }));
    }
    if sample.name.starts_with("top_k") {
        all.push(Kernels { top_k_by_passes: true, ..Kernels::default() });
    }
    all
}

#[test]
fn every_sample_gives_what_the_reference_says() {
    let test = "every_sample_gives_what_the_reference_says";
    let Some(location) = shared::cpu_plugin(test) else { return };
    let extra = std::env::var_os("FUNGIBLE_EXTRA_PLUGINS").unwrap_or_default();
    let extra = std::env::split_paths(&extra).filter(|path| !path.as_os_str().is_empty());
    let failures: Vec<String> = std::iter::once(location.path).chain(extra).flat_map(run).collect();
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

/// Runs every sample on one plugin; what went wrong, a line each.
fn run(plugin: PathBuf) -> Vec<String> {
    let folder = Folder::new("operations");
    let discovery = Discovery::new(folder.cache()).with_plugin(PluginKind::Cpu, &plugin);
    let runtime = Runtime::open(&discovery, &RuntimeOptions::new(PluginKind::Cpu)).unwrap();
    let correct = || ops::samples().into_iter().filter(|sample| sample.error.is_none());
    let (mut ran, mut differentiable, mut failures) = (0, 0, Vec::new());
    for sample in correct() {
        let function = sample.trace().unwrap_or_else(|error| panic!("{}: {error}", sample.name));
        // What has no derivative says so; graph's own tests list which those are.
        let gradients = sample.trace_gradients().ok();
        let gradients = gradients.filter(|(_, variables)| !variables.is_empty());
        differentiable += usize::from(gradients.is_some());
        let functions = [("", Some(function)), ("gradients of ", gradients.map(|(f, _)| f))];
        for kernels in lowerings(&sample) {
            ran += 1;
            for (what, function) in &functions {
                let Some(function) = function else { continue };
                let operands = sample.arguments();
                let given = (&operands[..], &operands[..]);
                if let Err(failure) = compare(&runtime, (sample.name, function), given, &kernels) {
                    let plugin = plugin.display();
                    let name = sample.name;
                    failures.push(format!("{what}{name}, {kernels:?}, {plugin}: {failure}"));
                }
            }
        }
    }
    // Nothing dropped out on the way.
    let those = |name: &str| correct().filter(|sample| sample.name.starts_with(name)).count();
    let (attentions, quantized, tops) =
        (those("attention"), those("quantized_dot"), those("top_k"));
    assert!(attentions >= 4 && quantized >= 2 && tops >= 2);
    assert!(differentiable >= 40, "only {differentiable} samples were differentiated");
    assert_eq!(ran, correct().count() + attentions * ATTENTIONS.len() + 2 * quantized + tops);
    failures
}

/// Pages are used again: what one sequence left in them is in none of another's results, even where it is
/// no number.
#[test]
fn what_nobody_sees_in_a_page_is_in_no_result() {
    let test = "what_nobody_sees_in_a_page_is_in_no_result";
    let Some(location) = shared::cpu_plugin(test) else { return };
    let folder = Folder::new("pages");
    let discovery = Discovery::new(folder.cache()).with_plugin(PluginKind::Cpu, &location.path);
    let runtime = Runtime::open(&discovery, &RuntimeOptions::new(PluginKind::Cpu)).unwrap();
    let mut samples = ops::samples().into_iter();
    let sample = samples.find(|sample| sample.name == "attention over pages").unwrap();
    let function = sample.trace().unwrap();
    let mut clean = sample.arguments();
    let [_, pool, _, table, positions] = &clean[..] else { panic!("other operands") };
    let [pages, page, heads, numbers] = pool.shape.sizes()[..] else { panic!("another pool") };
    let numbers = heads * numbers;
    // The sequences have pages of their own, which are not full.
    let (rows, blocks) = (table.values.len() / 3, 3);
    assert_eq!(pages, rows * blocks);
    let seq = positions.values.len() / rows;
    clean[3].values = (0..pages).map(|page| page as f64).rev().collect();
    clean[4].values = (0..rows * seq).map(|n| (n / seq * 4 + n % seq) as f64).collect();
    let mut dirty = clean.clone();
    let mut left = 0;
    for row in 0..rows {
        let seen = row * 4 + seq;
        for place in seen..blocks * page {
            left += 1;
            let id = clean[3].values[row * blocks + place / page] as usize;
            let cell = (id * page + place % page) * numbers;
            for pool in &mut dirty[1..3] {
                pool.values[cell..cell + numbers].fill(f64::NAN);
            }
        }
    }
    assert!(left > 0);
    for attention in std::iter::once(Kernels::default().attention).chain(ATTENTIONS) {
        let kernels = Kernels { attention, ..Kernels::default() };
        compare(&runtime, (sample.name, &function), (&dirty, &clean), &kernels)
            .unwrap_or_else(|failure| panic!("{attention:?}: {failure}"));
    }
}

/// Runs a function with the first operands, and the reference with the others.
fn compare(
    runtime: &Runtime,
    (name, function): (&str, &Function),
    (operands, reference): (&[Literal], &[Literal]),
    kernels: &Kernels,
) -> Result<(), String> {
    let options = EmitOptions { kernels: kernels.clone(), ..EmitOptions::default() };
    let program = function.program(name, &options);
    let explain = |error: runtime::Error| error.to_string();
    let executable = runtime.compile(&program, &CompileChoices::default()).map_err(explain)?;
    let arrays: Vec<Array> = program
        .inputs
        .iter()
        .zip(operands)
        .map(|(input, literal)| {
            let bytes = literal.to_bytes();
            Array::from_host(executable.mesh(), &input.shape, &input.sharding, &bytes)
        })
        .collect::<Result<_, _>>()
        .map_err(explain)?;
    let run = executable.run(arrays.iter().map(Into::into).collect()).map_err(explain)?;
    let expected = Evaluator::new(function, kernels).main(reference);
    let outputs = run.wait().map_err(explain)?;
    assert_eq!(outputs.len(), expected.len());
    for (index, (array, expected)) in outputs.iter().zip(&expected).enumerate() {
        let bytes = array.to_host().map_err(explain)?;
        let found = Literal::from_bytes(expected.shape.clone(), &bytes).unwrap();
        let error = worst_error(&found, expected);
        if error.is_nan() || error > tolerance(expected.shape.dtype) {
            let some = |literal: &Literal| {
                literal.values.iter().take(12).map(f64::to_string).collect::<Vec<_>>().join(" ")
            };
            return Err(format!(
                "result {index} is off by {error:.3e}: {} instead of {}",
                some(&found),
                some(expected)
            ));
        }
    }
    Ok(())
}

/// The largest difference, relative to the expected value where that is above 1.
fn worst_error(found: &Literal, expected: &Literal) -> f64 {
    let errors = found.values.iter().zip(&expected.values).map(|(found, expected)| {
        // Equal infinities differ by NaN.
        if found == expected { 0.0 } else { (found - expected).abs() / (1.0 + expected.abs()) }
    });
    // `f64::max` would drop a NaN.
    errors.fold(0.0, |worst, error| if error.is_nan() || error > worst { error } else { worst })
}

/// Rounding of the type and of sums in another order; integers are exact.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::Bf16 => 1e-2,
        DType::F16 => 2e-3,
        DType::F32 => 1e-5,
        DType::F64 => 1e-9,
        _ => 0.0,
    }
}

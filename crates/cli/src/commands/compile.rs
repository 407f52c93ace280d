//! `fungible compile`: prefill and decode of a model for chips that need not be here.

use std::collections::BTreeMap;
use std::path::Path;

use graph::Mesh;
use llm::ModelConfig;
use llm::models::CacheShape;
use llm::programs::{self, ModelProgram, ProgramOptions, choose_mesh};
use runtime::layout::LayoutTable;
use runtime::{
    CacheFolder, CacheUse, CompileChoices, Compiler, Discovery, Fit, Target, TargetReport,
};
use serde_json::{Value, json};

use crate::arguments::CompileArguments;
use crate::console::{self, GREEN, Progress, RED, gibibytes, styled};
use crate::failure::{Exit, Failure, Outcome};
use crate::{model, open};

pub fn run(arguments: &CompileArguments) -> Outcome {
    let progress = Progress::new();
    let cache = CacheFolder::from_environment()?;
    // Every target and mesh is checked before the first compiler starts.
    let targets: Vec<Target> =
        arguments.target.iter().map(|name| open::target(name)).collect::<Result<_, _>>()?;
    let config = model::config(&arguments.model, &cache, &progress)?;
    let mesh =
        |target: Target| Ok((target, mesh_for(arguments.mesh.as_deref(), &config, &target)?));
    let jobs: Vec<(Target, Mesh)> =
        targets.into_iter().map(mesh).collect::<Result<_, Failure>>()?;
    let discovery = Discovery::new(cache.clone());
    let compiler = Compiler::new(cache)?;
    let mut values = Vec::new();
    let (mut misfits, mut failures) = (0, 0);
    for (target, mesh) in &jobs {
        if !arguments.json {
            heading(target, mesh);
        }
        for traced in trace(arguments, &config, target, mesh)? {
            let name = &traced.program.name;
            if let Some(folder) = &arguments.dump {
                dump(folder, target, &traced)?;
            }
            if arguments.layout && !arguments.json {
                console::line(LayoutTable(&traced.program));
            }
            let report = progress.during(&format!("compiling {name} for {target}"), || {
                let location = discovery.find(target.plugin())?;
                let choices = CompileChoices::default();
                compiler
                    .compile_for(&traced.program, target, &location, &choices)
                    .map_err(Failure::from)
            });
            match report {
                Ok(report) => {
                    misfits += usize::from(report.fit != Fit::Fits);
                    if !arguments.json {
                        line(name, &report);
                    }
                    values.push(value(target, mesh, name, &report));
                }
                Err(failure) => {
                    failures += 1;
                    if !arguments.json {
                        console::styled_line(format_args!(
                            "  {name:<8} {} {failure}",
                            styled(RED, "failed")
                        ));
                    }
                    values.push(json!({
                        "target": target.to_string(), "program": name, "error": failure.to_string(),
                    }));
                }
            }
        }
    }
    if arguments.json {
        console::line(json!({"model": arguments.model, "programs": values}));
    }
    match (failures, misfits) {
        (0, 0) => Ok(()),
        (0, misfits) => {
            let message = format!("{misfits} of {} programs do not fit", values.len());
            Err(Failure::new(Exit::DoesNotFit, message))
        }
        (failures, _) => {
            let message = format!("{failures} of {} programs were not compiled", values.len());
            Err(Failure::new(Exit::Failure, message))
        }
    }
}

/// The mesh that was asked for, or one that divides the model.
pub fn mesh_for(
    mesh: Option<&str>,
    config: &ModelConfig,
    target: &Target,
) -> Result<Mesh, Failure> {
    let mesh = match mesh {
        Some(text) => open::mesh(text)?,
        None => choose_mesh(config, target.devices()),
    };
    if mesh.devices() != target.devices() {
        let (given, wanted) = (mesh.devices(), target.devices());
        let message = format!("the mesh {mesh} has {given} devices, {target} has {wanted}");
        return Err(Failure::usage(message));
    }
    Ok(mesh)
}

fn heading(target: &Target, mesh: &Mesh) {
    let memory = target.memory_bytes_per_device();
    let memory = memory.map_or_else(String::new, |bytes| format!(", {} each", gibibytes(bytes)));
    let devices = target.devices();
    console::styled_line(format_args!(
        "{} ({devices} device{}{memory}; mesh {mesh})",
        styled(console::BOLD, &target.to_string()),
        if devices == 1 { "" } else { "s" },
    ));
}

/// Prefill of one chunk for each replica, and decode of the whole batch.
fn trace(
    arguments: &CompileArguments,
    config: &ModelConfig,
    target: &Target,
    mesh: &Mesh,
) -> Result<[ModelProgram; 2], Failure> {
    let mut options = ProgramOptions::for_plugin(target.plugin());
    options.mesh = mesh.clone();
    options.dtype = arguments.dtype.into();
    let replicas = mesh.size("data").unwrap_or(1);
    let capacity = arguments.context.min(config.max_position_embeddings);
    let chunk = arguments.chunk.clamp(1, capacity);
    let batch = arguments.batch.max(1).next_multiple_of(replicas);
    let one_each = CacheShape { batch: replicas, capacity };
    let prefill = programs::prefill(config, &options, one_each, chunk)?;
    let decode = programs::decode(config, &options, CacheShape { batch, capacity })?;
    Ok([prefill, decode])
}

fn line(name: &str, report: &TargetReport) {
    let verdict = match &report.fit {
        Fit::Fits => styled(GREEN, "fits   "),
        Fit::DoesNotFit { .. } => styled(RED, "too big"),
    };
    let available = report.available_bytes.map_or_else(|| "?".to_string(), gibibytes);
    let details = match (&report.fit, &report.memory) {
        (Fit::DoesNotFit { needed_bytes, message, .. }, _) => {
            let needed = needed_bytes.map_or_else(|| "an unknown amount".to_string(), gibibytes);
            format!("needs {needed} of {available}: {}", first_line(message))
        }
        (Fit::Fits, Some(memory)) => format!(
            "arguments {}  temporaries {}  peak {} of {available}",
            gibibytes(memory.argument_bytes),
            gibibytes(memory.temporary_bytes),
            gibibytes(memory.needed_bytes()),
        ),
        (Fit::Fits, None) => "the compiler reports no memory figures".to_string(),
    };
    let time = compile_time(report);
    console::styled_line(format_args!("  {name:<8} {verdict}  {details}  {time}"));
}

fn compile_time(report: &TargetReport) -> String {
    let seconds = report.compile_seconds;
    match &report.cache {
        CacheUse::Hit => format!("kept from a compilation of {seconds:.1} s"),
        CacheUse::Miss | CacheUse::Replaced(_) => format!("compiled in {seconds:.1} s"),
        CacheUse::NotKept(reason) => {
            format!("compiled in {seconds:.1} s, but not kept for the next time: {reason}")
        }
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn value(target: &Target, mesh: &Mesh, name: &str, report: &TargetReport) -> Value {
    let memory = report.memory.as_ref().map(|memory| {
        json!({
            "argument_bytes": memory.argument_bytes,
            "output_bytes": memory.output_bytes,
            "alias_bytes": memory.alias_bytes,
            "temporary_bytes": memory.temporary_bytes,
            "generated_code_bytes": memory.generated_code_bytes,
            "peak_bytes": memory.peak_bytes,
            "needed_bytes": memory.needed_bytes(),
        })
    });
    let (fits, needed, message) = match &report.fit {
        Fit::Fits => (true, None, None),
        Fit::DoesNotFit { needed_bytes, message, .. } => (false, *needed_bytes, Some(message)),
    };
    json!({
        "target": target.to_string(),
        "mesh": mesh.to_string(),
        "program": name,
        "fits": fits,
        "needed_bytes": needed,
        "message": message,
        "available_bytes": report.available_bytes,
        "memory": memory,
        "cost": report.cost.iter().cloned().collect::<BTreeMap<String, f64>>(),
        "compile_seconds": report.compile_seconds,
        "cached": report.cache == CacheUse::Hit,
    })
}

fn dump(folder: &Path, target: &Target, traced: &ModelProgram) -> Outcome {
    std::fs::create_dir_all(folder)?;
    let path = folder.join(format!("{}-{target}.mlir", traced.program.name));
    std::fs::write(&path, &traced.program.text)?;
    Ok(())
}

//! `fungible profile`: where a program's time goes on a chip that need not be here. Knows of programs
//! only their text, so whoever traces one, to serve or to train, can have it shown.

use std::path::{Path, PathBuf};

use graph::{AttentionKernel, Mesh, Program};
use llm::models::CacheShape;
use llm::programs::{self, ProgramOptions};
use runtime::profile::{
    self, Costed, Profile, ProfileOptions, Range, Share, Source, Temporary, Unestimated,
};
use runtime::{
    CacheFolder, CompileChoices, Compiler, Discovery, Fit, PluginLocation, Purpose, Target,
    TargetReport,
};
use serde_json::{Value, json};

use super::compile::mesh_for;
use crate::arguments::{ProfileArguments, ProfileBy, ProfileProgram, ProfileShow};
use crate::console::{self, BOLD, Progress, gibibytes, styled};
use crate::failure::{Exit, Failure, Outcome};
use crate::{engine, model, open};

/// Alternatives that `score` computes for each place, as `fungible score` asks for.
const SCORE_TOP: usize = 5;
/// Temporaries below this are of no interest.
const TEMPORARY_BYTES_MIN: u64 = 1 << 20;

pub fn run(arguments: &ProfileArguments) -> Outcome {
    let target = open::target(&arguments.target)?;
    profile::check(&target)?;
    let Some(model) = &arguments.model else {
        return match &arguments.hlo {
            Some(file) => saved(file, &target, &arguments.show),
            None => Err(Failure::usage("give a MODEL, or a compiled program with --hlo")),
        };
    };
    let is_run = model.ends_with(".toml");
    let (purpose, program) = match is_run {
        true => {
            let without = arguments.without_attention;
            let step = super::train::target::step_program(Path::new(model), &target, without)?;
            (Purpose::Training, step)
        }
        false => (Purpose::Serving, trace(model, arguments, &target)?),
    };
    let programs = [(program.name.clone(), program)];
    let dump = arguments.dump.as_deref().map(|file| Dump { file, strip: arguments.strip });
    profile_programs(&programs, purpose, &target, &arguments.show, dump.as_ref())
}

/// Where the optimized program goes; of several, each to a file with its name in front.
pub struct Dump<'a> {
    pub file: &'a Path,
    /// Without what no time is estimated from.
    pub strip: bool,
}

/// Compiles programs for a target and shows where their time goes.
pub fn profile_programs(
    programs: &[(String, Program)],
    purpose: Purpose,
    target: &Target,
    show: &ProfileShow,
    dump: Option<&Dump<'_>>,
) -> Outcome {
    profile::check(target)?;
    let progress = Progress::new();
    let cache = CacheFolder::from_environment()?;
    let location = Discovery::new(cache.clone()).find(target.plugin())?;
    let compiler = Compiler::new(cache)?;
    let mut values = Vec::new();
    for (name, program) in programs {
        let task = format!("compiling {name} for {target}");
        let (report, code) =
            progress.during(&task, || compile(&compiler, program, purpose, target, &location))?;
        if let Some(Dump { file, strip }) = dump {
            let file = dump_file(file, name, programs.len());
            match strip {
                true => write(&file, &profile::stripped(&code)?)?,
                false => write(&file, &code)?,
            }
        }
        let profile = profile::profile_with(&code, target, &options(show))?;
        match show.json {
            true => values.push(value(name, Some(&report), &profile, show.top)),
            false => print(name, target, Some(&report), &profile, show),
        }
    }
    finish(target, show, values)
}

/// A compiled program that was saved with `--dump`.
fn saved(file: &Path, target: &Target, show: &ProfileShow) -> Outcome {
    let code = std::fs::read(file).map_err(|error| {
        Failure::new(Exit::Failure, format!("cannot read {}: {error}", file.display()))
    })?;
    let profile = profile::profile_with(&code, target, &options(show))
        .map_err(|error| Failure::new(Exit::Failure, format!("{}: {error}", file.display())))?;
    let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy();
    if show.json {
        return finish(target, show, vec![value(&name, None, &profile, show.top)]);
    }
    print(&name, target, None, &profile, show);
    Ok(())
}

fn options(show: &ProfileShow) -> ProfileOptions {
    ProfileOptions { unstated_loop_turns: show.loop_turns }
}

fn finish(target: &Target, show: &ProfileShow, programs: Vec<Value>) -> Outcome {
    if show.json {
        console::line(json!({"target": target.to_string(), "programs": programs}));
    }
    Ok(())
}

fn trace(model: &str, arguments: &ProfileArguments, target: &Target) -> Result<Program, Failure> {
    let cache = CacheFolder::from_environment()?;
    let config = model::config(model, &cache, &Progress::new())?;
    let mesh = mesh_for(arguments.mesh.as_deref(), &config, target)?;
    let replicas = mesh.size("data").unwrap_or(1);
    let mut options = ProgramOptions::for_plugin(target.plugin());
    options.mesh = mesh;
    options.dtype = arguments.dtype.into();
    engine::hold(&mut options, arguments.quantization, target.plugin(), None)?;
    if arguments.without_attention {
        options.kernels.attention = AttentionKernel::LeftOut;
    }
    let capacity = arguments.context.min(config.max_position_embeddings);
    let chunk = arguments.chunk.clamp(1, capacity);
    let one_each = CacheShape { batch: replicas, capacity };
    let traced = match arguments.program {
        ProfileProgram::Decode => {
            let batch = arguments.batch.next_multiple_of(replicas);
            programs::decode(&config, &options, CacheShape { batch, capacity })?
        }
        ProfileProgram::Prefill => programs::prefill(&config, &options, one_each, chunk)?,
        ProfileProgram::Score => programs::score(&config, &options, one_each, chunk, SCORE_TOP)?,
    };
    Ok(traced.program)
}

fn compile(
    compiler: &Compiler,
    program: &Program,
    purpose: Purpose,
    target: &Target,
    location: &PluginLocation,
) -> Result<(TargetReport, Vec<u8>), Failure> {
    let choices = CompileChoices { purpose, optimized_program: true, ..CompileChoices::default() };
    let mut report = compiler.compile_for(program, target, location, &choices)?;
    match (report.optimized_program.take(), &report.fit) {
        (Some(optimized), _) => Ok((report, optimized.code)),
        (None, Fit::DoesNotFit { message, .. }) => {
            let first = message.lines().next().unwrap_or_default();
            let message = format!("`{}` does not fit {target}: {first}", program.name);
            Err(Failure::new(Exit::DoesNotFit, message))
        }
        (None, Fit::Fits) => {
            let message = format!(
                "the compiler of {target} compiled `{}` but does not hand out what it made of it",
                program.name
            );
            Err(Failure::new(Exit::Failure, message))
        }
    }
}

fn dump_file(file: &Path, name: &str, programs: usize) -> PathBuf {
    match (programs, file.file_name()) {
        (2.., Some(own)) => file.with_file_name(format!("{name}-{}", own.to_string_lossy())),
        _ => file.to_path_buf(),
    }
}

fn write(file: &Path, code: &[u8]) -> Outcome {
    std::fs::write(file, code).map_err(|error| {
        Failure::new(Exit::Failure, format!("cannot write {}: {error}", file.display()))
    })
}

fn print(
    name: &str,
    target: &Target,
    report: Option<&TargetReport>,
    profile: &Profile,
    show: &ProfileShow,
) {
    heading(name, target, report, profile);
    trust(profile);
    match show.by {
        ProfileBy::Instruction => instructions(profile, show.top),
        ProfileBy::Path => shares("path", &profile.by_path, show.top),
        ProfileBy::Opcode => shares("opcode", &profile.by_opcode, show.top),
    }
    temporaries(profile, show.top);
    for line in &profile.unknown {
        console::line(format_args!("note: {line}"));
    }
}

fn heading(name: &str, target: &Target, report: Option<&TargetReport>, profile: &Profile) {
    let mesh = report.map(|report| &report.mesh).filter(|mesh| mesh.devices() > 1);
    let mesh = mesh.map_or_else(String::new, |mesh: &Mesh| format!(" over {mesh}"));
    let title = format!("{name} on {target}{mesh}");
    console::styled_line(format_args!(
        "{}: {} a run, as estimated; {} to {} would not surprise",
        styled(BOLD, &title),
        milliseconds(profile.total_seconds),
        milliseconds(profile.low_seconds),
        milliseconds(profile.high_seconds),
    ));
    let bounds = profile.bounds.iter().filter(|bound| bound.seconds > 0.0);
    let bounds: Vec<String> =
        bounds.map(|bound| format!("{} {}", bound.bound.name(), percent(bound.share))).collect();
    console::line(format_args!("  waits for {}", bounds.join(", ")));
    if profile.hidden_seconds > 0.0 {
        let hidden = milliseconds(profile.hidden_seconds);
        console::line(format_args!("  beside it, hidden behind other work: {hidden} of transfers"));
    }
    if let Some(memory) = report.and_then(|report| report.memory) {
        console::line(format_args!(
            "  memory: arguments {}, temporaries {}, peak {}",
            gibibytes(memory.argument_bytes),
            gibibytes(memory.temporary_bytes),
            gibibytes(memory.needed_bytes()),
        ));
    }
    console::line("");
}

fn meaning(source: Source) -> &'static str {
    match source {
        Source::Compiler => "the compiler's cycles",
        Source::Bytes => "bytes, by the memory",
        Source::Links => "bytes, over the links",
        Source::Roofline => "products and bytes",
    }
}

/// Where the time comes from and how far off it may be, and what the compiler says nothing of.
fn trust(profile: &Profile) {
    let heading = ["      ms", "     low", "    high", "from", "since"];
    let row = |range: &Range| {
        vec![
            format!("{:>8.3}", range.seconds * 1e3),
            format!("{:>8.3}", range.low_seconds * 1e3),
            format!("{:>8.3}", range.high_seconds * 1e3),
            meaning(range.source).to_string(),
            range.reason.to_string(),
        ]
    };
    table(&heading, profile.ranges.iter().map(row));
    console::line("");
    if profile.unestimated.is_empty() {
        return;
    }
    let heading =
        ["      ms", " share", "  hidden", "count", "without the compiler's estimate", "by"];
    let row = |kind: &Unestimated| {
        vec![
            format!("{:>8.3}", kind.seconds * 1e3),
            format!("{:>6}", percent(kind.share)),
            format!("{:>8.3}", kind.hidden_seconds * 1e3),
            format!("{:>5}", kind.count),
            format!("{}, {} a run", kind.kind, gibibytes(kind.bytes as u64)),
            kind.model.to_string(),
        ]
    };
    table(&heading, profile.unestimated.iter().map(row));
    console::line("");
}

fn instructions(profile: &Profile, top: usize) {
    let heading = ["      ms", " share", "times", "from", "instruction", "path", "line"];
    let row = |costed: &Costed| {
        vec![
            format!("{:>8.3}", costed.seconds * 1e3),
            format!("{:>6}", percent(costed.share)),
            format!("{:>5}", costed.times),
            costed.source.name().to_string(),
            costed.name.clone(),
            costed.path.clone(),
            costed.line.clone(),
        ]
    };
    let rows = profile.instructions.iter().take(top).map(row);
    table(&heading, rows);
}

fn shares(name: &str, shares: &[Share], top: usize) {
    let row = |share: &Share| {
        vec![
            format!("{:>8.3}", share.seconds * 1e3),
            format!("{:>6}", percent(share.share)),
            share.name.clone(),
        ]
    };
    table(&["      ms", " share", name], shares.iter().take(top).map(row));
}

fn temporaries(profile: &Profile, top: usize) {
    let large = |temporary: &&Temporary| temporary.padded_bytes >= TEMPORARY_BYTES_MIN;
    let temporaries: Vec<_> = profile.largest_temporaries.iter().filter(large).take(top).collect();
    console::line("");
    if temporaries.is_empty() {
        return console::line("no temporary is larger than 1 MiB");
    }
    let heading = ["largest temporaries", "with padding", "shape", "instruction", "path", "line"];
    let rows = temporaries.into_iter().map(|temporary| {
        vec![
            format!("{:>19}", mebibytes(temporary.bytes)),
            format!("{:>12}", mebibytes(temporary.padded_bytes)),
            temporary.shape.clone(),
            temporary.name.clone(),
            temporary.path.clone(),
            temporary.source.clone(),
        ]
    });
    table(&heading, rows);
}

fn table(heading: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let heading = heading.iter().map(ToString::to_string).collect();
    let rows: Vec<Vec<String>> = std::iter::once(heading).chain(rows).collect();
    console::table(&rows);
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.3} ms", seconds * 1e3)
}

fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1u64 << 20) as f64)
}

fn value(name: &str, report: Option<&TargetReport>, profile: &Profile, top: usize) -> Value {
    let memory = report.and_then(|report| report.memory).map(|memory| {
        json!({
            "argument_bytes": memory.argument_bytes,
            "temporary_bytes": memory.temporary_bytes,
            "needed_bytes": memory.needed_bytes(),
        })
    });
    json!({
        "program": name,
        "mesh": report.map(|report| report.mesh.to_string()),
        "memory": memory,
        "total_seconds": profile.total_seconds,
        "low_seconds": profile.low_seconds,
        "high_seconds": profile.high_seconds,
        "hidden_seconds": profile.hidden_seconds,
        "bound_by": profile.bound_by(),
        "bounds": profile.bounds,
        "ranges": profile.ranges,
        "unestimated": profile.unestimated,
        "by_source": profile.by_source,
        "by_opcode": profile.by_opcode,
        "by_path": profile.by_path,
        "instructions": profile.instructions.get(..top).unwrap_or(&profile.instructions),
        "largest_temporaries":
            profile.largest_temporaries.get(..top).unwrap_or(&profile.largest_temporaries),
        "unknown": profile.unknown,
    })
}

//! `fungible serve --target NAME --compile-only`: every program of a server, compiled for chips that need
//! not be here, and how large the cache would be there. Nothing runs.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use graph::DType;
use llm::programs::ProgramOptions;
use runtime::{
    CacheFolder, CacheUse, CompileChoices, Compiler, Discovery, Fit, PluginKind, PluginLocation,
    Target, TargetReport,
};
use serde_json::{Value, json};
use serve::engine::{
    CPU_CACHE_BYTES, Compilation, Key, Ladder, Shapes, for_each_key, keys, usable_bytes,
};

use crate::arguments::serve::{EngineArguments, TargetArguments};
use crate::commands::compile::mesh_for;
use crate::console::{self, BOLD, Progress, duration, gibibytes, remark, styled};
use crate::engine::{self, adapters, shapes};
use crate::failure::{Exit, Failure, Outcome};
use crate::{model, open};

/// Compilations at once, at most: each is a process of its own with gigabytes of memory.
const COMPILATIONS_MAX: usize = 4;

/// What a compilation became, and of which program.
struct Compiled {
    key: Key,
    report: TargetReport,
}

/// Compiles for one target, in several processes, and says so.
struct Compiling<'a> {
    shapes: &'a Shapes<'a>,
    target: Target,
    location: PluginLocation,
    compiler: Compiler,
    threads: usize,
    /// Compilations that were not kept from before.
    fresh: AtomicUsize,
    /// The programs of the last call.
    last: Mutex<Vec<Compiled>>,
}

/// Compiles all programs and prints what they need.
pub fn run(model: &str, arguments: &EngineArguments, wanted: &TargetArguments) -> Outcome {
    let Some(name) = &wanted.target else {
        return Err(Failure::usage("--compile-only needs a --target, such as v6e-8"));
    };
    let target = open::target(name)?;
    let place = &arguments.device.place;
    let progress = Progress::new();
    let cache = CacheFolder::from_environment()?;
    let config = model::config(model, &cache, &progress)?;
    let kind = target.plugin();
    let mut options = ProgramOptions::for_plugin(kind);
    options.mesh = mesh_for(place.mesh.as_deref(), &config, &target)?;
    if let Some(dtype) = place.dtype {
        options.dtype = dtype.into();
    }
    options.kv_dtype = arguments.kv_cache_dtype.map(DType::from);
    engine::hold(&mut options, arguments.quantization, kind, None)?;
    let mut discovery = Discovery::new(cache.clone());
    if let Some(plugin) = &place.plugin {
        discovery = discovery.with_plugin(kind, plugin);
    }
    let room = adapters::room(arguments)?;
    let wish = shapes::wish(arguments, room);
    let shapes = Shapes::new(&config, &options, &wish, kind);
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let compiling = Compiling {
        shapes: &shapes,
        target,
        location: discovery.find(kind)?,
        compiler: Compiler::new(cache)?,
        threads: processors.min(COMPILATIONS_MAX),
        fresh: AtomicUsize::new(0),
        last: Mutex::new(Vec::new()),
    };
    let started = Instant::now();
    let found = match kind {
        // A machine's memory is not its compiler's to say; the cache has a size by rule.
        PluginKind::Cpu => {
            let bytes = arguments.kv_cache_memory.unwrap_or(CPU_CACHE_BYTES);
            let (ladder, blocks) = shapes.by_bytes(bytes);
            compiling.compile(&keys(&ladder, &blocks)).map(|_| (ladder, blocks))
        }
        PluginKind::Tpu | PluginKind::Cuda => {
            let compile = |keys: &[Key]| compiling.compile(keys);
            shapes::fill(&shapes, arguments.kv_cache_memory, compile)
                .map(|pages| shapes.with_pages(pages))
        }
    };
    let (ladder, blocks) = found.inspect_err(|failure| {
        if wanted.json && failure.code() == Exit::DoesNotFit as u8 {
            console::line(misfit(model, &target, &shapes, failure));
        }
    })?;
    let wall_seconds = started.elapsed().as_secs_f64();
    let (threads, fresh) = (compiling.threads, compiling.fresh.into_inner());
    let compiled = compiling.last.into_inner().unwrap_or_default();
    let account =
        Account { shapes: &shapes, target, ladder, blocks, compiled, threads, fresh, wall_seconds };
    match wanted.json {
        true => console::line(account.value(model)),
        false => account.print(model),
    }
    Ok(())
}

/// What there is to say of a model that is too large.
fn misfit(model: &str, target: &Target, shapes: &Shapes<'_>, failure: &Failure) -> Value {
    json!({
        "model": model,
        "target": target.to_string(),
        "mesh": shapes.options.mesh.to_string(),
        "fits": false,
        "context": shapes.context(),
        "error": failure.to_string(),
    })
}

impl Compiling<'_> {
    /// What a program's arguments take of each device, and what there is, if that alone is too much: then
    /// no compiler need look at it.
    fn too_large(&self, key: Key) -> Result<Option<(u64, u64)>, Failure> {
        let Some(memory_bytes) = self.target.memory_bytes_per_device() else { return Ok(None) };
        let Shapes { config, options, .. } = self.shapes;
        let program = key.trace(config, options)?.program;
        let on_device = |input: &graph::Input| {
            let pieces = input.sharding.pieces(&options.mesh).iter().product::<usize>();
            (input.shape.bytes() / pieces) as u64
        };
        let needed_bytes = program.inputs.iter().map(on_device).sum();
        let usable = usable_bytes(self.target.plugin(), memory_bytes);
        Ok((needed_bytes > memory_bytes).then_some((needed_bytes, usable)))
    }

    fn compile(&self, keys: &[Key]) -> Result<Compilation, Failure> {
        if let Some(&key) = keys.first()
            && let Some(bytes) = self.too_large(key)?
        {
            return Ok(Compilation::DoesNotFit { bytes: Some(bytes) });
        }
        let done = AtomicUsize::new(0);
        let reports = for_each_key(keys, self.threads, |key| {
            let traced = key.trace(self.shapes.config, self.shapes.options)?;
            let choices = CompileChoices::default();
            let report = self.compiler.compile_for(
                &traced.program,
                &self.target,
                &self.location,
                &choices,
            )?;
            if report.cache != CacheUse::Hit {
                self.fresh.fetch_add(1, Ordering::Relaxed);
            }
            self.say(key, &report, done.fetch_add(1, Ordering::Relaxed) + 1, keys.len());
            Ok::<_, Failure>(report)
        })?;
        let mut compilation = Compilation::Done { uses: Vec::new(), available_bytes: u64::MAX };
        for (key, report) in &reports {
            let available =
                report.available_bytes.map(|bytes| usable_bytes(self.target.plugin(), bytes));
            // As when serving: what an adapter replaces is there for a while.
            let available =
                available.map(|bytes| bytes.saturating_sub(self.shapes.adapter_bytes()));
            match (&report.fit, &mut compilation) {
                (Fit::DoesNotFit { needed_bytes, .. }, _) => {
                    compilation = Compilation::DoesNotFit { bytes: needed_bytes.zip(available) };
                    break;
                }
                (Fit::Fits, Compilation::Done { uses, available_bytes }) => {
                    uses.extend(report.memory.map(|memory| (*key, memory)));
                    *available_bytes = available.unwrap_or(u64::MAX).min(*available_bytes);
                }
                (Fit::Fits, Compilation::DoesNotFit { .. }) => {}
            }
        }
        if let Ok(mut last) = self.last.lock() {
            *last = reports.into_iter().map(|(key, report)| Compiled { key, report }).collect();
        }
        Ok(compilation)
    }

    /// A line for a program that is done.
    fn say(&self, key: Key, report: &TargetReport, done: usize, total: usize) {
        let seconds = report.compile_seconds;
        let pages = match key {
            Key::Step(shape) => shape.pages.pages,
            Key::Embed(shape) => shape.pages.pages,
        };
        let how = match (&report.fit, &report.cache) {
            (Fit::DoesNotFit { .. }, _) => "does not fit".to_string(),
            (Fit::Fits, CacheUse::Hit) => format!("kept from a compilation of {seconds:.1} s"),
            (Fit::Fits, CacheUse::NotKept(reason)) => {
                format!("compiled in {seconds:.1} s, but not kept for the next time: {reason}")
            }
            (Fit::Fits, CacheUse::Miss | CacheUse::Replaced(_)) => {
                format!("compiled in {seconds:.1} s")
            }
        };
        let peak = report.memory.map_or_else(String::new, |memory| {
            let (temporaries, peak) = (memory.temporary_bytes, memory.needed_bytes());
            format!(", temporaries {}, peak {}", gibibytes(temporaries), gibibytes(peak))
        });
        let target = self.target;
        remark(format_args!("{target}: {done}/{total} {key}, {pages} pages in all: {how}{peak}"));
    }
}

/// What there is to say in the end.
struct Account<'a> {
    shapes: &'a Shapes<'a>,
    target: Target,
    ladder: Ladder,
    blocks: Vec<usize>,
    compiled: Vec<Compiled>,
    threads: usize,
    fresh: usize,
    wall_seconds: f64,
}

impl Account<'_> {
    fn tokens(&self) -> usize {
        self.ladder.pages * self.ladder.page
    }

    fn pool_bytes_per_device(&self) -> u64 {
        (self.tokens() * self.shapes.token_bytes_per_device) as u64
    }

    fn compile_seconds(&self) -> f64 {
        self.compiled.iter().map(|one| one.report.compile_seconds).sum()
    }

    fn print(&self, model: &str) {
        let memory = self.compiled.iter().find_map(|one| one.report.available_bytes);
        let memory =
            memory.map_or_else(String::new, |bytes| format!(", {} each", gibibytes(bytes)));
        let title = format!("{model} served on {}", self.target);
        console::styled_line(format_args!(
            "{} (mesh {}{memory})",
            styled(BOLD, &title),
            self.shapes.options.mesh
        ));
        let heading =
            ["program", "rows x tokens x pages", "arguments", "temporaries", "peak", "compiled in"];
        let mut rows = vec![heading.map(str::to_string).to_vec()];
        rows.extend(self.compiled.iter().map(|Compiled { key, report }| {
            let [sequences, tokens, pages] = key.sizes();
            let figure = |of: fn(&runtime::worker::MemoryUse) -> u64| {
                report
                    .memory
                    .as_ref()
                    .map_or_else(|| "?".to_string(), |memory| gibibytes(of(memory)))
            };
            vec![
                key.kind().to_string(),
                format!("{sequences} x {tokens} x {pages}"),
                figure(|memory| memory.argument_bytes),
                figure(|memory| memory.temporary_bytes),
                figure(runtime::worker::MemoryUse::needed_bytes),
                format!("{:.1} s", report.compile_seconds),
            ]
        }));
        console::table(&rows);
        let (ladder, tokens) = (&self.ladder, self.tokens());
        console::line(format_args!(
            "KV cache: {} pages of {} tokens, {tokens} tokens, {} per device; {:.1} sequences of {} tokens at once",
            ladder.pages,
            ladder.page,
            gibibytes(self.pool_bytes_per_device()),
            tokens as f64 / ladder.context as f64,
            ladder.context,
        ));
        console::line(format_args!(
            "Warm-up: {} programs are {} of compiling, {} at a time; this took {}, {} compilations included, the search for the cache's size among them",
            self.compiled.len(),
            duration(self.compile_seconds()),
            self.threads,
            duration(self.wall_seconds),
            self.fresh,
        ));
    }

    fn value(&self, model: &str) -> Value {
        let programs = self.compiled.iter().map(|Compiled { key, report }| {
            let [rows, tokens, pages] = key.sizes();
            json!({
                "program": key.kind(),
                "rows": rows,
                "tokens": tokens,
                "pages": pages,
                "argument_bytes": report.memory.map(|memory| memory.argument_bytes),
                "temporary_bytes": report.memory.map(|memory| memory.temporary_bytes),
                "generated_code_bytes": report.memory.map(|memory| memory.generated_code_bytes),
                "needed_bytes": report.memory.map(|memory| memory.needed_bytes()),
                "compile_seconds": report.compile_seconds,
                "cached": report.cache == CacheUse::Hit,
            })
        });
        let available = self.compiled.iter().find_map(|one| one.report.available_bytes);
        json!({
            "model": model,
            "target": self.target.to_string(),
            "mesh": self.shapes.options.mesh.to_string(),
            "fits": true,
            "available_bytes": available,
            "programs": programs.collect::<Vec<Value>>(),
            "kv_cache": {
                "pages": self.ladder.pages,
                "page_tokens": self.ladder.page,
                "tokens": self.tokens(),
                "bytes_per_device": self.pool_bytes_per_device(),
                "sequences_of_full_context": self.tokens() as f64 / self.ladder.context as f64,
            },
            "context": self.ladder.context,
            "sequences": self.ladder.slots,
            "page_numbers": self.blocks,
            "compile_seconds": self.compile_seconds(),
            "wall_seconds": self.wall_seconds,
            "compilations_at_once": self.threads,
            "compiled_now": self.fresh,
        })
    }
}

//! Every target's name is accepted by its plugin's compiler, and programs compile for chips that
//! are not here, with the real plugins.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test's findings are printed")]

mod support;

use graph::Mesh;
use pjrt::{Plugin, Topology};
use runtime::chips::{Chip, chips};
use runtime::environment::{compile_only_environment, required_environment, restart_with};
use runtime::settings::to_values;
use runtime::targets::legal_counts;
use runtime::worker;
use runtime::{
    CacheFolder, CacheUse, CompileChoices, Compiler, Discovery, Fit, PluginKind, PluginLocation,
    Target,
};
use support::{Folder, matmul, sum};

fn main() {
    worker::main_if_worker(|_| Ok(()));
    let discovery = Discovery::new(CacheFolder::from_environment().unwrap());
    let mut locations = Vec::new();
    let mut environment = Vec::new();
    for kind in [PluginKind::Tpu, PluginKind::Cuda] {
        match discovery.find(kind) {
            Ok(location) => {
                environment.extend(required_environment(&location, 1));
                environment.extend(compile_only_environment(&location));
                locations.push(location);
            }
            Err(error) => eprintln!("SKIPPED targets (all tests of {kind}): {error}"),
        }
    }
    if let Some(mut again) = restart_with(&environment) {
        let status = again.status().unwrap();
        runtime::end_process(status.code().unwrap_or(1));
    }
    let folder = Folder::new("targets");
    let compiler = Compiler::new(folder.cache()).unwrap();
    let mut tests: Vec<support::Test<'_>> = Vec::new();
    for location in &locations {
        tests.push(match location.kind {
            PluginKind::Tpu => ("tpu_names", Box::new(|| names(location))),
            _ => ("cuda_names", Box::new(|| names(location))),
        });
        tests.push(match location.kind {
            PluginKind::Tpu => ("tpu_compiles", Box::new(|| compiles(&compiler, location))),
            _ => ("cuda_compiles", Box::new(|| compiles(&compiler, location))),
        });
        tests.push(match location.kind {
            PluginKind::Tpu => ("tpu_too_large", Box::new(|| too_large(&compiler, location))),
            _ => ("cuda_too_large", Box::new(|| too_large(&compiler, location))),
        });
        if location.kind == PluginKind::Cuda {
            tests.push(("cuda_sums_of_a_number", Box::new(|| sums(&compiler, location))));
        }
    }
    support::run_all(tests);
}

fn chips_of(location: &PluginLocation) -> impl Iterator<Item = &'static Chip> {
    chips().iter().filter(|chip| chip.plugin == Some(location.kind))
}

/// The plugin knows every target of ours, and shows as many devices as we say.
fn names(location: &PluginLocation) {
    let plugin = Plugin::load(&location.path).unwrap();
    for chip in chips_of(location) {
        for chips in legal_counts(chip) {
            let target = Target::new(chip, chips).unwrap();
            let request = target.topology().unwrap();
            let topology = Topology::create(&plugin, &request.name, &to_values(&request.options))
                .unwrap_or_else(|error| panic!("{target}: {error}"));
            let devices = topology.devices().unwrap();
            assert_eq!(devices.len(), target.devices(), "{target}");
            if location.kind == PluginKind::Tpu {
                assert_eq!(
                    Some(devices[0].kind.as_str()),
                    chip.device_kinds.first().map(String::as_str),
                    "{target}"
                );
            }
        }
    }
}

fn split(target: &Target) -> Mesh {
    Mesh::new(&[("data", 1), ("tensor", target.devices())])
}

fn compiles(compiler: &Compiler, location: &PluginLocation) {
    let choices = CompileChoices { optimized_program: true, ..CompileChoices::default() };
    for chip in chips_of(location) {
        for chips in [legal_counts(chip)[0], 8] {
            let target = Target::new(chip, chips).unwrap();
            let program = matmul(&split(&target), 64, 256, 1024);
            let report = compiler.compile_for(&program, &target, location, &choices).unwrap();
            assert_eq!(report.fit, Fit::Fits, "{target}");
            assert_eq!(report.cache, CacheUse::Miss, "{target}");
            let memory = report.memory.unwrap();
            let arguments = (64 * 256 + 1024 / target.devices() * 256) * 4;
            assert_eq!(memory.argument_bytes, arguments as u64, "{target}");
            assert!(!report.optimized_program.unwrap().code.is_empty(), "{target}");
            println!(
                "  {target}: {memory:?} of {:?}, {:.2} s",
                report.available_bytes, report.compile_seconds
            );
        }
    }
}

/// Of few bytes, for which XLA has kernels of its own: also over as many GPUs as those cannot do, alone
/// and as one axis of two.
fn sums(compiler: &Compiler, location: &PluginLocation) {
    for (name, mesh) in [
        ("h100-8", Mesh::new(&[("data", 8)])),
        ("h100-64", Mesh::new(&[("data", 64)])),
        ("h100-128", Mesh::new(&[("data", 64), ("tensor", 2)])),
        ("gb200-72", Mesh::new(&[("data", 72)])),
    ] {
        let target: Target = name.parse().unwrap();
        let program = sum(&mesh, 72 * 64);
        let choices = CompileChoices::default();
        let report = compiler.compile_for(&program, &target, location, &choices);
        let report = report.unwrap_or_else(|error| panic!("{target}: {error}"));
        assert_eq!(report.fit, Fit::Fits, "{target}");
    }
}

fn too_large(compiler: &Compiler, location: &PluginLocation) {
    for chip in chips_of(location) {
        let target = Target::new(chip, legal_counts(chip)[0]).unwrap();
        // Two matrices of 298 GiB.
        let program = matmul(
            &Mesh::new(&[("data", 1), ("tensor", target.devices())]),
            400_000,
            200_000,
            400_000,
        );
        let choices = CompileChoices::default();
        let report = compiler.compile_for(&program, &target, location, &choices).unwrap();
        let Fit::DoesNotFit { needed_bytes, available_bytes, message } = report.fit else {
            panic!("{target}: {:?}", report.memory)
        };
        println!("  {target}: {needed_bytes:?} of {available_bytes:?}: {message}");
        assert!(needed_bytes > available_bytes && available_bytes.is_some(), "{target}: {message}");
        let again = compiler.compile_for(&program, &target, location, &choices).unwrap();
        assert_eq!(again.cache, CacheUse::Hit);
    }
}

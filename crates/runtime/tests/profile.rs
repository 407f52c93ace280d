//! Profiles of programs that the real TPU compiler compiled, without a TPU.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test's findings are printed")]

mod support;

use graph::Mesh;
use runtime::environment::{compile_only_environment, required_environment, restart_with};
use runtime::profile::{Profile, Source, profile};
use runtime::worker;
use runtime::{
    CacheFolder, CompileChoices, Compiler, Discovery, PluginKind, PluginLocation, Target,
};
use support::{Folder, matmul};

fn main() {
    worker::main_if_worker(|_| Ok(()));
    let discovery = Discovery::new(CacheFolder::from_environment().unwrap());
    let location = match discovery.find(PluginKind::Tpu) {
        Ok(location) => location,
        Err(error) => return eprintln!("SKIPPED profile (all tests): {error}"),
    };
    let mut environment = required_environment(&location, 1);
    environment.extend(compile_only_environment(&location));
    if let Some(mut again) = restart_with(&environment) {
        let status = again.status().unwrap();
        runtime::end_process(status.code().unwrap_or(1));
    }
    let folder = Folder::new("profile");
    let compiler = Compiler::new(folder.cache()).unwrap();
    support::run_all(vec![
        ("one_product", Box::new(|| one_product(&compiler, &location))),
        ("a_loop", Box::new(|| a_loop(&compiler, &location))),
        ("a_sum_over_devices", Box::new(|| a_sum_over_devices(&compiler, &location))),
    ]);
}

fn profiled(
    compiler: &Compiler,
    location: &PluginLocation,
    target: &str,
    program: &graph::Program,
) -> Profile {
    let target: Target = target.parse().unwrap();
    let choices = CompileChoices { optimized_program: true, ..CompileChoices::default() };
    let report = compiler.compile_for(program, &target, location, &choices).unwrap();
    let code = report.optimized_program.unwrap().code;
    let profile = profile(&code, &target).unwrap();
    assert!(profile.unknown.is_empty(), "{:?}", profile.unknown);
    let sum: f64 = profile.instructions.iter().map(|costed| costed.seconds).sum();
    assert!((sum - profile.total_seconds).abs() < 1e-9, "{sum}: {profile:?}");
    profile
}

/// 1.1e12 operations, in one pass over the matrix units or more.
fn one_product(compiler: &Compiler, location: &PluginLocation) {
    let program = matmul(&Mesh::new(&[("data", 1), ("tensor", 1)]), 8192, 8192, 8192);
    let profile = profiled(compiler, location, "v6e-1", &program);
    let costliest = &profile.instructions[0];
    println!("  {costliest:?}");
    assert_eq!(costliest.source, Source::Compiler);
    assert_eq!(costliest.flops, 2.0 * 8192f64.powi(3));
    let shortest = costliest.flops / 918e12;
    assert!(costliest.seconds >= shortest && costliest.seconds < 20.0 * shortest);
}

/// A product in a loop, with a place in a model.
fn a_loop(compiler: &Compiler, location: &PluginLocation) {
    let mut program = matmul(&Mesh::single(), 1024, 1024, 1024);
    let kind = "tensor<1024x1024xf32>";
    program.text = format!(
        r#"module @repeated attributes {{mhlo.num_partitions = 1 : i32, mhlo.num_replicas = 1 : i32}} {{
  func.func public @main(%x: {kind}, %w: {kind}) -> {kind} {{
    %zero = "stablehlo.constant"() {{value = dense<0> : tensor<i32>}} : () -> tensor<i32>
    %last:3 = "stablehlo.while"(%zero, %x, %w) ({{
      ^bb0(%i: tensor<i32>, %a: {kind}, %b: {kind}):
        %bound = "stablehlo.constant"() {{value = dense<12> : tensor<i32>}} : () -> tensor<i32>
        %more = "stablehlo.compare"(%i, %bound) {{comparison_direction = #stablehlo<comparison_direction LT>}} : (tensor<i32>, tensor<i32>) -> tensor<i1>
        "stablehlo.return"(%more) : (tensor<i1>) -> ()
    }}, {{
      ^bb0(%i: tensor<i32>, %a: {kind}, %b: {kind}):
        %one = "stablehlo.constant"() {{value = dense<1> : tensor<i32>}} : () -> tensor<i32>
        %next = "stablehlo.add"(%i, %one) : (tensor<i32>, tensor<i32>) -> tensor<i32>
        %c = "stablehlo.dot_general"(%a, %b) {{dot_dimension_numbers = #stablehlo.dot<lhs_contracting_dimensions = [1], rhs_contracting_dimensions = [0]>}} : ({kind}, {kind}) -> {kind} loc("model.layers.*.mlp"("src/model.rs":40:9))
        "stablehlo.return"(%next, %c, %b) : (tensor<i32>, {kind}, {kind}) -> ()
    }}) : (tensor<i32>, {kind}, {kind}) -> (tensor<i32>, {kind}, {kind})
    "func.return"(%last#1) : ({kind}) -> ()
  }}
}}"#
    );
    program.text_without_locations = program.text.clone();
    let profile = profiled(compiler, location, "v5e-1", &program);
    let product = profile.instructions.iter().find(|costed| costed.flops > 0.0).unwrap();
    println!("  {product:?}");
    assert_eq!((product.times, product.flops), (12.0, 2.0 * 1024f64.powi(3)));
    assert_eq!(product.path, "model.layers.*.mlp");
    assert_eq!(product.line, "src/model.rs:40");
    assert!(profile.by_path.iter().any(|share| share.name == "model.layers.*.mlp"));
}

/// Every device has a part of the summed axis, so the result goes over the links.
fn a_sum_over_devices(compiler: &Compiler, location: &PluginLocation) {
    let mut program = matmul(&Mesh::new(&[("data", 1), ("tensor", 4)]), 2048, 4096, 4096);
    for text in [&mut program.text, &mut program.text_without_locations] {
        *text = text.replace(r#"[{"tensor"}, {}]"#, r#"[{}, {"tensor"}]"#);
        *text = text.replace(r#"[{"data"}, {"tensor"}]"#, r#"[{}, {}]"#);
        *text = text.replace(r#"[{"data"}, {}]"#, r#"[{}, {"tensor"}]"#);
    }
    let profile = profiled(compiler, location, "v6e-4", &program);
    let links = profile.by_source.iter().find(|share| share.name == "links");
    println!("  {:?} of {} s", links, profile.total_seconds);
    // 32 MiB, twice three quarters, at what two links of 100 GB/s carry.
    let shortest = 1.5 * 32.0 * f64::from(1 << 20) / 200e9;
    assert!(links.is_some_and(|links| links.seconds >= 0.9 * shortest), "{profile:?}");
}

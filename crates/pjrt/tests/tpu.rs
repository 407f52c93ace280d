//! Compiling for TPUs that are not here. Needs libtpu: `FUNGIBLE_TPU_PLUGIN` names its file.
//!
//! A test binary of its own, since libtpu reads its environment when it is loaded.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

mod support;

use std::path::PathBuf;

use pjrt::{Code, Plugin, Topology, Value};
use support::{compile_options, skip};

fn tpu_plugin(test: &str) -> Option<Plugin> {
    let Some(path) = std::env::var_os("FUNGIBLE_TPU_PLUGIN").map(PathBuf::from) else {
        skip(test, "set FUNGIBLE_TPU_PLUGIN to libtpu.so");
        return None;
    };
    // SAFETY: the one test of this binary calls this before it starts any thread.
    unsafe {
        std::env::set_var("TPU_SKIP_MDS_QUERY", "1");
        std::env::set_var("ALLOW_MULTIPLE_LIBTPU_LOAD", "1");
    }
    Some(Plugin::load(&path).unwrap())
}

/// A matrix product over a mesh of four, with a donated second input.
const PROGRAM: &str = r#"
module @product attributes {mhlo.num_partitions = 4 : i32, mhlo.num_replicas = 1 : i32} {
  sdy.mesh @mesh = <["data"=4]>
  func.func @main(
      %x: tensor<1024x512xbf16> {sdy.sharding = #sdy.sharding<@mesh, [{"data"}, {}]>},
      %y: tensor<1024x512xbf16> {sdy.sharding = #sdy.sharding<@mesh, [{"data"}, {}]>, tf.aliasing_output = 0 : i32},
      %w: tensor<512x512xbf16> {sdy.sharding = #sdy.sharding<@mesh, [{}, {}]>})
      -> (tensor<1024x512xbf16> {sdy.sharding = #sdy.sharding<@mesh, [{"data"}, {}]>}) {
    %dot = "stablehlo.dot_general"(%x, %w) <{dot_dimension_numbers = #stablehlo.dot<lhs_contracting_dimensions = [1], rhs_contracting_dimensions = [0]>}> : (tensor<1024x512xbf16>, tensor<512x512xbf16>) -> tensor<1024x512xbf16>
    %sum = "stablehlo.add"(%dot, %y) : (tensor<1024x512xbf16>, tensor<1024x512xbf16>) -> tensor<1024x512xbf16>
    "func.return"(%sum) : (tensor<1024x512xbf16>) -> ()
  }
}"#;

#[test]
fn compile_for_four_absent_chips() {
    let Some(plugin) = tpu_plugin("compile_for_four_absent_chips") else { return };
    let host_bounds = ("chips_per_host_bounds".to_owned(), Value::Int64List(vec![2, 2, 1]));
    let topology = Topology::create(&plugin, "v5e:2x2", &[host_bounds]).unwrap();
    assert_eq!(topology.platform_name().unwrap(), "tpu");
    assert!(!topology.platform_version().unwrap().is_empty());
    let devices = topology.devices().unwrap();
    assert_eq!(devices.len(), 4);
    assert!(devices[0].kind.contains("v5"), "{}", devices[0].kind);
    assert!(
        matches!(devices[3].attribute("coords"), Some(Value::Int64List(coords)) if coords[..2] == [1, 1])
    );
    assert!(!topology.serialize().unwrap().is_empty());
    assert!(!topology.attributes().unwrap().is_empty());

    let executable = topology.compile(PROGRAM, &compile_options(4)).unwrap();
    assert_eq!(executable.num_partitions().unwrap(), 4);
    assert_eq!(executable.output_dimensions().unwrap(), [[256, 512]], "a device's own share");
    let stats = executable.memory_stats().unwrap();
    let share_bytes = 256 * 512 * 2;
    assert_eq!(stats.alias_bytes, share_bytes);
    assert_eq!(stats.argument_bytes, 2 * share_bytes + 512 * 512 * 2);
    assert!(stats.peak_bytes.unwrap() >= stats.argument_bytes);
    executable.check_donation(share_bytes).unwrap();
    assert!(matches!(
        executable.check_donation(share_bytes + 1),
        Err(pjrt::Error::Donation { aliased_bytes, .. }) if aliased_bytes == share_bytes
    ));
    let cost = executable.cost_analysis().unwrap();
    assert!(cost.iter().any(
        |(name, value)| name == "flops" && matches!(value, Value::Float(flops) if *flops > 0.)
    ));
    let optimized = executable.optimized_program().unwrap();
    assert_eq!(optimized.format, "hlo_with_config");
    let cycles: &[u8] = b"estimated_cycles";
    assert!(optimized.code.windows(cycles.len()).any(|window| window == cycles));
    assert!(!executable.serialize().unwrap().is_empty());

    let refused = topology.compile("this is no program", &compile_options(1)).unwrap_err();
    // libtpu files this under `unknown`, where the CPU plugins say `invalid argument`.
    assert!(matches!(refused.code(), Some(Code::Unknown | Code::InvalidArgument)), "{refused}");
    assert!(refused.to_string().contains("custom op 'this' is unknown"), "{refused}");
    let unknown = Topology::create(&plugin, "v99:2x2", &[]).unwrap_err();
    assert!(unknown.code().is_some(), "{unknown}");
}

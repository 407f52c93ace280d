//! Compiling for NVIDIA GPUs that are not here. Needs the CUDA plugin, with `ptxas` where its packages
//! put it: `FUNGIBLE_CUDA_PLUGIN` names the plugin's file.
//!
//! A test binary of its own, since it is another vendor's library.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::path::PathBuf;

use pjrt::{Plugin, Topology, Value};
use support::{compile_options, skip};

/// What XLA publishes of the H100 SXM, as a text `GpuTargetConfigProto`.
const H100: &str = r#"
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84942979072 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 8 minor: 9 patch: 4 }
device_description_str: "NVIDIA H100 80GB HBM3"
"#;

const PROGRAM: &str = r#"
module @product attributes {mhlo.num_partitions = 8 : i32, mhlo.num_replicas = 1 : i32} {
  sdy.mesh @mesh = <["data"=8]>
  func.func @main(
      %x: tensor<1024x512xf32> {sdy.sharding = #sdy.sharding<@mesh, [{"data"}, {}]>, tf.aliasing_output = 0 : i32})
      -> (tensor<1024x512xf32> {sdy.sharding = #sdy.sharding<@mesh, [{"data"}, {}]>}) {
    %sum = "stablehlo.add"(%x, %x) : (tensor<1024x512xf32>, tensor<1024x512xf32>) -> tensor<1024x512xf32>
    "func.return"(%sum) : (tensor<1024x512xf32>) -> ()
  }
}"#;

#[test]
fn compile_for_eight_absent_gpus() {
    let test = "compile_for_eight_absent_gpus";
    let Some(path) = std::env::var_os("FUNGIBLE_CUDA_PLUGIN").map(PathBuf::from) else {
        return skip(test, "set FUNGIBLE_CUDA_PLUGIN to xla_cuda_plugin.so");
    };
    let plugin = Plugin::load(&path).unwrap();
    let options = [
        ("topology".to_owned(), Value::String("1x1x8".to_owned())),
        ("target_config".to_owned(), Value::String(H100.to_owned())),
    ];
    let topology = Topology::create(&plugin, "H100", &options).unwrap();
    assert_eq!(topology.devices().unwrap().len(), 8);
    let executable = topology.compile(PROGRAM, &compile_options(8)).unwrap();
    assert_eq!(executable.output_dimensions().unwrap(), [[128, 512]]);
    let stats = executable.memory_stats().unwrap();
    let share_bytes = 128 * 512 * 4;
    assert_eq!((stats.argument_bytes, stats.output_bytes), (share_bytes, share_bytes));
    executable.check_donation(share_bytes).unwrap();
    assert!(executable.optimized_program().unwrap().format.starts_with("hlo"));
}

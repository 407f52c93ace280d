//! Compiling and running on the CPU plugin: results, shapes, figures, saving and loading.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

mod support;

use pjrt::{Argument, Code, ElementType, Error, Value};
use support::{compile_options, cpu_client, cpu_plugin, f32_bytes, f32_values};

/// `x @ y + 1`, and whether that is larger than `x @ y`.
const MATMUL: &str = r#"
module @matmul {
  func.func @main(%x: tensor<2x3xf32>, %y: tensor<3x2xf32>) -> (tensor<2x2xf32>, tensor<2x2xi1>) {
    %dot = "stablehlo.dot_general"(%x, %y) <{dot_dimension_numbers = #stablehlo.dot<lhs_contracting_dimensions = [1], rhs_contracting_dimensions = [0]>}> : (tensor<2x3xf32>, tensor<3x2xf32>) -> tensor<2x2xf32>
    %one = "stablehlo.constant"() <{value = dense<1.0> : tensor<2x2xf32>}> : () -> tensor<2x2xf32>
    %sum = "stablehlo.add"(%dot, %one) : (tensor<2x2xf32>, tensor<2x2xf32>) -> tensor<2x2xf32>
    %large = "stablehlo.compare"(%sum, %dot) <{comparison_direction = #stablehlo<comparison_direction GT>}> : (tensor<2x2xf32>, tensor<2x2xf32>) -> tensor<2x2xi1>
    "func.return"(%sum, %large) : (tensor<2x2xf32>, tensor<2x2xi1>) -> ()
  }
}"#;

/// The answer, or none from a plugin that says that it does not implement the question.
fn implemented<T>(answer: pjrt::Result<T>) -> Option<T> {
    match answer {
        Ok(answer) => Some(answer),
        Err(error) => {
            let refusal = matches!(error, Error::MissingFunction { .. })
                || error.code() == Some(Code::Unimplemented);
            assert!(refusal, "{error}");
            None
        }
    }
}

/// Runs `MATMUL` and checks what it answers.
fn check_matmul(client: &pjrt::Client, executable: &pjrt::LoadedExecutable) {
    let device = executable.addressable_devices()[0].clone();
    let x = client.buffer_from_slice(
        &device,
        &f32_bytes(&[1., 2., 3., 4., 5., 6.]),
        ElementType::F32,
        &[2, 3],
    );
    let y = client.buffer_from_slice(
        &device,
        &f32_bytes(&[1., 0., 0., 1., 1., 1.]),
        ElementType::F32,
        &[3, 2],
    );
    let (x, y) = (x.unwrap(), y.unwrap());
    let run =
        executable.execute(vec![vec![Argument::Borrowed(&x), Argument::Borrowed(&y)]]).unwrap();
    run.wait().unwrap();
    assert_eq!(run.done.len(), 1);
    assert!(run.unused_donations.is_empty());
    let sum = &run.outputs[0][0];
    assert_eq!(f32_values(&sum.to_vec().unwrap()), [5., 6., 11., 12.]);
    assert_eq!(run.outputs[0][1].to_vec().unwrap(), [1; 4]);
    assert_eq!(sum.dimensions().unwrap(), [2, 2]);
    assert_eq!(sum.element_type().unwrap(), ElementType::F32);
    assert_eq!(run.outputs[0][1].element_type().unwrap(), ElementType::Pred);
    assert_eq!(sum.device().unwrap(), device);
    assert_eq!(sum.size_bytes_on_host().unwrap(), 16);
    assert!(sum.size_bytes_on_device().unwrap() >= 16);
    assert!(sum.is_on_cpu().unwrap());
    // Borrowed inputs are still there.
    assert_eq!(f32_values(&x.to_vec().unwrap()), [1., 2., 3., 4., 5., 6.]);
}

#[test]
fn compile_and_run() {
    let Some(client) = cpu_client("compile_and_run") else { return };
    check_matmul(&client, &client.compile(MATMUL, &compile_options(1)).unwrap());
}

#[test]
fn plugin_and_client_describe_themselves() {
    let test = "plugin_and_client_describe_themselves";
    let (Some(plugin), Some(client)) = (cpu_plugin(test), cpu_client(test)) else { return };
    assert_eq!(plugin.api_version().major, 0);
    let attributes = plugin.attributes().unwrap();
    assert!(
        attributes.iter().any(|(name, _)| name == "stablehlo_current_version"),
        "{attributes:?}"
    );
    assert_eq!(client.platform_name().unwrap(), "cpu");
    assert!(!client.platform_version().unwrap().is_empty());
    assert_eq!(client.process_index().unwrap(), 0);
    assert_eq!(client.devices().len(), support::DEVICES);
    assert_eq!(client.addressable_devices(), client.devices());
    let mut ids: Vec<i32> = client.devices().iter().map(pjrt::Device::id).collect();
    assert!(ids.is_sorted());
    ids.dedup();
    assert_eq!(ids.len(), support::DEVICES);
    let device = &client.devices()[0];
    assert!(device.is_addressable());
    assert_eq!(device.process_index(), 0);
    assert!(!device.kind().is_empty() && !device.debug_string().is_empty());
    let memory = device.default_memory().unwrap();
    assert!(device.memories().unwrap().iter().any(|other| other.id() == memory.id()));
    // A CPU plugin keeps no count of its own: an answer and a refusal are both fine, a crash is not.
    implemented(device.memory_stats());
    assert_eq!(client.default_device_assignment(1, 4).unwrap().concat().len(), 4);
}

#[test]
fn an_executable_describes_itself() {
    let Some(client) = cpu_client("an_executable_describes_itself") else { return };
    let loaded = client.compile(MATMUL, &compile_options(1)).unwrap();
    let executable = loaded.executable();
    assert!(executable.name().unwrap().contains("matmul"));
    assert_eq!((executable.num_replicas().unwrap(), executable.num_partitions().unwrap()), (1, 1));
    assert_eq!(executable.num_outputs().unwrap(), 2);
    assert_eq!(executable.output_dimensions().unwrap(), [[2, 2], [2, 2]]);
    assert_eq!(executable.output_element_types().unwrap(), [ElementType::F32, ElementType::Pred]);
    if let Some(kinds) = implemented(executable.output_memory_kinds()) {
        assert_eq!(kinds.len(), 2);
    }
    let stats = executable.memory_stats().unwrap();
    assert_eq!(stats.argument_bytes, 48);
    assert!(stats.output_bytes >= 20, "{stats:?}");
    assert_eq!(stats.alias_bytes, 0);
    if let Some(cost) = implemented(executable.cost_analysis()) {
        let flops = cost.iter().find(|(name, _)| name == "flops").map(|(_, value)| value);
        // 2 * 2 * 3 * 2 for the product, and some for the rest.
        assert!(matches!(flops, Some(Value::Float(flops)) if *flops >= 24.), "{cost:?}");
    }
    let optimized = executable.optimized_program().unwrap();
    assert!(optimized.format.starts_with("hlo"), "{}", optimized.format);
    let name: &[u8] = b"matmul";
    assert!(optimized.code.windows(name.len()).any(|window| window == name));
    executable.fingerprint().unwrap();
}

#[test]
fn the_device_assignment_names_the_devices() {
    let Some(client) = cpu_client("the_device_assignment_names_the_devices") else { return };
    let loaded = client.compile(MATMUL, &compile_options(1)).unwrap();
    if let Some(bytes) = implemented(loaded.device_assignment()) {
        // replica_count 1, computation_count 1, then one computation with the device's id.
        assert!(bytes.starts_with(&[0x08, 1, 0x10, 1, 0x1a]), "{bytes:?}");
    }
}

#[test]
fn an_executable_can_be_saved_and_loaded() {
    let Some(client) = cpu_client("an_executable_can_be_saved_and_loaded") else { return };
    let executable = client.compile(MATMUL, &compile_options(1)).unwrap();
    let bytes = executable.executable().serialize().unwrap();
    drop(executable);
    check_matmul(&client, &client.deserialize(&bytes).unwrap());
    assert!(client.deserialize(&bytes[..bytes.len() / 2]).is_err());
    assert!(client.deserialize(b"").is_err());
}

/// The client's own topology compiles too, and what it compiles can be loaded onto the client.
#[test]
fn compile_with_the_clients_topology() {
    let Some(client) = cpu_client("compile_with_the_clients_topology") else { return };
    let Some(topology) = implemented(client.topology()) else { return };
    assert_eq!(topology.devices().unwrap().len(), support::DEVICES);
    match topology.compile(MATMUL, &compile_options(1)) {
        Ok(executable) => {
            assert_eq!(executable.num_outputs().unwrap(), 2);
            match client.load(&executable) {
                Ok(loaded) => check_matmul(&client, &loaded),
                Err(error) => {
                    support::skip("compile_with_the_clients_topology", &error.to_string())
                }
            }
        }
        Err(error) => support::skip("compile_with_the_clients_topology", &error.to_string()),
    }
}

/// Programs run from several threads at once, and handles may be dropped in any order.
#[test]
fn handles_are_shared_between_threads() {
    let Some(client) = cpu_client("handles_are_shared_between_threads") else { return };
    let executable = client.compile(MATMUL, &compile_options(1)).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let (client, executable) = (client.clone(), executable.clone());
            scope.spawn(move || {
                for _ in 0..8 {
                    check_matmul(&client, &executable);
                }
            });
        }
    });
}

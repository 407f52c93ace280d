//! One program over several devices: inputs, outputs and completion per device.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

mod support;

use pjrt::{Argument, ElementType, Error};
use support::{DEVICES, compile_options, cpu_client, f32_bytes, f32_values};

/// Each device holds one row of `x`; the sum over rows needs them all. `x` is donated.
const SUM_OF_ROWS: &str = r#"
module @sum attributes {mhlo.num_partitions = 8 : i32, mhlo.num_replicas = 1 : i32} {
  sdy.mesh @mesh = <["data"=8]>
  func.func @main(%x: tensor<8x4xf32> {sdy.sharding = #sdy.sharding<@mesh, [{"data"}, {}]>, tf.aliasing_output = 0 : i32})
      -> (tensor<8x4xf32> {sdy.sharding = #sdy.sharding<@mesh, [{"data"}, {}]>},
          tensor<4xf32> {sdy.sharding = #sdy.sharding<@mesh, [{}]>}) {
    %zero = "stablehlo.constant"() <{value = dense<0.0> : tensor<f32>}> : () -> tensor<f32>
    %sum = "stablehlo.reduce"(%x, %zero) <{dimensions = array<i64: 0>}> ({
      ^bb0(%a: tensor<f32>, %b: tensor<f32>):
        %c = "stablehlo.add"(%a, %b) : (tensor<f32>, tensor<f32>) -> tensor<f32>
        "stablehlo.return"(%c) : (tensor<f32>) -> ()
    }) : (tensor<8x4xf32>, tensor<f32>) -> tensor<4xf32>
    %twice = "stablehlo.add"(%x, %x) : (tensor<8x4xf32>, tensor<8x4xf32>) -> tensor<8x4xf32>
    "func.return"(%twice, %sum) : (tensor<8x4xf32>, tensor<4xf32>) -> ()
  }
}"#;

fn rows(client: &pjrt::Client, devices: &[pjrt::Device]) -> Vec<pjrt::Buffer> {
    let row = |(index, device)| {
        let values: [f32; 4] = std::array::from_fn(|column| (10 * index + column) as f32);
        client.buffer_from_slice(device, &f32_bytes(&values), ElementType::F32, &[1, 4]).unwrap()
    };
    devices.iter().enumerate().map(row).collect()
}

#[test]
fn devices_sum_their_rows() {
    let Some(client) = cpu_client("devices_sum_their_rows") else { return };
    let executable = client.compile(SUM_OF_ROWS, &compile_options(DEVICES)).unwrap();
    assert_eq!(executable.executable().num_partitions().unwrap(), DEVICES);
    let devices = executable.addressable_devices();
    assert_eq!(devices.len(), DEVICES);
    let arguments =
        rows(&client, devices).into_iter().map(|row| vec![Argument::Donated(row)]).collect();
    let run = executable.execute(arguments).unwrap();
    assert_eq!(run.done.len(), DEVICES);
    assert_eq!(run.unused_donations, []);
    run.wait().unwrap();
    for (index, outputs) in run.outputs.iter().enumerate() {
        assert_eq!(outputs[0].device().unwrap(), devices[index]);
        assert_eq!(outputs[0].dimensions().unwrap(), [1, 4]);
        let first = 20. * index as f32;
        assert_eq!(
            f32_values(&outputs[0].to_vec().unwrap()),
            [first, first + 2., first + 4., first + 6.]
        );
        assert_eq!(f32_values(&outputs[1].to_vec().unwrap()), [280., 288., 296., 304.]);
    }
}

#[test]
fn devices_must_agree_on_what_is_donated() {
    let Some(client) = cpu_client("devices_must_agree_on_what_is_donated") else { return };
    let executable = client.compile(SUM_OF_ROWS, &compile_options(DEVICES)).unwrap();
    let mut buffers = rows(&client, executable.addressable_devices());
    let last = buffers.split_off(DEVICES - 1);
    let mut arguments: Vec<Vec<Argument<'_>>> =
        buffers.into_iter().map(|row| vec![Argument::Donated(row)]).collect();
    assert!(
        matches!(executable.execute(arguments), Err(Error::InvalidInput { .. })),
        "one device is missing"
    );

    let buffers = rows(&client, &executable.addressable_devices()[..DEVICES - 1]);
    arguments = buffers.into_iter().map(|row| vec![Argument::Donated(row)]).collect();
    arguments.push(vec![Argument::Borrowed(&last[0])]);
    let error = executable.execute(arguments).unwrap_err();
    assert!(
        error.to_string().contains("argument 0 is donated on one of the devices 0 and 7"),
        "{error}"
    );
}

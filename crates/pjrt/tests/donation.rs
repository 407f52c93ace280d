//! Donated inputs: consumed, reused, and never someone else's.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

mod support;

use pjrt::{Argument, ElementType, Error, UnusedDonation};
use support::{compile_options, cpu_client, f32_bytes, f32_values};

const SIZE: usize = 4096;

/// Adds `y` to `x`, with `x` reused for the result if `aliased`.
fn program(aliased: bool) -> String {
    let alias = if aliased { " {tf.aliasing_output = 0 : i32}" } else { "" };
    format!(
        r#"
func.func @main(%x: tensor<{SIZE}xf32>{alias}, %y: tensor<{SIZE}xf32>) -> tensor<{SIZE}xf32> {{
  %sum = "stablehlo.add"(%x, %y) : (tensor<{SIZE}xf32>, tensor<{SIZE}xf32>) -> tensor<{SIZE}xf32>
  "func.return"(%sum) : (tensor<{SIZE}xf32>) -> ()
}}"#
    )
}

fn buffer(client: &pjrt::Client, value: f32) -> pjrt::Buffer {
    let device = &client.addressable_devices()[0];
    client
        .buffer_from_slice(device, &f32_bytes(&[value; SIZE]), ElementType::F32, &[SIZE as i64])
        .unwrap()
}

#[test]
fn a_donated_buffer_is_reused() {
    let Some(client) = cpu_client("a_donated_buffer_is_reused") else { return };
    let executable = client.compile(&program(true), &compile_options(1)).unwrap();
    let bytes = (SIZE * 4) as u64;
    assert_eq!(executable.executable().memory_stats().unwrap().alias_bytes, bytes);
    executable.check_donation(bytes).unwrap();
    let (x, y) = (buffer(&client, 1.), buffer(&client, 2.));
    let address = x.address().unwrap();
    let run = executable.execute(vec![vec![Argument::Donated(x), Argument::Borrowed(&y)]]).unwrap();
    assert_eq!(run.unused_donations, []);
    assert_eq!(f32_values(&run.outputs[0][0].to_vec().unwrap()), [3.; SIZE]);
    assert_eq!(run.outputs[0][0].address().unwrap(), address, "the same memory");
    assert_eq!(f32_values(&y.to_vec().unwrap()), [2.; SIZE]);
}

#[test]
fn state_can_stay_on_the_device_for_many_steps() {
    let Some(client) = cpu_client("state_can_stay_on_the_device_for_many_steps") else { return };
    let executable = client.compile(&program(true), &compile_options(1)).unwrap();
    let one = buffer(&client, 1.);
    let mut state = buffer(&client, 0.);
    let address = state.address().unwrap();
    for _ in 0..50 {
        let arguments = vec![Argument::Donated(state), Argument::Borrowed(&one)];
        let mut run = executable.execute(vec![arguments]).unwrap();
        assert_eq!(run.unused_donations, []);
        state = run.outputs.remove(0).remove(0);
    }
    assert_eq!(state.address().unwrap(), address);
    assert_eq!(f32_values(&state.to_vec().unwrap()), [50.; SIZE]);
}

/// The program asks for the input's memory, the caller does not give it.
#[test]
fn a_borrowed_buffer_is_never_written_to() {
    let Some(client) = cpu_client("a_borrowed_buffer_is_never_written_to") else { return };
    let executable = client.compile(&program(true), &compile_options(1)).unwrap();
    let (x, y) = (buffer(&client, 1.), buffer(&client, 2.));
    for _ in 0..2 {
        let run =
            executable.execute(vec![vec![Argument::Borrowed(&x), Argument::Borrowed(&y)]]).unwrap();
        assert_eq!(f32_values(&run.outputs[0][0].to_vec().unwrap()), [3.; SIZE]);
        assert_ne!(run.outputs[0][0].address().unwrap(), x.address().unwrap());
    }
    assert!(!x.is_deleted().unwrap());
    assert_eq!(f32_values(&x.to_vec().unwrap()), [1.; SIZE]);
}

/// The caller gives memory, the program has no use for it.
#[test]
fn a_donation_without_use_is_reported() {
    let Some(client) = cpu_client("a_donation_without_use_is_reported") else { return };
    let executable = client.compile(&program(false), &compile_options(1)).unwrap();
    let error = executable.check_donation((SIZE * 4) as u64).unwrap_err();
    assert!(matches!(error, Error::Donation { aliased_bytes: 0, .. }), "{error}");
    assert!(error.to_string().contains("0 of the 16384 bytes"), "{error}");
    let (x, y) = (buffer(&client, 1.), buffer(&client, 2.));
    let run = executable.execute(vec![vec![Argument::Donated(x), Argument::Borrowed(&y)]]).unwrap();
    assert_eq!(run.unused_donations, [UnusedDonation { device: 0, argument: 0 }]);
    assert_eq!(f32_values(&run.outputs[0][0].to_vec().unwrap()), [3.; SIZE]);
}

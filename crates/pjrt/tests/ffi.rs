//! A Rust function called from a compiled program.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

mod support;

use pjrt::{
    Argument, ElementType, Error, FfiAttribute, FfiAttributes, FfiBuffer, FfiBufferMut, FfiHandler,
    Plugin,
};
use support::{compile_options, cpu_client, cpu_plugin, f32_bytes, f32_values, skip};

/// `scale * x + y`, with what the attributes say.
struct ScaleAndAdd;

impl FfiHandler for ScaleAndAdd {
    fn call(
        inputs: &[FfiBuffer<'_>],
        outputs: &mut [FfiBufferMut<'_>],
        attributes: &FfiAttributes<'_>,
    ) -> Result<(), String> {
        let [x, y] = inputs else {
            return Err(format!("2 inputs are needed, not {}", inputs.len()));
        };
        let [output] = outputs else { return Err("1 output is needed".to_owned()) };
        if x.dimensions() != output.dimensions() {
            return Err("the output has other dimensions".to_owned());
        }
        let scale = attributes.float("scale")? as f32;
        if attributes.integer("count")? != 3 || attributes.string("name")? != "some text" {
            return Err("the attributes did not arrive".to_owned());
        }
        let Some(FfiAttribute::Array { element_type: ElementType::S32, bytes }) =
            attributes.get("list")
        else {
            return Err("the list did not arrive".to_owned());
        };
        if bytes.len() != 8 {
            return Err("the list is not of two numbers".to_owned());
        }
        if x.elements::<i32>().is_ok() {
            return Err("f32 was read as i32".to_owned());
        }
        let (x, y) = (x.elements::<f32>()?, y.elements::<f32>()?);
        for ((output, x), y) in output.elements::<f32>()?.iter_mut().zip(x).zip(y) {
            *output = scale * x + y;
        }
        Ok(())
    }
}

struct Fails;

impl FfiHandler for Fails {
    fn call(
        _: &[FfiBuffer<'_>],
        _: &mut [FfiBufferMut<'_>],
        _: &FfiAttributes<'_>,
    ) -> Result<(), String> {
        Err("the kernel is out of luck".to_owned())
    }
}

struct Panics;

impl FfiHandler for Panics {
    fn call(
        _: &[FfiBuffer<'_>],
        _: &mut [FfiBufferMut<'_>],
        _: &FfiAttributes<'_>,
    ) -> Result<(), String> {
        panic!("a handler that panics")
    }
}

fn program(target: &str) -> String {
    format!(
        r#"
func.func @main(%x: tensor<2x2xf32>, %y: tensor<2x2xf32>) -> tensor<2x2xf32> {{
  %sum = "stablehlo.custom_call"(%x, %y) <{{call_target_name = "{target}", api_version = 4 : i32,
    backend_config = {{scale = 2.0 : f32, count = 3 : i64, name = "some text", list = array<i32: 4, 5>}}}}>
    : (tensor<2x2xf32>, tensor<2x2xf32>) -> tensor<2x2xf32>
  "func.return"(%sum) : (tensor<2x2xf32>) -> ()
}}"#
    )
}

/// The handler's result, or the failure of compiling or running it.
fn run(test: &str, target: &str) -> Option<pjrt::Result<Vec<f32>>> {
    let client = cpu_client(test)?;
    let device = &client.addressable_devices()[0];
    let buffer = |values: [f32; 4]| {
        client.buffer_from_slice(device, &f32_bytes(&values), ElementType::F32, &[2, 2]).unwrap()
    };
    let (x, y) = (buffer([1., 2., 3., 4.]), buffer([10., 20., 30., 40.]));
    Some((|| {
        let executable = client.compile(&program(target), &compile_options(1))?;
        let run = executable.execute(vec![vec![Argument::Borrowed(&x), Argument::Borrowed(&y)]])?;
        run.wait()?;
        Ok(f32_values(&run.outputs[0][0].to_vec()?))
    })())
}

fn registered<H: FfiHandler>(test: &str, target: &str) -> Option<Plugin> {
    let plugin = cpu_plugin(test)?;
    if !plugin.has_ffi() {
        skip(test, "this plugin has no foreign function interface");
        return None;
    }
    plugin.register_ffi_handler::<H>(target, "Host").unwrap();
    Some(plugin)
}

#[test]
fn a_rust_function_runs_inside_a_program() {
    let test = "a_rust_function_runs_inside_a_program";
    let Some(_plugin) = registered::<ScaleAndAdd>(test, "fungible_test_scale_and_add") else {
        return;
    };
    let Some(result) = run(test, "fungible_test_scale_and_add") else { return };
    assert_eq!(result.unwrap(), [12., 24., 36., 48.]);
}

#[test]
fn a_handlers_error_fails_the_run() {
    let test = "a_handlers_error_fails_the_run";
    let Some(_plugin) = registered::<Fails>(test, "fungible_test_fails") else { return };
    let Some(result) = run(test, "fungible_test_fails") else { return };
    let error = result.unwrap_err();
    assert!(error.to_string().contains("out of luck"), "{error}");
}

#[test]
fn a_handlers_panic_fails_the_run() {
    let test = "a_handlers_panic_fails_the_run";
    let Some(_plugin) = registered::<Panics>(test, "fungible_test_panics") else { return };
    let Some(result) = run(test, "fungible_test_panics") else { return };
    let error = result.unwrap_err();
    assert!(error.to_string().contains("panicked"), "{error}");
}

/// `x + y`, into the memory of `x` where the program says so.
struct AddInPlace;

impl FfiHandler for AddInPlace {
    fn call(
        inputs: &[FfiBuffer<'_>],
        outputs: &mut [FfiBufferMut<'_>],
        _: &FfiAttributes<'_>,
    ) -> Result<(), String> {
        let ([x, y], [output]) = (inputs, outputs) else { return Err("2 and 1".to_owned()) };
        if !x.is_in_place() || y.is_in_place() || !x.bytes().is_empty() {
            return Err("x should be in place, and y not".to_owned());
        }
        let refused = x.elements::<f32>().unwrap_err();
        if !refused.contains("in whose place") || x.dimensions() != output.dimensions() {
            return Err(refused);
        }
        for (output, y) in output.elements::<f32>()?.iter_mut().zip(y.elements::<f32>()?) {
            *output += y;
        }
        Ok(())
    }
}

#[test]
fn an_output_can_be_an_inputs_memory() {
    const TARGET: &str = "fungible_test_in_place";
    let test = "an_output_can_be_an_inputs_memory";
    let Some(_plugin) = registered::<AddInPlace>(test, TARGET) else { return };
    let Some(client) = cpu_client(test) else { return };
    let device = &client.addressable_devices()[0];
    let buffer = |values: [f32; 4]| {
        client.buffer_from_slice(device, &f32_bytes(&values), ElementType::F32, &[2, 2]).unwrap()
    };
    let alias = "output_operand_aliases = [#stablehlo.output_operand_alias<output_tuple_indices = [], operand_index = 0, operand_tuple_indices = []>], call_target_name";
    let in_place = program(TARGET).replace("call_target_name", alias);
    // Donated, so that nothing needs to be copied first; and borrowed, so that it does.
    let donates = in_place
        .replace("%x: tensor<2x2xf32>,", "%x: tensor<2x2xf32> {tf.aliasing_output = 0 : i32},");
    let executable = client.compile(&donates, &compile_options(1)).unwrap();
    let (x, y) = (buffer([1., 2., 3., 4.]), buffer([10., 20., 30., 40.]));
    let run = executable.execute(vec![vec![Argument::Donated(x), Argument::Borrowed(&y)]]).unwrap();
    run.wait().unwrap();
    assert_eq!(f32_values(&run.outputs[0][0].to_vec().unwrap()), [11., 22., 33., 44.]);

    let executable = client.compile(&in_place, &compile_options(1)).unwrap();
    let x = buffer([1., 2., 3., 4.]);
    for second in [&y, &x] {
        let arguments = vec![vec![Argument::Borrowed(&x), Argument::Borrowed(second)]];
        let run = executable.execute(arguments).unwrap();
        run.wait().unwrap();
        let output = f32_values(&run.outputs[0][0].to_vec().unwrap());
        let second = f32_values(&second.to_vec().unwrap());
        assert_eq!(
            output,
            [1., 2., 3., 4.].iter().zip(second).map(|(x, y)| x + y).collect::<Vec<_>>()
        );
    }
    assert_eq!(f32_values(&x.to_vec().unwrap()), [1., 2., 3., 4.]);
}

#[test]
fn handlers_are_for_host_memory_only() {
    let Some(plugin) = cpu_plugin("handlers_are_for_host_memory_only") else { return };
    let refused = plugin.register_ffi_handler::<Fails>("fungible_test_cuda", "CUDA");
    assert!(matches!(refused, Err(Error::InvalidInput { .. })));
}

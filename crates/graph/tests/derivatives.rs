//! Every operation's derivative, from its samples, against central differences of the reference.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use graph::{
    DType, Evaluator, Function, Graph, Kernels, Literal, Role, Sample, Shape, ops, output,
};

/// Half the distance of the two points of a difference: large enough that f32's rounding stays small
/// beside it.
const STEP: f64 = 1.0 / 512.0;

/// Operations that say that they have no derivative, as their messages begin.
const WITHOUT: [&str; 9] = [
    "while: has no derivative",
    "custom_call: has no derivative",
    "attention: has no derivative: keys in pages",
    "attention_gradient: has no derivative",
    "cross_entropy_gradient: has no derivative",
    "rms_norm: has no derivative",
    "write_pages: has no derivative: pages are for serving",
    "panel_product: has no derivative: matrices in panels are for serving",
    "panel_rows: has no derivative: matrices in panels are for serving",
];

/// Samples whose results are steps of their operands in f32, so that differences say nothing.
const STEPS: [&str; 8] = [
    "sign",
    "floor",
    "ceil",
    "round_nearest_even",
    "convert",
    "convert_whole",
    "argmax",
    "bitcast_convert",
];

fn correct_uses() -> impl Iterator<Item = Sample> {
    ops::samples().into_iter().filter(|sample| sample.error.is_none())
}

fn run(function: &Function, arguments: &[Literal]) -> Vec<Literal> {
    Evaluator::new(function, &Kernels::default()).main(arguments)
}

#[test]
fn every_derivative_agrees_with_differences() {
    let (mut checked, mut kinks, mut failures) = (0, 0, Vec::new());
    let mut without = BTreeSet::new();
    for sample in correct_uses().filter(|sample| !STEPS.contains(&sample.name)) {
        let (function, places) = match sample.trace_gradients() {
            Ok(traced) => traced,
            Err(error) => {
                let text = error.to_string();
                let known = WITHOUT.iter().find(|known| text.starts_with(**known));
                without.insert(*known.unwrap_or_else(|| panic!("{}: {text}", sample.name)));
                continue;
            }
        };
        let arguments = sample.arguments();
        let results = run(&function, &arguments);
        let value = sample.trace_value().unwrap();
        for (&place, gradient) in places.iter().zip(&results[1..]) {
            assert_eq!(gradient.shape, arguments[place].shape, "{}", sample.name);
            for (element, &found) in gradient.values.iter().enumerate() {
                checked += 1;
                let at = |step: f64| {
                    let mut moved = arguments.clone();
                    let argument = &mut moved[place].values[element];
                    *argument = f64::from((*argument + step) as f32);
                    (*argument, run(&value, &moved)[0].values[0])
                };
                let ((high, above), (middle, here), (low, below)) = (at(STEP), at(0.0), at(-STEP));
                let expected = (above - below) / (high - low);
                // A kink between the points: sorting swaps two elements, `abs` turns around.
                let (right, left) =
                    ((above - here) / (high - middle), (here - below) / (middle - low));
                if (right - left).abs() > 0.02 * (1.0 + expected.abs()) {
                    kinks += 1;
                    continue;
                }
                if (found - expected).abs() > 5e-3 * (1.0 + expected.abs()) {
                    failures.push(format!(
                        "{}, operand {place}, element {element}: {found} instead of {expected}",
                        sample.name
                    ));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} of {checked}:\n{}", failures.len(), failures.join("\n"));
    assert!(checked > 1000, "only {checked} elements were compared");
    assert!(kinks * 50 < checked, "{kinks} of {checked} elements have a kink near them");
    assert_eq!(without.len(), WITHOUT.len(), "{without:?}");
}

#[test]
fn steps_have_derivatives_of_zero() {
    for sample in correct_uses().filter(|sample| STEPS.contains(&sample.name)) {
        if sample.name.starts_with("convert") {
            continue;
        }
        let (function, _) = sample.trace_gradients().unwrap();
        let results = run(&function, &sample.arguments());
        for gradient in &results[1..] {
            assert!(gradient.values.iter().all(|&value| value == 0.0), "{}", sample.name);
        }
    }
}

fn vector(size: usize) -> Shape {
    Shape::new(DType::F32, &[("a", size)])
}

#[test]
fn conversions_pass_cotangents_through() {
    let graph = Graph::new();
    let x = graph.input("x", Role::Activation, vector(2));
    let (_, gradients) = graph.value_and_gradients(
        || {
            let rounded = x.convert(DType::Bf16).convert(DType::F32);
            let whole = x.convert_whole(DType::Bf16).convert(DType::F32);
            let steps = x.convert(DType::S32).convert(DType::F32);
            vec![(rounded * 3.0 + whole * 4.0 + steps).sum(&["a"])]
        },
        || vec![x],
    );
    let function = graph.finish(vec![output("dx", gradients[0])]).unwrap();
    let result = run(&function, &[Literal::new(vector(2), vec![0.3, -7.0])]);
    assert_eq!(result[0].values, [7.0, 7.0]);
}

#[test]
fn what_the_value_does_not_depend_on_has_a_gradient_of_zeros() {
    let graph = Graph::new();
    let x = graph.input("x", Role::Activation, vector(3));
    let unused = graph.input("unused", Role::Activation, vector(2));
    let (_, gradients) = graph.value_and_gradients(|| vec![(x * x).sum(&["a"])], || vec![unused]);
    let function = graph.finish(vec![output("gradient", gradients[0])]).unwrap();
    let arguments = [vec![1.0; 3], vec![1.0; 2]].map(|v| Literal::new(vector(v.len()), v));
    assert_eq!(run(&function, &arguments)[0].values, [0.0, 0.0]);
}

#[test]
fn only_a_scalar_has_a_gradient() {
    let graph = Graph::new();
    let x = graph.input("x", Role::Activation, vector(3));
    let (_, gradients) = graph.value_and_gradients(|| vec![x * x], || vec![x]);
    let error = graph.finish(vec![output("gradient", gradients[0])]).unwrap_err().to_string();
    assert!(
        error.starts_with("gradient: the first result is not a floating-point scalar"),
        "{error}"
    );
}

/// The gradient of a stack of layers is one scan more, and what it keeps is the layers' inputs.
#[test]
fn the_gradient_of_a_scan_is_a_scan() {
    let graph = Graph::new();
    let x = graph.input("x", Role::Activation, Shape::new(DType::F32, &[("embed", 4)]));
    let weights = Shape::new(DType::F32, &[("layers", 3), ("out", 4), ("embed", 4)]);
    let weights = graph.input("weights", Role::Parameter, weights);
    let (_, gradients) = graph.value_and_gradients(
        || {
            let (last, _) = graph.scan("layers", 3, &[x], &[weights], 0, |_, carry, slices| {
                let layer = graph.checkpoint(ops::Remat::Full, carry, |carry| {
                    let mixed = carry[0].dot(slices[0], &["embed"]).rename("out", "embed");
                    vec![carry[0] + mixed.tanh()]
                });
                (layer, Vec::new())
            });
            vec![(last[0] * last[0]).sum(&["embed"])]
        },
        || vec![weights],
    );
    let function = graph.finish(vec![output("gradient", gradients[0])]).unwrap();
    let program = function.program("gradient", &graph::EmitOptions::default());
    let text = program.text_without_locations;
    assert_eq!(text.matches("stablehlo.while").count(), 2, "{text}");
    // The way forward keeps one stack: three inputs of four numbers.
    assert!(text.contains("tensor<3x4xf32>"), "{text}");
    assert_eq!(text.matches("\"stablehlo.dot_general\"").count(), 4, "{text}");
    assert!(text.contains("stablehlo.optimization_barrier"), "{text}");
}

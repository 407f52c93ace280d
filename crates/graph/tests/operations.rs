//! Tests derived from every operation's samples: the emitted text is pinned, misuse gives the
//! promised message, and the reference has the shapes that the trace says.

#![allow(clippy::unwrap_used, reason = "a test that cannot read its own sources has failed")]

use std::collections::BTreeSet;

use graph::{EmitOptions, Evaluator, Graph, Kernels, Literal, Role, Sample, output};

fn correct_uses() -> impl Iterator<Item = Sample> {
    graph::ops::samples().into_iter().filter(|sample| sample.error.is_none())
}

#[test]
fn emitted_text() {
    for sample in correct_uses() {
        let function = sample.trace().unwrap_or_else(|error| panic!("{}: {error}", sample.name));
        let text = function.program("sample", &EmitOptions::default()).text_without_locations;
        insta::assert_snapshot!(sample.name.replace(' ', "_"), text);
    }
}

#[test]
fn misuse_is_an_error_that_says_what_and_where() {
    for sample in graph::ops::samples() {
        let Some(expected) = sample.error else { continue };
        let error = match sample.trace() {
            Ok(_) => panic!("{} was accepted", sample.name),
            Err(error) => error.to_string(),
        };
        assert!(error.starts_with(expected), "{}:\n{error}\nexpected:\n{expected}", sample.name);
        assert!(error.contains("src/ops/"), "{error} does not name the caller's line");
    }
}

#[test]
fn reference_gives_the_traced_shapes() {
    for sample in correct_uses() {
        let function = sample.trace().unwrap_or_else(|error| panic!("{}: {error}", sample.name));
        let operands: Vec<Literal> = sample.arguments();
        let kernels = Kernels::default();
        let results = Evaluator::new(&function, &kernels).main(&operands);
        let shapes: Vec<_> = results.iter().map(|literal| literal.shape.clone()).collect();
        assert_eq!(shapes, function.result_shapes(), "{}", sample.name);
        assert!(results.iter().all(|literal| literal.values.len() == literal.shape.elements()));
    }
}

/// Every operation that a trace can hold appears in at least one sample.
#[test]
fn every_operation_has_a_sample() {
    let seen: BTreeSet<&str> = correct_uses()
        .filter_map(|sample| sample.trace().ok())
        .flat_map(|function| function.operation_names())
        .collect();
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ops");
    let mut declared = BTreeSet::new();
    collect_names(&source, &mut declared);
    assert!(declared.len() > 15, "found only {declared:?}");
    let missing: Vec<_> = declared.iter().filter(|name| !seen.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "no sample uses {missing:?}");
}

/// The literal names that `fn name` returns in the sources of the operations.
fn collect_names(folder: &std::path::Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect_names(&path, names);
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if line.contains("fn name(&self) -> &'static str {")
                && let Some(name) = lines.next().map(str::trim)
                && name.starts_with('"')
            {
                names.insert(name.trim_matches('"').to_string());
            }
        }
    }
}

#[test]
fn locations_name_the_parameter_path_and_the_source_line() {
    let graph = Graph::new();
    let shape = graph::Shape::new(graph::DType::F32, &[("embed", 4)]);
    let x = graph.input("model.norm.weight", Role::Parameter, shape);
    let y = graph.scope("model", || graph.scope("norm", || x * x));
    let function = graph.finish(vec![output("y", y)]).unwrap();
    let text = function.program("located", &EmitOptions::default()).text;
    assert!(text.contains("loc(\"model.norm.weight\")"), "{text}");
    assert!(text.contains("loc(\"model.norm\"(\"crates/graph/tests/operations.rs\":"), "{text}");
}

#[test]
fn an_error_stops_at_the_first_and_names_the_path() {
    let graph = Graph::new();
    let shape = |axis, size| graph::Shape::new(graph::DType::F32, &[(axis, size)]);
    let x = graph.input("x", Role::Activation, shape("embed", 4));
    let w = graph.input("w", Role::Parameter, shape("embed", 5));
    let y = graph.scope("layers.0", || graph.scope("mlp", || x.dot(w, &["embed"])));
    let later = (y + x).sum(&["nothing"]);
    let error = graph.finish(vec![output("y", later)]).unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("dot_general: axis `embed` is 4 on the left, 5 on the right"),
        "{text}"
    );
    assert!(text.contains("in layers.0.mlp, at crates/graph/tests/operations.rs:"), "{text}");
}

//! Programs by hand, and folders that go away.

#![allow(dead_code, unused_imports, reason = "each test file uses a part")]

#[path = "../../../../tests/support/mod.rs"]
pub mod shared;

use std::path::PathBuf;

use graph::{DType, Input, Mesh, Output, Program, Role, Shape, Sharding};
use runtime::CacheFolder;
pub use shared::{Test, run_all};

/// A folder that goes away with the test.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("fungible-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub fn path(&self) -> &std::path::Path {
        &self.0
    }

    pub fn cache(&self) -> CacheFolder {
        CacheFolder::at(&self.0)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn sharding(dimensions: &[&[&str]]) -> Sharding {
    let names = |axes: &&[&str]| axes.iter().map(ToString::to_string).collect();
    Sharding { dimensions: dimensions.iter().map(names).collect() }
}

fn input(name: &str, shape: Shape, sharding: Sharding, donated_to: Option<usize>) -> Input {
    Input { name: name.to_string(), shape, role: Role::Activation, sharding, donated_to }
}

/// `x + y`, where `x` is donated to the sum.
pub fn add(elements: usize) -> Program {
    let shape = Shape::new(DType::F32, &[("embed", elements)]);
    let kind = shape.mlir();
    let text = format!(
        r#"module @add attributes {{mhlo.num_partitions = 1 : i32, mhlo.num_replicas = 1 : i32}} {{
  func.func public @main(%x: {kind} {{tf.aliasing_output = 0 : i32}}, %y: {kind}) -> {kind} {{
    %0 = "stablehlo.add"(%x, %y) : ({kind}, {kind}) -> {kind}
    "func.return"(%0) : ({kind}) -> ()
  }}
}}"#
    );
    Program {
        name: "add".to_string(),
        text_without_locations: text.clone(),
        text,
        mesh: Mesh::single(),
        inputs: vec![
            input("x", shape.clone(), Sharding::replicated(1), Some(0)),
            input("y", shape.clone(), Sharding::replicated(1), None),
        ],
        outputs: vec![Output {
            name: "sum".to_string(),
            shape,
            role: Role::Activation,
            sharding: Sharding::replicated(1),
        }],
    }
}

/// The sum of numbers that are spread over `data`, which every device has in the end.
pub fn sum(mesh: &Mesh, elements: usize) -> Program {
    let x = Shape::new(DType::F32, &[("batch", elements)]);
    let axes: Vec<String> =
        mesh.axes.iter().map(|(name, size)| format!("\"{name}\"={size}")).collect();
    let text = format!(
        r#"module @sum attributes {{mhlo.num_partitions = {devices} : i32, mhlo.num_replicas = 1 : i32}} {{
  sdy.mesh @mesh = <[{axes}]>
  func.func public @main(%x: {x} {{sdy.sharding = #sdy.sharding<@mesh, [{{"data"}}]>}}) -> (tensor<f32> {{sdy.sharding = #sdy.sharding<@mesh, []>}}) {{
    %zero = "stablehlo.constant"() {{value = dense<0.0> : tensor<f32>}} : () -> tensor<f32>
    %0 = "stablehlo.reduce"(%x, %zero) ({{
      ^bb0(%a: tensor<f32>, %b: tensor<f32>):
        %1 = "stablehlo.add"(%a, %b) : (tensor<f32>, tensor<f32>) -> tensor<f32>
        "stablehlo.return"(%1) : (tensor<f32>) -> ()
    }}) {{dimensions = array<i64: 0>}} : ({x}, tensor<f32>) -> tensor<f32>
    "func.return"(%0) : (tensor<f32>) -> ()
  }}
}}"#,
        devices = mesh.devices(),
        axes = axes.join(", "),
        x = x.mlir(),
    );
    Program {
        name: "sum".to_string(),
        text_without_locations: text.clone(),
        text,
        mesh: mesh.clone(),
        inputs: vec![input("x", x, sharding(&[&["data"]]), None)],
        outputs: vec![Output {
            name: "sum".to_string(),
            shape: Shape::new(DType::F32, &[]),
            role: Role::Activation,
            sharding: Sharding::replicated(0),
        }],
    }
}

/// `x · w` with the batch over `data` and the result's `mlp` over `tensor`, so that every device
/// computes a block of the result.
pub fn matmul(mesh: &Mesh, batch: usize, embed: usize, mlp: usize) -> Program {
    let x = Shape::new(DType::F32, &[("batch", batch), ("embed", embed)]);
    let w = Shape::new(DType::F32, &[("mlp", mlp), ("embed", embed)]);
    let y = Shape::new(DType::F32, &[("batch", batch), ("mlp", mlp)]);
    let (xs, ws, ys) = (
        sharding(&[&["data"], &[]]),
        sharding(&[&["tensor"], &[]]),
        sharding(&[&["data"], &["tensor"]]),
    );
    let axes: Vec<String> =
        mesh.axes.iter().map(|(name, size)| format!("\"{name}\"={size}")).collect();
    let text = format!(
        r#"module @matmul attributes {{mhlo.num_partitions = {devices} : i32, mhlo.num_replicas = 1 : i32}} {{
  sdy.mesh @mesh = <[{axes}]>
  func.func public @main(%x: {x} {{sdy.sharding = #sdy.sharding<@mesh, [{{"data"}}, {{}}]>}}, %w: {w} {{sdy.sharding = #sdy.sharding<@mesh, [{{"tensor"}}, {{}}]>}}) -> ({y} {{sdy.sharding = #sdy.sharding<@mesh, [{{"data"}}, {{"tensor"}}]>}}) {{
    %0 = "stablehlo.dot_general"(%x, %w) {{dot_dimension_numbers = #stablehlo.dot<lhs_contracting_dimensions = [1], rhs_contracting_dimensions = [1]>}} : ({x}, {w}) -> {y}
    "func.return"(%0) : ({y}) -> ()
  }}
}}"#,
        devices = mesh.devices(),
        axes = axes.join(", "),
        x = x.mlir(),
        w = w.mlir(),
        y = y.mlir(),
    );
    Program {
        name: "matmul".to_string(),
        text_without_locations: text.clone(),
        text,
        mesh: mesh.clone(),
        inputs: vec![input("x", x, xs, None), input("w", w, ws, None)],
        outputs: vec![Output {
            name: "y".to_string(),
            shape: y,
            role: Role::Activation,
            sharding: ys,
        }],
    }
}

pub fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub fn floats(bytes: &[u8]) -> Vec<f32> {
    let (values, _) = bytes.as_chunks::<4>();
    values.iter().map(|value| f32::from_le_bytes(*value)).collect()
}

//! Programs as pure data: tensors with named axes, traced operations, sharding, and StableHLO text.
//!
//! No I/O, no device, no plugin: `runtime` takes a [`Program`] from here and does the rest.
//!
//! ```
//! use graph::{DType, EmitOptions, Graph, Role, Shape, output};
//!
//! let graph = Graph::new();
//! let x = graph.input("x", Role::Activation, Shape::new(DType::F32, &[("seq", 4), ("embed", 8)]));
//! let w = graph.input("w", Role::Parameter, Shape::new(DType::F32, &[("mlp", 16), ("embed", 8)]));
//! let y = x.dot(w, &["embed"]).silu();
//! let function = graph.finish(vec![output("y", y)])?;
//! let program = function.program("example", &EmitOptions::default());
//! assert!(program.text.contains("stablehlo.dot_general"));
//! # Ok::<(), graph::TraceError>(())
//! ```

mod autodiff;
pub mod dtype;
mod emit;
mod error;
mod evaluate;
mod graph;
mod kernels;
mod literal;
mod operation;
pub mod ops;
pub mod program;
pub mod shape;
pub mod sharding;

pub use dtype::DType;
pub use emit::EmitOptions;
pub use error::{ShapeError, TraceError};
pub use evaluate::Evaluator;
pub use graph::{Function, Graph, NamedResult, Tensor, output};
pub use kernels::{AttentionKernel, Blocks, Kernels, QuantizedKernel, VocabularyBlocks};
pub use literal::Literal;
pub use operation::{Build, Fill, Sample};
pub use program::{Input, Output, Program};
pub use shape::{Axis, Shape};
pub use sharding::{Mesh, Role, Sharding, ShardingRules};

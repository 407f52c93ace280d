//! A finished program: its StableHLO text and what goes in and comes out. This is all that the
//! runtime needs to know of a graph.

use crate::shape::Shape;
use crate::sharding::{Mesh, Role, Sharding};

/// One argument of the program.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// A checkpoint path for parameters (`model.norm.weight`), else a plain name (`token_ids`).
    pub name: String,
    pub shape: Shape,
    pub role: Role,
    pub sharding: Sharding,
    /// The output that takes over this argument's memory.
    pub donated_to: Option<usize>,
}

/// One result of the program.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    pub name: String,
    pub shape: Shape,
    pub role: Role,
    pub sharding: Sharding,
}

#[derive(Clone, Debug)]
pub struct Program {
    /// The module's name, for people and profiles.
    pub name: String,
    /// StableHLO with a location (parameter path, source line) on every operation.
    pub text: String,
    /// The same without locations: what a cache may use as a key, since moving a line of model
    /// code does not change what is computed.
    pub text_without_locations: String,
    pub mesh: Mesh,
    pub inputs: Vec<Input>,
    pub outputs: Vec<Output>,
}

impl Program {
    /// Bytes of one device's share of the donated arguments: what the compiled program must alias.
    pub fn donated_bytes_per_device(&self) -> usize {
        let donated = self.inputs.iter().filter(|input| input.donated_to.is_some());
        donated
            .map(|input| {
                let pieces: usize = input.sharding.pieces(&self.mesh).iter().product();
                input.shape.bytes() / pieces.max(1)
            })
            .sum()
    }
}

//! How tensors are laid out over a mesh of devices. Rules speak of logical axes (`embed`, `heads`)
//! and are resolved per tensor into mesh axes (`data`, `tensor`). Knows no device.

use std::fmt;

use crate::shape::{Axis, Shape};

/// A grid of devices with named axes, outermost first. Device ids count row-major through it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mesh {
    pub axes: Vec<(String, usize)>,
}

impl Mesh {
    pub fn new(axes: &[(&str, usize)]) -> Mesh {
        Mesh { axes: axes.iter().map(|&(name, size)| (name.to_string(), size)).collect() }
    }

    /// One device.
    pub fn single() -> Mesh {
        Mesh { axes: Vec::new() }
    }

    pub fn devices(&self) -> usize {
        self.axes.iter().map(|(_, size)| size).product()
    }

    pub fn size(&self, axis: &str) -> Option<usize> {
        self.axes.iter().find(|(name, _)| name == axis).map(|&(_, size)| size)
    }

    /// `sdy.mesh` takes this between angle brackets.
    pub(crate) fn sdy(&self) -> String {
        let axes: Vec<String> =
            self.axes.iter().map(|(name, size)| format!("\"{name}\"={size}")).collect();
        format!("[{}]", axes.join(", "))
    }
}

impl fmt::Display for Mesh {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.axes.is_empty() {
            return formatter.write_str("one device");
        }
        let axes: Vec<String> =
            self.axes.iter().map(|(name, size)| format!("{name}={size}")).collect();
        formatter.write_str(&axes.join(","))
    }
}

/// What a tensor is to the program; each role has its own table of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    Parameter,
    OptimizerState,
    Activation,
    KvCache,
    /// What an algorithm needs whole, matrix by matrix: other layers may be elsewhere.
    Gathered,
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Role::Parameter => "parameter",
            Role::OptimizerState => "optimizer state",
            Role::Activation => "activation",
            Role::KvCache => "kv cache",
            Role::Gathered => "gathered",
        })
    }
}

/// For each dimension of one tensor, the mesh axes it is split over (none: replicated), major first.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Sharding {
    pub dimensions: Vec<Vec<String>>,
}

impl Sharding {
    pub fn replicated(rank: usize) -> Sharding {
        Sharding { dimensions: vec![Vec::new(); rank] }
    }

    pub fn is_replicated(&self) -> bool {
        self.dimensions.iter().all(Vec::is_empty)
    }

    /// Into how many pieces each dimension is cut.
    pub fn pieces(&self, mesh: &Mesh) -> Vec<usize> {
        let pieces = |axes: &Vec<String>| axes.iter().filter_map(|axis| mesh.size(axis)).product();
        self.dimensions.iter().map(pieces).collect()
    }

    pub(crate) fn sdy(&self) -> String {
        let dimensions: Vec<String> = self
            .dimensions
            .iter()
            .map(|axes| {
                let axes: Vec<String> = axes.iter().map(|axis| format!("\"{axis}\"")).collect();
                format!("{{{}}}", axes.join(", "))
            })
            .collect();
        format!("#sdy.sharding<@mesh, [{}]>", dimensions.join(", "))
    }
}

/// A logical axis and the mesh axes that it goes over, major first.
pub type AxisRule = (Axis, Vec<String>);

/// For each role, in order of preference, which logical axis goes over which mesh axes.
///
/// A rule applies to a tensor when the mesh has the axis, no earlier rule gave that mesh axis to
/// the same tensor, and the axis's size is divisible by the pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardingRules {
    pub rules: Vec<(Role, Vec<AxisRule>)>,
}

impl ShardingRules {
    /// The usual layout of a transformer: `data` splits the batch, `tensor` splits heads, the
    /// hidden layer and the vocabulary, `fsdp` splits weights along `embed` and the batch.
    pub fn transformer() -> ShardingRules {
        let table = |rows: &[(Axis, &[&str])]| -> Vec<AxisRule> {
            let owned = |axes: &[&str]| axes.iter().map(ToString::to_string).collect();
            rows.iter().map(|&(axis, mesh_axes)| (axis, owned(mesh_axes))).collect()
        };
        let weights: &[(Axis, &[&str])] = &[
            ("kv_heads", &["tensor"]),
            ("group", &["tensor"]),
            ("mlp", &["tensor"]),
            ("vocab", &["tensor"]),
            ("experts", &["expert"]),
            ("embed", &["fsdp"]),
        ];
        let values: &[(Axis, &[&str])] = &[
            ("batch", &["data", "fsdp"]),
            ("kv_heads", &["tensor"]),
            ("group", &["tensor"]),
            ("mlp", &["tensor"]),
            ("vocab", &["tensor"]),
            ("experts", &["expert"]),
        ];
        ShardingRules {
            rules: vec![
                (Role::Parameter, table(weights)),
                (Role::OptimizerState, table(weights)),
                (Role::Activation, table(values)),
                (Role::KvCache, table(values)),
                (Role::Gathered, table(&[("layers", &["fsdp", "data", "tensor"])])),
            ],
        }
    }

    /// The layout of one tensor. A rule that does not divide the axis is left out, so that a model
    /// with 3 key/value heads still runs where 8 chips split its hidden layer.
    pub fn resolve(&self, role: Role, shape: &Shape, mesh: &Mesh) -> Sharding {
        let mut sharding = Sharding::replicated(shape.rank());
        let mut used: Vec<&str> = Vec::new();
        let rows = self.rules.iter().filter(|(of, _)| *of == role).flat_map(|(_, rows)| rows);
        for (axis, mesh_axes) in rows {
            let Some(position) = shape.position(axis) else { continue };
            let mut pieces = sharding.pieces(mesh)[position];
            for mesh_axis in mesh_axes {
                let Some(size) = mesh.size(mesh_axis) else { continue };
                let free = !used.contains(&mesh_axis.as_str());
                if size > 1 && free && shape.axes[position].1.is_multiple_of(pieces * size) {
                    sharding.dimensions[position].push(mesh_axis.clone());
                    used.push(mesh_axis);
                    pieces *= size;
                }
            }
        }
        sharding
    }
}

impl fmt::Display for ShardingRules {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (role, rows) in &self.rules {
            writeln!(formatter, "{role}")?;
            for (axis, mesh_axes) in rows {
                writeln!(formatter, "  {axis:<10} over {}", mesh_axes.join(", "))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;

    fn layout(role: Role, axes: &[(Axis, usize)], mesh: &Mesh) -> String {
        let shape = Shape::new(DType::F32, axes);
        ShardingRules::transformer().resolve(role, &shape, mesh).sdy()
    }

    #[test]
    fn weights_and_batch_share_the_fsdp_axis() {
        let mesh = Mesh::new(&[("data", 2), ("fsdp", 2), ("tensor", 2)]);
        let weight = layout(Role::Parameter, &[("mlp", 16), ("embed", 8)], &mesh);
        assert_eq!(weight, "#sdy.sharding<@mesh, [{\"tensor\"}, {\"fsdp\"}]>");
        let value = layout(Role::Activation, &[("batch", 4), ("seq", 8), ("embed", 8)], &mesh);
        assert_eq!(value, "#sdy.sharding<@mesh, [{\"data\", \"fsdp\"}, {}, {}]>");
    }

    #[test]
    fn an_axis_that_does_not_divide_stays_whole() {
        let mesh = Mesh::new(&[("tensor", 8)]);
        let weight = layout(Role::Parameter, &[("kv_heads", 3), ("embed", 576)], &mesh);
        assert_eq!(weight, "#sdy.sharding<@mesh, [{}, {}]>");
    }

    #[test]
    fn a_mesh_axis_is_used_once_per_tensor() {
        let mesh = Mesh::new(&[("tensor", 2)]);
        let value = layout(Role::Activation, &[("kv_heads", 4), ("heads", 4)], &mesh);
        assert_eq!(value, "#sdy.sharding<@mesh, [{\"tensor\"}, {}]>");
    }
}

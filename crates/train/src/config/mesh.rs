//! Whether a mesh can hold a model and a batch, and which meshes would. The program would run with
//! whatever does not divide left whole (`graph::ShardingRules`), but on devices that all do the same
//! work: not what whoever asks for a mesh wants.

use graph::Mesh;
use llm::ModelConfig;

use super::check::either;
use super::sections::MeshAxes;

/// A mesh that the model or the batch cannot be split over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MeshError {
    #[error("the mesh has an axis `{axis}`, which training does not know: {hint}")]
    UnknownAxis { axis: String, hint: &'static str },
    #[error(
        "mesh axis `{axis}` = {size} does not divide {what}: `{axis}` could be {sizes}{meshes}"
    )]
    DoesNotDivide { axis: String, size: usize, what: String, sizes: String, meshes: String },
    #[error("the mesh has more devices than can be counted")]
    TooLarge,
}

impl MeshAxes {
    /// The mesh without the axes of size 1, outermost first: `tensor` is innermost, where links are
    /// fastest.
    pub fn to_mesh(&self) -> Mesh {
        let axes = [("data", self.data), ("fsdp", self.fsdp), ("tensor", self.tensor)];
        Mesh::new(&axes.into_iter().filter(|&(_, size)| size > 1).collect::<Vec<_>>())
    }
}

/// Sizes of the axes `data`, `fsdp`, `tensor`.
type Sizes = [usize; 3];

const NAMES: [&str; 3] = ["data", "fsdp", "tensor"];

/// Checks a mesh against a model and the number of sequences computed at once (`batch_size /
/// accumulation`). `data` times `fsdp` must divide the sequences; `fsdp` the width of the model;
/// `tensor` its heads and the hidden layer of its MLP. A vocabulary that `tensor` does not divide is
/// left whole, since vocabularies are what they are.
///
/// # Errors
/// [`MeshError`], with the sizes and the meshes of as many devices that would do.
pub fn check_mesh(mesh: &Mesh, model: &ModelConfig, sequences: usize) -> Result<(), MeshError> {
    let mut sizes = [1; 3];
    let mut devices: usize = 1;
    for (axis, size) in &mesh.axes {
        let Some(index) = NAMES.iter().position(|name| name == axis) else {
            let hint = match axis.as_str() {
                "expert" => {
                    "expert parallelism is not supported; the axes are data, fsdp and tensor"
                }
                _ => "the axes are data, fsdp and tensor",
            };
            return Err(MeshError::UnknownAxis { axis: axis.clone(), hint });
        };
        sizes[index] = *size;
        devices = devices.checked_mul(*size).ok_or(MeshError::TooLarge)?;
    }
    let Some((index, what)) = misfit(sizes, model, sequences) else { return Ok(()) };
    let fits = |size: usize| {
        let mut other = sizes;
        other[index] = size;
        misfit(other, model, sequences).is_none_or(|(at, _)| at != index)
    };
    let candidates: Vec<usize> =
        (1..=largest(model, sequences)).filter(|&size| fits(size)).collect();
    Err(MeshError::DoesNotDivide {
        axis: NAMES[index].to_string(),
        size: sizes[index],
        what,
        sizes: either(&candidates),
        meshes: meshes_of(devices, model, sequences),
    })
}

/// The first axis whose size does not do, and what it does not divide.
fn misfit(
    [data, fsdp, tensor]: Sizes,
    model: &ModelConfig,
    sequences: usize,
) -> Option<(usize, String)> {
    let (groups, per_group) = (model.num_key_value_heads, model.query_heads_per_group());
    let heads = groups.is_multiple_of(tensor) || per_group.is_multiple_of(tensor);
    let computed = format!("the {sequences} sequences computed at once");
    if !heads {
        return Some((
            2,
            format!(
                "the heads: neither {groups} key/value heads nor {per_group} query heads for each"
            ),
        ));
    }
    if !model.intermediate_size.is_multiple_of(tensor) {
        return Some((2, format!("the MLP's hidden layer of {}", model.intermediate_size)));
    }
    if !model.hidden_size.is_multiple_of(fsdp) {
        return Some((1, format!("the model's width of {}", model.hidden_size)));
    }
    if !sequences.is_multiple_of(fsdp) {
        return Some((1, computed));
    }
    let rows = sequences / fsdp;
    (!rows.is_multiple_of(data)).then(|| {
        let what = match fsdp {
            1 => computed,
            _ => format!("the {rows} sequences that each of fsdp = {fsdp} computes at once"),
        };
        (0, what)
    })
}

/// No axis can be larger than what it divides.
fn largest(model: &ModelConfig, sequences: usize) -> usize {
    sequences.max(model.num_attention_heads).min(1 << 16)
}

/// Meshes of so many devices that fit, the fewest tensor pieces first.
fn meshes_of(devices: usize, model: &ModelConfig, sequences: usize) -> String {
    let mut found = Vec::new();
    let dividing =
        |number: usize| (1..=number.min(1 << 16)).filter(move |&d| number.is_multiple_of(d));
    for tensor in dividing(devices) {
        for fsdp in dividing(devices / tensor) {
            let sizes = [devices / tensor / fsdp, fsdp, tensor];
            if misfit(sizes, model, sequences).is_none() {
                let [data, fsdp, tensor] = sizes;
                found.push(MeshAxes { data, fsdp, tensor }.to_mesh().to_string());
            }
        }
    }
    let more = if found.len() > 6 { " and others" } else { "" };
    found.truncate(6);
    match found.as_slice() {
        [] => format!("; no mesh of {devices} devices would do"),
        found => format!("; meshes of {devices} devices that would do: {}{more}", found.join("; ")),
    }
}

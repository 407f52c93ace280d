//! Muon: momentum, then the nearest matrix whose singular values are all about 1 (Jordan et al., 2024,
//! <https://kellerjordan.github.io/posts/muon>), with the scale that lets it share AdamW's learning
//! rate ("Muon is scalable for LLM training", Liu et al., 2025).

use graph::{Axis, DType, Role, Tensor};
use llm::models::ParameterSpec;

use super::Settings;

/// A singular value s becomes a·s + b·s³ + c·s⁵; five times this is near 1 for s from 0.01 to 1.
const COEFFICIENTS: [f64; 3] = [3.4445, -4.7750, 2.0315];
const ITERATIONS: usize = 5;

/// The root mean square of an update of AdamW, about.
const UPDATE_SIZE: f64 = 0.2;

/// The next momentum.
pub(super) fn next<'g>(
    settings: &Settings,
    gradient: Tensor<'g>,
    states: &[Tensor<'g>],
) -> Vec<Tensor<'g>> {
    states.iter().map(|&momentum| momentum * settings.momentum + gradient).collect()
}

/// The step before the learning rate, from the next momentum.
pub(super) fn step<'g>(
    settings: &Settings,
    spec: &ParameterSpec,
    gradient: Tensor<'g>,
    states: &[Tensor<'g>],
) -> Tensor<'g> {
    let &[momentum] = states else { return gradient };
    // Nesterov's: the gradient as it will be when the momentum has moved on.
    let ahead = gradient + momentum * settings.momentum;
    // Whole matrices, different layers on different devices: the products below need all of one.
    let gathered = ahead.convert(settings.products).constrain(Role::Gathered);
    let matrix = Matrix::of(spec, gathered);
    let orthogonal = matrix.split(newton_schulz(matrix.tensor).convert(DType::F32));
    let size = matrix.tensor.size("rows").max(matrix.tensor.size("columns")) as f64;
    orthogonal.constrain(Role::OptimizerState) * (UPDATE_SIZE * size.sqrt())
}

/// A weight as `[layers?, rows, columns]`: in the checkpoint a matrix has two dimensions, here its
/// heads have axes of their own.
struct Matrix<'g> {
    tensor: Tensor<'g>,
    rows: Vec<(Axis, usize)>,
    columns: Vec<(Axis, usize)>,
}

impl<'g> Matrix<'g> {
    fn of(spec: &ParameterSpec, weight: Tensor<'g>) -> Matrix<'g> {
        let mut axes = weight.shape().axes;
        axes.retain(|&(axis, _)| axis != "layers");
        let total = spec.checkpoint_shape.first().copied().unwrap_or(1);
        let mut product = 1;
        let count = axes.iter().take_while(|&&(_, size)| {
            let inside = product < total;
            product *= size;
            inside
        });
        let columns = axes.split_off(count.count());
        let names = |axes: &[(Axis, usize)]| axes.iter().map(|&(axis, _)| axis).collect::<Vec<_>>();
        let tensor = weight.merge(&names(&axes), "rows").merge(&names(&columns), "columns");
        Matrix { tensor, rows: axes, columns }
    }

    fn split(&self, matrix: Tensor<'g>) -> Tensor<'g> {
        matrix.split("rows", &self.rows).split("columns", &self.columns)
    }
}

/// The nearest matrix with singular values about 1, of `[layers?, rows, columns]`.
fn newton_schulz(matrix: Tensor<'_>) -> Tensor<'_> {
    let [a, b, c] = COEFFICIENTS;
    // The smaller of the two Gram matrices.
    let (outer, inner) = match matrix.size("rows") > matrix.size("columns") {
        true => ("columns", "rows"),
        false => ("rows", "columns"),
    };
    let dtype = matrix.dtype();
    let wide = matrix.convert(DType::F32);
    let norm = (wide * wide).sum(&["rows", "columns"]).sqrt();
    let mut x = (wide / (norm + 1e-7)).convert(dtype);
    for _ in 0..ITERATIONS {
        let gram = x.dot(x.rename(outer, "other"), &[inner]);
        let square = gram.rename("other", "middle").dot(gram.rename(outer, "middle"), &["middle"]);
        let polynomial = gram * b + square * c;
        let product = polynomial.dot(x.rename(outer, "other"), &["other"]);
        x = x * a + product;
    }
    x.transpose(&matrix.shape().names())
}

//! AdamW (Kingma and Ba, "Adam", 2015; Loshchilov and Hutter, 2019).
//!
//! m ← β₁·m + (1 - β₁)·g, v ← β₂·v + (1 - β₂)·g²; with m̂ = m / (1 - β₁ᵗ) and v̂ = v / (1 - β₂ᵗ) the
//! step is m̂ / (√v̂ + ε).

use graph::Tensor;

use super::Settings;

/// The step before the learning rate, and the next mean and mean square.
pub(super) fn step<'g>(
    settings: &Settings,
    updates: Tensor<'g>,
    gradient: Tensor<'g>,
    states: &[Tensor<'g>],
) -> (Tensor<'g>, Vec<Tensor<'g>>) {
    let &[mean, square] = states else { return (gradient, states.to_vec()) };
    let [first, second] = settings.betas;
    let mean = mean * first + gradient * (1.0 - first);
    let square = square * second + gradient * gradient * (1.0 - second);
    // 1 - βᵗ without losing digits where βᵗ is near 1; for β = 0 it is 1.
    let correction = |beta: f64| match beta > 0.0 {
        true => Some(-(updates * beta.ln()).exponential_minus_one()),
        false => None,
    };
    let unbiased = |sum: Tensor<'g>, beta: f64| match correction(beta) {
        Some(correction) => sum / correction,
        None => sum,
    };
    let step = unbiased(mean, first) / (unbiased(square, second).sqrt() + settings.epsilon);
    (step, vec![mean, square])
}

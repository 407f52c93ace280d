//! AdamW (Kingma and Ba, "Adam", 2015; Loshchilov and Hutter, 2019).
//!
//! m ← β₁·m + (1 - β₁)·g, v ← β₂·v + (1 - β₂)·g²; with m̂ = m / (1 - β₁ᵗ) and v̂ = v / (1 - β₂ᵗ) the
//! step is m̂ / (√v̂ + ε).

use graph::Tensor;

use super::Settings;

/// The next mean and mean square.
pub(super) fn next<'g>(
    settings: &Settings,
    gradient: Tensor<'g>,
    states: &[Tensor<'g>],
) -> Vec<Tensor<'g>> {
    let &[mean, square] = states else { return states.to_vec() };
    let [first, second] = settings.betas;
    let mean = mean * first + gradient * (1.0 - first);
    let square = square * second + gradient * gradient * (1.0 - second);
    vec![mean, square]
}

/// The step before the learning rate, from the next mean and mean square.
pub(super) fn step<'g>(
    settings: &Settings,
    updates: Tensor<'g>,
    gradient: Tensor<'g>,
    states: &[Tensor<'g>],
) -> Tensor<'g> {
    let &[mean, square] = states else { return gradient };
    let [first, second] = settings.betas;
    // 1 - βᵗ without losing digits where βᵗ is near 1; for β = 0 it is 1.
    let unbiased = |sum: Tensor<'g>, beta: f64| match beta > 0.0 {
        true => sum / -(updates * beta.ln()).exponential_minus_one(),
        false => sum,
    };
    unbiased(mean, first) / (unbiased(square, second).sqrt() + settings.epsilon)
}

//! From gradients to the next weights: which optimizer a weight has, what it remembers, clipping.
//! Everything is f32, whatever the model computes with.

mod adamw;
mod muon;

use graph::{DType, Graph, Role, Shape, Tensor, ops};
use llm::models::ParameterSpec;

/// The optimizer's numbers but for the learning rate, which is data of every step.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Muon for the matrices of the layers; else AdamW for everything.
    pub muon: bool,
    pub betas: [f64; 2],
    pub epsilon: f64,
    pub weight_decay: f64,
    /// The norm that all gradients together are cut down to, if any.
    pub clip_norm: Option<f64>,
    pub momentum: f64,
    /// The type of Muon's Newton-Schulz products.
    pub products: DType,
    /// Whether what is remembered is written before weights are computed from it. XLA's CPU compiler
    /// otherwise reads the old values in both places, and copies them all to be able to.
    pub states_first: bool,
}

impl Default for Settings {
    /// AdamW as the config has it.
    fn default() -> Settings {
        Settings {
            muon: false,
            betas: [0.9, 0.95],
            epsilon: 1e-8,
            weight_decay: 0.1,
            clip_norm: Some(1.0),
            momentum: 0.95,
            products: DType::F32,
            states_first: false,
        }
    }
}

/// Scalars of one step, f32.
#[derive(Clone, Copy)]
pub struct Rates<'g> {
    pub learning_rate: Tensor<'g>,
    /// The same for what AdamW updates beside Muon.
    pub adamw_learning_rate: Tensor<'g>,
    /// How many updates there have been with this one.
    pub updates: Tensor<'g>,
}

/// How one weight is updated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    AdamW,
    Muon,
}

/// What the optimizer remembers of a weight: names and shapes, all in f32.
pub fn states(settings: &Settings, spec: &ParameterSpec, shape: &Shape) -> Vec<(String, Shape)> {
    let names: &[&str] = match rule(settings, spec) {
        Rule::AdamW => &["adam.m", "adam.v"],
        Rule::Muon => &["muon.momentum"],
    };
    let state = |name: &&str| (format!("{name}/{}", spec.name), shape.with_dtype(DType::F32));
    names.iter().map(state).collect()
}

fn is_matrix(spec: &ParameterSpec) -> bool {
    spec.checkpoint_shape.len() == 2
}

fn is_embedding(spec: &ParameterSpec) -> bool {
    spec.name.ends_with("embed_tokens.weight")
}

/// Muon is for matrices between hidden states; tables and the head have rows of their own meaning.
fn rule(settings: &Settings, spec: &ParameterSpec) -> Rule {
    let between_states = is_matrix(spec) && spec.name.contains(".layers.");
    match settings.muon && between_states {
        true => Rule::Muon,
        false => Rule::AdamW,
    }
}

/// Whether weight decay applies: to matrices, but not to embeddings, norms and biases.
fn decays(spec: &ParameterSpec) -> bool {
    is_matrix(spec) && !is_embedding(spec)
}

/// The root of the sum of all squares, a scalar in f32.
pub fn global_norm<'g>(graph: &'g Graph, tensors: &[Tensor<'g>]) -> Tensor<'g> {
    let squares = |tensor: &Tensor<'g>| {
        let wide = tensor.convert(DType::F32);
        (wide * wide).sum(&wide.shape().names())
    };
    let zero = ops::constant(graph, DType::F32, 0.0);
    tensors.iter().map(squares).fold(zero, |sum, own| sum + own).sqrt()
}

/// What gradients are multiplied with so that their norm is at most the limit (Pascanu et al., "On
/// the difficulty of training recurrent neural networks", 2013).
pub fn clip_factor<'g>(settings: &Settings, norm: Tensor<'g>) -> Option<Tensor<'g>> {
    let limit = settings.clip_norm?;
    let one = ops::constant(norm.graph(), DType::F32, 1.0);
    Some((limit / (norm + 1e-6)).minimum(one))
}

/// The next weight and the next states of a `good` step; of another one, those that were given.
pub fn update<'g>(
    settings: &Settings,
    rates: &Rates<'g>,
    good: Tensor<'g>,
    spec: &ParameterSpec,
    weight: Tensor<'g>,
    gradient: Tensor<'g>,
    states: &[Tensor<'g>],
) -> (Tensor<'g>, Vec<Tensor<'g>>) {
    let rule = rule(settings, spec);
    let next = match rule {
        Rule::AdamW => adamw::next(settings, gradient, states),
        Rule::Muon => muon::next(settings, gradient, states),
    };
    let kept = next.into_iter().zip(states);
    let next: Vec<Tensor<'g>> =
        kept.map(|(next, &old)| good.select(next, old).constrain(Role::OptimizerState)).collect();
    let known = match settings.states_first {
        true => weight.graph().optimization_barrier(&next),
        false => next.clone(),
    };
    let (step, learning_rate) = match rule {
        Rule::AdamW if settings.muon => {
            (adamw::step(settings, rates.updates, gradient, &known), rates.adamw_learning_rate)
        }
        Rule::AdamW => {
            (adamw::step(settings, rates.updates, gradient, &known), rates.learning_rate)
        }
        Rule::Muon => (muon::step(settings, spec, gradient, &known), rates.learning_rate),
    };
    // Decoupled: the decay does not pass through the optimizer's statistics (Loshchilov and Hutter,
    // "Decoupled weight decay regularization", 2019).
    let kept = match decays(spec) && settings.weight_decay > 0.0 {
        true => weight * (1.0 - learning_rate * settings.weight_decay),
        false => weight,
    };
    let next_weight = (kept - step * learning_rate).constrain(Role::Parameter);
    (good.select(next_weight, weight), next)
}

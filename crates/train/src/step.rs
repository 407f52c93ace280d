//! The programs of training: one step (forward, backward, update), and an evaluation. Knows kinds of
//! tensors and their names; the trainer compiles and runs them.

use graph::ops::Remat;
use graph::{
    DType, EmitOptions, Function, Graph, Kernels, Mesh, NamedResult, Program, Role, Shape,
    ShardingRules, Tensor, TraceError, ops, output,
};
use llm::ModelConfig;
use llm::models::{Decoder, Layers, Lora, ParameterSpec, Parameters};

use crate::objective::{Sums, Texts};
use crate::optimizer::{self, Rates, Settings};

/// Everything that the programs' texts depend on besides the model.
#[derive(Clone, Debug)]
pub struct StepOptions {
    /// Sequences per step, all devices together.
    pub batch_size: usize,
    pub sequence_length: usize,
    /// In how many parts a step's batch goes through the model, one after the other.
    pub accumulation: usize,
    /// What the model computes with; what is trained is held in f32.
    pub dtype: DType,
    /// What frozen weights are held in; s8 is int8 for the matrices of layers
    /// ([`Parameters::stored_as`]).
    pub frozen: DType,
    pub layers: Layers,
    pub remat: Remat,
    /// Weight of the squared log-sum-exp in the objective.
    pub z_loss: f64,
    pub optimizer: Settings,
    /// With adapters, only they are trained.
    pub lora: Option<Lora>,
    pub mesh: Mesh,
    pub rules: ShardingRules,
    pub kernels: Kernels,
}

/// The scalars of a step, in the order of the arguments, after the texts.
///
/// `learning_rate` and `adamw_learning_rate`: f32. `loss_limit` (f32): a step whose loss is above it
/// changes nothing. `seed`, `step` (u32): what dropout draws from.
pub const SCALARS: [(&str, DType); 5] = [
    ("learning_rate", DType::F32),
    ("adamw_learning_rate", DType::F32),
    ("loss_limit", DType::F32),
    ("seed", DType::U32),
    ("step", DType::U32),
];

/// The texts of a step, in the order of the arguments: `[accumulation?, batch, seq]` in s32.
pub const TEXTS: [&str; 4] = ["tokens", "targets", "segments", "positions"];

/// The scalars that a step returns first, f32: the mean cross entropy per token that counts (nats),
/// the gradients' norm before clipping, the tokens that are no padding, and 1 if nothing was changed.
pub const METRICS: [&str; 4] = ["loss", "gradient_norm", "tokens", "skipped"];

/// What stays on the devices from step to step.
#[derive(Clone, Debug)]
pub enum Kept {
    /// A weight of the model or of an adapter.
    Weight { spec: ParameterSpec, trained: bool },
    /// What the optimizer remembers; starts as zeros.
    State,
}

/// A tensor that stays on the devices: its name in a checkpoint, and what it is.
#[derive(Clone, Debug)]
pub struct KeptTensor {
    pub name: String,
    pub kept: Kept,
}

impl KeptTensor {
    /// Whether a step replaces it.
    pub fn changes(&self) -> bool {
        !matches!(self.kept, Kept::Weight { trained: false, .. })
    }
}

/// A program and what its arguments are: texts, scalars, then what is kept. Its results are metrics,
/// then what is kept and changes, in the same order.
#[derive(Clone, Debug)]
pub struct TrainProgram {
    pub program: Program,
    pub kept: Vec<KeptTensor>,
}

/// The name in a checkpoint of the count of updates.
pub const UPDATES: &str = "optimizer/updates";

/// The name in a checkpoint of a weight.
pub fn weight_name(spec: &ParameterSpec) -> String {
    format!("model/{}", spec.name)
}

/// A trace under way: weights declared, the decoder over them.
struct Tracing<'a, 'g> {
    graph: &'g Graph,
    options: &'a StepOptions,
    config: &'a ModelConfig,
    /// Every weight with its tensor.
    weights: Vec<(ParameterSpec, Tensor<'g>)>,
    parameters: Parameters<'g>,
}

impl<'a, 'g> Tracing<'a, 'g> {
    fn new(
        graph: &'g Graph,
        config: &'a ModelConfig,
        options: &'a StepOptions,
        dropout_key: Option<[Tensor<'g>; 2]>,
    ) -> Tracing<'a, 'g> {
        let parameters = parameters(graph, options, dropout_key);
        // Declared before anything that may be in a loop needs them.
        let weights = weights(config, options)
            .into_iter()
            .map(|(spec, shape)| {
                let tensor = parameters.declare(spec.clone(), shape);
                (spec, tensor)
            })
            .collect();
        Tracing { graph, options, config, weights, parameters }
    }

    fn decoder(&self) -> Decoder<'a, 'g> {
        decoder(self.graph, self.config, self.options, self.parameters.clone())
    }

    fn is_trained(&self, spec: &ParameterSpec) -> bool {
        self.options.lora.is_none() || spec.is_adapter()
    }

    fn kept(&self, spec: &ParameterSpec) -> KeptTensor {
        let trained = self.is_trained(spec);
        KeptTensor { name: weight_name(spec), kept: Kept::Weight { spec: spec.clone(), trained } }
    }

    fn finish(
        &self,
        name: &str,
        results: Vec<NamedResult<'g>>,
        kept: Vec<KeptTensor>,
    ) -> Result<TrainProgram, TraceError> {
        let function: Function = self.graph.finish(results)?;
        let emit = EmitOptions {
            mesh: self.options.mesh.clone(),
            rules: self.options.rules.clone(),
            kernels: self.options.kernels.clone(),
        };
        Ok(TrainProgram { program: function.program(name, &emit), kept })
    }
}

fn parameters<'g>(
    graph: &'g Graph,
    options: &StepOptions,
    dropout_key: Option<[Tensor<'g>; 2]>,
) -> Parameters<'g> {
    let stored = if options.lora.is_some() { options.frozen } else { DType::F32 };
    let parameters = Parameters::new(graph, options.dtype).stored_as(stored);
    match &options.lora {
        Some(lora) => parameters.adapted(lora.clone(), dropout_key),
        None => parameters,
    }
}

fn decoder<'a, 'g>(
    graph: &'g Graph,
    config: &'a ModelConfig,
    options: &StepOptions,
    parameters: Parameters<'g>,
) -> Decoder<'a, 'g> {
    Decoder::new(graph, config, options.layers, options.dtype, false)
        .for_training(parameters, options.remat)
}

/// Every weight of the model and its adapters with its shape on the devices, found by tracing the
/// model on the side.
pub fn weights(config: &ModelConfig, options: &StepOptions) -> Vec<(ParameterSpec, Shape)> {
    let graph = Graph::new();
    let parameters = parameters(&graph, options, None);
    let number = ops::constant(&graph, DType::S32, 0.0).broadcast_to(&[("batch", 1), ("seq", 1)]);
    let texts = Texts { tokens: number, targets: number, segments: number, positions: number };
    texts.sums(&decoder(&graph, config, options, parameters.clone()));
    parameters.shapes()
}

/// One step of training.
///
/// # Errors
/// A model that does not fit together.
pub fn train_step(config: &ModelConfig, options: &StepOptions) -> Result<TrainProgram, TraceError> {
    let graph = Graph::new();
    let rows = options.batch_size / options.accumulation.max(1);
    let texts = texts(&graph, options, rows, options.accumulation);
    let scalars =
        SCALARS.map(|(name, dtype)| graph.input(name, Role::Activation, Shape::scalar(dtype)));
    let [learning_rate, adamw_learning_rate, loss_limit, seed, step] = scalars;
    let tracing = Tracing::new(&graph, config, options, Some([seed, step]));
    let trained: Vec<(ParameterSpec, Tensor<'_>)> =
        tracing.weights.iter().filter(|(spec, _)| tracing.is_trained(spec)).cloned().collect();
    let count = texts.count();
    // A batch in which nothing counts has a loss of zero, not of zero by zero.
    let divisor = count.maximum(ops::constant(&graph, DType::F32, 1.0));
    let (sum, gradients) = match options.accumulation {
        0 | 1 => tracing.gradients(&trained, texts, divisor),
        parts => tracing.accumulated(&trained, texts, divisor, parts),
    };
    let loss = sum / divisor;
    let norm = optimizer::global_norm(&graph, &gradients);
    let good = loss.is_finite().and(norm.is_finite()).and(loss.less_equal(loss_limit));
    let gradients: Vec<Tensor<'_>> = match optimizer::clip_factor(&options.optimizer, norm) {
        Some(factor) => gradients.iter().map(|&gradient| gradient * factor).collect(),
        None => gradients,
    };
    let updates = graph.input(UPDATES, Role::OptimizerState, Shape::scalar(DType::F32));
    let rates = Rates { learning_rate, adamw_learning_rate, updates: updates + 1.0 };
    let skipped = good.logical_not().convert(DType::F32);
    let metrics = METRICS.iter().zip([loss, norm, texts.present(), skipped]);
    let mut results: Vec<NamedResult<'_>> =
        metrics.map(|(name, scalar)| output(name, scalar)).collect();
    let mut kept: Vec<KeptTensor> = tracing.weights.iter().map(|(s, _)| tracing.kept(s)).collect();
    let mut of_states = Vec::new();
    for ((spec, weight), gradient) in trained.iter().zip(gradients) {
        graph.scope("optimizer", || {
            graph.scope(&spec.name, || {
                let declared = optimizer::states(&options.optimizer, spec, &weight.shape());
                let (names, states): (Vec<String>, Vec<Tensor<'_>>) = declared
                    .into_iter()
                    .map(|(name, shape)| {
                        let state = graph.input(&name, Role::OptimizerState, shape);
                        (name, state)
                    })
                    .unzip();
                let settings = &options.optimizer;
                let (next, next_states) =
                    optimizer::update(settings, &rates, good, spec, *weight, gradient, &states);
                results.push(keep(next, *weight, &weight_name(spec), Role::Parameter));
                for ((name, state), next) in names.into_iter().zip(states).zip(next_states) {
                    of_states.push(keep(next, state, &name, Role::OptimizerState));
                    kept.push(KeptTensor { name, kept: Kept::State });
                }
            });
        });
    }
    // The count of updates was declared before the states.
    let first_state = tracing.weights.len();
    kept.insert(first_state, KeptTensor { name: UPDATES.to_string(), kept: Kept::State });
    let made = good.select(rates.updates, updates);
    results.push(keep(made, updates, UPDATES, Role::OptimizerState));
    results.extend(of_states);
    tracing.finish("train_step", results, kept)
}

/// What stays on the devices; it comes in the memory of the old value.
fn keep<'g>(next: Tensor<'g>, old: Tensor<'g>, name: &str, role: Role) -> NamedResult<'g> {
    output(name, next).role(role).donate(old)
}

/// The mean cross entropy of a batch and the gradients of the objective: results `loss` and one per
/// trained weight, under its name. For comparing with other implementations, and chips with chips.
///
/// # Errors
/// A model that does not fit together.
pub fn gradients(config: &ModelConfig, options: &StepOptions) -> Result<TrainProgram, TraceError> {
    let graph = Graph::new();
    let texts = texts(&graph, options, options.batch_size, 1);
    let tracing = Tracing::new(&graph, config, options, None);
    let is_trained = |(spec, _): &&(ParameterSpec, Tensor<'_>)| tracing.is_trained(spec);
    let trained: Vec<(ParameterSpec, Tensor<'_>)> =
        tracing.weights.iter().filter(is_trained).cloned().collect();
    let divisor = texts.count();
    let (sum, gradients) = tracing.gradients(&trained, texts, divisor);
    let mut results = vec![output("loss", sum / divisor)];
    let named = trained.iter().zip(gradients);
    results.extend(
        named.map(|((spec, _), gradient)| {
            output(&weight_name(spec), gradient).role(Role::Parameter)
        }),
    );
    let kept = tracing.weights.iter().map(|(spec, _)| tracing.kept(spec)).collect();
    tracing.finish("gradients", results, kept)
}

/// The sums of an evaluation over one batch: results `cross_entropy` (nats) and `tokens`, f32.
///
/// # Errors
/// A model that does not fit together.
pub fn evaluation(config: &ModelConfig, options: &StepOptions) -> Result<TrainProgram, TraceError> {
    let graph = Graph::new();
    let texts = texts(&graph, options, options.batch_size, 1);
    let tracing = Tracing::new(&graph, config, options, None);
    let sums = texts.sums(&tracing.decoder());
    let results =
        vec![output("cross_entropy", sums.cross_entropy), output("tokens", texts.count())];
    let kept = tracing.weights.iter().map(|(spec, _)| tracing.kept(spec)).collect();
    tracing.finish("evaluation", results, kept)
}

/// Declares the texts of a program.
fn texts<'g>(graph: &'g Graph, options: &StepOptions, rows: usize, parts: usize) -> Texts<'g> {
    let mut axes = vec![("batch", rows), ("seq", options.sequence_length)];
    if parts > 1 {
        axes.insert(0, ("accumulation", parts));
    }
    let shape = Shape::new(DType::S32, &axes);
    let [tokens, targets, segments, positions] =
        TEXTS.map(|name| graph.input(name, Role::Activation, shape.clone()));
    Texts { tokens, targets, segments, positions }
}

impl<'g> Tracing<'_, 'g> {
    /// The sum of the cross entropy and the gradients of the objective, which is a mean over `divisor`
    /// tokens.
    fn gradients(
        &self,
        trained: &[(ParameterSpec, Tensor<'g>)],
        texts: Texts<'g>,
        divisor: Tensor<'g>,
    ) -> (Tensor<'g>, Vec<Tensor<'g>>) {
        let decoder = self.decoder();
        let (values, gradients) = self.graph.value_and_gradients(
            || {
                let Sums { cross_entropy, squared_log_sum_exp } = texts.sums(&decoder);
                let objective = match self.options.z_loss > 0.0 {
                    true => cross_entropy + squared_log_sum_exp * self.options.z_loss,
                    false => cross_entropy,
                };
                vec![objective / divisor, cross_entropy]
            },
            || trained.iter().map(|&(_, weight)| weight).collect(),
        );
        // Laid out as the weights are, so that each device sums up only what it keeps.
        let laid_out = gradients.into_iter().map(|gradient| gradient.constrain(Role::Parameter));
        (values[1], laid_out.collect())
    }

    /// The same over several parts of the batch, added up in f32.
    fn accumulated(
        &self,
        trained: &[(ParameterSpec, Tensor<'g>)],
        texts: Texts<'g>,
        divisor: Tensor<'g>,
        parts: usize,
    ) -> (Tensor<'g>, Vec<Tensor<'g>>) {
        let zero = ops::constant(self.graph, DType::F32, 0.0);
        let zeros = |(_, weight): &(ParameterSpec, Tensor<'g>)| {
            zero.broadcast_to(&weight.shape().axes).constrain(Role::Parameter)
        };
        let mut carry = vec![zero];
        carry.extend(trained.iter().map(zeros));
        let walked = [texts.tokens, texts.targets, texts.segments, texts.positions];
        let (sums, _) =
            self.graph.scan("accumulation", parts, &carry, &walked, 0, |part, carry, texts| {
                let &[tokens, targets, segments, positions] = texts else {
                    return (carry.to_vec(), Vec::new());
                };
                let texts = Texts { tokens, targets, segments, positions };
                let rows = self.options.batch_size / parts;
                self.parameters.rows_from(part.convert(DType::U32) * rows as f64);
                let (sum, gradients) = self.gradients(trained, texts, divisor);
                let added = carry[1..].iter().zip(gradients).map(|(&sum, own)| sum + own);
                ([carry[0] + sum].into_iter().chain(added).collect(), Vec::new())
            });
        (sums[0], sums[1..].to_vec())
    }
}

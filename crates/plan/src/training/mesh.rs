//! Which meshes a training step could have on so many devices, ranked by what each would take: seconds
//! and bytes by formula, to choose what is worth compiling. The figures of a plan come from compilers.

use graph::ops::Remat;
use graph::{Input, Mesh};
use llm::ModelConfig;
use runtime::Target;
use runtime::chips::Hosting;
use train::config::check_mesh;
use train::metrics::{Trained, flops_per_token};
use train::step::StepOptions;

/// Of the peak rate, what large products reach: all meshes alike, so that it decides little.
const MATRIX_SHARE: f64 = 0.6;

/// Of transfers that could run beside products, what is waited for all the same.
const NOT_HIDDEN: f64 = 0.3;

/// A mesh and what is expected of it.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub mesh: Mesh,
    /// Of a step, for comparing with other candidates only.
    pub seconds: f64,
    /// Arguments, gradients and what is kept for the way back, on one device.
    pub bytes: u64,
    /// Arguments alone: exact, but for padding.
    pub argument_bytes: u64,
}

/// Every mesh over the target's devices that the model and the batch can be split over, the quickest
/// first. `inputs` are a traced step's, on whatever mesh.
pub fn candidates(
    model: &ModelConfig,
    options: &StepOptions,
    inputs: &[Input],
    target: &Target,
) -> Vec<Candidate> {
    let sequences = options.batch_size / options.accumulation.max(1);
    let mut found: Vec<Candidate> = meshes(target.devices())
        .filter(|mesh| check_mesh(mesh, model, sequences).is_ok())
        .map(|mesh| candidate(model, options, inputs, target, mesh))
        .collect();
    found.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    found
}

/// `data`, `fsdp` and `tensor` in all ways, without axes of one.
fn meshes(devices: usize) -> impl Iterator<Item = Mesh> {
    let dividing = |number: usize| (1..=number).filter(move |&part| number.is_multiple_of(part));
    dividing(devices).flat_map(move |tensor| {
        let rest = devices / tensor;
        dividing(rest).map(move |fsdp| {
            let axes = [("data", rest / fsdp), ("fsdp", fsdp), ("tensor", tensor)];
            Mesh::new(&axes.into_iter().filter(|&(_, size)| size > 1).collect::<Vec<_>>())
        })
    })
}

/// What a mesh would take.
pub fn candidate(
    model: &ModelConfig,
    options: &StepOptions,
    inputs: &[Input],
    target: &Target,
    mesh: Mesh,
) -> Candidate {
    let argument_bytes = argument_bytes(options, inputs, &mesh);
    let work = Work::new(options, inputs, &mesh);
    let seconds = work.seconds(model, options, target);
    let bytes = argument_bytes + work.gradient_bytes as u64 + work.kept_bytes(model, options);
    Candidate { mesh, seconds, bytes, argument_bytes }
}

/// What a step's arguments take of one device.
pub fn argument_bytes(options: &StepOptions, inputs: &[Input], mesh: &Mesh) -> u64 {
    inputs.iter().map(|input| on_device(options, input, mesh)).sum()
}

fn on_device(options: &StepOptions, input: &Input, mesh: &Mesh) -> u64 {
    let sharding = options.rules.resolve(input.role, &input.shape, mesh);
    let pieces: usize = sharding.pieces(mesh).iter().product();
    (input.shape.bytes() / pieces.max(1)) as u64
}

/// Sizes of one device's part of a step.
struct Work {
    data: f64,
    fsdp: f64,
    tensor: f64,
    /// Of one part of the batch.
    tokens: f64,
    parts: f64,
    /// Parameters that are trained or frozen, of all devices along `fsdp` together.
    parameters: f64,
    gradient_bytes: f64,
}

impl Work {
    fn new(options: &StepOptions, inputs: &[Input], mesh: &Mesh) -> Work {
        let size = |axis| mesh.size(axis).unwrap_or(1) as f64;
        let (data, fsdp, tensor) = (size("data"), size("fsdp"), size("tensor"));
        let parts = options.accumulation.max(1) as f64;
        let tokens = (options.batch_size * options.sequence_length) as f64 / parts / data / fsdp;
        let weights = inputs.iter().filter(|input| input.role == graph::Role::Parameter);
        let parameters: f64 = weights.clone().map(|input| input.shape.elements() as f64).sum();
        // Gradients are summed in f32, laid out as their weights; of adapters they are of no size.
        let gradient_bytes = match options.lora {
            Some(_) => 0.0,
            None => weights.map(|input| on_device(options, input, mesh) as f64).sum(),
        };
        Work { data, fsdp, tensor, tokens, parts, parameters: parameters / tensor, gradient_bytes }
    }

    fn seconds(&self, model: &ModelConfig, options: &StepOptions, target: &Target) -> f64 {
        let devices_per_chip = target.chip.devices_per_chip as f64;
        let peak = target.chip.bf16_flops_per_second / devices_per_chip * MATRIX_SHARE;
        let trained = match &options.lora {
            Some(_) => Trained::Lora { adapter_parameters: 0 },
            None => Trained::All,
        };
        let again = if options.remat == Remat::Full { 4.0 / 3.0 } else { 1.0 };
        let flops = flops_per_token(model, options.sequence_length, trained) * again;
        let computing = flops * self.tokens * self.parts / self.tensor / peak.max(1.0);
        let element = options.dtype.bytes() as f64;
        let share = |size: f64| (size - 1.0) / size;
        let links = |size, stride| rate(target, size, stride);

        // Forward, once more where that is computed again, and backward; then gradients, in f32.
        let gathers = if options.remat == Remat::None { 2.0 } else { 3.0 };
        let gathered = self.parameters * (gathers * element + 4.0) * share(self.fsdp);
        let fsdp = self.parts * gathered / links(self.fsdp, self.tensor);
        let summed = 2.0 * 4.0 * self.parameters / self.fsdp * share(self.data);
        let data = summed / links(self.data, self.tensor * self.fsdp);

        // Two sums over a layer's output forward and two backward, none of which can be hidden.
        let sums = if options.remat == Remat::Full { 6.0 } else { 4.0 };
        let layers = model.num_hidden_layers as f64;
        let width = model.hidden_size as f64;
        let summed = sums * layers * self.tokens * width * element * 2.0 * share(self.tensor);
        let tensor = self.parts * summed / links(self.tensor, 1.0);

        let beside = fsdp + data;
        computing.max(beside) + NOT_HIDDEN * computing.min(beside) + tensor
    }

    /// What is kept of each layer for the way back, and what one layer needs while it is computed.
    fn kept_bytes(&self, model: &ModelConfig, options: &StepOptions) -> u64 {
        let element = options.dtype.bytes() as f64;
        let width = model.hidden_size as f64;
        let heads = (model.num_attention_heads * model.head_dim) as f64;
        let keys = (2 * model.num_key_value_heads * model.head_dim) as f64;
        let hidden = model.intermediate_size as f64;
        let split = (2.0 * heads + keys + 3.0 * hidden) / self.tensor;
        let of_layer = element
            * match options.remat {
                Remat::Full => width,
                Remat::Dots => width + split,
                Remat::None => 4.0 * width + 1.5 * split,
            };
        let at_once = element * (6.0 * width + 2.0 * split);
        // Two layers' weights are there whole while one is computed and the next is fetched.
        let layers = model.num_hidden_layers as f64;
        let whole = if self.fsdp > 1.0 { 2.0 * element * self.parameters / layers } else { 0.0 };
        (self.tokens * (layers * of_layer + at_once) + whole) as u64
    }
}

/// Bytes per second, one way, of a ring of so many devices that are `stride` devices apart.
fn rate(target: &Target, size: f64, stride: f64) -> f64 {
    let all = target.chip.link_bytes_per_second / target.chip.devices_per_chip as f64;
    match &target.chip.hosting {
        Hosting::Processor => f64::INFINITY,
        Hosting::Torus { slices, .. } => {
            let bounds = slices.first().map_or("1x1", |slice| slice.bounds.as_str());
            all / bounds.split('x').count() as f64
        }
        Hosting::Hosts { gpus_per_domain, network_bytes_per_second, .. } => {
            // Each of a group's members in a domain brings its own way out of it.
            let together = (*gpus_per_domain as f64 / stride).clamp(1.0, size);
            if together >= size { all } else { all.min(network_bytes_per_second * together) }
        }
    }
}

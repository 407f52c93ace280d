//! The programs of a model run without the engine, with data and weights laid out by this file. So
//! tests reach what the engine does not offer (batches, meshes, a program's own results), and the
//! engine's way of loading weights is not its own judge.

use graph::Input;
use llm::ModelFiles;
use llm::models::{EVERY_LAYER, ParameterSpec};
use llm::programs::ModelProgram;
use runtime::{Argument, Array, CompileChoices, Executable, Runtime, layout};

pub struct ByHand {
    pub traced: ModelProgram,
    pub executable: Executable,
    pub weights: Vec<Array>,
}

/// What one run gives back.
pub struct Results {
    pub arrays: Vec<Array>,
    pub cache: Vec<Array>,
}

impl ByHand {
    /// Compiles the program for its mesh and loads its weights.
    pub fn new(runtime: &Runtime, files: &ModelFiles, traced: ModelProgram) -> ByHand {
        let executable = runtime.compile(&traced.program, &CompileChoices::default()).unwrap();
        let inputs = &traced.program.inputs[traced.data + traced.cache..];
        assert_eq!(inputs.len(), traced.parameters.len());
        let specs = traced.parameters.iter().zip(inputs);
        let weights = specs.map(|(spec, input)| load(files, spec, input, &executable)).collect();
        ByHand { traced, executable, weights }
    }

    /// Zeros in place of the cache.
    pub fn empty_cache(&self) -> Vec<Array> {
        let inputs = &self.traced.program.inputs[self.traced.data..][..self.traced.cache];
        let zeros = |input: &Input| {
            Array::zeros(self.executable.mesh(), &input.shape, &input.sharding).unwrap()
        };
        inputs.iter().map(zeros).collect()
    }

    /// Runs it; `data` are the bytes of the program's own arguments, in order.
    pub fn run(&self, data: &[Vec<u8>], cache: &[Array]) -> Results {
        assert_eq!((data.len(), cache.len()), (self.traced.data, self.traced.cache));
        let inputs = self.traced.program.inputs.iter().zip(data);
        let data: Vec<Array> = inputs
            .map(|(input, bytes)| {
                let mesh = self.executable.mesh();
                Array::from_host(mesh, &input.shape, &input.sharding, bytes).unwrap()
            })
            .collect();
        let arguments = data.iter().chain(cache).chain(&self.weights);
        let run = self.executable.run(arguments.map(Argument::Borrowed).collect()).unwrap();
        let mut arrays = run.wait().unwrap();
        let cache = arrays.split_off(arrays.len() - self.traced.cache);
        Results { arrays, cache }
    }
}

impl Results {
    pub fn integers(&self, index: usize) -> Vec<u32> {
        let bytes = self.arrays[index].to_host().unwrap();
        bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
    }

    pub fn numbers(&self, index: usize) -> Vec<f64> {
        self.integers(index).into_iter().map(|bits| f64::from(f32::from_bits(bits))).collect()
    }

    pub fn bytes(&self, index: usize) -> Vec<u8> {
        self.arrays[index].to_host().unwrap()
    }
}

pub fn integers(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub fn numbers(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The settings of greedy rows, in the order of `programs::SAMPLING_INPUTS`, and `seen`.
pub fn greedy(batch: usize, vocab_size: usize) -> Vec<Vec<u8>> {
    let floats = |value: f32| numbers(&vec![value; batch]);
    let words = |value: u32| integers(&vec![value; batch]);
    let settings =
        [floats(0.0), words(0), floats(1.0), floats(0.0), floats(1.0), words(0), words(0)];
    settings.into_iter().chain([vec![0; batch * vocab_size]]).collect()
}

fn load(files: &ModelFiles, spec: &ParameterSpec, input: &Input, executable: &Executable) -> Array {
    let names: Vec<String> = match spec.layers {
        None => vec![spec.name.clone()],
        Some(layers) => {
            let name = |layer: usize| spec.name.replace(EVERY_LAYER, &layer.to_string());
            (0..layers).map(name).collect()
        }
    };
    let read = |name: &String| numbers(&files.checkpoint.read_to_vec(name).unwrap());
    let whole: Vec<u8> = names.iter().flat_map(read).collect();
    let (sizes, element_bytes) = (input.shape.sizes(), input.shape.dtype.bytes());
    Array::fill(executable.mesh(), &input.shape, &input.sharding, |ranges, part| {
        layout::cut(&whole, &sizes, element_bytes, ranges, part);
        Ok::<(), String>(())
    })
    .unwrap()
}

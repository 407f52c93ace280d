//! Running the programs of training: batches and scalars in, metrics out, weights and optimizer
//! staying on the devices. Knows no file and no schedule.

use std::ops::Range;
use std::sync::Arc;

use graph::{DType, Input, Role, Shape};
use runtime::{
    Argument, Array, CompileChoices, CompileInfo, DeviceMesh, Executable, PluginKind, Purpose,
    Runtime, host_memory,
};

use crate::data::Batch;
use crate::step::{METRICS, SCALARS, TEXTS, TrainProgram};

/// A program of training on its devices.
pub struct Loaded {
    executable: Executable,
    program: TrainProgram,
}

/// Why a step could not start.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error(transparent)]
    Runtime(#[from] runtime::Error),
    #[error(
        "`{program}` needs {} of memory, and this machine has {}: a shorter `data.sequence_length`, a \
         smaller `training.batch_size`, more `training.accumulation` or `training.remat = \"full\"` \
         need less",
        gibibytes(.needed_bytes), gibibytes(.total_bytes)
    )]
    DoesNotFit { program: String, needed_bytes: u64, total_bytes: u64 },
    #[error("`{name}` cannot be replaced while something else reads it")]
    InUse { name: String },
}

/// The scalars of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scalars {
    pub learning_rate: f64,
    pub adamw_learning_rate: f64,
    /// A step whose loss is above it changes nothing.
    pub loss_limit: f64,
    pub seed: u32,
    pub step: u32,
}

/// What a step says, read when it is wanted: until then the device may still be at it.
pub struct Metrics(Vec<Array>);

/// The numbers of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepResult {
    /// Mean cross entropy per token that counts, in nats.
    pub loss: f64,
    /// Of all gradients together, before clipping.
    pub gradient_norm: f64,
    /// Tokens that went through the model, padding left out.
    pub tokens: f64,
    /// Whether nothing was changed.
    pub skipped: bool,
}

impl Loaded {
    /// # Errors
    /// What the compiler objects to; on a CPU, a program that needs more memory than there is, which
    /// would take the machine down with it.
    pub fn new(runtime: &Runtime, program: TrainProgram) -> Result<Loaded, DeviceError> {
        let choices = CompileChoices { purpose: Purpose::Training, ..CompileChoices::default() };
        let executable = runtime.compile(&program.program, &choices)?;
        let total_bytes = match runtime.location().kind {
            PluginKind::Cpu => host_memory::total_bytes(),
            PluginKind::Cuda | PluginKind::Tpu => None,
        };
        if let (Some(memory), Some(total_bytes)) = (executable.info().memory, total_bytes) {
            // The plugin's peak leaves out temporaries, which it allocates in one piece.
            let at_once = memory.argument_bytes.saturating_add(memory.temporary_bytes);
            // Its virtual devices share the memory.
            let devices = executable.mesh().devices().len() as u64;
            let needed_bytes = memory.needed_bytes().max(at_once).saturating_mul(devices);
            if needed_bytes > total_bytes {
                let program = program.program.name;
                return Err(DeviceError::DoesNotFit { program, needed_bytes, total_bytes });
            }
        }
        Ok(Loaded { executable, program })
    }

    pub fn program(&self) -> &TrainProgram {
        &self.program
    }

    pub fn mesh(&self) -> &DeviceMesh {
        self.executable.mesh()
    }

    pub fn info(&self) -> &CompileInfo {
        self.executable.info()
    }

    /// The arrays of a batch. `rows` gives the rows of the step's batch that it is asked for; a process
    /// asks for those that its devices hold.
    ///
    /// # Errors
    /// What `rows` answers, or what the plugin does.
    pub fn texts<E: From<runtime::Error>>(
        &self,
        mut rows: impl FnMut(Range<usize>) -> Result<Batch, E>,
    ) -> Result<Vec<Array>, E> {
        let inputs = &self.program.program.inputs[..TEXTS.len()];
        let mut known: Vec<(Range<usize>, Arc<Batch>)> = Vec::new();
        let mut arrays = Vec::with_capacity(TEXTS.len());
        for (place, input) in inputs.iter().enumerate() {
            let mut failure = None;
            let filled =
                Array::fill(self.mesh(), &input.shape, &input.sharding, |ranges, bytes| {
                    let filled = fill_rows(input, ranges, bytes, |wanted| {
                        if let Some((_, batch)) = known.iter().find(|(rows, _)| *rows == wanted) {
                            return Ok(batch_field(batch, place).to_vec());
                        }
                        let batch = Arc::new(rows(wanted.clone())?);
                        known.push((wanted, batch.clone()));
                        Ok::<_, E>(batch_field(&batch, place).to_vec())
                    });
                    filled.map_err(|error| {
                        failure = Some(error);
                        "the batch could not be read"
                    })
                });
            match failure {
                Some(error) => return Err(error),
                None => arrays.push(filled?),
            }
        }
        Ok(arrays)
    }

    /// The rows of a step's batch that this process's devices hold.
    ///
    /// # Errors
    /// A sharding that does not suit, which the program rules out.
    pub fn rows(&self) -> Result<Range<usize>, runtime::Error> {
        let input = &self.program.program.inputs[0];
        let rows_per_part = input.shape.size("batch").unwrap_or(1);
        let parts = input.shape.size("accumulation").unwrap_or(1);
        let axis = input.shape.position("batch").unwrap_or(0);
        let mut held: Option<Range<usize>> = None;
        for (position, _) in self.mesh().addressable() {
            let ranges = self.mesh().ranges(&input.shape.sizes(), &input.sharding, position)?;
            let own = ranges[axis].clone();
            held = Some(match held {
                Some(held) => held.start.min(own.start)..held.end.max(own.end),
                None => own,
            });
        }
        let held = held.unwrap_or(0..0);
        // From the first part's first row to the last part's last.
        Ok(held.start..(parts - 1) * rows_per_part + held.end)
    }

    /// Starts a step on `texts`; the kept arrays that change are consumed and replaced.
    ///
    /// # Errors
    /// What the plugin answers; the kept arrays are lost then.
    pub fn step(
        &self,
        texts: &[Array],
        scalars: &Scalars,
        kept: &mut Vec<Arc<Array>>,
    ) -> Result<Metrics, DeviceError> {
        let scalars = self.scalars(scalars)?;
        let mut arguments: Vec<Argument<'_>> = texts.iter().map(Argument::Borrowed).collect();
        arguments.extend(scalars.iter().map(Argument::Borrowed));
        let given = std::mem::take(kept);
        let mut frozen = Vec::new();
        let mut changing = Vec::new();
        for (tensor, array) in self.program.kept.iter().zip(given) {
            match tensor.changes() {
                true => changing.push(
                    Arc::try_unwrap(array)
                        .map_err(|_| DeviceError::InUse { name: tensor.name.clone() })?,
                ),
                false => frozen.push(array),
            }
        }
        let (mut next, mut changing) = (frozen.iter(), changing.into_iter());
        for tensor in &self.program.kept {
            arguments.extend(match tensor.changes() {
                true => changing.next().map(Argument::Donated),
                false => next.next().map(|array| Argument::Borrowed(array)),
            });
        }
        let mut outputs = self.executable.run(arguments)?.outputs;
        let mut changed = outputs.split_off(METRICS.len()).into_iter().map(Arc::new);
        let mut frozen = frozen.into_iter();
        for tensor in &self.program.kept {
            kept.extend(if tensor.changes() { changed.next() } else { frozen.next() });
        }
        Ok(Metrics(outputs))
    }

    /// Runs a program that changes nothing, such as an evaluation, on `texts` and the weights among
    /// `kept`; its results.
    ///
    /// # Errors
    /// What the plugin answers.
    pub fn run(&self, texts: &[Array], kept: &[Arc<Array>]) -> Result<Vec<Array>, runtime::Error> {
        let mut arguments: Vec<Argument<'_>> = texts.iter().map(Argument::Borrowed).collect();
        arguments.extend(kept[..self.program.kept.len()].iter().map(|a| Argument::Borrowed(a)));
        Ok(self.executable.run(arguments)?.outputs)
    }

    fn scalars(&self, scalars: &Scalars) -> Result<Vec<Array>, runtime::Error> {
        let words = [
            (scalars.learning_rate as f32).to_bits(),
            (scalars.adamw_learning_rate as f32).to_bits(),
            (scalars.loss_limit as f32).to_bits(),
            scalars.seed,
            scalars.step,
        ];
        let inputs = &self.program.program.inputs[TEXTS.len()..TEXTS.len() + SCALARS.len()];
        let array = |(input, word): (&Input, u32)| {
            let bytes = word.to_le_bytes();
            Array::from_host(self.mesh(), &input.shape, &input.sharding, &bytes)
        };
        inputs.iter().zip(words).map(array).collect()
    }
}

impl Metrics {
    /// Waits for the step.
    ///
    /// # Errors
    /// What made the step fail.
    pub fn read(&self) -> Result<StepResult, runtime::Error> {
        let numbers = self.0.iter().map(scalar).collect::<Result<Vec<f64>, _>>()?;
        let number = |place: usize| numbers.get(place).copied().unwrap_or(f64::NAN);
        Ok(StepResult {
            loss: number(0),
            gradient_norm: number(1),
            tokens: number(2),
            skipped: number(3) != 0.0,
        })
    }
}

/// The number that an f32 scalar holds.
///
/// # Errors
/// What made the run fail that computes it.
pub fn scalar(array: &Array) -> Result<f64, runtime::Error> {
    let bytes = array.to_host()?;
    let number = bytes.first_chunk::<4>().map_or(f32::NAN, |bytes| f32::from_le_bytes(*bytes));
    Ok(f64::from(number))
}

fn gibibytes(bytes: &u64) -> String {
    format!("{:.2} GiB", *bytes as f64 / (1u64 << 30) as f64)
}

/// Some rows of a batch.
pub fn rows_of(batch: &Batch, rows: Range<usize>) -> Batch {
    let length = batch.sequence_length;
    let cut = |values: &[i32]| values[rows.start * length..rows.end * length].to_vec();
    Batch {
        rows: rows.len(),
        sequence_length: length,
        tokens: cut(&batch.tokens),
        targets: cut(&batch.targets),
        segments: cut(&batch.segments),
        positions: cut(&batch.positions),
    }
}

fn batch_field(batch: &Batch, place: usize) -> &[i32] {
    match place {
        0 => &batch.tokens,
        1 => &batch.targets,
        2 => &batch.segments,
        _ => &batch.positions,
    }
}

/// Fills the part `ranges` of a text argument, `[accumulation?, batch, seq]`; `field` gives rows of
/// the step's batch.
fn fill_rows<E>(
    input: &Input,
    ranges: &[Range<usize>],
    bytes: &mut [u8],
    mut field: impl FnMut(Range<usize>) -> Result<Vec<i32>, E>,
) -> Result<(), E> {
    let shape: &Shape = &input.shape;
    debug_assert_eq!((shape.dtype, input.role), (DType::S32, Role::Activation));
    let rows_per_part = shape.size("batch").unwrap_or(1);
    let (parts, rows) = match ranges {
        [parts, rows, _] => (parts.clone(), rows.clone()),
        [rows, _] => (0..1, rows.clone()),
        _ => (0..0, 0..0),
    };
    let mut places = bytes.as_chunks_mut::<4>().0.iter_mut();
    for part in parts {
        let first = part * rows_per_part;
        for (value, place) in
            field(first + rows.start..first + rows.end)?.into_iter().zip(&mut places)
        {
            *place = value.to_le_bytes();
        }
    }
    Ok(())
}

//! Programs on devices: arguments in, arrays out, without waiting.

use std::sync::atomic::{AtomicBool, Ordering};

use graph::{Input, Output, Program};
use pjrt::{Event, LoadedExecutable};

use crate::array::{Array, Shard};
use crate::compile::CompileInfo;
use crate::error::{Error, Result};
use crate::layout::IndexRange;
use crate::mesh::DeviceMesh;

/// A program that is loaded on the devices of a mesh.
#[derive(Debug)]
pub struct Executable {
    name: String,
    inputs: Vec<Input>,
    outputs: Vec<Output>,
    mesh: DeviceMesh,
    loaded: LoadedExecutable,
    info: CompileInfo,
    /// Whether a run has shown that donated memory is reused; every run of a program does the same.
    reuses_donations: AtomicBool,
    /// For each device that the plugin runs the program on, which of our shards is its.
    shard_of_device: Vec<usize>,
    /// The index ranges of every output's shards, in the order of shards.
    output_ranges: Vec<Vec<(usize, Vec<IndexRange>)>>,
}

/// An input of a run.
#[derive(Debug)]
pub enum Argument<'a> {
    /// Stays the caller's.
    Borrowed(&'a Array),
    /// Its memory goes to an output; the array is gone.
    Donated(Array),
}

impl<'a> From<&'a Array> for Argument<'a> {
    fn from(array: &'a Array) -> Argument<'a> {
        Argument::Borrowed(array)
    }
}

impl From<Array> for Argument<'_> {
    fn from(array: Array) -> Argument<'static> {
        Argument::Donated(array)
    }
}

impl Argument<'_> {
    fn array(&self) -> &Array {
        match self {
            Argument::Borrowed(array) => array,
            Argument::Donated(array) => array,
        }
    }
}

/// A run under way.
#[derive(Debug)]
#[must_use = "outputs arrive here"]
pub struct Run {
    /// Their contents may still be computed; programs can be given them at once.
    pub outputs: Vec<Array>,
    /// Completion on each device, to be awaited or waited for.
    pub done: Vec<Event>,
}

impl Run {
    /// Blocks until the run is complete.
    ///
    /// # Errors
    /// What made the run fail.
    pub fn wait(self) -> Result<Vec<Array>> {
        for event in &self.done {
            event.wait()?;
        }
        Ok(self.outputs)
    }

    /// Completes with the run, without blocking a thread.
    ///
    /// # Errors
    /// What made the run fail.
    pub async fn completed(self) -> Result<Vec<Array>> {
        for event in self.done {
            event.await?;
        }
        Ok(self.outputs)
    }
}

impl Executable {
    pub(crate) fn new(
        program: &Program,
        mesh: &DeviceMesh,
        loaded: LoadedExecutable,
        info: CompileInfo,
    ) -> Result<Executable> {
        // A plugin that copies instead of reusing would double the memory without a word. The figure is
        // the one from compiling: a plugin may have none of an executable that was only loaded. Where
        // there is no figure at all, the first run shows it.
        let donated_bytes = program.donated_bytes_per_device() as u64;
        if let Some(aliased_bytes) = info.memory.map(|memory| memory.alias_bytes)
            && aliased_bytes < donated_bytes
        {
            return Err(pjrt::Error::Donation { donated_bytes, aliased_bytes }.into());
        }
        let run_error = |reason: String| Error::Run { program: program.name.clone(), reason };
        let addressable: Vec<(usize, &pjrt::Device)> = mesh.addressable().collect();
        let devices = loaded.addressable_devices().iter();
        let shard_of_device = devices
            .map(|device| {
                let place = addressable.iter().position(|(_, ours)| ours.id() == device.id());
                place.ok_or_else(|| {
                    run_error(format!(
                        "it was compiled for device {}, which the mesh lacks",
                        device.id()
                    ))
                })
            })
            .collect::<Result<Vec<usize>>>()?;
        if shard_of_device.len() != addressable.len() {
            return Err(run_error(format!(
                "it was compiled for {} devices of this process, the mesh has {}",
                shard_of_device.len(),
                addressable.len()
            )));
        }
        let ranges = |output: &Output| {
            let sizes = output.shape.sizes();
            let shards = addressable.iter().map(|&(position, _)| {
                Ok((position, mesh.ranges(&sizes, &output.sharding, position)?))
            });
            shards.collect::<Result<Vec<_>>>()
        };
        Ok(Executable {
            name: program.name.clone(),
            output_ranges: program.outputs.iter().map(ranges).collect::<Result<_>>()?,
            inputs: program.inputs.clone(),
            outputs: program.outputs.clone(),
            mesh: mesh.clone(),
            loaded,
            info,
            reuses_donations: AtomicBool::new(false),
            shard_of_device,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn inputs(&self) -> &[Input] {
        &self.inputs
    }

    pub fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    pub fn mesh(&self) -> &DeviceMesh {
        &self.mesh
    }

    pub fn info(&self) -> &CompileInfo {
        &self.info
    }

    /// Starts a run and returns while it is under way; plugins do the work on threads of their own
    /// (the CPU plugins unless their client option `asynchronous` is turned off).
    ///
    /// # Errors
    /// [`Error::ArgumentCount`] and [`Error::Argument`] when the arguments are not what the program
    /// takes, [`Error::DonationUnused`] when the plugin did not take over an argument's memory, and
    /// what the plugin answers. What makes the run itself fail comes from its events.
    pub fn run(&self, arguments: Vec<Argument<'_>>) -> Result<Run> {
        self.check(&arguments)?;
        let devices = self.shard_of_device.len();
        let mut lists: Vec<Vec<pjrt::Argument<'_>>> = Vec::with_capacity(devices);
        lists.resize_with(devices, || Vec::with_capacity(arguments.len()));
        let donates = arguments.iter().any(|argument| matches!(argument, Argument::Donated(_)));
        for argument in arguments {
            match argument {
                Argument::Borrowed(array) => {
                    for (list, &shard) in lists.iter_mut().zip(&self.shard_of_device) {
                        list.push(pjrt::Argument::Borrowed(&array.shards()[shard].buffer));
                    }
                }
                Argument::Donated(array) => {
                    let mut shards: Vec<Option<Shard>> =
                        array.into_shards().into_iter().map(Some).collect();
                    for (list, &shard) in lists.iter_mut().zip(&self.shard_of_device) {
                        if let Some(shard) = shards[shard].take() {
                            list.push(pjrt::Argument::Donated(shard.buffer));
                        }
                    }
                }
            }
        }
        let execution = self.loaded.execute(lists)?;
        if donates && !self.reuses_donations.load(Ordering::Relaxed) {
            self.check_donations(&execution)?;
            self.reuses_donations.store(true, Ordering::Relaxed);
        }
        let outputs = self.collect(execution.outputs)?;
        Ok(Run { outputs, done: execution.done })
    }

    fn check_donations(&self, execution: &pjrt::Execution) -> Result<()> {
        let Some(unused) = execution.unused_donations.first() else { return Ok(()) };
        let argument = self.inputs.get(unused.argument).map(|input| input.name.clone());
        Err(Error::DonationUnused {
            program: self.name.clone(),
            argument: argument.unwrap_or_default(),
        })
    }

    fn check(&self, arguments: &[Argument<'_>]) -> Result<()> {
        if arguments.len() != self.inputs.len() {
            return Err(Error::ArgumentCount {
                program: self.name.clone(),
                expected: self.inputs.len(),
                given: arguments.len(),
            });
        }
        for (argument, input) in arguments.iter().zip(&self.inputs) {
            let array = argument.array();
            let wrong = |reason: String| Error::Argument {
                program: self.name.clone(),
                argument: input.name.clone(),
                reason,
            };
            if *array.shape() != input.shape {
                return Err(wrong(format!("it is {}, not {}", array.shape(), input.shape)));
            }
            if !array.mesh().is_same(&self.mesh) {
                let (theirs, ours) = (array.mesh().mesh(), self.mesh.mesh());
                return Err(wrong(format!("it lies on another mesh ({theirs}, not {ours})")));
            }
            if *array.sharding() != input.sharding {
                return Err(wrong("its sharding is not the program's".to_string()));
            }
            if matches!(argument, Argument::Donated(_)) && input.donated_to.is_none() {
                return Err(wrong(
                    "the program cannot reuse its memory; pass it by reference".to_string(),
                ));
            }
        }
        Ok(())
    }

    /// `outputs`: by device, then by position.
    fn collect(&self, outputs: Vec<Vec<pjrt::Buffer>>) -> Result<Vec<Array>> {
        let count = self.outputs.len();
        if let Some(list) = outputs.iter().find(|list| list.len() != count) {
            let reason = format!("it answered {} arrays instead of {count}", list.len());
            return Err(Error::Run { program: self.name.clone(), reason });
        }
        let mut buffers: Vec<Vec<Option<pjrt::Buffer>>> = Vec::with_capacity(count);
        buffers.resize_with(count, || {
            let mut shards = Vec::new();
            shards.resize_with(self.shard_of_device.len(), || None);
            shards
        });
        for (list, &shard) in outputs.into_iter().zip(&self.shard_of_device) {
            for (position, buffer) in list.into_iter().enumerate() {
                buffers[position][shard] = Some(buffer);
            }
        }
        let arrays = self.outputs.iter().zip(&self.output_ranges).zip(buffers);
        let arrays = arrays.map(|((output, ranges), buffers)| {
            let shards = ranges.iter().zip(buffers).filter_map(|((position, ranges), buffer)| {
                Some(Shard { position: *position, ranges: ranges.clone(), buffer: buffer? })
            });
            let (shape, sharding) = (output.shape.clone(), output.sharding.clone());
            Array::from_shards(&self.mesh, shape, sharding, shards.collect())
        });
        Ok(arrays.collect())
    }
}

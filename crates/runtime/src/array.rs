//! Arrays on devices: a global shape, a sharding, and the shards that this process can address.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;

use graph::{DType, Shape, Sharding};
use pjrt::{Buffer, ElementType, Event, HostMemory};

use crate::error::{Error, Result};
use crate::host_memory::AlignedBytes;
use crate::layout::{self, IndexRange};
use crate::mesh::DeviceMesh;

/// The plugin interface's name for an element type.
pub fn element_type(dtype: DType) -> ElementType {
    match dtype {
        DType::Bool => ElementType::Pred,
        DType::S8 => ElementType::S8,
        DType::S16 => ElementType::S16,
        DType::S32 => ElementType::S32,
        DType::S64 => ElementType::S64,
        DType::U8 => ElementType::U8,
        DType::U16 => ElementType::U16,
        DType::U32 => ElementType::U32,
        DType::U64 => ElementType::U64,
        DType::F16 => ElementType::F16,
        DType::Bf16 => ElementType::Bf16,
        DType::F32 => ElementType::F32,
        DType::F64 => ElementType::F64,
    }
}

/// The part of an array that one device holds.
#[derive(Debug)]
pub struct Shard {
    /// The device's place in the mesh, counted row-major.
    pub position: usize,
    /// Indices of the whole array, one range per dimension.
    pub ranges: Vec<IndexRange>,
    pub buffer: Buffer,
}

/// A copy of one part of an array to the host, under way. It does not borrow the array.
pub struct PartToHost {
    /// Indices of the whole array, one range per dimension.
    pub ranges: Vec<IndexRange>,
    transfer: pjrt::HostTransfer,
}

impl PartToHost {
    /// Blocks until the copy is complete and answers the part, row-major.
    ///
    /// # Errors
    /// What made the copy, or the work that fills the array, fail.
    pub fn wait(self) -> Result<Vec<u8>> {
        Ok(self.transfer.wait()?)
    }
}

/// An array over the devices of a mesh, of which this process holds some shards. Its contents may
/// still be on their way.
#[derive(Debug)]
pub struct Array {
    shape: Shape,
    sharding: Sharding,
    mesh: DeviceMesh,
    /// In the order of [`DeviceMesh::addressable`].
    shards: Vec<Shard>,
}

impl Array {
    pub(crate) fn from_shards(
        mesh: &DeviceMesh,
        shape: Shape,
        sharding: Sharding,
        shards: Vec<Shard>,
    ) -> Array {
        Array { shape, sharding, mesh: mesh.clone(), shards }
    }

    /// Copies `data`, the whole array row-major, onto the devices.
    ///
    /// # Errors
    /// [`Error::Length`], a sharding that does not suit, or what the plugin answers.
    pub fn from_host(
        mesh: &DeviceMesh,
        shape: &Shape,
        sharding: &Sharding,
        data: &[u8],
    ) -> Result<Array> {
        check_length(shape, data.len())?;
        let (sizes, bytes) = (shape.sizes(), shape.dtype.bytes());
        let mut part = Vec::new();
        Array::build(mesh, shape, sharding, |ranges, device, dimensions| {
            let length = layout::elements(ranges) * bytes;
            let data = if length == data.len() {
                data
            } else {
                part.resize(length, 0);
                layout::cut(data, &sizes, bytes, ranges, &mut part);
                &part
            };
            let kind = element_type(shape.dtype);
            Ok(mesh.client().buffer_from_slice(device, data, kind, dimensions)?)
        })
    }

    /// Uses `range` of `memory`, the whole array row-major, in place where the plugin can (a CPU
    /// plugin, if it starts at a multiple of 64 bytes and no dimension is split); else copies it.
    /// Nothing may change the memory as long as the array lives.
    ///
    /// # Errors
    /// As [`Array::from_host`].
    pub fn from_shared(
        mesh: &DeviceMesh,
        shape: &Shape,
        sharding: &Sharding,
        memory: &Arc<dyn HostMemory>,
        range: Range<usize>,
    ) -> Result<Array> {
        let bytes: &[u8] = (**memory).as_ref();
        let data = bytes
            .get(range.clone())
            .ok_or(Error::Length { expected: range.end, given: bytes.len() })?;
        check_length(shape, data.len())?;
        if layout::elements(&mesh.ranges(&shape.sizes(), sharding, 0)?) != shape.elements() {
            return Array::fill(mesh, shape, sharding, |ranges, part| {
                layout::cut(data, &shape.sizes(), shape.dtype.bytes(), ranges, part);
                Ok::<(), Error>(())
            });
        }
        Array::build(mesh, shape, sharding, |_, device, dimensions| {
            let (memory, kind) = (Arc::clone(memory), element_type(shape.dtype));
            let client = mesh.client();
            Ok(client.buffer_from_owned(device, memory, range.clone(), kind, dimensions)?)
        })
    }

    /// Lets `fill` write each shard, row-major, into memory that a CPU plugin then uses in place, so
    /// that weights are never held twice. It is told the shard's index ranges in the whole array,
    /// and is called once for shards that are the same on several devices.
    ///
    /// # Errors
    /// [`Error::Fill`] with what `fill` answered, or as [`Array::from_host`].
    pub fn fill<E: std::fmt::Display>(
        mesh: &DeviceMesh,
        shape: &Shape,
        sharding: &Sharding,
        mut fill: impl FnMut(&[IndexRange], &mut [u8]) -> std::result::Result<(), E>,
    ) -> Result<Array> {
        let mut filled: Vec<(Vec<IndexRange>, Arc<dyn HostMemory>)> = Vec::new();
        Array::build(mesh, shape, sharding, |ranges, device, dimensions| {
            let length = layout::elements(ranges) * shape.dtype.bytes();
            let known = filled.iter().find(|(of, _)| of == ranges);
            let memory = match known {
                Some((_, memory)) => Arc::clone(memory),
                None => {
                    let mut memory = AlignedBytes::zeroed(length);
                    fill(ranges, memory.as_mut())
                        .map_err(|error| Error::Fill { message: error.to_string() })?;
                    let memory: Arc<dyn HostMemory> = Arc::new(memory);
                    filled.push((ranges.to_vec(), Arc::clone(&memory)));
                    memory
                }
            };
            let (client, kind) = (mesh.client(), element_type(shape.dtype));
            Ok(client.buffer_from_owned(device, memory, 0..length, kind, dimensions)?)
        })
    }

    /// As [`Array::fill`], for an array that a program will be given as a donation: the plugin gets
    /// memory of its own, since what it only uses in place it cannot reuse.
    ///
    /// # Errors
    /// As [`Array::fill`].
    pub fn fill_copied<E: std::fmt::Display>(
        mesh: &DeviceMesh,
        shape: &Shape,
        sharding: &Sharding,
        mut fill: impl FnMut(&[IndexRange], &mut [u8]) -> std::result::Result<(), E>,
    ) -> Result<Array> {
        let mut filled: Vec<(Vec<IndexRange>, Vec<u8>)> = Vec::new();
        Array::build(mesh, shape, sharding, |ranges, device, dimensions| {
            let place = match filled.iter().position(|(of, _)| of == ranges) {
                Some(place) => place,
                None => {
                    let mut part = vec![0; layout::elements(ranges) * shape.dtype.bytes()];
                    fill(ranges, &mut part)
                        .map_err(|error| Error::Fill { message: error.to_string() })?;
                    filled.push((ranges.to_vec(), part));
                    filled.len() - 1
                }
            };
            let (client, kind) = (mesh.client(), element_type(shape.dtype));
            Ok(client.buffer_from_slice(device, &filled[place].1, kind, dimensions)?)
        })
    }

    /// An array of zeros, such as an empty KV cache. Each device gets memory of its own.
    ///
    /// # Errors
    /// As [`Array::from_host`].
    pub fn zeros(mesh: &DeviceMesh, shape: &Shape, sharding: &Sharding) -> Result<Array> {
        Array::build(mesh, shape, sharding, |ranges, device, dimensions| {
            let length = layout::elements(ranges) * shape.dtype.bytes();
            let (client, kind) = (mesh.client(), element_type(shape.dtype));
            Ok(client.buffer_from_slice(device, &vec![0; length], kind, dimensions)?)
        })
    }

    /// An array whose contents are of no matter, since all that is read of it is written before: what
    /// lay in its memory, or zeros where the plugin can only copy. On a CPU its memory is taken from the
    /// system bit by bit, as it comes to be used.
    ///
    /// # Errors
    /// As [`Array::from_host`].
    pub fn uninitialized(mesh: &DeviceMesh, shape: &Shape, sharding: &Sharding) -> Result<Array> {
        let made = Array::build(mesh, shape, sharding, |_, device, dimensions| {
            let kind = element_type(shape.dtype);
            Ok(mesh.client().uninitialized_buffer(device, kind, dimensions)?)
        });
        match made {
            Err(Error::Plugin(
                pjrt::Error::MissingFunction { .. }
                | pjrt::Error::Status { code: pjrt::Code::Unimplemented, .. },
            )) => Array::zeros(mesh, shape, sharding),
            made => made,
        }
    }

    fn build(
        mesh: &DeviceMesh,
        shape: &Shape,
        sharding: &Sharding,
        mut buffer: impl FnMut(&[IndexRange], &pjrt::Device, &[i64]) -> Result<Buffer>,
    ) -> Result<Array> {
        let sizes = shape.sizes();
        let mut shards = Vec::new();
        for (position, device) in mesh.addressable() {
            let ranges = mesh.ranges(&sizes, sharding, position)?;
            let dimensions: Vec<i64> = ranges.iter().map(|range| range.len() as i64).collect();
            let buffer = buffer(&ranges, device, &dimensions)?;
            shards.push(Shard { position, ranges, buffer });
        }
        Ok(Array { shape: shape.clone(), sharding: sharding.clone(), mesh: mesh.clone(), shards })
    }

    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    pub fn sharding(&self) -> &Sharding {
        &self.sharding
    }

    pub fn mesh(&self) -> &DeviceMesh {
        &self.mesh
    }

    /// The shards on this process's devices, in the mesh's order.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    pub(crate) fn into_shards(self) -> Vec<Shard> {
        self.shards
    }

    /// Completion of the work that fills each shard. Each event can be awaited or waited for.
    ///
    /// # Errors
    /// What the plugin answers.
    pub fn ready(&self) -> Result<Vec<Event>> {
        Ok(self.shards.iter().map(|shard| shard.buffer.ready()).collect::<pjrt::Result<_>>()?)
    }

    /// The whole array, row-major. Blocks until it is complete.
    ///
    /// # Errors
    /// [`Error::NotAddressable`] when other processes hold parts of it, and what made the work that
    /// fills it fail.
    pub fn to_host(&self) -> Result<Vec<u8>> {
        let mut parts = Vec::new();
        for (ranges, transfer) in self.start_to_host()? {
            parts.push((ranges, transfer.wait()?));
        }
        Ok(self.assembly().whole(parts))
    }

    /// As [`Array::to_host`], without blocking: the copies are started now, the future completes
    /// when they have. It does not borrow the array, which may be dropped or donated meanwhile.
    ///
    /// # Errors
    /// As [`Array::to_host`].
    pub fn to_host_async(&self) -> Result<impl Future<Output = Result<Vec<u8>>> + Send + 'static> {
        let transfers = self.start_to_host()?;
        let assembly = self.assembly();
        Ok(async move {
            let mut parts = Vec::new();
            for (ranges, transfer) in transfers {
                parts.push((ranges, transfer.await?));
            }
            Ok(assembly.whole(parts))
        })
    }

    /// Starts copying the parts that are this process's to save: of the devices that hold the same
    /// part, the mesh's first one's. Over all processes every element is copied exactly once. When
    /// the copies are complete, the array may be donated.
    ///
    /// # Errors
    /// What the plugin answers; what makes a copy fail comes from [`PartToHost::wait`].
    pub fn own_parts_to_host(&self) -> Result<Vec<PartToHost>> {
        let mesh = self.mesh.mesh();
        let first = |shard: &&Shard| {
            layout::is_first_holder(&self.shape, &self.sharding, mesh, shard.position)
        };
        let copy = |shard: &Shard| {
            let transfer = shard.buffer.to_host_async(Vec::new())?;
            Ok(PartToHost { ranges: shard.ranges.clone(), transfer })
        };
        self.shards.iter().filter(first).map(copy).collect()
    }

    /// One copy of each different shard.
    fn start_to_host(&self) -> Result<Vec<(Vec<IndexRange>, pjrt::HostTransfer)>> {
        let mut transfers: Vec<(Vec<IndexRange>, pjrt::HostTransfer)> = Vec::new();
        let mut elements = 0;
        for shard in &self.shards {
            if transfers.iter().any(|(ranges, _)| *ranges == shard.ranges) {
                continue;
            }
            elements += layout::elements(&shard.ranges);
            transfers.push((shard.ranges.clone(), shard.buffer.to_host_async(Vec::new())?));
        }
        if elements != self.shape.elements() {
            let mut processes: Vec<i32> =
                self.mesh.devices().iter().map(pjrt::Device::process_index).collect();
            processes.sort_unstable();
            processes.dedup();
            return Err(Error::NotAddressable { processes: processes.len() });
        }
        Ok(transfers)
    }

    fn assembly(&self) -> Assembly {
        let (element_bytes, bytes) = (self.shape.dtype.bytes(), self.shape.bytes());
        Assembly { sizes: self.shape.sizes(), element_bytes, bytes }
    }
}

/// What is needed to put an array's parts together when they have arrived.
struct Assembly {
    sizes: Vec<usize>,
    element_bytes: usize,
    bytes: usize,
}

impl Assembly {
    fn whole(&self, mut parts: Vec<(Vec<IndexRange>, Vec<u8>)>) -> Vec<u8> {
        if parts.len() == 1
            && let Some((_, whole)) = parts.pop()
        {
            return whole;
        }
        let mut whole = vec![0; self.bytes];
        for (ranges, part) in &parts {
            layout::place(part, &self.sizes, self.element_bytes, ranges, &mut whole);
        }
        whole
    }
}

fn check_length(shape: &Shape, given: usize) -> Result<()> {
    let expected = shape.bytes();
    if given == expected { Ok(()) } else { Err(Error::Length { expected, given }) }
}

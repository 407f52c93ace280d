//! Devices: what can be known about each, present or only described, and how full its memory is.

use std::sync::Arc;

use crate::client::ClientInner;
use crate::error::Result;
use crate::sys;
use crate::table::{Table, call, slice, text};
use crate::value::{self, Value};

/// What a plugin knows about a device, whether or not this process can reach it.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceDescription {
    /// Unique among all devices of all processes.
    pub id: i32,
    /// The process whose host the device is attached to.
    pub process_index: i32,
    /// The vendor's name for it, such as `TPU v5 lite`.
    pub kind: String,
    /// Vendor-specific facts, such as `coords` on a TPU.
    pub attributes: Vec<(String, Value)>,
    /// The plugin's own one-line description, for messages.
    pub debug_string: String,
}

impl DeviceDescription {
    /// The attribute of this name.
    pub fn attribute(&self, name: &str) -> Option<&Value> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// # Safety
    /// `raw` must be a live description of this plugin.
    pub(crate) unsafe fn read(
        table: Table,
        raw: *mut sys::DeviceDescription,
    ) -> Result<DeviceDescription> {
        // SAFETY: the caller vouches for the description; the text and the attributes it points to
        // live as long as it does, and are copied.
        unsafe {
            let id =
                call!(table, device_description_id, DeviceDescriptionId { description: raw })?.id;
            let process = call!(
                table,
                device_description_process_index,
                DeviceDescriptionProcessIndex { description: raw }
            )?;
            let kind =
                call!(table, device_description_kind, DeviceDescriptionKind { description: raw })?;
            let attributes = call!(
                table,
                device_description_attributes,
                DeviceDescriptionAttributes { description: raw }
            )?;
            let debug = call!(
                table,
                device_description_debug_string,
                DeviceDescriptionDebugString { description: raw }
            )?;
            Ok(DeviceDescription {
                id,
                process_index: process.process_index,
                kind: text(kind.kind, kind.kind_size),
                attributes: value::from_raw(attributes.attributes, attributes.num_attributes)?,
                debug_string: text(debug.text, debug.text_size),
            })
        }
    }
}

/// A device of a client. Cheap to clone; keeps its client alive.
#[derive(Clone)]
pub struct Device {
    pub(crate) client: Arc<ClientInner>,
    /// Place in the client's list of devices.
    pub(crate) index: usize,
}

/// What a client remembers of each of its devices.
pub(crate) struct DeviceEntry {
    pub(crate) raw: *mut sys::Device,
    pub(crate) description: DeviceDescription,
    pub(crate) is_addressable: bool,
    pub(crate) local_hardware_id: Option<i32>,
}

impl DeviceEntry {
    /// # Safety
    /// `raw` must be a device of a live client of this plugin.
    pub(crate) unsafe fn read(table: Table, raw: *mut sys::Device) -> Result<DeviceEntry> {
        // SAFETY: the caller vouches for the device, which owns its description.
        unsafe {
            let description =
                call!(table, device_get_description, DeviceGetDescription { device: raw })?;
            let addressable =
                call!(table, device_is_addressable, DeviceIsAddressable { device: raw })?;
            // Only devices of this process have one, and not on every platform.
            let local =
                call!(table, device_local_hardware_id, DeviceLocalHardwareId { device: raw });
            Ok(DeviceEntry {
                raw,
                description: DeviceDescription::read(table, description.description)?,
                is_addressable: addressable.is_addressable,
                local_hardware_id: local.ok().map(|local| local.local_hardware_id),
            })
        }
    }
}

impl Device {
    pub(crate) fn entry(&self) -> &DeviceEntry {
        &self.client.devices[self.index]
    }

    fn table(&self) -> Table {
        self.client.table
    }

    /// What the plugin knows about it.
    pub fn description(&self) -> &DeviceDescription {
        &self.entry().description
    }

    /// Unique among all devices of all processes.
    pub fn id(&self) -> i32 {
        self.description().id
    }

    /// The process whose host the device is attached to.
    pub fn process_index(&self) -> i32 {
        self.description().process_index
    }

    /// The vendor's name for it.
    pub fn kind(&self) -> &str {
        &self.description().kind
    }

    /// Vendor-specific facts.
    pub fn attributes(&self) -> &[(String, Value)] {
        &self.description().attributes
    }

    /// The plugin's own one-line description, for messages.
    pub fn debug_string(&self) -> &str {
        &self.description().debug_string
    }

    /// Whether this process can put buffers on it.
    pub fn is_addressable(&self) -> bool {
        self.entry().is_addressable
    }

    /// The number by which the host's own tools know it, such as the CUDA ordinal; none for a device of
    /// another process.
    pub fn local_hardware_id(&self) -> Option<i32> {
        self.entry().local_hardware_id
    }

    /// How full its memory is.
    ///
    /// # Errors
    /// Plugins for which memory is simply the host's answer [`Code::Unimplemented`](crate::Code).
    pub fn memory_stats(&self) -> Result<DeviceMemoryStats> {
        // SAFETY: the device lives as long as its client, which `self` keeps alive.
        let stats = unsafe {
            call!(self.table(), device_memory_stats, DeviceMemoryStats { device: self.entry().raw })
        }?;
        let given = |is_set: bool, value: i64| {
            is_set.then_some(value).and_then(|value| u64::try_from(value).ok())
        };
        Ok(DeviceMemoryStats {
            bytes_in_use: u64::try_from(stats.bytes_in_use).unwrap_or(0),
            peak_bytes_in_use: given(stats.peak_bytes_in_use_is_set, stats.peak_bytes_in_use),
            bytes_limit: given(stats.bytes_limit_is_set, stats.bytes_limit),
            bytes_reserved: given(stats.bytes_reserved_is_set, stats.bytes_reserved),
            bytes_reservable_limit: given(
                stats.bytes_reservable_limit_is_set,
                stats.bytes_reservable_limit,
            ),
            largest_free_block_bytes: given(
                stats.largest_free_block_bytes_is_set,
                stats.largest_free_block_bytes,
            ),
            largest_allocation_bytes: given(
                stats.largest_alloc_size_is_set,
                stats.largest_alloc_size,
            ),
            allocations: given(stats.num_allocs_is_set, stats.num_allocs),
        })
    }

    /// The memories that the device can reach, its own first if the plugin says so.
    ///
    /// # Errors
    /// Whatever the plugin answers.
    pub fn memories(&self) -> Result<Vec<Memory>> {
        // SAFETY: the device lives as long as its client, and the array as long as the device.
        let memories = unsafe {
            let answer = call!(
                self.table(),
                device_addressable_memories,
                DeviceAddressableMemories { device: self.entry().raw }
            )?;
            slice(answer.memories, answer.num_memories)
        };
        memories
            .iter()
            // SAFETY: the pointers are memories of this live client.
            .map(|&raw| unsafe { Memory::read(Arc::clone(&self.client), raw) })
            .collect()
    }

    /// The memory in which buffers are placed when nothing else is said.
    ///
    /// # Errors
    /// Whatever the plugin answers.
    pub fn default_memory(&self) -> Result<Memory> {
        // SAFETY: the device lives as long as its client, and so does its memory.
        unsafe {
            let answer = call!(
                self.table(),
                device_default_memory,
                DeviceDefaultMemory { device: self.entry().raw }
            )?;
            Memory::read(Arc::clone(&self.client), answer.memory)
        }
    }
}

impl PartialEq for Device {
    fn eq(&self, other: &Device) -> bool {
        self.index == other.index && Arc::ptr_eq(&self.client, &other.client)
    }
}

impl Eq for Device {}

impl std::fmt::Debug for Device {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.debug_string())
    }
}

/// How full a device's memory is. What a plugin does not say is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceMemoryStats {
    /// Bytes in use now.
    pub bytes_in_use: u64,
    /// The most bytes that were in use at once.
    pub peak_bytes_in_use: Option<u64>,
    /// Bytes that can be in use at most.
    pub bytes_limit: Option<u64>,
    /// Bytes set aside by the plugin.
    pub bytes_reserved: Option<u64>,
    /// Bytes that can be set aside at most.
    pub bytes_reservable_limit: Option<u64>,
    /// The largest array that could still be placed.
    pub largest_free_block_bytes: Option<u64>,
    /// The largest array placed so far.
    pub largest_allocation_bytes: Option<u64>,
    /// How many allocations were made.
    pub allocations: Option<u64>,
}

/// One memory that a device can reach: its own, or pinned memory of the host.
#[derive(Clone)]
pub struct Memory {
    pub(crate) client: Arc<ClientInner>,
    pub(crate) raw: *mut sys::Memory,
    id: i32,
    kind: String,
    debug_string: String,
}

// SAFETY: a memory belongs to its client, which is kept alive and may be used from any thread; the
// pointer is only handed back to the plugin.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// # Safety
    /// `raw` must be a memory of this client.
    pub(crate) unsafe fn read(client: Arc<ClientInner>, raw: *mut sys::Memory) -> Result<Memory> {
        // SAFETY: the caller vouches for the memory, which owns the text it points to.
        let (id, kind, debug_string) = unsafe {
            let id = call!(client.table, memory_id, MemoryId { memory: raw })?.id;
            let kind = call!(client.table, memory_kind, MemoryKind { memory: raw })?;
            let debug =
                call!(client.table, memory_debug_string, MemoryDebugString { memory: raw })?;
            (id, text(kind.kind, kind.kind_size), text(debug.text, debug.text_size))
        };
        Ok(Memory { client, raw, id, kind, debug_string })
    }

    /// Unique among the client's memories.
    pub fn id(&self) -> i32 {
        self.id
    }

    /// Its kind, such as `device`, `pinned_host` or `unpinned_host`.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The plugin's own one-line description, for messages.
    pub fn debug_string(&self) -> &str {
        &self.debug_string
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.debug_string)
    }
}

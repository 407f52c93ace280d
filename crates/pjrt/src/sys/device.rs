//! Devices, their descriptions and their memories.

use super::*;

arguments! {
    DeviceDescriptionId { description: *mut DeviceDescription, id: i32 }
    DeviceDescriptionProcessIndex { description: *mut DeviceDescription, process_index: i32 }
    DeviceDescriptionAttributes {
        description: *mut DeviceDescription,
        num_attributes: usize,
        attributes: *const NamedValue,
    }
    DeviceDescriptionKind { description: *mut DeviceDescription, kind: *const u8, kind_size: usize }
    DeviceDescriptionDebugString { description: *mut DeviceDescription, text: *const u8, text_size: usize }

    DeviceGetDescription { device: *mut Device, description: *mut DeviceDescription }
    DeviceIsAddressable { device: *mut Device, is_addressable: bool }
    DeviceLocalHardwareId { device: *mut Device, local_hardware_id: i32 }
    DeviceAddressableMemories { device: *mut Device, memories: *const *mut Memory, num_memories: usize }
    DeviceDefaultMemory { device: *mut Device, memory: *mut Memory }
    DeviceMemoryStats {
        device: *mut Device,
        bytes_in_use: i64,
        peak_bytes_in_use: i64,
        peak_bytes_in_use_is_set: bool,
        num_allocs: i64,
        num_allocs_is_set: bool,
        largest_alloc_size: i64,
        largest_alloc_size_is_set: bool,
        bytes_limit: i64,
        bytes_limit_is_set: bool,
        bytes_reserved: i64,
        bytes_reserved_is_set: bool,
        peak_bytes_reserved: i64,
        peak_bytes_reserved_is_set: bool,
        bytes_reservable_limit: i64,
        bytes_reservable_limit_is_set: bool,
        largest_free_block_bytes: i64,
        largest_free_block_bytes_is_set: bool,
        pool_bytes: i64,
        pool_bytes_is_set: bool,
        peak_pool_bytes: i64,
        peak_pool_bytes_is_set: bool,
    }

    MemoryId { memory: *mut Memory, id: i32 }
    MemoryKind { memory: *mut Memory, kind: *const u8, kind_size: usize }
    MemoryDebugString { memory: *mut Memory, text: *const u8, text_size: usize }
}

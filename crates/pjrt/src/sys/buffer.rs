//! Buffers: arrays in device memory, and the ways in and out of it.

use super::*;
use std::ffi::c_void;

/// The host data may be freed as soon as the call returns.
pub(crate) const IMMUTABLE_ONLY_DURING_CALL: i32 = 0;
/// The buffer may be the host data; the "done with host buffer" event fires when its memory is given up.
pub(crate) const IMMUTABLE_ZERO_COPY: i32 = 2;

arguments! {
    LayoutTiled {
        minor_to_major: *const i64,
        minor_to_major_size: usize,
        tile_dims: *const i64,
        tile_dim_sizes: *const usize,
        num_tiles: usize,
    }
    LayoutStrides { byte_strides: *const i64, num_byte_strides: usize }
    MemoryLayout { layout: LayoutUnion, layout_type: i32 }

    ClientBufferFromHostBuffer {
        client: *mut Client,
        data: *const c_void,
        element_type: i32,
        dims: *const i64,
        num_dims: usize,
        byte_strides: *const i64,
        num_byte_strides: usize,
        host_buffer_semantics: i32,
        device: *mut Device,
        memory: *mut Memory,
        device_layout: *mut MemoryLayout,
        done_with_host_buffer: *mut Event,
        buffer: *mut Buffer,
    }
    ClientCreateUninitializedBuffer {
        client: *mut Client,
        shape_dims: *const i64,
        shape_num_dims: usize,
        shape_element_type: i32,
        shape_layout: *mut MemoryLayout,
        device: *mut Device,
        memory: *mut Memory,
        buffer: *mut Buffer,
    }
    BufferDestroy { buffer: *mut Buffer }
    BufferElementType { buffer: *mut Buffer, element_type: i32 }
    BufferDimensions { buffer: *mut Buffer, dims: *const i64, num_dims: usize }
    BufferToHostBuffer {
        source: *mut Buffer,
        host_layout: *mut MemoryLayout,
        destination: *mut c_void,
        destination_size: usize,
        event: *mut Event,
    }
    BufferOnDeviceSizeInBytes { buffer: *mut Buffer, size_bytes: usize }
    BufferDelete { buffer: *mut Buffer }
    BufferIsDeleted { buffer: *mut Buffer, is_deleted: bool }
    BufferCopyToDevice { buffer: *mut Buffer, device: *mut Device, copy: *mut Buffer }
    BufferCopyToMemory { buffer: *mut Buffer, memory: *mut Memory, copy: *mut Buffer }
    BufferIsOnCpu { buffer: *mut Buffer, is_on_cpu: bool }
    BufferDevice { buffer: *mut Buffer, device: *mut Device }
    BufferMemory { buffer: *mut Buffer, memory: *mut Memory }
    BufferReadyEvent { buffer: *mut Buffer, event: *mut Event }
    BufferUnsafePointer { buffer: *mut Buffer, pointer: usize }
}

/// Which member holds is said by the layout's type: 0 for tiled, 1 for strides.
#[repr(C)]
pub(crate) union LayoutUnion {
    pub tiled: std::mem::ManuallyDrop<LayoutTiled>,
    pub strides: std::mem::ManuallyDrop<LayoutStrides>,
}

/// [`MemoryLayout`] holds a tiled (or dense) layout.
pub(crate) const LAYOUT_TILED: i32 = 0;

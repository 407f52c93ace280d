//! The C structs of the PJRT interface, field for field, for the part of it that this crate calls.
//!
//! Layout only: no function here calls a plugin, owns a handle or knows an error type. Field order is
//! that of OpenXLA's `pjrt_c_api.h`; the interface grows at the end of its structs only, and every
//! struct carries the size its author knew, so older and newer plugins read the same prefix.

mod api;
mod buffer;
mod client;
mod device;
mod event;
mod executable;
mod execute;

pub(crate) mod ffi;
mod topology;
mod value;

pub(crate) use api::*;
pub(crate) use buffer::*;
pub(crate) use client::*;
pub(crate) use device::*;
pub(crate) use event::*;
pub(crate) use executable::*;
pub(crate) use execute::*;
pub(crate) use topology::*;
pub(crate) use value::*;

/// A struct passed to a plugin by pointer, whose first field holds its own size.
///
/// # Safety
/// The type must be `#[repr(C)]`, begin with the `usize` that `new` fills in, and be valid when every
/// other byte is zero.
pub(crate) unsafe trait Arguments: Sized {
    /// Offset of the last field plus its size: what C calls the struct size, without trailing padding.
    const STRUCT_SIZE: usize;

    /// All zero, except for the size.
    fn new() -> Self {
        // SAFETY: the trait's contract says that all-zero bytes are a valid value.
        let mut arguments: Self = unsafe { std::mem::zeroed() };
        // SAFETY: the trait's contract says that the struct begins with its size, a `usize`.
        unsafe { (&raw mut arguments).cast::<usize>().write(Self::STRUCT_SIZE) };
        arguments
    }
}

/// Handles that only the plugin can look into.
macro_rules! opaque {
    ($($name:ident)*) => { $(
        #[repr(C)]
        pub(crate) struct $name {
            _private: [u8; 0],
            _not_send: std::marker::PhantomData<*mut u8>,
        }
    )* };
}

/// Declares argument structs: the two fields that all of them begin with, then the listed ones.
macro_rules! arguments {
    ($($name:ident { $($field:ident: $type:ty),* $(,)? })*) => { $(
        #[repr(C)]
        pub(crate) struct $name {
            pub struct_size: usize,
            pub extension_start: *mut crate::sys::ExtensionBase,
            $(pub $field: $type,)*
        }
        // SAFETY: `repr(C)`, begins with `struct_size`, and holds only integers, floats, booleans, raw
        // pointers, optional function pointers and structs of these, for all of which zero is valid.
        unsafe impl crate::sys::Arguments for $name {
            const STRUCT_SIZE: usize = {
                #[allow(unused_mut, unused_assignments)]
                let mut size = 2 * size_of::<usize>();
                $(size = std::mem::offset_of!($name, $field) + size_of::<$type>();)*
                size
            };
        }
    )* };
}

pub(crate) use arguments;

opaque! {
    Error Event Client Device Memory DeviceDescription TopologyDescription Executable LoadedExecutable
    Buffer ExecuteContext SerializedExecutable SerializedTopology DeviceAssignmentSerialized
}

/// Head of every entry in a plugin's linked list of extensions.
#[repr(C)]
pub(crate) struct ExtensionBase {
    pub struct_size: usize,
    pub extension_type: i32,
    pub next: *mut ExtensionBase,
}

/// Extension type of the foreign function interface (custom calls into native code).
pub(crate) const EXTENSION_TYPE_FFI: i32 = 5;

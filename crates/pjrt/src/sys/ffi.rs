//! The foreign function interface: PJRT's extension that registers native functions, and XLA's own
//! structs that those functions are called with (`xla/ffi/api/c_api.h`).

use std::ffi::c_void;

use super::*;

/// The extension as it hangs in a plugin's list. Check `base.struct_size` before reading a slot.
#[repr(C)]
pub(crate) struct FfiExtension {
    pub base: ExtensionBase,
    pub type_register: Unused,
    pub user_data_add: Unused,
    pub register_handler: Option<unsafe extern "C" fn(*mut c_void) -> *mut Error>,
}

/// Arguments of `register_handler`. Unlike all others, this struct has no list of extensions.
#[repr(C)]
pub(crate) struct RegisterHandler {
    pub struct_size: usize,
    pub target_name: *const u8,
    pub target_name_size: usize,
    pub handler: Handler,
    pub platform_name: *const u8,
    pub platform_name_size: usize,
    pub traits: u32,
}

/// As plugins had it before typed handlers became the only ones; longer, so that the two tell each
/// other apart by size.
#[repr(C)]
pub(crate) struct RegisterHandlerOld {
    pub struct_size: usize,
    pub target_name: *const u8,
    pub target_name_size: usize,
    pub api_version: i32,
    pub handler: Handler,
    pub platform_name: *const u8,
    pub platform_name_size: usize,
    pub traits: u32,
}

impl RegisterHandler {
    pub(crate) const STRUCT_SIZE: usize =
        std::mem::offset_of!(RegisterHandler, traits) + size_of::<u32>();
}

impl RegisterHandlerOld {
    pub(crate) const STRUCT_SIZE: usize =
        std::mem::offset_of!(RegisterHandlerOld, traits) + size_of::<u32>();
}

/// `api_version` of a handler that takes a call frame.
pub(crate) const TYPED_HANDLER: i32 = 1;

/// A native function: answers null or an error that it made through the frame's table.
pub(crate) type Handler = unsafe extern "C" fn(*mut CallFrame) -> *mut XlaError;

#[repr(C)]
pub(crate) struct XlaError {
    _private: [u8; 0],
}

#[repr(C)]
pub(crate) struct XlaVersion {
    pub struct_size: usize,
    pub extension_start: *mut ExtensionBase,
    pub major: i32,
    pub minor: i32,
}

/// The functions that a handler may call, as far as we do.
#[repr(C)]
pub(crate) struct XlaApi {
    pub struct_size: usize,
    pub extension_start: *mut ExtensionBase,
    pub version: XlaVersion,
    pub internal: *const c_void,
    pub error_create: Option<unsafe extern "C" fn(*mut ErrorCreate) -> *mut XlaError>,
}

#[repr(C)]
pub(crate) struct ErrorCreate {
    pub struct_size: usize,
    pub extension_start: *mut ExtensionBase,
    /// Ends with a zero byte.
    pub message: *const u8,
    pub code: i32,
}

impl ErrorCreate {
    pub(crate) const STRUCT_SIZE: usize =
        std::mem::offset_of!(ErrorCreate, code) + size_of::<i32>();
}

/// One call: inputs, outputs and attributes, or a question if it has the metadata extension.
#[repr(C)]
pub(crate) struct CallFrame {
    pub struct_size: usize,
    pub extension_start: *mut ExtensionBase,
    pub api: *const XlaApi,
    pub context: *mut c_void,
    pub stage: i32,
    pub inputs: CallBuffers,
    pub outputs: CallBuffers,
    pub attributes: CallAttributes,
}

/// Stage of a call in which there is data.
pub(crate) const STAGE_EXECUTE: i32 = 3;

/// Type of the extension by which XLA asks what a handler is.
pub(crate) const EXTENSION_METADATA: i32 = 1;

#[repr(C)]
pub(crate) struct MetadataExtension {
    pub base: ExtensionBase,
    pub metadata: *mut Metadata,
}

#[repr(C)]
pub(crate) struct Metadata {
    pub struct_size: usize,
    pub version: XlaVersion,
    pub traits: u32,
}

#[repr(C)]
pub(crate) struct CallBuffers {
    pub struct_size: usize,
    pub extension_start: *mut ExtensionBase,
    pub count: i64,
    pub types: *const i32,
    pub values: *const *const CallBuffer,
}

/// The only type of input and output that handlers of ours take.
pub(crate) const CALL_BUFFER: i32 = 1;

#[repr(C)]
pub(crate) struct CallBuffer {
    pub struct_size: usize,
    pub extension_start: *mut ExtensionBase,
    pub element_type: i32,
    pub data: *mut u8,
    pub rank: i64,
    pub dimensions: *const i64,
}

#[repr(C)]
pub(crate) struct CallAttributes {
    pub struct_size: usize,
    pub extension_start: *mut ExtensionBase,
    pub count: i64,
    pub types: *const i32,
    pub names: *const *const ByteSpan,
    pub values: *const *const c_void,
}

#[repr(C)]
pub(crate) struct ByteSpan {
    pub data: *const u8,
    pub size: usize,
}

#[repr(C)]
pub(crate) struct ScalarAttribute {
    pub element_type: i32,
    pub value: *const u8,
}

#[repr(C)]
pub(crate) struct ArrayAttribute {
    pub element_type: i32,
    pub count: usize,
    pub data: *const u8,
}

pub(crate) const ATTRIBUTE_ARRAY: i32 = 1;
pub(crate) const ATTRIBUTE_DICTIONARY: i32 = 2;
pub(crate) const ATTRIBUTE_SCALAR: i32 = 3;
pub(crate) const ATTRIBUTE_STRING: i32 = 4;

//! Native functions inside compiled programs: `stablehlo.custom_call @name(...)` with
//! `api_version = 4 : i32` calls a handler that was registered under that name.
//!
//! Handlers see buffers and attributes of one call, and nothing of clients, devices or executables.

mod attribute;
mod buffer;
mod trampoline;

pub use attribute::{FfiAttribute, FfiAttributes};
pub use buffer::{FfiBuffer, FfiBufferMut, FfiElement};

use crate::error::{Error, Result};
use crate::plugin::Plugin;
use crate::sys;
use crate::sys::ffi::{FfiExtension, Handler, RegisterHandler, RegisterHandlerOld, TYPED_HANDLER};

/// A native function that compiled programs can call.
///
/// It is a type and not a value, since the interface registers bare functions. What it needs beyond
/// its inputs and attributes it keeps in statics.
pub trait FfiHandler: 'static {
    /// Computes `outputs` from `inputs`. Runs on the plugin's threads, several calls at once. Outputs
    /// start with arbitrary contents, except one that the program lays in an input's memory
    /// (`output_operand_aliases`): it starts with what that input holds, and the input
    /// [says so](FfiBuffer::is_in_place) and cannot be read.
    ///
    /// # Errors
    /// A message that fails the run which the call is part of.
    fn call(
        inputs: &[FfiBuffer<'_>],
        outputs: &mut [FfiBufferMut<'_>],
        attributes: &FfiAttributes<'_>,
    ) -> std::result::Result<(), String>;
}

/// The platform whose buffers are host memory.
const HOST_PLATFORM: &str = "Host";

impl Plugin {
    /// Makes a handler known to programs under `name`, for the platform `Host`. Register before compiling,
    /// once per name: a second handler of that name is refused or ignored by the plugin.
    ///
    /// # Errors
    /// [`Error::MissingExtension`] from plugins without native calls, [`Error::InvalidInput`] for other
    /// platforms, whose buffers are not memory that a handler could read, and whatever the plugin
    /// answers.
    pub fn register_ffi_handler<H: FfiHandler>(&self, name: &str, platform: &str) -> Result<()> {
        if !platform.eq_ignore_ascii_case(HOST_PLATFORM) {
            return Err(Error::invalid(format!(
                "handlers run on host memory, so they can be registered for the platform {HOST_PLATFORM} and not for {platform}"
            )));
        }
        let register = self.ffi_register_function()?;
        let table = self.table();
        let handler: Handler = trampoline::call::<H>;
        let mut arguments = RegisterHandler {
            struct_size: RegisterHandler::STRUCT_SIZE,
            target_name: name.as_ptr(),
            target_name_size: name.len(),
            handler,
            platform_name: platform.as_ptr(),
            platform_name_size: platform.len(),
            traits: 0,
        };
        // SAFETY: the struct is filled in and outlives the call. A plugin that expects the longer, older
        // struct reads its size, which comes first, and refuses without reading on.
        let registered = unsafe { table.check(register((&raw mut arguments).cast())) };
        let Err(error) = registered else { return Ok(()) };
        if !is_size_refusal(&error) {
            return Err(error);
        }
        let mut arguments = RegisterHandlerOld {
            struct_size: RegisterHandlerOld::STRUCT_SIZE,
            target_name: name.as_ptr(),
            target_name_size: name.len(),
            api_version: TYPED_HANDLER,
            handler,
            platform_name: platform.as_ptr(),
            platform_name_size: platform.len(),
            traits: 0,
        };
        // SAFETY: the plugin has said that it expects a longer struct, and this is the only longer one.
        unsafe { table.check(register((&raw mut arguments).cast())) }
    }

    fn ffi_register_function(
        &self,
    ) -> Result<unsafe extern "C" fn(*mut std::ffi::c_void) -> *mut sys::Error> {
        let table = self.table();
        let missing = |extension| Error::MissingExtension { extension, version: table.version() };
        let extension = table
            .extension(sys::EXTENSION_TYPE_FFI)
            .ok_or_else(|| missing("foreign function interface"))?;
        // SAFETY: an extension begins with its size.
        let size = unsafe { (*extension).struct_size };
        let offset = std::mem::offset_of!(FfiExtension, register_handler);
        let function = if offset + size_of::<usize>() <= size {
            // SAFETY: an extension of this type has this layout, as far as its size reaches.
            unsafe { (&raw const (*extension.cast::<FfiExtension>()).register_handler).read() }
        } else {
            None
        };
        function.ok_or_else(|| missing("foreign function interface with handler registration"))
    }
}

/// Whether a plugin refused a struct for being shorter than the one it knows.
fn is_size_refusal(error: &Error) -> bool {
    matches!(error, Error::Status { message, .. } if message.contains("PJRT_FFI_Register_Handler_Args"))
}

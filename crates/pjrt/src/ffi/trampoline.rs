//! From the C function that XLA calls to the Rust function that a handler is.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::buffer::RawBuffer;
use super::{FfiAttributes, FfiBuffer, FfiBufferMut, FfiHandler};
use crate::error::Code;
use crate::sys::ffi::{self as sys, CallBuffers, CallFrame, XlaError};
use crate::table::slice;

/// The version of XLA's interface that the structs of `sys::ffi` are those of.
const VERSION: (i32, i32) = (0, 1);

/// What is registered for the handler `H`: one function per type, since the interface has no place
/// for a value to go with it.
pub(super) unsafe extern "C" fn call<H: FfiHandler>(frame: *mut CallFrame) -> *mut XlaError {
    // A panic must not cross into the plugin, so it becomes the run's failure.
    // SAFETY: XLA passes a frame that is live during the call.
    let outcome = catch_unwind(AssertUnwindSafe(|| unsafe { run::<H>(frame) }))
        .unwrap_or_else(|_| Err("the native function panicked".to_owned()));
    match outcome {
        Ok(()) => std::ptr::null_mut(),
        // SAFETY: as above.
        Err(message) => unsafe { raise(frame, message) },
    }
}

/// # Safety
/// `frame` must be a live call frame.
unsafe fn run<H: FfiHandler>(frame: *mut CallFrame) -> Result<(), String> {
    // SAFETY: passed on from the caller.
    if unsafe { answer_metadata(frame) } {
        return Ok(());
    }
    // SAFETY: passed on from the caller.
    let frame = unsafe { &*frame };
    // There is nothing to prepare, and no data before the last stage.
    if frame.stage != sys::STAGE_EXECUTE {
        return Ok(());
    }
    // SAFETY: the frame is live during the call.
    let (inputs, outputs) =
        unsafe { (read_buffers(&frame.inputs)?, read_buffers(&frame.outputs)?) };
    for (position, output) in outputs.iter().enumerate() {
        // Rust's references promise that what is written is nobody else's.
        if inputs.iter().chain(&outputs[..position]).any(|other| output.overlaps(other)) {
            return Err(format!(
                "output {position} shares memory with another buffer, which native functions do not allow: leave output_operand_aliases out"
            ));
        }
    }
    // SAFETY: the buffers' memory is there during the call; it is host memory, since handlers are
    // registered for the host only; outputs overlap nothing (checked above).
    let inputs: Vec<FfiBuffer<'_>> =
        inputs.into_iter().map(|input| unsafe { input.into_input() }).collect();
    let mut outputs: Vec<FfiBufferMut<'_>> =
        // SAFETY: as above.
        outputs.into_iter().map(|output| unsafe { output.into_output() }).collect();
    // SAFETY: the frame is live during the call.
    let attributes = unsafe { FfiAttributes::read(&raw const frame.attributes) };
    H::call(&inputs, &mut outputs, &attributes)
}

/// # Safety
/// `buffers` must belong to a call frame that is live for `'a`.
unsafe fn read_buffers<'a>(buffers: *const CallBuffers) -> Result<Vec<RawBuffer<'a>>, String> {
    // SAFETY: passed on from the caller; both arrays have `count` entries, and the type says what the
    // value points to.
    unsafe {
        let count = usize::try_from((*buffers).count).unwrap_or(0);
        let types = slice((*buffers).types, count);
        let values = slice((*buffers).values, count);
        types
            .iter()
            .zip(values)
            .map(|(&value_type, &value)| {
                if value_type != sys::CALL_BUFFER {
                    return Err(format!("an input or output is of unknown kind {value_type}"));
                }
                RawBuffer::read(value)
            })
            .collect()
    }
}

/// Answers the question what this handler is, if that is what the call is about: XLA asks once, when a
/// handler is registered.
///
/// # Safety
/// `frame` must be a live call frame.
unsafe fn answer_metadata(frame: *mut CallFrame) -> bool {
    // SAFETY: passed on from the caller; the list's entries are live as long as the frame, and the
    // type says what an entry is.
    unsafe {
        let mut next = (*frame).extension_start;
        while !next.is_null() {
            if (*next).extension_type == sys::EXTENSION_METADATA {
                let metadata = (*next.cast::<sys::MetadataExtension>()).metadata;
                if !metadata.is_null() {
                    (*metadata).version.major = VERSION.0;
                    (*metadata).version.minor = VERSION.1;
                    (*metadata).traits = 0;
                }
                return true;
            }
            next = (*next).next;
        }
        false
    }
}

/// # Safety
/// `frame` must be a live call frame.
unsafe fn raise(frame: *mut CallFrame, message: String) -> *mut XlaError {
    // The interface ends the message at a zero byte.
    let mut message: Vec<u8> = message.into_bytes().into_iter().filter(|&byte| byte != 0).collect();
    message.push(0);
    let mut arguments = sys::ErrorCreate {
        struct_size: sys::ErrorCreate::STRUCT_SIZE,
        extension_start: std::ptr::null_mut(),
        message: message.as_ptr(),
        code: Code::Internal.raw(),
    };
    // SAFETY: passed on from the caller; the table begins with its size, and the slot is read only if
    // it lies within; the arguments outlive the call, which copies the message.
    unsafe {
        let api = (*frame).api;
        let end = std::mem::offset_of!(sys::XlaApi, error_create) + size_of::<usize>();
        if api.is_null() || (*api).struct_size < end {
            return std::ptr::null_mut();
        }
        match (*api).error_create {
            Some(create) => create(&raw mut arguments),
            None => std::ptr::null_mut(),
        }
    }
}

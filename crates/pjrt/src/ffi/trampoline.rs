//! From the C function that XLA calls to the Rust function that a handler is.

use std::ops::Range;
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
    let in_place = inputs_in_place(
        &inputs.iter().map(RawBuffer::place).collect::<Vec<_>>(),
        &outputs.iter().map(RawBuffer::place).collect::<Vec<_>>(),
    )?;
    let inputs: Vec<FfiBuffer<'_>> = inputs
        .into_iter()
        .zip(in_place)
        .map(|(input, is_in_place)| match is_in_place {
            true => input.into_marker(),
            // SAFETY: the buffer's memory is there during the call; it is host memory, since handlers are
            // registered for the host only; no output shares any of it (just checked).
            false => unsafe { input.into_input() },
        })
        .collect();
    let mut outputs: Vec<FfiBufferMut<'_>> =
        // SAFETY: as above; and an input with the same memory has become a marker, which has none.
        outputs.into_iter().map(|output| unsafe { output.into_output() }).collect();
    // SAFETY: the frame is live during the call.
    let attributes = unsafe { FfiAttributes::read(&raw const frame.attributes) };
    H::call(&inputs, &mut outputs, &attributes)
}

/// Which inputs lie exactly where an output lies. Rust's references promise that what is written is nobody else's,
/// so nothing else may be shared: an output has the memory of one input, all of it and no more, or of none.
fn inputs_in_place(inputs: &[Range<usize>], outputs: &[Range<usize>]) -> Result<Vec<bool>, String> {
    let overlap = |a: &Range<usize>, b: &Range<usize>| {
        !a.is_empty() && !b.is_empty() && a.start < b.end && b.start < a.end
    };
    let mut in_place = vec![false; inputs.len()];
    for (position, output) in outputs.iter().enumerate() {
        let refused = |what: &str| {
            Err(format!(
                "output {position} shares memory with {what}, which native functions do not allow: an output may have the whole memory of one input, and of nothing else"
            ))
        };
        if outputs[..position].iter().any(|other| overlap(output, other)) {
            return refused("another output");
        }
        let mut sharing = inputs.iter().enumerate().filter(|(_, input)| overlap(output, input));
        match (sharing.next(), sharing.next()) {
            (None, _) => {}
            (Some((input, place)), None) if place == output => in_place[input] = true,
            (Some((input, _)), None) => return refused(&format!("a part of input {input}")),
            (Some(_), Some(_)) => return refused("several inputs"),
        }
    }
    Ok(in_place)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    #![allow(clippy::single_range_in_vec_init, reason = "one place is meant, not what lies in it")]

    use super::*;

    #[test]
    fn an_output_has_all_of_one_input_or_nothing_of_any() {
        assert_eq!(inputs_in_place(&[0..8, 8..16], &[16..24]).unwrap(), [false, false]);
        assert_eq!(inputs_in_place(&[0..8, 8..16], &[8..16, 0..8]).unwrap(), [true, true]);
        assert_eq!(inputs_in_place(&[4..4, 0..8], &[0..8, 4..4]).unwrap(), [false, true]);
        for (inputs, outputs, why) in [
            (vec![0..8], vec![0..4], "a part of input 0"),
            (vec![16..24, 0..4], vec![0..8], "a part of input 1"),
            (vec![0..8], vec![4..12], "a part of input 0"),
            (vec![0..8, 0..8], vec![0..8], "several inputs"),
            (vec![0..8, 4..12], vec![0..8], "several inputs"),
            (vec![0..8], vec![0..8, 0..8], "another output"),
            (vec![], vec![0..8, 7..9], "another output"),
        ] {
            let error = inputs_in_place(&inputs, &outputs).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}

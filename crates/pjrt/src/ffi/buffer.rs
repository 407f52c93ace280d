//! The inputs and outputs of one call.

use std::marker::PhantomData;
use std::ops::Range;

use crate::element_type::ElementType;
use crate::sys::ffi::CallBuffer;
use crate::table::slice;

/// Rust types that an element type can be read as. Types that Rust lacks are read as their bits: `Bf16` and
/// `F16` as `u16`, 8-bit floats and booleans as `u8`.
pub trait FfiElement: Copy + sealed::Sealed + 'static {
    /// Whether values of `element_type` can be read as this type.
    fn reads(element_type: ElementType) -> bool;
}

mod sealed {
    /// Only types for which every bit pattern is a value may be read from a program's memory.
    pub trait Sealed {}
}

macro_rules! elements {
    ($($rust:ty: $($name:ident)|+;)*) => { $(
        impl sealed::Sealed for $rust {}
        impl FfiElement for $rust {
            fn reads(element_type: ElementType) -> bool {
                matches!(element_type, $(ElementType::$name)|+)
            }
        }
    )* };
}

elements! {
    i8: S8;
    i16: S16;
    i32: S32;
    i64: S64;
    u8: U8 | Pred | F8E5m2 | F8E4m3fn | F8E4m3b11fnuz | F8E5m2fnuz | F8E4m3fnuz | F8E4m3 | F8E3m4 | F8E8m0fnu;
    u16: U16 | F16 | Bf16;
    u32: U32;
    u64: U64;
    f32: F32;
    f64: F64;
}

/// An input of a call: an array in host memory, row-major.
#[derive(Clone, Copy)]
pub struct FfiBuffer<'a> {
    element_type: ElementType,
    dimensions: &'a [i64],
    /// `None` where an output has the memory.
    bytes: Option<&'a [u8]>,
}

/// An output of a call, to be filled, or changed where it stands in an input's place.
pub struct FfiBufferMut<'a> {
    element_type: ElementType,
    dimensions: &'a [i64],
    bytes: &'a mut [u8],
}

/// A buffer of a call frame, before it is known whether it may be borrowed.
pub(super) struct RawBuffer<'a> {
    element_type: ElementType,
    dimensions: &'a [i64],
    data: *mut u8,
    size_bytes: usize,
    _frame: PhantomData<&'a CallBuffer>,
}

impl<'a> RawBuffer<'a> {
    /// # Safety
    /// `raw` must be a live buffer of a call frame, for as long as `'a`.
    pub(super) unsafe fn read(raw: *const CallBuffer) -> Result<RawBuffer<'a>, String> {
        // SAFETY: passed on from the caller; the buffer points to as many dimensions as its rank.
        let (raw, dimensions) = unsafe {
            let raw = &*raw;
            (raw, slice(raw.dimensions, usize::try_from(raw.rank).unwrap_or(0)))
        };
        let element_type = ElementType::from_ffi(raw.element_type)
            .ok_or_else(|| format!("a buffer is of unknown element type {}", raw.element_type))?;
        // Narrow types may be packed, so only the bytes that packing needs are certain to be there.
        let size_bytes = dimensions
            .iter()
            .try_fold(1usize, |count, &dimension| {
                count.checked_mul(usize::try_from(dimension).ok()?)
            })
            .and_then(|count| count.checked_mul(element_type.bits()))
            .ok_or_else(|| format!("a buffer of dimensions {dimensions:?} is larger than memory"))?
            .div_ceil(8);
        if raw.data.is_null() && size_bytes > 0 {
            return Err("a buffer that is not empty has no memory".to_owned());
        }
        Ok(RawBuffer { element_type, dimensions, data: raw.data, size_bytes, _frame: PhantomData })
    }

    /// The addresses of its memory.
    pub(super) fn place(&self) -> Range<usize> {
        let start = self.data.addr();
        start..start.saturating_add(self.size_bytes)
    }

    /// What is left of an input whose memory is an output's.
    pub(super) fn into_marker(self) -> FfiBuffer<'a> {
        FfiBuffer { element_type: self.element_type, dimensions: self.dimensions, bytes: None }
    }

    /// # Safety
    /// The memory must be readable, and unchanged, for `'a`.
    pub(super) unsafe fn into_input(self) -> FfiBuffer<'a> {
        // SAFETY: passed on from the caller.
        let bytes = unsafe { slice(self.data, self.size_bytes) };
        FfiBuffer {
            element_type: self.element_type,
            dimensions: self.dimensions,
            bytes: Some(bytes),
        }
    }

    /// # Safety
    /// The memory must be writable, and nobody else's, for `'a`.
    pub(super) unsafe fn into_output(self) -> FfiBufferMut<'a> {
        let bytes: &mut [u8] = if self.size_bytes == 0 {
            &mut []
        } else {
            // SAFETY: passed on from the caller.
            unsafe { std::slice::from_raw_parts_mut(self.data, self.size_bytes) }
        };
        FfiBufferMut { element_type: self.element_type, dimensions: self.dimensions, bytes }
    }
}

/// Why bytes cannot be read as `T`, if they cannot.
fn check_elements<T: FfiElement>(element_type: ElementType, bytes: &[u8]) -> Result<(), String> {
    let name = std::any::type_name::<T>();
    if !T::reads(element_type) {
        return Err(format!("a buffer of {element_type} cannot be read as {name}"));
    }
    if !bytes.is_empty() && !bytes.as_ptr().addr().is_multiple_of(align_of::<T>()) {
        return Err(format!("a buffer of {element_type} is not aligned for {name}"));
    }
    Ok(())
}

impl<'a> FfiBuffer<'a> {
    /// Type of the elements.
    pub fn element_type(&self) -> ElementType {
        self.element_type
    }

    /// Dimensions, outermost first.
    pub fn dimensions(&self) -> &'a [i64] {
        self.dimensions
    }

    /// Whether an output stands in this input's place, and has what it holds. Then nothing can be read here.
    pub fn is_in_place(&self) -> bool {
        self.bytes.is_none()
    }

    /// The array's bytes; none if it [is in place](FfiBuffer::is_in_place) of an output.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes.unwrap_or_default()
    }

    /// The array's elements.
    ///
    /// # Errors
    /// A message when the element type is not `T`'s, or the array [is in place](FfiBuffer::is_in_place) of an
    /// output.
    pub fn elements<T: FfiElement>(&self) -> Result<&'a [T], String> {
        let bytes = self.bytes.ok_or("an input in whose place an output stands is read there")?;
        check_elements::<T>(self.element_type, bytes)?;
        // SAFETY: `T` is as wide as the element type, aligned (both just checked), and every bit
        // pattern is a value of it.
        Ok(unsafe { slice(bytes.as_ptr().cast(), bytes.len() / size_of::<T>()) })
    }
}

impl FfiBufferMut<'_> {
    /// Type of the elements.
    pub fn element_type(&self) -> ElementType {
        self.element_type
    }

    /// Dimensions, outermost first.
    pub fn dimensions(&self) -> &[i64] {
        self.dimensions
    }

    /// The array's bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        self.bytes
    }

    /// The array's elements.
    ///
    /// # Errors
    /// A message when the element type is not `T`'s.
    pub fn elements<T: FfiElement>(&mut self) -> Result<&mut [T], String> {
        check_elements::<T>(self.element_type, self.bytes)?;
        if self.bytes.is_empty() {
            return Ok(&mut []);
        }
        let count = self.bytes.len() / size_of::<T>();
        // SAFETY: as in `FfiBuffer::elements`, and the bytes are borrowed mutably.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.bytes.as_mut_ptr().cast(), count) })
    }
}

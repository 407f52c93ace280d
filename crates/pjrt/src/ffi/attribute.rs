//! The attributes of one call: what a program's `backend_config = {...}` says.

use std::ffi::c_void;
use std::marker::PhantomData;

use crate::element_type::ElementType;
use crate::sys::ffi::{self as sys, ByteSpan, CallAttributes};
use crate::table::slice;

/// The attributes of a call, or of a dictionary among them.
#[derive(Clone, Copy)]
pub struct FfiAttributes<'a> {
    types: &'a [i32],
    names: &'a [*const ByteSpan],
    values: &'a [*const c_void],
    _frame: PhantomData<&'a CallAttributes>,
}

/// The value of an attribute.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub enum FfiAttribute<'a> {
    /// Text.
    String(&'a str),
    /// One number or boolean.
    Scalar {
        /// Its type.
        element_type: ElementType,
        /// Its bytes, in the machine's order.
        bytes: &'a [u8],
    },
    /// Several numbers.
    Array {
        /// Their type.
        element_type: ElementType,
        /// Their bytes, in the machine's order.
        bytes: &'a [u8],
    },
    /// Attributes within.
    Dictionary(FfiAttributes<'a>),
}

impl<'a> FfiAttributes<'a> {
    /// # Safety
    /// `raw` must be the attributes of a live call frame, for as long as `'a`.
    pub(super) unsafe fn read(raw: *const CallAttributes) -> FfiAttributes<'a> {
        // SAFETY: passed on from the caller; the three arrays have `count` entries each.
        unsafe {
            let count = usize::try_from((*raw).count).unwrap_or(0);
            FfiAttributes {
                types: slice((*raw).types, count),
                names: slice((*raw).names, count),
                values: slice((*raw).values, count),
                _frame: PhantomData,
            }
        }
    }

    /// The names of all attributes, sorted.
    pub fn names(&self) -> impl Iterator<Item = &'a str> {
        // SAFETY: the names live as long as the call frame.
        self.names.iter().map(|&name| unsafe { text(name) }.unwrap_or(""))
    }

    /// The attribute of this name, if there is one and it is of a known type.
    pub fn get(&self, name: &str) -> Option<FfiAttribute<'a>> {
        let position = self.names().position(|candidate| candidate == name)?;
        let value = *self.values.get(position)?;
        // SAFETY: the type says what the value points to, which lives as long as the call frame.
        unsafe {
            match *self.types.get(position)? {
                sys::ATTRIBUTE_STRING => Some(FfiAttribute::String(text(value.cast())?)),
                sys::ATTRIBUTE_SCALAR => {
                    let scalar = &*value.cast::<sys::ScalarAttribute>();
                    let element_type = ElementType::from_ffi(scalar.element_type)?;
                    Some(FfiAttribute::Scalar {
                        element_type,
                        bytes: slice(scalar.value, element_type.size_bytes()),
                    })
                }
                sys::ATTRIBUTE_ARRAY => {
                    let array = &*value.cast::<sys::ArrayAttribute>();
                    let element_type = ElementType::from_ffi(array.element_type)?;
                    let size_bytes = array.count.checked_mul(element_type.size_bytes())?;
                    Some(FfiAttribute::Array { element_type, bytes: slice(array.data, size_bytes) })
                }
                sys::ATTRIBUTE_DICTIONARY => {
                    Some(FfiAttribute::Dictionary(FfiAttributes::read(value.cast())))
                }
                _ => None,
            }
        }
    }

    /// The whole number of this name, from a scalar of any integer type that an `i64` holds.
    ///
    /// # Errors
    /// A message when there is none.
    pub fn integer(&self, name: &str) -> Result<i64, String> {
        let Some(FfiAttribute::Scalar { element_type, bytes }) = self.get(name) else {
            return Err(format!("the attribute `{name}` is missing or no number"));
        };
        let value = match (element_type, bytes) {
            (ElementType::S8, &[a]) => Some(i64::from(a.cast_signed())),
            (ElementType::U8 | ElementType::Pred, &[a]) => Some(i64::from(a)),
            (ElementType::S16, &[a, b]) => Some(i64::from(i16::from_ne_bytes([a, b]))),
            (ElementType::U16, &[a, b]) => Some(i64::from(u16::from_ne_bytes([a, b]))),
            (ElementType::S32, &[a, b, c, d]) => Some(i64::from(i32::from_ne_bytes([a, b, c, d]))),
            (ElementType::U32, &[a, b, c, d]) => Some(i64::from(u32::from_ne_bytes([a, b, c, d]))),
            (ElementType::S64, bytes) => bytes.try_into().ok().map(i64::from_ne_bytes),
            (ElementType::U64, bytes) => bytes
                .try_into()
                .ok()
                .and_then(|bytes| i64::try_from(u64::from_ne_bytes(bytes)).ok()),
            _ => None,
        };
        value.ok_or_else(|| format!("the attribute `{name}` is no whole number that 64 bits hold"))
    }

    /// The fraction of this name, from a scalar of type `f32` or `f64`.
    ///
    /// # Errors
    /// A message when there is none.
    pub fn float(&self, name: &str) -> Result<f64, String> {
        let value = match self.get(name) {
            Some(FfiAttribute::Scalar { element_type: ElementType::F32, bytes }) => {
                bytes.try_into().ok().map(|bytes| f64::from(f32::from_ne_bytes(bytes)))
            }
            Some(FfiAttribute::Scalar { element_type: ElementType::F64, bytes }) => {
                bytes.try_into().ok().map(f64::from_ne_bytes)
            }
            _ => None,
        };
        value.ok_or_else(|| format!("the attribute `{name}` is missing or no fraction"))
    }

    /// The text of this name.
    ///
    /// # Errors
    /// A message when there is none.
    pub fn string(&self, name: &str) -> Result<&'a str, String> {
        match self.get(name) {
            Some(FfiAttribute::String(text)) => Ok(text),
            _ => Err(format!("the attribute `{name}` is missing or no text")),
        }
    }
}

/// # Safety
/// `span` must be null or live, with its text, for as long as `'a`.
unsafe fn text<'a>(span: *const ByteSpan) -> Option<&'a str> {
    if span.is_null() {
        return None;
    }
    // SAFETY: passed on from the caller.
    std::str::from_utf8(unsafe { slice((*span).data, (*span).size) }).ok()
}

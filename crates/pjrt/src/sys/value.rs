//! Named values: options going in, attributes and cost figures coming out.

use super::*;

/// The value of a [`NamedValue`]; which member holds is said by its `value_type`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) union ValueUnion {
    pub string: *const u8,
    pub int64: i64,
    pub int64_list: *const i64,
    pub float: f32,
    pub boolean: bool,
}

arguments! {
    NamedValue {
        name: *const u8,
        name_size: usize,
        value_type: i32,
        value: ValueUnion,
        value_size: usize,
    }
}

pub(crate) const VALUE_STRING: i32 = 0;
pub(crate) const VALUE_INT64: i32 = 1;
pub(crate) const VALUE_INT64_LIST: i32 = 2;
pub(crate) const VALUE_FLOAT: i32 = 3;
pub(crate) const VALUE_BOOL: i32 = 4;

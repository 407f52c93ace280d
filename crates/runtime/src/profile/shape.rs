//! How large a value is: as written, and as it lies in memory, where layouts with tiles pad it.

use super::proto::Shape;

const TUPLE: i32 = 13;

/// `xla::PrimitiveType`: number, name, bits. What is not here (tuples, tokens) has no size.
const TYPES: [(i32, &str, u64); 30] = [
    (1, "pred", 8),
    (2, "s8", 8),
    (3, "s16", 16),
    (4, "s32", 32),
    (5, "s64", 64),
    (6, "u8", 8),
    (7, "u16", 16),
    (8, "u32", 32),
    (9, "u64", 64),
    (10, "f16", 16),
    (11, "f32", 32),
    (12, "f64", 64),
    (15, "c64", 64),
    (16, "bf16", 16),
    (18, "c128", 128),
    (19, "f8e5m2", 8),
    (20, "f8e4m3fn", 8),
    (21, "s4", 4),
    (22, "u4", 4),
    (23, "f8e4m3b11fnuz", 8),
    (24, "f8e5m2fnuz", 8),
    (25, "f8e4m3fnuz", 8),
    (26, "s2", 2),
    (27, "u2", 2),
    (28, "f8e4m3", 8),
    (29, "f8e3m4", 8),
    (30, "s1", 1),
    (31, "u1", 1),
    (32, "f4e2m1fn", 4),
    (33, "f8e8m0fnu", 8),
];

fn element(shape: &Shape) -> Option<&'static (i32, &'static str, u64)> {
    TYPES.iter().find(|(number, ..)| *number == shape.element_type)
}

impl Shape {
    /// The arrays of a value: itself, or what a tuple holds, at any depth.
    pub fn arrays(&self) -> Vec<&Shape> {
        match self.tuple_shapes.is_empty() {
            true => vec![self],
            false => self.tuple_shapes.iter().flat_map(Shape::arrays).collect(),
        }
    }

    pub fn elements(&self) -> u64 {
        product(self.dimensions.iter().map(|&size| size.max(0) as u64))
    }

    /// Bytes without padding, of all arrays.
    pub fn logical_bytes(&self) -> u64 {
        let bytes = |array: &Shape| array.elements().saturating_mul(array.bits()).div_ceil(8);
        self.arrays().into_iter().map(bytes).fold(0, u64::saturating_add)
    }

    /// Bytes in memory, of all arrays: the last dimensions are rounded up to the first tile. (Later
    /// tiles order what is within a tile and pad nothing more in the layouts that compilers choose.)
    pub fn stored_bytes(&self) -> u64 {
        self.arrays().into_iter().map(Shape::padded_bytes).fold(0, u64::saturating_add)
    }

    fn padded_bytes(&self) -> u64 {
        let layout = self.layout.as_ref();
        let Some(tile) = layout.and_then(|layout| layout.tiles.first()) else {
            return self.elements().saturating_mul(self.bits()).div_ceil(8);
        };
        let order = layout.map(|layout| layout.minor_to_major.as_slice()).unwrap_or_default();
        let rank = self.dimensions.len().max(tile.dimensions.len());
        let size = |place: usize| {
            let dimension = order.get(place).and_then(|&dimension| usize::try_from(dimension).ok());
            let size = dimension.and_then(|dimension| self.dimensions.get(dimension));
            let tile = tile.dimensions.iter().rev().nth(place);
            let tile = tile.map_or(1, |&tile| tile.max(1) as u64);
            let size = size.map_or(1, |&size| size.max(0) as u64);
            size.checked_next_multiple_of(tile).unwrap_or(u64::MAX)
        };
        product((0..rank).map(size)).saturating_mul(self.bits()).div_ceil(8)
    }

    fn bits(&self) -> u64 {
        let stated = self.layout.as_ref().map_or(0, |layout| layout.element_size_in_bits);
        match u64::try_from(stated) {
            Ok(bits) if bits > 0 => bits,
            _ => element(self).map_or(0, |&(_, _, bits)| bits),
        }
    }

    /// Bits of an element as the type says, whatever the layout packs.
    pub fn element_bits(&self) -> u64 {
        element(self).map_or(0, |&(_, _, bits)| bits)
    }

    /// Zero is the device's main memory; what others mean is the compiler's choice.
    pub fn memory_space(&self) -> i64 {
        self.layout.as_ref().map_or(0, |layout| layout.memory_space)
    }
}

fn product(sizes: impl Iterator<Item = u64>) -> u64 {
    sizes.fold(1, u64::saturating_mul)
}

/// As compilers print it: `bf16[8,2048]`.
impl std::fmt::Display for Shape {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.element_type == TUPLE {
            let parts: Vec<String> = self.tuple_shapes.iter().map(ToString::to_string).collect();
            return write!(formatter, "({})", parts.join(", "));
        }
        let name = element(self).map_or("?", |&(_, name, _)| name);
        let sizes: Vec<String> = self.dimensions.iter().map(ToString::to_string).collect();
        write!(formatter, "{name}[{}]", sizes.join(","))
    }
}

//! Sixteen numbers at a time, on whichever instructions the processor has: kernels are written once against
//! [`Simd`], and compiled once per [`Level`]. Knows no kernel.
//!
//! A value of a level's type is proof that the processor has its instructions, since only detection hands one
//! out. So its methods are safe to call.

mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;
#[cfg(target_arch = "x86_64")]
mod x86_avx2;
#[cfg(target_arch = "x86_64")]
mod x86_avx512;

use std::sync::OnceLock;

pub(crate) use portable::Portable;
#[cfg(target_arch = "x86_64")]
pub(crate) use {x86_avx2::Avx2, x86_avx512::Avx512};

/// Numbers in a vector.
pub(crate) const LANES: usize = 16;

/// Which instructions kernels run on. Each level rounds in its own way; within a level results are the same
/// bits always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Portable(Portable),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
}

impl Level {
    /// Those that this processor has, the plainest first.
    pub fn available() -> Vec<Level> {
        let mut levels = vec![Level(Kind::Portable(Portable))];
        #[cfg(target_arch = "x86_64")]
        {
            levels.extend(Avx2::detect().map(|level| Level(Kind::Avx2(level))));
            levels.extend(Avx512::detect().map(|level| Level(Kind::Avx512(level))));
        }
        levels
    }

    /// The fastest that this processor has.
    pub fn best() -> Level {
        static BEST: OnceLock<Level> = OnceLock::new();
        *BEST.get_or_init(|| Level::available().pop().unwrap_or(Level(Kind::Portable(Portable))))
    }

    /// Runs a kernel on these instructions.
    pub(crate) fn run<K: Kernel>(self, kernel: K) {
        match self.0 {
            Kind::Portable(level) => kernel.run(level),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(level) => level.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(level) => level.run(kernel),
        }
    }
}

/// Work that is written against [`Simd`]. `run`, and all that it calls with vectors, must be
/// `#[inline(always)]` and use no closures: only what is inlined is compiled for the level's instructions.
pub(crate) trait Kernel {
    fn run<S: Simd>(self, simd: S);
}

/// Vectors of [`LANES`] numbers and what can be done with them.
pub(crate) trait Simd: Copy {
    type Floats: Copy;
    type Ints: Copy;
    /// Four bytes per lane.
    type Bytes: Copy;

    /// Whether there are 32 registers that hold a whole vector each, or half as many for half of one.
    const IS_WIDE: bool;

    fn splat(self, value: f32) -> Self::Floats;
    fn load(self, from: &[f32; LANES]) -> Self::Floats;
    fn store(self, value: Self::Floats, to: &mut [f32; LANES]);
    fn add(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    fn sub(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    fn div(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    fn max(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    fn min(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a * b + c`.
    fn mul_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// To the nearest whole number, ties to even.
    fn round(self, a: Self::Floats) -> Self::Floats;
    /// Two to the power of whole numbers from -126 to 127.
    fn power_of_two(self, a: Self::Floats) -> Self::Floats;
    /// `value` where `a` is greater than `bound`, elsewhere zero.
    fn where_greater(self, a: Self::Floats, bound: f32, value: Self::Floats) -> Self::Floats;
    /// `a0 b0 a1 b1 ...`, as two vectors.
    fn zip(self, a: Self::Floats, b: Self::Floats) -> (Self::Floats, Self::Floats);

    fn load_f16(self, from: &[u16; LANES]) -> Self::Floats;
    fn load_bf16(self, from: &[u16; LANES]) -> Self::Floats;
    /// The first and the second of each lane's pair of bf16.
    fn load_bf16_pairs(self, from: &[u16; 2 * LANES]) -> (Self::Floats, Self::Floats);

    fn load_bytes(self, from: &[u8; 4 * LANES]) -> Self::Bytes;
    fn low_halves(self, bytes: Self::Bytes) -> Self::Bytes;
    fn high_halves(self, bytes: Self::Bytes) -> Self::Bytes;
    fn zero_ints(self) -> Self::Ints;
    /// Adds each lane's product of its four unsigned bytes with the four signed bytes of `word`.
    fn dot(self, sum: Self::Ints, bytes: Self::Bytes, word: i32) -> Self::Ints;
    /// As [`Simd::dot`], for bytes that are at most 15.
    fn dot_small(self, sum: Self::Ints, bytes: Self::Bytes, word: i32) -> Self::Ints;
    fn to_floats(self, ints: Self::Ints) -> Self::Floats;

    /// Asks for the memory from `at` on to be brought into the second cache, if there is any. The first would be full of
    /// it before it is used.
    #[inline(always)]
    fn prefetch<T>(self, from: &[T], at: usize) {
        #[cfg(target_arch = "x86_64")]
        if let Some(place) = from.get(at) {
            use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            // SAFETY: every x86-64 processor has the instruction, and it reads nothing.
            unsafe { _mm_prefetch::<_MM_HINT_T1>((&raw const *place).cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (from, at);
    }

    /// The lanes as an array.
    #[inline(always)]
    fn lanes(self, value: Self::Floats) -> [f32; LANES] {
        let mut lanes = [0.0; LANES];
        self.store(value, &mut lanes);
        lanes
    }

    /// The sum of all lanes, added in one fixed order.
    #[inline(always)]
    fn sum(self, value: Self::Floats) -> f32 {
        let mut lanes = self.lanes(value);
        let mut width = LANES / 2;
        while width > 0 {
            for lane in 0..width {
                lanes[lane] += lanes[lane + width];
            }
            width /= 2;
        }
        lanes[0]
    }

    /// The greatest lane.
    #[inline(always)]
    fn greatest(self, value: Self::Floats) -> f32 {
        let mut lanes = self.lanes(value);
        let mut width = LANES / 2;
        while width > 0 {
            for lane in 0..width {
                let (a, b) = (lanes[lane], lanes[lane + width]);
                lanes[lane] = if a > b { a } else { b };
            }
            width /= 2;
        }
        lanes[0]
    }

    /// Rows become columns.
    #[inline(always)]
    fn transpose(self, mut rows: [Self::Floats; LANES]) -> [Self::Floats; LANES] {
        // Zipping row i with row i + 8 rotates the eight bits of an element's place (four of its row,
        // four of its column) by one, so four rounds swap the two.
        for _ in 0..4 {
            let before = rows;
            for row in 0..LANES / 2 {
                let (low, high) = self.zip(before[row], before[row + LANES / 2]);
                rows[2 * row] = low;
                rows[2 * row + 1] = high;
            }
        }
        rows
    }
}

#[cfg(test)]
mod tests;

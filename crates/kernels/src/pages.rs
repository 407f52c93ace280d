//! Keys and values of attention, in pages of memory that sequences take as they grow. Knows no thread.

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};

/// The numbers of pages, to be read.
#[derive(Clone, Copy, Debug)]
pub enum Numbers<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// The bits of bf16.
    Bf16(&'a [u16]),
    /// The bits of half-precision numbers.
    F16(&'a [u16]),
}

/// The numbers of pages, to be written.
#[derive(Debug)]
pub enum NumbersMut<'a> {
    /// Single precision.
    F32(&'a mut [f32]),
    /// The bits of bf16.
    Bf16(&'a mut [u16]),
    /// The bits of half-precision numbers.
    F16(&'a mut [u16]),
}

/// The sizes of pages `[pages, page, kv_heads, head_dim]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageSizes {
    /// How many pages there are.
    pub pages: usize,
    /// Tokens in a page.
    pub page: usize,
    /// Heads of keys or values.
    pub kv_heads: usize,
    /// Numbers of a head.
    pub head_dim: usize,
}

impl PageSizes {
    /// Numbers of a token.
    pub(crate) fn token(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Numbers of all pages, if a `usize` holds that.
    pub(crate) fn numbers(&self) -> Option<usize> {
        self.pages.checked_mul(self.page)?.checked_mul(self.kv_heads)?.checked_mul(self.head_dim)
    }
}

impl Numbers<'_> {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        match self {
            Numbers::F32(numbers) => numbers.len(),
            Numbers::Bf16(numbers) | Numbers::F16(numbers) => numbers.len(),
        }
    }
}

impl NumbersMut<'_> {
    fn len(&self) -> usize {
        match self {
            NumbersMut::F32(numbers) => numbers.len(),
            NumbersMut::Bf16(numbers) | NumbersMut::F16(numbers) => numbers.len(),
        }
    }
}

/// Writes each token's numbers `[tokens, kv_heads, head_dim]` to its slot, which is its page times the tokens in a
/// page, plus its place there; rounded to nearest, ties to even. Slots that are negative or beyond the end are not
/// written.
///
/// # Errors
/// A message when sizes do not fit.
pub fn write_pages(
    tokens: &[f32],
    slots: &[i32],
    sizes: PageSizes,
    pages: &mut NumbersMut<'_>,
) -> Result<(), String> {
    let size = sizes.token();
    if sizes.numbers() != Some(pages.len()) || Some(tokens.len()) != slots.len().checked_mul(size) {
        return Err(format!(
            "{} numbers for {} slots do not fit pages of {sizes:?} with {} numbers",
            tokens.len(),
            slots.len(),
            pages.len()
        ));
    }
    if size == 0 {
        return Ok(());
    }
    for (token, &slot) in tokens.chunks_exact(size).zip(slots) {
        let Ok(slot) = usize::try_from(slot) else { continue };
        if slot >= sizes.pages * sizes.page {
            continue;
        }
        let place = slot * size..(slot + 1) * size;
        match pages {
            NumbersMut::F32(numbers) => numbers[place].copy_from_slice(token),
            NumbersMut::Bf16(numbers) => {
                numbers[place].reinterpret_cast_mut::<bf16>().convert_from_f32_slice(token);
            }
            NumbersMut::F16(numbers) => {
                numbers[place].reinterpret_cast_mut::<f16>().convert_from_f32_slice(token);
            }
        }
    }
    Ok(())
}

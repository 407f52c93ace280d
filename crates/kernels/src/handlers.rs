//! What compiled programs call: buffers and attributes of a call, checked and handed to the kernels.
//!
//! Shapes and attributes are those of the program, so whatever does not fit is answered with a sentence that
//! fails the run.

use pjrt::{ElementType, FfiAttributes, FfiBuffer, FfiBufferMut, FfiHandler, Plugin};

use crate::attention::{Pages, Queries, Scores, attention};
use crate::pages::{Numbers, NumbersMut, PageSizes, write_pages};
use crate::panels::{Factors, Matrix, Quantized, Values};
use crate::{Level, product, rms_norm};

/// The platform of handlers that read host memory.
const PLATFORM: &str = "Host";

/// Makes all kernels known to a CPU plugin's programs, as `fungible.panel_product`, `fungible.panel_rows`,
/// `fungible.write_pages` and `fungible.paged_attention`. To be called once per plugin, before programs are
/// compiled or loaded.
///
/// # Errors
/// A message when the plugin has no native calls, or refuses one.
pub fn register(plugin: &Plugin) -> Result<(), String> {
    if !plugin.has_ffi() {
        return Err("this plugin does not call native functions, so programs cannot use the kernels; use a newer CPU plugin".to_owned());
    }
    add::<PanelProduct>(plugin, "fungible.panel_product")?;
    add::<PanelRows>(plugin, "fungible.panel_rows")?;
    add::<WritePages>(plugin, "fungible.write_pages")?;
    add::<PagedAttention>(plugin, "fungible.paged_attention")?;
    add::<RmsNorm>(plugin, "fungible.rms_norm")
}

fn add<H: FfiHandler>(plugin: &Plugin, name: &str) -> Result<(), String> {
    plugin
        .register_ffi_handler::<H>(name, PLATFORM)
        .map_err(|error| format!("the plugin does not take the kernel `{name}`: {error}"))
}

/// `x f32 [m, k]`, a matrix's parts -> `f32 [m, n]`.
struct PanelProduct;

impl FfiHandler for PanelProduct {
    fn call(
        inputs: &[FfiBuffer<'_>],
        outputs: &mut [FfiBufferMut<'_>],
        _: &FfiAttributes<'_>,
    ) -> Result<(), String> {
        let ([x, parts @ ..], [out]) = (inputs, outputs) else {
            return Err(wrong_count("panel_product", "x, values(, scales, offsets)", "1"));
        };
        let ([m, k], [out_m, n]) = (sizes(x.dimensions())?, sizes(out.dimensions())?);
        if m != out_m {
            return Err(format!("panel_product has {m} rows of inputs and {out_m} of outputs"));
        }
        let matrix = matrix(parts, Some(n), k)?;
        product(Level::best(), x.elements()?, &matrix, out.elements()?)
    }
}

/// `ids s32 [t]`, a matrix's parts -> `f32 [t, k]`.
struct PanelRows;

impl FfiHandler for PanelRows {
    fn call(
        inputs: &[FfiBuffer<'_>],
        outputs: &mut [FfiBufferMut<'_>],
        _: &FfiAttributes<'_>,
    ) -> Result<(), String> {
        let ([ids, parts @ ..], [out]) = (inputs, outputs) else {
            return Err(wrong_count("panel_rows", "ids, values(, scales, offsets)", "1"));
        };
        let ([t], [out_t, k]) = (sizes(ids.dimensions())?, sizes(out.dimensions())?);
        if t != out_t {
            return Err(format!("panel_rows has {t} ids and {out_t} rows of outputs"));
        }
        let matrix = matrix(parts, None, k)?;
        for (id, row) in ids.elements::<i32>()?.iter().zip(out.elements()?.chunks_exact_mut(k)) {
            matrix.read_row(usize::try_from(*id).unwrap_or(usize::MAX), row);
        }
        Ok(())
    }
}

/// `key f32 [t, kv_heads, head_dim]`, `value` likewise, `slots s32 [t]`, `key_pages` and `value_pages
/// [pages, page, kv_heads, head_dim]`, both in place -> `key_pages`, `value_pages`.
struct WritePages;

impl FfiHandler for WritePages {
    fn call(
        inputs: &[FfiBuffer<'_>],
        outputs: &mut [FfiBufferMut<'_>],
        _: &FfiAttributes<'_>,
    ) -> Result<(), String> {
        let ([key, value, slots, pages @ ..], outputs @ [_, _]) = (inputs, outputs) else {
            return Err(wrong_count(
                "write_pages",
                "key, value, slots, key_pages, value_pages",
                "2",
            ));
        };
        let [t] = sizes(slots.dimensions())?;
        for ((tokens, pages), out) in
            [key, value].into_iter().zip(exactly::<2>(pages, "write_pages")?).zip(outputs)
        {
            let [tokens_t, token_heads, token_dim] = sizes(tokens.dimensions())?;
            let sizes = page_sizes(pages)?;
            if [t, sizes.kv_heads, sizes.head_dim] != [tokens_t, token_heads, token_dim] {
                return Err(format!(
                    "write_pages has {t} slots, tokens of {:?} and pages of {:?}",
                    tokens.dimensions(),
                    pages.dimensions()
                ));
            }
            let is_same = pages.dimensions() == out.dimensions()
                && pages.element_type() == out.element_type();
            if !is_same || (!pages.is_in_place() && sizes.numbers() != Some(0)) {
                return Err("write_pages changes pages in place: each output must be aliased with its pages (output_operand_aliases)".to_owned());
            }
            let mut numbers = match out.element_type() {
                ElementType::F32 => NumbersMut::F32(out.elements()?),
                ElementType::Bf16 => NumbersMut::Bf16(out.elements()?),
                ElementType::F16 => NumbersMut::F16(out.elements()?),
                other => return Err(unsupported_pages(other)),
            };
            write_pages(tokens.elements()?, slots.elements()?, sizes, &mut numbers)?;
        }
        Ok(())
    }
}

/// `query f32 [batch, seq, kv_heads, group, head_dim]`, `key_pages` and `value_pages [pages, page, kv_heads,
/// head_dim]`, `block_table s32 [batch, blocks]`, `positions s32 [batch, seq]` -> `f32` like `query`. Attributes:
/// `scale`, `window` and `soft_cap`.
struct PagedAttention;

impl FfiHandler for PagedAttention {
    fn call(
        inputs: &[FfiBuffer<'_>],
        outputs: &mut [FfiBufferMut<'_>],
        attributes: &FfiAttributes<'_>,
    ) -> Result<(), String> {
        let [query, keys, values, table, positions] = exactly(inputs, "paged_attention")?;
        let [out] = outputs else { return Err(wrong_count("paged_attention", "5", "1")) };
        let [batch, seq, kv_heads, group, head_dim] = sizes(query.dimensions())?;
        let ([table_batch, _], [position_batch, position_seq]) =
            (sizes(table.dimensions())?, sizes(positions.dimensions())?);
        let page_sizes = page_sizes(keys)?;
        let fits = query.dimensions() == out.dimensions()
            && keys.dimensions() == values.dimensions()
            && [kv_heads, head_dim] == [page_sizes.kv_heads, page_sizes.head_dim]
            && [batch, batch, seq] == [table_batch, position_batch, position_seq];
        if !fits {
            return Err(format!(
                "paged_attention has queries of {:?}, results of {:?}, keys of {:?}, values of {:?}, a table of {:?} and positions of {:?}, which do not fit together",
                query.dimensions(),
                out.dimensions(),
                keys.dimensions(),
                values.dimensions(),
                table.dimensions(),
                positions.dimensions()
            ));
        }
        let window = attributes.integer("window")?;
        let scores = Scores {
            scale: attributes.float("scale")? as f32,
            window: usize::try_from(window)
                .map_err(|_| format!("a window of {window} keys is none"))?,
            soft_cap: attributes.float("soft_cap")? as f32,
        };
        let queries = Queries {
            numbers: query.elements()?,
            batch,
            seq,
            group,
            positions: positions.elements()?,
        };
        let pages = Pages {
            sizes: page_sizes,
            keys: page_numbers(keys)?,
            values: page_numbers(values)?,
            table: table.elements()?,
        };
        attention(Level::best(), &queries, &pages, &scores, out.elements()?)
    }
}

/// `x f32 [.., k]`, `weight f32 [k]` -> `f32` like `x`. Attribute: `epsilon`.
struct RmsNorm;

impl FfiHandler for RmsNorm {
    fn call(
        inputs: &[FfiBuffer<'_>],
        outputs: &mut [FfiBufferMut<'_>],
        attributes: &FfiAttributes<'_>,
    ) -> Result<(), String> {
        let [x, weight] = exactly(inputs, "rms_norm")?;
        let [out] = outputs else { return Err(wrong_count("rms_norm", "2 inputs", "1")) };
        let epsilon = attributes.float("epsilon")? as f32;
        rms_norm(x.elements()?, weight.elements()?, epsilon, out.elements()?)
    }
}

fn wrong_count(kernel: &str, inputs: &str, outputs: &str) -> String {
    format!("{kernel} takes {inputs} and gives {outputs}; this call has other counts")
}

fn exactly<'a, 'b, const N: usize>(
    inputs: &'b [FfiBuffer<'a>],
    kernel: &str,
) -> Result<&'b [FfiBuffer<'a>; N], String> {
    inputs.try_into().map_err(|_| format!("{kernel} has {} inputs where {N} are due", inputs.len()))
}

fn sizes<const N: usize>(dimensions: &[i64]) -> Result<[usize; N], String> {
    let wrong = || format!("an array of dimensions {dimensions:?} stands where {N} are due");
    let dimensions: &[i64; N] = dimensions.try_into().map_err(|_| wrong())?;
    let mut sizes = [0; N];
    for (size, &dimension) in sizes.iter_mut().zip(dimensions) {
        *size = usize::try_from(dimension).map_err(|_| wrong())?;
    }
    Ok(sizes)
}

fn page_sizes(pages: &FfiBuffer<'_>) -> Result<PageSizes, String> {
    let [pages, page, kv_heads, head_dim] = sizes(pages.dimensions())?;
    Ok(PageSizes { pages, page, kv_heads, head_dim })
}

fn page_numbers<'a>(pages: &FfiBuffer<'a>) -> Result<Numbers<'a>, String> {
    match pages.element_type() {
        ElementType::F32 => Ok(Numbers::F32(pages.elements()?)),
        ElementType::Bf16 => Ok(Numbers::Bf16(pages.elements()?)),
        ElementType::F16 => Ok(Numbers::F16(pages.elements()?)),
        other => Err(unsupported_pages(other)),
    }
}

fn unsupported_pages(element_type: ElementType) -> String {
    format!("pages are of {element_type}, and only f32, bf16 and f16 are supported")
}

/// The matrix of `rows` times `columns` that is laid out in these buffers: whose kind follows from the first one's
/// type and rank. Without `rows`, all rows of its panels.
fn matrix<'a>(
    parts: &[FfiBuffer<'a>],
    rows: Option<usize>,
    columns: usize,
) -> Result<Matrix<'a>, String> {
    let Some(values) = parts.first() else {
        return Err("a matrix in panels has no values".to_owned());
    };
    let dimensions: Vec<usize> =
        values.dimensions().iter().filter_map(|&size| usize::try_from(size).ok()).collect();
    let expected = match (values.element_type(), dimensions.as_slice()) {
        (ElementType::F32, [_, _, _]) => vec![columns, 16],
        (ElementType::Bf16, [_, _, _, _]) => vec![columns / 2, 16, 2],
        (ElementType::U8, [_, _, 4, _, _]) => vec![columns / 32, 4, 16, 4],
        (ElementType::U8, [_, _, _, _, _]) => vec![columns / 32, 8, 16, 4],
        (other, _) => {
            return Err(format!("values of {other}{dimensions:?} are no panels of any known kind"));
        }
    };
    let panels = dimensions[0];
    if dimensions[1..] != expected || rows.is_some_and(|rows| rows.div_ceil(16) != panels) {
        return Err(format!(
            "values of {dimensions:?} are no panels of {columns} columns{}, which are [panels, {expected:?}]",
            rows.map(|rows| format!(" and {rows} rows")).unwrap_or_default()
        ));
    }
    let rows = rows.unwrap_or(panels * 16);
    let kind = match (values.element_type(), parts) {
        (ElementType::F32, [values]) => Values::F32(values.elements()?),
        (ElementType::Bf16, [values]) => Values::Bf16(values.elements()?),
        (ElementType::U8, [values, scales, offsets]) => {
            let [_, groups, _] = sizes(scales.dimensions())?;
            for factors in [scales, offsets] {
                if sizes(factors.dimensions())? != [panels, groups, 16] {
                    return Err(format!(
                        "scales of {:?} and offsets of {:?} do not fit {panels} panels",
                        scales.dimensions(),
                        offsets.dimensions()
                    ));
                }
            }
            let quantized = Quantized {
                numbers: values.elements()?,
                scales: factors(scales)?,
                offsets: factors(offsets)?,
                group: columns.checked_div(groups).unwrap_or(0),
            };
            if dimensions[2] == 4 { Values::Q4(quantized) } else { Values::Q8(quantized) }
        }
        _ => return Err(format!("a matrix of such values cannot have {} parts", parts.len())),
    };
    Matrix::new(rows, columns, kind)
}

fn factors<'a>(buffer: &FfiBuffer<'a>) -> Result<Factors<'a>, String> {
    match buffer.element_type() {
        ElementType::F32 => Ok(Factors::F32(buffer.elements()?)),
        ElementType::F16 => Ok(Factors::F16(buffer.elements()?)),
        other => {
            Err(format!("scales or offsets are of {other}, and only f32 and f16 are supported"))
        }
    }
}

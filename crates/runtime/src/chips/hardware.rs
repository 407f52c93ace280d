//! Reads what compilers are told of a chip: the legal slices of a TPU, the figures that XLA wants of
//! a GPU that is not there.

use super::document::{Section, Text};
use super::error::CatalogError;
use super::quantity::{BYTES, BYTES_PER_SECOND, Dimension, HERTZ};
use super::read::unknown_name;
use super::{Generation, Gpu, Slice};

/// A table whose keys are the bounds of slices and whose values are the parts of them on one host,
/// such as `"4x4" = "2x2"`.
pub(super) fn read_slices(section: &Section<'_>) -> Result<Vec<Slice>, CatalogError> {
    let mut slices = Vec::new();
    for bounds in section.keys() {
        let Some(host) = section.text(bounds.text)? else { continue };
        let (extent, part) = (extents(section, bounds)?, extents(section, host)?);
        let divides = extent.iter().zip(part).all(|(whole, part)| whole % part == 0);
        if !divides || bounds.text.split('x').count() != host.text.split('x').count() {
            let message = format!(
                "a slice of {} chips cannot be cut into hosts of {}",
                bounds.text, host.text
            );
            return Err(section.illegal(host.at, message));
        }
        let chips = extent.iter().product::<i64>() as usize;
        slices.push(Slice { chips, bounds: bounds.text.to_string(), host: part });
    }
    slices.sort_by_key(|slice| slice.chips);
    if let Some(pair) = slices.windows(2).find(|pair| pair[0].chips == pair[1].chips) {
        let message = format!(
            "both {} and {} are {} chips; keep one of them",
            pair[0].bounds, pair[1].bounds, pair[0].chips
        );
        return Err(section.illegal(section.at, message));
    }
    if slices.is_empty() {
        return Err(section.illegal(
            section.at,
            "a list of slices without any; add one, such as \"2x2\" = \"2x2\"",
        ));
    }
    Ok(slices)
}

/// `2x2x4` as numbers, with 1 for what is not there.
fn extents(section: &Section<'_>, text: Text<'_>) -> Result<[i64; 3], CatalogError> {
    let mut extents = [1; 3];
    let parts: Vec<&str> = text.text.split('x').collect();
    let read = |part: &str| part.parse::<i64>().ok().filter(|extent| (1..=1024).contains(extent));
    for (extent, part) in extents.iter_mut().zip(&parts) {
        match read(part) {
            Some(number) if (2..=3).contains(&parts.len()) => *extent = number,
            _ => {
                let message = format!(
                    "{:?} is no shape of chips; write two or three numbers, such as \"2x4\" or \"2x2x4\"",
                    text.text
                );
                return Err(section.illegal(text.at, message));
            }
        }
    }
    Ok(extents)
}

/// Memory and its bandwidth are the chip's own figures and filled in there.
pub(super) fn read_gpu(section: &Section<'_>) -> Result<Gpu, CatalogError> {
    section.only(&[
        "device",
        "generation",
        "cores",
        "l2_cache",
        "clock",
        "matrix_clock",
        "pcie",
        "dnn_version",
    ])?;
    let figure = |key: &'static str, dimension: Dimension| match section.quantity(key, dimension)? {
        Some((value, _, None)) => Ok(value),
        Some((.., Some(more))) => Err(section.illegal(
            more.at,
            format!("`{key}` is for the compiler: write it as a plain text with its unit"),
        )),
        None => Err(section.missing(key, "the compiler needs it")),
    };
    let device = section.required_text("device")?;
    // It becomes part of a text in which these would end it.
    if device.text.contains(|c: char| c == '"' || c == '\\' || c.is_control()) {
        let message = format!("a device cannot be called {:?}", device.text);
        return Err(section.illegal(device.at, message));
    }
    let generation = section.required_text("generation")?;
    let version = section.required_text("dnn_version")?;
    let numbers: Option<Vec<u32>> = version.text.split('.').map(|part| part.parse().ok()).collect();
    let Some(Ok(dnn_version)) = numbers.map(<[u32; 3]>::try_from) else {
        let message = format!("{:?} is no version; write it as \"9.10.0\"", version.text);
        return Err(section.illegal(version.at, message));
    };
    let Some(cores) = section.count("cores")? else {
        return Err(section.missing("cores", "the compiler needs it"));
    };
    Ok(Gpu {
        description: device.text.to_string(),
        generation: match generation.text {
            "ampere" => Generation::Ampere,
            "hopper" => Generation::Hopper,
            "blackwell" => Generation::Blackwell,
            _ => {
                let known = ["ampere", "hopper", "blackwell"].into_iter();
                return Err(unknown_name(section, "generation", generation, known));
            }
        },
        cores: cores as u32,
        memory_bytes: 0,
        memory_bandwidth_bytes_per_second: 0,
        l2_cache_bytes: figure("l2_cache", BYTES)? as u64,
        clock_gigahertz: figure("clock", HERTZ)? / 1e9,
        matrix_clock_gigahertz: figure("matrix_clock", HERTZ)? / 1e9,
        pcie_bandwidth_bytes_per_second: match section.has("pcie") {
            true => figure("pcie", BYTES_PER_SECOND)? as u64,
            false => 0,
        },
        dnn_version,
    })
}

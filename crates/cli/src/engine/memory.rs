//! How much of this machine's memory the KV cache of a model on its CPU may take.

use llm::ModelFiles;
use llm::programs::ProgramOptions;
use llm::weights::{PanelPart, WeightsError};
use runtime::host_memory;

use crate::console::gibibytes;
use crate::failure::{Exit, Failure};
use serve::engine::CPU_CACHE_BYTES;

/// A machine's memory; none where it does not tell.
pub struct Host {
    pub total_bytes: Option<u64>,
    pub available_bytes: Option<u64>,
}

impl Host {
    pub fn here() -> Host {
        Host {
            total_bytes: host_memory::total_bytes(),
            available_bytes: host_memory::available_bytes(),
        }
    }
}

/// Bytes of a model's weights once they are loaded.
pub fn weight_bytes(files: &ModelFiles, options: &ProgramOptions) -> Result<u64, WeightsError> {
    let mut bytes = 0;
    for name in files.checkpoint.names() {
        let info = files.checkpoint.info(name)?;
        let panels = options.panels.as_ref().and_then(|panels| panels.get(name));
        let size: usize = match panels {
            Some(packing) => [PanelPart::Values, PanelPart::Scales, PanelPart::Offsets]
                .map(|part| packing.bytes(info.rows(), info.row_elements(), part))
                .iter()
                .sum(),
            None => info.elements() * options.dtype.bytes(),
        };
        bytes += size as u64;
    }
    Ok(bytes)
}

/// Bytes that the cache may take: as many as were asked for if the machine has them; else, of what is free
/// beside the weights, three quarters, since programs and requests need some too.
///
/// # Errors
/// When weights and cache are more than there is.
pub fn cache_bytes(wanted: Option<u64>, weight_bytes: u64, host: &Host) -> Result<u64, Failure> {
    let weights = gibibytes(weight_bytes);
    let refuse = |text: String| Err(Failure::new(Exit::DoesNotFit, text));
    if let Some(wanted) = wanted {
        return match host.total_bytes {
            Some(total) if weight_bytes.saturating_add(wanted) > total => refuse(format!(
                "--kv-cache-memory is {}, but beside the weights ({weights}) this machine has only {}; ask for less",
                gibibytes(wanted),
                gibibytes(total.saturating_sub(weight_bytes)),
            )),
            _ => Ok(wanted),
        };
    }
    let Some(available) = host.available_bytes else { return Ok(CPU_CACHE_BYTES) };
    match available.checked_sub(weight_bytes) {
        Some(rest) if rest > 0 => Ok((rest / 4 * 3).min(CPU_CACHE_BYTES)),
        _ => refuse(format!(
            "the weights take {weights}, but only {} of memory are free; stop something else, take a smaller model or --quantization q4, or say with --kv-cache-memory how large the cache shall be",
            gibibytes(available),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn host(total: u64, available: u64) -> Host {
        Host { total_bytes: Some(total), available_bytes: Some(available) }
    }

    #[test]
    fn the_cache_takes_no_more_than_there_is() {
        let bytes = |wanted, host| cache_bytes(wanted, GIB, &host).ok();
        assert_eq!(bytes(None, host(64 * GIB, 60 * GIB)), Some(4 * GIB));
        assert_eq!(bytes(None, host(8 * GIB, 3 * GIB)), Some(GIB * 3 / 2));
        assert_eq!(bytes(None, host(8 * GIB, GIB)), None);
        assert_eq!(bytes(None, Host { total_bytes: None, available_bytes: None }), Some(4 * GIB));
        // What was asked for may be held by others now, but there must be so much.
        assert_eq!(bytes(Some(6 * GIB), host(8 * GIB, GIB)), Some(6 * GIB));
        let error = cache_bytes(Some(8 * GIB), GIB, &host(8 * GIB, GIB)).unwrap_err().to_string();
        assert!(error.contains("8.00 GiB") && error.contains("only 7.00 GiB"), "{error}");
    }
}

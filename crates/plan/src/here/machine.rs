//! What of this machine a measurement depends on.

use runtime::environment::{processor_features, processor_threads, required_environment};
use runtime::{CacheFolder, PluginLocation, cache};

/// What is taken for the processor's last cache where the system does not tell: that of a small server.
const CACHE_BYTES_ASSUMED: u64 = 32 << 20;

/// The largest cache of the first processor, where Linux tells.
pub fn cache_bytes() -> u64 {
    let folder = std::path::Path::new("/sys/devices/system/cpu/cpu0/cache");
    let size = |index: u32| {
        let text = std::fs::read_to_string(folder.join(format!("index{index}/size"))).ok()?;
        cache::parse_bytes(&text)
    };
    (0..8).filter_map(size).max().unwrap_or(CACHE_BYTES_ASSUMED)
}

/// Processor, threads and plugin, as a part of a cache key. Not what else the machine is busy with.
///
/// # Errors
/// When the plugin's library cannot be read.
pub fn identity(
    folder: &CacheFolder,
    location: &PluginLocation,
    devices: usize,
) -> Result<String, runtime::folders::FolderError> {
    let plugin = cache::plugin_digest(folder, &location.path)?;
    let threads = processor_threads(&required_environment(location, devices));
    Ok(format!("{plugin}\n{threads}\n{}", processor_features()))
}

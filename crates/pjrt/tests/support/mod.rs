//! What the tests share: finding plugins, one client per process, and compile options by hand.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use pjrt::{Client, ClientOptions, Plugin, Value};

/// Devices of every CPU client here: enough for a mesh, whatever the machine.
pub const DEVICES: usize = 8;

/// The CPU plugin's file: what `FUNGIBLE_CPU_PLUGIN` names, else one that was installed into the cache
/// folder.
pub fn cpu_plugin_path() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("FUNGIBLE_CPU_PLUGIN") {
        return Some(path.into());
    }
    let cache = std::env::var_os("FUNGIBLE_CACHE").map(PathBuf::from).or_else(|| {
        let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let base =
            base.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
        Some(base.join("fungible"))
    })?;
    find_cpu_plugin(&cache, 0)
}

fn find_cpu_plugin(folder: &Path, depth: usize) -> Option<PathBuf> {
    const NAMES: [&str; 3] = ["pjrt_c_api_cpu_plugin.so", "libpjrt_cpu.so", "xla_cpu_pjrt.so"];
    const DEEPEST: usize = 6;
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(folder).ok()?.filter_map(|e| Some(e.ok()?.path())).collect();
    entries.sort();
    let named = |path: &PathBuf| {
        path.file_name().is_some_and(|name| NAMES.iter().any(|known| name == *known))
    };
    if let Some(found) = entries.iter().find(|path| named(path)) {
        return Some(found.clone());
    }
    let folders = entries.iter().filter(|path| path.is_dir() && depth < DEEPEST);
    folders.filter_map(|path| find_cpu_plugin(path, depth + 1)).next()
}

/// Says on standard error that a test did nothing, and why. Not with `eprintln`, whose output the test
/// harness keeps to itself when a test passes.
pub fn skip(test: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
}

/// The CPU plugin, or `None` after saying so on standard error.
pub fn cpu_plugin(test: &str) -> Option<Plugin> {
    let Some(path) = cpu_plugin_path() else {
        skip(test, "no CPU plugin; install one or set FUNGIBLE_CPU_PLUGIN to its file");
        return None;
    };
    Some(Plugin::load(&path).unwrap())
}

/// The one CPU client of this test binary, with [`DEVICES`] devices.
pub fn cpu_client(test: &str) -> Option<Client> {
    static CLIENT: OnceLock<Mutex<Option<Client>>> = OnceLock::new();
    let plugin = cpu_plugin(test)?;
    let mut client =
        CLIENT.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    if client.is_none() {
        *client = Some(new_cpu_client(&plugin));
    }
    client.clone()
}

/// A new CPU client with [`DEVICES`] devices.
pub fn new_cpu_client(plugin: &Plugin) -> Client {
    // The plugin sizes its thread pool by this; with fewer threads than devices, collectives that wait
    // for each other never finish.
    const THREADS: &str = "NPROC";
    if std::env::var_os(THREADS).is_none() {
        // SAFETY: called under the lock above or before a test starts threads; the plugin reads it
        // while creating the client below.
        unsafe { std::env::set_var(THREADS, (2 * DEVICES).to_string()) };
    }
    let device_count = Value::Int64(DEVICES as i64);
    let options = vec![("cpu_device_count".to_owned(), device_count)];
    Client::create(plugin, &ClientOptions { options, ..ClientOptions::default() }).unwrap()
}

/// A serialized `CompileOptionsProto` for so many partitions of one replica, partitioned by Shardy.
///
/// Field numbers: `executable_build_options` 3; in it `num_replicas` 4, `num_partitions` 5,
/// `use_spmd_partitioning` 6, `device_assignment` 9, `use_shardy_partitioner` 19; in the assignment
/// `replica_count` 1, `computation_count` 2, `computation_devices` 3, whose `replica_device_ids` is 1.
pub fn compile_options(partitions: usize) -> Vec<u8> {
    let mut assignment = vec![0x08, 1];
    assignment.push(0x10);
    varint(&mut assignment, partitions as u64);
    for device in 0..partitions {
        let mut ids = Vec::new();
        varint(&mut ids, device as u64);
        let mut computation = Vec::new();
        bytes_field(&mut computation, 1, &ids);
        bytes_field(&mut assignment, 3, &computation);
    }
    let mut build = vec![0x20, 1, 0x28];
    varint(&mut build, partitions as u64);
    if partitions > 1 {
        build.extend([0x30, 1]);
        bytes_field(&mut build, 9, &assignment);
        build.extend([0x98, 0x01, 1]);
    }
    let mut options = Vec::new();
    bytes_field(&mut options, 3, &build);
    options
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn bytes_field(out: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    varint(out, number << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Bytes of some `f32`.
pub fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

/// The `f32` of some bytes.
pub fn f32_values(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|&chunk| f32::from_ne_bytes(chunk)).collect()
}

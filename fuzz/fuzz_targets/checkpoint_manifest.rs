//! Manifests of checkpoints. The checksum is made to fit, so that what comes behind it is reached.

#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use train::checkpoint::Checkpoints;
use xxhash_rust::xxh3::xxh3_128;

fuzz_target!(|text: &str| {
    let root = std::env::temp_dir().join(format!("fungible-fuzz-{}", std::process::id()));
    let folder = root.join("step-00000001");
    fs::create_dir_all(&folder).unwrap();
    let manifest = text.trim();
    let checksum = xxh3_128(manifest.as_bytes());
    let sealed = format!("{{\"checksum\":\"{checksum:032x}\",\"manifest\":{manifest}}}");
    fs::write(folder.join("manifest.json"), sealed).unwrap();
    let checkpoints = Checkpoints::open(root.to_str().unwrap()).unwrap();
    if let Ok(checkpoint) = checkpoints.at(1) {
        for array in checkpoint.arrays() {
            for chunk in &array.chunks {
                let ranges = array.ranges(chunk).into_iter().zip(&array.axes);
                assert!(ranges.into_iter().all(|(range, (_, size))| range.end <= *size));
            }
        }
    }
});

//! Compiled programs, as `fungible profile --hlo` reads them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use runtime::{Target, profile};

fuzz_target!(|bytes: &[u8]| {
    for name in ["v6e-1", "h100-8"] {
        let target: Target = name.parse().unwrap();
        if let Ok(profile) = profile::profile(bytes, &target) {
            assert!(profile.total_seconds >= 0.0);
        }
    }
});

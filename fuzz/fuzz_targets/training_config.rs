//! The TOML file of a training run: what is understood is printed such that it is read back the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use train::config::Config;

fuzz_target!(|text: &str| {
    if let Ok(config) = Config::parse(text, &[], "fuzz") {
        assert_eq!(Config::parse(&config.to_toml(), &[], "fuzz").unwrap(), config);
    }
});

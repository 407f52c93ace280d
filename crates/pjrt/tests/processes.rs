//! Clients that are told which process they are and how to reach the others, here as two clients of one
//! process.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::sync::Arc;

use pjrt::{Client, ClientOptions, Code, MemoryKeyValueStore, Process, ProcessOptionNames, Value};
use support::{cpu_plugin, skip};

#[test]
fn a_client_knows_which_process_it_is() {
    let test = "a_client_knows_which_process_it_is";
    let Some(plugin) = cpu_plugin(test) else { return };
    let store = Arc::new(MemoryKeyValueStore::new());
    let create = |index| {
        let options = ClientOptions {
            options: vec![("cpu_device_count".to_owned(), Value::Int64(2))],
            process: Some(Process { index, count: 2, names: ProcessOptionNames::CPU }),
            key_value_store: Some(store.clone()),
        };
        Client::create(&plugin, &options).unwrap()
    };
    let (first, second) = (create(0), create(1));
    if second.process_index().unwrap() == 0 {
        return skip(test, "this plugin ignores `process_id`");
    }
    assert_eq!((first.process_index().unwrap(), second.process_index().unwrap()), (0, 1));
    for device in second.devices() {
        assert_eq!(device.process_index(), 1);
        assert!(first.devices().iter().all(|other| other.id() != device.id()));
    }
}

/// Why the names of the options are part of [`Process`]: one plugin refuses the other's, naming whichever of
/// them it met first.
#[test]
fn an_option_of_another_plugin_is_refused_or_ignored() {
    let Some(plugin) = cpu_plugin("an_option_of_another_plugin_is_refused_or_ignored") else {
        return;
    };
    let process = Some(Process { index: 0, count: 1, names: ProcessOptionNames::GPU });
    match Client::create(&plugin, &ClientOptions { process, ..ClientOptions::default() }) {
        Ok(client) => assert_eq!(client.process_index().unwrap(), 0),
        Err(error) => {
            assert_eq!(error.code(), Some(Code::InvalidArgument));
            let text = error.to_string();
            assert!(["node_id", "num_nodes"].iter().any(|name| text.contains(name)), "{text}");
        }
    }
}

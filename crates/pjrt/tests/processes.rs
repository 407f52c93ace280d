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

/// What a CPU cannot do: the reason why each process trains on its own devices there.
#[test]
fn a_program_over_several_processes_is_refused_on_the_cpu() {
    let test = "a_program_over_several_processes_is_refused_on_the_cpu";
    let Some(plugin) = cpu_plugin(test) else { return };
    let options = ClientOptions {
        options: vec![("cpu_device_count".to_owned(), Value::Int64(2))],
        process: Some(Process { index: 1, count: 2, names: ProcessOptionNames::CPU }),
        key_value_store: Some(Arc::new(MemoryKeyValueStore::new())),
    };
    let client = Client::create(&plugin, &options).unwrap();
    if client.process_index().unwrap() == 0 {
        return skip(test, "this plugin ignores `process_id`");
    }
    let program = r#"module @twice attributes {mhlo.num_partitions = 2 : i32} {
  sdy.mesh @mesh = <["data"=2]>
  func.func @main(%x: tensor<2xf32> {sdy.sharding = #sdy.sharding<@mesh, [{"data"}]>}) -> tensor<2xf32> {
    %y = "stablehlo.add"(%x, %x) : (tensor<2xf32>, tensor<2xf32>) -> tensor<2xf32>
    "func.return"(%y) : (tensor<2xf32>) -> ()
  }
}"#;
    // Devices 0 and 1, which are the other process's.
    let error = client.compile(program, &support::compile_options(2)).unwrap_err();
    assert!(error.to_string().contains("Multiprocess computations aren't implemented"), "{error}");
}

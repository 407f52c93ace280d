//! How a program is compiled: partitions, devices and the plugin compiler's own options. Produces
//! the bytes of a `CompileOptionsProto`; knows nothing of the program.

use prost::Message;

use crate::proto::{
    CompileOptionsProto, ComputationDevice, DeviceAssignmentProto, ExecutableBuildOptionsProto,
    OptionOverrideProto, OptionValue,
};
use crate::settings::{Setting, Settings};

/// Options of one compilation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CompileOptions {
    /// Devices that the program is split over; 0 and 1 mean the same.
    pub partitions: usize,
    /// The device of each partition; empty leaves the choice to the plugin.
    pub device_ids: Vec<i64>,
    /// Options of the plugin's compiler; a later one of the same name wins.
    pub overrides: Settings,
}

impl CompileOptions {
    pub fn encode(&self) -> Vec<u8> {
        let partitions = self.partitions.max(1) as i64;
        let spmd = partitions > 1;
        let assigned = !self.device_ids.is_empty();
        let device_assignment = assigned.then(|| DeviceAssignmentProto {
            replica_count: 1,
            computation_count: self.device_ids.len() as i32,
            computation_devices: self
                .device_ids
                .iter()
                .map(|&id| ComputationDevice { replica_device_ids: vec![id] })
                .collect(),
        });
        let overrides = self.overrides.iter().filter_map(|(name, setting)| {
            let value = match setting {
                Setting::Text(text) => OptionValue::Text(text.clone()),
                Setting::Integer(integer) => OptionValue::Integer(*integer),
                Setting::Number(number) => OptionValue::Number(*number),
                Setting::Flag(flag) => OptionValue::Flag(*flag),
                // The message has no lists.
                Setting::Integers(_) => return None,
            };
            Some((name.clone(), OptionOverrideProto { value: Some(value) }))
        });
        CompileOptionsProto {
            executable_build_options: Some(ExecutableBuildOptionsProto {
                // Not set: the device assignment says where the program runs.
                device_ordinal: -1,
                num_replicas: 1,
                num_partitions: partitions,
                use_spmd_partitioning: spmd,
                device_assignment,
                use_shardy_partitioner: spmd,
            }),
            env_option_overrides: overrides.collect(),
        }
        .encode_to_vec()
    }
}

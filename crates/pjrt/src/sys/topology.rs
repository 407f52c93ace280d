//! Topologies: descriptions of devices that need not be present, and compiling for them.

use super::*;

arguments! {
    TopologyCreate {
        name: *const u8,
        name_size: usize,
        create_options: *const NamedValue,
        num_options: usize,
        topology: *mut TopologyDescription,
    }
    TopologyDestroy { topology: *mut TopologyDescription }
    TopologyPlatformName { topology: *const TopologyDescription, name: *const u8, name_size: usize }
    TopologyPlatformVersion {
        topology: *const TopologyDescription,
        version: *const u8,
        version_size: usize,
    }
    TopologyGetDeviceDescriptions {
        topology: *const TopologyDescription,
        descriptions: *const *mut DeviceDescription,
        num_descriptions: usize,
    }
    TopologySerialize {
        topology: *mut TopologyDescription,
        bytes: *const u8,
        bytes_size: usize,
        serialized: *mut SerializedTopology,
        deleter: Option<unsafe extern "C" fn(*mut SerializedTopology)>,
    }
    TopologyAttributes {
        topology: *mut TopologyDescription,
        attributes: *const NamedValue,
        num_attributes: usize,
    }
    Compile {
        topology: *const TopologyDescription,
        program: *const Program,
        compile_options: *const u8,
        compile_options_size: usize,
        client: *mut Client,
        executable: *mut Executable,
    }
}

//! Loaded executables, and running them.

use super::*;
use std::ffi::c_void;

arguments! {
    LoadedExecutableDestroy { executable: *mut LoadedExecutable }
    LoadedExecutableGetExecutable { loaded: *mut LoadedExecutable, executable: *mut Executable }
    LoadedExecutableAddressableDevices {
        executable: *mut LoadedExecutable,
        devices: *const *mut Device,
        num_devices: usize,
    }
    LoadedExecutableFingerprint {
        executable: *mut LoadedExecutable,
        fingerprint: *const u8,
        fingerprint_size: usize,
    }
    LoadedExecutableGetDeviceAssignment {
        executable: *mut LoadedExecutable,
        bytes: *const u8,
        bytes_size: usize,
        serialized: *mut DeviceAssignmentSerialized,
        deleter: Option<unsafe extern "C" fn(*mut DeviceAssignmentSerialized)>,
    }
    ExecuteOptions {
        send_callbacks: *mut *mut c_void,
        receive_callbacks: *mut *mut c_void,
        num_send_operations: usize,
        num_receive_operations: usize,
        launch_id: i32,
        non_donatable_input_indices: *const i64,
        num_non_donatable_input_indices: usize,
        context: *mut ExecuteContext,
        call_location: *const i8,
        num_tasks: usize,
        task_ids: *mut i32,
        incarnation_ids: *mut i64,
        multi_slice_config: *mut c_void,
    }
    LoadedExecutableExecute {
        executable: *mut LoadedExecutable,
        options: *mut ExecuteOptions,
        argument_lists: *const *const *mut Buffer,
        num_devices: usize,
        num_arguments: usize,
        output_lists: *const *mut *mut Buffer,
        device_complete_events: *mut *mut Event,
        execute_device: *mut Device,
    }
}

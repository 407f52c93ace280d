//! Creating clients, and what they answer; the key-value callbacks of multi-process clients.

use super::*;
use std::ffi::c_void;

/// Given to callbacks so that they can make an error for the plugin; copies the message.
pub(crate) type CallbackError =
    unsafe extern "C" fn(code: i32, message: *const u8, message_size: usize) -> *mut Error;

/// Frees the value that a callback returned.
pub(crate) type ValueDeleter = unsafe extern "C" fn(value: *mut u8);

pub(crate) type KeyValueGetCallback = unsafe extern "C" fn(*mut KeyValueGet) -> *mut Error;
pub(crate) type KeyValueTryGetCallback = unsafe extern "C" fn(*mut KeyValueTryGet) -> *mut Error;
pub(crate) type KeyValuePutCallback = unsafe extern "C" fn(*mut KeyValuePut) -> *mut Error;

arguments! {
    KeyValueGet {
        key: *const u8,
        key_size: usize,
        timeout_milliseconds: i32,
        callback_error: *mut CallbackError,
        user_argument: *mut c_void,
        value: *mut u8,
        value_size: usize,
        value_deleter: Option<ValueDeleter>,
    }
    KeyValueTryGet {
        key: *const u8,
        key_size: usize,
        callback_error: *mut CallbackError,
        user_argument: *mut c_void,
        value: *mut u8,
        value_size: usize,
        value_deleter: Option<ValueDeleter>,
    }
    KeyValuePut {
        key: *const u8,
        key_size: usize,
        value: *const u8,
        value_size: usize,
        callback_error: *mut CallbackError,
        user_argument: *mut c_void,
    }
    ClientCreate {
        create_options: *const NamedValue,
        num_options: usize,
        get_callback: Option<KeyValueGetCallback>,
        get_user_argument: *mut c_void,
        put_callback: Option<KeyValuePutCallback>,
        put_user_argument: *mut c_void,
        client: *mut Client,
        try_get_callback: Option<KeyValueTryGetCallback>,
        try_get_user_argument: *mut c_void,
    }
    ClientDestroy { client: *mut Client }
    ClientPlatformName { client: *mut Client, name: *const u8, name_size: usize }
    ClientProcessIndex { client: *mut Client, process_index: i32 }
    ClientPlatformVersion { client: *mut Client, version: *const u8, version_size: usize }
    ClientTopologyDescription { client: *mut Client, topology: *mut TopologyDescription }
    ClientDevices { client: *mut Client, devices: *const *mut Device, num_devices: usize }
    ClientAddressableDevices { client: *mut Client, devices: *const *mut Device, num_devices: usize }
    ClientDefaultDeviceAssignment {
        client: *mut Client,
        num_replicas: i32,
        num_partitions: i32,
        assignment_size: usize,
        assignment: *mut i32,
    }
    Program { code: *mut u8, code_size: usize, format: *const u8, format_size: usize }
    ClientCompile {
        client: *mut Client,
        program: *const Program,
        compile_options: *const u8,
        compile_options_size: usize,
        executable: *mut LoadedExecutable,
    }
}

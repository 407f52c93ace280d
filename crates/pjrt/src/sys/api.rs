//! The table of functions that a plugin hands out, in the order the interface fixes.
//!
//! Slots that this crate never calls are kept as `Unused`, since their place matters.

use super::*;

/// A function that takes one argument struct and answers null or an error to be destroyed.
pub(crate) type Function<A> = Option<unsafe extern "C" fn(*mut A) -> *mut Error>;

/// A function that cannot fail.
pub(crate) type Procedure<A> = Option<unsafe extern "C" fn(*mut A)>;

/// A slot that this crate does not call.
pub(crate) type Unused = Option<unsafe extern "C" fn()>;

/// The interface version that the plugin was built for.
#[repr(C)]
pub(crate) struct Version {
    pub struct_size: usize,
    pub extension_start: *mut ExtensionBase,
    pub major: i32,
    pub minor: i32,
}

/// What `GetPjrtApi` points to. A plugin's own table may be shorter or longer: only slots within its
/// `struct_size` may be read, so this struct is never dereferenced as a whole.
#[repr(C)]
pub(crate) struct Api {
    pub struct_size: usize,
    pub extension_start: *mut ExtensionBase,
    pub version: Version,

    pub error_destroy: Procedure<ErrorDestroy>,
    pub error_message: Procedure<ErrorMessage>,
    pub error_get_code: Function<ErrorGetCode>,

    pub plugin_initialize: Function<PluginInitialize>,
    pub plugin_attributes: Function<PluginAttributes>,

    pub event_destroy: Function<EventDestroy>,
    pub event_is_ready: Function<EventIsReady>,
    pub event_error: Function<EventError>,
    pub event_await: Function<EventAwait>,
    pub event_on_ready: Function<EventOnReady>,

    pub client_create: Function<ClientCreate>,
    pub client_destroy: Function<ClientDestroy>,
    pub client_platform_name: Function<ClientPlatformName>,
    pub client_process_index: Function<ClientProcessIndex>,
    pub client_platform_version: Function<ClientPlatformVersion>,
    pub client_devices: Function<ClientDevices>,
    pub client_addressable_devices: Function<ClientAddressableDevices>,
    pub client_lookup_device: Unused,
    pub client_lookup_addressable_device: Unused,
    pub client_addressable_memories: Unused,
    pub client_compile: Function<ClientCompile>,
    pub client_default_device_assignment: Function<ClientDefaultDeviceAssignment>,
    pub client_buffer_from_host_buffer: Function<ClientBufferFromHostBuffer>,

    pub device_description_id: Function<DeviceDescriptionId>,
    pub device_description_process_index: Function<DeviceDescriptionProcessIndex>,
    pub device_description_attributes: Function<DeviceDescriptionAttributes>,
    pub device_description_kind: Function<DeviceDescriptionKind>,
    pub device_description_debug_string: Function<DeviceDescriptionDebugString>,
    pub device_description_to_string: Unused,

    pub device_get_description: Function<DeviceGetDescription>,
    pub device_is_addressable: Function<DeviceIsAddressable>,
    pub device_local_hardware_id: Function<DeviceLocalHardwareId>,
    pub device_addressable_memories: Function<DeviceAddressableMemories>,
    pub device_default_memory: Function<DeviceDefaultMemory>,
    pub device_memory_stats: Function<DeviceMemoryStats>,

    pub memory_id: Function<MemoryId>,
    pub memory_kind: Function<MemoryKind>,
    pub memory_debug_string: Function<MemoryDebugString>,
    pub memory_to_string: Unused,
    pub memory_addressable_by_devices: Unused,

    pub executable_destroy: Function<ExecutableDestroy>,
    pub executable_name: Function<ExecutableName>,
    pub executable_num_replicas: Function<ExecutableCount>,
    pub executable_num_partitions: Function<ExecutableCount>,
    pub executable_num_outputs: Function<ExecutableCount>,
    pub executable_size_of_generated_code_in_bytes: Unused,
    pub executable_get_cost_analysis: Function<ExecutableGetCostAnalysis>,
    pub executable_output_memory_kinds: Function<ExecutableOutputMemoryKinds>,
    pub executable_optimized_program: Function<ExecutableOptimizedProgram>,
    pub executable_serialize: Function<ExecutableSerialize>,

    pub loaded_executable_destroy: Function<LoadedExecutableDestroy>,
    pub loaded_executable_get_executable: Function<LoadedExecutableGetExecutable>,
    pub loaded_executable_addressable_devices: Function<LoadedExecutableAddressableDevices>,
    pub loaded_executable_delete: Unused,
    pub loaded_executable_is_deleted: Unused,
    pub loaded_executable_execute: Function<LoadedExecutableExecute>,
    pub executable_deserialize_and_load: Function<ExecutableDeserializeAndLoad>,
    pub loaded_executable_fingerprint: Function<LoadedExecutableFingerprint>,

    pub buffer_destroy: Function<BufferDestroy>,
    pub buffer_element_type: Function<BufferElementType>,
    pub buffer_dimensions: Function<BufferDimensions>,
    pub buffer_unpadded_dimensions: Unused,
    pub buffer_dynamic_dimension_indices: Unused,
    pub buffer_get_memory_layout: Unused,
    pub buffer_on_device_size_in_bytes: Function<BufferOnDeviceSizeInBytes>,
    pub buffer_device: Function<BufferDevice>,
    pub buffer_memory: Function<BufferMemory>,
    pub buffer_delete: Function<BufferDelete>,
    pub buffer_is_deleted: Function<BufferIsDeleted>,
    pub buffer_copy_to_device: Function<BufferCopyToDevice>,
    pub buffer_to_host_buffer: Function<BufferToHostBuffer>,
    pub buffer_is_on_cpu: Function<BufferIsOnCpu>,
    pub buffer_ready_event: Function<BufferReadyEvent>,
    pub buffer_unsafe_pointer: Function<BufferUnsafePointer>,
    pub buffer_increase_external_reference_count: Unused,
    pub buffer_decrease_external_reference_count: Unused,
    pub buffer_opaque_device_memory_data_pointer: Unused,

    pub copy_to_device_stream: [Unused; 5],

    pub topology_create: Function<TopologyCreate>,
    pub topology_destroy: Function<TopologyDestroy>,
    pub topology_platform_name: Function<TopologyPlatformName>,
    pub topology_platform_version: Function<TopologyPlatformVersion>,
    pub topology_get_device_descriptions: Function<TopologyGetDeviceDescriptions>,
    pub topology_serialize: Function<TopologySerialize>,
    pub topology_attributes: Function<TopologyAttributes>,

    pub compile: Function<Compile>,

    pub executable_output_element_types: Function<ExecutableOutputElementTypes>,
    pub executable_output_dimensions: Function<ExecutableOutputDimensions>,
    pub buffer_copy_to_memory: Function<BufferCopyToMemory>,
    pub client_create_view_of_device_buffer: Unused,
    pub executable_fingerprint: Function<ExecutableFingerprint>,
    pub client_topology_description: Function<ClientTopologyDescription>,
    pub executable_get_compiled_memory_stats: Function<ExecutableGetCompiledMemoryStats>,
    pub memory_kind_id: Unused,
    pub execute_context_create: Unused,
    pub execute_context_destroy: Unused,
    pub buffer_copy_raw_to_host: Unused,
    pub async_host_to_device_transfer_manager: [Unused; 9],
    pub client_dma_map: Unused,
    pub client_dma_unmap: Unused,
    pub client_create_uninitialized_buffer: Function<ClientCreateUninitializedBuffer>,
    pub client_update_global_process_info: Unused,
    pub topology_deserialize: Unused,
    pub client_create_alias_buffer: Unused,
    pub client_fulfill_alias_buffer: Unused,
    pub loaded_executable_get_device_assignment: Function<LoadedExecutableGetDeviceAssignment>,
}

/// Signature of the one symbol that a plugin exports.
pub(crate) type GetPjrtApi = unsafe extern "C" fn() -> *const Api;

arguments! {
    PluginInitialize {}
    PluginAttributes { attributes: *const NamedValue, num_attributes: usize }
    ErrorDestroy { error: *mut Error }
    ErrorMessage { error: *const Error, message: *const u8, message_size: usize }
    ErrorGetCode { error: *const Error, code: i32 }
}

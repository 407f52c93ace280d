//! Clients: a plugin at work on the devices of this machine.

use std::sync::Arc;

use crate::device::{Device, DeviceEntry};
use crate::error::{Error, Result};
use crate::executable::Executable;
use crate::key_value::{self, KeyValueStore, Registration};
use crate::loaded::LoadedExecutable;
use crate::plugin::Plugin;
use crate::program;
use crate::sys;
use crate::table::{Table, call, slice, text};
use crate::topology::Topology;
use crate::value::{self, Value};

/// How a client is to be created.
///
/// Options are the plugin's own. Seen in use: the CPU plugins take `cpu_device_count` (whole number,
/// 4 if absent) and `process_id`; the CUDA plugin takes `node_id` and `num_nodes`, `visible_devices`,
/// `allocator`, `memory_fraction` and `preallocate`; libtpu finds its processes in the environment.
/// Newer plugins refuse an option that they do not know, older ones ignore it.
#[derive(Clone, Default)]
pub struct ClientOptions {
    /// The plugin's own options.
    pub options: Vec<(String, Value)>,
    /// This process among those that together form the client, when there are several.
    pub process: Option<Process>,
    /// How the processes find each other; needed by plugins that have no other way.
    pub key_value_store: Option<Arc<dyn KeyValueStore>>,
}

/// One process among several that form a client together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Which one this is, from 0.
    pub index: u32,
    /// How many there are.
    pub count: u32,
    /// What the plugin calls these two.
    pub names: ProcessOptionNames,
}

/// Names of the options by which a plugin learns about its processes; none where it takes no such
/// option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessOptionNames {
    /// For the index of this process.
    pub index: Option<&'static str>,
    /// For their number.
    pub count: Option<&'static str>,
}

impl ProcessOptionNames {
    /// Those of XLA's plugins for GPUs.
    pub const GPU: ProcessOptionNames =
        ProcessOptionNames { index: Some("node_id"), count: Some("num_nodes") };
    /// Those of XLA's plugins for CPUs.
    pub const CPU: ProcessOptionNames =
        ProcessOptionNames { index: Some("process_id"), count: None };
    /// Those of libtpu, which reads its environment instead.
    pub const TPU: ProcessOptionNames = ProcessOptionNames { index: None, count: None };
}

impl ClientOptions {
    /// The options, with the process written as the plugin wants it.
    fn all_options(&self) -> Vec<(String, Value)> {
        let mut options = self.options.clone();
        if let Some(process) = self.process {
            let pairs =
                [(process.names.index, process.index), (process.names.count, process.count)];
            let named =
                pairs.into_iter().filter_map(|(name, number)| Some((name?.to_owned(), number)));
            options.extend(named.map(|(name, number)| (name, Value::Int64(number.into()))));
        }
        options
    }
}

/// A plugin at work: owns devices, buffers and programs. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    pub(crate) inner: Arc<ClientInner>,
    devices: Arc<[Device]>,
    addressable_devices: Arc<[Device]>,
}

/// The handle, and what everything that belongs to the client keeps alive.
pub(crate) struct ClientInner {
    pub(crate) table: Table,
    pub(crate) raw: *mut sys::Client,
    pub(crate) devices: Vec<DeviceEntry>,
    /// Dropped after the client is destroyed, for the plugin may use it until then.
    _key_value_store: Option<Registration>,
}

// SAFETY: the interface asks of plugins that a client, its devices and what belongs to it may be used
// from any thread, several at once. The fields do not change after creation.
unsafe impl Send for ClientInner {}
// SAFETY: as above.
unsafe impl Sync for ClientInner {}

impl Drop for ClientInner {
    fn drop(&mut self) {
        // SAFETY: everything that belongs to the client holds a share of this struct, so it is the last
        // use. A client that cannot be destroyed leaks.
        let _ = unsafe { call!(self.table, client_destroy, ClientDestroy { client: self.raw }) };
    }
}

impl Client {
    /// Starts the plugin on the devices of this machine, which most plugins do once per process.
    ///
    /// # Errors
    /// Whatever the plugin answers, such as that there is no such device.
    pub fn create(plugin: &Plugin, options: &ClientOptions) -> Result<Client> {
        let table = plugin.table();
        let store = options.key_value_store.clone().map(Registration::new);
        let user_argument =
            store.as_ref().map_or(std::ptr::null_mut(), Registration::user_argument);
        let options = options.all_options();
        let raw_options = value::to_raw(&options);
        // SAFETY: the options outlive the call; the store outlives the client (see `ClientInner`).
        let answer = unsafe {
            call!(
                table,
                client_create,
                ClientCreate {
                    create_options: raw_options.as_ptr(),
                    num_options: raw_options.len(),
                    get_callback: store
                        .is_some()
                        .then_some(key_value::get as sys::KeyValueGetCallback),
                    get_user_argument: user_argument,
                    put_callback: store
                        .is_some()
                        .then_some(key_value::put as sys::KeyValuePutCallback),
                    put_user_argument: user_argument,
                    try_get_callback: store
                        .is_some()
                        .then_some(key_value::try_get as sys::KeyValueTryGetCallback),
                    try_get_user_argument: user_argument,
                }
            )
        }?;
        if answer.client.is_null() {
            return Err(Error::broken("it created a client that is null"));
        }
        // From here on the client is destroyed when something fails.
        let mut inner =
            ClientInner { table, raw: answer.client, devices: Vec::new(), _key_value_store: store };
        // SAFETY: the client is live, and owns the array and the devices in it.
        let (devices, addressable) = unsafe {
            let all = call!(table, client_devices, ClientDevices { client: inner.raw })?;
            let near = call!(
                table,
                client_addressable_devices,
                ClientAddressableDevices { client: inner.raw }
            )?;
            (slice(all.devices, all.num_devices), slice(near.devices, near.num_devices))
        };
        for &device in devices {
            // SAFETY: a device of this live client.
            inner.devices.push(unsafe { DeviceEntry::read(table, device) }?);
        }
        let inner = Arc::new(inner);
        let addressable_devices = addressable
            .iter()
            .map(|&device| inner.device(device))
            .collect::<Result<Vec<_>>>()?
            .into();
        let devices = (0..inner.devices.len())
            .map(|index| Device { client: Arc::clone(&inner), index })
            .collect();
        Ok(Client { inner, devices, addressable_devices })
    }

    /// Name of the platform, such as `cpu`, `cuda` or `tpu`.
    ///
    /// # Errors
    /// Whatever the plugin answers.
    pub fn platform_name(&self) -> Result<String> {
        // SAFETY: the client is live and owns the text.
        unsafe {
            let answer = call!(
                self.inner.table,
                client_platform_name,
                ClientPlatformName { client: self.inner.raw }
            )?;
            Ok(text(answer.name, answer.name_size))
        }
    }

    /// The vendor's version text, for people to read.
    ///
    /// # Errors
    /// Whatever the plugin answers.
    pub fn platform_version(&self) -> Result<String> {
        // SAFETY: the client is live and owns the text.
        unsafe {
            let answer = call!(
                self.inner.table,
                client_platform_version,
                ClientPlatformVersion { client: self.inner.raw }
            )?;
            Ok(text(answer.version, answer.version_size))
        }
    }

    /// This process among those that form the client.
    ///
    /// # Errors
    /// Whatever the plugin answers.
    pub fn process_index(&self) -> Result<i32> {
        // SAFETY: the client is live.
        let answer = unsafe {
            call!(
                self.inner.table,
                client_process_index,
                ClientProcessIndex { client: self.inner.raw }
            )
        }?;
        Ok(answer.process_index)
    }

    /// Every device of every process.
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// The devices that this process can put buffers on.
    pub fn addressable_devices(&self) -> &[Device] {
        &self.addressable_devices
    }

    /// What the client's devices look like to a compiler; the same as [`Topology::create`] gives for
    /// devices that are not here.
    ///
    /// # Errors
    /// Whatever the plugin answers.
    pub fn topology(&self) -> Result<Topology> {
        // SAFETY: the client is live, and owns the topology.
        unsafe {
            let answer = call!(
                self.inner.table,
                client_topology_description,
                ClientTopologyDescription { client: self.inner.raw }
            )?;
            Ok(Topology::of_client(Arc::clone(&self.inner), answer.topology))
        }
    }

    /// The device ids that the plugin would choose for so many replicas and partitions, replica by
    /// replica.
    ///
    /// # Errors
    /// Whatever the plugin answers, such as that there are too few devices.
    pub fn default_device_assignment(
        &self,
        replicas: usize,
        partitions: usize,
    ) -> Result<Vec<Vec<i32>>> {
        let count = |number: usize| {
            i32::try_from(number).ok().filter(|&number| number > 0).ok_or_else(|| {
                Error::invalid(format!("{number} is not a number of replicas or partitions"))
            })
        };
        let (num_replicas, num_partitions) = (count(replicas)?, count(partitions)?);
        let mut ids = vec![0; replicas * partitions];
        // SAFETY: the client is live, and the array has room for every id.
        unsafe {
            call!(
                self.inner.table,
                client_default_device_assignment,
                ClientDefaultDeviceAssignment {
                    client: self.inner.raw,
                    num_replicas: num_replicas,
                    num_partitions: num_partitions,
                    assignment_size: ids.len(),
                    assignment: ids.as_mut_ptr(),
                }
            )
        }?;
        Ok(ids.chunks(partitions).map(<[i32]>::to_vec).collect())
    }

    /// Compiles a program (StableHLO as MLIR, text or bytecode) for the client's devices.
    ///
    /// `options` is a serialized `CompileOptionsProto`.
    ///
    /// # Errors
    /// The compiler's own words: [`Code::InvalidArgument`](crate::Code) for a program that does not
    /// parse, [`Code::ResourceExhausted`](crate::Code) for one that does not fit.
    pub fn compile(&self, program: &str, options: &[u8]) -> Result<LoadedExecutable> {
        let raw_program = program::mlir(program);
        // SAFETY: the client is live; program and options outlive the call.
        let answer = unsafe {
            call!(
                self.inner.table,
                client_compile,
                ClientCompile {
                    client: self.inner.raw,
                    program: &raw const raw_program,
                    compile_options: options.as_ptr(),
                    compile_options_size: options.len(),
                }
            )
        }?;
        // SAFETY: a new executable of this client, owned by us.
        unsafe { LoadedExecutable::from_raw(Arc::clone(&self.inner), answer.executable) }
    }

    /// Loads what [`Executable::serialize`] wrote.
    ///
    /// A plugin trusts these bytes: they hold machine code. Load only what this program wrote.
    ///
    /// # Errors
    /// Whatever the plugin answers, such as that another version of it wrote them.
    pub fn deserialize(&self, bytes: &[u8]) -> Result<LoadedExecutable> {
        // SAFETY: the client is live; the bytes outlive the call.
        let answer = unsafe {
            call!(
                self.inner.table,
                executable_deserialize_and_load,
                ExecutableDeserializeAndLoad {
                    client: self.inner.raw,
                    bytes: bytes.as_ptr(),
                    bytes_size: bytes.len(),
                }
            )
        }?;
        // SAFETY: a new executable of this client, owned by us.
        unsafe { LoadedExecutable::from_raw(Arc::clone(&self.inner), answer.executable) }
    }

    /// Loads an executable that was compiled without a client onto this client's devices.
    ///
    /// # Errors
    /// Whatever the plugin answers, such as that it was compiled for other devices.
    pub fn load(&self, executable: &Executable) -> Result<LoadedExecutable> {
        self.deserialize(&executable.serialize()?)
    }
}

impl ClientInner {
    /// The device of this handle.
    pub(crate) fn device(self: &Arc<ClientInner>, raw: *mut sys::Device) -> Result<Device> {
        match self.devices.iter().position(|entry| entry.raw == raw) {
            Some(index) => Ok(Device { client: Arc::clone(self), index }),
            None => Err(Error::broken("it named a device that is not among the client's")),
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Client")
            .field("platform", &self.platform_name().ok())
            .field("devices", &self.devices)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_named_as_the_plugin_wants() {
        let options = |names| {
            let process = Some(Process { index: 1, count: 4, names });
            ClientOptions { process, ..ClientOptions::default() }.all_options()
        };
        let option = |name: &str, number| (name.to_owned(), Value::Int64(number));
        assert_eq!(
            options(ProcessOptionNames::GPU),
            [option("node_id", 1), option("num_nodes", 4)]
        );
        assert_eq!(options(ProcessOptionNames::CPU), [option("process_id", 1)]);
        assert_eq!(options(ProcessOptionNames::TPU), []);
    }
}

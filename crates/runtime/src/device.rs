//! A plugin at work in this process: loaded, with a client and its devices.

use graph::Mesh;
use pjrt::{Client, ClientOptions, KeyValueStore, Plugin, Process, ProcessOptionNames, Value};
use std::sync::Arc;

use crate::compile::Compiler;
use crate::discover::{Discovery, PluginKind, PluginLocation};
use crate::distributed::{Launch, ProcessGroup};
use crate::environment::required_environment;
use crate::error::{Error, Result};
use crate::mesh::DeviceMesh;
use crate::worker::Register;

/// How to open devices.
#[derive(Clone)]
pub struct RuntimeOptions {
    pub kind: PluginKind,
    /// Virtual CPU devices; other plugins show the devices that there are.
    pub cpu_devices: usize,
    /// The plugin's own options for its client.
    pub client_options: Vec<(String, Value)>,
    /// This process among those that share the devices.
    pub process: Option<Process>,
    pub key_value_store: Option<Arc<dyn KeyValueStore>>,
    /// Registers native functions; the same as given to `worker::main_if_worker`.
    pub register: Register,
}

impl RuntimeOptions {
    /// One process and, on the CPU, one device.
    pub fn new(kind: PluginKind) -> RuntimeOptions {
        RuntimeOptions {
            kind,
            cpu_devices: 1,
            client_options: Vec::new(),
            process: None,
            key_value_store: None,
            register: |_| Ok(()),
        }
    }

    #[must_use]
    pub fn with_cpu_devices(mut self, devices: usize) -> RuntimeOptions {
        self.cpu_devices = devices;
        self
    }

    /// Opens the devices of all processes of a group, of which this one addresses its own.
    ///
    /// On the CPU every process still has its own devices only: XLA's CPU plugins refuse programs
    /// over several processes ("Multiprocess computations aren't implemented on the CPU backend").
    /// libtpu finds the other hosts itself.
    #[must_use]
    pub fn with_processes(mut self, launch: &Launch, group: &ProcessGroup) -> RuntimeOptions {
        if self.kind == PluginKind::Cuda {
            let names = ProcessOptionNames::GPU;
            self.process = Some(Process { index: launch.index, count: launch.count, names });
            self.key_value_store = Some(group.key_value_store());
            if let Some(devices) = &launch.local_devices {
                let devices = devices.iter().map(|&device| i64::from(device)).collect();
                self.client_options.push((VISIBLE_DEVICES.to_string(), Value::Int64List(devices)));
            }
        }
        self
    }
}

/// Devices to put arrays on and run programs with. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Runtime {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) location: PluginLocation,
    pub(crate) plugin: Plugin,
    pub(crate) client: Client,
    pub(crate) compiler: Compiler,
    pub(crate) cpu_devices: usize,
}

impl Runtime {
    /// Finds the plugin, loads it and creates its client.
    ///
    /// # Errors
    /// [`Error::Discover`] when there is no plugin, [`Error::Environment`] when this process has to be
    /// started again first (see `environment::restart_with`), and what the plugin answers.
    pub fn open(discovery: &Discovery, options: &RuntimeOptions) -> Result<Runtime> {
        let location = discovery.find(options.kind)?;
        let cpu = options.kind == PluginKind::Cpu;
        if cpu {
            let devices = options.cpu_devices;
            let missing = required_environment(&location, devices);
            if let Some((name, value)) = missing.into_iter().find(|(name, _)| name == "NPROC") {
                return Err(Error::Environment { devices, name, value });
            }
        }
        let plugin = Plugin::load(&location.path)?;
        (options.register)(&plugin).map_err(|reason| Error::Run {
            program: location.path.display().to_string(),
            reason,
        })?;
        let mut client_options = options.client_options.clone();
        if cpu {
            // XLA's default of four devices would cost four copies of everything replicated.
            let count = Value::Int64(options.cpu_devices.max(1) as i64);
            client_options.push((CPU_DEVICE_COUNT.to_string(), count));
        }
        let client = Client::create(
            &plugin,
            &ClientOptions {
                options: client_options,
                process: options.process,
                key_value_store: options.key_value_store.clone(),
            },
        )?;
        let compiler = Compiler::new(discovery.cache().clone())?;
        let cpu_devices = options.cpu_devices.max(1);
        Ok(Runtime { inner: Arc::new(Inner { location, plugin, client, compiler, cpu_devices }) })
    }

    pub fn location(&self) -> &PluginLocation {
        &self.inner.location
    }

    pub fn plugin(&self) -> &Plugin {
        &self.inner.plugin
    }

    pub fn client(&self) -> &Client {
        &self.inner.client
    }

    pub fn compiler(&self) -> &Compiler {
        &self.inner.compiler
    }

    /// Every device, those of other processes included.
    pub fn devices(&self) -> &[pjrt::Device] {
        self.inner.client.devices()
    }

    /// The mesh with this runtime's devices in it, those of one process next to each other. Of one
    /// process alone, the first devices may be used; of several, each must have a part.
    ///
    /// # Errors
    /// [`Error::TooFewDevices`] and [`Error::IdleProcesses`].
    pub fn mesh(&self, mesh: Mesh) -> Result<DeviceMesh> {
        DeviceMesh::new(mesh, &self.inner.client)
    }
}

/// The CPU plugins' option for their number of devices.
pub(crate) const CPU_DEVICE_COUNT: &str = "cpu_device_count";

/// The CUDA plugin's option for which of the host's devices a process uses.
const VISIBLE_DEVICES: &str = "visible_devices";

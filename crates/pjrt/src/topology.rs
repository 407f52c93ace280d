//! Topologies: devices that need not be here, and compiling for them.

use std::sync::Arc;

use crate::client::ClientInner;
use crate::device::DeviceDescription;
use crate::error::{Error, Result};
use crate::executable::Executable;
use crate::plugin::Plugin;
use crate::program;
use crate::sys;
use crate::table::{Table, call, slice, text};
use crate::value::{self, Value};

/// A description of devices, from which a plugin can compile without having them. Cheap to clone.
#[derive(Clone)]
pub struct Topology {
    inner: Arc<TopologyInner>,
}

struct TopologyInner {
    table: Table,
    raw: *mut sys::TopologyDescription,
    /// The client that owns the topology; none if we do.
    client: Option<Arc<ClientInner>>,
}

// SAFETY: a topology does not change, and the interface lets it be asked from any thread.
unsafe impl Send for TopologyInner {}
// SAFETY: as above.
unsafe impl Sync for TopologyInner {}

impl Drop for TopologyInner {
    fn drop(&mut self) {
        if self.client.is_none() {
            // SAFETY: the last owner destroys the topology. One that cannot be destroyed leaks.
            let _ = unsafe {
                call!(self.table, topology_destroy, TopologyDestroy { topology: self.raw })
            };
        }
    }
}

impl Topology {
    /// Describes devices by the plugin's name for them, such as `v5e:4x4` for libtpu, and the plugin's
    /// own options (the CUDA plugin takes `topology` and `target_config`).
    ///
    /// # Errors
    /// Whatever the plugin answers, such as that it knows no such devices.
    pub fn create(plugin: &Plugin, name: &str, options: &[(String, Value)]) -> Result<Topology> {
        let raw_options = value::to_raw(options);
        let table = plugin.table();
        // SAFETY: name and options outlive the call.
        let answer = unsafe {
            call!(
                table,
                topology_create,
                TopologyCreate {
                    name: name.as_ptr(),
                    name_size: name.len(),
                    create_options: raw_options.as_ptr(),
                    num_options: raw_options.len(),
                }
            )
        }?;
        if answer.topology.is_null() {
            return Err(Error::broken("it created a topology that is null"));
        }
        Ok(Topology {
            inner: Arc::new(TopologyInner { table, raw: answer.topology, client: None }),
        })
    }

    /// # Safety
    /// `raw` must be the topology that this client owns.
    pub(crate) unsafe fn of_client(
        client: Arc<ClientInner>,
        raw: *mut sys::TopologyDescription,
    ) -> Topology {
        Topology {
            inner: Arc::new(TopologyInner { table: client.table, raw, client: Some(client) }),
        }
    }

    /// Name of the platform, such as `tpu`.
    ///
    /// # Errors
    /// Whatever the plugin answers.
    pub fn platform_name(&self) -> Result<String> {
        // SAFETY: the topology is live and owns the text.
        unsafe {
            let answer = call!(
                self.inner.table,
                topology_platform_name,
                TopologyPlatformName { topology: self.inner.raw }
            )?;
            Ok(text(answer.name, answer.name_size))
        }
    }

    /// The vendor's version text, for people to read.
    ///
    /// # Errors
    /// Whatever the plugin answers.
    pub fn platform_version(&self) -> Result<String> {
        // SAFETY: the topology is live and owns the text.
        unsafe {
            let answer = call!(
                self.inner.table,
                topology_platform_version,
                TopologyPlatformVersion { topology: self.inner.raw }
            )?;
            Ok(text(answer.version, answer.version_size))
        }
    }

    /// The devices, in the order in which programs are laid out on them.
    ///
    /// # Errors
    /// Whatever the plugin answers.
    pub fn devices(&self) -> Result<Vec<DeviceDescription>> {
        // SAFETY: the topology is live, and owns the array and the descriptions in it.
        unsafe {
            let answer = call!(
                self.inner.table,
                topology_get_device_descriptions,
                TopologyGetDeviceDescriptions { topology: self.inner.raw }
            )?;
            slice(answer.descriptions, answer.num_descriptions)
                .iter()
                .map(|&description| DeviceDescription::read(self.inner.table, description))
                .collect()
        }
    }

    /// Vendor-specific facts about the devices together.
    ///
    /// # Errors
    /// Whatever the plugin answers.
    pub fn attributes(&self) -> Result<Vec<(String, Value)>> {
        // SAFETY: the topology is live and owns the attributes.
        unsafe {
            let answer = call!(
                self.inner.table,
                topology_attributes,
                TopologyAttributes { topology: self.inner.raw }
            )?;
            value::from_raw(answer.attributes, answer.num_attributes)
        }
    }

    /// The topology as bytes, equal for equal topologies of one plugin.
    ///
    /// # Errors
    /// Whatever the plugin answers.
    pub fn serialize(&self) -> Result<Vec<u8>> {
        // SAFETY: the topology is live; the bytes live until the deleter is called, which is once and
        // after copying them.
        unsafe {
            let answer = call!(
                self.inner.table,
                topology_serialize,
                TopologySerialize { topology: self.inner.raw }
            )?;
            let bytes = slice(answer.bytes, answer.bytes_size).to_vec();
            if let Some(delete) = answer.deleter {
                delete(answer.serialized);
            }
            Ok(bytes)
        }
    }

    /// Compiles a program (StableHLO as MLIR, text or bytecode) for these devices, here or not.
    ///
    /// `options` is a serialized `CompileOptionsProto`.
    ///
    /// # Errors
    /// The compiler's own words, as from [`Client::compile`](crate::Client::compile).
    pub fn compile(&self, program: &str, options: &[u8]) -> Result<Executable> {
        let raw_program = program::mlir(program);
        let client = self.inner.client.as_ref();
        // SAFETY: the topology is live; program and options outlive the call; no client is allowed.
        let answer = unsafe {
            call!(
                self.inner.table,
                compile,
                Compile {
                    topology: self.inner.raw,
                    program: &raw const raw_program,
                    compile_options: options.as_ptr(),
                    compile_options_size: options.len(),
                    client: client.map_or(std::ptr::null_mut(), |client| client.raw),
                }
            )
        }?;
        // SAFETY: a new executable, owned by us.
        unsafe { Executable::from_raw(self.inner.table, client.cloned(), answer.executable) }
    }
}

impl std::fmt::Debug for Topology {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Topology").field("platform", &self.platform_name().ok()).finish()
    }
}

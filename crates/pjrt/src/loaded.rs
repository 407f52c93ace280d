//! Compiled programs on devices, ready to run.
//!
//! Running them is in `execute`; what can be asked about the program itself is in `executable`.

use std::sync::Arc;

use crate::client::ClientInner;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::executable::Executable;
use crate::sys;
use crate::table::{Table, call, slice};

/// A compiled program on devices, ready to run. Cheap to clone; keeps its client alive.
#[derive(Clone)]
pub struct LoadedExecutable {
    pub(crate) inner: Arc<LoadedInner>,
}

pub(crate) struct LoadedInner {
    pub(crate) client: Arc<ClientInner>,
    pub(crate) raw: *mut sys::LoadedExecutable,
    pub(crate) num_outputs: usize,
    executable: Executable,
    addressable_devices: Vec<Device>,
}

// SAFETY: the interface lets a loaded executable be run and asked from any thread, several at once.
unsafe impl Send for LoadedInner {}
// SAFETY: as above.
unsafe impl Sync for LoadedInner {}

impl LoadedInner {
    pub(crate) fn device_count(&self) -> usize {
        self.addressable_devices.len()
    }
}

impl Drop for LoadedInner {
    fn drop(&mut self) {
        // SAFETY: the last owner destroys it; runs under way keep what they need. One that cannot be
        // destroyed leaks.
        let _ = unsafe {
            call!(
                self.client.table,
                loaded_executable_destroy,
                LoadedExecutableDestroy { executable: self.raw }
            )
        };
    }
}

impl LoadedExecutable {
    /// # Safety
    /// `raw` must be a loaded executable of this client that nobody else destroys.
    pub(crate) unsafe fn from_raw(
        client: Arc<ClientInner>,
        raw: *mut sys::LoadedExecutable,
    ) -> Result<LoadedExecutable> {
        if raw.is_null() {
            return Err(Error::broken("it answered a loaded executable that is null"));
        }
        let table = client.table;
        let guard = DestroyOnError { table, raw };
        // SAFETY: the loaded executable is live; the executable that it answers is ours to destroy.
        let executable = unsafe {
            let answer = call!(
                table,
                loaded_executable_get_executable,
                LoadedExecutableGetExecutable { loaded: raw }
            )?;
            Executable::from_raw(table, Some(Arc::clone(&client)), answer.executable)
        }?;
        // SAFETY: the loaded executable owns the array.
        let devices = unsafe {
            let answer = call!(
                table,
                loaded_executable_addressable_devices,
                LoadedExecutableAddressableDevices { executable: raw }
            )?;
            slice(answer.devices, answer.num_devices)
        };
        let addressable_devices =
            devices.iter().map(|&device| client.device(device)).collect::<Result<_>>()?;
        let num_outputs = executable.num_outputs()?;
        std::mem::forget(guard);
        Ok(LoadedExecutable {
            inner: Arc::new(LoadedInner {
                client,
                raw,
                num_outputs,
                executable,
                addressable_devices,
            }),
        })
    }

    /// The program itself, which outlives its stay on devices.
    pub fn executable(&self) -> &Executable {
        &self.inner.executable
    }

    /// The devices of this process that it runs on, in the order of [`LoadedExecutable::execute`]'s
    /// arguments.
    pub fn addressable_devices(&self) -> &[Device] {
        &self.inner.addressable_devices
    }

    /// The serialized `DeviceAssignmentProto`: which device runs which replica and partition.
    ///
    /// # Errors
    /// [`Error::MissingFunction`] from plugins older than 0.81.
    pub fn device_assignment(&self) -> Result<Vec<u8>> {
        // SAFETY: the loaded executable is live; the bytes live until the deleter is called, which is
        // once and after copying them.
        unsafe {
            let answer = call!(
                self.inner.client.table,
                loaded_executable_get_device_assignment,
                LoadedExecutableGetDeviceAssignment { executable: self.inner.raw }
            )?;
            let bytes = slice(answer.bytes, answer.bytes_size).to_vec();
            if let Some(delete) = answer.deleter {
                delete(answer.serialized);
            }
            Ok(bytes)
        }
    }

    /// As [`Executable::check_donation`].
    ///
    /// # Errors
    /// As there.
    pub fn check_donation(&self, donated_bytes: u64) -> Result<()> {
        self.executable().check_donation(donated_bytes)
    }
}

/// Destroys a loaded executable when wrapping it fails half way.
struct DestroyOnError {
    table: Table,
    raw: *mut sys::LoadedExecutable,
}

impl Drop for DestroyOnError {
    fn drop(&mut self) {
        // SAFETY: the executable is ours and was not wrapped.
        let _ = unsafe {
            call!(
                self.table,
                loaded_executable_destroy,
                LoadedExecutableDestroy { executable: self.raw }
            )
        };
    }
}

impl std::fmt::Debug for LoadedExecutable {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("LoadedExecutable")
            .field("name", &self.executable().name().ok())
            .field("addressable_devices", &self.addressable_devices())
            .finish()
    }
}

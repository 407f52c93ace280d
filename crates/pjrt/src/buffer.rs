//! Buffers: arrays in the memory of a device.
//!
//! Getting host data in and out of them is in `transfer`.

use std::sync::Arc;

use crate::client::ClientInner;
use crate::device::{Device, Memory};
use crate::element_type::ElementType;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::sys;
use crate::table::{call, slice};

/// An array in a device's memory, whose contents may still be on their way there. Freed when dropped,
/// once nothing that is under way uses it.
pub struct Buffer {
    pub(crate) client: Arc<ClientInner>,
    pub(crate) raw: *mut sys::Buffer,
}

// SAFETY: the interface lets a buffer be used from any thread, several at once; it is destroyed once,
// by its only owner.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: the only owner destroys the buffer; work under way keeps the memory that it needs.
        // A buffer that cannot be destroyed leaks.
        let _ =
            unsafe { call!(self.client.table, buffer_destroy, BufferDestroy { buffer: self.raw }) };
    }
}

/// Asks a question whose answer is one field of its argument struct.
macro_rules! ask {
    ($self:ident, $slot:ident, $arguments:ident) => {{
        // SAFETY: the buffer is live as long as `self`.
        unsafe { call!($self.client.table, $slot, $arguments { buffer: $self.raw }) }
    }};
}

impl Buffer {
    /// # Safety
    /// `raw` must be a buffer of this client that nobody else destroys.
    pub(crate) unsafe fn from_raw(
        client: Arc<ClientInner>,
        raw: *mut sys::Buffer,
    ) -> Result<Buffer> {
        if raw.is_null() {
            return Err(Error::broken("it answered a buffer that is null"));
        }
        Ok(Buffer { client, raw })
    }

    /// The array's dimensions, outermost first; empty for a scalar.
    ///
    /// # Errors
    /// Whatever the plugin answers.
    pub fn dimensions(&self) -> Result<Vec<i64>> {
        let answer = ask!(self, buffer_dimensions, BufferDimensions)?;
        // SAFETY: the buffer owns the array.
        Ok(unsafe { slice(answer.dims, answer.num_dims) }.to_vec())
    }

    /// Type of the array's elements.
    ///
    /// # Errors
    /// Whatever the plugin answers.
    pub fn element_type(&self) -> Result<ElementType> {
        let number = ask!(self, buffer_element_type, BufferElementType)?.element_type;
        ElementType::from_raw(number)
            .ok_or_else(|| Error::broken(format!("a buffer is of unknown element type {number}")))
    }

    /// The device that holds it.
    ///
    /// # Errors
    /// Whatever the plugin answers.
    pub fn device(&self) -> Result<Device> {
        self.client.device(ask!(self, buffer_device, BufferDevice)?.device)
    }

    /// The memory that holds it.
    ///
    /// # Errors
    /// Whatever the plugin answers.
    pub fn memory(&self) -> Result<Memory> {
        let memory = ask!(self, buffer_memory, BufferMemory)?.memory;
        // SAFETY: a memory of this client.
        unsafe { Memory::read(Arc::clone(&self.client), memory) }
    }

    /// Bytes that it takes on the device, padding included.
    ///
    /// # Errors
    /// Whatever the plugin answers.
    pub fn size_bytes_on_device(&self) -> Result<usize> {
        Ok(ask!(self, buffer_on_device_size_in_bytes, BufferOnDeviceSizeInBytes)?.size_bytes)
    }

    /// Completion of the work that fills it; its failure if that work fails.
    ///
    /// # Errors
    /// Whatever the plugin answers.
    pub fn ready(&self) -> Result<Event> {
        let answer = ask!(self, buffer_ready_event, BufferReadyEvent)?;
        // SAFETY: the event is ours to destroy.
        Ok(unsafe { Event::from_raw(self.client.table, answer.event) })
    }

    /// Frees the memory now, or when the work under way that uses it is complete. From then on the
    /// buffer can only be dropped; every other use is an error.
    ///
    /// # Errors
    /// Whatever the plugin answers.
    pub fn delete(&self) -> Result<()> {
        ask!(self, buffer_delete, BufferDelete).map(drop)
    }

    /// Whether the memory was freed or given to a program.
    ///
    /// # Errors
    /// Whatever the plugin answers.
    pub fn is_deleted(&self) -> Result<bool> {
        Ok(ask!(self, buffer_is_deleted, BufferIsDeleted)?.is_deleted)
    }

    /// Whether the memory is the host's own, so that programs and this process share it.
    ///
    /// # Errors
    /// Whatever the plugin answers.
    pub fn is_on_cpu(&self) -> Result<bool> {
        Ok(ask!(self, buffer_is_on_cpu, BufferIsOnCpu)?.is_on_cpu)
    }

    /// Where it lies in the device's memory: to compare with, not to follow.
    ///
    /// # Errors
    /// Whatever the plugin answers.
    pub fn address(&self) -> Result<usize> {
        Ok(ask!(self, buffer_unsafe_pointer, BufferUnsafePointer)?.pointer)
    }

    /// A copy on another device of this process. Returns while the copy is under way.
    ///
    /// # Errors
    /// Whatever the plugin answers.
    pub fn copy_to_device(&self, device: &Device) -> Result<Buffer> {
        self.same_client(&device.client, "device")?;
        // SAFETY: buffer and device are live and of one client; the copy is ours.
        unsafe {
            let answer = call!(
                self.client.table,
                buffer_copy_to_device,
                BufferCopyToDevice { buffer: self.raw, device: device.entry().raw }
            )?;
            Buffer::from_raw(Arc::clone(&self.client), answer.copy)
        }
    }

    /// A copy in another memory, such as the host's pinned one. Returns while the copy is under way.
    ///
    /// # Errors
    /// Whatever the plugin answers.
    pub fn copy_to_memory(&self, memory: &Memory) -> Result<Buffer> {
        self.same_client(&memory.client, "memory")?;
        // SAFETY: buffer and memory are live and of one client; the copy is ours.
        unsafe {
            let answer = call!(
                self.client.table,
                buffer_copy_to_memory,
                BufferCopyToMemory { buffer: self.raw, memory: memory.raw }
            )?;
            Buffer::from_raw(Arc::clone(&self.client), answer.copy)
        }
    }

    /// Handles of one client mean nothing to another, which may well be another plugin.
    fn same_client(&self, other: &Arc<ClientInner>, what: &str) -> Result<()> {
        if Arc::ptr_eq(&self.client, other) {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "the buffer and the {what} belong to different clients, so go through the host"
        )))
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Buffer")
            .field("element_type", &self.element_type().ok())
            .field("dimensions", &self.dimensions().ok())
            .field("device", &self.device().ok())
            .finish()
    }
}

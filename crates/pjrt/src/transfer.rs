//! Host data into buffers and out of them, and who keeps which memory alive meanwhile.
//!
//! The rule: a plugin may touch host memory until an event says that it is done. So that memory is
//! either borrowed for a call that blocks, or owned by something that outlives the event.

use std::future::Future;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::buffer::Buffer;
use crate::client::Client;
use crate::device::Device;
use crate::element_type::ElementType;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::sys::{self, Arguments};
use crate::table::call;

/// Host memory that a buffer may be an alias of: anything that owns bytes which stay in place, such
/// as a `Vec<u8>` or a mapped file.
pub trait HostMemory: AsRef<[u8]> + Send + Sync {}

impl<T: AsRef<[u8]> + Send + Sync + ?Sized> HostMemory for T {}

impl Client {
    /// A buffer with a copy of `data`, which is row-major and exactly as long as the array. The data
    /// has been copied when this returns.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] when the length is not the array's, and whatever the plugin answers.
    pub fn buffer_from_slice(
        &self,
        device: &Device,
        data: &[u8],
        element_type: ElementType,
        dimensions: &[i64],
    ) -> Result<Buffer> {
        // SAFETY: the plugin is told that the data is only there during the call.
        let (buffer, _done) = unsafe {
            self.buffer_from_host(
                device,
                data,
                element_type,
                dimensions,
                sys::IMMUTABLE_ONLY_DURING_CALL,
            )
        }?;
        Ok(buffer)
    }

    /// A buffer of `range` of `memory`, row-major and exactly as long as the array, without copying
    /// where the plugin can: a CPU plugin uses the memory itself if it lies at a multiple of 64 bytes,
    /// others read it in the background. The memory is dropped when the plugin is done with it, on a
    /// thread of the plugin's.
    ///
    /// The memory must not own a handle of the client, which cannot be taken down from within. Nothing
    /// may change its bytes meanwhile; a program that is given the buffer as a donation works
    /// on a copy.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] when the range is not within the memory or not as long as the array,
    /// and whatever the plugin answers.
    pub fn buffer_from_owned(
        &self,
        device: &Device,
        memory: Arc<dyn HostMemory>,
        range: Range<usize>,
        element_type: ElementType,
        dimensions: &[i64],
    ) -> Result<Buffer> {
        // Asked once: only these bytes are known to stay in place as long as the owner lives.
        let bytes: &[u8] = (*memory).as_ref();
        let Some(data) = bytes.get(range.clone()) else {
            return Err(Error::invalid(format!(
                "bytes {} to {} are not within the host memory of {} bytes",
                range.start,
                range.end,
                bytes.len()
            )));
        };
        // SAFETY: the memory is kept by `release_when_done` below until the plugin is done with it.
        let (buffer, done) = unsafe {
            self.buffer_from_host(device, data, element_type, dimensions, sys::IMMUTABLE_ZERO_COPY)
        }?;
        release_when_done(memory, &done)?;
        Ok(buffer)
    }

    /// A buffer that holds whatever was in its memory: for what is written before it is read. Nothing
    /// touches the memory, so where the system hands out pages on first use, they cost nothing until then.
    ///
    /// # Errors
    /// [`Error::MissingFunction`] from plugins that are too old, and whatever the plugin answers.
    pub fn uninitialized_buffer(
        &self,
        device: &Device,
        element_type: ElementType,
        dimensions: &[i64],
    ) -> Result<Buffer> {
        self.check_device(device)?;
        // SAFETY: client and device are live, the dimensions stay during the call, and the buffer is ours.
        unsafe {
            let answer = call!(
                self.inner.table,
                client_create_uninitialized_buffer,
                ClientCreateUninitializedBuffer {
                    client: self.inner.raw,
                    shape_dims: dimensions.as_ptr(),
                    shape_num_dims: dimensions.len(),
                    shape_element_type: element_type.raw(),
                    device: device.entry().raw,
                }
            )?;
            Buffer::from_raw(Arc::clone(&self.inner), answer.buffer)
        }
    }

    fn check_device(&self, device: &Device) -> Result<()> {
        if !Arc::ptr_eq(&self.inner, &device.client) {
            return Err(Error::invalid(
                "the device belongs to another client, so name one of this client's",
            ));
        }
        Ok(())
    }

    /// # Safety
    /// `data` must stay readable and unchanged for as long as `semantics` promises the plugin.
    unsafe fn buffer_from_host(
        &self,
        device: &Device,
        data: &[u8],
        element_type: ElementType,
        dimensions: &[i64],
        semantics: i32,
    ) -> Result<(Buffer, Event)> {
        if element_type.array_bytes(dimensions) != Some(data.len()) {
            return Err(Error::invalid(format!(
                "{} bytes are not an array {dimensions:?} of {element_type}, whose elements take {} bytes each",
                data.len(),
                element_type.size_bytes()
            )));
        }
        self.check_device(device)?;
        // SAFETY: client and device are live, the array's length was checked, and the caller vouches
        // for how long it stays; buffer and event are ours.
        unsafe {
            let answer = call!(
                self.inner.table,
                client_buffer_from_host_buffer,
                ClientBufferFromHostBuffer {
                    client: self.inner.raw,
                    data: data.as_ptr().cast(),
                    element_type: element_type.raw(),
                    dims: dimensions.as_ptr(),
                    num_dims: dimensions.len(),
                    host_buffer_semantics: semantics,
                    device: device.entry().raw,
                }
            )?;
            let done = Event::from_raw(self.inner.table, answer.done_with_host_buffer);
            Ok((Buffer::from_raw(Arc::clone(&self.inner), answer.buffer)?, done))
        }
    }
}

/// Drops the memory when the plugin says that it is done with it, and never if it does not say.
fn release_when_done(memory: Arc<dyn HostMemory>, done: &Event) -> Result<()> {
    // If the action is dropped without being run, the memory must leak, for nobody can tell when it is
    // free: hence `ManuallyDrop`.
    let owner = ManuallyDrop::new(memory);
    if done.is_null() {
        // Elsewhere the absence of an event means complete. Here the plugin may be using the memory
        // itself, and not only as long as the buffer lives: a run that was given the buffer outlives it.
        return Ok(());
    }
    done.on_ready(Box::new(move |_| drop(ManuallyDrop::into_inner(owner))))
}

impl Buffer {
    /// Bytes that [`Buffer::to_host`] writes.
    ///
    /// # Errors
    /// Whatever the plugin answers.
    pub fn size_bytes_on_host(&self) -> Result<usize> {
        // SAFETY: without a destination nothing is written, and the size is answered.
        unsafe { self.start_to_host(std::ptr::null_mut(), 0) }.map(|(size, _)| size)
    }

    /// Copies the array to the host, row-major, and waits for it.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] when `destination` is not exactly as long as the array, and what made
    /// the copy, or the work that fills the buffer, fail.
    pub fn to_host(&self, destination: &mut [u8]) -> Result<()> {
        let size = self.size_bytes_on_host()?;
        if destination.len() != size {
            return Err(Error::invalid(format!(
                "the array takes {size} bytes on the host and there is room for {}",
                destination.len()
            )));
        }
        // SAFETY: the destination has this many bytes, and is borrowed until the copy is complete.
        let (_, event) = unsafe { self.start_to_host(destination.as_mut_ptr(), size) }?;
        event.wait()
    }

    /// The array's bytes, row-major, after waiting for them.
    ///
    /// # Errors
    /// As [`Buffer::to_host`].
    pub fn to_vec(&self) -> Result<Vec<u8>> {
        self.to_host_async(Vec::new())?.wait()
    }

    /// Starts copying the array to the host, row-major. `storage` is used for the result: its capacity
    /// is reused and its contents are lost.
    ///
    /// # Errors
    /// Whatever the plugin answers; what makes the copy fail comes from the transfer.
    pub fn to_host_async(&self, mut storage: Vec<u8>) -> Result<HostTransfer> {
        let size = self.size_bytes_on_host()?;
        storage.clear();
        storage.reserve(size);
        // SAFETY: there is room for this many bytes, and the transfer owns them until the copy is
        // complete, even if it is dropped or forgotten.
        let (_, event) = unsafe { self.start_to_host(storage.as_mut_ptr(), size) }?;
        Ok(HostTransfer { event, storage: Some(storage), size_bytes: size })
    }

    /// Answers the size that the array takes, and the event of the copy if there is a destination.
    ///
    /// # Safety
    /// `destination` must be null or writable for `size` bytes until the event is complete.
    unsafe fn start_to_host(&self, destination: *mut u8, size: usize) -> Result<(usize, Event)> {
        // The device may store the array in any order. What we ask for is row-major.
        let rank = i64::try_from(self.dimensions()?.len()).unwrap_or(0);
        let minor_to_major: Vec<i64> = (0..rank).rev().collect();
        let mut tiled = sys::LayoutTiled::new();
        tiled.minor_to_major = minor_to_major.as_ptr();
        tiled.minor_to_major_size = minor_to_major.len();
        let mut layout = sys::MemoryLayout::new();
        layout.layout_type = sys::LAYOUT_TILED;
        layout.layout.tiled = ManuallyDrop::new(tiled);
        // SAFETY: the buffer is live, the layout outlives the call, and the caller vouches for the
        // destination; the event is ours.
        unsafe {
            let answer = call!(
                self.client.table,
                buffer_to_host_buffer,
                BufferToHostBuffer {
                    source: self.raw,
                    host_layout: &raw mut layout,
                    destination: destination.cast(),
                    destination_size: size,
                }
            )?;
            Ok((answer.destination_size, Event::from_raw(self.client.table, answer.event)))
        }
    }
}

/// A copy from a device to the host that is under way. As a future it answers what
/// [`HostTransfer::wait`] answers, once.
#[must_use = "the bytes arrive here"]
pub struct HostTransfer {
    event: Event,
    /// Written by the plugin until the event is complete; none once handed out.
    storage: Option<Vec<u8>>,
    size_bytes: usize,
}

impl HostTransfer {
    /// Blocks until the copy is complete and answers its bytes.
    ///
    /// # Errors
    /// What made the copy, or the work that fills the buffer, fail.
    pub fn wait(mut self) -> Result<Vec<u8>> {
        let outcome = self.event.wait();
        self.finish(outcome)
    }

    /// Whether the copy is complete. Does not block.
    ///
    /// # Errors
    /// Whatever the plugin answers.
    pub fn is_ready(&self) -> Result<bool> {
        self.event.is_ready()
    }

    fn finish(&mut self, outcome: Result<()>) -> Result<Vec<u8>> {
        outcome?;
        let Some(mut storage) = self.storage.take() else {
            return Err(Error::invalid("the bytes of this transfer were handed out before"));
        };
        // SAFETY: `to_host_async` made room for this many bytes, and the plugin has written them all.
        unsafe { storage.set_len(self.size_bytes) };
        Ok(storage)
    }
}

impl Future for HostTransfer {
    type Output = Result<Vec<u8>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Vec<u8>>> {
        match Pin::new(&mut self.event).poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(outcome) => Poll::Ready(self.finish(outcome)),
        }
    }
}

impl Drop for HostTransfer {
    fn drop(&mut self) {
        let Some(storage) = self.storage.take() else { return };
        // The plugin may still be writing. As in `buffer_from_owned`, leak rather than free too early.
        let storage = ManuallyDrop::new(storage);
        let _ = self.event.on_ready(Box::new(move |_| drop(ManuallyDrop::into_inner(storage))));
    }
}

#[cfg(test)]
mod tests {
    use std::mem::MaybeUninit;

    use super::*;
    use crate::table::Table;

    #[test]
    fn memory_whose_release_nobody_tells_is_kept() {
        // SAFETY: numbers, pointers and optional functions may all be zero. No function is found in a
        // table of size zero.
        let api: sys::Api = unsafe { MaybeUninit::zeroed().assume_init() };
        // SAFETY: the table is never freed.
        let table = unsafe { Table::new(Box::leak(Box::new(api))) };
        // SAFETY: null is allowed.
        let done = unsafe { Event::from_raw(table, std::ptr::null_mut()) };
        let memory: Arc<Vec<u8>> = Arc::new(vec![1, 2, 3]);
        release_when_done(memory.clone(), &done).unwrap();
        assert_eq!(Arc::strong_count(&memory), 2);
    }
}

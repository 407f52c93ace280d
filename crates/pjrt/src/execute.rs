//! Running a loaded program: arguments in, outputs and completion events out, for every device at
//! once.

use std::sync::Arc;

use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::loaded::LoadedExecutable;
use crate::sys::{self, Arguments};
use crate::table::call;

/// One input of one device.
#[derive(Debug)]
pub enum Argument<'a> {
    /// Stays the caller's. Never written to, even if the program would reuse its memory: the plugin
    /// then works on a copy.
    Borrowed(&'a Buffer),
    /// Given up, so that the program can write an output into its memory. Which output that is, the
    /// program says (`tf.aliasing_output` or `jax.buffer_donor`).
    Donated(Buffer),
}

impl Argument<'_> {
    fn buffer(&self) -> &Buffer {
        match self {
            Argument::Borrowed(buffer) => buffer,
            Argument::Donated(buffer) => buffer,
        }
    }

    fn is_donated(&self) -> bool {
        matches!(self, Argument::Donated(_))
    }
}

/// A run that was started.
#[derive(Debug)]
#[must_use = "outputs arrive here"]
pub struct Execution {
    /// Outputs by device, then by position. Their contents may still be on their way, and carry the
    /// run's failure if it fails.
    pub outputs: Vec<Vec<Buffer>>,
    /// Completion of the run on each device.
    pub done: Vec<Event>,
    /// Donated inputs whose memory the plugin did not take over, so that it was copied instead; they
    /// are freed when the run is complete. See also
    /// [`Executable::check_donation`](crate::Executable::check_donation), which can be asked before.
    pub unused_donations: Vec<UnusedDonation>,
}

/// A donated input that was not used as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnusedDonation {
    /// Place of the device among [`LoadedExecutable::addressable_devices`].
    pub device: usize,
    /// Place of the input.
    pub argument: usize,
}

impl Execution {
    /// Blocks until the run is complete on every device.
    ///
    /// # Errors
    /// The first failure among them.
    pub fn wait(&self) -> Result<()> {
        self.done.iter().try_for_each(Event::wait)
    }
}

impl LoadedExecutable {
    /// Starts a run on every addressable device and returns while it is under way: `arguments` holds,
    /// per device in the order of [`LoadedExecutable::addressable_devices`], its inputs.
    ///
    /// An input is donated on all devices or on none. Donated buffers are gone even if this fails.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] when the lists have the wrong lengths, mix donated and borrowed in one
    /// place or hold buffers of another client, and whatever the plugin answers. What makes the run
    /// itself fail comes from its events.
    pub fn execute(&self, arguments: Vec<Vec<Argument<'_>>>) -> Result<Execution> {
        let non_donatable = self.check_arguments(&arguments)?;
        let devices = arguments.len();
        let num_arguments = arguments.first().map_or(0, Vec::len);
        let argument_pointers: Vec<Vec<*mut sys::Buffer>> = arguments
            .iter()
            .map(|list| list.iter().map(|argument| argument.buffer().raw).collect())
            .collect();
        let argument_lists: Vec<*const *mut sys::Buffer> =
            argument_pointers.iter().map(|list| list.as_ptr()).collect();
        let mut output_pointers = vec![vec![std::ptr::null_mut(); self.inner.num_outputs]; devices];
        let output_lists: Vec<*mut *mut sys::Buffer> =
            output_pointers.iter_mut().map(|list| list.as_mut_ptr()).collect();
        let mut event_pointers = vec![std::ptr::null_mut(); devices];
        let mut options = sys::ExecuteOptions::new();
        options.non_donatable_input_indices = non_donatable.as_ptr();
        options.num_non_donatable_input_indices = non_donatable.len();

        // SAFETY: the executable and every buffer are live; all lists have the lengths that are given
        // (checked above, or made so) and outlive the call.
        let started = unsafe {
            call!(
                self.inner.client.table,
                loaded_executable_execute,
                LoadedExecutableExecute {
                    executable: self.inner.raw,
                    options: &raw mut options,
                    argument_lists: argument_lists.as_ptr(),
                    num_devices: devices,
                    num_arguments: num_arguments,
                    output_lists: output_lists.as_ptr(),
                    device_complete_events: event_pointers.as_mut_ptr(),
                }
            )
        };
        started?;

        let table = self.inner.client.table;
        // Everything is wrapped before anything can fail, so that nothing leaks.
        // SAFETY: the events are ours to destroy.
        let done: Vec<Event> = event_pointers
            .into_iter()
            .map(|event| unsafe { Event::from_raw(table, event) })
            .collect();
        let outputs: Vec<Vec<Result<Buffer>>> = output_pointers
            .into_iter()
            .map(|list| {
                let client = &self.inner.client;
                // SAFETY: the outputs are ours to destroy.
                list.into_iter()
                    .map(|output| unsafe { Buffer::from_raw(Arc::clone(client), output) })
                    .collect()
            })
            .collect();
        let outputs =
            outputs.into_iter().map(|list| list.into_iter().collect()).collect::<Result<_>>()?;
        Ok(Execution { outputs, done, unused_donations: unused_donations(&arguments)? })
    }

    /// The inputs that must not be written to, after checking what the plugin would not.
    fn check_arguments(&self, arguments: &[Vec<Argument<'_>>]) -> Result<Vec<i64>> {
        let devices = self.inner.device_count();
        if arguments.len() != devices {
            return Err(Error::invalid(format!(
                "the program runs on {devices} devices of this process and was given arguments for {}",
                arguments.len()
            )));
        }
        let Some(first) = arguments.first() else {
            return Err(Error::invalid("the program runs on no device of this process"));
        };
        for (device, list) in arguments.iter().enumerate() {
            if list.len() != first.len() {
                return Err(Error::invalid(format!(
                    "device {device} was given {} arguments and device 0 was given {}",
                    list.len(),
                    first.len()
                )));
            }
            for (position, (argument, first)) in list.iter().zip(first).enumerate() {
                if argument.is_donated() != first.is_donated() {
                    return Err(Error::invalid(format!(
                        "argument {position} is donated on one of the devices 0 and {device} and borrowed on the other, so do the same on all"
                    )));
                }
                if !Arc::ptr_eq(&argument.buffer().client, &self.inner.client) {
                    return Err(Error::invalid(format!(
                        "argument {position} of device {device} belongs to another client than the program"
                    )));
                }
            }
        }
        let borrowed = first.iter().enumerate().filter(|(_, argument)| !argument.is_donated());
        Ok(borrowed.filter_map(|(position, _)| i64::try_from(position).ok()).collect())
    }
}

fn unused_donations(arguments: &[Vec<Argument<'_>>]) -> Result<Vec<UnusedDonation>> {
    let mut unused = Vec::new();
    for (device, list) in arguments.iter().enumerate() {
        for (position, argument) in list.iter().enumerate() {
            if argument.is_donated() && !argument.buffer().is_deleted()? {
                unused.push(UnusedDonation { device, argument: position });
            }
        }
    }
    Ok(unused)
}

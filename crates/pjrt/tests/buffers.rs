//! Host memory in and out: copies, aliases, element types, events as futures.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

mod support;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use pjrt::{Argument, ElementType, Error};
use support::{compile_options, cpu_client, f32_bytes, f32_values};

/// XLA:CPU aliases memory only at multiples of this.
const ALIGNMENT_BYTES: usize = 64;

/// Bytes that start at a multiple of 64 plus `offset`, and tell when they are dropped.
struct Tracked {
    bytes: Vec<u8>,
    start: usize,
    size: usize,
    dropped: Arc<AtomicBool>,
}

impl Tracked {
    fn new(contents: &[u8], offset: usize) -> (Arc<Tracked>, Arc<AtomicBool>) {
        let mut bytes = vec![0; contents.len() + 2 * ALIGNMENT_BYTES];
        let start = bytes.as_ptr().align_offset(ALIGNMENT_BYTES) + offset;
        bytes[start..start + contents.len()].copy_from_slice(contents);
        let dropped = Arc::new(AtomicBool::new(false));
        let tracked = Tracked { bytes, start, size: contents.len(), dropped: Arc::clone(&dropped) };
        (Arc::new(tracked), dropped)
    }
}

impl AsRef<[u8]> for Tracked {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.size]
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::SeqCst);
    }
}

/// Waits for a plugin's thread to let go, with a limit so that a failure does not hang.
fn eventually(condition: impl Fn() -> bool) -> bool {
    (0..10_000).any(|_| {
        thread::sleep(std::time::Duration::from_millis(1));
        condition()
    })
}

#[test]
fn aligned_host_memory_is_used_and_not_copied() {
    let Some(client) = cpu_client("aligned_host_memory_is_used_and_not_copied") else { return };
    let values: Vec<f32> = (0..1024u16).map(f32::from).collect();
    let (memory, dropped) = Tracked::new(&f32_bytes(&values), 0);
    let address = memory.as_ref().as_ref().as_ptr().addr();
    let size = values.len() * 4;
    let device = &client.addressable_devices()[0];
    let buffer =
        client.buffer_from_owned(device, memory, 0..size, ElementType::F32, &[1024]).unwrap();
    assert_eq!(buffer.address().unwrap(), address, "the buffer is the host memory itself");
    assert_eq!(f32_values(&buffer.to_vec().unwrap()), values);
    assert!(!dropped.load(Ordering::SeqCst), "kept alive by the buffer alone");
    drop(buffer);
    assert!(eventually(|| dropped.load(Ordering::SeqCst)), "given back when the buffer is gone");
}

#[test]
fn a_part_of_host_memory_is_aliased_too() {
    let Some(client) = cpu_client("a_part_of_host_memory_is_aliased_too") else { return };
    let (memory, _) = Tracked::new(&f32_bytes(&[0.; 64]), 0);
    let address = memory.as_ref().as_ref().as_ptr().addr();
    let device = &client.addressable_devices()[0];
    let buffer =
        client.buffer_from_owned(device, memory.clone(), 64..128, ElementType::F32, &[16]).unwrap();
    assert_eq!(buffer.address().unwrap(), address + 64);
    for range in [0..257, 300..301, std::ops::Range { start: 9, end: 8 }] {
        let refused =
            client.buffer_from_owned(device, memory.clone(), range, ElementType::U8, &[1]);
        assert!(matches!(refused, Err(Error::InvalidInput { .. })));
    }
}

#[test]
fn unaligned_host_memory_is_copied_and_given_back() {
    let Some(client) = cpu_client("unaligned_host_memory_is_copied_and_given_back") else { return };
    let (memory, dropped) = Tracked::new(&f32_bytes(&[1., 2., 3.]), 4);
    let address = memory.as_ref().as_ref().as_ptr().addr();
    let device = &client.addressable_devices()[0];
    let buffer = client.buffer_from_owned(device, memory, 0..12, ElementType::F32, &[3]).unwrap();
    assert_ne!(buffer.address().unwrap(), address);
    assert_eq!(f32_values(&buffer.to_vec().unwrap()), [1., 2., 3.]);
    assert!(eventually(|| dropped.load(Ordering::SeqCst)), "the copy does not need it");
}

/// A program may not write into memory that was lent as immutable, even if it is donated.
#[test]
fn donating_an_alias_leaves_the_host_memory_alone() {
    const ADD_IN_PLACE: &str = r#"
func.func @main(%x: tensor<1024xf32> {tf.aliasing_output = 0 : i32}) -> tensor<1024xf32> {
  %y = "stablehlo.add"(%x, %x) : (tensor<1024xf32>, tensor<1024xf32>) -> tensor<1024xf32>
  "func.return"(%y) : (tensor<1024xf32>) -> ()
}"#;
    let Some(client) = cpu_client("donating_an_alias_leaves_the_host_memory_alone") else { return };
    let executable = client.compile(ADD_IN_PLACE, &compile_options(1)).unwrap();
    let (memory, _) = Tracked::new(&f32_bytes(&[1.; 1024]), 0);
    let device = &executable.addressable_devices()[0];
    let buffer = client
        .buffer_from_owned(device, memory.clone(), 0..4096, ElementType::F32, &[1024])
        .unwrap();
    let run = executable.execute(vec![vec![Argument::Donated(buffer)]]).unwrap();
    assert_eq!(f32_values(&run.outputs[0][0].to_vec().unwrap()), [2.; 1024]);
    assert_eq!(f32_values(memory.as_ref().as_ref()), [1.; 1024]);
}

#[test]
fn a_slice_is_copied_before_the_call_returns() {
    let Some(client) = cpu_client("a_slice_is_copied_before_the_call_returns") else { return };
    let mut data = f32_bytes(&[7.; 4096]);
    let buffer = client
        .buffer_from_slice(&client.addressable_devices()[0], &data, ElementType::F32, &[64, 64])
        .unwrap();
    data.fill(0);
    assert_eq!(f32_values(&buffer.to_vec().unwrap()), [7.; 4096]);
}

/// Every element type that the plugin takes goes in and comes out with the same bytes.
#[test]
fn every_element_type_round_trips() {
    let Some(client) = cpu_client("every_element_type_round_trips") else { return };
    let device = &client.addressable_devices()[0];
    let mut round_tripped = 0;
    for &element_type in ElementType::ALL {
        // Zeros and ones are values of every type, the narrowest and booleans included.
        let data: Vec<u8> =
            (0..6 * element_type.size_bytes()).map(|index| (index % 2) as u8).collect();
        let buffer = match client.buffer_from_slice(device, &data, element_type, &[2, 3]) {
            Ok(buffer) => buffer,
            Err(error) => {
                assert!(error.code().is_some(), "{element_type}: {error}");
                continue;
            }
        };
        assert_eq!(buffer.element_type().unwrap(), element_type);
        assert_eq!(buffer.to_vec().unwrap(), data, "{element_type}");
        round_tripped += 1;
    }
    assert!(round_tripped >= 20, "only {round_tripped} of {} types", ElementType::ALL.len());
}

#[test]
fn scalars_and_empty_arrays_round_trip() {
    let Some(client) = cpu_client("scalars_and_empty_arrays_round_trip") else { return };
    let device = &client.addressable_devices()[0];
    let scalar =
        client.buffer_from_slice(device, &f32_bytes(&[3.]), ElementType::F32, &[]).unwrap();
    assert_eq!(f32_values(&scalar.to_vec().unwrap()), [3.]);
    let empty = client.buffer_from_slice(device, &[], ElementType::F32, &[0, 5]).unwrap();
    assert_eq!(empty.dimensions().unwrap(), [0, 5]);
    assert!(empty.to_vec().unwrap().is_empty());
}

#[test]
fn buffers_move_between_devices() {
    let Some(client) = cpu_client("buffers_move_between_devices") else { return };
    let [first, second, ..] = client.addressable_devices() else { panic!("two devices") };
    let buffer =
        client.buffer_from_slice(first, &f32_bytes(&[1., 2.]), ElementType::F32, &[2]).unwrap();
    let copy = buffer.copy_to_device(second).unwrap();
    assert_eq!(copy.device().unwrap(), *second);
    assert_eq!(f32_values(&copy.to_vec().unwrap()), [1., 2.]);
    assert_eq!(buffer.memory().unwrap().id(), first.default_memory().unwrap().id());
    let moved = buffer.copy_to_memory(&second.default_memory().unwrap()).unwrap();
    assert_eq!(f32_values(&moved.to_vec().unwrap()), [1., 2.]);
}

#[test]
fn a_deleted_buffer_answers_errors() {
    let Some(client) = cpu_client("a_deleted_buffer_answers_errors") else { return };
    let device = &client.addressable_devices()[0];
    let buffer =
        client.buffer_from_slice(device, &f32_bytes(&[1.]), ElementType::F32, &[1]).unwrap();
    assert!(!buffer.is_deleted().unwrap());
    buffer.delete().unwrap();
    assert!(buffer.is_deleted().unwrap());
    assert!(buffer.to_vec().is_err());
}

/// The smallest executor: polls on this thread, sleeps until woken.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// Long enough for an event to be awaited before it is complete.
const SLOW: &str = r#"
func.func @main(%x: tensor<512x512xf32>) -> tensor<512x512xf32> {
  %a = "stablehlo.dot_general"(%x, %x) <{dot_dimension_numbers = #stablehlo.dot<lhs_contracting_dimensions = [1], rhs_contracting_dimensions = [0]>}> : (tensor<512x512xf32>, tensor<512x512xf32>) -> tensor<512x512xf32>
  %b = "stablehlo.dot_general"(%a, %x) <{dot_dimension_numbers = #stablehlo.dot<lhs_contracting_dimensions = [1], rhs_contracting_dimensions = [0]>}> : (tensor<512x512xf32>, tensor<512x512xf32>) -> tensor<512x512xf32>
  "func.return"(%b) : (tensor<512x512xf32>) -> ()
}"#;

#[test]
fn events_and_transfers_can_be_awaited() {
    let Some(client) = cpu_client("events_and_transfers_can_be_awaited") else { return };
    let executable = client.compile(SLOW, &compile_options(1)).unwrap();
    let device = &executable.addressable_devices()[0];
    let x = client.buffer_from_slice(
        device,
        &f32_bytes(&vec![1.; 512 * 512]),
        ElementType::F32,
        &[512, 512],
    );
    let x = x.unwrap();
    for _ in 0..16 {
        let run = executable.execute(vec![vec![Argument::Borrowed(&x)]]).unwrap();
        // Started before the run is complete, and dropped before anyone waits for it.
        drop(run.outputs[0][0].to_host_async(Vec::new()).unwrap());
        let transfer = run.outputs[0][0].to_host_async(Vec::with_capacity(16)).unwrap();
        let bytes = block_on(transfer).unwrap();
        assert_eq!(f32_values(&bytes), vec![512. * 512.; 512 * 512]);
        let [done] = run.done.as_slice() else { panic!("one device") };
        block_on(done.clone()).unwrap();
        assert!(done.is_ready().unwrap());
        // Awaiting again, and blocking, answer the same.
        block_on(done.clone()).unwrap();
        done.wait().unwrap();
        block_on(run.outputs[0][0].ready().unwrap()).unwrap();
    }
}

#[test]
fn every_waiter_of_an_event_is_woken() {
    let Some(client) = cpu_client("every_waiter_of_an_event_is_woken") else { return };
    let executable = client.compile(SLOW, &compile_options(1)).unwrap();
    let device = &executable.addressable_devices()[0];
    let x = client
        .buffer_from_slice(device, &vec![0; 512 * 512 * 4], ElementType::F32, &[512, 512])
        .unwrap();
    let run = executable.execute(vec![vec![Argument::Borrowed(&x)]]).unwrap();
    let woken = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            let event = run.done[0].clone();
            scope.spawn(|| {
                block_on(event).unwrap();
                woken.fetch_add(1, Ordering::SeqCst);
            });
        }
    });
    assert_eq!(woken.load(Ordering::SeqCst), 4);
}

#[test]
fn uninitialized_memory_has_the_shape() {
    let Some(client) = cpu_client("uninitialized_memory_has_the_shape") else {
        return;
    };
    let device = &client.devices()[0];
    let buffer = client.uninitialized_buffer(device, ElementType::F32, &[3, 5]).unwrap();
    assert_eq!(buffer.dimensions().unwrap(), [3, 5]);
    assert_eq!(buffer.to_vec().unwrap().len(), 60);
}

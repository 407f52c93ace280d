//! The key-value store by which the processes of one client find each other, and the callbacks that
//! let a plugin use it.
//!
//! Knows no network: a store is whatever the caller implements, and [`MemoryKeyValueStore`] serves
//! processes that are threads of one (and tests).

use std::collections::HashMap;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::Code;
use crate::sys;
use crate::table::{slice, text};

/// Why a store could not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct KeyValueError {
    /// What kind of failure it was: [`Code::NotFound`] for a key that is not there,
    /// [`Code::DeadlineExceeded`] for one that did not come in time.
    pub code: Code,
    /// What went wrong, one sentence.
    pub message: String,
}

/// A store shared by all processes of a client. Called from the plugin's threads, several at once.
pub trait KeyValueStore: Send + Sync {
    /// The value of `key`, waiting for it up to `timeout`.
    ///
    /// # Errors
    /// [`Code::DeadlineExceeded`] when it did not come in time, or whatever went wrong.
    fn get(&self, key: &str, timeout: Duration) -> Result<Vec<u8>, KeyValueError>;

    /// The value of `key` if it is there now.
    ///
    /// # Errors
    /// [`Code::NotFound`] when it is not there, or whatever went wrong.
    fn try_get(&self, key: &str) -> Result<Vec<u8>, KeyValueError>;

    /// Sets the value of `key`.
    ///
    /// # Errors
    /// Whatever went wrong.
    fn put(&self, key: &str, value: &[u8]) -> Result<(), KeyValueError>;
}

/// A store within one process, for clients that share it.
#[derive(Default)]
pub struct MemoryKeyValueStore {
    values: Mutex<HashMap<String, Vec<u8>>>,
    changed: Condvar,
}

impl MemoryKeyValueStore {
    /// An empty store.
    pub fn new() -> MemoryKeyValueStore {
        MemoryKeyValueStore::default()
    }
}

impl KeyValueStore for MemoryKeyValueStore {
    fn get(&self, key: &str, timeout: Duration) -> Result<Vec<u8>, KeyValueError> {
        let start = Instant::now();
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(value) = values.get(key) {
                return Ok(value.clone());
            }
            let Some(left) = timeout.checked_sub(start.elapsed()) else {
                let message =
                    format!("nobody put the key `{key}` within {} ms", timeout.as_millis());
                return Err(KeyValueError { code: Code::DeadlineExceeded, message });
            };
            values =
                self.changed.wait_timeout(values, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn try_get(&self, key: &str) -> Result<Vec<u8>, KeyValueError> {
        let values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        values.get(key).cloned().ok_or_else(|| KeyValueError {
            code: Code::NotFound,
            message: format!("nobody has put the key `{key}` yet"),
        })
    }

    fn put(&self, key: &str, value: &[u8]) -> Result<(), KeyValueError> {
        self.values
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key.to_owned(), value.to_vec());
        self.changed.notify_all();
        Ok(())
    }
}

/// A store in the form that callbacks can be given: a thin pointer to a boxed `Arc`.
pub(crate) struct Registration {
    store: *mut Arc<dyn KeyValueStore>,
}

// SAFETY: owns an `Arc` of a `Send + Sync` store; the pointer is only read through.
unsafe impl Send for Registration {}
// SAFETY: as above.
unsafe impl Sync for Registration {}

impl Registration {
    pub(crate) fn new(store: Arc<dyn KeyValueStore>) -> Registration {
        Registration { store: Box::into_raw(Box::new(store)) }
    }

    /// Adds the callbacks to a client's arguments. The registration must outlive the client.
    pub(crate) fn user_argument(&self) -> *mut c_void {
        self.store.cast()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: made by `new`, dropped once; the client that used it is gone (see `ClientInner`).
        drop(unsafe { Box::from_raw(self.store) });
    }
}

/// Runs a store's method for a callback: turns a panic into an error, since neither may cross into the
/// plugin.
///
/// # Safety
/// `user_argument` must be a live registration's, and `key` must point to `key_size` bytes.
unsafe fn answer<T>(
    user_argument: *mut c_void,
    key: *const u8,
    key_size: usize,
    method: impl FnOnce(&dyn KeyValueStore, &str) -> Result<T, KeyValueError>,
) -> Result<T, KeyValueError> {
    let run = AssertUnwindSafe(|| {
        // SAFETY: passed on from the caller.
        let (store, key) =
            unsafe { (&*user_argument.cast::<Arc<dyn KeyValueStore>>(), text(key, key_size)) };
        method(store.as_ref(), &key)
    });
    catch_unwind(run).unwrap_or_else(|_| {
        let message = "the key-value store panicked".to_owned();
        Err(KeyValueError { code: Code::Internal, message })
    })
}

/// # Safety
/// `make` must be null or point to the function that the plugin gave for making errors.
unsafe fn raise(make: *mut sys::CallbackError, error: &KeyValueError) -> *mut sys::Error {
    if make.is_null() {
        return std::ptr::null_mut();
    }
    // SAFETY: passed on from the caller; the message is copied during the call.
    unsafe { (*make)(error.code.raw(), error.message.as_ptr(), error.message.len()) }
}

/// Hands bytes to the plugin, to be given back to `delete_value`. The deleter learns no size, so the
/// size goes in front of the bytes.
fn hand_over(value: &[u8]) -> *mut u8 {
    let mut block = Vec::with_capacity(HEADER_BYTES + value.len());
    block.extend_from_slice(&value.len().to_ne_bytes());
    block.extend_from_slice(value);
    let block: *mut [u8] = Box::into_raw(block.into_boxed_slice());
    // SAFETY: the block is longer than its header.
    unsafe { block.cast::<u8>().add(HEADER_BYTES) }
}

const HEADER_BYTES: usize = size_of::<usize>();

unsafe extern "C" fn delete_value(value: *mut u8) {
    if value.is_null() {
        return;
    }
    // SAFETY: `hand_over` made this pointer, which has its size in front of it.
    unsafe {
        let block = value.sub(HEADER_BYTES);
        let size = block.cast::<usize>().read_unaligned();
        drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(block, HEADER_BYTES + size)));
    }
}

pub(crate) unsafe extern "C" fn get(arguments: *mut sys::KeyValueGet) -> *mut sys::Error {
    // SAFETY: the plugin passes a filled-in struct, and as user argument what it was given.
    unsafe {
        let arguments = &mut *arguments;
        let timeout =
            Duration::from_millis(u64::try_from(arguments.timeout_milliseconds).unwrap_or(0));
        let found =
            answer(arguments.user_argument, arguments.key, arguments.key_size, |store, key| {
                store.get(key, timeout)
            });
        match found {
            Ok(value) => {
                arguments.value = hand_over(&value);
                arguments.value_size = value.len();
                arguments.value_deleter = Some(delete_value);
                std::ptr::null_mut()
            }
            Err(error) => raise(arguments.callback_error, &error),
        }
    }
}

pub(crate) unsafe extern "C" fn try_get(arguments: *mut sys::KeyValueTryGet) -> *mut sys::Error {
    // SAFETY: as in `get`.
    unsafe {
        let arguments = &mut *arguments;
        let found =
            answer(arguments.user_argument, arguments.key, arguments.key_size, |store, key| {
                store.try_get(key)
            });
        match found {
            Ok(value) => {
                arguments.value = hand_over(&value);
                arguments.value_size = value.len();
                arguments.value_deleter = Some(delete_value);
                std::ptr::null_mut()
            }
            Err(error) => raise(arguments.callback_error, &error),
        }
    }
}

pub(crate) unsafe extern "C" fn put(arguments: *mut sys::KeyValuePut) -> *mut sys::Error {
    // SAFETY: as in `get`; the value is readable during the call.
    unsafe {
        let arguments = &mut *arguments;
        let value = slice(arguments.value, arguments.value_size);
        let stored =
            answer(arguments.user_argument, arguments.key, arguments.key_size, |store, key| {
                store.put(key, value)
            });
        match stored {
            Ok(()) => std::ptr::null_mut(),
            Err(error) => raise(arguments.callback_error, &error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Arguments;

    #[test]
    fn a_value_put_later_ends_the_wait() {
        let store = MemoryKeyValueStore::new();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| store.get("key", Duration::from_secs(60)));
            store.put("key", b"value").unwrap();
            assert_eq!(waiting.join().unwrap().unwrap(), b"value");
        });
    }

    #[test]
    fn an_absent_key_is_told_apart_from_a_late_one() {
        let store = MemoryKeyValueStore::new();
        assert_eq!(store.try_get("key").unwrap_err().code, Code::NotFound);
        assert_eq!(store.get("key", Duration::ZERO).unwrap_err().code, Code::DeadlineExceeded);
    }

    /// Plays the plugin: put, then get, through the callbacks.
    #[test]
    fn callbacks_carry_values_through_the_c_structs() {
        let registration = Registration::new(Arc::new(MemoryKeyValueStore::new()));
        for value in [&b"some bytes\0with a zero"[..], b""] {
            let mut put_arguments = sys::KeyValuePut::new();
            put_arguments.key = b"key".as_ptr();
            put_arguments.key_size = 3;
            put_arguments.value = value.as_ptr();
            put_arguments.value_size = value.len();
            put_arguments.user_argument = registration.user_argument();
            // SAFETY: the struct is filled in as a plugin would.
            assert!(unsafe { put(&mut put_arguments) }.is_null());

            let mut get_arguments = sys::KeyValueTryGet::new();
            get_arguments.key = b"key".as_ptr();
            get_arguments.key_size = 3;
            get_arguments.user_argument = registration.user_argument();
            // SAFETY: the struct is filled in as a plugin would.
            assert!(unsafe { try_get(&mut get_arguments) }.is_null());
            // SAFETY: the callback answered a value of this size.
            assert_eq!(unsafe { slice(get_arguments.value, get_arguments.value_size) }, value);
            let delete = get_arguments.value_deleter.unwrap();
            // SAFETY: the value is deleted once.
            unsafe { delete(get_arguments.value) };
        }
    }

    #[test]
    fn a_panicking_store_becomes_an_error() {
        struct Panics;
        impl KeyValueStore for Panics {
            fn get(&self, _: &str, _: Duration) -> Result<Vec<u8>, KeyValueError> {
                panic!("get")
            }
            fn try_get(&self, _: &str) -> Result<Vec<u8>, KeyValueError> {
                panic!("try_get")
            }
            fn put(&self, _: &str, _: &[u8]) -> Result<(), KeyValueError> {
                panic!("put")
            }
        }
        let registration = Registration::new(Arc::new(Panics));
        // SAFETY: the registration is live and the key is three bytes.
        let found = unsafe {
            answer(registration.user_argument(), b"key".as_ptr(), 3, |s, k| s.try_get(k))
        };
        assert_eq!(found.unwrap_err().code, Code::Internal);
    }
}

//! The one way to call a plugin: checks that the function is there, runs it, and turns the error it
//! may answer into ours.
//!
//! Knows nothing of what the calls mean, nor who owns the handles that pass through.

use crate::error::{ApiVersion, Code, Error, Result};
use crate::sys::{self, Arguments};

/// Looks a function up in a table by its slot's name. Unsafe only because [`Table::slot`] is.
macro_rules! slot {
    ($table:expr, $slot:ident) => {
        $table
            .slot(stringify!($slot), std::mem::offset_of!($crate::sys::Api, $slot), |api| api.$slot)
    };
}

/// A plugin's table of functions. Plugins are never unloaded, so it is valid for good.
#[derive(Clone, Copy)]
pub(crate) struct Table {
    api: *const sys::Api,
}

// SAFETY: the table is read-only after the plugin filled it in, and never freed. The interface asks of
// plugins that their functions may be called from any thread.
unsafe impl Send for Table {}
// SAFETY: as above.
unsafe impl Sync for Table {}

impl Table {
    /// # Safety
    /// `api` must be what a `GetPjrtApi` answered, not null, and its library must never be unloaded.
    pub(crate) unsafe fn new(api: *const sys::Api) -> Table {
        Table { api }
    }

    pub(crate) fn version(self) -> ApiVersion {
        // SAFETY: every version of the table has its own version in this place.
        let version = unsafe { &(*self.api).version };
        ApiVersion { major: version.major, minor: version.minor }
    }

    /// The function in a slot, if the plugin's table reaches that far and it is filled in.
    ///
    /// # Safety
    /// `offset` must be that of the field that `field` answers. `field` gives the slot its type and is
    /// never called, since the plugin's table may be shorter than ours.
    pub(crate) unsafe fn slot<F>(
        self,
        name: &'static str,
        offset: usize,
        _field: fn(&sys::Api) -> Option<F>,
    ) -> Result<F> {
        // SAFETY: every version of the table begins with its size.
        let size = unsafe { (*self.api).struct_size };
        let function = if offset + size_of::<Option<F>>() <= size {
            // SAFETY: the slot lies within the plugin's table, and is of this type.
            unsafe { self.api.byte_add(offset).cast::<Option<F>>().read() }
        } else {
            None
        };
        function.ok_or_else(|| Error::MissingFunction { function: name, version: self.version() })
    }

    /// First extension of this type in the plugin's list, if there is one.
    pub(crate) fn extension(self, extension_type: i32) -> Option<*const sys::ExtensionBase> {
        // SAFETY: every version of the table has the list's head in this place.
        let mut next: *const sys::ExtensionBase = unsafe { (*self.api).extension_start };
        while !next.is_null() {
            // SAFETY: a non-null entry of the list is an extension, which begins with this head.
            let head = unsafe { &*next };
            if head.extension_type == extension_type {
                return Some(next);
            }
            next = head.next;
        }
        None
    }

    /// Turns what a call answered into a result, destroying the plugin's error.
    ///
    /// # Safety
    /// `error` must be null or an error that this plugin made and nobody has destroyed.
    pub(crate) unsafe fn check(self, error: *mut sys::Error) -> Result<()> {
        if error.is_null() {
            return Ok(());
        }
        // SAFETY: passed on from the caller.
        Err(unsafe { self.take_error(error) })
    }

    /// # Safety
    /// As for `check`, and not null.
    unsafe fn take_error(self, error: *mut sys::Error) -> Error {
        let mut code = sys::ErrorGetCode::new();
        code.error = error;
        // A failure to read the code must not hide the message, and would itself be an error to take.
        // SAFETY: `slot!` passes the field and its offset.
        if let Ok(get_code) = unsafe { slot!(self, error_get_code) } {
            // SAFETY: the error is live and the struct is filled in.
            let nested = unsafe { get_code(&mut code) };
            // SAFETY: `nested` is null or an error nobody has destroyed.
            unsafe { self.destroy_error(nested) };
        }
        let mut message = sys::ErrorMessage::new();
        message.error = error;
        // SAFETY: `slot!` passes the field and its offset.
        if let Ok(get_message) = unsafe { slot!(self, error_message) } {
            // SAFETY: the error is live and the struct is filled in.
            unsafe { get_message(&mut message) };
        }
        // SAFETY: the message lives as long as the error, which is destroyed only below.
        let message = unsafe { text(message.message, message.message_size) };
        // SAFETY: passed on from the caller; the error is not used again.
        unsafe { self.destroy_error(error) };
        Error::Status { code: Code::from_raw(code.code), message }
    }

    /// # Safety
    /// As for `check`.
    unsafe fn destroy_error(self, error: *mut sys::Error) {
        if error.is_null() {
            return;
        }
        let mut arguments = sys::ErrorDestroy::new();
        arguments.error = error;
        // SAFETY: `slot!` passes the field and its offset.
        if let Ok(destroy) = unsafe { slot!(self, error_destroy) } {
            // SAFETY: the caller vouches for the error.
            unsafe { destroy(&mut arguments) };
        }
    }
}

/// Copies text that a plugin points to. Bytes that are not UTF-8 are replaced: it is only shown.
///
/// # Safety
/// `data` must be null or point to `size` readable bytes.
pub(crate) unsafe fn text(data: *const u8, size: usize) -> String {
    // SAFETY: passed on from the caller.
    String::from_utf8_lossy(unsafe { slice(data, size) }).into_owned()
}

/// A view of an array that a plugin points to. Null stands for the empty array, whatever its size.
///
/// # Safety
/// `data` must be null or point to `size` readable values that stay unchanged for `'a`.
pub(crate) unsafe fn slice<'a, T>(data: *const T, size: usize) -> &'a [T] {
    if data.is_null() || size == 0 {
        return &[];
    }
    // SAFETY: passed on from the caller.
    unsafe { std::slice::from_raw_parts(data, size) }
}

/// Makes one call: `call!(table, slot, Arguments { field: value })` answers the argument struct, with
/// its outputs filled in, or the error. The struct's type is checked against the slot's.
///
/// Unsafe to use: the handles and pointers passed must be what the function expects.
macro_rules! call {
    ($table:expr, $slot:ident, $arguments:ident { $($field:ident: $value:expr),* $(,)? }) => {{
        let table: $crate::table::Table = $table;
        match $crate::table::slot!(table, $slot) {
            Err(missing) => Err(missing),
            Ok(function) => {
                let mut arguments = <$crate::sys::$arguments as $crate::sys::Arguments>::new();
                $(arguments.$field = $value;)*
                let error = function(&raw mut arguments);
                table.check(error).map(|()| arguments)
            }
        }
    }};
}
pub(crate) use {call, slot};

#[cfg(test)]
mod tests {
    use std::mem::offset_of;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    static DESTROYED: AtomicUsize = AtomicUsize::new(0);
    const MESSAGE: &[u8] = b"out of everything";

    unsafe extern "C" fn message(arguments: *mut sys::ErrorMessage) {
        // SAFETY: called with a live struct.
        unsafe {
            (*arguments).message = MESSAGE.as_ptr();
            (*arguments).message_size = MESSAGE.len();
        }
    }

    unsafe extern "C" fn get_code(arguments: *mut sys::ErrorGetCode) -> *mut sys::Error {
        // SAFETY: called with a live struct.
        unsafe { (*arguments).code = 8 };
        std::ptr::null_mut()
    }

    unsafe extern "C" fn destroy(_: *mut sys::ErrorDestroy) {
        DESTROYED.fetch_add(1, Ordering::SeqCst);
    }

    unsafe extern "C" fn fail(arguments: *mut sys::PluginInitialize) -> *mut sys::Error {
        // SAFETY: called with a live struct.
        assert_eq!(unsafe { (*arguments).struct_size }, sys::PluginInitialize::STRUCT_SIZE);
        std::ptr::dangling_mut()
    }

    /// A plugin of version 0.81 whose table ends before `end`.
    fn fake(end: usize) -> sys::Api {
        // SAFETY: integers, null pointers and absent functions are all zero bytes.
        let mut api: sys::Api = unsafe { std::mem::zeroed() };
        api.struct_size = end;
        api.version.minor = 81;
        api.error_message = Some(message);
        api.error_get_code = Some(get_code);
        api.error_destroy = Some(destroy);
        api.plugin_initialize = Some(fail);
        api
    }

    #[test]
    fn a_plugins_error_is_read_and_destroyed_once() {
        let api = fake(size_of::<sys::Api>());
        // SAFETY: the table outlives its use here.
        let table = unsafe { Table::new(&api) };
        // SAFETY: takes no handles.
        let answer = unsafe { call!(table, plugin_initialize, PluginInitialize {}) };
        let Err(error) = answer else { panic!("it fails") };
        assert_eq!(error.code(), Some(Code::ResourceExhausted));
        assert_eq!(error.to_string(), "resource exhausted: out of everything");
        assert_eq!(DESTROYED.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn functions_past_the_tables_end_or_left_out_are_missing() {
        let offset = offset_of!(sys::Api, plugin_initialize);
        // In the first table the slot is filled in but lies past the end; in the second it is empty.
        let mut without = fake(size_of::<sys::Api>());
        without.plugin_initialize = None;
        for api in [fake(offset), fake(offset + 4), without] {
            // SAFETY: the table outlives its use here.
            let table = unsafe { Table::new(&api) };
            // SAFETY: takes no handles.
            let answer = unsafe { call!(table, plugin_initialize, PluginInitialize {}) };
            let Err(error) = answer else { panic!("it is missing") };
            assert_eq!(
                error.to_string(),
                "the function plugin_initialize is not available in this plugin (PJRT API 0.81)"
            );
        }
    }

    /// The place of every slot follows from the number of functions before it, so a slot that was
    /// forgotten shows here. Places are those of the published header.
    #[test]
    fn slots_are_where_the_interface_has_them() {
        const FIRST: usize = 2 * size_of::<usize>() + size_of::<sys::Version>();
        let place = |offset: usize| (offset - FIRST) / size_of::<usize>();
        assert_eq!(place(offset_of!(sys::Api, error_destroy)), 0);
        assert_eq!(place(offset_of!(sys::Api, client_create)), 10);
        assert_eq!(place(offset_of!(sys::Api, executable_destroy)), 40);
        assert_eq!(place(offset_of!(sys::Api, buffer_destroy)), 58);
        assert_eq!(place(offset_of!(sys::Api, topology_create)), 82);
        assert_eq!(place(offset_of!(sys::Api, compile)), 89);
        assert_eq!(place(offset_of!(sys::Api, loaded_executable_get_device_assignment)), 117);
    }
}

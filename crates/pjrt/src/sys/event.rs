//! Events: completion of work that a plugin does in the background.

use super::*;
use std::ffi::c_void;

/// Called once when an event completes, on a thread of the plugin's choice; owns `error`.
pub(crate) type OnReadyCallback =
    unsafe extern "C" fn(error: *mut Error, user_argument: *mut c_void);

arguments! {
    EventDestroy { event: *mut Event }
    EventIsReady { event: *mut Event, is_ready: bool }
    EventError { event: *mut Event }
    EventAwait { event: *mut Event }
    EventOnReady { event: *mut Event, callback: Option<OnReadyCallback>, user_argument: *mut c_void }
}

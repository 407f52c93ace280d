//! Loading a plugin: from a path to a table of functions that may be called.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::error::{ApiVersion, Error, Result};
use crate::library;
use crate::sys;
use crate::table::{Table, call};
use crate::value::{self, Value};

/// The oldest interface that has everything which loading, compiling and running needs. Later
/// additions are checked one by one, when they are called.
const OLDEST: ApiVersion = ApiVersion { major: 0, minor: 54 };

/// A PJRT plugin: a vendor's library that compiles and runs programs on its devices.
///
/// Cheap to clone. The library stays loaded until the process ends, since plugins start threads that
/// would be left without code.
#[derive(Clone)]
pub struct Plugin {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    table: Table,
}

impl Plugin {
    /// Loads the plugin at `path` and initializes it; a second call for the same file answers the same
    /// plugin.
    ///
    /// Plugins read their environment now, so variables such as `TPU_SKIP_MDS_QUERY` or `XLA_FLAGS`
    /// must be set before. This runs the library's own start-up code: load only files that you trust.
    ///
    /// # Errors
    /// [`Error::Load`] when the file cannot be loaded, [`Error::NotAPlugin`] when it is some other
    /// library, [`Error::ApiMismatch`] when its interface does not fit, and whatever the plugin
    /// answers when it cannot start.
    pub fn load(path: &Path) -> Result<Plugin> {
        static LOADED: OnceLock<Mutex<HashMap<PathBuf, Plugin>>> = OnceLock::new();
        let canonical = library::locate(path)?;
        // Held while loading: a plugin must be initialized once, and before anyone else calls it.
        let mut loaded =
            LOADED.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plugin) = loaded.get(&canonical) {
            return Ok(plugin.clone());
        }
        let plugin = Plugin::load_new(path, &canonical)?;
        loaded.insert(canonical, plugin.clone());
        Ok(plugin)
    }

    fn load_new(path: &Path, canonical: &Path) -> Result<Plugin> {
        let get_api = library::open(canonical)?;
        // SAFETY: the symbol of this name has this signature in every plugin.
        let api = unsafe { get_api() };
        if api.is_null() {
            return Err(Error::broken("GetPjrtApi answered null"));
        }
        // SAFETY: `api` is what `GetPjrtApi` answered, and `library::open` never unloads.
        let table = unsafe { Table::new(api) };
        check_version(path, table.version())?;
        // SAFETY: takes no handles.
        unsafe { call!(table, plugin_initialize, PluginInitialize {}) }?;
        Ok(Plugin { inner: Arc::new(Inner { path: path.to_owned(), table }) })
    }

    /// The path it was first loaded from.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// The version of the interface that it speaks.
    pub fn api_version(&self) -> ApiVersion {
        self.table().version()
    }

    /// What the plugin says about itself, such as the StableHLO versions that it accepts.
    ///
    /// # Errors
    /// Whatever the plugin answers.
    pub fn attributes(&self) -> Result<Vec<(String, Value)>> {
        // SAFETY: takes no handles.
        let answer = unsafe { call!(self.table(), plugin_attributes, PluginAttributes {}) }?;
        // SAFETY: the attributes live as long as the process.
        unsafe { value::from_raw(answer.attributes, answer.num_attributes) }
    }

    pub(crate) fn table(&self) -> Table {
        self.inner.table
    }
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Plugin")
            .field("path", &self.inner.path)
            .field("api_version", &self.api_version())
            .finish()
    }
}

impl Plugin {
    /// Whether native functions can be registered, to be called from compiled programs
    /// ([`Plugin::register_ffi_handler`]).
    pub fn has_ffi(&self) -> bool {
        self.table().extension(sys::EXTENSION_TYPE_FFI).is_some()
    }
}

/// Whether this crate can talk to a plugin of that version.
fn check_version(path: &Path, found: ApiVersion) -> Result<()> {
    if found.major == OLDEST.major && found.minor >= OLDEST.minor {
        return Ok(());
    }
    let needed = format!("{OLDEST} or a later {}.x", OLDEST.major);
    Err(Error::ApiMismatch { path: path.to_owned(), found, needed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_checked_both_ways() {
        let check = |major, minor| check_version("plugin.so".as_ref(), ApiVersion { major, minor });
        assert!(check(0, 54).is_ok() && check(0, 81).is_ok() && check(0, 1000).is_ok());
        assert!(check(0, 53).is_err());
        let error = check(1, 3).unwrap_err().to_string();
        assert_eq!(
            error,
            "plugin.so speaks PJRT API 1.3, and this program needs 0.54 or a later 0.x: install another version of the plugin"
        );
    }
}

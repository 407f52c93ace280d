//! A group's keys in the form that plugins use.

use std::sync::Arc;
use std::time::Duration;

use pjrt::{Code, KeyValueError, KeyValueStore};

use super::client::Client;
use super::error::GroupError;
use super::group::{get, put, try_get};

pub(super) struct PluginKeys {
    client: Arc<Client>,
}

impl PluginKeys {
    pub fn new(client: Arc<Client>) -> PluginKeys {
        PluginKeys { client }
    }
}

/// A plugin's keys cannot be mistaken for ours.
fn plugin_key(key: &str) -> String {
    format!("plugin/{key}")
}

impl KeyValueStore for PluginKeys {
    fn get(&self, key: &str, timeout: Duration) -> Result<Vec<u8>, KeyValueError> {
        get(&self.client, &plugin_key(key), timeout).map_err(to_plugin)
    }

    fn try_get(&self, key: &str) -> Result<Vec<u8>, KeyValueError> {
        try_get(&self.client, &plugin_key(key)).map_err(to_plugin)?.ok_or_else(|| KeyValueError {
            code: Code::NotFound,
            message: format!("nobody has put the key `{key}` yet"),
        })
    }

    fn put(&self, key: &str, value: &[u8]) -> Result<(), KeyValueError> {
        put(&self.client, &plugin_key(key), value).map_err(to_plugin)
    }
}

fn to_plugin(error: GroupError) -> KeyValueError {
    let code = match error {
        GroupError::NotPut { .. } => Code::DeadlineExceeded,
        GroupError::TooLarge { .. } => Code::InvalidArgument,
        _ => Code::Unavailable,
    };
    KeyValueError { code, message: error.to_string() }
}

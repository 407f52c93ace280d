//! Texts that must not be shown: read from files, and anew when those change.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use crate::config::Secret;

/// What the secrets of a config are now.
#[derive(Default)]
pub struct Secrets {
    files: RwLock<HashMap<PathBuf, Arc<str>>>,
}

impl Secrets {
    pub fn new() -> Secrets {
        Secrets::default()
    }

    /// Nothing if it cannot be read, or is empty.
    pub fn get(&self, secret: &Secret) -> Option<Arc<str>> {
        match secret {
            Secret::Variable(name) => filled(&std::env::var(name).ok()?),
            Secret::File(path) => {
                let known = self.files.read().unwrap_or_else(PoisonError::into_inner);
                if let Some(value) = known.get(path) {
                    return Some(Arc::clone(value));
                }
                drop(known);
                let value = filled(&std::fs::read_to_string(path).ok()?)?;
                let mut known = self.files.write().unwrap_or_else(PoisonError::into_inner);
                known.insert(path.clone(), Arc::clone(&value));
                Some(value)
            }
        }
    }

    /// Reads all files anew. One that cannot be read now keeps what it had.
    pub fn refresh(&self) {
        let known = self.files.read().unwrap_or_else(PoisonError::into_inner);
        let paths: Vec<PathBuf> = known.keys().cloned().collect();
        drop(known);
        for path in paths {
            let text = std::fs::read_to_string(&path).ok();
            if let Some(value) = text.as_deref().and_then(filled) {
                let mut known = self.files.write().unwrap_or_else(PoisonError::into_inner);
                known.insert(path, value);
            }
        }
    }
}

fn filled(text: &str) -> Option<Arc<str>> {
    let text = text.trim();
    (!text.is_empty()).then(|| Arc::from(text))
}

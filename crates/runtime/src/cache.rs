//! Compiled programs on disk. An entry is found by a digest of everything that went into it; an
//! entry that was damaged is reported and compiled again, and the least recently used ones go when
//! there is too much. Knows nothing of what is in an entry.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::digest;
use crate::folders::{CacheFolder, FolderError, create_folder, write_whole};

/// Raised when entries of older programs must not be read any more.
const FORMAT_VERSION: u32 = 1;
const MAGIC: &[u8; 8] = b"FUNGCOMP";
const DIGEST_CHARACTERS: usize = 64;
const HEADER_BYTES: usize = MAGIC.len() + 4 + DIGEST_CHARACTERS;
const LIMIT_BYTES_DEFAULT: u64 = 10 << 30;

/// What an entry is found by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CacheKey(String);

impl CacheKey {
    /// Pieces are labelled, so that two that happen to be equal cannot stand for each other. The
    /// format's version and this program's are added.
    pub fn new(pieces: &[(&str, &[u8])]) -> CacheKey {
        let mut digest = digest::Labelled::default();
        digest.add("format", &FORMAT_VERSION.to_le_bytes());
        digest.add("program", env!("CARGO_PKG_VERSION").as_bytes());
        for (label, bytes) in pieces {
            digest.add(label, bytes);
        }
        CacheKey(digest.finish())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What the cache has under a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Lookup {
    Hit(Vec<u8>),
    Miss,
    /// The entry cannot be trusted and was removed; the reason should reach the user.
    Damaged(String),
}

/// How much is in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheStatistics {
    pub entries: usize,
    pub bytes: u64,
    pub limit_bytes: u64,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "FUNGIBLE_CACHE_LIMIT is `{text}`, which is no size; write bytes or a number with K, M, G or T, such as 5G"
)]
pub struct BadLimit {
    text: String,
}

#[derive(Clone, Debug)]
pub struct CompileCache {
    folder: PathBuf,
    limit_bytes: u64,
}

impl CompileCache {
    /// The limit is `FUNGIBLE_CACHE_LIMIT` (bytes, or with a suffix such as `5G`), else 10 GiB.
    ///
    /// # Errors
    /// [`BadLimit`] when the variable is no size.
    pub fn new(cache: &CacheFolder) -> Result<CompileCache, BadLimit> {
        let limit = match std::env::var("FUNGIBLE_CACHE_LIMIT") {
            Ok(text) => parse_bytes(&text).ok_or(BadLimit { text })?,
            Err(_) => LIMIT_BYTES_DEFAULT,
        };
        Ok(CompileCache::with_limit(cache, limit))
    }

    pub fn with_limit(cache: &CacheFolder, limit_bytes: u64) -> CompileCache {
        CompileCache { folder: cache.compiled(), limit_bytes }
    }

    /// The file of an entry, which need not be there.
    pub fn path(&self, key: &CacheKey) -> PathBuf {
        self.folder.join(format!("{}.bin", key.0))
    }

    /// # Errors
    /// When an entry is there but cannot be read.
    pub fn get(&self, key: &CacheKey) -> Result<Lookup, FolderError> {
        let path = self.path(key);
        let wrap = |source| FolderError::from_io(&path, source);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Lookup::Miss),
            Err(error) => return Err(wrap(error)),
        };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(wrap)?;
        match check(&bytes) {
            Ok(()) => {
                bytes.drain(..HEADER_BYTES);
                // Marks it as used; a cache that cannot be written to still serves.
                let _ = File::options()
                    .append(true)
                    .open(&path)
                    .and_then(|file| file.set_modified(SystemTime::now()));
                Ok(Lookup::Hit(bytes))
            }
            Err(reason) => {
                let _ = fs::remove_file(&path);
                Ok(Lookup::Damaged(format!("{}: {reason}", path.display())))
            }
        }
    }

    /// Stores an entry and makes room for it.
    ///
    /// # Errors
    /// When it cannot be written; nothing partial is left.
    pub fn put(&self, key: &CacheKey, content: &[u8]) -> Result<(), FolderError> {
        create_folder(&self.folder)?;
        let digest = digest::of_bytes(content);
        let version = FORMAT_VERSION.to_le_bytes();
        let path = self.path(key);
        write_whole(&path, &[MAGIC, &version, digest.as_bytes(), content])?;
        self.make_room(&path);
        Ok(())
    }

    /// Removes an entry that turned out to be of no use, such as one that a plugin does not load.
    pub fn remove(&self, key: &CacheKey) {
        let _ = fs::remove_file(self.path(key));
    }

    pub fn statistics(&self) -> CacheStatistics {
        let entries = self.entries();
        CacheStatistics {
            entries: entries.len(),
            bytes: entries.iter().map(|entry| entry.bytes).sum(),
            limit_bytes: self.limit_bytes,
        }
    }

    fn entries(&self) -> Vec<Entry> {
        let Ok(folder) = fs::read_dir(&self.folder) else { return Vec::new() };
        let entry = |entry: fs::DirEntry| {
            let path = entry.path();
            let data = entry.metadata().ok()?;
            let is_entry = path.extension().is_some_and(|extension| extension == "bin");
            let used = data.modified().unwrap_or(UNIX_EPOCH);
            is_entry.then_some(Entry { path, bytes: data.len(), used })
        };
        folder.flatten().filter_map(entry).collect()
    }

    /// The newest entry stays even if it alone is over the limit: it is about to be used.
    fn make_room(&self, newest: &Path) {
        let mut entries = self.entries();
        let mut bytes: u64 = entries.iter().map(|entry| entry.bytes).sum();
        entries.sort_by_key(|entry| entry.used);
        for entry in entries.iter().filter(|entry| entry.path != newest) {
            if bytes <= self.limit_bytes {
                break;
            }
            if fs::remove_file(&entry.path).is_ok() {
                bytes -= entry.bytes;
            }
        }
    }
}

struct Entry {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

fn check(bytes: &[u8]) -> Result<(), String> {
    let Some((header, content)) = bytes.split_at_checked(HEADER_BYTES) else {
        return Err("it is cut short".to_string());
    };
    let (magic, rest) = header.split_at(MAGIC.len());
    let (version, digest) = rest.split_at(4);
    if magic != MAGIC || version != FORMAT_VERSION.to_le_bytes() {
        return Err("it is not an entry of this version".to_string());
    }
    if digest != digest::of_bytes(content).as_bytes() {
        return Err("its content does not match its SHA-256".to_string());
    }
    Ok(())
}

/// `1048576`, `512M`, `5G` or `1T`, with powers of 1024.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim().to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        "T" | "TB" | "TIB" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// SHA-256 of a plugin's library, or of a tool that a plugin runs. Reading hundreds of megabytes at every start would be felt, so
/// the digest is remembered for as long as the file's size, time and number stay the same.
///
/// # Errors
/// When the file cannot be read. A digest that cannot be remembered is no error.
pub fn plugin_digest(cache: &CacheFolder, library: &Path) -> Result<String, FolderError> {
    let wrap = |source| FolderError::from_io(library, source);
    let library_path = fs::canonicalize(library).map_err(wrap)?;
    let data = fs::metadata(&library_path).map_err(wrap)?;
    let modified = data.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let nanoseconds = modified.map_or(0, |time| time.as_nanos());
    let identity =
        format!("{} {} {nanoseconds} {}", library_path.display(), data.len(), file_number(&data));
    let remembered = cache.compiled().join("plugin-digests.json");
    let mut known: BTreeMap<String, String> = fs::read(&remembered)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    if let Some(digest) = known.get(&identity) {
        return Ok(digest.clone());
    }
    let digest = digest::of_file(&library_path, |_| {}).map_err(wrap)?;
    // Older states of the same file never come back.
    let same_file = format!("{} ", library_path.display());
    known.retain(|identity, _| !identity.starts_with(&same_file));
    known.insert(identity, digest.clone());
    if create_folder(&cache.compiled()).is_ok() {
        let bytes = serde_json::to_vec(&known).unwrap_or_default();
        let _ = write_whole(&remembered, &[&bytes]);
    }
    Ok(digest)
}

#[cfg(unix)]
fn file_number(data: &fs::Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt;
    data.ino()
}

#[cfg(not(unix))]
fn file_number(_: &fs::Metadata) -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let name = format!("fungible-cache-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            let _ = fs::remove_dir_all(&path);
            Folder(path)
        }

        fn cache(&self, limit_bytes: u64) -> CompileCache {
            CompileCache::with_limit(&CacheFolder::at(&self.0), limit_bytes)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn key(name: &str) -> CacheKey {
        CacheKey::new(&[("name", name.as_bytes())])
    }

    #[test]
    fn entries_come_back() {
        let folder = Folder::new("back");
        let cache = folder.cache(1 << 20);
        assert_eq!(cache.get(&key("a")).unwrap(), Lookup::Miss);
        cache.put(&key("a"), b"program").unwrap();
        assert_eq!(cache.get(&key("a")).unwrap(), Lookup::Hit(b"program".to_vec()));
        assert_eq!(cache.get(&key("b")).unwrap(), Lookup::Miss);
    }

    #[test]
    fn a_damaged_entry_is_reported_once_and_gone() {
        let folder = Folder::new("damaged");
        let cache = folder.cache(1 << 20);
        for damage in [
            |bytes: &mut Vec<u8>| bytes.truncate(20),
            |bytes: &mut Vec<u8>| {
                let last = bytes.len() - 1;
                bytes[last] ^= 1;
            },
        ] {
            cache.put(&key("a"), b"program").unwrap();
            let path = cache.path(&key("a"));
            let mut bytes = fs::read(&path).unwrap();
            damage(&mut bytes);
            fs::write(&path, bytes).unwrap();
            assert!(matches!(cache.get(&key("a")).unwrap(), Lookup::Damaged(_)));
            assert_eq!(cache.get(&key("a")).unwrap(), Lookup::Miss);
        }
    }

    #[test]
    fn the_least_recently_used_entry_goes_first() {
        let folder = Folder::new("room");
        let cache = folder.cache(3000);
        let age = |name: &str, seconds: u64| {
            let file = File::options().append(true).open(cache.path(&key(name))).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
        };
        cache.put(&key("first"), &[0; 1000]).unwrap();
        cache.put(&key("second"), &[0; 1000]).unwrap();
        age("first", 200);
        age("second", 100);
        // Using the older one makes it the newer one.
        assert!(matches!(cache.get(&key("first")).unwrap(), Lookup::Hit(_)));
        cache.put(&key("third"), &[0; 1000]).unwrap();
        assert_eq!(cache.get(&key("second")).unwrap(), Lookup::Miss);
        assert!(matches!(cache.get(&key("first")).unwrap(), Lookup::Hit(_)));
        assert!(matches!(cache.get(&key("third")).unwrap(), Lookup::Hit(_)));
        assert_eq!(cache.statistics().entries, 2);
    }

    #[test]
    fn labels_are_part_of_the_key() {
        let one = CacheKey::new(&[("options", b"x"), ("text", b"")]);
        let other = CacheKey::new(&[("options", b""), ("text", b"x")]);
        assert_ne!(one, other);
    }

    #[test]
    fn a_plugin_that_changes_gets_another_digest() {
        let folder = Folder::new("plugin");
        let cache = CacheFolder::at(&folder.0);
        fs::create_dir_all(&folder.0).unwrap();
        let library = folder.0.join("plugin.so");
        fs::write(&library, b"one").unwrap();
        let first = plugin_digest(&cache, &library).unwrap();
        assert_eq!(plugin_digest(&cache, &library).unwrap(), first);
        fs::write(&library, b"another").unwrap();
        assert_ne!(plugin_digest(&cache, &library).unwrap(), first);
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_bytes("1048576"), Some(1 << 20));
        assert_eq!(parse_bytes("5G"), Some(5 << 30));
        assert_eq!(parse_bytes("512 MiB"), Some(512 << 20));
        assert_eq!(parse_bytes("much"), None);
        assert_eq!(parse_bytes("99999999999T"), None);
    }
}

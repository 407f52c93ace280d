//! A prefix in a bucket (S3, Google Cloud Storage, or what speaks their protocols) as a store.
//!
//! The `object_store` crate is asynchronous; nothing above this file is. A runtime of this store's
//! own drives it on the calling thread, so calls must not come from asynchronous code.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload, RetryConfig, WriteMultipart};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

use super::{Claim, ReadSizes, Store, StoreError, Upload};

/// A request costs tens of milliseconds, in which this much could have been read.
const GAP_BYTES: usize = 1 << 20;

/// One request's share of a read. Stores give each connection some 50 to 100 MB/s, so several run at
/// once.
const REQUEST_BYTES: usize = 8 << 20;
const REQUESTS: usize = 8;

/// Parts of an upload. Stores want at least 5 MiB, and all but the last of one size.
const PART_BYTES: u64 = 16 << 20;
const PARTS_AT_ONCE: usize = 8;
/// Stores take 10,000 at most.
const PARTS_MAX: u64 = 9_000;

/// How long a request is tried again when a store is busy or cannot be reached. A mistyped address
/// should not take minutes to be found out.
const RETRY_TIMEOUT: Duration = Duration::from_secs(60);

/// Where programs in a cloud are given credentials. Whoever asks there found none in the environment.
const METADATA_HOSTS: [&str; 3] = ["169.254.169.254", "169.254.170.2", "metadata.google.internal"];

/// A prefix in a bucket.
pub struct ObjectFolder {
    objects: Arc<dyn ObjectStore>,
    /// Before every path, possibly empty.
    prefix: String,
    /// As the user wrote it, without a slash at its end.
    url: String,
    runtime: Arc<Runtime>,
}

impl fmt::Debug for ObjectFolder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ObjectFolder").field("url", &self.url).finish_non_exhaustive()
    }
}

impl ObjectFolder {
    /// # Errors
    /// [`StoreError::Location`] when the URL is not of a kind that is known, or what the environment
    /// says about credentials is contradictory. Nothing is looked up yet.
    pub fn open(url: &str) -> Result<ObjectFolder, StoreError> {
        let bad = |reason: String| StoreError::Location { location: url.to_string(), reason };
        // The cryptography is chosen per process. Whoever chose before us is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(bad("it names no bucket".to_string()));
        }
        let retry = RetryConfig { retry_timeout: RETRY_TIMEOUT, ..RetryConfig::default() };
        let objects: Arc<dyn ObjectStore> = match scheme {
            "s3" => {
                let builder = AmazonS3Builder::from_env().with_bucket_name(bucket);
                let builder = builder.with_retry(retry);
                Arc::new(builder.build().map_err(|error| bad(error.to_string()))?)
            }
            "gs" => {
                let builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket);
                let builder = builder.with_retry(retry);
                Arc::new(builder.build().map_err(|error| bad(error.to_string()))?)
            }
            _ => return Err(bad("only folders, s3:// and gs:// are known".to_string())),
        };
        ObjectFolder::over(objects, prefix, url)
    }

    /// A prefix of any store that the `object_store` crate knows; `url` stands in messages.
    ///
    /// # Errors
    /// [`StoreError::Location`] when the prefix is no path.
    pub fn over(
        objects: Arc<dyn ObjectStore>,
        prefix: &str,
        url: &str,
    ) -> Result<ObjectFolder, StoreError> {
        let bad = |reason: String| StoreError::Location { location: url.to_string(), reason };
        let prefix = prefix.trim_matches('/').to_string();
        Path::parse(&prefix).map_err(|error| bad(error.to_string()))?;
        let runtime = Builder::new_current_thread().enable_io().enable_time().build();
        let runtime = Arc::new(runtime.map_err(|error| bad(error.to_string()))?);
        Ok(ObjectFolder { objects, prefix, url: url.trim_end_matches('/').to_string(), runtime })
    }

    fn at(&self, path: &str) -> Path {
        Path::from_iter(
            self.prefix.split('/').chain(path.split('/')).filter(|part| !part.is_empty()),
        )
    }

    fn run<T>(
        &self,
        path: &str,
        work: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, StoreError> {
        self.runtime.block_on(work).map_err(|source| error(self.display(path), source))
    }

    /// Answers whether everything was there.
    async fn read_pieces(
        &self,
        location: Path,
        offset: u64,
        destination: &mut [u8],
    ) -> object_store::Result<bool> {
        let length = destination.len();
        let mut starts = (0..length).step_by(REQUEST_BYTES);
        let mut requests = JoinSet::new();
        loop {
            while requests.len() < REQUESTS
                && let Some(start) = starts.next()
            {
                let (objects, location) = (Arc::clone(&self.objects), location.clone());
                let end = length.min(start + REQUEST_BYTES);
                requests.spawn(async move {
                    let range = offset + start as u64..offset + end as u64;
                    let bytes = objects.get_range(&location, range).await?;
                    Ok::<_, object_store::Error>((start..end, bytes))
                });
            }
            let Some(answer) = requests.join_next().await else { return Ok(true) };
            let (place, bytes) = answer??;
            if bytes.len() != place.len() {
                return Ok(false);
            }
            destination[place].copy_from_slice(&bytes);
        }
    }

    /// The names of the folders and the files directly below a path.
    fn list(&self, path: &str) -> Result<(Vec<String>, Vec<String>), StoreError> {
        let prefix = self.at(path);
        let listed = self.run(path, self.objects.list_with_delimiter(Some(&prefix)))?;
        let name = |path: &Path| path.filename().map(str::to_string);
        let folders = listed.common_prefixes.iter().filter_map(name).collect();
        let files = listed.objects.iter().filter_map(|object| name(&object.location)).collect();
        Ok((folders, files))
    }
}

impl Store for ObjectFolder {
    fn display(&self, path: &str) -> String {
        if path.is_empty() { self.url.clone() } else { format!("{}/{path}", self.url) }
    }

    fn folders(&self) -> Result<Vec<String>, StoreError> {
        Ok(self.list("")?.0)
    }

    fn files(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        Ok(self.list(folder)?.1)
    }

    fn size_bytes(&self, path: &str) -> Result<Option<u64>, StoreError> {
        match self.run(path, self.objects.head(&self.at(path))) {
            Ok(data) => Ok(Some(data.size)),
            Err(StoreError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read(&self, path: &str, offset: u64, destination: &mut [u8]) -> Result<(), StoreError> {
        if destination.is_empty() {
            return Ok(());
        }
        let needed_bytes = offset.saturating_add(destination.len() as u64);
        let read = self.run(path, self.read_pieces(self.at(path), offset, destination));
        match read {
            Ok(true) => Ok(()),
            // Each store has an answer of its own to a range that starts beyond the end.
            Err(StoreError::Other { path: shown, source }) => match self.size_bytes(path) {
                Ok(Some(size)) if size < needed_bytes => {
                    Err(StoreError::Short { path: shown, needed_bytes })
                }
                _ => Err(StoreError::Other { path: shown, source }),
            },
            Ok(false) => Err(StoreError::Short { path: self.display(path), needed_bytes }),
            Err(error) => Err(error),
        }
    }

    fn create(&self, path: &str, expected_bytes: u64) -> Result<Box<dyn Upload>, StoreError> {
        let location = self.at(path);
        let sending = if expected_bytes <= PART_BYTES {
            Sending::Whole(Vec::with_capacity(expected_bytes as usize))
        } else {
            let part_bytes = PART_BYTES.max(expected_bytes.div_ceil(PARTS_MAX));
            let upload = self.run(path, self.objects.put_multipart(&location))?;
            Sending::Parts(WriteMultipart::new_with_chunk_size(upload, part_bytes as usize))
        };
        Ok(Box::new(ObjectUpload {
            objects: Arc::clone(&self.objects),
            runtime: Arc::clone(&self.runtime),
            location,
            path: self.display(path),
            sending: Some(sending),
        }))
    }

    fn put(&self, path: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let payload = PutPayload::from(bytes.to_vec());
        self.run(path, self.objects.put(&self.at(path), payload)).map(|_| ())
    }

    fn delete(&self, path: &str) -> Result<(), StoreError> {
        match self.run(path, self.objects.delete(&self.at(path))) {
            Err(StoreError::Missing { .. }) => Ok(()),
            deleted => deleted,
        }
    }

    /// Folders are but parts of names here.
    fn delete_empty_folder(&self, _folder: &str) -> Result<(), StoreError> {
        Ok(())
    }

    /// Object stores have no locks that end with their holder; the user has to see to it.
    fn claim(&self) -> Result<Claim, StoreError> {
        Ok(Claim { _lock: None })
    }

    fn read_sizes(&self) -> ReadSizes {
        ReadSizes { gap_bytes: GAP_BYTES, block_bytes: REQUESTS * REQUEST_BYTES }
    }
}

struct ObjectUpload {
    objects: Arc<dyn ObjectStore>,
    runtime: Arc<Runtime>,
    location: Path,
    path: String,
    /// Taken when finished.
    sending: Option<Sending>,
}

enum Sending {
    /// Small enough for one request.
    Whole(Vec<u8>),
    Parts(WriteMultipart),
}

impl Upload for ObjectUpload {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        match &mut self.sending {
            Some(Sending::Whole(whole)) => {
                whole.extend_from_slice(bytes);
                Ok(())
            }
            Some(Sending::Parts(parts)) => self
                .runtime
                .block_on(async {
                    for piece in bytes.chunks(PART_BYTES as usize) {
                        parts.wait_for_capacity(PARTS_AT_ONCE).await?;
                        parts.write(piece);
                    }
                    Ok(())
                })
                .map_err(|source| error(self.path.clone(), source)),
            None => Ok(()),
        }
    }

    fn finish(mut self: Box<Self>) -> Result<(), StoreError> {
        let sent = match self.sending.take() {
            Some(Sending::Whole(whole)) => {
                self.runtime.block_on(self.objects.put(&self.location, PutPayload::from(whole)))
            }
            Some(Sending::Parts(parts)) => self.runtime.block_on(parts.finish()),
            None => return Ok(()),
        };
        sent.map(|_| ()).map_err(|source| error(self.path.clone(), source))
    }
}

impl Drop for ObjectUpload {
    fn drop(&mut self) {
        if let Some(Sending::Parts(parts)) = self.sending.take() {
            // Parts of an upload that is not completed are never seen, but are paid for.
            let _ = self.runtime.block_on(parts.abort());
        }
    }
}

/// Sorts a store's error into what the user can do about it.
fn error(path: String, source: object_store::Error) -> StoreError {
    match source {
        object_store::Error::NotFound { .. } => StoreError::Missing { path },
        object_store::Error::PermissionDenied { .. }
        | object_store::Error::Unauthenticated { .. } => {
            StoreError::Permission { path, source: source.into() }
        }
        _ if asks_for_credentials(&source) => {
            let advice = match path.starts_with("gs://") {
                true => "set GOOGLE_APPLICATION_CREDENTIALS to the key file of a service account",
                false => "set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION",
            };
            StoreError::Credentials { path, advice, source: source.into() }
        }
        _ => StoreError::Other { path, source: source.into() },
    }
}

fn asks_for_credentials(error: &object_store::Error) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        let text = error.to_string();
        if METADATA_HOSTS.iter().any(|host| text.contains(host)) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_memory() -> ObjectFolder {
        let objects = Arc::new(object_store::memory::InMemory::new());
        ObjectFolder::over(objects, "/some/prefix/", "s3://bucket/some/prefix/").unwrap()
    }

    #[test]
    fn what_is_written_in_parts_is_read_in_ranges() {
        let store = in_memory();
        let length = 2 * PART_BYTES as usize + 12_345;
        let bytes: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
        let mut upload = store.create("step/data", length as u64).unwrap();
        for piece in bytes.chunks(3_000_001) {
            upload.write(piece).unwrap();
        }
        assert_eq!(store.size_bytes("step/data").unwrap(), None);
        upload.finish().unwrap();
        assert_eq!(store.size_bytes("step/data").unwrap(), Some(length as u64));
        let mut read = vec![0; length - 1];
        store.read("step/data", 1, &mut read).unwrap();
        assert!(read == bytes[1..]);
    }

    #[test]
    fn an_upload_that_is_dropped_leaves_nothing() {
        let store = in_memory();
        for length in [10, 2 * PART_BYTES] {
            let mut upload = store.create("step/data", length).unwrap();
            upload.write(&vec![1; length as usize]).unwrap();
            drop(upload);
            assert_eq!(store.files("step").unwrap(), Vec::<String>::new());
        }
    }

    #[test]
    fn names_are_relative_to_the_prefix() {
        let store = in_memory();
        store.put("step-1/manifest.json", b"{}").unwrap();
        assert_eq!(store.folders().unwrap(), ["step-1"]);
        assert_eq!(store.files("step-1").unwrap(), ["manifest.json"]);
        assert_eq!(store.display("step-1/x"), "s3://bucket/some/prefix/step-1/x");
        store.delete("step-1/manifest.json").unwrap();
        store.delete("step-1/manifest.json").unwrap();
        assert_eq!(store.folders().unwrap(), Vec::<String>::new());
    }

    #[test]
    fn what_is_not_there_and_what_is_cut_off_are_told_apart() {
        let store = in_memory();
        store.put("step/data", &[1; 100]).unwrap();
        let mut room = [0; 8];
        let cut_off = store.read("step/data", 96, &mut room).unwrap_err();
        assert!(matches!(cut_off, StoreError::Short { needed_bytes: 104, .. }), "{cut_off}");
        let missing = store.read("step/other", 0, &mut room).unwrap_err();
        assert!(matches!(missing, StoreError::Missing { .. }), "{missing}");
    }

    #[test]
    fn whoever_has_no_credentials_is_told_what_to_set() {
        let failed = |url: &str, host: &str| {
            let source =
                format!("Error performing PUT http://{host}/latest/api/token in 1s").into();
            error(url.to_string(), object_store::Error::Generic { store: "S3", source })
        };
        let refused = failed("s3://bucket/run", "169.254.169.254").to_string();
        assert!(refused.contains("s3://bucket/run: set AWS_ACCESS_KEY_ID, "), "{refused}");
        let refused = failed("gs://bucket/run", "metadata.google.internal").to_string();
        assert!(refused.contains("GOOGLE_APPLICATION_CREDENTIALS"), "{refused}");
        let other = failed("s3://bucket/run", "127.0.0.1:9000");
        assert!(matches!(other, StoreError::Other { .. }), "{other}");
    }

    #[test]
    fn locations_that_are_none_are_refused() {
        let reason = |url| ObjectFolder::open(url).unwrap_err().to_string();
        assert!(reason("ftp://host/x").contains("only folders, s3:// and gs:// are known"));
        assert!(reason("s3:///x").contains("names no bucket"));
    }
}

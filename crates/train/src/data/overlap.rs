//! Files that are validation data and lie among the sources too, because one folder holds both or a
//! file was copied: they are left out of what is trained on. Single documents are not compared.

use std::collections::HashSet;

use super::digest::Contents;
use super::{DataError, Progress};

/// The contents of all validation files.
pub(super) struct HeldOut<'a> {
    digests: HashSet<&'a str>,
}

impl<'a> HeldOut<'a> {
    pub(super) fn new(validation: &'a [Contents]) -> HeldOut<'a> {
        let digests = validation.iter().flat_map(|contents| &contents.digests);
        HeldOut { digests: digests.map(String::as_str).collect() }
    }

    /// The files of a source without those that are held out. A file is known by its contents, and
    /// so under whatever name and path; files without any are all alike, and do no harm.
    ///
    /// # Errors
    /// When nothing is left.
    pub(super) fn leave_out(
        &self,
        source: &str,
        contents: Contents,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Contents, DataError> {
        let (mut files, mut digests) = (Vec::new(), Vec::new());
        for (file, digest) in contents.files.into_iter().zip(contents.digests) {
            if file.bytes > 0 && self.digests.contains(digest.as_str()) {
                progress(Progress::LeftOut { source, path: &file.path });
            } else {
                files.push(file);
                digests.push(digest);
            }
        }
        match files.is_empty() {
            true => Err(DataError::AllHeldOut { path: source.to_owned() }),
            false => Ok(Contents { files, digests }),
        }
    }
}

//! Tokens of a source, made once and kept under `<cache>/tokens`. A file there is named by a digest
//! of what went into it (the documents' bytes, the tokenizer, the chat template), so nothing in it
//! can be out of date, and it appears whole or not at all.
//!
//! A source becomes several files: small documents are put together up to [`GROUP_BYTES`], and an
//! interrupted run goes on behind the last file that was finished. Only the process that holds the
//! lock makes files; others that share the folder wait and read.

use std::fs;
use std::path::{Path, PathBuf};

use llm::{ChatTemplate, Tokenizer};
use runtime::CacheFolder;
use runtime::folders::{FolderError, create_folder};
use sha2::{Digest, Sha256};

use super::chat;
use super::config::SourceConfig;
use super::encode::Encoder;
use super::find::SourceFile;
use super::read::{self, Content, Item};
use super::shard::{OpenFailure, Shard, ShardWriter, VERSION};
use super::{DataError, Progress};

/// Files of a source are put together until they have this many bytes.
const GROUP_BYTES: u64 = 64 << 20;
/// How many conversations, and messages of each, stand for the template in a key: with all of them,
/// every start would take as long as the first one.
const SAMPLE_CONVERSATIONS: usize = 64;
const SAMPLE_MESSAGES: usize = 16;
/// Bytes of documents per thread that are read, then turned into tokens.
const WAVE_BYTES_PER_THREAD: u64 = 2 << 20;
const DIGEST_BLOCK_BYTES: usize = 1 << 20;

/// What turns documents into tokens, and where the tokens are kept.
pub(super) struct TokenCache<'a> {
    pub(super) folder: &'a CacheFolder,
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) template: Option<&'a ChatTemplate>,
    /// [`identity`] of the tokenizer.
    pub(super) tokenizer_digest: String,
    pub(super) encoder: Encoder<'a>,
    pub(super) threads: usize,
}

/// A digest of everything that decides which tokens a text becomes.
pub(super) fn identity(tokenizer: &Tokenizer) -> Result<String, DataError> {
    let mut digest = LabelledDigest::default();
    digest.add("tokenizer", tokenizer.to_json()?.as_bytes());
    for token in [tokenizer.bos_token_id(), tokenizer.eos_token_id()] {
        digest.add("token", format!("{token:?}").as_bytes());
    }
    Ok(digest.finish())
}

/// Files of a source that become one file of tokens.
struct Group<'f> {
    files: &'f [SourceFile],
    path: PathBuf,
}

impl TokenCache<'_> {
    /// The tokens of a source's files, made now if they are not kept already.
    pub(super) fn shards(
        &self,
        source: &SourceConfig,
        files: &[SourceFile],
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Vec<Shard>, DataError> {
        let name = source.path.as_str();
        let groups = self.groups(source, files, progress)?;
        let mut shards = Vec::with_capacity(groups.len());
        let (mut lock, mut is_chat) = (None, None);
        for (index, group) in groups.iter().enumerate() {
            let mut shard = open(name, &group.path, progress)?;
            if shard.is_none() && lock.is_none() {
                lock = Some(self.folder.lock("tokens", || progress(Progress::Waiting))?);
                // Whoever had the lock may have made it.
                shard = open(name, &group.path, progress)?;
            }
            let shard = match shard {
                Some(shard) => shard,
                None => {
                    let bytes = |groups: &[Group<'_>]| {
                        let files = groups.iter().flat_map(|group| group.files);
                        files.map(|file| file.bytes).sum::<u64>()
                    };
                    let (before, total) = (bytes(&groups[..index]), bytes(&groups));
                    self.make(source, group, &mut |done| {
                        let bytes_done = (before + done).min(total);
                        progress(Progress::Tokenizing {
                            source: name,
                            bytes_done,
                            bytes_total: total,
                        });
                    })?;
                    open(name, &group.path, progress)?.ok_or_else(|| DataError::Changed {
                        path: group.path.clone(),
                        source: std::io::ErrorKind::InvalidData.into(),
                    })?
                }
            };
            if shard.footer.tokens > 0
                && *is_chat.get_or_insert(shard.footer.is_chat) != shard.footer.is_chat
            {
                let (path, file) = (source.path.clone(), group.files[0].path.clone());
                return Err(DataError::Mixed { path, file });
            }
            shards.push(shard);
        }
        Ok(shards)
    }

    fn groups<'f>(
        &self,
        source: &SourceConfig,
        files: &'f [SourceFile],
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Vec<Group<'f>>, DataError> {
        let digests = digests(&source.path, files, progress)?;
        let mut groups = Vec::new();
        let mut start = 0;
        while start < files.len() {
            let part = start..group_end(files, start);
            start = part.end;
            let key = self.key(source, &files[part.clone()], &digests[part.clone()])?;
            groups.push(Group { files: &files[part], path: self.folder.tokens().join(key) });
        }
        Ok(groups)
    }

    fn key(
        &self,
        source: &SourceConfig,
        files: &[SourceFile],
        digests: &[String],
    ) -> Result<String, DataError> {
        let mut digest = LabelledDigest::default();
        digest.add("version", &VERSION.to_le_bytes());
        digest.add("tokenizer", self.tokenizer_digest.as_bytes());
        digest.add("column", source.column.as_deref().unwrap_or_default().as_bytes());
        for (file, file_digest) in files.iter().zip(digests) {
            digest.add("format", file.format.name().as_bytes());
            digest.add("file", file_digest.as_bytes());
        }
        // A template is a program; what counts is what it makes of these conversations.
        let Some(template) = self.template else { return Ok(digest.finish()) };
        let mut sampled = 0;
        for document in documents(files, source.column.as_deref()) {
            let mut conversation = match document?.item.content {
                Content::Text { .. } => break,
                Content::Gap => continue,
                Content::Chat(conversation) => conversation,
            };
            if sampled == 0 {
                digest.add("reach", &(self.encoder.reach() as u64).to_le_bytes());
            }
            conversation.messages.truncate(SAMPLE_MESSAGES);
            match chat::render(template, &conversation) {
                Ok(rendered) => {
                    digest.add("conversation", rendered.text.as_bytes());
                    digest.add("answers", format!("{:?}", rendered.answers).as_bytes());
                }
                // It is reported, with its place, when the tokens are made.
                Err(_) => digest.add("no conversation", &[]),
            }
            sampled += 1;
            if sampled == SAMPLE_CONVERSATIONS {
                break;
            }
        }
        Ok(digest.finish())
    }

    fn make(
        &self,
        source: &SourceConfig,
        group: &Group<'_>,
        seen: &mut dyn FnMut(u64),
    ) -> Result<(), DataError> {
        create_folder(&self.folder.tokens())?;
        let temporary = self.folder.temporary()?;
        let partial = temporary.path().join("tokens");
        let full = |error| DataError::from(FolderError::from_io(&group.path, error));
        let wide = self.tokenizer.vocab_size() > 1 << 16;
        let mut writer: Option<(ShardWriter, bool)> = None;
        let mut text_bytes = 0;
        let mut documents = documents(group.files, source.column.as_deref());
        loop {
            let wave = next_wave(&mut documents, self.threads)?;
            let Some(last) = wave.last() else { break };
            let known = writer.as_ref().map(|(_, is_chat)| *is_chat);
            let bytes_done = last.bytes_done;
            let Some(is_chat) = known.or_else(|| wave.iter().find_map(Document::is_chat)) else {
                // Nothing but gaps is of no kind, and there is nothing to keep of it.
                seen(bytes_done);
                continue;
            };
            let differs =
                |document: &&Document<'_>| document.is_chat().is_some_and(|kind| kind != is_chat);
            if let Some(other) = wave.iter().find(differs) {
                let (path, file) = (source.path.clone(), other.file.path.clone());
                return Err(DataError::Mixed { path, file });
            }
            let encoded = self.encoder.encode(&wave)?;
            let (writer, _) = match &mut writer {
                Some(writer) => writer,
                none => none
                    .insert((ShardWriter::create(&partial, wide, is_chat).map_err(full)?, is_chat)),
            };
            for document in encoded {
                writer.push(&document.ids, &document.said).map_err(full)?;
                text_bytes += document.text_bytes;
                if !document.continues {
                    writer.end_document();
                }
            }
            seen(bytes_done);
        }
        let writer = match writer {
            Some((writer, _)) => writer,
            // Nothing at all in these files; others of the source may have something.
            None => ShardWriter::create(&partial, wide, false).map_err(full)?,
        };
        writer.finish(text_bytes).map_err(full)?;
        fs::rename(&partial, &group.path).map_err(full)
    }
}

/// A document, or a piece of one, with the file that it comes from.
pub(super) struct Document<'f> {
    pub(super) file: &'f SourceFile,
    pub(super) item: Item,
    /// Of all files of the group, up to this document.
    bytes_done: u64,
}

impl Document<'_> {
    /// None for a gap, which may stand among texts as among conversations.
    fn is_chat(&self) -> Option<bool> {
        match self.item.content {
            Content::Text { .. } => Some(false),
            Content::Chat(_) => Some(true),
            Content::Gap => None,
        }
    }

    fn bytes(&self) -> u64 {
        let text = match &self.item.content {
            Content::Text { text, .. } => text.len() as u64,
            // A guess that keeps a wave small.
            Content::Chat(conversation) => 1024 * conversation.messages.len() as u64,
            Content::Gap => 0,
        };
        // An empty document must count too, or a file of them would be one wave.
        text + 64
    }
}

/// The documents of several files, one file after the other.
fn documents<'f>(
    files: &'f [SourceFile],
    column: Option<&str>,
) -> impl Iterator<Item = Result<Document<'f>, DataError>> {
    let mut bytes_before = 0;
    files.iter().flat_map(move |file| {
        let before = bytes_before;
        bytes_before += file.bytes;
        let (items, error) = match read::open(file, column) {
            Ok(items) => (Some(items), None),
            Err(error) => (None, Some(Err(error))),
        };
        let documents = items.into_iter().flatten().map(move |item| {
            item.map(|item| Document { file, bytes_done: before + item.bytes_done, item })
        });
        documents.chain(error)
    })
}

/// As many documents as keep all threads busy for a while; none at the end.
fn next_wave<'f>(
    documents: &mut impl Iterator<Item = Result<Document<'f>, DataError>>,
    threads: usize,
) -> Result<Vec<Document<'f>>, DataError> {
    let mut wave = Vec::new();
    let mut bytes = 0;
    while bytes < WAVE_BYTES_PER_THREAD * threads as u64 {
        let Some(document) = documents.next() else { break };
        let document = document?;
        bytes += document.bytes();
        wave.push(document);
    }
    Ok(wave)
}

fn group_end(files: &[SourceFile], start: usize) -> usize {
    let mut bytes = 0;
    for (index, file) in files.iter().enumerate().skip(start) {
        bytes += file.bytes;
        if bytes > GROUP_BYTES && index > start {
            return index;
        }
    }
    files.len()
}

/// The file, if it is there and whole. A damaged one is reported and made again by the caller.
fn open(
    name: &str,
    path: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Option<Shard>, DataError> {
    let bytes_total = fs::metadata(path).map_or(0, |metadata| metadata.len());
    let shard = Shard::open(path, |bytes_done| {
        progress(Progress::Verifying { source: name, bytes_done, bytes_total });
    });
    match shard {
        Ok(shard) => Ok(Some(shard)),
        Err(OpenFailure::Missing) => Ok(None),
        Err(OpenFailure::Damaged(reason)) => {
            progress(Progress::Damaged { path, reason: &reason });
            Ok(None)
        }
        Err(OpenFailure::Unreadable(source)) => {
            Err(DataError::Read { path: path.to_path_buf(), source })
        }
    }
}

/// SHA-256 of every file.
fn digests(
    name: &str,
    files: &[SourceFile],
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<String>, DataError> {
    use std::io::Read;

    let bytes_total = files.iter().map(|file| file.bytes).sum();
    let mut bytes_done = 0;
    let mut block = vec![0; DIGEST_BLOCK_BYTES];
    let digest = |file: &SourceFile| {
        let mut hasher = Sha256::new();
        let mut digest = || -> std::io::Result<()> {
            let mut open = fs::File::open(&file.path)?;
            loop {
                let count = open.read(&mut block)?;
                if count == 0 {
                    return Ok(());
                }
                hasher.update(&block[..count]);
                bytes_done += count as u64;
                progress(Progress::Reading { source: name, bytes_done, bytes_total });
            }
        };
        match digest() {
            Ok(()) => Ok(hexadecimal(&hasher.finalize())),
            Err(source) => Err(DataError::Read { path: file.path.clone(), source }),
        }
    };
    files.iter().map(digest).collect()
}

/// A digest over labelled pieces. Lengths count too, so a byte that moves from one piece to the next
/// changes the result.
#[derive(Default)]
struct LabelledDigest(Sha256);

impl LabelledDigest {
    fn add(&mut self, label: &str, bytes: &[u8]) {
        for piece in [label.as_bytes(), bytes] {
            self.0.update((piece.len() as u64).to_le_bytes());
            self.0.update(piece);
        }
    }

    fn finish(self) -> String {
        hexadecimal(&self.0.finalize())
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::config::Format;

    #[test]
    fn small_files_are_put_together_and_large_ones_stand_alone() {
        let file = |bytes: u64| SourceFile { path: PathBuf::new(), format: Format::Text, bytes };
        let half = GROUP_BYTES / 2;
        let files = [half, half, 1, 3 * GROUP_BYTES, 1, 1].map(file);
        let mut ends = vec![0];
        while *ends.last().unwrap() < files.len() {
            ends.push(group_end(&files, *ends.last().unwrap()));
        }
        assert_eq!(ends, [0, 2, 3, 4, 6]);
    }
}

//! Tokens of a source, made once and kept under `<cache>/tokens`. A file there is named by a digest
//! of what went into it (the documents' bytes, the tokenizer, the chat template), so nothing in it
//! can be out of date, and it appears whole or not at all.
//!
//! Small documents are put together, and many of them taken apart, to files of about [`PART_BYTES`];
//! an interrupted run goes on behind the last one that was finished. Only the process that holds
//! the lock makes files; others that share the folder wait and read.

mod parts;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use llm::{ChatTemplate, Tokenizer};
use runtime::CacheFolder;
use runtime::folders::{FolderError, create_folder};

use super::chat;
use super::config::SourceConfig;
use super::digest::{Contents, LabelledDigest};
use super::encode::{Encoded, Encoder};
use super::find::SourceFile;
use super::read::Content;
use super::shard::{OpenFailure, Shard, ShardWriter, VERSION};
use super::{DataError, Progress};
pub(super) use parts::Document;
use parts::{Parts, documents};

/// Files of a source are put together until they have this many bytes, and their documents are kept
/// in parts of as many. Another number needs another [`VERSION`].
pub(super) const PART_BYTES: u64 = 64 << 20;
/// How many conversations, and messages of each, stand for the template in a key: with all of them,
/// every start would take as long as the first one.
const SAMPLE_CONVERSATIONS: usize = 64;
const SAMPLE_MESSAGES: usize = 16;

/// What turns documents into tokens, and where the tokens are kept.
pub(super) struct TokenCache<'a> {
    pub(super) folder: &'a CacheFolder,
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) template: Option<&'a ChatTemplate>,
    /// [`identity`] of the tokenizer.
    pub(super) tokenizer_digest: String,
    pub(super) encoder: Encoder<'a>,
    pub(super) threads: usize,
    /// [`PART_BYTES`], less in tests.
    pub(super) part_bytes: u64,
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

/// Files of a source that become one or several files of tokens.
struct Group<'f> {
    files: &'f [SourceFile],
    /// The path of a file with all of their tokens. Other names begin like it.
    path: PathBuf,
}

impl Group<'_> {
    /// Where a part is kept. The last one has another name than it would have with others after it,
    /// so that it shows whether a part is missing.
    fn part(&self, index: usize, is_last: bool) -> PathBuf {
        let ending = match (index, is_last) {
            (0, true) => return self.path.clone(),
            (_, true) => format!("-{index}-last"),
            (_, false) => format!("-{index}"),
        };
        let mut path = self.path.clone().into_os_string();
        path.push(ending);
        path.into()
    }

    fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

/// How far a source has come, for [`Progress::Tokenizing`].
struct Way<'a> {
    source: &'a str,
    bytes_before: u64,
    bytes_total: u64,
}

impl TokenCache<'_> {
    /// The tokens of a source's files, made now if they are not kept already.
    pub(super) fn shards(
        &self,
        source: &SourceConfig,
        contents: &Contents,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Vec<Shard>, DataError> {
        let name = source.path.as_str();
        let groups = self.groups(source, contents)?;
        let bytes_total = groups.iter().map(Group::bytes).sum();
        let mut way = Way { source: name, bytes_before: 0, bytes_total };
        let mut shards = Vec::new();
        let (mut lock, mut is_chat) = (None, None);
        for group in &groups {
            let mut parts = Vec::new();
            let mut is_whole = kept(name, group, &mut parts, progress)?;
            if !is_whole && lock.is_none() {
                lock = Some(self.folder.lock("tokens", || progress(Progress::Waiting))?);
                // Whoever had the lock may have made what was missing. What is damaged was told.
                is_whole = kept(name, group, &mut parts, &mut |step| match step {
                    Progress::Damaged { .. } => {}
                    step => progress(step),
                })?;
            }
            if !is_whole {
                self.make(source, group, &mut parts, &way, progress)?;
            }
            way.bytes_before += group.bytes();
            let kinds = parts.iter().filter(|shard| shard.footer.tokens > 0);
            for kind in kinds.map(|shard| shard.footer.is_chat) {
                if *is_chat.get_or_insert(kind) != kind {
                    let (path, file) = (source.path.clone(), group.files[0].path.clone());
                    return Err(DataError::Mixed { path, file });
                }
            }
            shards.append(&mut parts);
        }
        Ok(shards)
    }

    fn groups<'f>(
        &self,
        source: &SourceConfig,
        contents: &'f Contents,
    ) -> Result<Vec<Group<'f>>, DataError> {
        let Contents { files, digests } = contents;
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

    /// Makes what is missing of a group; `parts` are those that are not, up to the first that is.
    fn make(
        &self,
        source: &SourceConfig,
        group: &Group<'_>,
        parts: &mut Vec<Shard>,
        way: &Way<'_>,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(), DataError> {
        create_folder(&self.folder.tokens())?;
        let temporary = self.folder.temporary()?;
        let full = |error| DataError::from(FolderError::from_io(&group.path, error));
        let mut documents =
            Parts::new(documents(group.files, source.column.as_deref()), self.part_bytes);
        let mut is_chat = None;
        let missing = parts.len();
        for index in 0.. {
            if index > missing
                && let Some((part, _)) = kept_part(way.source, group, index, progress)?
            {
                parts.push(part);
            }
            let mut unfinished = (index == parts.len()).then(|| Unfinished {
                path: temporary.path().join(index.to_string()),
                wide: self.tokenizer.vocab_size() > 1 << 16,
                writer: None,
                text_bytes: 0,
            });
            loop {
                // What is kept is read all the same, to come to where the next part begins.
                let wave = documents.wave(self.threads)?;
                let Some(last) = wave.last() else { break };
                is_chat = is_chat.or_else(|| wave.iter().find_map(Document::is_chat));
                let differs = |document: &&Document<'_>| {
                    document.is_chat().is_some_and(|kind| is_chat != Some(kind))
                };
                if let Some(other) = wave.iter().find(differs) {
                    let (path, file) = (source.path.clone(), other.file.path.clone());
                    return Err(DataError::Mixed { path, file });
                }
                // Nothing but gaps is of no kind, and there is nothing to keep of it.
                if let (Some(unfinished), Some(is_chat)) = (&mut unfinished, is_chat) {
                    unfinished.push(self.encoder.encode(&wave)?, is_chat).map_err(full)?;
                }
                let bytes_done = (way.bytes_before + last.bytes_done).min(way.bytes_total);
                let (source, bytes_total) = (way.source, way.bytes_total);
                progress(Progress::Tokenizing { source, bytes_done, bytes_total });
            }
            let is_last = !documents.next_part();
            if let Some(unfinished) = unfinished {
                let path = group.part(index, is_last);
                unfinished.finish(&path).map_err(full)?;
                let part = open(way.source, &path, progress)?;
                let source = io::ErrorKind::InvalidData.into();
                parts.push(part.ok_or(DataError::Changed { path, source })?);
            }
            if is_last {
                break;
            }
            if index == 0 {
                // All tokens in one file, damaged: nothing would take its place.
                let _ = fs::remove_file(&group.path);
            }
        }
        Ok(())
    }
}

/// A part that is being made.
struct Unfinished {
    path: PathBuf,
    wide: bool,
    /// None until there is something to write, which says of which kind the part is.
    writer: Option<ShardWriter>,
    text_bytes: u64,
}

impl Unfinished {
    fn push(&mut self, documents: Vec<Encoded>, is_chat: bool) -> io::Result<()> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => none.insert(ShardWriter::create(&self.path, self.wide, is_chat)?),
        };
        for document in documents {
            writer.push(&document.ids, &document.said)?;
            self.text_bytes += document.text_bytes;
            if !document.continues {
                writer.end_document();
            }
        }
        Ok(())
    }

    fn finish(self, path: &Path) -> io::Result<()> {
        let writer = match self.writer {
            Some(writer) => writer,
            // Nothing at all in these files; others of the source may have something.
            None => ShardWriter::create(&self.path, self.wide, false)?,
        };
        writer.finish(self.text_bytes)?;
        fs::rename(&self.path, path)
    }
}

fn group_end(files: &[SourceFile], start: usize) -> usize {
    let mut bytes = 0;
    for (index, file) in files.iter().enumerate().skip(start) {
        bytes += file.bytes;
        if bytes > PART_BYTES && index > start {
            return index;
        }
    }
    files.len()
}

/// Adds the parts of a group that are kept to `parts`, up to the first that is not; whether they are
/// all of them.
fn kept(
    name: &str,
    group: &Group<'_>,
    parts: &mut Vec<Shard>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<bool, DataError> {
    while let Some((part, is_last)) = kept_part(name, group, parts.len(), progress)? {
        parts.push(part);
        if is_last {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A part, and whether it is the last one.
fn kept_part(
    name: &str,
    group: &Group<'_>,
    index: usize,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Option<(Shard, bool)>, DataError> {
    // In this order, so that nothing is told of what parts have replaced.
    for is_last in [false, true] {
        if let Some(part) = open(name, &group.part(index, is_last), progress)? {
            return Ok(Some((part, is_last)));
        }
    }
    Ok(None)
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

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::data::config::Format;
    use crate::data::learn::learn_tokenizer;
    use crate::data::token_bytes::TokenBytes;

    /// A folder with a file of many documents, which are kept in parts of a kilobyte.
    struct Sandbox {
        root: tempfile::TempDir,
        folder: CacheFolder,
        tokenizer: Tokenizer,
        table: TokenBytes,
    }

    impl Sandbox {
        fn new() -> Sandbox {
            let root = tempfile::tempdir().unwrap();
            let folder = CacheFolder::at(root.path().join("cache"));
            let learned = learn_tokenizer(&[], 257, &folder, &mut |_| {}).unwrap();
            let tokenizer = learned.tokenizer().unwrap();
            let table = TokenBytes::of(&tokenizer);
            let lines = (0..100).map(|number| {
                format!("{{\"text\": \"{}\"}}\n", format!("{number} ").repeat(1 + number % 40))
            });
            fs::write(root.path().join("data.jsonl"), lines.collect::<String>()).unwrap();
            Sandbox { root, folder, tokenizer, table }
        }

        fn shards(
            &self,
            threads: usize,
            progress: &mut dyn FnMut(Progress<'_>),
        ) -> Result<Vec<Shard>, DataError> {
            let path = self.root.path().join("data.jsonl");
            let bytes = fs::metadata(&path).unwrap().len();
            let source = SourceConfig::at(path.to_str().unwrap());
            let files = vec![SourceFile { path, format: Format::Jsonl, bytes }];
            let contents = Contents::of(&source.path, files, &mut |_| {}).unwrap();
            let cache = TokenCache {
                folder: &self.folder,
                tokenizer: &self.tokenizer,
                template: None,
                tokenizer_digest: identity(&self.tokenizer).unwrap(),
                encoder: Encoder::new(&self.tokenizer, None, &self.table, threads, 64).unwrap(),
                threads,
                part_bytes: 1024,
            };
            cache.shards(&source, &contents, progress)
        }

        fn tokens(&self, shards: &[Shard]) -> Vec<i32> {
            let mut tokens = Vec::new();
            for shard in shards {
                let file = shard.file().unwrap();
                shard.tokens(&file, 0..shard.footer.tokens, &mut tokens).unwrap();
            }
            tokens
        }

        /// What is kept, with when it was written.
        fn kept(&self) -> Vec<(PathBuf, std::time::SystemTime, Vec<u8>)> {
            let Ok(entries) = fs::read_dir(self.folder.tokens()) else { return Vec::new() };
            let paths = entries.map(|entry| entry.unwrap().path());
            let mut kept: Vec<_> = paths
                .map(|path| {
                    let written = fs::metadata(&path).unwrap().modified().unwrap();
                    let bytes = fs::read(&path).unwrap();
                    (path, written, bytes)
                })
                .collect();
            kept.sort();
            kept
        }
    }

    #[test]
    fn an_interruption_within_a_file_keeps_the_parts_before() {
        let undisturbed = Sandbox::new();
        let shards = undisturbed.shards(1, &mut |_| {}).unwrap();
        let expected = undisturbed.tokens(&shards);
        assert!(shards.len() > 8, "{}", shards.len());
        assert_eq!(shards.iter().map(|shard| shard.footer.documents).sum::<u64>(), 100);

        let sandbox = Sandbox::new();
        let mut waves = 0;
        let interrupted = catch_unwind(AssertUnwindSafe(|| {
            sandbox.shards(2, &mut |step| {
                waves += usize::from(matches!(step, Progress::Tokenizing { .. }));
                assert!(waves < 5, "interrupted");
            })
        }));
        assert!(interrupted.is_err());
        let before = sandbox.kept();
        assert_eq!(before.len(), 4);
        // The parts are found again, with any number of threads, and none is made twice.
        let shards = sandbox.shards(3, &mut |_| {}).unwrap();
        assert!(sandbox.tokens(&shards) == expected);
        let after = sandbox.kept();
        assert!(before.iter().all(|part| after.contains(part)), "a part was made again");
        let contents = |kept: Vec<(PathBuf, _, Vec<u8>)>| -> Vec<_> {
            kept.into_iter()
                .map(|(path, _, bytes)| (path.file_name().map(ToOwned::to_owned), bytes))
                .collect()
        };
        assert!(contents(after) == contents(undisturbed.kept()));
        let mut steps = Vec::new();
        sandbox.shards(1, &mut |step| steps.push(format!("{step:?}"))).unwrap();
        assert!(steps.iter().all(|step| step.starts_with("Verifying")), "{steps:?}");
    }

    #[test]
    fn a_part_that_is_damaged_or_gone_is_made_again_alone() {
        let sandbox = Sandbox::new();
        let shards = sandbox.shards(1, &mut |_| {}).unwrap();
        let expected = sandbox.tokens(&shards);
        let whole = sandbox.kept();
        let (last, _, _) =
            whole.iter().find(|(path, ..)| path.to_str().unwrap().ends_with("-last")).unwrap();
        let (third, _, _) =
            whole.iter().find(|(path, ..)| path.to_str().unwrap().ends_with("-2")).unwrap();
        for path in [last, third] {
            for damage in [true, false] {
                if damage {
                    fs::write(path, b"?").unwrap()
                } else {
                    fs::remove_file(path).unwrap()
                }
                let shards = sandbox.shards(1, &mut |_| {}).unwrap();
                assert!(sandbox.tokens(&shards) == expected);
                let kept = sandbox.kept();
                let same = kept.iter().filter(|part| whole.contains(part)).count();
                assert!(kept.len() == whole.len() && same >= whole.len() - 2, "{same}");
            }
        }
    }

    /// As they were kept before there were parts.
    #[test]
    fn one_file_with_all_tokens_is_taken_as_it_is() {
        let sandbox = Sandbox::new();
        let shards = sandbox.shards(1, &mut |_| {}).unwrap();
        let expected = sandbox.tokens(&shards);
        let kept = sandbox.kept();
        let first = kept.iter().find(|(path, ..)| path.to_str().unwrap().ends_with("-0")).unwrap();
        let whole = PathBuf::from(first.0.to_str().unwrap().trim_end_matches("-0"));
        kept.iter().for_each(|(path, ..)| fs::remove_file(path).unwrap());
        let mut writer = ShardWriter::create(&whole, false, false).unwrap();
        writer.push(&[1, 2, 3], &[]).unwrap();
        writer.finish(3).unwrap();
        assert_eq!(sandbox.tokens(&sandbox.shards(1, &mut |_| {}).unwrap()), [1, 2, 3]);
        // Once it is damaged, parts take its place.
        fs::write(&whole, b"?").unwrap();
        let mut damaged = 0;
        for _ in 0..2 {
            let shards = sandbox.shards(1, &mut |step| {
                damaged += usize::from(matches!(step, Progress::Damaged { .. }));
            });
            assert!(sandbox.tokens(&shards.unwrap()) == expected);
        }
        assert!(damaged == 1 && !fs::exists(&whole).unwrap(), "{damaged}");
    }

    #[test]
    fn small_files_are_put_together_and_large_ones_stand_alone() {
        let file = |bytes: u64| SourceFile { path: PathBuf::new(), format: Format::Text, bytes };
        let half = PART_BYTES / 2;
        let files = [half, half, 1, 3 * PART_BYTES, 1, 1].map(file);
        let mut ends = vec![0];
        while *ends.last().unwrap() < files.len() {
            ends.push(group_end(&files, *ends.last().unwrap()));
        }
        assert_eq!(ends, [0, 2, 3, 4, 6]);
    }
}

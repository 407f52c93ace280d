//! All documents of one source as one run of tokens, over its files.

use std::fs::File;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::DataError;
use super::shard::Shard;
use crate::checkpoint::Checksum;

/// Documents end to end, numbered from 0 in the order of their files.
#[derive(Debug)]
pub(super) struct Corpus {
    /// As the configuration calls it.
    pub(super) name: String,
    shards: Vec<Shard>,
    /// The file that was read from last, with its number: often the next one too.
    open: Mutex<Option<(usize, Arc<File>)>>,
    /// The first token of each shard, and the number of tokens after the last one.
    starts: Vec<u64>,
    /// Number of tokens up to the end of each document.
    pub(super) ends: Vec<u64>,
    pub(super) is_chat: bool,
    pub(super) text_bytes: u64,
    /// Of the checksums of all its files.
    pub(super) contents: Checksum,
    pub(super) largest_id: u32,
}

impl Corpus {
    /// `shards` are all of texts or all of conversations, empty ones aside.
    ///
    /// # Errors
    /// When there is no document.
    pub(super) fn new(name: &str, mut shards: Vec<Shard>) -> Result<Corpus, DataError> {
        let Some(first) = shards.iter().find(|shard| shard.footer.tokens > 0) else {
            return Err(DataError::NoDocuments { path: name.to_owned() });
        };
        let is_chat = first.footer.is_chat;
        let mut starts = vec![0];
        let mut ends = Vec::with_capacity(shards.iter().map(|shard| shard.ends.len()).sum());
        let mut tokens = 0;
        for shard in &mut shards {
            // Taken: eight bytes per document are much where documents are short.
            ends.extend(std::mem::take(&mut shard.ends).iter().map(|end| tokens + end));
            tokens += shard.footer.tokens;
            starts.push(tokens);
        }
        let checksums: Vec<u8> = shards
            .iter()
            .flat_map(|shard| &shard.checksums)
            .flat_map(|sum| sum.to_le_bytes())
            .collect();
        let contents = Checksum::of(&checksums);
        let text_bytes = shards.iter().map(|shard| shard.footer.text_bytes).sum();
        let largest_id = shards.iter().map(|shard| shard.footer.largest_id).max().unwrap_or(0);
        let (name, open) = (name.to_owned(), Mutex::new(None));
        Ok(Corpus { name, shards, open, starts, ends, is_chat, text_bytes, contents, largest_id })
    }

    pub(super) fn tokens(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// The tokens of a document.
    pub(super) fn document(&self, index: usize) -> Range<u64> {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        start..self.ends[index]
    }

    /// Appends the tokens of `range`.
    pub(super) fn read(&self, range: Range<u64>, out: &mut Vec<i32>) -> Result<(), DataError> {
        self.parts(range, |shard, file, part| shard.tokens(file, part, out))
    }

    /// Appends whether the assistant said each token of `range`; nothing for texts.
    pub(super) fn said(&self, range: Range<u64>, out: &mut Vec<bool>) -> Result<(), DataError> {
        self.parts(range, |shard, file, part| shard.said(file, part, out))
    }

    /// The part of `range` in each shard, in the shard's own numbering.
    fn parts(
        &self,
        range: Range<u64>,
        mut visit: impl FnMut(&Shard, &File, Range<u64>) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        let first = self.starts.partition_point(|start| *start <= range.start).saturating_sub(1);
        let bounds = self.starts.windows(2).enumerate();
        for (shard, (index, bounds)) in self.shards.iter().zip(bounds).skip(first) {
            let part = range.start.max(bounds[0])..range.end.min(bounds[1]);
            if part.is_empty() {
                if bounds[0] >= range.end {
                    break;
                }
                continue;
            }
            let file = self.file(index)?;
            visit(shard, &file, part.start - bounds[0]..part.end - bounds[0])?;
        }
        Ok(())
    }

    fn file(&self, index: usize) -> Result<Arc<File>, DataError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((last, file)) = &*open
            && *last == index
        {
            return Ok(file.clone());
        }
        let file = Arc::new(self.shards[index].file()?);
        *open = Some((index, file.clone()));
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::shard::ShardWriter;

    #[test]
    fn files_are_one_run_of_tokens() {
        let folder = tempfile::tempdir().unwrap();
        let files: [&[&[u32]]; 5] = [&[], &[&[1, 2, 3], &[4]], &[], &[&[5, 6]], &[&[7]]];
        let open = |(index, documents): (usize, &&[&[u32]])| {
            let path = folder.path().join(index.to_string());
            let mut writer = ShardWriter::create(&path, false, true).unwrap();
            for ids in *documents {
                let said: Vec<bool> = ids.iter().map(|id| id % 2 == 0).collect();
                writer.push(ids, &said).unwrap();
                writer.end_document();
            }
            writer.finish(10).unwrap();
            Shard::open(&path, |_| {}).unwrap()
        };
        let shards = files.iter().enumerate().map(open).collect();
        let corpus = Corpus::new("name", shards).unwrap();
        assert_eq!(corpus.ends, [3, 4, 6, 7]);
        assert!(corpus.shards.iter().all(|shard| shard.ends.is_empty()), "kept twice");
        assert_eq!((corpus.tokens(), corpus.text_bytes, corpus.largest_id), (7, 50, 7));
        assert_eq!(corpus.document(2), 4..6);
        for start in 0..7 {
            for end in start..=7 {
                let (mut tokens, mut said) = (Vec::new(), Vec::new());
                corpus.read(start..end, &mut tokens).unwrap();
                corpus.said(start..end, &mut said).unwrap();
                let expected: Vec<i32> = (start as i32 + 1..end as i32 + 1).collect();
                assert_eq!(tokens, expected);
                assert_eq!(said, expected.iter().map(|id| id % 2 == 0).collect::<Vec<_>>());
            }
        }
    }
}

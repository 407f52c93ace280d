//! The documents of a group of files, one after the other, in parts that are kept one by one. Where
//! a part ends follows from the documents alone, so an interrupted run finds the same parts again.

use std::iter::Peekable;

use crate::data::DataError;
use crate::data::find::SourceFile;
use crate::data::read::{self, Content, Item};

/// Bytes of documents per thread that are read, then turned into tokens.
const WAVE_BYTES_PER_THREAD: u64 = 2 << 20;

/// A document, or a piece of one, with the file that it comes from.
pub(in crate::data) struct Document<'f> {
    pub(in crate::data) file: &'f SourceFile,
    pub(in crate::data) item: Item,
    /// Of all files of the group, up to this document.
    pub(super) bytes_done: u64,
}

impl Document<'_> {
    /// None for a gap, which may stand among texts as among conversations.
    pub(super) fn is_chat(&self) -> Option<bool> {
        match self.item.content {
            Content::Text { .. } => Some(false),
            Content::Chat(_) => Some(true),
            Content::Gap => None,
        }
    }

    fn ends(&self) -> bool {
        !matches!(self.item.content, Content::Text { ends: false, .. })
    }

    fn bytes(&self) -> u64 {
        let bytes = match &self.item.content {
            Content::Text { text, .. } => text.len(),
            Content::Chat(conversation) => {
                let values = conversation.messages.iter().flat_map(|message| message.0.values());
                values.map(|value| value.as_str().map_or(64, str::len)).sum()
            }
            Content::Gap => 0,
        };
        // An empty document must count too, or a file of them would be one wave.
        bytes as u64 + 64
    }
}

/// The documents of several files, one file after the other.
pub(super) fn documents<'f>(
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

/// Documents by part, and those of a part in waves.
pub(super) struct Parts<I: Iterator> {
    documents: Peekable<I>,
    part_bytes: u64,
    /// Of the part that is being read.
    bytes: u64,
    is_full: bool,
}

impl<'f, I: Iterator<Item = Result<Document<'f>, DataError>>> Parts<I> {
    /// A part ends with the document with which it has `part_bytes`.
    pub(super) fn new(documents: I, part_bytes: u64) -> Parts<I> {
        Parts { documents: documents.peekable(), part_bytes, bytes: 0, is_full: false }
    }

    /// As many documents of this part as keep all threads busy for a while; none at its end.
    pub(super) fn wave(&mut self, threads: usize) -> Result<Vec<Document<'f>>, DataError> {
        let mut wave = Vec::new();
        let mut bytes = 0;
        while !self.is_full && bytes < WAVE_BYTES_PER_THREAD * threads as u64 {
            let Some(document) = self.documents.next() else { break };
            let document = document?;
            bytes += document.bytes();
            self.bytes += document.bytes();
            self.is_full = document.ends() && self.bytes >= self.part_bytes;
            wave.push(document);
        }
        Ok(wave)
    }

    /// Goes on with the next part; whether there is one.
    pub(super) fn next_part(&mut self) -> bool {
        (self.bytes, self.is_full) = (0, false);
        self.documents.peek().is_some()
    }
}

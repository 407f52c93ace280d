//! Documents into token ids, on several threads. The result does not depend on their number.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use llm::{ChatTemplate, Tokenizer};

use super::DataError;
use super::cache::Document;
use super::chat::{self, ChatFailure, Rendered};
use super::read::{Content, Conversation};
use super::token_bytes::TokenBytes;

/// The least reach: where answers are found in little time.
const REACH_MIN: usize = 4096;

/// The tokens of a document, or of a piece of one.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Encoded {
    pub(super) ids: Vec<u32>,
    /// For conversations: whether the assistant said the token. As long as `ids`, or empty.
    pub(super) said: Vec<bool>,
    pub(super) text_bytes: u64,
    /// Whether the document goes on in the next piece.
    pub(super) continues: bool,
}

pub(super) struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    template: Option<&'a ChatTemplate>,
    table: &'a TokenBytes,
    /// What stands around every text.
    before: Vec<u32>,
    after: Vec<u32>,
    threads: usize,
    reach: usize,
}

impl<'a> Encoder<'a> {
    pub(super) fn new(
        tokenizer: &'a Tokenizer,
        template: Option<&'a ChatTemplate>,
        table: &'a TokenBytes,
        threads: usize,
        sequence_length: usize,
    ) -> Result<Encoder<'a>, DataError> {
        // The tokenizer's settings say what belongs around a text; a document always gets an end,
        // so that a model learns to stop.
        let bare = tokenizer.encode("a", false)?;
        let framed = tokenizer.encode("a", true)?;
        let start = framed.windows(bare.len().max(1)).position(|part| part == bare).unwrap_or(0);
        let before = framed[..start].to_vec();
        let mut after = framed.get(start + bare.len()..).unwrap_or_default().to_vec();
        if let Some(end) = tokenizer.eos_token_id()
            && after.last() != Some(&end)
        {
            after.push(end);
        }
        let threads = threads.max(1);
        // In few steps, since tokens of one reach are of no use for another.
        let reach = sequence_length.checked_next_power_of_two().unwrap_or(usize::MAX);
        let reach = reach.max(REACH_MIN);
        Ok(Encoder { tokenizer, template, table, before, after, threads, reach })
    }

    /// As many tokens of a conversation, and one, are marked with whether the assistant said them:
    /// no row shows more, and finding answers takes time with the square of their number.
    pub(super) fn reach(&self) -> usize {
        self.reach
    }

    /// The tokens of each document, in order.
    pub(super) fn encode(&self, documents: &[Document<'_>]) -> Result<Vec<Encoded>, DataError> {
        let next = AtomicUsize::new(0);
        let work = || {
            let mut done = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(document) = documents.get(index) else { return done };
                done.push((index, self.encode_one(document)));
            }
        };
        let threads = self.threads.min(documents.len());
        let mut results: Vec<(usize, Result<Encoded, DataError>)> = if threads <= 1 {
            work()
        } else {
            std::thread::scope(|scope| {
                let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
                let joined = workers.into_iter().map(|worker| match worker.join() {
                    Ok(done) => done,
                    // A bug there is a bug here.
                    Err(panic) => std::panic::resume_unwind(panic),
                });
                joined.flatten().collect()
            })
        };
        // Sorted, so that the first error is the same one however the work was shared out.
        results.sort_unstable_by_key(|(index, _)| *index);
        results.into_iter().map(|(_, result)| result).collect()
    }

    fn encode_one(&self, document: &Document<'_>) -> Result<Encoded, DataError> {
        let (path, item) = (&document.file.path, &document.item);
        match &item.content {
            Content::Text { text, begins, ends } => self.encode_text(text, *begins, *ends),
            Content::Chat(conversation) => self.encode_chat(path, item.record, conversation),
            Content::Gap => Ok(Encoded::default()),
        }
    }

    fn encode_text(&self, text: &str, begins: bool, ends: bool) -> Result<Encoded, DataError> {
        if begins && ends && text.trim().is_empty() {
            return Ok(Encoded::default());
        }
        let mut ids = if begins { self.before.clone() } else { Vec::new() };
        ids.extend(self.tokenizer.encode(text, false)?);
        if ends {
            ids.extend(&self.after);
        }
        let text_bytes = text.len() as u64;
        Ok(Encoded { ids, said: Vec::new(), text_bytes, continues: !ends })
    }

    fn encode_chat(
        &self,
        path: &Path,
        record: u64,
        conversation: &Conversation,
    ) -> Result<Encoded, DataError> {
        let Some(template) = self.template else {
            return Err(DataError::NoChatTemplate { path: path.display().to_string() });
        };
        let unclear = |reason: String| {
            let path = path.to_path_buf();
            DataError::AssistantPart { path, record, reason }
        };
        let failed = |failure| match failure {
            ChatFailure::Template(source) => {
                DataError::Chat { path: path.to_path_buf(), record, source: Box::new(source) }
            }
            ChatFailure::Unclear(reason) => unclear(reason),
        };
        let text = chat::text(template, conversation).map_err(failed)?;
        let ids = self.tokenizer.encode(&text, false)?;
        let places = self.table.locate(&text, &ids);
        let last = places.as_ref().and_then(|places| places.get(self.reach));
        let end = last.map_or(usize::MAX, |place| place.end);
        let answers = chat::answers(template, conversation, &text, end).map_err(failed)?;
        let rendered = Rendered { text, answers };
        let said = self.said(&rendered, &ids, places)?.ok_or_else(|| {
            unclear("the tokenizer rewrites the text and joins it across turns".to_owned())
        })?;
        let text_bytes = rendered.text.len() as u64;
        Ok(Encoded { ids, said, text_bytes, continues: false })
    }

    /// Which tokens the assistant said. A token that reaches into an answer from before is not one:
    /// no model is asked to go on in the middle of it.
    /// `places` are the tokens' in the text, if they have any.
    fn said(
        &self,
        rendered: &Rendered,
        ids: &[u32],
        places: Option<Vec<Range<usize>>>,
    ) -> Result<Option<Vec<bool>>, DataError> {
        let Rendered { text, answers } = rendered;
        if let Some(places) = places {
            let is_said = |start: usize| {
                let index = answers.partition_point(|answer| answer.end <= start);
                answers.get(index).is_some_and(|answer| answer.start <= start)
            };
            // A token without bytes of its own belongs to none.
            let said = places.iter().map(|place| !place.is_empty() && is_said(place.start));
            return Ok(Some(said.collect()));
        }
        // The tokens do not spell the text. If the parts alone give the same tokens as the whole,
        // it is known all the same which ones belong to which part.
        let mut pieces = Vec::new();
        let mut said = Vec::new();
        let mut add = |range: Range<usize>, answer: bool| -> Result<(), DataError> {
            let part = self.tokenizer.encode(&text[range], false)?;
            said.extend(std::iter::repeat_n(answer, part.len()));
            pieces.extend(part);
            Ok(())
        };
        let mut at = 0;
        for answer in answers {
            add(at..answer.start, false)?;
            add(answer.clone(), true)?;
            at = answer.end;
        }
        add(at..text.len(), false)?;
        Ok((pieces == ids).then_some(said))
    }
}

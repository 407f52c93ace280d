//! A vocabulary learned from the data, for models that are trained from scratch: byte-level BPE with
//! GPT-2's way of splitting text.

use llm::Tokenizer;
use llm::tokenizer::TokenizerSettings;
use runtime::CacheFolder;
use runtime::install::Installer;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper};
use tokenizers::{PreTokenizerWrapper, TokenizerImpl};

use super::config::SourceConfig;
use super::read::{self, Content};
use super::{DataError, Progress, find};

/// What stands between documents; id 0.
pub const END_OF_TEXT: &str = "<|endoftext|>";
/// Every byte, and [`END_OF_TEXT`].
const VOCABULARY_SIZE_MIN: usize = 257;
/// Enough text for any vocabulary; more only takes longer. Taken from the beginning of each source,
/// in equal parts.
const TEXT_BYTES_MAX: u64 = 256 << 20;

/// A tokenizer as the files that Hugging Face's loaders, and this program's, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LearnedTokenizer {
    /// The text of `tokenizer.json`.
    pub tokenizer_json: String,
    /// The text of `tokenizer_config.json`.
    pub tokenizer_config_json: String,
}

impl LearnedTokenizer {
    /// # Errors
    /// None that is known: the files were just made.
    pub fn tokenizer(&self) -> Result<Tokenizer, DataError> {
        let settings = TokenizerSettings::from_json(&self.tokenizer_config_json)?;
        Ok(Tokenizer::from_json(&self.tokenizer_json, &settings)?)
    }
}

/// Learns a vocabulary of `vocabulary_size` tokens from the texts of `sources`: the end of a text,
/// 256 bytes, and merges of them. The same data give the same vocabulary. It is smaller than asked
/// for if the data has no more pairs that occur twice.
///
/// # Errors
/// When `vocabulary_size` is less than 257, or the data cannot be read or is not text.
pub fn learn_tokenizer(
    sources: &[SourceConfig],
    vocabulary_size: usize,
    cache: &CacheFolder,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<LearnedTokenizer, DataError> {
    if vocabulary_size < VOCABULARY_SIZE_MIN {
        return Err(DataError::SmallVocabulary { vocabulary_size });
    }
    let mut texts = Vec::new();
    let merges = vocabulary_size > VOCABULARY_SIZE_MIN;
    for source in sources.iter().filter(|_| merges) {
        let limit = TEXT_BYTES_MAX / sources.len() as u64;
        collect(source, limit, cache, progress, &mut texts)?;
    }
    let mut trainer = BpeTrainer::builder()
        .vocab_size(vocabulary_size)
        .min_frequency(2)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
        .build();
    let byte_level = ByteLevel::new(false, true, true);
    let mut tokenizer: TokenizerImpl<
        BPE,
        NormalizerWrapper,
        PreTokenizerWrapper,
        PostProcessorWrapper,
        DecoderWrapper,
    > = TokenizerImpl::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(byte_level)).with_decoder(Some(byte_level));
    tokenizer
        .train(&mut trainer, texts.into_iter())
        .map_err(|source| DataError::Learn { source })?;
    let tokenizer_json =
        tokenizer.to_string(false).map_err(|source| DataError::Learn { source })?;
    let settings = serde_json::json!({
        // The class that takes everything from `tokenizer.json`.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": false,
        "add_bos_token": false,
        "add_eos_token": false,
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
    });
    Ok(LearnedTokenizer { tokenizer_json, tokenizer_config_json: format!("{settings:#}\n") })
}

/// The texts of a source, up to `limit` bytes.
fn collect(
    source: &SourceConfig,
    limit: u64,
    cache: &CacheFolder,
    progress: &mut dyn FnMut(Progress<'_>),
    texts: &mut Vec<String>,
) -> Result<(), DataError> {
    let name = source.path.as_str();
    let files = find::files(source, &Installer::new(cache.clone()), progress)?;
    let bytes_total = files.iter().map(|file| file.bytes).sum::<u64>().min(limit);
    let mut bytes_done = 0;
    for file in &files {
        for item in read::open(file, source.column.as_deref())? {
            if bytes_done >= limit {
                return Ok(());
            }
            match item?.content {
                Content::Text { text, .. } => {
                    bytes_done += text.len() as u64;
                    texts.push(text);
                }
                Content::Gap => {}
                Content::Chat(_) => {
                    return Err(DataError::LearnFromChat { path: name.to_owned() });
                }
            }
            let bytes_done = bytes_done.min(bytes_total);
            progress(Progress::Learning { source: name, bytes_done, bytes_total });
        }
    }
    if bytes_done == 0 {
        return Err(DataError::NoDocuments { path: name.to_owned() });
    }
    Ok(())
}

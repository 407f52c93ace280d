//! A tokenizer as the two files that Hugging Face's loaders read: `tokenizer.json` and
//! `tokenizer_config.json`.

use serde_json::{Map, Value};
use tokenizers::PostProcessorWrapper;
use tokenizers::processors::template::{SpecialToken, TemplateProcessing};

use super::{Framing, Tokenizer, TokenizerError};

impl Tokenizer {
    /// The text of a `tokenizer.json`, with the tokens that [`encode`](Tokenizer::encode) puts around
    /// a text written into its post-processor.
    ///
    /// # Errors
    /// When the tokenizer's own rules cannot be written.
    pub fn to_json(&self) -> Result<String, TokenizerError> {
        let mut inner = self.inner.clone();
        if let Framing::Explicit { bos, eos } = self.framing {
            let bos = self.bos_token_id.filter(|_| bos);
            let eos = self.eos_token_id.filter(|_| eos);
            inner.with_post_processor(self.frame(bos, eos)?);
        }
        inner.to_string(false).map_err(TokenizerError::json)
    }

    /// The text of a `tokenizer_config.json` for a model of sequences up to `model_max_length`
    /// tokens.
    pub fn settings_json(&self, model_max_length: usize) -> String {
        let mut settings = Map::new();
        let mut set = |key: &str, value: Value| settings.insert(key.to_owned(), value);
        // The class that takes everything from `tokenizer.json`, in transformers 4 and 5 alike.
        set("tokenizer_class", "PreTrainedTokenizerFast".into());
        // transformers 4 gives this class `token_type_ids` too, which decoders refuse.
        set("model_input_names", Value::from(["input_ids", "attention_mask"].as_slice()));
        set("model_max_length", model_max_length.into());
        set("clean_up_tokenization_spaces", false.into());
        if let Framing::Explicit { bos, eos } = self.framing {
            set("add_bos_token", bos.into());
            set("add_eos_token", eos.into());
        }
        for (role, token) in &self.special_tokens {
            set(role, token.as_str().into());
        }
        format!("{:#}\n", Value::Object(settings))
    }

    /// What puts these tokens around a text; nothing for none.
    fn frame(
        &self,
        bos: Option<u32>,
        eos: Option<u32>,
    ) -> Result<Option<PostProcessorWrapper>, TokenizerError> {
        let rule = |error: String| TokenizerError::json(error.into());
        // Pieces of a template are separated by spaces, which tokens may hold: so they go by role.
        let roles = [("bos", bos), ("eos", eos)];
        let mut tokens = Vec::new();
        for (role, id) in roles.into_iter().filter_map(|(role, id)| Some((role, id?))) {
            let text = self.id_to_token(id).unwrap_or_default();
            let token = SpecialToken::new(role.to_owned(), vec![id], vec![text]);
            tokens.push(token.map_err(TokenizerError::json)?);
        }
        if tokens.is_empty() {
            return Ok(None);
        }
        let framed = |sequence: &str, kind: usize| {
            let before = bos.map_or_else(String::new, |_| format!("bos:{kind} "));
            let after = eos.map_or_else(String::new, |_| format!(" eos:{kind}"));
            format!("{before}{sequence}:{kind}{after}")
        };
        let (first, second) = (framed("$A", 0), framed("$B", 1));
        let template = TemplateProcessing::builder()
            .try_single(first.as_str())
            .map_err(rule)?
            .try_pair(format!("{first} {second}"))
            .map_err(rule)?
            .special_tokens(tokens)
            .build()
            .map_err(|error| rule(error.to_string()))?;
        Ok(Some(template.into()))
    }
}

//! The fields that decide how an answer is drawn, which all ways to ask for one share.

use super::error::ApiError;
use super::fields::{Fields, wrong_type};
use super::model_text::ModelText;
use super::settings::ServerSettings;
use crate::engine::Sampling;

/// The most answers to one prompt.
const CHOICES_MAX: i128 = 128;
const STOP_STRINGS_MAX: usize = 16;
/// Looking for a stop string takes time with its length.
const STOP_STRING_CHARACTERS_MAX: usize = 1024;
/// Far above where a model still says anything.
const TEMPERATURE_MAX: f64 = 100.0;

/// How one answer, or `n` of them, shall be drawn.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Parameters {
    pub sampling: Sampling,
    pub n: usize,
    /// `None`: as much as fits.
    pub max_tokens: Option<usize>,
    pub min_tokens: usize,
    pub stop: Vec<String>,
    pub end_tokens: Vec<u32>,
    pub skips_special_tokens: bool,
    pub priority: i32,
    pub user: Option<String>,
    pub return_token_ids: bool,
    pub continued: Vec<u32>,
}

impl Parameters {
    /// Reads the fields; `max_tokens` are the names under which the length may stand, the first one
    /// that is there counts.
    pub fn read(
        fields: &Fields<'_>,
        max_tokens: &[&str],
        model: &ModelText,
        settings: &ServerSettings,
    ) -> Result<Parameters, ApiError> {
        let mut length = None;
        for name in max_tokens {
            length = length.or(fields.count(name, 1)?);
        }
        let max_tokens = match (length.or(settings.max_tokens_default), settings.max_tokens_cap) {
            (Some(length), Some(cap)) => Some(length.min(cap)),
            (length, cap) => length.or(cap),
        };
        let min_tokens = fields.count("min_tokens", 0)?.unwrap_or(0);
        if max_tokens.is_some_and(|max_tokens| min_tokens > max_tokens) {
            let message = format!("min_tokens is {min_tokens}, more than the answer may have");
            return Err(ApiError::field("min_tokens", message));
        }
        let mut end_tokens = fields.token_ids("stop_token_ids")?.unwrap_or_default();
        if !fields.flag("ignore_eos")?.unwrap_or(false) {
            end_tokens.extend_from_slice(&model.end_tokens);
        }
        let n = fields.integer("n", 1..=CHOICES_MAX)?.unwrap_or(1) as usize;
        let continued = fields.token_ids("continue_token_ids")?.unwrap_or_default();
        if n > 1 && !continued.is_empty() {
            let message = "an answer can be continued only where there is one; leave out n";
            return Err(ApiError::field("continue_token_ids", message));
        }
        Ok(Parameters {
            sampling: sampling(fields)?,
            n,
            max_tokens,
            min_tokens,
            stop: stop_strings(fields)?,
            end_tokens,
            skips_special_tokens: fields.flag("skip_special_tokens")?.unwrap_or(true),
            priority: fields
                .integer("priority", i128::from(i32::MIN)..=i128::from(i32::MAX))?
                .unwrap_or(0) as i32,
            user: fields.text("user")?.map(str::to_owned),
            return_token_ids: fields.flag("return_token_ids")?.unwrap_or(false),
            continued,
        })
    }
}

fn sampling(fields: &Fields<'_>) -> Result<Sampling, ApiError> {
    let defaults = Sampling::default();
    let number = |name, range, default: f32| -> Result<f32, ApiError> {
        Ok(fields.number(name, range)?.map_or(default, |number| number as f32))
    };
    let seed = fields.integer("seed", i128::from(i64::MIN)..=i128::from(u64::MAX))?;
    Ok(Sampling {
        temperature: number("temperature", 0.0..=TEMPERATURE_MAX, defaults.temperature)?,
        // vLLM says -1 for all tokens.
        top_k: fields.integer("top_k", -1..=i128::from(u32::MAX))?.unwrap_or(0).max(0) as u32,
        // 0 leaves the likeliest token, and so does the smallest number above it.
        top_p: number("top_p", 0.0..=1.0, defaults.top_p)?.max(f32::MIN_POSITIVE),
        min_p: number("min_p", 0.0..=1.0, defaults.min_p)?,
        repetition_penalty: number(
            "repetition_penalty",
            0.01..=100.0,
            defaults.repetition_penalty,
        )?,
        presence_penalty: number("presence_penalty", -2.0..=2.0, defaults.presence_penalty)?,
        frequency_penalty: number("frequency_penalty", -2.0..=2.0, defaults.frequency_penalty)?,
        logit_bias: logit_bias(fields)?,
        seed: seed.map_or_else(web::random::random_number, |seed| seed as u64),
    })
}

fn logit_bias(fields: &Fields<'_>) -> Result<Vec<(u32, f32)>, ApiError> {
    let Some(biases) = fields.object("logit_bias")? else { return Ok(Vec::new()) };
    if biases.map().len() > Sampling::BIAS_MAX {
        let message = format!("logit_bias has more than {} tokens", Sampling::BIAS_MAX);
        return Err(ApiError::field("logit_bias", message));
    }
    let mut found = Vec::with_capacity(biases.map().len());
    for (token, bias) in biases.map() {
        let Ok(id) = token.parse() else {
            let message = format!("logit_bias has the key `{token}`, which is no token id");
            return Err(ApiError::field("logit_bias", message));
        };
        match biases.number(token, -100.0..=100.0)? {
            Some(bias) => found.push((id, bias as f32)),
            None => return Err(wrong_type(biases.path(token), "a number", bias)),
        }
    }
    Ok(found)
}

fn stop_strings(fields: &Fields<'_>) -> Result<Vec<String>, ApiError> {
    let stop = fields.texts("stop")?;
    let wrong = |message: String| Err(ApiError::field("stop", message));
    if stop.len() > STOP_STRINGS_MAX {
        return wrong(format!("stop has {} strings; {STOP_STRINGS_MAX} are the most", stop.len()));
    }
    if stop.iter().any(String::is_empty) {
        return wrong("stop has an empty string, which would end every answer at once".to_owned());
    }
    if stop.iter().any(|text| text.chars().count() > STOP_STRING_CHARACTERS_MAX) {
        let message = format!("a stop string has over {STOP_STRING_CHARACTERS_MAX} characters");
        return wrong(message);
    }
    Ok(stop)
}

/// How many log-probabilities are asked for beside each token, in `name`.
pub(crate) fn top_log_probs(fields: &Fields<'_>, name: &str) -> Result<Option<usize>, ApiError> {
    let most = crate::engine::Request::TOP_MAX as i128;
    Ok(fields.integer(name, 0..=most)?.map(|number| number as usize))
}

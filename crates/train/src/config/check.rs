//! What single keys cannot show: values that are fine alone and not together.

use super::error::ConfigError;
use super::keys::nearest;
use super::sections::{Config, LORA_TARGETS, Lora, Model, Schedule, ScheduleKind};

pub(super) fn check(config: &Config, needs_data: bool) -> Result<(), ConfigError> {
    let sentence = model(&config.model)
        .or_else(|| config.lora.as_ref().and_then(|settings| lora(settings, &config.model)))
        .or_else(|| data(config, needs_data))
        .or_else(|| batch(config))
        .or_else(|| schedule(&config.schedule, config.training.steps))
        .or_else(|| guard(config.guard.spike_factor));
    sentence.map_or(Ok(()), |sentence| Err(ConfigError::Contradiction(sentence)))
}

fn model(model: &Model) -> Option<String> {
    let ways = [
        ("from", model.from.is_some()),
        ("shape", model.shape.is_some()),
        ("config", model.config.is_some()),
        ("architecture", model.architecture.is_some()),
    ];
    let given: Vec<&str> = ways.iter().filter(|(_, given)| *given).map(|&(name, _)| name).collect();
    match given.as_slice() {
        [_] => {}
        [] => {
            return Some(
                "[model] does not say what to train: set `from` to start from a model's weights, or \
                 one of `shape`, `config` and `architecture` to train from scratch"
                    .to_string(),
            );
        }
        [first, second, ..] => {
            return Some(format!(
                "[model] has both `{first}` and `{second}`, which are different ways to say what to train: keep one"
            ));
        }
    }
    let sizes = model.sizes();
    if model.architecture.is_none() {
        let size = sizes.iter().find(|(_, value)| value.is_some());
        return size.map(|(name, _)| *name).or(model.other_size()).map_or_else(
            || tokenizer(model),
            |name| {
                Some(format!(
                    "model.{name} is only for a model described by `architecture`; `{}` brings its own: remove it",
                    given[0]
                ))
            },
        );
    }
    if let Some((name, _)) = sizes.iter().find(|(_, value)| value.is_none()) {
        return Some(format!("model.{name} is missing: `architecture` needs it"));
    }
    if model.tokenizer.is_none() && model.vocabulary_size.is_none() {
        return Some(
            "[model] does not say how text becomes tokens: set `tokenizer` to a known model, a \
             folder or a .gguf file, or `vocabulary_size` to train one on the data"
                .to_string(),
        );
    }
    tokenizer(model)
}

fn tokenizer(model: &Model) -> Option<String> {
    model.vocabulary_size?;
    let other = match (&model.tokenizer, &model.from) {
        (Some(_), _) => "model.tokenizer is given too: keep one",
        (_, Some(_)) => "the weights of model.from go with its own tokens: remove it",
        _ => return None,
    };
    Some(format!("model.vocabulary_size is for a new tokenizer, but {other}"))
}

fn lora(lora: &Lora, model: &Model) -> Option<String> {
    if model.from.is_none() {
        return Some(
            "[lora] adapts a model that exists: set model.from, or remove [lora]".to_string(),
        );
    }
    if lora.targets.is_empty() {
        return Some(format!("lora.targets is empty: choose from {}", LORA_TARGETS.join(", ")));
    }
    let unknown = lora.targets.iter().find(|target| !LORA_TARGETS.contains(&target.as_str()))?;
    let hint = match nearest(unknown, &LORA_TARGETS) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("choose from {}", LORA_TARGETS.join(", ")),
    };
    Some(format!("lora.targets has `{unknown}`, which is no matrix of a layer: {hint}"))
}

fn data(config: &Config, needs_data: bool) -> Option<String> {
    if needs_data && config.data.sources.is_empty() {
        return Some(
            "there is no data: add a [[data.sources]] section with a `path`, or --set \
             data.sources=[{path=\"...\"}]"
                .to_string(),
        );
    }
    let both = !config.data.validation.0.is_empty() && config.data.validation_fraction > 0.0;
    both.then(|| {
        "data.validation and data.validation_fraction both say what to hold out: keep one"
            .to_string()
    })
}

fn batch(config: &Config) -> Option<String> {
    let (size, parts) = (config.training.batch_size, config.training.accumulation);
    if !size.is_multiple_of(parts) {
        return Some(format!(
            "training.accumulation = {parts} does not divide training.batch_size = {size}: with this batch it could be {}",
            divisors(size)
        ));
    }
    let rows = size / parts;
    let pieces = config.mesh.data.checked_mul(config.mesh.fsdp);
    match pieces {
        Some(pieces) if rows.is_multiple_of(pieces) => None,
        _ => Some(format!(
            "mesh.data = {} times mesh.fsdp = {} does not divide the {rows} sequences that are \
             computed at once (training.batch_size / training.accumulation): their product could be {}",
            config.mesh.data,
            config.mesh.fsdp,
            divisors(rows)
        )),
    }
}

/// The numbers that divide, as words; the largest of them where there are many.
pub(super) fn divisors(number: usize) -> String {
    let mut found: Vec<usize> =
        (1..=number.min(4096)).filter(|d| number.is_multiple_of(*d)).collect();
    if number > 4096 {
        found.push(number);
    }
    either(&found)
}

/// `1, 2 or 4`; long lists lose their middle.
pub(super) fn either(numbers: &[usize]) -> String {
    let words: Vec<String> = numbers.iter().map(usize::to_string).collect();
    match words.as_slice() {
        [] => "nothing".to_string(),
        [one] => one.clone(),
        [most @ .., last] if most.len() < 12 => format!("{} or {last}", most.join(", ")),
        [most @ .., last] => format!("{}, ... or {last}", most[..10].join(", ")),
    }
}

fn schedule(schedule: &Schedule, steps: usize) -> Option<String> {
    let warmup = schedule.warmup_steps;
    if warmup > steps {
        return Some(format!(
            "schedule.warmup_steps = {warmup} is more than training.steps = {steps}: the learning rate would never reach its height"
        ));
    }
    let decay = schedule.decay_steps?;
    if schedule.kind == ScheduleKind::Constant {
        return Some(
            "schedule.decay_steps is given, but the schedule is constant: remove it, or choose wsd"
                .to_string(),
        );
    }
    let total = warmup.checked_add(decay);
    (schedule.kind == ScheduleKind::Wsd && total.is_none_or(|total| total > steps)).then(|| {
        format!(
            "schedule.warmup_steps = {warmup} and schedule.decay_steps = {decay} are together more than training.steps = {steps}"
        )
    })
}

fn guard(spike_factor: f64) -> Option<String> {
    (spike_factor > 0.0 && spike_factor <= 1.0).then(|| {
        format!(
            "guard.spike_factor is {spike_factor}: it must be 0 (off) or above 1, since a loss like the mean is no spike"
        )
    })
}

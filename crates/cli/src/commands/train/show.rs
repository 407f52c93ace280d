//! What a run looks like on a screen, and in a log where there is no screen.

use std::collections::VecDeque;

use train::data::{self, SourceReport};
use train::metrics::StepRecord;
use train::trainer::Event;

use crate::console::{
    self, BOLD, DIM, Progress, decimal_size, duration, gibibytes, short_number, styled,
};
use crate::open;

/// Steps over which speed is taken for what remains.
const RECENT: usize = 20;

/// How data is prepared.
pub fn data(progress: &Progress, step: &data::Progress<'_>) {
    use data::Progress as Step;
    match *step {
        Step::Installing(ref step) => crate::model::show_installation(progress, step),
        Step::Waiting => progress.spin("waiting for another process that prepares data"),
        Step::Learning { source, bytes_done, bytes_total } => {
            progress.bytes(
                &format!("learning a vocabulary from {source}"),
                bytes_done,
                bytes_total,
            );
        }
        Step::Reading { source, bytes_done, bytes_total } => {
            progress.bytes(&format!("reading {source}"), bytes_done, bytes_total);
        }
        Step::Tokenizing { source, bytes_done, bytes_total } => {
            progress.bytes(&format!("tokenizing {source}"), bytes_done, bytes_total);
        }
        Step::Verifying { source, bytes_done, bytes_total } => {
            progress.bytes(&format!("verifying {source}"), bytes_done, bytes_total);
        }
        Step::Damaged { path, reason } => {
            progress.clear();
            console::warning(&format!("{} is damaged ({reason}); making it again", path.display()));
        }
        Step::LeftOut { source, path } => {
            progress.clear();
            console::warning(&format!(
                "{}, in {source}, is validation data too and is not trained on",
                path.display()
            ));
        }
    }
}

/// What became of a source of data.
pub fn source(progress: &Progress, source: &SourceReport) {
    let SourceReport { path, documents, tokens, text_bytes, .. } = source;
    progress.note(&format!(
        "{path}: {documents} documents, {} tokens, {}",
        short_number(*tokens as f64),
        decimal_size(*text_bytes)
    ));
    if source.truncated > 0 {
        console::warning(&format!(
            "{path}: {} conversations are longer than data.sequence_length and are cut off",
            source.truncated
        ));
    }
    if source.without_answer > 0 {
        console::warning(&format!(
            "{path}: {} conversations are left out, since no answer of the assistant fits",
            source.without_answer
        ));
    }
}

/// The run as people see it.
pub struct Screen<'a> {
    progress: &'a Progress,
    /// Without a screen, a line every so many steps.
    log_every: usize,
    /// Whether this process speaks for all.
    speaks: bool,
    seconds: VecDeque<f64>,
    last: Option<StepRecord>,
    /// The last measurement on validation text.
    validation: Option<(f64, f64)>,
}

impl<'a> Screen<'a> {
    pub fn new(progress: &'a Progress, log_every: usize, speaks: bool) -> Screen<'a> {
        let seconds = VecDeque::new();
        Screen { progress, log_every, speaks, seconds, last: None, validation: None }
    }

    pub fn last_record(&self) -> Option<&StepRecord> {
        self.last.as_ref()
    }

    /// How the run ended, in numbers.
    pub fn result(&self) -> Option<String> {
        let last = self.last.as_ref()?;
        let mut text = format!("loss {:.3} nats per token", last.loss);
        if let Some((loss, bits)) = self.validation {
            text += &format!("; on held-out text {loss:.3}, {bits:.3} bits per byte");
        }
        Some(text)
    }

    pub fn event(&mut self, event: &Event<'_>) {
        if let Event::Warning(text) = event {
            self.progress.clear();
            return console::warning(text);
        }
        if !self.speaks {
            return;
        }
        match *event {
            Event::Warning(_) | Event::Saved(_) => {}
            Event::Weights { done, total } => {
                self.progress.bytes("bringing weights to the devices", done, total);
                if done == total {
                    self.progress.clear();
                }
            }
            Event::Compiling { program } => {
                self.progress.spin(&format!("compiling {program} (once, then kept)"));
            }
            Event::Compiled { program, info } => {
                self.progress.clear();
                open::compiled(program, info);
                if let (Some(memory), "train_step") = (info.memory, program) {
                    self.progress.note(&format!(
                        "memory of a step: {} of weights, optimizer and data, {} of temporaries, per device",
                        gibibytes(memory.argument_bytes),
                        gibibytes(memory.temporary_bytes)
                    ));
                }
            }
            Event::Resumed { step, location } => {
                self.progress.note(&format!("going on after step {step} from {location}"));
            }
            Event::Step { record, steps } => self.step(record, steps),
            Event::Sample(sample) => {
                self.progress.clear();
                console::remark(format_args!(
                    "{} {}{}",
                    styled(DIM, &format!("step {}:", sample.step)),
                    styled(BOLD, &console::remarked_text(&sample.prompt)),
                    console::remarked_text(&sample.text)
                ));
            }
            Event::Saving { step, stall_seconds } => {
                if stall_seconds >= 1.0 {
                    let text =
                        format!("training stood still {stall_seconds:.1} s to save step {step}");
                    self.progress.note(&text);
                }
            }
        }
    }

    fn step(&mut self, record: &StepRecord, steps: usize) {
        self.seconds.push_back(record.seconds);
        if self.seconds.len() > RECENT {
            self.seconds.pop_front();
        }
        let line = self.line(record, steps);
        let measured = record.validation_loss.zip(record.bits_per_byte);
        if let Some((loss, bits)) = measured {
            self.validation = Some((loss, bits));
            self.progress.note(&format!(
                "step {}: loss {:.3}, on held-out text {loss:.3} ({bits:.3} bits per byte)",
                record.step, record.loss
            ));
        }
        if record.skipped {
            self.progress.clear();
            console::warning(&format!(
                "step {} was skipped: loss {}, gradient norm {}",
                record.step, record.loss, record.grad_norm
            ));
        }
        self.progress.steps(record.step as u64, steps as u64, &line);
        if !self.progress.is_visible() && measured.is_none() {
            let due = record.step.is_multiple_of(self.log_every) || record.step == steps;
            if due || record.step == 1 {
                console::remark(format_args!("step {}/{steps}  {line}", record.step));
            }
        }
        self.last = Some(record.clone());
    }

    fn line(&self, record: &StepRecord, steps: usize) -> String {
        let mut sorted: Vec<f64> = self.seconds.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        let median = sorted.get(sorted.len() / 2).copied().unwrap_or(0.0);
        let mut parts = vec![
            format!("loss {:.3}", record.loss),
            format!("{} tok/s", short_number(record.tokens_per_second)),
        ];
        if let Some(share) = record.mfu {
            parts.push(format!("{:.1} % of peak", share * 100.0));
        }
        let left = duration(median * steps.saturating_sub(record.step) as f64);
        parts.push(format!("{left} left"));
        parts.join("  ")
    }
}

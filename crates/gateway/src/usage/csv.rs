//! Records as CSV by RFC 4180: lines end in CRLF, and what holds a comma, a quote or a line's end
//! stands in quotes.

use std::io::{self, Write};

use crate::record::Record;

/// The names of the columns, in their order. Money is in billionths of a US dollar.
const COLUMNS: [&str; 22] = [
    "id",
    "time_milliseconds",
    "tenant",
    "key",
    "model",
    "path",
    "pool",
    "backend",
    "status",
    "outcome",
    "streamed",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "tokens_estimated",
    "duration_milliseconds",
    "first_byte_milliseconds",
    "attempts",
    "continuations",
    "cost_billionths_usd",
    "saved_billionths_usd",
    "energy_joules",
];

/// Writes records as lines, after a line with the columns' names if `with_names`.
///
/// # Errors
/// What writing says.
pub fn write_csv(output: &mut impl Write, records: &[Record], with_names: bool) -> io::Result<()> {
    if with_names {
        write!(output, "{}\r\n", COLUMNS.join(","))?;
    }
    for record in records {
        let number = |number: Option<String>| number.unwrap_or_default();
        let fields = [
            field(&record.id),
            record.time_milliseconds.to_string(),
            field(&record.tenant),
            field(&record.key),
            field(&record.model),
            field(&record.path),
            field(&record.pool),
            field(&record.backend),
            record.status.to_string(),
            record.outcome.name().to_string(),
            record.streamed.to_string(),
            record.prompt_tokens.to_string(),
            record.completion_tokens.to_string(),
            record.cached_tokens.to_string(),
            record.tokens_estimated.to_string(),
            record.duration_milliseconds.to_string(),
            number(record.first_byte_milliseconds.map(|time| time.to_string())),
            record.attempts.to_string(),
            record.continuations.to_string(),
            record.cost.0.to_string(),
            record.saved.0.to_string(),
            number(record.energy_joules.map(|energy| energy.to_string())),
        ];
        write!(output, "{}\r\n", fields.join(","))?;
    }
    Ok(())
}

/// A spreadsheet takes a text that begins like a formula for one, and a client chooses what it calls
/// a model: such texts get a `'` before them, as spreadsheets write them.
fn field(text: &str) -> String {
    let is_formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = if is_formula { format!("'{text}") } else { text.to_string() };
    match text.contains([',', '"', '\r', '\n']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text,
    }
}

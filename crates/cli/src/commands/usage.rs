//! `fungible usage`: what tenants asked for and what it cost, as a table, as JSON, or record by
//! record in a file.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use gateway::ledger::Ledger;
use gateway::record::Record;
use gateway::usage::{By, ParquetFile, RecordQuery, Span, UsageQuery, UsageRow, write_csv};
use serde_json::{Value, json};

use super::tenants::{Make, on};
use crate::arguments::usage::UsageArguments;
use crate::console;
use crate::failure::{Exit, Failure, Outcome};

/// Records that are in memory at once.
const RECORDS_READ: usize = 20_000;

pub fn run(arguments: &UsageArguments) -> Outcome {
    let span = Span {
        from: arguments.from.map(|day| day.start_milliseconds()),
        to: arguments.to.map(|day| day.start_milliseconds()),
        tenant: arguments.tenant.clone(),
    };
    on(&arguments.database, Make::No, async |ledger| {
        if arguments.csv.is_some() || arguments.parquet.is_some() {
            return export(ledger, &span, arguments).await;
        }
        let query = UsageQuery { by: arguments.by.clone(), span };
        let rows = ledger.usage(&query).await?;
        match arguments.json {
            true => console::line(
                json!({ "usage": rows.iter().map(|row| value(&query.by, row)).collect::<Vec<_>>() }),
            ),
            false => table(&query.by, &rows),
        }
        Ok(())
    })
}

async fn export(ledger: &Ledger, span: &Span, arguments: &UsageArguments) -> Outcome {
    let mut csv = arguments.csv.as_deref().map(create).transpose()?;
    let parquet = arguments.parquet.as_deref().map(create).transpose()?;
    let mut parquet = parquet.map(ParquetFile::begin).transpose()?;
    let mut query = RecordQuery { span: span.clone(), after: None };
    let mut count = 0;
    loop {
        let records: Vec<Record> = ledger.records(&query, RECORDS_READ).await?;
        if let Some(csv) = &mut csv {
            write_csv(csv, &records, count == 0)?;
        }
        let Some(last) = records.last() else { break };
        if let Some(parquet) = &mut parquet {
            parquet.write(&records)?;
        }
        count += records.len();
        query.after = Some((last.time_milliseconds, last.id.clone()));
    }
    if let Some(csv) = &mut csv {
        csv.flush()?;
    }
    if let Some(parquet) = parquet {
        parquet.end()?;
    }
    console::remark(format_args!("wrote {count} records"));
    Ok(())
}

fn create(path: &Path) -> Result<BufWriter<File>, Failure> {
    let file = File::create(path).map_err(|error| {
        Failure::new(Exit::Failure, format!("cannot write {}: {error}", path.display()))
    })?;
    Ok(BufWriter::new(file))
}

fn table(by: &[By], rows: &[UsageRow]) {
    if rows.is_empty() {
        console::line("Nothing was asked for.");
        return;
    }
    let heading = [
        "requests",
        "failed",
        "refused",
        "prompt",
        "of it cached",
        "completion",
        "cost",
        "saved",
        "energy",
        "mean",
    ];
    let heading = by.iter().map(|by| by.name()).chain(heading).map(str::to_string);
    let mut table = vec![heading.collect::<Vec<_>>()];
    for row in rows {
        let mut cells: Vec<String> = row.group.iter().map(|name| plain(name)).collect();
        cells.extend([
            row.requests.to_string(),
            row.failed.to_string(),
            row.refused.to_string(),
            row.prompt_tokens.to_string(),
            row.cached_tokens.to_string(),
            row.completion_tokens.to_string(),
            row.cost.to_string(),
            row.saved.to_string(),
            row.energy_joules.map_or_else(|| "-".to_string(), energy),
            row.mean_milliseconds.map_or_else(|| "-".to_string(), |mean| format!("{mean:.0} ms")),
        ]);
        table.push(cells);
    }
    console::table(&table);
}

fn value(by: &[By], row: &UsageRow) -> Value {
    let mut value = json!({
        "requests": row.requests,
        "failed": row.failed,
        "refused": row.refused,
        "prompt_tokens": row.prompt_tokens,
        "cached_tokens": row.cached_tokens,
        "completion_tokens": row.completion_tokens,
        "cost_usd": row.cost.dollars(),
        "saved_usd": row.saved.dollars(),
        "energy_joules": row.energy_joules,
        "mean_milliseconds": row.mean_milliseconds,
    });
    for (by, name) in by.iter().zip(&row.group) {
        value[by.name()] = json!(name);
    }
    value
}

/// A client chooses what it calls a model, and a terminal obeys control characters.
fn plain(name: &str) -> String {
    match name {
        "" => "-".to_string(),
        name if name.contains(char::is_control) => name.escape_debug().to_string(),
        name => name.to_string(),
    }
}

fn energy(joules: f64) -> String {
    match joules / 3600.0 {
        hours if hours >= 1000.0 => format!("{:.2} kWh", hours / 1000.0),
        hours => format!("{hours:.2} Wh"),
    }
}

//! `fungible train --keys` on a terminal: every key of a config as an aligned list. Elsewhere the same is
//! printed as Markdown, as it stands in the guide.

use std::io::{IsTerminal, stdout};

use train::config::{Config, Key, SectionKeys};

use crate::arguments::TrainArguments;
use crate::console::{self, BOLD, styled};
use crate::failure::Outcome;

/// Narrow enough for every terminal, and not harder to read on a wide one.
const COLUMNS: usize = 80;

/// Whether this is what was asked for.
pub fn are_wanted(arguments: &TrainArguments) -> bool {
    arguments.keys && stdout().is_terminal()
}

pub fn run() -> Outcome {
    for (number, section) in Config::sections().iter().enumerate() {
        if number > 0 {
            console::line("");
        }
        console::styled_line(styled(BOLD, &section.header));
        for line in lines(section) {
            console::line(line);
        }
    }
    Ok(())
}

/// What is said below a section's header.
fn lines(section: &SectionKeys) -> Vec<String> {
    let mut lines = wrapped(&section.meaning, COLUMNS);
    let names: Vec<&str> = section.keys.iter().map(name).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    for (key, name) in section.keys.iter().zip(names) {
        let mut values = key.type_name.clone();
        for more in [&key.range, &key.default.as_ref().map(|value| format!("default {value}"))] {
            values.extend(more.iter().flat_map(|text| [", ", text]));
        }
        let room = COLUMNS - (width + 4).min(COLUMNS / 2);
        let texts = wrapped(&values, room).into_iter().chain(wrapped(&key.meaning, room));
        for (number, text) in texts.enumerate() {
            let name = if number == 0 { name } else { "" };
            lines.push(format!("  {name:width$}  {text}"));
        }
    }
    lines
}

fn name(key: &Key) -> &str {
    key.path.rsplit('.').next().unwrap_or_default()
}

/// Lines of at most `columns` characters, unless a word is longer.
fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= columns => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_string()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_listed_in_lines_that_fit() {
        for section in Config::sections() {
            let lines = lines(&section);
            for key in &section.keys {
                let start = format!("  {} ", name(key));
                assert_eq!(lines.iter().filter(|line| line.starts_with(&start)).count(), 1);
            }
            let is_short = |line: &&String| line.chars().count() <= COLUMNS;
            assert_eq!(lines.iter().find(|line| !is_short(line)), None, "{}", section.header);
        }
    }
}

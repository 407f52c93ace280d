//! What people see: progress on standard error, colour only on a terminal, figures in human units.
//! The one place that writes to standard output and standard error.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal, Write, stderr, stdout};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anstyle::{AnsiColor, Style};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::failure::Exit;

// As a plan's page shows them too.
pub use plan::words::{duration, gibibytes, short_number};

pub const BOLD: Style = Style::new().bold();
pub const DIM: Style = Style::new().dimmed();
pub const GREEN: Style = AnsiColor::Green.on_default();
pub const YELLOW: Style = AnsiColor::Yellow.on_default();
pub const RED: Style = AnsiColor::Red.on_default().bold();

/// The text in a style; `anstream` removes it where it is no terminal.
pub fn styled(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// Prints a result as it is, at once.
pub fn print(text: impl Display) {
    let mut stdout = stdout().lock();
    end_unless_written(write!(stdout, "{text}").and_then(|()| stdout.flush()));
}

/// Prints text that a model wrote, or was given to go on from, at once.
pub fn print_text(text: &str) {
    print(visible(text, stdout().is_terminal()));
}

/// Text that a model wrote, for a line on standard error.
pub fn remarked_text(text: &str) -> Cow<'_, str> {
    visible(text, stderr().is_terminal())
}

/// A terminal obeys control characters, so in text that comes from anywhere they are spelled out
/// for it. Files and pipes get the text as it is.
fn visible(text: &str, on_terminal: bool) -> Cow<'_, str> {
    let obeyed = |character: char| character.is_control() && !matches!(character, '\n' | '\t');
    if !on_terminal || !text.contains(obeyed) {
        return Cow::Borrowed(text);
    }
    let mut spelled = String::with_capacity(text.len());
    for character in text.chars() {
        match obeyed(character) {
            true => spelled.extend(character.escape_default()),
            false => spelled.push(character),
        }
    }
    Cow::Owned(spelled)
}

/// A word of a command that a user may copy, as a shell takes it.
pub fn shell_word(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,@".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_string(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// Prints a line of results as it is.
pub fn line(text: impl Display) {
    print(format_args!("{text}\n"));
}

/// Prints a piece of a line of results that may hold styles.
pub fn styled_print(text: impl Display) {
    let mut stdout = anstream::stdout().lock();
    end_unless_written(write!(stdout, "{text}").and_then(|()| stdout.flush()));
}

/// Prints a line of results that may hold styles.
pub fn styled_line(text: impl Display) {
    end_unless_written(writeln!(anstream::stdout(), "{text}"));
}

/// A result that cannot be written ends the program: quietly where the reader has seen enough, such
/// as `head`, else as an error. `println!` would panic.
fn end_unless_written(written: io::Result<()>) {
    let Err(source) = written else { return };
    if source.kind() == ErrorKind::BrokenPipe {
        runtime::end_process(0);
    }
    let why = match source.kind() {
        ErrorKind::StorageFull => {
            "the disk is full; free some space or send it elsewhere".to_string()
        }
        _ => format!("{source}; send it elsewhere"),
    };
    error(&format!("cannot write the output: {why}"));
    runtime::end_process(Exit::Failure as i32);
}

/// A line beside the results, on standard error. Where nobody reads it, it is lost.
pub fn remark(text: impl Display) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

pub fn error(message: &str) {
    remark(format_args!("{} {message}", styled(RED, "error:")));
}

pub fn warning(message: &str) {
    remark(format_args!("{} {message}", styled(YELLOW, "warning:")));
}

/// Decimal units, as disks and packages are sold.
pub fn decimal_size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

/// One line of progress that comes and goes. Without a terminal, each task with a known length is
/// one line.
pub struct Progress {
    bar: Mutex<Option<(String, ProgressBar)>>,
    visible: bool,
    /// While text is written piece by piece, a bar would be drawn into its line.
    silent: AtomicBool,
}

impl Progress {
    pub fn new() -> Progress {
        let (bar, silent) = (Mutex::new(None), AtomicBool::new(false));
        Progress { bar, visible: stderr().is_terminal(), silent }
    }

    /// Shows bytes done of a task.
    pub fn bytes(&self, task: &str, done: u64, total: u64) {
        self.show(task, false, |bar| {
            if bar.length() != Some(total) {
                bar.set_length(total);
                bar.set_style(style(
                    "{msg:24} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
                ));
            }
            bar.set_position(done);
        });
    }

    /// Shows steps done of a run, and how it goes. Without a terminal nothing: lines are the caller's.
    pub fn steps(&self, done: u64, total: u64, message: &str) {
        self.show("training", true, |bar| {
            if bar.length() != Some(total) {
                bar.set_length(total);
                bar.set_style(style("{bar:24} {pos}/{len}  {msg}"));
            }
            bar.set_message(message.to_string());
            bar.set_position(done);
        });
    }

    pub fn is_visible(&self) -> bool {
        self.visible
    }

    /// Shows that something of unknown length is under way.
    pub fn spin(&self, task: &str) {
        self.show(task, true, |bar| {
            bar.set_style(style("{spinner} {msg} {elapsed}"));
            bar.enable_steady_tick(Duration::from_millis(120));
        });
    }

    /// Does what may take minutes: a spinner on a terminal; elsewhere a line when it begins and one
    /// when it is done.
    pub fn during<T, E>(&self, task: &str, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let started = Instant::now();
        match self.visible {
            true => self.spin(task),
            false => remark(format_args!("{task} ...")),
        }
        let result = work();
        self.clear();
        if !self.visible && result.is_ok() {
            let seconds = duration(started.elapsed().as_secs_f64());
            remark(format_args!("{task}: done after {seconds}"));
        }
        result
    }

    /// From here to [`Progress::text_ends`], standard output has the terminal to itself.
    pub fn text_begins(&self) {
        self.clear();
        self.silent.store(true, Ordering::Relaxed);
    }

    pub fn text_ends(&self) {
        self.silent.store(false, Ordering::Relaxed);
    }

    /// A line that stays.
    pub fn note(&self, text: &str) {
        self.clear();
        remark(styled(DIM, text));
    }

    pub fn clear(&self) {
        let mut bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, bar)) = bar.take() {
            bar.finish_and_clear();
        }
    }

    fn show(&self, task: &str, silent: bool, update: impl FnOnce(&ProgressBar)) {
        if self.silent.load(Ordering::Relaxed) {
            return;
        }
        let mut slot = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.as_ref().is_none_or(|(known, _)| known != task) {
            if let Some((_, bar)) = slot.take() {
                bar.finish_and_clear();
            }
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_message(task.to_string());
            if !self.visible && !silent {
                remark(format_args!("{task} ..."));
            }
            *slot = Some((task.to_string(), bar));
        }
        if let Some((_, bar)) = &*slot {
            update(bar);
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Columns of what is not a terminal, such as a file.
const COLUMNS_OF_A_FILE: usize = 100;

/// How many letters a line of standard output has room for.
pub fn columns() -> usize {
    let terminal = terminal_size::terminal_size_of(stdout());
    terminal.map_or(COLUMNS_OF_A_FILE, |(width, _)| usize::from(width.0))
}

/// Columns aligned by their widest cell; the first row is the heading.
pub fn table(rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    for (number, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.push_str(&" ".repeat(width - cell.chars().count() + 2));
        }
        let line = line.trim_end();
        match number {
            0 => styled_line(styled(BOLD, line)),
            _ => self::line(line),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_not_driven_by_what_a_model_writes() {
        let text = "a\u{1b}[2J\r\tb\n\u{9b}31m\u{7f}\u{e9}";
        assert_eq!(visible(text, true), "a\\u{1b}[2J\\r\tb\n\\u{9b}31m\\u{7f}\u{e9}");
        assert_eq!(visible(text, false), text);
    }

    #[test]
    fn a_shell_takes_a_word_as_it_was_meant() {
        assert_eq!(shell_word("runs/a-b_1.toml"), "runs/a-b_1.toml");
        assert_eq!(shell_word("it's a $run"), "'it'\\''s a $run'");
        assert_eq!(shell_word(""), "''");
    }
}

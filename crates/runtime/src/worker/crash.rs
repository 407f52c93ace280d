//! What a worker that crashed leaves behind: how it ended, the lines of its last words that say
//! something, and whether it would end so again. Knows no process.

use serde::{Deserialize, Serialize};

/// Lines of its last words that are kept, and characters of each: some compilers print a whole program
/// on one.
const LINES: usize = 6;
const LINE_CHARACTERS: usize = 400;

/// Written before anything has happened, or around addresses.
const SAYS_NOTHING: [&str; 4] = [
    "All log messages before absl::InitializeLog()",
    "cudart_stub.cc",
    "*** Begin stack trace ***",
    "*** End stack trace ***",
];

/// In the last words of a compiler that this machine had no room for.
const SHORT_OF: [&str; 6] = [
    "bad_alloc",
    "out of memory",
    "cannot allocate memory",
    "resource temporarily unavailable",
    "no space left on device",
    "too many open files",
];

/// The end of a worker that left no outcome.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Crash {
    /// Its signal or exit status, in words.
    pub how: String,
    /// The last lines that it wrote to standard error, of those that say something.
    pub last_words: String,
    /// Whether the compiler ended itself, with words that do not put it down to this machine: then it
    /// does so whenever it is given the same.
    pub recurs: bool,
    /// When it crashed, in seconds since 1970.
    pub unix_seconds: u64,
}

impl Crash {
    /// `from_outside`: whether something else ended it, such as a system that is out of memory.
    pub fn new(how: String, said: &str, from_outside: bool, unix_seconds: u64) -> Crash {
        let last_words = last_words(said);
        let lower = said.to_lowercase();
        let short = SHORT_OF.iter().any(|words| lower.contains(words));
        // Without a word, nobody knows whose fault it was.
        let recurs = !from_outside && !short && !last_words.is_empty();
        Crash { how, last_words, recurs, unix_seconds }
    }

    /// `; its last words:` and these, or nothing if there are none.
    pub fn words(&self) -> String {
        match self.last_words.as_str() {
            "" => String::new(),
            words => format!("; its last words:\n{words}"),
        }
    }
}

fn last_words(said: &str) -> String {
    let lines = said.lines().map(str::trim).filter(|line| says_something(line));
    let shortened = lines.map(|line| match line.char_indices().nth(LINE_CHARACTERS) {
        Some((end, _)) => format!("{} …", &line[..end]),
        None => line.to_string(),
    });
    let lines: Vec<String> = shortened.collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

/// Whether a line is more than white space, an address or a notice.
fn says_something(line: &str) -> bool {
    let frame = line.starts_with("0x")
        || (line.starts_with(['@', '#']) || line.starts_with("PC: @")) && line.contains("0x");
    !line.is_empty() && !frame && !SAYS_NOTHING.iter().any(|words| line.contains(words))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SAID: &str = "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n\
        I0000 00:00:1 10884 cudart_stub.cc:31] Could not find cuda drivers on your machine\n\
        loc(\"fused_all-reduce\"): error:  size mismatch\n\
        F1123 23:16:44 11288 error_handler.cc:44] *** Begin stack trace ***\n\t\n\t\n \n\
        \x20   @     0x7f3c6a7a8d1c  (unknown)\n\
        #1 0x000055d0 main\n\
        *** End stack trace ***\n\n";

    fn crash(said: &str, from_outside: bool) -> Crash {
        Crash::new("exit status: 1".to_string(), said, from_outside, 0)
    }

    #[test]
    fn only_lines_that_say_something_are_kept() {
        let crash = crash(SAID, false);
        assert_eq!(crash.last_words, "loc(\"fused_all-reduce\"): error:  size mismatch");
        assert_eq!(crash.words(), format!("; its last words:\n{}", crash.last_words));
        let many: Vec<String> = (0..20).map(|line| format!("line {line}")).collect();
        let kept = super::last_words(&many.join("\n"));
        assert_eq!(kept.lines().collect::<Vec<_>>(), many[14..]);
    }

    #[test]
    fn a_crash_recurs_unless_the_machine_may_be_why() {
        assert!(crash(SAID, false).recurs);
        assert!(!crash(SAID, true).recurs);
        assert!(!crash("", false).recurs);
        assert!(!crash("LLVM ERROR: out of memory", false).recurs);
        assert!(!crash("terminate called after throwing 'std::bad_alloc'", false).recurs);
    }

    proptest! {
        #[test]
        fn last_words_are_few(said in ".{0,900}\n.{0,50}") {
            let words = super::last_words(&said);
            prop_assert!(words.lines().count() <= LINES);
            prop_assert!(words.lines().all(|line| line.chars().count() <= LINE_CHARACTERS + 2));
        }
    }
}

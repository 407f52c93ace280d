//! A grammar under way: which tokens may come next.

use llguidance::{Matcher, TokenParser};

use crate::engine::Constraint;

/// One answer's place in its grammar.
pub(super) struct Matching {
    matcher: Matcher,
}

impl Matching {
    /// Begins at the grammar's start, and computes the first mask.
    ///
    /// # Errors
    /// Why nothing can come first.
    pub(super) fn begin(parser: TokenParser) -> Result<Matching, String> {
        let mut matching = Matching { matcher: Matcher::new(Ok(parser)) };
        // No token: this only looks whether there is anything to come.
        matching.matcher.consume_tokens(&[]).map_err(|error| sentence(&error.to_string()))?;
        if !matching.matcher.is_stopped() {
            matching.matcher.compute_mask().map_err(|error| sentence(&error.to_string()))?;
        }
        Ok(matching)
    }
}

impl Constraint for Matching {
    fn allow(&mut self, mask: &mut [u32]) -> Result<(), String> {
        let allowed =
            self.matcher.compute_mask_or_eos().map_err(|error| sentence(&error.to_string()))?;
        let allowed = allowed.as_slice();
        for (index, word) in mask.iter_mut().enumerate() {
            *word &= allowed.get(index).copied().unwrap_or(0);
        }
        Ok(())
    }

    fn advance(&mut self, token: u32) -> Result<(), String> {
        if self.matcher.is_stopped() && !self.matcher.is_error() {
            return Err(format!("token {token} came when the answer was complete"));
        }
        self.matcher.consume_token(token).map_err(|error| sentence(&error.to_string()))
    }

    fn is_complete(&self) -> bool {
        self.matcher.is_stopped() && !self.matcher.is_error()
    }
}

/// The longest reason that is passed on: errors quote what they are about.
const REASON_CHARS_MAX: usize = 300;

/// What a message of the library's means to a client: the first line, since the rest is the
/// library's own state.
pub(super) fn sentence(error: &str) -> String {
    let line = error.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let line = match line {
        "" | "NoExtensionBias" => "no token can continue the answer",
        // The compiler caught itself; what it says is for its authors.
        _ if line.starts_with("panic") => "the compiler has no way to express it",
        line => line,
    };
    let line = line
        .replace("Unimplemented keys:", "these keywords are not supported:")
        .replace(" without 'referencing' feature", "");
    line.chars().take(REASON_CHARS_MAX).collect()
}

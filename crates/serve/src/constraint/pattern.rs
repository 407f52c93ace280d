//! How large a regular expression is once its repetitions are written out.

use regex_syntax::hir::{Hir, HirKind};

/// Expressions of this size compile in a tenth of a second.
pub(super) const SIZE_MAX: u64 = 50_000;

/// Characters, classes and joints of `pattern`, with as many copies of what is repeated as must
/// come. What may come beyond that costs nothing until it does.
///
/// # Errors
/// Why it is none, as the end of a sentence.
pub(super) fn size(pattern: &str) -> Result<u64, String> {
    let parsed = regex_syntax::ParserBuilder::new().utf8(false).build().parse(pattern);
    parsed.map(|parsed| of(&parsed)).map_err(|error| {
        let reason = match &error {
            regex_syntax::Error::Parse(error) => error.kind().to_string(),
            regex_syntax::Error::Translate(error) => error.kind().to_string(),
            _ => "of its syntax".to_owned(),
        };
        let shown: String = pattern.chars().take(60).collect();
        format!("has the regular expression `{shown}`, which is invalid or unsupported: {reason}")
    })
}

fn of(part: &Hir) -> u64 {
    match part.kind() {
        HirKind::Empty | HirKind::Look(_) | HirKind::Class(_) => 1,
        HirKind::Literal(literal) => literal.0.len() as u64,
        HirKind::Repetition(repetition) => {
            u64::from(repetition.min.max(1)).saturating_mul(of(&repetition.sub))
        }
        HirKind::Capture(capture) => of(&capture.sub),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => {
            parts.iter().fold(0, |sum, part| of(part).saturating_add(sum))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_come_counts() {
        for (pattern, expected) in [
            ("", 1),
            ("abc", 3),
            ("[a-z]{3}", 3),
            ("a{0,1000}", 1),
            ("(ab|c){10,20}", 30),
            ("((a{1000}){1000}){1000}", 1_000_000_000),
        ] {
            assert_eq!(size(pattern), Ok(expected), "{pattern}");
        }
        assert_eq!(size("(((a{9999999}){9999999}){9999999}){9999999}"), Ok(u64::MAX));
        assert_eq!(
            size("a(").unwrap_err(),
            "has the regular expression `a(`, which is invalid or unsupported: unclosed group"
        );
        assert!(size("(?=a)b").unwrap_err().contains("look-around"));
    }
}

//! Reads, out of a compiler's own sentence, how much memory a program needs and how much there is.
//! Compilers give no other account of a program that does not fit.

const UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("K", 1 << 10),
    ("M", 1 << 20),
    ("G", 1 << 30),
    ("T", 1 << 40),
    ("B", 1),
];

/// Needed and available bytes. XLA's compilers write `Used 56.00G of 31.25G hbm`, `the total memory
/// required for HLO temporaries (298.12G) exceeds available HBM (15.75G)` and `The byte size of
/// input/output arguments (3221225472) exceeds the base limit (2147483648)`, each with powers of
/// 1024.
pub fn needed_and_available(message: &str) -> Option<(u64, u64)> {
    exceeds(message).or_else(|| used_of(message))
}

/// `(56.00G) exceeds available HBM (31.25G)`.
fn exceeds(message: &str) -> Option<(u64, u64)> {
    const WORD: &str = " exceeds ";
    message.match_indices(WORD).find_map(|(at, _)| {
        let needed = sizes(last_sentence(&message[..at])).pop()?;
        let available = *sizes(first_sentence(&message[at + WORD.len()..])).first()?;
        (needed > available).then_some((needed, available))
    })
}

/// `Used 56.00G of 31.25G`.
fn used_of(message: &str) -> Option<(u64, u64)> {
    let (_, rest) = message.split_once("Used ")?;
    let found = sizes(first_sentence(rest));
    match found[..] {
        [needed, available, ..] if needed > available => Some((needed, available)),
        _ => None,
    }
}

fn first_sentence(text: &str) -> &str {
    text.split(". ").next().unwrap_or(text)
}

fn last_sentence(text: &str) -> &str {
    text.rsplit(". ").next().unwrap_or(text)
}

/// Every size in the text, in bytes: a number with an optional unit, standing by itself.
fn sizes(text: &str) -> Vec<u64> {
    let words =
        text.split(|character: char| character.is_whitespace() || "(),;:".contains(character));
    words.filter_map(|word| size(word.trim_end_matches('.'))).collect()
}

fn size(word: &str) -> Option<u64> {
    let digits = word.find(|character: char| !character.is_ascii_digit() && character != '.');
    let (number, unit) = word.split_at(digits.unwrap_or(word.len()));
    let scale = match unit {
        "" => 1,
        unit => UNITS.iter().find(|(name, _)| *name == unit)?.1,
    };
    let number: f64 = number.parse().ok()?;
    Some((number * scale as f64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIBIBYTE: f64 = (1u64 << 30) as f64;

    fn gibibytes(message: &str) -> Option<(f64, f64)> {
        let (needed, available) = needed_and_available(message)?;
        let rounded = |bytes: u64| (bytes as f64 / GIBIBYTE * 100.0).round() / 100.0;
        Some((rounded(needed), rounded(available)))
    }

    #[test]
    fn what_libtpu_says() {
        let message = "E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required \
            for HLO temporaries (298.12G) exceeds available HBM (15.75G). HLO module: m.\nSee \
            https://openxla.org/xla/errors/error_1000 for more details.";
        assert_eq!(gibibytes(message), Some((298.12, 15.75)));
        let older = "Ran out of memory in memory space hbm. Used 56.00G of 31.25G hbm. Exceeded hbm \
            capacity by 24.75G.";
        assert_eq!(gibibytes(older), Some((56.0, 31.25)));
        assert_eq!(gibibytes("56.00G exceeds 31.25G"), Some((56.0, 31.25)));
    }

    #[test]
    fn what_the_gpu_compiler_says() {
        let message = "The byte size of input/output arguments (320000000000) exceeds the base limit \
            (84942979072). This indicates an error in the calculation!";
        assert_eq!(needed_and_available(message), Some((320_000_000_000, 84_942_979_072)));
    }

    #[test]
    fn other_messages_have_no_sizes() {
        assert_eq!(needed_and_available("out of memory"), None);
        assert_eq!(needed_and_available("the rank 3 exceeds the limit"), None);
        assert_eq!(needed_and_available(""), None);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_survived(message in "\\PC*( exceeds |Used )\\PC*") {
            let _ = needed_and_available(&message);
        }
    }
}

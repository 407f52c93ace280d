//! Guessing what comes next from what was there: the text behind the last place where the last tokens
//! stood before ("prompt lookup"). What is wrong costs a little, what is right is a token for free; the
//! answer is the same in either case, since every token is drawn as it would have been.

/// Tokens that must have stood there before, at most and at least.
const PATTERN_MAX: usize = 3;
const PATTERN_MIN: usize = 2;

/// Up to `count` tokens that may follow `tokens`.
pub fn guess(tokens: &[u32], count: usize) -> &[u32] {
    for length in (PATTERN_MIN..=PATTERN_MAX).rev() {
        let Some(start) = tokens.len().checked_sub(length).filter(|&start| start > 0) else {
            continue;
        };
        let pattern = &tokens[start..];
        let before = &tokens[..tokens.len() - 1];
        if let Some(place) = before.windows(length).rposition(|window| window == pattern) {
            let follows = &tokens[place + length..];
            return &follows[..count.min(follows.len())];
        }
    }
    &[]
}

#[cfg(test)]
mod tests {
    use super::guess;

    #[test]
    fn what_followed_before_follows_again() {
        assert_eq!(guess(&[1, 2, 3, 4, 5, 9, 1, 2, 3], 2), [4, 5]);
        // The last place counts, and the longer pattern.
        assert_eq!(guess(&[2, 3, 7, 1, 2, 3, 8, 2, 3], 1), [8]);
        assert_eq!(guess(&[1, 2, 3, 6, 5, 2, 3, 8, 1, 2, 3], 1), [6]);
        // A text that repeats itself.
        assert_eq!(guess(&[4, 5, 4, 5, 4, 5], 4), [4, 5]);
        assert_eq!(guess(&[1, 2, 3, 4], 3), [] as [u32; 0]);
        assert_eq!(guess(&[], 3), [] as [u32; 0]);
    }
}

//! Which known name is meant by one that is not known.

use std::cmp::Reverse;

/// The known name that is the fewest edits away, the longer common beginning deciding (`v6` is as
/// close to `v4` as to `v6e`).
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known.min_by_key(|known| {
        let common = name.chars().zip(known.chars()).take_while(|(a, b)| a == b).count();
        (edit_distance(name, known), Reverse(common))
    })
}

/// Levenshtein's distance in characters, ignoring case.
pub fn edit_distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, character) in left.to_lowercase().chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, other) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(character != *other);
            diagonal = row[column + 1];
            row[column + 1] = substituted.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("V5E", "v5e"), 0);
    }

    #[test]
    fn the_longer_common_beginning_decides() {
        assert_eq!(nearest("v6", ["v4", "v6e"].into_iter()), Some("v6e"));
        assert_eq!(nearest("v6", [].into_iter()), None);
    }
}

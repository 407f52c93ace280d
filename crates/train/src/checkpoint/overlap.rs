//! Which bytes of a stored piece belong where in a wanted one. Pure arithmetic on row-major ranges;
//! knows no file.

use std::ops::Range;

/// Bytes that lie together in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Where they start in the stored piece.
    pub from: usize,
    /// Where they start in the wanted piece.
    pub to: usize,
    pub length: usize,
}

/// Number of elements.
pub(super) fn elements(ranges: &[Range<usize>]) -> usize {
    ranges.iter().map(ExactSizeIterator::len).product()
}

/// What two pieces of one array have in common, if anything.
pub(super) fn intersection(
    left: &[Range<usize>],
    right: &[Range<usize>],
) -> Option<Vec<Range<usize>>> {
    let both = left.iter().zip(right);
    let ranges: Vec<Range<usize>> =
        both.map(|(left, right)| left.start.max(right.start)..left.end.min(right.end)).collect();
    ranges.iter().all(|range| range.start < range.end).then_some(ranges)
}

/// The runs of bytes that two pieces of one array share, in the order in which they are stored.
pub(super) fn runs(
    stored: &[Range<usize>],
    wanted: &[Range<usize>],
    element_bytes: usize,
) -> impl Iterator<Item = Run> + use<> {
    let shared = intersection(stored, wanted);
    let rank = stored.len();
    // Inner dimensions that both have in full lie together, with the one that is cut before them.
    let is_full = |dimension: &usize| stored[*dimension] == wanted[*dimension];
    let outer = (rank - (0..rank).rev().take_while(is_full).count()).saturating_sub(1);
    let strides = |ranges: &[Range<usize>]| {
        let mut strides = vec![element_bytes; rank];
        for dimension in (0..rank.saturating_sub(1)).rev() {
            strides[dimension] = strides[dimension + 1] * ranges[dimension + 1].len();
        }
        strides
    };
    let (from_strides, to_strides) = (strides(stored), strides(wanted));
    let (stored, wanted) = (stored.to_vec(), wanted.to_vec());
    let count = shared.as_ref().map_or(0, |shared| elements(&shared[..outer]));
    let shared = shared.unwrap_or_default();
    (0..count).map(move |number| {
        let length = elements(&shared[outer..]) * element_bytes;
        let mut run = Run { from: 0, to: 0, length };
        let mut add = |dimension: usize, index: usize| {
            run.from += (index - stored[dimension].start) * from_strides[dimension];
            run.to += (index - wanted[dimension].start) * to_strides[dimension];
        };
        if outer < rank {
            add(outer, shared[outer].start);
        }
        let mut rest = number;
        for dimension in (0..outer).rev() {
            let length = shared[dimension].len();
            add(dimension, shared[dimension].start + rest % length);
            rest /= length;
        }
        run
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn equal_pieces_are_one_run() {
        let piece = [4..8, 0..3, 2..7];
        let all: Vec<Run> = runs(&piece, &piece, 4).collect();
        assert_eq!(all, [Run { from: 0, to: 0, length: 4 * 3 * 5 * 4 }]);
        let scalar: Vec<Run> = runs(&[], &[], 2).collect();
        assert_eq!(scalar, [Run { from: 0, to: 0, length: 2 }]);
        assert_eq!(runs(&[0..0, 0..4], &[0..0, 0..4], 4).count(), 0);
    }

    #[test]
    fn rows_of_a_block_are_a_run_each() {
        let all: Vec<Run> = runs(&[0..4, 0..8], &[2..6, 6..10], 1).collect();
        let expected = [Run { from: 22, to: 0, length: 2 }, Run { from: 30, to: 4, length: 2 }];
        assert_eq!(all, expected);
    }

    fn range() -> impl Strategy<Value = Range<usize>> {
        (0usize..5, 0usize..5).prop_map(|(start, length)| start..start + length)
    }

    proptest! {
        /// Element by element: what both have is copied to its place, and nothing else is touched.
        #[test]
        fn runs_copy_what_both_have(
            pieces in proptest::collection::vec((range(), range()), 0..4),
            element_bytes in 1usize..3,
        ) {
            let (stored, wanted): (Vec<_>, Vec<_>) = pieces.into_iter().unzip();
            // Every element has a number of its own, from its coordinates.
            let number = |ranges: &[Range<usize>], mut place: usize| {
                let mut number = 1;
                let mut unit = 1;
                for range in ranges.iter().rev() {
                    number += (range.start + place % range.len()) * unit;
                    place /= range.len();
                    unit *= 10;
                }
                number
            };
            let shared = intersection(&stored, &wanted);
            let inside = |number: usize| {
                let Some(shared) = &shared else { return false };
                let mut rest = number - 1;
                shared.iter().rev().all(|range| {
                    let index = rest % 10;
                    rest /= 10;
                    range.contains(&index)
                })
            };
            let mut found = vec![0; elements(&wanted) * element_bytes];
            let mut last = 0;
            for run in runs(&stored, &wanted, element_bytes) {
                prop_assert!(run.from >= last);
                last = run.from + run.length;
                for byte in 0..run.length {
                    found[run.to + byte] = number(&stored, (run.from + byte) / element_bytes);
                }
            }
            for (place, found) in found.iter().enumerate() {
                let number = number(&wanted, place / element_bytes);
                prop_assert_eq!(*found, if inside(number) { number } else { 0 });
            }
        }
    }
}

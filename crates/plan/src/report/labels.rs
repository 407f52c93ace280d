//! Names beside points so that none covers another. Knows rectangles only.

use std::f64::consts::TAU;

/// Height of a line of text, and the mean width of its letters, rounded up.
pub(super) const HEIGHT: f64 = 16.0;
const LETTER: f64 = 8.4;

/// How far from its point a name may stand, the nearest first.
const DISTANCES: [f64; 9] = [9.0, 15.0, 24.0, 36.0, 50.0, 68.0, 90.0, 120.0, 160.0];
const DIRECTIONS: usize = 16;

/// In a picture's units; `y` grows downwards.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Area {
    pub left: f64,
    pub top: f64,
    pub right: f64,
    pub bottom: f64,
}

impl Area {
    pub(super) fn overlaps(&self, other: &Area) -> bool {
        self.left < other.right
            && other.left < self.right
            && self.top < other.bottom
            && other.top < self.bottom
    }

    fn holds(&self, other: &Area) -> bool {
        self.left <= other.left
            && other.right <= self.right
            && self.top <= other.top
            && other.bottom <= self.bottom
    }
}

/// A place for a name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Label {
    pub area: Area,
    /// So far from its point that a line should lead to it.
    pub is_far: bool,
}

/// A place for each name, those that come first the nearest; none where there is no room. Names keep off
/// each other and `taken`, and stay within `plane`.
pub(super) fn placed(
    names: &[(String, (f64, f64))],
    taken: &[Area],
    plane: &Area,
) -> Vec<Option<Label>> {
    let mut taken = taken.to_vec();
    names
        .iter()
        .map(|(name, point)| {
            let width = name.chars().count() as f64 * LETTER;
            let free = candidates(*point, width).find(|label| {
                plane.holds(&label.area) && !taken.iter().any(|area| area.overlaps(&label.area))
            })?;
            taken.push(free.area);
            Some(free)
        })
        .collect()
}

/// Right first, then left, above and below, then around in growing circles.
fn candidates((x, y): (f64, f64), width: f64) -> impl Iterator<Item = Label> {
    DISTANCES.into_iter().flat_map(move |distance| {
        // Halves first: right, left, above, below, and then what is between.
        let order = [0, 8, 4, 12, 2, 14, 6, 10, 1, 15, 3, 13, 5, 11, 7, 9];
        order.into_iter().map(move |direction: usize| {
            let angle = direction as f64 / DIRECTIONS as f64 * TAU;
            let (beside, above) = (angle.cos(), angle.sin());
            // The name's nearest edge is so far away, not its middle.
            let middle = x + beside * (distance + width / 2.0);
            let line = y - above * (distance + HEIGHT / 2.0);
            let area = Area {
                left: middle - width / 2.0,
                right: middle + width / 2.0,
                top: line - HEIGHT / 2.0,
                bottom: line + HEIGHT / 2.0,
            };
            Label { area, is_far: distance > DISTANCES[2] }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLANE: Area = Area { left: 0.0, top: 0.0, right: 400.0, bottom: 300.0 };

    #[test]
    fn names_keep_off_each_other() {
        // All in one place, and in the corner.
        for (x, y) in [(200.0, 150.0), (398.0, 2.0), (0.0, 300.0)] {
            let names: Vec<_> = (0..8).map(|n| (format!("target-{n}"), (x, y))).collect();
            let found: Vec<Label> = placed(&names, &[], &PLANE).into_iter().flatten().collect();
            assert_eq!(found.len(), 8, "{x} {y}");
            for (index, label) in found.iter().enumerate() {
                assert!(PLANE.holds(&label.area));
                let others = &found[index + 1..];
                assert!(!others.iter().any(|other| other.area.overlaps(&label.area)));
            }
        }
    }

    #[test]
    fn where_there_is_no_room_there_is_no_name() {
        let names = [("far too long a name".repeat(9), (10.0, 10.0))];
        assert!(placed(&names, &[], &PLANE)[0].is_none());
    }
}

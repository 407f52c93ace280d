//! What a plan is ranked by, and which rows no other beats in everything. Knows figures only.

use serde::Serialize;

/// What the user wants least of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Goal {
    /// Dollars per token.
    #[default]
    Cost,
    /// Seconds: per step and until the end of a run, or per token of an answer.
    Time,
    /// Kilowatt-hours per token.
    Energy,
}

impl Goal {
    pub fn name(self) -> &'static str {
        match self {
            Goal::Cost => "cost",
            Goal::Time => "time",
            Goal::Energy => "energy",
        }
    }
}

/// Places of the values from the lowest to the highest; what is not known comes last, in its old order.
pub fn ranked(values: &[Option<f64>]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    let value = |&index: &usize| values[index].unwrap_or(f64::INFINITY);
    order.sort_by(|left, right| value(left).total_cmp(&value(right)));
    order
}

/// For each point whether it is on the front: no other is as low in both and lower in one. Points with
/// an unknown are on no front.
pub fn pareto_front(points: &[(Option<f64>, Option<f64>)]) -> Vec<bool> {
    let known = |point: &(Option<f64>, Option<f64>)| point.0.zip(point.1);
    let beats = |a: (f64, f64), b: (f64, f64)| a.0 <= b.0 && a.1 <= b.1 && a != b;
    points
        .iter()
        .map(|point| {
            known(point)
                .is_some_and(|own| !points.iter().filter_map(known).any(|other| beats(other, own)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_comes_first_and_the_unknown_last() {
        assert_eq!(ranked(&[Some(2.0), None, Some(1.0), None]), [2, 0, 1, 3]);
    }

    #[test]
    fn the_front_is_what_nothing_beats() {
        let points = [
            (Some(1.0), Some(4.0)),
            (Some(2.0), Some(2.0)),
            (Some(2.0), Some(3.0)),
            (Some(4.0), Some(1.0)),
            (None, Some(0.0)),
        ];
        assert_eq!(pareto_front(&points), [true, true, false, true, false]);
        // Equals do not beat each other.
        let equals = [(Some(1.0), Some(1.0)), (Some(1.0), Some(1.0))];
        assert_eq!(pareto_front(&equals), [true, true]);
    }
}

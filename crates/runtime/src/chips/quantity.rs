//! Numbers with their units, such as `819 GB/s`. Every figure of a catalog carries its unit, so that
//! nobody has to guess whether a link is in bits or bytes. Knows no chip.

use super::error::Problem;
use super::names::nearest;

/// What a figure measures, with the units that it may be written in and each one's size in the unit
/// that the program counts in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Dimension {
    units: &'static [(&'static str, f64)],
    example: &'static str,
}

const KIBI: f64 = 1024.0;

/// In bytes.
pub(super) const BYTES: Dimension = Dimension {
    units: &[
        ("B", 1.0),
        ("MB", 1e6),
        ("GB", 1e9),
        ("TB", 1e12),
        ("MiB", KIBI * KIBI),
        ("GiB", KIBI * KIBI * KIBI),
        ("TiB", KIBI * KIBI * KIBI * KIBI),
    ],
    example: "32 GiB",
};

/// In bytes per second.
pub(super) const BYTES_PER_SECOND: Dimension = Dimension {
    units: &[
        ("B/s", 1.0),
        ("GB/s", 1e9),
        ("TB/s", 1e12),
        ("GiB/s", KIBI * KIBI * KIBI),
        ("Gbit/s", 1e9 / 8.0),
        ("Tbit/s", 1e12 / 8.0),
    ],
    example: "819 GB/s",
};

/// In operations per second; a multiply-add is two.
pub(super) const OPERATIONS_PER_SECOND: Dimension = Dimension {
    units: &[("TFLOP/s", 1e12), ("PFLOP/s", 1e15), ("TOP/s", 1e12), ("POP/s", 1e15)],
    example: "197 TFLOP/s",
};

/// In Hz.
pub(super) const HERTZ: Dimension =
    Dimension { units: &[("Hz", 1.0), ("MHz", 1e6), ("GHz", 1e9)], example: "1.5 GHz" };

/// In watts.
pub(super) const WATTS: Dimension =
    Dimension { units: &[("W", 1.0), ("kW", 1e3), ("MW", 1e6)], example: "700 W" };

/// In seconds.
pub(super) const SECONDS: Dimension =
    Dimension { units: &[("s", 1.0), ("min", 60.0), ("h", 3600.0)], example: "5 min" };

/// In dollars per hour of one chip.
pub(super) const DOLLARS_PER_CHIP_HOUR: Dimension =
    Dimension { units: &[("$/chip-hour", 1.0)], example: "2.70 $/chip-hour" };

/// In dollars per byte.
pub(super) const DOLLARS_PER_BYTE: Dimension = Dimension {
    units: &[("$/GB", 1e-9), ("$/GiB", 1.0 / (KIBI * KIBI * KIBI)), ("$/TB", 1e-12)],
    example: "0.09 $/GB",
};

/// In events per hour of one host.
pub(super) const PER_HOST_HOUR: Dimension = Dimension {
    units: &[("/host-hour", 1.0), ("/host-day", 1.0 / 24.0)],
    example: "0.05 /host-hour",
};

/// The number of a text such as `819 GB/s`, in the unit that the program counts in.
pub(super) fn parse(key: &str, text: &str, dimension: Dimension) -> Result<f64, Problem> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && !".+-_".contains(c)).unwrap_or(text.len());
    let (number, unit) = (text.get(..end).unwrap_or(""), text.get(end..).unwrap_or("").trim());
    let wrong = |found: String| Problem::WrongType {
        key: key.to_string(),
        found,
        expected: format!(
            "a number that is not negative with a unit, such as \"{}\"",
            dimension.example
        ),
    };
    let value: f64 = number.replace('_', "").parse().map_err(|_| wrong(format!("{text:?}")))?;
    if !value.is_finite() || value < 0.0 {
        return Err(wrong(format!("{text:?}")));
    }
    if unit.is_empty() {
        return Err(no_unit(key, text, dimension));
    }
    match dimension.units.iter().find(|(known, _)| *known == unit) {
        Some((_, size)) => Ok(value * size),
        None => Err(Problem::UnknownUnit {
            key: key.to_string(),
            unit: unit.to_string(),
            nearest: nearest(unit, dimension.units.iter().map(|(known, _)| *known)).unwrap_or(""),
            units: spell(dimension),
        }),
    }
}

pub(super) fn no_unit(key: &str, text: &str, dimension: Dimension) -> Problem {
    Problem::NoUnit {
        key: key.to_string(),
        text: text.to_string(),
        units: spell(dimension),
        example: dimension.example,
    }
}

fn spell(dimension: Dimension) -> String {
    let names: Vec<&str> = dimension.units.iter().map(|(name, _)| *name).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value(text: &str, dimension: Dimension) -> Result<f64, String> {
        parse("memory", text, dimension).map_err(|problem| problem.to_string())
    }

    #[test]
    fn units_are_what_they_say() {
        assert_eq!(value("32 GiB", BYTES), Ok(34_359_738_368.0));
        assert_eq!(value("85_100_068_864 B", BYTES), Ok(85_100_068_864.0));
        assert_eq!(value("819GB/s", BYTES_PER_SECOND), Ok(819e9));
        assert_eq!(value("50 Gbit/s", BYTES_PER_SECOND), Ok(6.25e9));
        assert_eq!(value("1836 TOP/s", OPERATIONS_PER_SECOND), Ok(1836e12));
        assert_eq!(value("5 min", SECONDS), Ok(300.0));
        assert_eq!(value("2.70 $/chip-hour", DOLLARS_PER_CHIP_HOUR), Ok(2.70));
        assert_eq!(value("12 /host-day", PER_HOST_HOUR), Ok(0.5));
    }

    #[test]
    fn a_number_without_a_unit_is_no_figure() {
        assert_eq!(
            value("32", BYTES).unwrap_err(),
            "`memory` is 32, which has no unit; write one of B, MB, GB, TB, MiB, GiB, TiB after it, such as \"32 GiB\""
        );
        assert_eq!(
            value("32 gib", BYTES).unwrap_err(),
            "`memory` has the unit `gib`; did you mean `GiB`? It is written in B, MB, GB, TB, MiB, GiB, TiB"
        );
        for text in ["", "GiB", "-1 GiB", "1.2.3 GiB", "nan GiB", "- GiB"] {
            assert!(value(text, BYTES).unwrap_err().contains("must be a number"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "(?s).{0,20}") {
            let _ = parse("memory", &text, BYTES);
        }

        #[test]
        fn a_number_is_read_as_it_was_written(number in 0.0..1e9f64) {
            prop_assert_eq!(value(&format!("{number} W"), WATTS), Ok(number));
        }
    }
}

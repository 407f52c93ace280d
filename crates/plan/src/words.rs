//! Figures and errors as people read them, on a terminal or a page.

/// `45.2 ms`, `512 ms`, `12.3 s`; `never` for what does not end.
pub fn milliseconds(seconds: f64) -> String {
    match seconds {
        seconds if !seconds.is_finite() => "never".to_string(),
        seconds if seconds < 0.1 => format!("{:.1} ms", seconds * 1e3),
        seconds if seconds < 10.0 => format!("{:.0} ms", seconds * 1e3),
        seconds => format!("{seconds:.1} s"),
    }
}

/// `18 d 4 h`, in the two largest units.
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() {
        return "never".to_string();
    }
    let whole = seconds.max(0.0).round() as u64;
    let (minutes, hours, days) = (whole / 60, whole / 3600, whole / 86_400);
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{minutes} min {} s", whole % 60),
        3600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// `2.05 M`: three digits that matter.
pub fn short_number(value: f64) -> String {
    let (scaled, unit) = match value {
        value if value >= 1e12 => (value / 1e12, " T"),
        value if value >= 1e9 => (value / 1e9, " G"),
        value if value >= 1e6 => (value / 1e6, " M"),
        value if value >= 1e4 => (value / 1e3, " k"),
        value => (value, ""),
    };
    match scaled {
        scaled if scaled >= 100.0 || unit.is_empty() => format!("{scaled:.0}{unit}"),
        scaled if scaled >= 10.0 => format!("{scaled:.1}{unit}"),
        scaled => format!("{scaled:.2}{unit}"),
    }
}

/// `3.25 GiB`: powers of 1024, as compilers and chips count memory.
pub fn gibibytes(bytes: u64) -> String {
    format!("{:.2} GiB", bytes as f64 / (1u64 << 30) as f64)
}

/// Without the sign: `0.123`, `12.30`, `12.3 k`; `-` if it is not known.
pub fn dollars(dollars: Option<f64>) -> String {
    match dollars {
        None => "-".to_string(),
        Some(small) if small < 1.0 => fraction(small),
        Some(some) if some < 1000.0 => format!("{some:.2}"),
        Some(many) => short_number(many),
    }
}

/// At least three digits after the point; `-` if it is not known.
pub fn figure(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_string(), fraction)
}

/// Three digits after the point, and more where fewer than two of them would matter.
fn fraction(value: f64) -> String {
    let decimals = match value {
        small if small > 0.0 && small < 0.01 => (1.0 - small.log10().floor()).clamp(3.0, 9.0),
        _ => 3.0,
    };
    format!("{value:.*}", decimals as usize)
}

/// `24 %`
pub fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// An error and its sources in one line; a source that its parent already quotes is left out.
pub fn with_sources(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
        source = cause.source();
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_as_people_read_them() {
        let times = [0.0452, 0.512, 12.34, f64::INFINITY].map(milliseconds);
        assert_eq!(times, ["45.2 ms", "512 ms", "12.3 s", "never"]);
        let times = [4.4, 252.0, 7380.0, 1_566_000.0, f64::INFINITY].map(duration);
        assert_eq!(times, ["4 s", "4 min 12 s", "2 h 3 min", "18 d 3 h", "never"]);
        assert_eq!([2_050_000.0, 12_300.0, 99.0].map(short_number), ["2.05 M", "12.3 k", "99"]);
        let money = [None, Some(0.1234), Some(12.3), Some(12_300.0)].map(dollars);
        assert_eq!(money, ["-", "0.123", "12.30", "12.3 k"]);
        let small = [0.0, 0.5, 0.017, 0.0061, 0.000_123, 1e-30].map(|value| figure(Some(value)));
        assert_eq!(small, ["0.000", "0.500", "0.017", "0.0061", "0.00012", "0.000000000"]);
        assert_eq!(gibibytes(3 << 29), "1.50 GiB");
    }
}

//! The loss curve as a picture of its own, for documents: SVG, in the reader's light or dark.

use std::fmt::Write;

use super::super::StepRecord;
use super::curve::{Points, smoothed, thinned, ticks};
use super::words::grouped;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 340.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 44.0;

const STYLE: &str = "text{font:13px system-ui,-apple-system,'Segoe UI',sans-serif;fill:#59606b}\
    .grid{stroke:#e4e7eb}.axis{stroke:#9aa1ab}.raw{stroke:#2a63b8;stroke-opacity:.28}\
    .line{stroke:#2a63b8;stroke-width:2}.points{fill:#c2500c}path{fill:none;stroke-linejoin:round}\
    @media(prefers-color-scheme:dark){text{fill:#a5acb6}.grid{stroke:#30353c}.axis{stroke:#6c737d}\
    .raw,.line{stroke:#78acf8}.points{fill:#f0a05e}}";

/// Training loss of each step, smoothed, and validation loss, over the steps. Linear axes, nats per
/// token.
pub fn loss_curve_svg(records: &[StepRecord]) -> String {
    let points: Points = records.iter().map(|record| (record.step, record.loss)).collect();
    let values: Vec<f64> = points.iter().map(|&(_, value)| value).collect();
    let smooth: Points = points.iter().map(|&(step, _)| step).zip(smoothed(&values)).collect();
    let validation: Points =
        records.iter().filter_map(|record| Some((record.step, record.validation_loss?))).collect();
    let plane = Plane::around(&points, &validation);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-label=\"Training and validation loss over the steps\">\n<style>{STYLE}</style>\n"
    );
    plane.axes(&mut svg);
    // Closer lines would run together.
    let columns = (WIDTH - LEFT - RIGHT) as usize / 2;
    for (class, points) in [("raw", &points), ("line", &smooth)] {
        let path = plane.path(&thinned(points, columns));
        let _ = writeln!(svg, "<path class=\"{class}\" d=\"{path}\"/>");
    }
    let radius = if validation.len() > 40 { 2.0 } else { 3.5 };
    for &(step, value) in validation.iter().filter(|(_, value)| value.is_finite()) {
        let (x, y) = plane.place(step as f64, value);
        let _ =
            writeln!(svg, "<circle class=\"points\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\"/>");
    }
    legend(&mut svg, !validation.is_empty());
    svg.push_str("</svg>\n");
    svg
}

fn legend(svg: &mut String, has_validation: bool) {
    let _ = writeln!(svg, "<text x=\"{LEFT}\" y=\"18\">Loss, nats per token</text>");
    let mut x = WIDTH - RIGHT - if has_validation { 300.0 } else { 195.0 };
    for (class, name, width) in [("raw", "each step", 100.0), ("line", "smoothed", 95.0)] {
        let _ = writeln!(svg, "<path class=\"{class}\" d=\"M{x} 14h16\"/>");
        let _ = writeln!(svg, "<text x=\"{}\" y=\"18\">{name}</text>", x + 22.0);
        x += width;
    }
    if has_validation {
        let _ = writeln!(svg, "<circle class=\"points\" cx=\"{}\" cy=\"14\" r=\"3.5\"/>", x + 10.0);
        let _ = writeln!(svg, "<text x=\"{}\" y=\"18\">validation</text>", x + 22.0);
    }
}

/// Which part of the plane of steps and losses is shown.
struct Plane {
    steps: (f64, f64),
    losses: (f64, f64),
}

impl Plane {
    fn around(points: &Points, validation: &Points) -> Plane {
        let values = || points.iter().chain(validation).map(|&(_, value)| value);
        let values = || values().filter(|value| value.is_finite());
        let (low, high) = (values().fold(f64::MAX, f64::min), values().fold(f64::MIN, f64::max));
        // Nothing finite, or all the same, is shown in the middle.
        let (low, high) = if low > high { (0.0, 1.0) } else { (low, high) };
        let margin = if high > low { (high - low) * 0.04 } else { high.abs().max(1.0) * 0.5 };
        let last = points.last().map_or(1, |&(step, _)| step) as f64;
        let first = points.first().map_or(0, |&(step, _)| step) as f64;
        // An axis that starts at 1 has odd ticks.
        let first = if first == 1.0 && last > 20.0 { 0.0 } else { first };
        let steps = if last > first { (first, last) } else { (first - 1.0, first + 1.0) };
        Plane { steps, losses: (low - margin, high + margin) }
    }

    fn place(&self, step: f64, loss: f64) -> (f64, f64) {
        let share = |value: f64, (low, high): (f64, f64)| (value - low) / (high - low);
        let x = LEFT + share(step, self.steps) * (WIDTH - LEFT - RIGHT);
        let y = HEIGHT - BOTTOM - share(loss, self.losses) * (HEIGHT - TOP - BOTTOM);
        (x, y)
    }

    fn path(&self, points: &Points) -> String {
        let mut path = String::new();
        let mut down = false;
        for &(step, value) in points {
            if value.is_finite() {
                let (x, y) = self.place(step as f64, value);
                let _ = write!(path, "{}{x:.1} {y:.1}", if down { 'L' } else { 'M' });
            }
            down = value.is_finite();
        }
        path
    }

    fn axes(&self, svg: &mut String) {
        let (low, high) = self.losses;
        let levels = ticks(low, high, 7);
        let apart = levels.get(1).map_or(1.0, |second| second - levels[0]);
        let digits = (-apart.log10()).ceil().clamp(0.0, 9.0) as usize;
        for level in levels {
            let (_, y) = self.place(self.steps.0, level);
            let end = WIDTH - RIGHT;
            let _ = writeln!(svg, "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{end}\"/>");
            let (x, y) = (LEFT - 8.0, y + 4.5);
            let _ = writeln!(
                svg,
                "<text x=\"{x}\" y=\"{y:.1}\" text-anchor=\"end\">{level:.digits$}</text>"
            );
        }
        let bottom = HEIGHT - BOTTOM;
        let _ = writeln!(svg, "<path class=\"axis\" d=\"M{LEFT} {bottom}H{}\"/>", WIDTH - RIGHT);
        let whole = ticks(self.steps.0, self.steps.1, 6);
        for step in whole.into_iter().filter(|step| step.fract() == 0.0 && *step >= 0.0) {
            let (x, _) = self.place(step, low);
            let label = grouped(step as usize);
            // The last one would hang over the edge.
            let anchor = if x > WIDTH - RIGHT - 10.0 { "end" } else { "middle" };
            let _ = writeln!(svg, "<path class=\"axis\" d=\"M{x:.1} {bottom}v5\"/>");
            let _ = writeln!(
                svg,
                "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"{anchor}\">{label}</text>",
                bottom + 20.0
            );
        }
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">step</text>",
            WIDTH - RIGHT,
            HEIGHT - 6.0
        );
    }
}

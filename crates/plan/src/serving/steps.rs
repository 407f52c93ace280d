//! Seconds of a server's steps: from compiled programs, and by formula to choose what is worth compiling.
//! Knows one instance of a server on one target.

use llm::ModelConfig;
use runtime::Target;
use serde::Serialize;

use super::load::Steps;
use crate::row::Time;

/// Of peak rates, what the formula takes for reached: all candidates alike.
const MATRIX_SHARE: f64 = 0.5;
const MEMORY_SHARE: f64 = 0.8;

/// A sum over several devices at its quickest, for the formula.
const SUM_SECONDS: f64 = 8e-6;

/// Steps of compiled programs.
#[derive(Clone, Debug, Serialize)]
pub struct CompiledSteps {
    /// Rows and the time of one decode step, ascending.
    pub decode: Vec<(usize, Time)>,
    /// The chunks of one prompt in order, each with its tokens.
    pub prompt: Vec<(usize, Time)>,
    /// A step takes no less, since the host must prepare the next.
    pub host_seconds: f64,
    /// What times are multiplied with: 1, or to look at the ends of their ranges.
    #[serde(skip)]
    pub end: End,
}

/// Which end of a time's range is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum End {
    Low,
    #[default]
    Likely,
    High,
}

impl CompiledSteps {
    pub fn at(&self, end: End) -> CompiledSteps {
        CompiledSteps { end, ..self.clone() }
    }

    fn seconds(&self, time: &Time) -> f64 {
        let seconds = match self.end {
            End::Low => time.low_seconds,
            End::Likely => time.seconds,
            End::High => time.high_seconds,
        };
        seconds.max(self.host_seconds)
    }
}

impl Steps for CompiledSteps {
    /// On straight lines between what was compiled; below the fewest rows as long as those take, beyond
    /// the most as the last line goes on.
    fn decode_seconds(&self, rows: f64) -> f64 {
        let points: Vec<(f64, f64)> =
            self.decode.iter().map(|(rows, time)| (*rows as f64, self.seconds(time))).collect();
        interpolated(&points, rows)
    }

    fn prompt_seconds(&self) -> f64 {
        self.prompt.iter().map(|(_, time)| self.seconds(time)).sum()
    }

    fn chunks(&self) -> f64 {
        self.prompt.len() as f64
    }
}

fn interpolated(points: &[(f64, f64)], at: f64) -> f64 {
    let (Some(&first), Some(&last)) = (points.first(), points.last()) else { return 0.0 };
    if at <= first.0 || points.len() == 1 {
        return first.1;
    }
    let after = points.iter().position(|point| point.0 >= at).unwrap_or(points.len() - 1);
    let ((x0, y0), (x1, y1)) = (points[after - 1], points[after]);
    let slope = (y1 - y0) / (x1 - x0).max(f64::MIN_POSITIVE);
    if at > last.0 { last.1 + slope.max(0.0) * (at - last.0) } else { y0 + slope * (at - x0) }
}

/// Steps by formula: weights and cache through memory, products at their rate, two sums a layer.
pub struct FormulaSteps {
    weight_bytes: f64,
    parameters: f64,
    sequence_bytes: f64,
    devices: f64,
    memory: f64,
    products: f64,
    sums: f64,
    sum_bytes_per_token: f64,
    links: f64,
    input: f64,
    chunk: f64,
}

impl FormulaSteps {
    /// `weight_bytes` and `token_bytes` (of the cache) over all devices.
    pub fn new(
        model: &ModelConfig,
        target: &Target,
        (weight_bytes, token_bytes): (f64, f64),
        (input, output): (f64, f64),
        chunk: f64,
    ) -> FormulaSteps {
        let per_chip = target.chip.devices_per_chip as f64;
        let devices = target.devices() as f64;
        FormulaSteps {
            weight_bytes,
            parameters: train::metrics::matmul_parameters(model) as f64,
            sequence_bytes: token_bytes * (input + output / 2.0),
            devices,
            memory: target.chip.memory_bandwidth_bytes_per_second / per_chip * MEMORY_SHARE,
            products: target.chip.bf16_flops_per_second / per_chip * MATRIX_SHARE,
            sums: if devices > 1.0 { 2.0 * model.num_hidden_layers as f64 } else { 0.0 },
            sum_bytes_per_token: 2.0 * model.hidden_size as f64,
            links: (target.chip.link_bytes_per_second / per_chip).max(1.0),
            input,
            chunk,
        }
    }

    fn sums_seconds(&self, tokens: f64) -> f64 {
        self.sums * (SUM_SECONDS + 2.0 * tokens * self.sum_bytes_per_token / self.links)
    }
}

impl Steps for FormulaSteps {
    fn decode_seconds(&self, rows: f64) -> f64 {
        let bytes = self.weight_bytes + rows * self.sequence_bytes;
        let moving = bytes / self.devices / self.memory;
        let computing = 2.0 * self.parameters * rows / self.devices / self.products;
        moving.max(computing) + self.sums_seconds(rows)
    }

    fn prompt_seconds(&self) -> f64 {
        let computing = 2.0 * self.parameters * self.input / self.devices / self.products;
        let moving = self.chunks() * self.weight_bytes / self.devices / self.memory;
        computing.max(moving) + self.chunks() * self.sums_seconds(self.chunk)
    }

    fn chunks(&self) -> f64 {
        (self.input / self.chunk).ceil().max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_between_compiled_ones_lie_on_a_line() {
        let points = [(8.0, 10.0), (64.0, 17.0)];
        assert_eq!(interpolated(&points, 1.0), 10.0);
        assert_eq!(interpolated(&points, 36.0), 13.5);
        assert_eq!(interpolated(&points, 64.0), 17.0);
        assert_eq!(interpolated(&points, 72.0), 18.0);
    }
}

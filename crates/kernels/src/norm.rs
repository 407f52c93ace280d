//! Root mean square normalization of rows.

use crate::simd::LANES;

/// `out = x / sqrt(mean(x²) + epsilon) · weight` for each row of `weight.len()` numbers (Zhang and Sennrich,
/// "Root mean square layer normalization", 2019). A row's sum is always added up in the same order.
///
/// # Errors
/// Sizes that do not fit together.
pub fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) -> Result<(), String> {
    let size = weight.len();
    if x.len() != out.len() || size == 0 || !x.len().is_multiple_of(size) {
        return Err(format!(
            "rms_norm has {} numbers, {} results and {size} weights",
            x.len(),
            out.len()
        ));
    }
    for (row, out) in x.chunks_exact(size).zip(out.chunks_exact_mut(size)) {
        let scale = 1.0 / (squares(row) / size as f32 + epsilon).sqrt();
        for ((out, value), weight) in out.iter_mut().zip(row).zip(weight) {
            *out = value * scale * weight;
        }
    }
    Ok(())
}

/// The sum of squares, lane by lane and then pair by pair.
fn squares(row: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (whole, rest) = row.as_chunks::<LANES>();
    for part in whole {
        for (lane, value) in lanes.iter_mut().zip(part) {
            *lane += value * value;
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane += value * value;
    }
    let mut count = LANES;
    while count > 1 {
        count /= 2;
        let (low, high) = lanes.split_at_mut(count);
        for (low, high) in low.iter_mut().zip(high) {
            *low += *high;
        }
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::rms_norm;

    #[test]
    fn rows_are_scaled_to_their_size() {
        for size in [1, 5, 16, 33, 576] {
            let x: Vec<f32> =
                (0..3 * size).map(|i| ((i * 37 % 101) as f32 - 50.0) / 20.0).collect();
            let weight: Vec<f32> = (0..size).map(|i| 0.5 + (i % 7) as f32 / 8.0).collect();
            let mut out = vec![0.0; x.len()];
            rms_norm(&x, &weight, 1e-5, &mut out).unwrap();
            for (row, out) in x.chunks(size).zip(out.chunks(size)) {
                let mean = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / size as f64;
                for ((value, weight), out) in row.iter().zip(&weight).zip(out) {
                    let wanted = f64::from(*value) / (mean + 1e-5).sqrt() * f64::from(*weight);
                    assert!((f64::from(*out) - wanted).abs() < 1e-6 * wanted.abs().max(1.0));
                }
            }
        }
        assert!(rms_norm(&[1.0; 3], &[1.0; 2], 0.0, &mut [0.0; 3]).is_err());
    }
}

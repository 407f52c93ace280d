//! Every level against plain Rust, lane by lane.

use super::*;

/// What each operation gives for fixed inputs, as bits.
struct Everything<'a>(&'a mut Vec<Vec<f32>>);

fn values(seed: u32) -> [f32; LANES] {
    let mut state = seed;
    std::array::from_fn(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 1_000_000.0 - 8.0
    })
}

impl Kernel for Everything<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (a, b) = (s.load(&values(1)), s.load(&values(2)));
        let halves: [u16; 2 * LANES] = std::array::from_fn(|place| 0x3c00 + 77 * place as u16);
        let (first, _) = halves.split_at(LANES);
        let bytes: [u8; 4 * LANES] = std::array::from_fn(|place| (place * 37 + 190) as u8);
        let whole = s.load(&std::array::from_fn(|lane| (lane * 16) as f32 - 125.0));
        let (zipped, zipped_behind) = s.zip(a, b);
        let (pair_first, pair_second) = s.load_bf16_pairs(&halves);
        let word = i32::from_le_bytes([127, 129, 255, 100]);
        let bytes = s.load_bytes(&bytes);
        let start = s.dot(s.zero_ints(), bytes, word);
        let mut row = [0.0; LANES];
        row.copy_from_slice(&values(3));
        let mut first_half = [0; LANES];
        first_half.copy_from_slice(first);
        let mut results = vec![
            s.splat(3.5),
            s.add(a, b),
            s.sub(a, b),
            s.mul(a, b),
            s.div(a, b),
            s.max(a, b),
            s.min(a, b),
            s.round(a),
            s.power_of_two(whole),
            s.where_greater(a, 0.5, b),
            zipped,
            zipped_behind,
            s.load_f16(&first_half),
            s.load_bf16(&first_half),
            pair_first,
            pair_second,
            s.to_floats(s.dot(start, bytes, i32::from_le_bytes([127; 4]))),
            s.to_floats(s.dot_small(start, s.low_halves(bytes), word)),
            s.to_floats(s.dot_small(start, s.high_halves(bytes), word)),
            s.splat(s.sum(a)),
            s.splat(s.greatest(a)),
        ];
        let mut rows = [a; LANES];
        for (place, row) in rows.iter_mut().enumerate() {
            *row = s.load(&values(place as u32));
        }
        results.extend(s.transpose(rows));
        for result in results {
            self.0.push(s.lanes(result).to_vec());
        }
        // Rounded once or twice.
        for (fused, (a, b)) in
            s.lanes(s.mul_add(a, b, a)).iter().zip(s.lanes(a).iter().zip(s.lanes(b)))
        {
            assert!((fused - (a * b + a)).abs() <= 1e-5, "{fused}");
        }
    }
}

#[test]
fn every_level_does_the_same() {
    let levels = Level::available();
    let results: Vec<Vec<Vec<f32>>> = levels
        .iter()
        .map(|level| {
            let mut results = Vec::new();
            level.run(Everything(&mut results));
            results
        })
        .collect();
    for (level, result) in levels.iter().zip(&results) {
        assert_eq!(&results[0], result, "{level:?}");
    }
}

#[test]
fn the_plain_level_does_what_its_names_say() {
    let s = Portable;
    let rows: [[f32; LANES]; LANES] =
        std::array::from_fn(|row| std::array::from_fn(|column| (100 * row + column) as f32));
    let columns = s.transpose(rows);
    for row in 0..LANES {
        for column in 0..LANES {
            assert_eq!(columns[column][row], rows[row][column]);
        }
    }
    assert_eq!(s.power_of_two([-126.0; LANES])[0], f32::MIN_POSITIVE);
    let sum = s.dot([5; LANES], [200; 4 * LANES], i32::from_le_bytes([255, 127, 2, 0]));
    assert_eq!(sum, [5 + 200 * 128; LANES]);
    assert_eq!(s.high_halves([0x5a; 4 * LANES])[0], 5);
    assert_eq!(s.low_halves([0x5a; 4 * LANES])[0], 10);
    assert_eq!(s.where_greater([f32::NEG_INFINITY; LANES], -5.0, [1.0; LANES]), [0.0; LANES]);
}

//! Attention over pages against its definition in double precision, on every level of instructions.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod random;

use half::{bf16, f16};
use kernels::Level;
use kernels::attention::{Pages, Queries, Scores, attention};
use kernels::pages::{Numbers, NumbersMut, PageSizes, write_pages};
use random::Random;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    F32,
    Bf16,
    F16,
}

#[derive(Clone)]
enum Kept {
    F32(Vec<f32>),
    Bits(Kind, Vec<u16>),
}

impl Kept {
    fn new(kind: Kind, count: usize) -> Kept {
        match kind {
            // What nobody wrote must not matter.
            Kind::F32 => Kept::F32(vec![f32::NAN; count]),
            _ => Kept::Bits(kind, vec![0x7fff; count]),
        }
    }

    fn view(&self) -> Numbers<'_> {
        match self {
            Kept::F32(numbers) => Numbers::F32(numbers),
            Kept::Bits(Kind::F16, bits) => Numbers::F16(bits),
            Kept::Bits(_, bits) => Numbers::Bf16(bits),
        }
    }

    fn view_mut(&mut self) -> NumbersMut<'_> {
        match self {
            Kept::F32(numbers) => NumbersMut::F32(numbers),
            Kept::Bits(Kind::F16, bits) => NumbersMut::F16(bits),
            Kept::Bits(_, bits) => NumbersMut::Bf16(bits),
        }
    }
}

fn rounded(kind: Kind, x: f32) -> f32 {
    match kind {
        Kind::F32 => x,
        Kind::Bf16 => bf16::from_f32(x).to_f32(),
        Kind::F16 => f16::from_f32(x).to_f32(),
    }
}

/// Sequences whose keys and values lie in pages in no order.
struct World {
    sizes: PageSizes,
    group: usize,
    kind: Kind,
    /// Per sequence `[tokens, kv_heads, head_dim]`.
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
    queries: Vec<Vec<f32>>,
    key_pages: Kept,
    value_pages: Kept,
    table: Vec<i32>,
    blocks: usize,
}

impl World {
    fn new(lengths: &[usize], page: usize, head_dim: usize, kind: Kind, seed: u64) -> World {
        let (kv_heads, group) = (2, 3);
        let mut random = Random::new(seed);
        let blocks = lengths.iter().max().unwrap().div_ceil(page) + 1;
        let sizes = PageSizes { pages: lengths.len() * blocks + 1, page, kv_heads, head_dim };
        let mut free: Vec<i32> = (0..sizes.pages as i32).collect();
        let mut world = World {
            sizes,
            group,
            kind,
            keys: Vec::new(),
            values: Vec::new(),
            queries: Vec::new(),
            key_pages: Kept::new(kind, sizes.pages * page * kv_heads * head_dim),
            value_pages: Kept::new(kind, sizes.pages * page * kv_heads * head_dim),
            table: Vec::new(),
            blocks,
        };
        for &length in lengths {
            let mut table = vec![-1; blocks];
            for at in table.iter_mut().take(length.div_ceil(page)) {
                *at = free.swap_remove(random.below(free.len()));
            }
            let slots: Vec<i32> =
                (0..length).map(|at| table[at / page] * page as i32 + (at % page) as i32).collect();
            let keys = random.numbers(length * kv_heads * head_dim);
            let values = random.numbers(length * kv_heads * head_dim);
            write_pages(&keys, &slots, sizes, &mut world.key_pages.view_mut()).unwrap();
            write_pages(&values, &slots, sizes, &mut world.value_pages.view_mut()).unwrap();
            world.queries.push(random.numbers(length * kv_heads * group * head_dim));
            world.keys.push(keys);
            world.values.push(values);
            world.table.extend(table);
        }
        world
    }

    fn query_size(&self) -> usize {
        self.sizes.kv_heads * self.group * self.sizes.head_dim
    }

    /// The results of `[(sequence, position)]` in rows of `seq`, `[rows, seq, kv_heads, group, head_dim]`.
    fn run(&self, level: Level, asked: &[(usize, i32)], seq: usize, scores: &Scores) -> Vec<f32> {
        let size = self.query_size();
        let (mut numbers, mut positions, mut table) = (Vec::new(), Vec::new(), Vec::new());
        for row in asked.chunks(seq) {
            let sequence = row[0].0;
            table.extend_from_slice(&self.table[sequence * self.blocks..][..self.blocks]);
            for &(also, position) in row {
                assert_eq!(also, sequence);
                positions.push(position);
                let at = usize::try_from(position).unwrap_or(0);
                numbers.extend_from_slice(&self.queries[sequence][at * size..][..size]);
            }
        }
        let queries = Queries {
            numbers: &numbers,
            batch: asked.len() / seq,
            seq,
            group: self.group,
            positions: &positions,
        };
        let pages = Pages {
            sizes: self.sizes,
            keys: self.key_pages.view(),
            values: self.value_pages.view(),
            table: &table,
        };
        let mut out = vec![f32::NAN; numbers.len()];
        attention(level, &queries, &pages, scores, &mut out).unwrap();
        out
    }

    /// By the definition.
    fn expected(&self, sequence: usize, position: usize, scores: &Scores) -> Vec<f64> {
        let PageSizes { kv_heads, head_dim, .. } = self.sizes;
        let first =
            if scores.window == 0 { 0 } else { (position + 1).saturating_sub(scores.window) };
        let mut out = Vec::new();
        for head in 0..kv_heads * self.group {
            let query = &self.queries[sequence][position * self.query_size() + head * head_dim..];
            let of = |from: &[f32], key: usize, d: usize| {
                let at = (key * kv_heads + head / self.group) * head_dim + d;
                f64::from(rounded(self.kind, from[at]))
            };
            let weights: Vec<f64> = (first..=position)
                .map(|key| {
                    let product: f64 = (0..head_dim)
                        .map(|d| f64::from(query[d]) * of(&self.keys[sequence], key, d))
                        .sum();
                    let score = product * f64::from(scores.scale);
                    let cap = f64::from(scores.soft_cap);
                    if cap == 0.0 { score.exp() } else { (cap * (score / cap).tanh()).exp() }
                })
                .collect();
            let sum: f64 = weights.iter().sum();
            out.extend((0..head_dim).map(|d| {
                let weighted = (first..=position).zip(&weights);
                weighted.map(|(key, w)| w * of(&self.values[sequence], key, d)).sum::<f64>() / sum
            }));
        }
        out
    }
}

const PLAIN: Scores = Scores { scale: 0.125, window: 0, soft_cap: 0.0 };

fn assert_near(got: &[f32], expected: &[f64], what: &str) {
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(expected) {
        assert!((f64::from(*got) - expected).abs() < 3e-6, "{what}: {got} for {expected}");
    }
}

#[test]
fn results_are_those_of_the_definition() {
    let variants = [
        (PLAIN, Kind::F32, 16, 64),
        (PLAIN, Kind::Bf16, 32, 128),
        (PLAIN, Kind::F16, 16, 80),
        (Scores { scale: 3.0, ..PLAIN }, Kind::F32, 24, 8),
        (Scores { window: 20, ..PLAIN }, Kind::F32, 16, 64),
        (Scores { window: 1, ..PLAIN }, Kind::F16, 16, 36),
        (Scores { soft_cap: 0.7, ..PLAIN }, Kind::F32, 16, 64),
        (Scores { soft_cap: 5.0, window: 70, scale: 2.0 }, Kind::Bf16, 32, 16),
    ];
    for (scores, kind, page, head_dim) in variants {
        let lengths = [1, 63, 64, 65, 140, 600];
        let world = World::new(&lengths, page, head_dim, kind, 1);
        for level in Level::available() {
            let what = format!("{scores:?} {kind:?} {page} {head_dim} {level:?}");
            for (sequence, &length) in lengths.iter().enumerate() {
                let all: Vec<_> = (0..length).map(|at| (sequence, at as i32)).collect();
                let out = world.run(level, &all, length, &scores);
                for position in (0..length).filter(|at| at % 37 == 0 || at + 1 == length) {
                    let expected = world.expected(sequence, position, &scores);
                    let got = &out[position * world.query_size()..][..world.query_size()];
                    assert_near(got, &expected, &format!("{what} {sequence} {position}"));
                }
            }
        }
    }
}

/// Alone, in a batch, in chunks, as a whole, with padding between: always the same bits.
#[test]
fn a_query_gets_the_same_in_any_company() {
    let lengths = [3, 64, 200, 513, 1200];
    for (scores, kind) in [
        (PLAIN, Kind::F32),
        (Scores { window: 100, ..PLAIN }, Kind::Bf16),
        (Scores { soft_cap: 3.0, ..PLAIN }, Kind::F16),
    ] {
        let world = World::new(&lengths, 16, 64, kind, 2);
        let size = world.query_size();
        for level in Level::available() {
            for (sequence, &length) in lengths.iter().enumerate() {
                let all: Vec<_> = (0..length).map(|at| (sequence, at as i32)).collect();
                let whole = world.run(level, &all, length, &scores);
                for position in (0..length).filter(|at| at % 23 == 0 || at + 1 == length) {
                    let alone = world.run(level, &all[position..=position], 1, &scores);
                    let expected = &whole[position * size..][..size];
                    assert!(same(&alone, expected), "{scores:?} {level:?} {sequence} {position}");
                }
                for chunk in [7, 32, 128] {
                    let mut start = 0;
                    while start < length {
                        let end = (start + chunk).min(length);
                        let mut asked = all[start..end].to_vec();
                        asked.resize(chunk, (sequence, -1));
                        let out = world.run(level, &asked, chunk, &scores);
                        let (real, padding) = out.split_at((end - start) * size);
                        assert!(same(real, &whole[start * size..end * size]), "{scores:?} {chunk}");
                        assert!(padding.iter().all(|x| x.to_bits() == 0));
                        start = end;
                    }
                }
            }
            // One query each of many sequences.
            for batch in [1, 2, 5, 40] {
                let mut random = Random::new(batch as u64);
                let asked: Vec<_> = (0..batch)
                    .map(|_| {
                        let sequence = random.below(lengths.len());
                        (sequence, random.below(lengths[sequence]) as i32)
                    })
                    .collect();
                let out = world.run(level, &asked, 1, &scores);
                for (at, one) in asked.iter().enumerate() {
                    let alone = world.run(level, &[*one], 1, &scores);
                    assert!(same(&alone, &out[at * size..][..size]), "{scores:?} {batch} {one:?}");
                }
            }
        }
    }
}

#[test]
fn pages_are_written_where_slots_say_and_nowhere_else() {
    let sizes = PageSizes { pages: 3, page: 2, kv_heads: 1, head_dim: 2 };
    // Halfway between two bf16, and two f16: to the even one.
    let (tie, half_tie) = (1.0 + 1.0 / 256.0, 1.0 + 1.0 / 2048.0);
    let tokens = [1.0, tie, 3.0, half_tie, 5.0, 6.0, 7.0, 8.0];
    let slots = [4, 1, -1, 6];
    let mut plain = vec![0.5; 12];
    write_pages(&tokens, &slots, sizes, &mut NumbersMut::F32(&mut plain)).unwrap();
    assert_eq!(plain, [0.5, 0.5, 3.0, half_tie, 0.5, 0.5, 0.5, 0.5, 1.0, tie, 0.5, 0.5]);
    let mut bits = vec![0; 12];
    write_pages(&tokens, &slots, sizes, &mut NumbersMut::Bf16(&mut bits)).unwrap();
    assert_eq!(bits, [0, 0, 0x4040, 0x3f80, 0, 0, 0, 0, 0x3f80, 0x3f80, 0, 0]);
    bits.fill(0);
    write_pages(&tokens, &slots, sizes, &mut NumbersMut::F16(&mut bits)).unwrap();
    assert_eq!(bits, [0, 0, 0x4200, 0x3c00, 0, 0, 0, 0, 0x3c00, 0x3c04, 0, 0]);
    let mut few = vec![0.0; 11];
    let refused = write_pages(&tokens, &slots, sizes, &mut NumbersMut::F32(&mut few)).unwrap_err();
    assert!(refused.contains("do not fit pages"), "{refused}");
}

#[test]
fn what_is_not_there_is_an_error() {
    let world = World::new(&[40], 16, 16, Kind::F32, 3);
    let numbers = &world.queries[0][..world.query_size()];
    let call = |position: i32, table: &[i32], numbers: &[f32], scores: &Scores| {
        let positions = [position];
        let queries =
            Queries { numbers, batch: 1, seq: 1, group: world.group, positions: &positions };
        let (keys, values) = (world.key_pages.view(), world.value_pages.view());
        let pages = Pages { sizes: world.sizes, keys, values, table };
        attention(Level::best(), &queries, &pages, scores, &mut vec![0.0; numbers.len()])
    };
    assert!(call(39, &world.table, numbers, &PLAIN).is_ok());
    let error = call(39, &world.table[..2], numbers, &PLAIN).unwrap_err();
    assert!(error.contains("position 39 of sequence 0 lies beyond its 2 pages"), "{error}");
    assert!(call(i32::MAX, &world.table, numbers, &PLAIN).is_err());
    for index in [-1, world.sizes.pages as i32] {
        let mut table = world.table.clone();
        table[1] = index;
        let error = call(39, &table, numbers, &PLAIN).unwrap_err();
        assert!(error.contains(&format!("needs page {index}")), "{error}");
        // A window that does not reach there, and a query that is none, do not need it.
        assert!(call(39, &table, numbers, &Scores { window: 8, ..PLAIN }).is_ok());
        assert!(call(-1, &table, numbers, &PLAIN).is_ok());
    }
    let error = call(39, &world.table, &numbers[1..], &PLAIN).unwrap_err();
    assert!(error.contains("queries"), "{error}");
}

fn same(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

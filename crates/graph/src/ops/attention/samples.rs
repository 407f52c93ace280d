//! Uses of attention that tests are derived from.

use super::{Attention, KeyValue};
use crate::DType;
use crate::operation::{Fill, Sample};
use crate::shape::{Axis, Shape};

const QUERY: &[(Axis, usize)] =
    &[("batch", 2), ("seq", 5), ("kv_heads", 2), ("group", 3), ("head_dim", 4)];
const KEY: &[(Axis, usize)] = &[("batch", 2), ("kv_seq", 5), ("kv_heads", 2), ("head_dim", 4)];
/// Of a length that tiles of two sizes divide.
const LONGER_QUERY: &[(Axis, usize)] =
    &[("batch", 2), ("seq", 6), ("kv_heads", 2), ("group", 3), ("head_dim", 4)];
const LONGER_KEY: &[(Axis, usize)] =
    &[("batch", 2), ("kv_seq", 6), ("kv_heads", 2), ("head_dim", 4)];
const POOL: &[(Axis, usize)] = &[("pages", 6), ("page", 4), ("kv_heads", 2), ("head_dim", 4)];
/// Of which an odd number makes no whole number of blocks of two keys.
const SHORT_PAGES: [(Axis, usize); 4] =
    [("pages", 6), ("page", 1), ("kv_heads", 2), ("head_dim", 4)];

pub(crate) fn samples() -> Vec<Sample> {
    let random = |axes| (Shape::new(DType::F32, axes), Fill::Uniform(-2.0, 2.0));
    let integers =
        |axes: &[(Axis, usize)], high| (Shape::new(DType::S32, axes), Fill::Uniform(0.0, high));
    let whole = [random(QUERY), random(KEY), random(KEY)];
    vec![
        Sample::new("attention", &whole, |x| vec![Attention::causal(x[0], x[1], x[2]).apply()]),
        Sample::new(
            "attention with window, sinks and soft cap",
            &[whole[0].clone(), random(KEY), random(KEY), random(&[("kv_heads", 2), ("group", 3)])],
            |x| {
                let causal = Attention::causal(x[0], x[1], x[2]);
                let sinks = Some(x[3]);
                let special = Attention { window: Some(2), sinks, soft_cap: Some(3.0), ..causal };
                vec![special.apply()]
            },
        ),
        Sample::new(
            "attention with segments and lengths",
            &[
                random(QUERY),
                random(KEY),
                random(KEY),
                integers(&[("batch", 2), ("seq", 5)], 2.0),
                integers(&[("batch", 2), ("kv_seq", 5)], 2.0),
                integers(&[("batch", 2)], 5.0),
            ],
            |x| {
                let attention = Attention {
                    segments: Some((x[3], x[4])),
                    lengths: Some(x[5] + 1.0),
                    causal: false,
                    ..Attention::causal(x[0], x[1], x[2])
                };
                vec![attention.apply()]
            },
        ),
        Sample::new(
            "attention of documents",
            &[
                random(LONGER_QUERY),
                random(LONGER_KEY),
                random(LONGER_KEY),
                integers(&[("batch", 2), ("seq", 6)], 2.0),
                integers(&[("batch", 2), ("kv_seq", 6)], 2.0),
                random(&[("kv_heads", 2), ("group", 3)]),
            ],
            |x| {
                let causal = Attention::causal(x[0], x[1], x[2]);
                vec![
                    Attention { segments: Some((x[3], x[4])), ..causal }.apply(),
                    Attention { sinks: Some(x[5]), window: Some(4), ..causal }.apply(),
                ]
            },
        ),
        Sample::new(
            "attention of one sequence",
            &[random(&LONGER_QUERY[1..]), random(&LONGER_KEY[1..]), random(&LONGER_KEY[1..])],
            |x| vec![Attention::causal(x[0], x[1], x[2]).apply()],
        ),
        Sample::new(
            "attention over pages",
            &[
                random(QUERY),
                random(POOL),
                random(POOL),
                integers(&[("batch", 2), ("blocks", 3)], 6.0),
                integers(&[("batch", 2), ("seq", 5)], 12.0),
            ],
            |x| {
                let (key, value, block_table) = (x[1], x[2], x[3]);
                let attention = Attention {
                    key_value: KeyValue::Paged { key, value, block_table },
                    positions: Some(x[4]),
                    ..Attention::causal(x[0], key, value)
                };
                vec![attention.apply()]
            },
        ),
        Sample::new(
            "attention over short pages",
            &[
                random(QUERY),
                random(&SHORT_PAGES),
                random(&SHORT_PAGES),
                integers(&[("batch", 2), ("blocks", 5)], 6.0),
                integers(&[("batch", 2), ("seq", 5)], 4.0),
                integers(&[("batch", 2)], 4.0),
                random(&[("kv_heads", 2), ("group", 3)]),
                integers(&[("batch", 2), ("seq", 5)], 2.0),
                integers(&[("batch", 2), ("kv_seq", 5)], 2.0),
            ],
            |x| {
                let (key, value, block_table) = (x[1], x[2], x[3]);
                let attention = Attention {
                    key_value: KeyValue::Paged { key, value, block_table },
                    ..Attention::causal(x[0], key, value)
                };
                let (positions, sinks) = (Some(x[4]), Some(x[6]));
                let segments = Some((x[7], x[8]));
                vec![
                    Attention { positions, lengths: Some(x[5]), ..attention }.apply(),
                    Attention { positions: Some(x[4] - 9.0), sinks, ..attention }.apply(),
                    Attention { causal: false, sinks, segments, ..attention }.apply(),
                ]
            },
        ),
        Sample::new("attention_gradient", &whole, |x| {
            let of = || vec![x[0], x[1], x[2]];
            let attention = || {
                let mixed = Attention::causal(x[0], x[1], x[2]).apply();
                vec![(mixed * x[0]).sum(&mixed.shape().names())]
            };
            x[0].graph().value_and_gradients(attention, of).1
        }),
        Sample::error(
            "attention with too few key heads",
            &[
                Shape::new(DType::F32, QUERY),
                Shape::new(DType::F32, &[("kv_seq", 5), ("kv_heads", 3), ("head_dim", 4)]),
            ],
            |x| vec![Attention::causal(x[0], x[1], x[1]).apply()],
            "attention: key f32[kv_seq 5, kv_heads 3, head_dim 4] has 3 along `kv_heads`, other operands 2",
        ),
        Sample::new(
            "attention of a query that sees nothing",
            &[random(QUERY), random(KEY), random(KEY), integers(&[("batch", 2)], 1.0)],
            |x| {
                let causal = Attention::causal(x[0], x[1], x[2]);
                vec![Attention { lengths: Some(x[3]), ..causal }.apply()]
            },
        ),
        Sample::error(
            "attention with too many positions",
            &[
                Shape::new(DType::F32, QUERY),
                Shape::new(DType::F32, KEY),
                Shape::new(DType::S32, &[("seq", 7)]),
            ],
            |x| {
                let causal = Attention::causal(x[0], x[1], x[1]);
                vec![Attention { positions: Some(x[2]), ..causal }.apply()]
            },
            "attention: positions s32[seq 7] has 7 along `seq`, other operands 5",
        ),
        Sample::error(
            "attention with a query of one head axis",
            &[Shape::new(DType::F32, &[("seq", 5), ("heads", 6), ("head_dim", 4)])],
            |x| vec![Attention::causal(x[0], x[0], x[0]).apply()],
            "attention: query f32[seq 5, heads 6, head_dim 4] lacks axis `kv_heads`",
        ),
    ]
}

//! Attention by its definition, one query and one number at a time in f64: the reference that every
//! lowering is compared with. Shares no line with them.

use super::{AttentionOperation, Operands};
use crate::DType;
use crate::literal::Literal;
use crate::shape::{Axis, Shape};

pub(super) fn evaluate(attention: &AttentionOperation, operands: &[Literal]) -> Vec<Literal> {
    let Some(o) = attention.operands(operands) else { return Vec::new() };
    let names = o.query.shape.names();
    let result = Literal::from_fn(o.query.shape.clone(), |index| {
        let at: Vec<(Axis, usize)> = names.iter().copied().zip(index.iter().copied()).collect();
        one_number(attention, &o, &at).0
    });
    if !attention.log_sum_exp {
        return vec![result];
    }
    let order = ["batch", "kv_heads", "group", "seq"];
    let axes = order.iter().filter_map(|&axis| Some((axis, o.query.shape.size(axis)?)));
    let shape = Shape { dtype: DType::F32, axes: axes.collect() };
    let names = shape.names();
    let log_sum_exp = Literal::from_fn(shape, |index| {
        let at: Vec<(Axis, usize)> = names.iter().copied().zip(index.iter().copied()).collect();
        let total = one_number(attention, &o, &with_first_element(&at)).1;
        if total > 0.0 { total.ln() } else { 0.0 }
    });
    vec![result, log_sum_exp]
}

/// The place of a row's first element.
fn with_first_element(row: &[(Axis, usize)]) -> Vec<(Axis, usize)> {
    row.iter().copied().chain([("head_dim", 0)]).collect()
}

/// The element of the result at a place given by axis names, and the softmax's divisor there.
fn one_number(
    attention: &AttentionOperation,
    o: &Operands<Literal>,
    at: &[(Axis, usize)],
) -> (f64, f64) {
    let keys = match &o.block_table {
        Some(table) => {
            table.shape.size("blocks").unwrap_or(0) * o.key.shape.size("page").unwrap_or(0)
        }
        None => o.key.shape.size("kv_seq").unwrap_or(0),
    };
    let seq = at.iter().find(|(axis, _)| *axis == "seq").map_or(0, |&(_, place)| place);
    let position = o.positions.as_ref().map_or(seq as f64, |positions| positions.at_named(at));
    let mut total = o.sinks.as_ref().map_or(0.0, |sinks| sinks.at_named(at).exp());
    let mut sum = 0.0;
    for key in 0..keys {
        if !is_seen(attention, o, at, position, key) {
            continue;
        }
        let weight = score(attention, o, at, key).exp();
        total += weight;
        sum += weight * element(o, &o.value, at, key);
    }
    (if total > 0.0 { sum / total } else { 0.0 }, total)
}

fn is_seen(
    attention: &AttentionOperation,
    o: &Operands<Literal>,
    at: &[(Axis, usize)],
    position: f64,
    key: usize,
) -> bool {
    let back = position - key as f64;
    let mut with_key = at.to_vec();
    with_key.push(("kv_seq", key));
    let own_document = o
        .segments
        .as_ref()
        .is_none_or(|(queries, keys)| queries.at_named(at) == keys.at_named(&with_key));
    (!attention.causal || back >= 0.0)
        && attention.window.is_none_or(|window| back < window as f64)
        && o.lengths.as_ref().is_none_or(|lengths| (key as f64) < lengths.at_named(at))
        && own_document
}

fn score(
    attention: &AttentionOperation,
    o: &Operands<Literal>,
    at: &[(Axis, usize)],
    key: usize,
) -> f64 {
    let mut product = 0.0;
    for dim in 0..o.query.shape.size("head_dim").unwrap_or(0) {
        let mut place: Vec<(Axis, usize)> =
            at.iter().copied().filter(|(axis, _)| *axis != "head_dim").collect();
        place.push(("head_dim", dim));
        product += o.query.at_named(&place) * element(o, &o.key, &place, key);
    }
    let scaled = product * attention.scale;
    attention.soft_cap.map_or(scaled, |cap| cap * (scaled / cap).tanh())
}

/// An element of a key or value, wherever its page lies.
fn element(o: &Operands<Literal>, of: &Literal, at: &[(Axis, usize)], key: usize) -> f64 {
    let mut place = at.to_vec();
    match &o.block_table {
        None => place.push(("kv_seq", key)),
        Some(table) => {
            let page = of.shape.size("page").unwrap_or(1);
            place.push(("blocks", key / page));
            place.push(("pages", table.at_named(&place) as usize));
            place.push(("page", key % page));
        }
    }
    of.at_named(&place)
}

//! How often a loop runs: stated by the compiler, or read off its counter.

use super::module::{Computation, Module};
use super::proto::HloInstruction;

/// Above this a count is no count but damage.
const TRIPS_MAX: i128 = 1 << 40;

/// The number of times that a `while` runs its body, if that can be known.
pub fn trips(
    module: &Module<'_>,
    caller: &Computation<'_>,
    instruction: &HloInstruction,
) -> Option<u64> {
    let known = stated(&instruction.backend_config);
    let trips = known.or_else(|| counted(module, caller, instruction))?;
    (0..=TRIPS_MAX).contains(&trips).then(|| u64::try_from(trips).unwrap_or(0))
}

/// `{"known_trip_count": {"n": "16"}}`
fn stated(config: &[u8]) -> Option<i128> {
    let config: serde_json::Value = serde_json::from_slice(config).ok()?;
    let count = config.get("known_trip_count")?.get("n")?;
    count.as_str().map_or_else(|| count.as_i64().map(i128::from), |text| text.parse().ok())
}

/// A counter in the loop's state starts at a constant, grows by a constant, and ends at one.
fn counted(
    module: &Module<'_>,
    caller: &Computation<'_>,
    instruction: &HloInstruction,
) -> Option<i128> {
    let [body, condition] = instruction.called_computation_ids.as_slice() else { return None };
    let (body, condition) = (module.computation(*body)?, module.computation(*condition)?);
    let Some((counter, bound, direction)) = comparison(condition) else {
        return largest_constant(condition);
    };
    let start = caller
        .operand(instruction, 0)
        .and_then(|state| caller.operand(through(caller, state), usize::try_from(counter).ok()?))
        .and_then(|value| constant(caller, value))
        .unwrap_or(0);
    let step = step(body, counter).filter(|&step| step != 0).unwrap_or(1);
    let distance = match direction {
        "LT" | "NE" if step > 0 => bound - start,
        "LE" if step > 0 => bound - start + 1,
        "GT" | "NE" if step < 0 => start - bound,
        "GE" if step < 0 => start - bound + 1,
        _ => return None,
    };
    Some((distance.max(0) + step.abs() - 1) / step.abs())
}

/// The counter's place in the loop's state, the constant that it is compared with, and how.
fn comparison<'a>(condition: &Computation<'a>) -> Option<(i64, i128, &'a str)> {
    let compare = through(condition, condition.root()?);
    if compare.opcode != "compare" {
        return None;
    }
    let [left, right] = [condition.operand(compare, 0)?, condition.operand(compare, 1)?];
    let direction = compare.comparison_direction.as_str();
    if let (Some(counter), Some(bound)) = (state_index(condition, left), constant(condition, right))
    {
        return Some((counter, bound, direction));
    }
    let turned = match direction {
        "LT" => "GT",
        "GT" => "LT",
        "LE" => "GE",
        "GE" => "LE",
        same => same,
    };
    Some((state_index(condition, right)?, constant(condition, left)?, turned))
}

/// What the body adds to the counter.
fn step(body: &Computation<'_>, counter: i64) -> Option<i128> {
    let next = body.operand(body.root()?, usize::try_from(counter).ok()?)?;
    let next = through(body, next);
    let [left, right] = [body.operand(next, 0)?, body.operand(next, 1)?];
    let is_counter = |value| state_index(body, value) == Some(counter);
    match next.opcode.as_str() {
        "add" if is_counter(left) => constant(body, right),
        "add" if is_counter(right) => constant(body, left),
        "subtract" if is_counter(left) => constant(body, right).map(|step| -step),
        _ => None,
    }
}

fn state_index(computation: &Computation<'_>, value: &HloInstruction) -> Option<i64> {
    let element = through(computation, value);
    let state = computation.operand(element, 0)?;
    let found = element.opcode == "get-tuple-element" && state.opcode == "parameter";
    found.then_some(element.tuple_index)
}

fn constant(computation: &Computation<'_>, value: &HloInstruction) -> Option<i128> {
    let value = through(computation, value);
    (value.opcode == "constant").then(|| integers(value).next()).flatten()
}

/// Conditions of another form: some constant in them is the bound. An early exit is not seen. One that
/// compares two parts of the state with each other depends on data, whatever constants it has beside.
fn largest_constant(condition: &Computation<'_>) -> Option<i128> {
    let mut parts: Vec<i64> = condition
        .order
        .iter()
        .filter_map(|instruction| state_index(condition, instruction))
        .collect();
    parts.sort_unstable();
    parts.dedup();
    if parts.len() > 1 {
        return None;
    }
    condition.order.iter().flat_map(|instruction| integers(instruction)).max()
}

fn integers(instruction: &HloInstruction) -> impl Iterator<Item = i128> {
    let literal = instruction.literal.iter();
    literal.flat_map(|literal| {
        let signed = literal.s32s.iter().copied().map(i128::from);
        let signed = signed.chain(literal.s64s.iter().copied().map(i128::from));
        let unsigned = literal.u32s.iter().copied().map(i128::from);
        signed.chain(unsigned).chain(literal.u64s.iter().copied().map(i128::from))
    })
}

/// Past what changes no value. A cycle, which only damage makes, ends it too.
fn through<'a>(computation: &Computation<'a>, value: &'a HloInstruction) -> &'a HloInstruction {
    let mut value = value;
    for _ in 0..16 {
        let same = matches!(value.opcode.as_str(), "copy" | "bitcast" | "reshape" | "convert");
        match computation.operand(value, 0) {
            Some(operand) if same => value = operand,
            _ => break,
        }
    }
    value
}

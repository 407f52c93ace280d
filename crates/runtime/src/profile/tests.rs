//! Programs of a few instructions, built by hand, whose cost can be worked out on paper.

use proptest::prelude::*;
use prost::Message;

use super::proto::{
    ConvolutionDimensions, DotDimensions, FileLocation, HloComputation, HloInstruction, HloModule,
    IotaGroups, Layout, Literal, Metadata, ModuleWithConfig, Shape, SourceTarget, StackFrame,
    StackFrames, Tile, Window, WindowDimension,
};
use super::*;

const F32: i32 = 11;
const S32: i32 = 4;
const BF16: i32 = 16;

fn shape(element_type: i32, dimensions: &[i64]) -> Shape {
    Shape { element_type, dimensions: dimensions.to_vec(), ..Shape::default() }
}

fn tuple(parts: &[Shape]) -> Shape {
    Shape { element_type: 13, tuple_shapes: parts.to_vec(), ..Shape::default() }
}

fn op(id: i64, opcode: &str, shape: Shape, operands: &[i64]) -> HloInstruction {
    HloInstruction {
        id,
        name: format!("{opcode}.{id}"),
        opcode: opcode.to_string(),
        shape: Some(shape),
        operand_ids: operands.to_vec(),
        ..HloInstruction::default()
    }
}

impl HloInstruction {
    fn cycles(mut self, cycles: u64) -> Self {
        let config = format!(r#"{{"window_config":{{"estimated_cycles":"{cycles}"}}}}"#);
        self.backend_config = config.into_bytes();
        self
    }

    fn calls(mut self, computations: &[i64]) -> Self {
        self.called_computation_ids = computations.to_vec();
        self
    }

    fn scope(mut self, path: &str) -> Self {
        self.metadata = Some(Metadata { op_name: path.to_string(), ..Metadata::default() });
        self
    }
}

/// The last instruction is the root.
fn computation(id: i64, instructions: Vec<HloInstruction>) -> HloComputation {
    let root_id = instructions.last().map_or(0, |root| root.id);
    HloComputation { id, name: format!("computation.{id}"), instructions, root_id }
}

/// The first computation is the entry.
fn module(computations: Vec<HloComputation>) -> HloModule {
    let entry_computation_id = computations.first().map_or(0, |entry| entry.id);
    HloModule { entry_computation_id, computations, ..HloModule::default() }
}

/// In the order in which compilers write them: what is called comes first.
fn module_of(computations: Vec<HloComputation>, entry: i64) -> HloModule {
    HloModule { entry_computation_id: entry, computations, ..HloModule::default() }
}

fn run_on(target: &str, module: &HloModule) -> Profile {
    let whole = ModuleWithConfig { module: Some(module.clone()) };
    profile(&whole.encode_to_vec(), &target.parse().unwrap()).unwrap()
}

fn run(module: &HloModule) -> Profile {
    run_on("v6e-1", module)
}

fn find<'p>(profile: &'p Profile, name: &str) -> &'p Costed {
    profile.instructions.iter().find(|costed| costed.name == name).unwrap()
}

/// v6e's clock, so that cycles are seconds times this.
const HERTZ: f64 = 1.75e9;

fn assert_cycles(profile: &Profile, cycles: f64) {
    let found = profile.total_seconds * HERTZ;
    assert!((found - cycles).abs() < 1e-6 * cycles, "{found} cycles, not {cycles}: {profile:?}");
}

fn constant(id: i64, value: i32) -> HloInstruction {
    let literal = Literal { s32s: vec![value], ..Literal::default() };
    HloInstruction { literal: Some(literal), ..op(id, "constant", shape(S32, &[]), &[]) }
}

fn element(id: i64, of: i64, index: i64, shape: Shape) -> HloInstruction {
    HloInstruction { tuple_index: index, ..op(id, "get-tuple-element", shape, &[of]) }
}

/// A loop from `start` in steps of `step` while the counter is less than `bound`: its condition, and
/// its body around the given instructions. Free operations cost nothing; the rest is scalar.
fn counted(body: i64, bound: i32, step: i32, inside: Vec<HloInstruction>) -> [HloComputation; 2] {
    let state = || tuple(&[shape(S32, &[])]);
    let mut instructions = vec![
        op(1, "parameter", state(), &[]),
        element(2, 1, 0, shape(S32, &[])),
        constant(3, step),
        op(4, "add", shape(S32, &[]), &[2, 3]).cycles(1),
    ];
    instructions.extend(inside);
    instructions.push(op(90, "tuple", state(), &[4]));
    let compare = HloInstruction {
        comparison_direction: "LT".to_string(),
        ..op(4, "compare", shape(1, &[]), &[2, 3])
    };
    let condition = vec![
        op(1, "parameter", state(), &[]),
        element(2, 1, 0, shape(S32, &[])),
        constant(3, bound),
        compare.cycles(1),
    ];
    [computation(body, instructions), computation(body + 1, condition)]
}

fn loop_over(body: i64, start: i32) -> Vec<HloInstruction> {
    let state = || tuple(&[shape(S32, &[])]);
    vec![
        constant(20, start),
        op(21, "tuple", state(), &[20]),
        op(22, "while", state(), &[21]).calls(&[body, body + 1]),
    ]
}

#[test]
fn a_loop_counts_as_often_as_it_runs() {
    let work = || op(10, "fusion", shape(F32, &[8]), &[]).cycles(98);
    for (start, bound, step, trips) in [(0, 16, 1, 16.0), (0, 8, 2, 4.0), (3, 8, 2, 3.0)] {
        let [body, condition] = counted(2, bound, step, vec![work()]);
        let profile = run(&module(vec![computation(1, loop_over(2, start)), body, condition]));
        assert_cycles(&profile, 100.0 * trips);
        assert_eq!(find(&profile, "fusion.10").times, trips);
        assert!(profile.unknown.is_empty(), "{:?}", profile.unknown);
    }
}

#[test]
fn loops_in_loops_multiply() {
    let work = op(10, "fusion", shape(F32, &[8]), &[]).cycles(98);
    let [inner, inner_condition] = counted(4, 4, 1, vec![work]);
    let [outer, outer_condition] = counted(2, 3, 1, loop_over(4, 0));
    let entry = computation(1, loop_over(2, 0));
    let all = vec![entry, outer, outer_condition, inner, inner_condition];
    let profile = run(&module(all));
    assert_cycles(&profile, 3.0 * (2.0 + 4.0 * 100.0));
    assert_eq!(find(&profile, "fusion.10").times, 12.0);
}

#[test]
fn the_compiler_may_state_the_trips() {
    let [body, mut condition] = counted(2, 16, 1, Vec::new());
    condition.instructions.retain(|instruction| instruction.opcode != "constant");
    let mut entry = computation(1, loop_over(2, 0));
    for instruction in &mut entry.instructions {
        if instruction.opcode == "while" {
            instruction.backend_config = br#"{"known_trip_count":{"n":"7"}}"#.to_vec();
        }
    }
    assert_cycles(&run(&module(vec![entry, body, condition])), 7.0 * 2.0);
}

#[test]
fn an_unknown_number_of_trips_is_told() {
    let [body, mut condition] = counted(2, 16, 1, Vec::new());
    condition.instructions.retain(|instruction| instruction.opcode != "constant");
    let profile = run(&module(vec![computation(1, loop_over(2, 0)), body, condition]));
    assert_cycles(&profile, 2.0);
    assert!(profile.unknown.iter().any(|line| line.contains("while.22")), "{:?}", profile.unknown);
}

#[test]
fn the_caller_may_know_how_often_a_loop_turns() {
    let [body, mut condition] = counted(2, 16, 1, Vec::new());
    condition.instructions.retain(|instruction| instruction.opcode != "constant");
    let module = module(vec![computation(1, loop_over(2, 0)), body, condition]);
    let options = ProfileOptions { unstated_loop_turns: Some(5) };
    let target = "v6e-1".parse().unwrap();
    let profile = profile_with(&module.encode_to_vec(), &target, &options).unwrap();
    assert_cycles(&profile, 5.0 * 2.0);
    assert!(profile.unknown.iter().any(|line| line.contains("counts 5 times, as was asked")));
    // What the program states is not overridden.
    let [body, condition] = counted(2, 16, 1, Vec::new());
    let stated = self::module(vec![computation(1, loop_over(2, 0)), body, condition]);
    let profile = profile_with(&stated.encode_to_vec(), &target, &options).unwrap();
    assert_cycles(&profile, 16.0 * 2.0);
}

/// A product of 2048 x 2048 x 2048 that a compiler gives so many cycles.
fn product(cycles: Option<u64>) -> Vec<HloInstruction> {
    let square = || shape(BF16, &[2048, 2048]);
    let dot = HloInstruction {
        dot: Some(DotDimensions { lhs_contracting: vec![1], ..DotDimensions::default() }),
        ..op(3, "dot", square(), &[1, 2])
    };
    let dot = cycles.map_or_else(|| dot.clone(), |cycles| dot.clone().cycles(cycles));
    vec![op(1, "parameter", square(), &[]), op(2, "parameter", square(), &[]), dot]
}

#[test]
fn what_is_waited_for_adds_up_to_the_whole() {
    let mut entry = product(Some(40_000));
    // 8 MiB each way: memory for 10 us of 12; something of no bytes to speak of.
    entry.push(op(4, "copy", shape(BF16, &[2048, 2048]), &[3]).cycles(21_000));
    entry.push(op(5, "fusion", shape(F32, &[]), &[]).cycles(10_000));
    entry.push(op(6, "all-reduce", shape(BF16, &[2048, 2048]), &[4]));
    let profile = run_on("v6e-4", &module(vec![computation(1, entry)]));
    let sum: f64 = profile.bounds.iter().map(|bound| bound.share).sum();
    assert!((sum - 1.0).abs() < 1e-9, "{:?}", profile.bounds);
    let seconds =
        |bound: Bound| profile.bounds.iter().find(|share| share.bound == bound).unwrap().seconds;
    assert!((seconds(Bound::Products) * HERTZ - 40_000.0).abs() < 1e-3);
    assert!((seconds(Bound::Memory) * HERTZ - 21_000.0).abs() < 1e-3);
    assert!((seconds(Bound::Vectors) * HERTZ - 10_000.0).abs() < 1e-3);
    // Two by two chips: two links, and one hop along each axis, there and back.
    assert!((seconds(Bound::Links) - 1.5 * f64::from(1 << 23) / (2.0 * LINK)).abs() < 1e-9);
    assert!((seconds(Bound::Starts) - START - 4e-6).abs() < 1e-9);
    assert_eq!(profile.bound_by(), Some(Bound::Links));
}

#[test]
fn ranges_hold_what_is_likely_and_add_up() {
    let mut entry = product(Some(40_000));
    entry.push(op(4, "copy", shape(BF16, &[2048, 2048]), &[3]));
    let profile = run(&module(vec![computation(1, entry)]));
    assert!(profile.low_seconds < profile.total_seconds);
    assert!(profile.total_seconds < profile.high_seconds);
    let sum = |end: fn(&Range) -> f64| profile.ranges.iter().map(end).sum::<f64>();
    assert!((sum(|range| range.seconds) - profile.total_seconds).abs() < 1e-12);
    assert!((sum(|range| range.low_seconds) - profile.low_seconds).abs() < 1e-12);
    assert!((sum(|range| range.high_seconds) - profile.high_seconds).abs() < 1e-12);
    assert!(profile.ranges.iter().all(|range| !range.reason.is_empty()));
}

/// A transfer that just hides may be waited for if links are slower than likely, and then counts.
#[test]
fn what_hides_may_come_out_at_the_far_end() {
    let [start, done] = prefetch();
    let work = op(3, "fusion", shape(F32, &[]), &[]).cycles(21_000);
    let parameter = op(1, "parameter", shape(F32, &[1 << 22]), &[]);
    let profile = run(&module(vec![computation(1, vec![parameter, start, work, done])]));
    assert_eq!(find(&profile, "copy-start.2").seconds, 0.0);
    let longest = 1.5 * f64::from(1 << 24) / MEMORY;
    assert!((profile.high_seconds - longest.max(1.25 * 12e-6)).abs() < 1e-9, "{profile:?}");
}

#[test]
fn what_has_no_estimate_is_listed_and_takes_time() {
    let mut entry = product(Some(1000));
    entry.push(op(4, "all-reduce", shape(BF16, &[2048, 2048]), &[3]));
    entry.push(op(5, "copy", shape(BF16, &[2048, 2048]), &[4]));
    let mut kernel = op(6, "custom-call", shape(BF16, &[2048, 2048]), &[5]);
    kernel.custom_call_target = "tpu_custom_call".to_string();
    entry.push(kernel);
    entry.push(op(7, "gather", shape(BF16, &[8, 2048]), &[6]));
    let profile = run_on("v6e-4", &module(vec![computation(1, entry)]));
    let kinds: Vec<&str> = profile.unestimated.iter().map(|kind| kind.kind).collect();
    assert_eq!(kinds, ["collectives", "copies", "kernels of custom calls", "gathers and scatters"]);
    for kind in &profile.unestimated {
        assert!(kind.count == 1 && kind.seconds > 0.0 && kind.bytes > 0.0, "{kind:?}");
    }
    let share: f64 = profile.unestimated.iter().map(|kind| kind.share).sum();
    let compiler = profile.by_source.iter().find(|share| share.name == "compiler").unwrap();
    assert!((share + compiler.share - 1.0).abs() < 1e-9);
    // A GPU's compiler estimates nothing at all.
    let profile = run_on("h100-1", &module(vec![computation(1, product(None))]));
    assert_eq!(profile.unestimated[0].kind, "products of matrices");
    assert!((profile.unestimated[0].share - 1.0).abs() < 1e-9);
}

#[test]
fn a_gpu_reaches_a_part_of_its_peak_in_whole_blocks() {
    let seconds = |rows: i64| {
        let dot = HloInstruction {
            dot: Some(DotDimensions { lhs_contracting: vec![1], ..DotDimensions::default() }),
            ..op(3, "dot", shape(BF16, &[rows, 8192]), &[1, 2])
        };
        let entry = vec![
            op(1, "parameter", shape(BF16, &[rows, 8192]), &[]),
            op(2, "parameter", shape(BF16, &[8192, 8192]), &[]),
            dot,
        ];
        run_on("h100-1", &module(vec![computation(1, entry)])).total_seconds
    };
    let flops = |rows: f64| 2.0 * rows * 8192.0 * 8192.0;
    // 64 x 64 blocks on 132 cores: 32 rounds, 31.03 of them full.
    let expected = 1e-6 + flops(8192.0) / (989e12 * 0.803) * 32.0 * 132.0 / 4096.0;
    assert!((seconds(8192) / expected - 1.0).abs() < 1e-6);
    // Two rows of blocks more fill the last round; beyond that there is another one.
    assert!((seconds(8448) / seconds(8192) - 1.0).abs() < 1e-6);
    assert!(seconds(8449) > 1.01 * seconds(8448));
    // Few rows wait for the weights.
    let weights = 2.0 * (8192.0 * 8192.0 + 2.0 * 8.0 * 8192.0);
    assert!((seconds(8) - 1e-6 - weights / (0.87 * 3.35232e12)).abs() < 1e-9);
}

#[test]
fn of_branches_the_costliest_counts() {
    let branch =
        |id, cycles| computation(id, vec![op(1, "fusion", shape(F32, &[]), &[]).cycles(cycles)]);
    let entry = vec![
        op(1, "parameter", shape(S32, &[]), &[]),
        op(2, "conditional", shape(F32, &[]), &[1, 1, 1]).calls(&[2, 3]),
    ];
    let profile = run(&module(vec![computation(1, entry), branch(2, 100), branch(3, 900)]));
    assert_cycles(&profile, 900.0);
    assert_eq!(profile.instructions.len(), 1);
}

/// What a v6e is taken to reach of its memory's and of a link's peak, in bytes per second.
const MEMORY: f64 = 0.87 * 1.638e12;
const LINK: f64 = 0.89 * 100e9;
/// Of a collective on TPUs, besides a hop of 1 us each.
const START: f64 = 5e-6;

/// 16 MiB from main memory into the chip's: 11.8 us.
fn prefetch() -> [HloInstruction; 2] {
    let main = shape(F32, &[1 << 22]);
    let near = Shape {
        layout: Some(Layout { memory_space: 1, ..Layout::default() }),
        ..shape(F32, &[1 << 22])
    };
    let started = tuple(&[near.clone(), main]);
    [op(2, "copy-start", started, &[1]), op(4, "copy-done", near, &[2])]
}

#[test]
fn a_transfer_hides_behind_what_runs_meanwhile() {
    let seconds = f64::from(1 << 24) / MEMORY;
    for (cycles, waited) in [(3500, seconds - 2e-6), (350_000, 0.0)] {
        let [start, done] = prefetch();
        let work = op(3, "fusion", shape(F32, &[]), &[]).cycles(cycles);
        let parameter = op(1, "parameter", shape(F32, &[1 << 22]), &[]).scope("model.norm.weight");
        let profile = run(&module(vec![computation(1, vec![parameter, start, work, done])]));
        let transfer = find(&profile, "copy-start.2");
        assert!((transfer.seconds - waited).abs() < 1e-9, "{transfer:?}");
        assert!((transfer.hidden_seconds + transfer.seconds - seconds).abs() < 1e-9);
        assert!((profile.total_seconds - cycles as f64 / HERTZ - waited).abs() < 1e-9);
        assert_eq!(transfer.path, "model.norm.weight");
    }
}

#[test]
fn opposite_directions_of_a_ring_do_not_wait_for_each_other() {
    let send = |id, start, source, target| {
        let value = shape(F32, &[1 << 20]);
        let started = HloInstruction {
            source_target_pairs: vec![SourceTarget { source, target }],
            ..op(id, "collective-permute-start", tuple(&[value.clone(), value.clone()]), &[1])
        };
        match start {
            true => started,
            false => op(id + 10, "collective-permute-done", value, &[id]),
        }
    };
    let seconds = |second: (i64, i64)| {
        let instructions = vec![
            op(1, "parameter", shape(F32, &[1 << 20]), &[]),
            send(2, true, 0, 1),
            send(3, true, second.0, second.1),
            send(2, false, 0, 0),
            send(3, false, 0, 0),
        ];
        run_on("v6e-4", &module(vec![computation(1, instructions)])).total_seconds
    };
    let once = START + 1e-6 + f64::from(1 << 22) / LINK;
    assert!((seconds((1, 0)) - once).abs() < 1e-9);
    assert!((seconds((0, 1)) - 2.0 * once).abs() < 1e-9);
}

#[test]
fn a_collective_takes_the_time_of_its_ring() {
    let groups = IotaGroups { devices_per_group: 4, ..IotaGroups::default() };
    let sum = HloInstruction {
        iota_groups: Some(groups),
        ..op(2, "all-reduce", shape(F32, &[1 << 20]), &[1])
    };
    let entry = vec![op(1, "parameter", shape(F32, &[1 << 20]), &[]), sum];
    let profile = run_on("v6e-16", &module(vec![computation(1, entry)]));
    // Twice three quarters of it over one link, since a row of four is open, and twice three hops.
    let seconds = 2.0 * 0.75 * f64::from(1 << 22) / LINK + START + 6e-6;
    let cost = find(&profile, "all-reduce.2");
    assert_eq!(cost.source, Source::Links);
    assert!((cost.seconds - seconds).abs() < 1e-9, "{cost:?}");
}

#[test]
fn a_sum_that_is_cut_up_is_no_full_sum() {
    let value = || shape(F32, &[1 << 20]);
    let inner = || vec![op(1, "parameter", value(), &[]), op(2, "all-reduce", value(), &[1])];
    let entry =
        || vec![op(1, "parameter", value(), &[]), op(2, "fusion", value(), &[1]).calls(&[2])];
    let seconds = |name: &str| {
        let fused = HloComputation { name: name.to_string(), ..computation(2, inner()) };
        let profile = run_on("v6e-4", &module_of(vec![fused, computation(1, entry())], 1));
        assert_eq!(profile.instructions[0].source, Source::Links);
        profile.total_seconds
    };
    let once = 0.75 * f64::from(1 << 22) / (2.0 * LINK);
    assert!((seconds("fused") - START - 4e-6 - 2.0 * once).abs() < 1e-9);
    assert!((seconds("all-reduce-scatter.3.clone") - START - 2e-6 - once).abs() < 1e-9);
}

/// TPU7x hands collectives to its sparse cores: an asynchronous call of a custom call of one.
#[test]
fn a_collective_in_a_call_in_a_transfer_is_one() {
    let value = || shape(F32, &[1 << 20]);
    let sparse =
        computation(3, vec![op(1, "parameter", value(), &[]), op(2, "all-reduce", value(), &[1])]);
    let wrapped = computation(
        2,
        vec![op(1, "parameter", value(), &[]), op(2, "custom-call", value(), &[1]).calls(&[3])],
    );
    let entry = computation(
        1,
        vec![
            op(1, "parameter", value(), &[]),
            op(2, "async-start", tuple(&[value(), value()]), &[1]).calls(&[2]),
            op(3, "async-done", value(), &[2]),
        ],
    );
    let profile = run_on("v6e-4", &module_of(vec![sparse, wrapped, entry], 1));
    assert_eq!(profile.instructions[0].source, Source::Links);
    assert_eq!(profile.unestimated[0].kind, "collectives");
    assert_eq!(profile.unestimated[0].count, 1);
}

#[test]
fn what_nobody_estimates_takes_the_time_of_its_bytes() {
    let entry = vec![
        op(1, "parameter", shape(F32, &[1 << 20]), &[]),
        op(2, "never-heard-of", shape(F32, &[1 << 20]), &[1]),
    ];
    let mut huge = op(3, "custom-call", shape(F32, &[1 << 20]), &[2]).cycles(u64::MAX / 2);
    huge.custom_call_target = "tpu_custom_call".to_string();
    let mut stated = op(4, "custom-call", shape(F32, &[1 << 20]), &[2]);
    stated.backend_config =
        br#"{"custom_call_config":{"cost_estimate":{"flops":918000000000,"bytes_accessed":1}}}"#
            .to_vec();
    let entry = entry.into_iter().chain([huge, stated]).collect();
    let profile = run(&module(vec![computation(1, entry)]));
    for name in ["never-heard-of.2", "custom-call.3"] {
        let cost = find(&profile, name);
        assert_eq!((cost.source, cost.bytes), (Source::Bytes, 1 << 23), "{name}");
        assert!((cost.seconds - f64::from(1 << 23) / MEMORY).abs() < 1e-12, "{name}");
    }
    let stated = find(&profile, "custom-call.4");
    assert_eq!(stated.source, Source::Roofline);
    assert!((stated.seconds - 1e-3 / 0.83).abs() < 1e-9, "{stated:?}");
}

/// A fusion of one instruction over a table of 4 MiB and something small.
fn table_fusion(inner: &str, small: Shape, result: Shape) -> HloModule {
    let table = || shape(F32, &[1024, 1024]);
    let fused = computation(
        2,
        vec![
            op(1, "parameter", table(), &[]),
            HloInstruction { parameter_number: 1, ..op(2, "parameter", small.clone(), &[]) },
            op(3, inner, result.clone(), &[1, 2]),
        ],
    );
    let entry = vec![
        op(1, "parameter", table(), &[]),
        op(2, "parameter", small, &[]),
        op(3, "fusion", result, &[1, 2]).calls(&[2]),
    ];
    module(vec![computation(1, entry), fused])
}

#[test]
fn a_row_of_a_table_counts_as_a_row() {
    let row = || shape(F32, &[1, 1024]);
    let read = run(&table_fusion("gather", shape(S32, &[1]), row()));
    assert_eq!(find(&read, "fusion.3").bytes, 2 * 4096 + 4);
    let write = run(&table_fusion("dynamic-update-slice", row(), shape(F32, &[1024, 1024])));
    assert_eq!(find(&write, "fusion.3").bytes, 2 * 4096);
    // What is written in place is no temporary; a table made anew is one.
    assert_eq!(write.largest_temporaries, Vec::new());
}

#[test]
fn products_are_counted_alike_however_they_are_written() {
    let dot = HloInstruction {
        dot: Some(DotDimensions { lhs_contracting: vec![1], ..DotDimensions::default() }),
        ..op(3, "dot", shape(BF16, &[64, 16]), &[1, 2])
    };
    let entry = vec![
        op(1, "parameter", shape(BF16, &[64, 32]), &[]),
        op(2, "parameter", shape(BF16, &[32, 16]), &[]),
        dot,
    ];
    let profile = run_on("h100-1", &module(vec![computation(1, entry)]));
    let cost = find(&profile, "dot.3");
    assert_eq!((cost.flops, cost.source), (2.0 * 64.0 * 32.0 * 16.0, Source::Roofline));

    // The same for each of 8, where the batch is a window of 8 that meets one element at a time.
    let window = WindowDimension {
        size: 8,
        stride: 7,
        padding_low: 0,
        window_dilation: 1,
        base_dilation: 8,
    };
    let axes = ConvolutionDimensions {
        kernel_input_feature: 1,
        output_batch: 1,
        output_feature: 2,
        input_spatial: vec![0],
        output_spatial: vec![0],
    };
    let convolution = HloInstruction {
        window: Some(Window { dimensions: vec![window] }),
        convolution: Some(axes),
        ..op(3, "convolution", shape(BF16, &[8, 64, 16]), &[1, 2])
    };
    let entry = vec![
        op(1, "parameter", shape(BF16, &[8, 64, 32]), &[]),
        op(2, "parameter", shape(BF16, &[8, 32, 16]), &[]),
        convolution,
    ];
    let profile = run(&module(vec![computation(1, entry)]));
    assert_eq!(find(&profile, "convolution.3").flops, 8.0 * 2.0 * 64.0 * 32.0 * 16.0);
}

#[test]
fn tiles_pad_what_is_stored() {
    let layout = Layout {
        minor_to_major: vec![1, 0],
        tiles: vec![Tile { dimensions: vec![8, 128] }],
        ..Layout::default()
    };
    let padded = Shape { layout: Some(layout), ..shape(F32, &[4, 130]) };
    assert_eq!((padded.logical_bytes(), padded.stored_bytes()), (4 * 130 * 4, 8 * 256 * 4));
    assert_eq!(padded.to_string(), "f32[4,130]");
}

#[test]
fn paths_come_from_scopes_and_lines_from_frames() {
    let inner = computation(
        2,
        vec![
            op(1, "parameter", shape(F32, &[64]), &[]),
            op(2, "multiply", shape(F32, &[64]), &[1]).scope("model.layers.3.mlp"),
            op(3, "copy", shape(F32, &[64]), &[2]),
        ],
    );
    let mut framed = op(3, "add", shape(F32, &[64]), &[1, 2]).scope("add.14");
    framed.metadata.get_or_insert_default().stack_frame_id = 1;
    let entry = vec![
        op(1, "parameter", shape(F32, &[64]), &[]),
        op(2, "fusion", shape(F32, &[64]), &[1]).calls(&[2]),
        framed,
        op(4, "copy", shape(F32, &[64]), &[2]),
        op(5, "negate", shape(F32, &[64]), &[4]).scope("reduce.3:reduce"),
    ];
    let frames = StackFrames {
        file_names: vec!["src/model.rs".to_string()],
        file_locations: vec![FileLocation { file_name_id: 1, line: 7 }],
        frames: vec![StackFrame { file_location_id: 1 }],
    };
    let mut module = module(vec![computation(1, entry), inner]);
    module.stack_frames = Some(frames);
    let profile = run(&module);
    let place = |name| {
        let costed = find(&profile, name);
        (costed.path.as_str(), costed.line.as_str())
    };
    assert_eq!(place("fusion.2"), ("model.layers.3.mlp", ""));
    assert_eq!(place("add.3"), ("", "src/model.rs:7"));
    assert_eq!(place("copy.4"), ("model.layers.3.mlp", ""), "what it copies");
    assert_eq!(place("negate.5"), ("", ""), "a name that the compiler made");
    let parts: Vec<&str> = profile.by_path.iter().map(|share| share.name.as_str()).collect();
    assert!(parts.contains(&"model.layers.*.mlp") && parts.contains(&"src/model.rs"), "{parts:?}");
    let sum: f64 = profile.by_path.iter().map(|share| share.share).sum();
    assert!((sum - 1.0).abs() < 1e-9);
}

#[test]
fn what_cannot_be_profiled_says_why() {
    let error = |target: &str, code: &[u8]| {
        profile(code, &target.parse().unwrap()).map(|_| ()).unwrap_err().to_string()
    };
    let fine = module(vec![computation(1, Vec::new())]);
    assert!(error("cpu-1", &fine.encode_to_vec()).contains("no peak rates for `cpu`"));
    assert!(error("v6e-1", b"").contains("no computations"));
    assert!(error("v6e-1", b"module @decode {").contains("cannot be read"));
    let mut lost = fine.clone();
    lost.entry_computation_id = 5;
    assert!(error("v6e-1", &lost.encode_to_vec()).contains("no entry"));
    let itself = vec![op(1, "call", shape(F32, &[]), &[]).calls(&[1])];
    let itself = module(vec![computation(1, itself)]);
    assert!(error("v6e-1", &itself.encode_to_vec()).contains("calls itself"));
    // Without the config around it, a module is as good.
    assert!(profile(&fine.encode_to_vec(), &"v6e-1".parse().unwrap()).is_ok());
}

fn sample() -> HloModule {
    let [start, done] = prefetch();
    let [body, condition] = counted(
        2,
        16,
        1,
        vec![
            op(10, "fusion", shape(F32, &[8]), &[2]).calls(&[4]).scope("model"),
            op(11, "all-reduce", shape(F32, &[8]), &[10]),
        ],
    );
    let mut entry = vec![op(1, "parameter", shape(F32, &[1 << 22]), &[]), start, done];
    entry.extend(loop_over(2, 0));
    let fused = table_fusion("gather", shape(S32, &[1]), shape(F32, &[1, 1024])).computations;
    let fused = fused.into_iter().nth(1).map(|fused| HloComputation { id: 4, ..fused });
    let mut all = vec![computation(1, entry), body, condition];
    all.extend(fused);
    module(all)
}

#[test]
fn what_is_stripped_takes_as_long() {
    let mut whole = sample();
    for instruction in whole.computations.iter_mut().flat_map(|all| &mut all.instructions) {
        instruction.metadata.get_or_insert_default().source_file = "src/model.rs".to_string();
    }
    let mut kernel = op(90, "custom-call", shape(F32, &[64]), &[1]);
    kernel.custom_call_target = "tpu_custom_call".to_string();
    kernel.backend_config =
        br#"{"custom_call_config":{"body":"long","cost_estimate":{"flops":"9180","bytes_accessed":512}}}"#
            .to_vec();
    whole.computations[0].instructions.push(kernel);
    let code = whole.encode_to_vec();
    let small = stripped(&code).unwrap();
    assert!(small.len() < code.len(), "{} of {}", small.len(), code.len());
    let target = "v6e-4".parse().unwrap();
    let [whole, small] = [code, small].map(|code| profile(&code, &target).unwrap());
    assert_eq!(small.total_seconds, whole.total_seconds);
    assert_eq!((small.low_seconds, small.high_seconds), (whole.low_seconds, whole.high_seconds));
    assert_eq!((small.bounds, small.unestimated), (whole.bounds, whole.unestimated));
    assert!(stripped(b"").is_err());
}

proptest! {
    #[test]
    fn bytes_of_any_kind_do_not_panic(code in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = profile(&code, &"v6e-1".parse().unwrap());
    }

    #[test]
    fn damage_does_not_panic(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        gpu in any::<bool>(),
    ) {
        let mut code = sample().encode_to_vec();
        for (place, value) in changes {
            let place = place.index(code.len());
            code[place] = value;
        }
        let target = if gpu { "h100-1" } else { "v6e-4" };
        if let Ok(profile) = profile(&code, &target.parse().unwrap()) {
            prop_assert!(profile.total_seconds.is_nan() || profile.total_seconds >= 0.0);
        }
    }
}

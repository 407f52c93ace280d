//! The time model beside rates that others published: our own step of the same model on the same
//! chips, compiled by the vendor's compiler (`bench/published` made the programs of this folder), as
//! the model times it. The published rates are context. Nothing is calibrated by them, and other
//! programs reached them: see the guide, which has the table.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;
use runtime::Target;
use runtime::profile::{Profile, profile};

/// A published rate, and our program of the same work.
struct Row {
    /// Of the program: `published/<name>.pb.gz`.
    name: &'static str,
    target: &'static str,
    work: &'static str,
    ours: &'static str,
    unit: Unit,
    published: f64,
    by: &'static str,
}

#[derive(Clone, Copy)]
enum Unit {
    /// Tokens per second and chip, of a step of so many tokens.
    Rate { tokens: f64 },
    /// Milliseconds of a run.
    Time,
}

const ROWS: &[Row] = &[
    Row {
        name: "train-8b-v6e-256",
        target: "v6e-256",
        work: "train Llama-3.1-8B",
        ours: "`data=16,fsdp=16`, 3 sequences a chip, `remat = \"full\"`",
        unit: Unit::Rate { tokens: 768.0 * 8192.0 },
        published: 7207.0,
        by: "MaxText",
    },
    Row {
        name: "train-70b-v6e-256",
        target: "v6e-256",
        work: "train Llama-3.1-70B",
        ours: "`fsdp=256`, 1 sequence a chip, `remat = \"full\"`",
        unit: Unit::Rate { tokens: 256.0 * 8192.0 },
        published: 960.0,
        by: "MaxText",
    },
    Row {
        name: "train-70b-tpu7x-64",
        target: "tpu7x-64",
        work: "train Llama-3.1-70B",
        ours: "`fsdp=128`, 4 sequences a chip, `remat = \"full\"`",
        unit: Unit::Rate { tokens: 256.0 * 8192.0 },
        published: 2687.0,
        by: "MaxText",
    },
    Row {
        name: "train-8b-h100-8",
        target: "h100-8",
        work: "train Llama-3.1-8B",
        ours: "`fsdp=8`, 1 sequence a GPU, `remat = \"full\"`",
        unit: Unit::Rate { tokens: 8.0 * 8192.0 },
        published: 6667.0,
        by: "torchtitan",
    },
    Row {
        name: "train-70b-h200-256",
        target: "h200-256",
        work: "train Llama-3.1-70B",
        ours: "`fsdp=256`, 2 sequences a GPU, `remat = \"full\"`",
        unit: Unit::Rate { tokens: 512.0 * 8192.0 },
        published: 1056.0,
        by: "MaxText",
    },
    Row {
        name: "decode-70b-v6e-8",
        target: "v6e-8",
        work: "decode Llama-3.3-70B, 64 sequences",
        ours: "`tensor=8`, room for 3072 tokens each",
        unit: Unit::Time,
        published: 25.0,
        by: "vLLM",
    },
];

fn profiled(row: &Row) -> Profile {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/published");
    let file = fs::File::open(folder.join(format!("{}.pb.gz", row.name))).unwrap();
    let mut code = Vec::new();
    GzDecoder::new(file).read_to_end(&mut code).unwrap();
    profile(&code, &row.target.parse::<Target>().unwrap()).unwrap()
}

/// Three digits are more than the model is good for.
fn figure(value: f64) -> String {
    let unit = 10f64.powf((value.log10().floor() - 2.0).max(0.0));
    format!("{}", (value / unit).round() * unit)
}

fn line(row: &Row) -> String {
    let profile = profiled(row);
    let chips = row.target.parse::<Target>().unwrap().chips as f64;
    let shown = |seconds: f64| match row.unit {
        Unit::Rate { tokens } => tokens / seconds / chips,
        Unit::Time => seconds * 1e3,
    };
    let ends = [profile.low_seconds, profile.high_seconds].map(shown);
    let likely = shown(profile.total_seconds);
    let unit = match row.unit {
        Unit::Rate { .. } => "tokens/s/chip",
        Unit::Time => "ms",
    };
    let waits: Vec<String> = profile
        .bounds
        .iter()
        .filter(|bound| bound.share >= 0.05)
        .map(|bound| format!("{} {:.0} %", bound.bound.name(), bound.share * 100.0))
        .collect();
    format!(
        "| {}, {} | {} | {} {unit} ({}) | {} ({} to {}) | {:.2} | {} |\n",
        row.work,
        row.target,
        row.ours,
        row.published,
        row.by,
        figure(likely),
        figure(ends[0].min(ends[1])),
        figure(ends[0].max(ends[1])),
        likely / row.published,
        waits.join(", ")
    )
}

/// With `FUNGIBLE_UPDATE_DOCS` set it writes the guide's table instead of comparing.
#[test]
fn the_guide_has_the_table() {
    const MARKS: [&str; 2] = ["<!-- published: begin -->\n", "<!-- published: end -->\n"];
    const HEAD: &str = "| work, chips | our program | published | estimated for ours (range) | estimated / published | waits for |\n| --- | --- | --- | --- | --- | --- |\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/planning-model.md");
    let guide = fs::read_to_string(&path).unwrap();
    let (before, rest) = guide.split_once(MARKS[0]).unwrap();
    let (written, after) = rest.split_once(MARKS[1]).unwrap();
    let lines: String = ROWS.iter().map(line).collect();
    let expected = format!("\n{HEAD}{lines}\n");
    if std::env::var_os("FUNGIBLE_UPDATE_DOCS").is_some() {
        fs::write(&path, [before, MARKS[0], &expected, MARKS[1], after].concat()).unwrap();
        return;
    }
    assert!(
        written == expected,
        "docs/planning-model.md does not have what the model says; FUNGIBLE_UPDATE_DOCS=1 cargo test \
         -p fungible-runtime --test published writes it:\n{expected}"
    );
}

/// Real programs of real size: every part of a profile agrees with every other.
#[test]
fn parts_of_a_profile_agree() {
    for row in ROWS {
        let profile = profiled(row);
        let total = profile.total_seconds;
        let close = |name: &str, sum: f64, of: f64| {
            assert!(
                (sum - of).abs() <= 1e-9 * of.max(1.0),
                "{}: {name}: {sum}, not {of}",
                row.name
            );
        };
        close("steps", profile.instructions.iter().map(|costed| costed.seconds).sum(), total);
        close("bounds", profile.bounds.iter().map(|bound| bound.share).sum(), 1.0);
        close("ranges", profile.ranges.iter().map(|range| range.seconds).sum(), total);
        let compiler = profile.by_source.iter().find(|share| share.name == "compiler");
        let estimated = compiler.map_or(0.0, |share| share.seconds);
        let others: f64 = profile.unestimated.iter().map(|kind| kind.seconds).sum();
        close("sources", estimated + others, total);
        assert!(profile.low_seconds < total && total < profile.high_seconds, "{}", row.name);
        // Collectives that hide behind products are no less there.
        assert!(profile.unestimated.iter().any(|kind| kind.kind == "collectives"), "{}", row.name);
        assert!(profile.unestimated.iter().all(|kind| kind.count > 0 && kind.bytes > 0.0));
    }
}

/// A step over many chips cannot be faster than its model's own arithmetic at the chips' peak, nor is
/// any of these so slow that the model must have lost its way.
#[test]
fn steps_take_between_one_and_ten_times_their_arithmetic() {
    for row in ROWS {
        let Unit::Rate { tokens } = row.unit else { continue };
        let parameters = if row.name.contains("70b") { 70.6e9 } else { 8.03e9 };
        let target: Target = row.target.parse().unwrap();
        let peak = target.chip.bf16_flops_per_second * target.chips as f64;
        let shortest = 6.0 * parameters * tokens / peak;
        let seconds = profiled(row).total_seconds;
        assert!((1.0..10.0).contains(&(seconds / shortest)), "{}: {seconds} s", row.name);
    }
}

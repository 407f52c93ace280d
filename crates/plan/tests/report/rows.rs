//! Rows that are made up, of each kind that there is.

use plan::price::Offer;
use plan::row::{
    Energy, JobFigures, Memory, Misfit, Money, MoneyPart, NotEstimated, OfferCost, Part, Planned,
    Row, Time, Verdict,
};
use plan::serving::load::{AtLoad, Objectives};
use plan::{serving, training};
use runtime::profile::Temporary;

/// What must never become an element.
pub const HOSTILE: &str = "<img src=x onerror=alert(1)>&\"'</svg><script>pwned</script>";

const GIB: u64 = 1 << 30;

pub fn time(seconds: f64) -> Time {
    let part = |name: &str, share| Part { name: name.to_string(), share };
    Time {
        seconds,
        low_seconds: seconds * 0.8,
        high_seconds: seconds * 1.4,
        source: "the compiler's schedule (90 % of it by its own cycles)".to_string(),
        bound_by: "matrix units".to_string(),
        bounds: vec![part("matrix units", 0.6), part("links", 0.3), part("something new", 0.1)],
        sources: vec![part("compiler", 0.9), part("links", 0.1)],
        hidden_seconds: 0.02,
        not_estimated: vec![NotEstimated {
            name: "collectives".to_string(),
            instructions: 6,
            bytes: 3e9,
            share: 0.1,
            model: "bytes over links".to_string(),
        }],
    }
}

pub fn money(dollars: Option<f64>) -> Money {
    let Some(dollars) = dollars else { return Money::default() };
    let offer = |purchase: &str| Offer {
        provider: "cloud".to_string(),
        region: Some("us-central1".to_string()),
        purchase: purchase.to_string(),
        dollars_per_chip_hour: 2.7,
        source: "a list of prices, 2026-11-23".to_string(),
        link: Some("https://example.com/prices".to_string()),
        date: Some("2026-11-23".to_string()),
    };
    let part =
        |name: &str, dollars, assumed| MoneyPart { name: name.to_string(), dollars, assumed };
    Money {
        offer: Some(offer("on-demand")),
        no_offer: None,
        dollars_per_million_tokens: Some(dollars),
        total_dollars: Some(dollars * 1e5),
        parts: vec![
            part("the work itself", dollars * 9e4, false),
            part("start-up", dollars * 1e4, true),
        ],
        offers: vec![
            OfferCost { offer: offer("spot"), dollars_per_million_tokens: dollars / 3.0 },
            OfferCost { offer: offer("on-demand"), dollars_per_million_tokens: dollars },
        ],
        run: None,
        left_out: vec!["spot at elsewhere: taken away too soon".to_string()],
    }
}

pub fn planned(target: &str, job: JobFigures, dollars: Option<f64>) -> Planned {
    let temporary = Temporary {
        name: "copy.264".to_string(),
        shape: "f32[16,2048,8192]".to_string(),
        bytes: GIB,
        padded_bytes: GIB,
        path: "gradient of model".to_string(),
        source: "convert.rs:107".to_string(),
    };
    Planned {
        target: target.to_string(),
        chips: 16,
        hosts: 4,
        mesh: "data=16".to_string(),
        changes: Vec::new(),
        memory: Memory {
            weights_bytes: 4 * GIB,
            optimizer_bytes: 8 * GIB,
            temporary_bytes: 6 * GIB,
            code_bytes: GIB / 32,
            needed_bytes: 17 * GIB,
            available_bytes: Some(32 * GIB),
            largest_temporaries: vec![temporary],
            ..Memory::default()
        },
        job,
        compile_seconds: 61.0,
        cached: false,
        money: money(dollars),
        energy: Energy {
            kilowatt_hours_per_million_tokens: Some(0.005),
            source: "estimated: 700 W per chip at most".to_string(),
        },
        notes: vec!["nothing is known of the weather".to_string()],
    }
}

/// With a run of so many days.
pub fn training(target: &str, days: f64, dollars: Option<f64>) -> Planned {
    let figures = training::Figures {
        step: time(0.37),
        tokens_per_step: 131_072,
        tokens_per_second: 354_987.0,
        tokens_per_second_per_chip: 22_186.7,
        mfu: Some(0.19),
        total_tokens: 1e11,
        total_seconds: days * 86_400.0,
    };
    planned(target, JobFigures::Training(Box::new(figures)), dollars)
}

/// With so long an answer's first token.
pub fn serving(target: &str, ttft_seconds: f64, meets: bool) -> Planned {
    let load = |factor: f64| AtLoad {
        queue_share: 0.3,
        requests_per_second: 10.0,
        ttft_seconds: ttft_seconds * factor,
        tpot_seconds: 0.01 * factor,
        rows: 20.0,
        prompt_share: 0.3,
        busy_share: 0.9,
    };
    let figures = serving::Figures {
        instance: target.to_string(),
        load: load(1.0),
        quickest: Some(load(0.8)),
        slowest: meets.then(|| load(1.6)),
        capacity_requests_per_second: 12.0,
        objectives: Objectives { ttft_seconds: Some(0.5), tpot_seconds: None },
        meets,
        instances: 2,
        chips_needed: 2,
        output_tokens_per_second: 5120.0,
        output_tokens_per_second_per_chip: 2560.0,
        sequences_max: 64,
        cache_tokens: 100_000,
        dollars_per_million_input_tokens: Some(0.1),
        dollars_per_million_output_tokens: Some(0.2),
        decode: time(0.01),
        decode_rows: 8,
        prefill: time(0.03),
        prefill_tokens: 512,
    };
    planned(target, JobFigures::Serving(Box::new(figures)), Some(ttft_seconds))
}

pub fn row(target: &str, verdict: Verdict) -> Row {
    let chip = target.split('-').next().unwrap_or_default().to_string();
    Row { target: target.to_string(), chip, chips: 16, hosts: 4, verdict }
}

pub fn fits(plan: Planned) -> Row {
    row(&plan.target.clone(), Verdict::Fits { plan: Box::new(plan) })
}

pub fn too_big(target: &str) -> Row {
    let misfit = misfit();
    row(target, Verdict::DoesNotFit { misfit, tried: vec!["v5e-32: needs more".to_string()] })
}

pub fn misfit() -> Misfit {
    Misfit {
        reason: "ran out of memory".to_string(),
        needed_bytes: Some(40 * GIB),
        available_bytes: Some(16 * GIB),
        compiled: true,
    }
}

/// Training on targets of all verdicts, many of them alike.
pub fn many() -> Vec<Row> {
    let mut changed = training("v5e-32", 9.0, Some(0.06));
    changed.changes =
        vec!["v5e-32 instead of v5e-16".to_string(), "training.remat = \"full\"".to_string()];
    let mut rows: Vec<Row> =
        [("h100-8", 3.9, 0.017), ("h200-8", 3.28, 0.021), ("v6e-16", 3.26, 0.034)]
            .into_iter()
            .chain([("v5p-8", 3.3, 0.033), ("b200-8", 1.2, 0.5), ("a100-64", 3.27, 0.0335)])
            .map(|(target, days, dollars)| fits(training(target, days, Some(dollars))))
            .collect();
    rows.push(fits(training("tpu7x-64", 2.0, None)));
    rows.push(row("v5e-16", Verdict::FitsChanged { misfit: misfit(), plan: Box::new(changed) }));
    rows.push(too_big("v5e-8"));
    rows.push(row("gb200-8", Verdict::Skipped { reason: "no compiler is installed".to_string() }));
    rows.push(row("v4-8", Verdict::Failed { reason: "the compiler crashed".to_string() }));
    rows
}

/// Texts from outside, in every place where there are some.
pub fn hostile() -> Vec<Row> {
    let bad = || HOSTILE.to_string();
    let mut plan = training(HOSTILE, 3.0, Some(0.1));
    plan.mesh = bad();
    plan.changes = vec![bad(), format!("{HOSTILE} = 1")];
    plan.notes = vec![bad()];
    plan.energy.source = bad();
    for temporary in &mut plan.memory.largest_temporaries {
        (temporary.name, temporary.shape) = (bad(), bad());
        (temporary.path, temporary.source) = (bad(), bad());
    }
    for part in &mut plan.money.parts {
        part.name = bad();
    }
    let offers = plan.money.offers.iter_mut().map(|cost| &mut cost.offer);
    for offer in offers.chain(&mut plan.money.offer) {
        (offer.provider, offer.region, offer.purchase) = (bad(), Some(bad()), bad());
        (offer.source, offer.date) = (bad(), Some(bad()));
        offer.link = Some(format!("https://example.com/{HOSTILE}"));
    }
    if let JobFigures::Training(figures) = &mut plan.job {
        let step = &mut figures.step;
        (step.source, step.bound_by) = (bad(), bad());
        for part in step.bounds.iter_mut().chain(&mut step.sources) {
            part.name = bad();
        }
        for kind in &mut step.not_estimated {
            (kind.name, kind.model) = (bad(), bad());
        }
    }
    let misfit = || Misfit { reason: bad(), ..misfit() };
    vec![
        row(HOSTILE, Verdict::FitsChanged { misfit: misfit(), plan: Box::new(plan) }),
        row(HOSTILE, Verdict::DoesNotFit { misfit: misfit(), tried: vec![bad()] }),
        row(HOSTILE, Verdict::Skipped { reason: bad() }),
        row(HOSTILE, Verdict::Failed { reason: bad() }),
    ]
}

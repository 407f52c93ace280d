//! `fungible chips`: the catalog of chips as a table, everything about one, or all as JSON.

use runtime::chips::{
    self, Basis, Chip, Figure, Hosting, Price, PriceRange, Provider, Purchase, Stated,
};
use runtime::{PluginKind, targets};
use serde_json::{Value, json};

use crate::arguments::chips::ChipsArguments;
use crate::console::{self, BOLD, styled};
use crate::failure::{Failure, Outcome};

pub fn run(arguments: &ChipsArguments) -> Outcome {
    let catalog = chips::catalog();
    let shown: Vec<&Chip> = match &arguments.chip {
        Some(name) => vec![find(name)?],
        None => catalog.chips.iter().collect(),
    };
    if arguments.json {
        let chips: Vec<Value> = shown.iter().map(|chip| chip_value(chip)).collect();
        let providers: Vec<Value> = catalog.providers().iter().map(provider_value).collect();
        console::line(json!({"chips": chips, "providers": providers, "file": catalog.file}));
        return Ok(());
    }
    match (&arguments.chip, shown.as_slice()) {
        (Some(_), [chip]) => one(chip),
        _ => overview(&shown),
    }
    if let Some(file) = &catalog.file {
        console::line(format_args!("\nWith {} over the built-in catalog.", file.display()));
    }
    Ok(())
}

fn find(name: &str) -> Result<&'static Chip, Failure> {
    chips::find(name).ok_or_else(|| {
        let known: Vec<&str> = chips::chips().iter().map(|chip| chip.name.as_str()).collect();
        let nearest = chips::catalog().nearest(name).map_or("h100", |chip| &chip.name);
        let known = known.join(", ");
        Failure::usage(format!(
            "there is no chip `{name}`; did you mean `{nearest}`? Known: {known} (without a number)"
        ))
    })
}

/// One line for each chip.
fn overview(shown: &[&Chip]) {
    let heading = [
        "chip",
        "memory GiB",
        "GB/s",
        "bf16 TFLOP/s",
        "8-bit TOP/s",
        "links GB/s",
        "network GB/s",
        "power W",
        "$/h on demand",
        "$/h spot",
    ];
    let mut rows = vec![heading.map(str::to_string).to_vec()];
    for chip in shown {
        let listed = |value: f64, per: f64| match value > 0.0 {
            true => plain(value / per),
            false => "-".to_string(),
        };
        let known = |value: Option<f64>, per| listed(value.unwrap_or(0.0), per);
        let eight_bits = chip.int8_operations_per_second.into_iter();
        let eight_bits = eight_bits.chain(chip.fp8_flops_per_second).reduce(f64::max);
        rows.push(vec![
            chip.name.clone(),
            listed(chip.memory_bytes as f64, (1u64 << 30) as f64),
            listed(chip.memory_bandwidth_bytes_per_second, 1e9),
            listed(chip.bf16_flops_per_second, 1e12),
            known(eight_bits, 1e12),
            listed(chip.link_bytes_per_second, 1e9),
            known(chip.network_bytes_per_second, 1e9),
            known(chip.power_watts, 1.0),
            range(chip.on_demand()),
            range(chip.spot()),
        ]);
    }
    console::table(&rows);
    console::line(
        "\nPer chip. Rates are dense peaks; links and network are one way; power is the most.",
    );
    console::line(
        "Names count chips: v5p-8 and tpu7x-8 are eight (Google's own names count cores: four).",
    );
    let committed = |chip: &&&Chip| {
        chip.price_range(|price| matches!(price.purchase, Purchase::Committed { .. })).is_some()
    };
    let committed: Vec<&str> =
        shown.iter().filter(committed).map(|chip| chip.name.as_str()).collect();
    console::line(match committed.is_empty() {
        true => "No prices for a committed term are listed; a file of your own can hold yours."
            .to_string(),
        false => format!(
            "Prices for a committed term are listed for {} only; a file of your own can hold yours.",
            committed.join(", ")
        ),
    });
    let uncompiled: Vec<&str> =
        shown.iter().filter(|chip| chip.plugin.is_none()).map(|chip| chip.name.as_str()).collect();
    if !uncompiled.is_empty() {
        console::line(format_args!("Nothing here compiles for {}.", uncompiled.join(", ")));
    }
    let mut dates: Vec<&str> = shown.iter().flat_map(|chip| dates(chip)).collect();
    dates.sort_unstable();
    if let (Some(first), Some(last)) = (dates.first(), dates.last()) {
        console::line(format_args!(
            "Sources were read {first} to {last}; `fungible chips h100` shows those of one chip."
        ));
    }
}

fn dates(chip: &Chip) -> impl Iterator<Item = &str> {
    let figures = chip.figures.iter().map(|figure| &figure.basis);
    let prices = chip.prices.iter().map(|price| &price.basis);
    figures.chain(prices).filter_map(|basis| basis.date.as_deref())
}

fn range(prices: Option<PriceRange<'_>>) -> String {
    match prices.map(|prices| prices.dollars()) {
        None => "-".to_string(),
        Some((low, high)) if low == high => format!("{low:.2}"),
        Some((low, high)) => format!("{low:.2}-{high:.2}"),
    }
}

/// Three digits that matter, without an exponent.
fn plain(value: f64) -> String {
    match value {
        value if value >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        value => format!("{value:.1}"),
    }
}

/// Everything about one chip.
fn one(chip: &Chip) {
    console::styled_line(format_args!("{}: {}", styled(BOLD, &chip.name), chip.description));
    let counts: Vec<String> = targets::legal_counts(chip).iter().map(usize::to_string).collect();
    match (&chip.hosting, chip.plugin) {
        (Hosting::Processor, _) => {
            console::line("Nothing is listed of it: it is asked for its memory, and measured.");
        }
        (_, None) => console::line("Nothing here compiles for it."),
        (_, Some(plugin)) if chip.compiles_as == chip.name => {
            console::line(format_args!("Compiled by the {plugin} plugin."));
        }
        (_, Some(plugin)) => console::line(format_args!(
            "Compiled by the {plugin} plugin, as {} is.",
            chip.compiles_as
        )),
    }
    if chip.plugin != Some(PluginKind::Cpu) {
        let numbers = counts.join(", ");
        console::line(format_args!("Comes in {numbers} chips, {}.", hosts(chip)));
        if chip.devices_per_chip > 1 {
            let devices = chip.devices_per_chip;
            console::line(format_args!("A chip shows as {devices} devices."));
        }
        if let Some(basis) = &chip.hosts_basis {
            console::line(format_args!("  from {basis}"));
        }
    }
    if !chip.figures.is_empty() {
        let mut rows = vec![["figure", "per chip", "source"].map(str::to_string).to_vec()];
        rows.extend(chip.figures.iter().map(|figure| {
            vec![label(figure.name).to_string(), text(figure), figure.basis.to_string()]
        }));
        for name in ["int8", "fp8", "network", "clock", "power", "idle_power"] {
            if !chip.figures.iter().any(|figure| figure.name == name) {
                let unknown = "no figure was found".to_string();
                rows.push(vec![label(name).to_string(), "-".to_string(), unknown]);
            }
        }
        console::line("");
        console::table(&rows);
    }
    if chip.prices.is_empty() {
        return console::line("\nNo list price was found.");
    }
    let heading = ["provider", "region", "purchase", "$/chip-hour", "source"];
    let mut rows = vec![heading.map(str::to_string).to_vec()];
    rows.extend(chip.prices.iter().map(|price| {
        vec![
            price.provider.clone(),
            price.region.clone().unwrap_or_else(|| "-".to_string()),
            price.purchase.to_string(),
            format!("{:.2}", price.dollars_per_chip_hour),
            price.basis.to_string(),
        ]
    }));
    console::line("");
    console::table(&rows);
    if !chip.prices.iter().any(|price| matches!(price.purchase, Purchase::Committed { .. })) {
        console::line("No price for a committed term was found for it.");
    }
    console::line("");
    console::table(&providers(&chip.prices));
}

fn hosts(chip: &Chip) -> String {
    let per_host = match chip.chips_per_host() {
        1 => "one of a host".to_string(),
        count => format!("up to {count} of one host"),
    };
    match chip.hosting {
        Hosting::Hosts { gpus_per_host, gpus_per_domain, .. }
            if gpus_per_domain > gpus_per_host =>
        {
            format!("{per_host}, {gpus_per_domain} joined by the fast links")
        }
        _ => per_host,
    }
}

/// What else belongs into the price at the providers of these prices: what each states, then what
/// holds where nothing is stated.
fn providers(prices: &[Price]) -> Vec<Vec<String>> {
    let mut names: Vec<&str> = prices.iter().map(|price| price.provider.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let heading = ["provider", "what else", "value", "source"].map(str::to_string).to_vec();
    let all = extras(&chips::catalog().provider("*"));
    let mut rows = vec![heading];
    for name in names {
        let own = extras(&chips::catalog().provider(name));
        let own = own.into_iter().filter(|extra| !all.contains(extra));
        rows.extend(own.map(|extra| [vec![name.to_string()], extra].concat()));
    }
    rows.extend(all.into_iter().map(|extra| [vec!["(others)".to_string()], extra].concat()));
    rows
}

/// What is said of a provider: what it is about, the value, the source.
fn extras(provider: &Provider) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut row = |what: &str, value: String, basis: &Basis| {
        rows.push(vec![what.to_string(), value, basis.to_string()]);
    };
    if let Some(startup) = &provider.startup_seconds {
        row("start-up", format!("{} min", plain(startup.value / 60.0)), &startup.basis);
    }
    if let Some(egress) = &provider.egress_dollars_per_byte {
        row("egress", format!("{} $/GB", plain_cents(egress.value * 1e9)), &egress.basis);
    }
    if let Some(preemptions) = &provider.spot_preemptions_per_host_hour {
        let per_day = format!("{} per host and day", plain_cents(preemptions.value * 24.0));
        row("spot preemptions", per_day, &preemptions.basis);
    }
    if let Some(included) = &provider.hosts_included {
        let words = if included.value { "in the price" } else { "apart" };
        row("machines", words.to_string(), &included.basis);
    }
    rows
}

/// Without the dust of a conversion.
fn plain_cents(dollars: f64) -> String {
    let text = format!("{dollars:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

fn label(figure: &str) -> &str {
    match figure {
        "memory_bandwidth" => "memory bandwidth",
        "bf16" => "bf16, dense",
        "int8" => "int8, dense",
        "fp8" => "fp8, dense",
        "links" => "links, one way",
        "network" => "network, one way",
        "power" => "power, at most",
        "idle_power" => "power, idle",
        other => other,
    }
}

/// As it was written, but nobody reads bytes one by one.
fn text(figure: &Figure) -> String {
    match figure.name {
        "memory" if figure.text.ends_with(" B") => console::gibibytes(figure.value as u64),
        _ => figure.text.clone(),
    }
}

fn chip_value(chip: &Chip) -> Value {
    let counts = match chip.hosting {
        Hosting::Processor => Value::Null,
        _ => json!(targets::legal_counts(chip)),
    };
    let figures: serde_json::Map<String, Value> = chip
        .figures
        .iter()
        .map(|figure| {
            let mut value = basis_value(&figure.basis);
            value["value"] = json!(figure.value);
            value["text"] = json!(figure.text);
            (figure.name.to_string(), value)
        })
        .collect();
    let prices: Vec<Value> = chip
        .prices
        .iter()
        .map(|price| {
            let mut value = basis_value(&price.basis);
            value["provider"] = json!(price.provider);
            value["region"] = json!(price.region);
            value["purchase"] = json!(price.purchase.to_string());
            value["dollars_per_chip_hour"] = json!(price.dollars_per_chip_hour);
            value
        })
        .collect();
    json!({
        "name": chip.name,
        "description": chip.description,
        "plugin": chip.plugin.map(PluginKind::name),
        "compiles_as": chip.compiles_as,
        "devices_per_chip": chip.devices_per_chip,
        "chips": counts,
        "chips_per_host": chip.chips_per_host(),
        "figures": figures,
        "prices": prices,
    })
}

fn provider_value(provider: &Provider) -> Value {
    fn stated<T: serde::Serialize>(stated: Option<&Stated<T>>) -> Value {
        let Some(stated) = stated else { return Value::Null };
        let mut value = basis_value(&stated.basis);
        value["value"] = json!(stated.value);
        value
    }
    json!({
        "name": provider.name,
        "title": provider.title,
        "startup_seconds": stated(provider.startup_seconds.as_ref()),
        "egress_dollars_per_byte": stated(provider.egress_dollars_per_byte.as_ref()),
        "spot_preemptions_per_host_hour": stated(provider.spot_preemptions_per_host_hour.as_ref()),
        "hosts_included": stated(provider.hosts_included.as_ref()),
    })
}

fn basis_value(basis: &Basis) -> Value {
    json!({
        "source": basis.source,
        "link": basis.link,
        "date": basis.date,
        "note": basis.note,
        "assumed": basis.assumed,
    })
}

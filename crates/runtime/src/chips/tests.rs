//! Which device is of which chip, and what the catalogs of this program and of users come to.

use proptest::prelude::*;

use super::*;

#[test]
fn a_device_is_of_the_chip_that_its_name_says() {
    for (device_kind, chip) in [
        ("TPU v4", "v4"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5e", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v5p", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("TPU v6e", "v6e"),
        ("TPU7x", "tpu7x"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        // Older drivers leave out the vendor.
        ("A100-SXM4-80GB", "a100"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("nvidia h100 80gb hbm3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA H200 141GB HBM3e", "h200"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA GB200", "gb200"),
    ] {
        assert_eq!(
            of_device(device_kind).map(|chip| chip.name.as_str()),
            Some(chip),
            "{device_kind}"
        );
    }
}

#[test]
fn a_device_that_is_not_in_the_table_is_of_no_chip() {
    for device_kind in [
        "",
        "cpu",
        "NVIDIA",
        "TPU",
        "TPU v2",
        "TPU v3",
        "TPU v4 lite",
        "TPU v6",
        // Other memory, and with it other bandwidth.
        "NVIDIA A100-SXM4-40GB",
        "NVIDIA A100-SXM-64GB",
        "NVIDIA A100-PCIE-40GB",
        "NVIDIA A100 80GB PCIe",
        "NVIDIA H100 NVL",
        "NVIDIA H100 PCIe",
        "NVIDIA H200 NVL",
        "NVIDIA GH200 480GB",
        // As fast in some things only.
        "NVIDIA A800-SXM4-80GB",
        "NVIDIA H800",
        "NVIDIA H20",
        // A model that says nothing of its form.
        "NVIDIA A100",
        "NVIDIA H100",
        // A part of one.
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA GeForce RTX 4090",
        "NVIDIA B300 SXM6 AC",
    ] {
        assert_eq!(of_device(device_kind).map(|chip| chip.name.as_str()), None, "{device_kind}");
    }
}

/// Or a device would be of the first of two chips.
#[test]
fn no_two_chips_have_a_name_in_common() {
    let mut names: Vec<Vec<String>> =
        chips().iter().flat_map(|chip| &chip.device_kinds).map(|kind| words(kind)).collect();
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count);
}

fn with(text: &str) -> Result<Catalog, String> {
    Catalog::with("my.toml".as_ref(), text).map_err(|error| error.to_string())
}

fn error(text: &str) -> String {
    with(text).unwrap_err()
}

#[test]
fn the_built_in_catalog_says_where_everything_is_from() {
    let catalog = Catalog::built_in().unwrap();
    let names: Vec<&str> = catalog.chips.iter().map(|chip| chip.name.as_str()).collect();
    let wanted = "cpu v4 v5e v5p v6e tpu7x a100 h100 h200 b200 gb200 mi300x";
    assert_eq!(names.join(" "), wanted);
    for chip in &catalog.chips {
        assert_eq!(chip.name == "cpu", chip.figures.is_empty(), "{}", chip.name);
        for figure in &chip.figures {
            let basis = &figure.basis;
            assert!(basis.assumed || basis.date.is_some(), "{} {}", chip.name, figure.name);
            assert!(!basis.source.contains(".toml, line"), "{} {}", chip.name, figure.name);
        }
        for price in &chip.prices {
            assert!(price.basis.date.is_some(), "{} {}", chip.name, price.provider);
            assert!((0.1..100.0).contains(&price.dollars_per_chip_hour), "{}", chip.name);
            let row = catalog.providers.iter().any(|provider| provider.name == price.provider);
            assert!(row, "no row for the provider {}", price.provider);
        }
        if let (Some(spot), Some(on_demand)) = (chip.spot(), chip.on_demand()) {
            assert!(spot.dollars().0 < on_demand.dollars().0, "{}", chip.name);
        }
    }
    for provider in catalog.providers() {
        let startup = provider.startup_seconds.unwrap().basis;
        assert!(startup.assumed || startup.date.is_some(), "{}", provider.name);
    }
}

#[test]
fn figures_reach_the_fields_in_their_units() {
    let catalog = Catalog::built_in().unwrap();
    let v5p = catalog.find("v5p").unwrap();
    assert_eq!(v5p.memory_bytes, 95 << 30);
    assert_eq!(v5p.memory_bandwidth_bytes_per_second, 2.765e12);
    assert_eq!(v5p.bf16_flops_per_second, 459e12);
    assert_eq!(v5p.int8_operations_per_second, Some(918e12));
    assert_eq!(v5p.link_bytes_per_second, 600e9);
    assert_eq!(v5p.network_bytes_per_second, Some(6.25e9));
    assert_eq!((v5p.clock_hertz, v5p.clock_was_checked()), (Some(1.75e9), true));
    assert_eq!((v5p.power_watts, v5p.chips_per_host()), (None, 4));
    let h100 = catalog.find("h100").unwrap();
    let Hosting::Hosts { gpu: Some(gpu), network_bytes_per_second, .. } = &h100.hosting else {
        panic!("{:?}", h100.hosting)
    };
    assert_eq!(*network_bytes_per_second, 50e9);
    // The compiler's text must be what the driver of a real one gives, digit for digit.
    assert_eq!(gpu.memory_bandwidth_bytes_per_second, 3_352_320_000_000);
    assert_eq!((gpu.clock_gigahertz, gpu.matrix_clock_gigahertz), (1.98, 1.8295201));
    assert_eq!(gpu.dnn_version, [8, 9, 4]);
}

#[test]
fn a_users_file_goes_over_the_built_in_one() {
    let catalog = with(
        r#"
        [sources.contract]
        title = "our contract"
        date = "2026-10-01"

        [[chip]]
        name = "h100"
        memory = { value = "94 GB", source = "contract", note = "the larger one" }
        power = "650 W"

        [[price]]
        chip = "h100"
        provider = "nebius"
        region = "eu-north1"
        purchase = "on-demand"
        price = "2.10 $/chip-hour"
        source = "contract"

        [[price]]
        chip = "v6e"
        provider = "gcp"
        purchase = "committed"
        term = "1 year"
        price = "1.50 $/chip-hour"
        source = "contract"

        [[provider]]
        name = "nebius"
        startup = "4 min"
    "#,
    )
    .unwrap();
    let h100 = catalog.find("h100").unwrap();
    assert_eq!((h100.memory_bytes, h100.power_watts), (94_000_000_000, Some(650.0)));
    let Hosting::Hosts { gpu: Some(gpu), .. } = &h100.hosting else { panic!("{h100:?}") };
    assert_eq!(gpu.memory_bytes, 94_000_000_000);
    let basis =
        |name| h100.figures.iter().find(|figure| figure.name == name).unwrap().basis.clone();
    assert_eq!(basis("memory").to_string(), "our contract, 2026-10-01 (the larger one)");
    assert_eq!(basis("power").to_string(), "my.toml, line 9");
    // The one row was replaced, and the others are still there.
    let of_nebius =
        |price: &Price| price.provider == "nebius" && price.purchase == Purchase::OnDemand;
    assert_eq!(h100.price_range(of_nebius).unwrap().dollars(), (2.10, 2.10));
    let before = Catalog::built_in().unwrap();
    assert_eq!(h100.prices.len(), before.find("h100").unwrap().prices.len());
    let v6e = catalog.find("v6e").unwrap();
    let committed =
        |price: &Price| matches!(&price.purchase, Purchase::Committed { term } if term == "1 year");
    assert_eq!(v6e.price_range(committed).unwrap().dollars(), (1.50, 1.50));
    assert_eq!(v6e.on_demand(), before.find("v6e").unwrap().on_demand());
    let nebius = catalog.provider("nebius");
    assert_eq!(nebius.startup_seconds.unwrap().value, 240.0);
    // What it does not state comes from the row of all, and is still told to be assumed.
    assert!(nebius.spot_preemptions_per_host_hour.unwrap().basis.assumed);
}

#[test]
fn a_chip_of_ones_own_is_like_another() {
    let catalog = with(
        r#"
        [[chip]]
        name = "h100-nvl"
        like = "h100"
        memory = "94 GB"
        memory_bandwidth = "3.9 TB/s"

        [[chip]]
        name = "v6e.ours"
        like = "v6e"

        [[price]]
        chip = "*"
        provider = "own"
        purchase = "on-demand"
        price = "1 $/chip-hour"

        [[price]]
        chip = "v6e.ours"
        provider = "own"
        purchase = "on-demand"
        price = "0.5 $/chip-hour"
    "#,
    )
    .unwrap();
    let nvl = catalog.find("h100-nvl").unwrap();
    assert_eq!(nvl.compiles_as, "h100");
    assert_eq!(nvl.bf16_flops_per_second, 989e12);
    let Hosting::Hosts { gpu: Some(gpu), .. } = &nvl.hosting else { panic!("{nvl:?}") };
    assert_eq!(gpu.memory_bytes, 94_000_000_000);
    assert_eq!(gpu.memory_bandwidth_bytes_per_second, 3_900_000_000_000);
    // Neither the other's devices nor its prices are this one's.
    assert!(nvl.device_kinds.is_empty());
    assert_eq!(nvl.on_demand().unwrap().to_string(), "$1.00 (own)");
    assert_eq!(catalog.find("v6e.ours").unwrap().on_demand().unwrap().dollars(), (0.5, 0.5));
    assert_eq!(catalog.find("tpu7x").unwrap().on_demand().unwrap().dollars(), (1.0, 1.0));
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    let chip = |line: &str| error(&format!("[[chip]]\nname = \"h100\"\n{line}\n"));
    for (found, wanted) in [
        (
            chip("memory = 94"),
            "my.toml, line 3: `memory` is 94, which has no unit; write one of B, MB, GB, TB, MiB, GiB, TiB after it, such as \"32 GiB\"",
        ),
        (
            chip("memory = { value = \"94\" }"),
            "my.toml, line 3: `value` is 94, which has no unit; write one of B, MB, GB, TB, MiB, GiB, TiB after it, such as \"32 GiB\"",
        ),
        (
            chip("power = \"700 w\""),
            "my.toml, line 3: `power` has the unit `w`; did you mean `W`? It is written in W, kW, MW",
        ),
        (
            chip(
                "memory = { value = \"94 GB\", source = \"contrat\" }\n[sources.contract]\ntitle = \"c\"\ndate = \"2026\"",
            ),
            "my.toml, line 3: there is no source `contrat`; did you mean `contract`? Known: ",
        ),
        (
            chip("power = { value = \"700 W\", assumed = true }"),
            "my.toml, line 3: `reason` is missing in `power` of the chip h100; say why it is assumed so",
        ),
        (
            chip("memry = \"94 GB\""),
            "my.toml, line 3: there is no key `memry` in the chip h100; did you mean `memory`?",
        ),
        (
            chip("like = \"h200\""),
            "my.toml, line 3: there is a chip `h100` already; leave out `like`",
        ),
        (
            chip("device_kinds = [\"NVIDIA H200\"]"),
            "both h100 and h200 have the device kind \"NVIDIA H200\"",
        ),
        (chip("counts = [8, 0]"), "`counts` is 0; it must be a whole number of at least 1"),
        (chip("slices = \"cube\""), "there is no list of slices `cube`; did you mean `cubes`?"),
        (
            error("[[chip]]\nname = \"h101\""),
            "my.toml, line 2: there is no chip `h101`; did you mean `h100`? For a chip of your own add like = \"h100\"",
        ),
        (
            error("[[chip]]\nname = \"h100-8\"\nlike = \"h100\""),
            "my.toml, line 2: a chip cannot be called \"h100-8\"",
        ),
        (
            error("[[chip]]\nname = \"mine\"\nlike = \"h1000\""),
            "my.toml, line 3: there is no chip `h1000`; did you mean `h100`?",
        ),
        (
            error("[[chip]]\nname = \"mine\"\nplugin = \"cuda\"\nmemory = \"1 GB\""),
            "my.toml, line 1: `memory_bandwidth` is missing in the chip mine",
        ),
        (
            error("[[chips]]"),
            "my.toml, line 1: there is no key `chips` in the catalog; did you mean `chip`?",
        ),
        (error("a = = 1"), "my.toml, line 1: "),
        (
            error(
                "[[price]]\nchip = \"v6\"\nprovider = \"x\"\npurchase = \"spot\"\nprice = \"1 $/chip-hour\"",
            ),
            "my.toml, line 2: there is no chip `v6`; did you mean `v6e`?",
        ),
        (
            error(
                "[[price]]\nchip = \"*\"\nprovider = \"x\"\npurchase = \"ondemand\"\nprice = \"1 $/chip-hour\"",
            ),
            "my.toml, line 4: there is no purchase `ondemand`; did you mean `on-demand`?",
        ),
        (
            error(
                "[[price]]\nchip = \"*\"\nprovider = \"x\"\npurchase = \"committed\"\nprice = \"1 $/chip-hour\"",
            ),
            "`term` is missing in [[price]]; say for how long, such as \"1 year\"",
        ),
        (
            error("[[price]]\nchip = \"*\"\nprovider = \"x\"\npurchase = \"spot\"\nprice = 2.5"),
            "`price` is 2.5, which has no unit; write one of $/chip-hour after it",
        ),
        (
            error("[slices.mine]\n\"2x2x2\" = \"2x2\""),
            "a slice of 2x2x2 chips cannot be cut into hosts of 2x2",
        ),
        (error("[slices.mine]\n\"2xtwo\" = \"2x2\""), "\"2xtwo\" is no shape of chips"),
        (
            error("[sources.mine]\ntitle = \"x\"\ndate = \"yesterday\""),
            "my.toml, line 3: \"yesterday\" is no date",
        ),
    ] {
        assert!(found.contains(wanted), "{found}\n  instead of\n{wanted}");
    }
}

proptest! {
    #[test]
    fn any_text_is_survived(text in "(?s).{0,80}") {
        let _ = with(&text);
    }

    /// Text that gets past the parser.
    #[test]
    fn any_file_is_survived(
        section in "\\[\\[(chip|price|provider)\\]\\]|\\[(slices|sources)\\.[a-z]\\]",
        lines in prop::collection::vec(
            "(name|chip|like|memory|network|slices|counts|chips_per_host|price|purchase|provider|startup|title|date|\"2x4\") = (\"(h100|v6e|mine|spot|flat|[0-9]{1,3} (GB|GB/s|W)|2x2|\\*)\"|[0-9.]{1,3}|\\[[0-9, ]{0,5}\\]|true|\\{ value = \"1 GB\" \\})",
            0..6,
        ),
    ) {
        let _ = with(&format!("{section}\n{}", lines.join("\n")));
    }
}

/// The example of docs/chips.md does what the text around it says.
#[test]
fn the_documented_file_is_read() {
    let document = include_str!("../../../../docs/chips.md");
    let example = document.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let catalog = with(example).unwrap();
    assert_eq!(catalog.find("h100").unwrap().power_watts, Some(650.0));
    let nvl = catalog.find("h100-nvl").unwrap();
    assert_eq!((nvl.bf16_flops_per_second, nvl.power_watts), (835e12, Some(650.0)));
    let v6e = catalog.find("v6e").unwrap();
    assert_eq!(v6e.on_demand().unwrap().low.provider, "own");
    let own = catalog.provider("own");
    assert_eq!(own.egress_dollars_per_byte.map(|egress| egress.value), Some(0.0));
    assert!(!own.startup_seconds.unwrap().basis.assumed);
}

//! Which device is of which chip, and what the catalogs of this program and of users come to.

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

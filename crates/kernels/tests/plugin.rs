//! The kernels as compiled programs call them: through the real CPU plugin, with StableHLO as text.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod random;
#[path = "../../pjrt/tests/support/mod.rs"]
mod support;

use std::sync::Once;

use kernels::attention::{Pages, Queries, Scores, attention};
use kernels::pages::{Numbers, PageSizes};
use kernels::panels::{Factors, Values, pack_bf16, pack_f32, pack_q4, pack_q8};
use kernels::{Level, product};
use pjrt::{Argument, Buffer, Client, ElementType};
use random::Random;
use support::{compile_options, cpu_client, cpu_plugin, f32_bytes, f32_values, skip};

/// A client whose programs can use the kernels.
fn client(test: &str) -> Option<Client> {
    static REGISTERED: Once = Once::new();
    let plugin = cpu_plugin(test)?;
    if !plugin.has_ffi() {
        let refused = kernels::register(&plugin).unwrap_err();
        assert!(refused.contains("does not call native functions"), "{refused}");
        skip(test, "this plugin has no foreign function interface");
        return None;
    }
    REGISTERED.call_once(|| kernels::register(&plugin).unwrap());
    cpu_client(test)
}

/// An array for a program.
struct Array {
    element_type: ElementType,
    dimensions: Vec<i64>,
    bytes: Vec<u8>,
}

impl Array {
    fn f32(values: &[f32], dimensions: &[i64]) -> Array {
        let bytes = f32_bytes(values);
        Array { element_type: ElementType::F32, dimensions: dimensions.to_vec(), bytes }
    }

    fn s32(values: &[i32], dimensions: &[i64]) -> Array {
        let bytes = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
        Array { element_type: ElementType::S32, dimensions: dimensions.to_vec(), bytes }
    }

    fn bits(values: &[u16], element_type: ElementType, dimensions: &[i64]) -> Array {
        let bytes = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
        Array { element_type, dimensions: dimensions.to_vec(), bytes }
    }

    fn u8(values: &[u8], dimensions: &[i64]) -> Array {
        let bytes = values.to_vec();
        Array { element_type: ElementType::U8, dimensions: dimensions.to_vec(), bytes }
    }

    fn buffer(&self, client: &Client) -> Buffer {
        let device = &client.addressable_devices()[0];
        client.buffer_from_slice(device, &self.bytes, self.element_type, &self.dimensions).unwrap()
    }

    /// Its type as StableHLO writes it.
    fn tensor(&self) -> String {
        tensor(&self.element_type.to_string(), &self.dimensions)
    }
}

fn tensor(element_type: &str, dimensions: &[i64]) -> String {
    let sizes: Vec<String> = dimensions.iter().map(|size| format!("{size}x")).collect();
    format!("tensor<{}{}>", sizes.concat(), element_type.replace("s32", "i32").replace("u8", "ui8"))
}

/// Runs a program of one call, all of whose arguments are borrowed.
fn run(
    client: &Client,
    target: &str,
    attributes: &str,
    inputs: &[Array],
    output: &[i64],
) -> pjrt::Result<Vec<f32>> {
    let names: Vec<String> = (0..inputs.len()).map(|number| format!("%{number}")).collect();
    let types: Vec<String> = inputs.iter().map(Array::tensor).collect();
    let arguments: Vec<String> =
        names.iter().zip(&types).map(|(name, of)| format!("{name}: {of}")).collect();
    let (arguments, names, types) = (arguments.join(", "), names.join(", "), types.join(", "));
    let output = tensor("f32", output);
    let program = format!(
        r#"
func.func @main({arguments}) -> {output} {{
  %out = "stablehlo.custom_call"({names}) <{{call_target_name = "{target}", api_version = 4 : i32,
    backend_config = {{{attributes}}}}}> : ({types}) -> {output}
  "func.return"(%out) : ({output}) -> ()
}}"#
    );
    let executable = client.compile(&program, &compile_options(1))?;
    let buffers: Vec<Buffer> = inputs.iter().map(|input| input.buffer(client)).collect();
    let run = executable.execute(vec![buffers.iter().map(Argument::Borrowed).collect()])?;
    run.wait()?;
    Ok(f32_values(&run.outputs[0][0].to_vec()?))
}

/// A matrix's parts as a program is given them.
fn parts(values: Values<'_>, panels: i64, k: i64) -> Vec<Array> {
    let factors = |factors: Factors<'_>, group: usize| {
        let dimensions = [panels, k / group as i64, 16];
        match factors {
            Factors::F32(values) => Array::f32(values, &dimensions),
            Factors::F16(values) => Array::bits(values, ElementType::F16, &dimensions),
        }
    };
    match values {
        Values::F32(values) => vec![Array::f32(values, &[panels, k, 16])],
        Values::Bf16(values) => {
            vec![Array::bits(values, ElementType::Bf16, &[panels, k / 2, 16, 2])]
        }
        Values::Q4(q) => vec![
            Array::u8(q.numbers, &[panels, k / 32, 4, 16, 4]),
            factors(q.scales, q.group),
            factors(q.offsets, q.group),
        ],
        Values::Q8(q) => vec![
            Array::u8(q.numbers, &[panels, k / 32, 8, 16, 4]),
            factors(q.scales, q.group),
            factors(q.offsets, q.group),
        ],
    }
}

#[test]
fn programs_multiply_with_panels_and_read_their_rows() {
    let Some(client) = client("programs_multiply_with_panels_and_read_their_rows") else { return };
    let mut random = Random::new(1);
    let (m, n, k) = (3, 20, 64);
    let weights = random.numbers(n * k);
    let numbers: Vec<u8> = (0..n * k).map(|_| random.next() as u8 & 15).collect();
    let (scales, offsets) = (random.numbers(n * k / 16), random.numbers(n * k / 16));
    let half = n * k / 32;
    let matrices = [
        pack_f32(n, k, &weights),
        pack_bf16(n, k, &weights),
        pack_q4([n, k, 32], &numbers, &scales[..half], &offsets[..half], true),
        pack_q8([n, k, 16], &numbers, &scales, &offsets, false),
    ];
    for packed in &matrices {
        let matrix = packed.matrix().unwrap();
        let x = random.numbers(m * k);
        let mut expected = vec![0.0; m * n];
        product(Level::best(), &x, &matrix, &mut expected).unwrap();
        let mut inputs = vec![Array::f32(&x, &[m as i64, k as i64])];
        inputs.extend(parts(packed.values(), 2, k as i64));
        let output = [m as i64, n as i64];
        let got = run(&client, "fungible.panel_product", "", &inputs, &output).unwrap();
        assert_eq!(got, expected);
        // One row too many for the panels.
        let error = run(&client, "fungible.panel_product", "", &inputs, &[m as i64, 33]);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("no panels of 64 columns and 33 rows"), "{error}");

        let ids = [19, 0, -1, 1000, 7];
        inputs[0] = Array::s32(&ids, &[5]);
        let got = run(&client, "fungible.panel_rows", "", &inputs, &[5, k as i64]).unwrap();
        let mut expected = vec![0.0; k];
        for (id, got) in ids.into_iter().zip(got.chunks(k)) {
            matrix.read_row(usize::try_from(id).unwrap_or(usize::MAX), &mut expected);
            assert_eq!(got, expected, "{id}");
        }
        let error = run(&client, "fungible.panel_rows", "", &inputs[..1], &[5, k as i64]);
        assert!(error.unwrap_err().to_string().contains("has no values"));
    }
}

/// The memory of pages goes in and comes out, and what a step writes is there in the next.
#[test]
fn programs_write_pages_in_place_and_attend_to_them() {
    const PAGES: &str = "tensor<4x16x2x8xbf16>";
    let Some(client) = client("programs_write_pages_in_place_and_attend_to_them") else { return };
    let alias = |output: usize, operand: usize| {
        format!(
            "#stablehlo.output_operand_alias<output_tuple_indices = [{output}], operand_index = {operand}, operand_tuple_indices = []>"
        )
    };
    let aliases = format!("output_operand_aliases = [{}, {}]", alias(0, 3), alias(1, 4));
    let program = |aliases: &str, scale: &str| {
        format!(
            r#"
func.func @main(%key: tensor<3x2x8xf32>, %value: tensor<3x2x8xf32>, %slots: tensor<3xi32>,
    %key_pages: {PAGES} {{tf.aliasing_output = 1 : i32}}, %value_pages: {PAGES} {{tf.aliasing_output = 2 : i32}},
    %query: tensor<1x3x2x3x8xf32>, %table: tensor<1x2xi32>, %positions: tensor<1x3xi32>)
    -> (tensor<1x3x2x3x8xf32>, {PAGES}, {PAGES}) {{
  %pages:2 = "stablehlo.custom_call"(%key, %value, %slots, %key_pages, %value_pages) <{{
    call_target_name = "fungible.write_pages", api_version = 4 : i32, backend_config = {{}}{aliases}}}>
    : (tensor<3x2x8xf32>, tensor<3x2x8xf32>, tensor<3xi32>, {PAGES}, {PAGES}) -> ({PAGES}, {PAGES})
  %out = "stablehlo.custom_call"(%query, %pages#0, %pages#1, %table, %positions) <{{
    call_target_name = "fungible.paged_attention", api_version = 4 : i32,
    backend_config = {{scale = {scale}, window = 20 : i64, soft_cap = 4.0 : f32}}}}>
    : (tensor<1x3x2x3x8xf32>, {PAGES}, {PAGES}, tensor<1x2xi32>, tensor<1x3xi32>) -> tensor<1x3x2x3x8xf32>
  "func.return"(%out, %pages#0, %pages#1) : (tensor<1x3x2x3x8xf32>, {PAGES}, {PAGES}) -> ()
}}"#
        )
    };
    let executable = client
        .compile(&program(&format!(", {aliases}"), "0.125 : f32"), &compile_options(1))
        .unwrap();
    // Both in place, and neither copied on the way.
    const PAGES_BYTES: u64 = 2 * 4 * 16 * 2 * 8 * 2;
    executable.executable().check_donation(PAGES_BYTES).unwrap();
    let temporary_bytes = executable.executable().memory_stats().unwrap().temporary_bytes;
    assert!(temporary_bytes < PAGES_BYTES / 2, "{temporary_bytes}");
    let sizes = PageSizes { pages: 4, page: 16, kv_heads: 2, head_dim: 8 };
    let mut random = Random::new(2);
    let empty = Array::bits(&[0; 4 * 16 * 2 * 8], ElementType::Bf16, &[4, 16, 2, 8]);
    let (mut key_pages, mut value_pages) = (empty.buffer(&client), empty.buffer(&client));
    let mut expected_keys = [0_u16; 4 * 16 * 2 * 8];
    let mut expected_values = expected_keys;
    let table = [2, 1];
    // Ten steps of three tokens: 30 of the 32 places that the table has.
    for step in 0..10 {
        let positions: [i32; 3] = std::array::from_fn(|at| 3 * step + at as i32);
        let slots = positions.map(|at| table[at as usize / 16] * 16 + at % 16);
        let (key, value) = (random.numbers(3 * 2 * 8), random.numbers(3 * 2 * 8));
        let query = random.numbers(3 * 2 * 3 * 8);
        let inputs = [
            Array::f32(&key, &[3, 2, 8]).buffer(&client),
            Array::f32(&value, &[3, 2, 8]).buffer(&client),
            Array::s32(&slots, &[3]).buffer(&client),
            Array::f32(&query, &[1, 3, 2, 3, 8]).buffer(&client),
            Array::s32(&table, &[1, 2]).buffer(&client),
            Array::s32(&positions, &[1, 3]).buffer(&client),
        ];
        let mut arguments: Vec<Argument<'_>> = inputs.iter().map(Argument::Borrowed).collect();
        arguments.insert(3, Argument::Donated(value_pages));
        arguments.insert(3, Argument::Donated(key_pages));
        let mut run = executable.execute(vec![arguments]).unwrap();
        run.wait().unwrap();
        let mut outputs = run.outputs.remove(0).into_iter();
        let out = f32_values(&outputs.next().unwrap().to_vec().unwrap());
        (key_pages, value_pages) = (outputs.next().unwrap(), outputs.next().unwrap());

        for (expected, tokens) in [(&mut expected_keys, &key), (&mut expected_values, &value)] {
            for (slot, token) in slots.iter().zip(tokens.chunks(16)) {
                for (place, number) in expected[*slot as usize * 16..].iter_mut().zip(token) {
                    *place = half::bf16::from_f32(*number).to_bits();
                }
            }
        }
        for (pages, expected) in [(&key_pages, &expected_keys), (&value_pages, &expected_values)] {
            let bytes = pages.to_vec().unwrap();
            assert!(bytes.chunks(2).zip(expected).all(|(got, bits)| got == bits.to_ne_bytes()));
        }
        let queries =
            Queries { numbers: &query, batch: 1, seq: 3, group: 3, positions: &positions };
        let pages = Pages {
            sizes,
            keys: Numbers::Bf16(&expected_keys),
            values: Numbers::Bf16(&expected_values),
            table: &table,
        };
        let scores = Scores { scale: 0.125, window: 20, soft_cap: 4.0 };
        let mut expected = vec![0.0; query.len()];
        attention(Level::best(), &queries, &pages, &scores, &mut expected).unwrap();
        assert_eq!(out, expected, "step {step}");
    }

    // Without aliases, writing a few places would mean copying all pages, and is refused.
    for (aliases, scale, why) in [
        (String::new(), "0.125 : f32", "in place"),
        (format!(", {aliases}"), "\"much\"", "the attribute `scale` is missing or no fraction"),
    ] {
        let executable = client.compile(&program(&aliases, scale), &compile_options(1)).unwrap();
        let inputs = [
            Array::f32(&[0.0; 48], &[3, 2, 8]).buffer(&client),
            Array::f32(&[0.0; 48], &[3, 2, 8]).buffer(&client),
            Array::s32(&[0; 3], &[3]).buffer(&client),
            empty.buffer(&client),
            empty.buffer(&client),
            Array::f32(&[0.0; 144], &[1, 3, 2, 3, 8]).buffer(&client),
            Array::s32(&[0; 2], &[1, 2]).buffer(&client),
            Array::s32(&[0; 3], &[1, 3]).buffer(&client),
        ];
        let arguments = inputs.iter().map(Argument::Borrowed).collect();
        let error = executable.execute(vec![arguments]).and_then(|run| run.wait()).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
}

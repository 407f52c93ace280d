//! What goes wrong, and what it is called: files that are no plugins, programs that do not parse,
//! arguments that do not fit.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

mod support;

use std::path::Path;

use pjrt::{Argument, Code, ElementType, Error, Plugin};
use support::{compile_options, cpu_client, cpu_plugin_path, f32_bytes};

const DOUBLE: &str = r#"
func.func @main(%x: tensor<2xf32>) -> tensor<2xf32> {
  %y = "stablehlo.add"(%x, %x) : (tensor<2xf32>, tensor<2xf32>) -> tensor<2xf32>
  "func.return"(%y) : (tensor<2xf32>) -> ()
}"#;

fn load_reason(path: &Path) -> String {
    match Plugin::load(path).unwrap_err() {
        Error::Load { reason, .. } => reason,
        other => panic!("{other}"),
    }
}

fn temporary_file(name: &str, contents: &[u8]) -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("fungible-pjrt-{}-{name}", std::process::id()));
    std::fs::write(&path, contents).unwrap();
    path
}

#[test]
fn a_missing_file_is_said_to_be_missing() {
    let reason = load_reason("/nonexistent/plugin.so".as_ref());
    assert_eq!(reason, "there is no such file, so install it or correct the path");
}

#[test]
fn a_folder_is_said_to_be_one() {
    assert!(load_reason(&std::env::temp_dir()).contains("folder"));
}

#[test]
fn a_text_file_is_no_library() {
    let path = temporary_file("text", b"this is some text, and no library at all");
    let reason = load_reason(&path);
    std::fs::remove_file(&path).unwrap();
    assert!(reason.contains("not a library"), "{reason}");
}

#[test]
fn an_empty_file_is_half_a_download() {
    let path = temporary_file("empty", b"");
    let reason = load_reason(&path);
    std::fs::remove_file(&path).unwrap();
    assert!(reason.contains("half a download"), "{reason}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_library_for_another_processor_is_named() {
    // An ELF header of 64 bits whose machine is 0xfffe.
    let mut header = b"\x7fELF\x02\x01\x01".to_vec();
    header.resize(18, 0);
    header.extend([0xfe, 0xff]);
    header.resize(256, 0);
    let path = temporary_file("machine", &header);
    let reason = load_reason(&path);
    std::fs::remove_file(&path).unwrap();
    assert!(
        reason.contains("another processor") && reason.contains(std::env::consts::ARCH),
        "{reason}"
    );
}

/// Half of a real plugin: the loader itself would end this process with a bus error.
#[test]
fn a_truncated_plugin_does_not_load() {
    let test = "a_truncated_plugin_does_not_load";
    let Some(path) = cpu_plugin_path() else { return support::skip(test, "no CPU plugin") };
    let whole = std::fs::read(path).unwrap();
    let path = temporary_file("truncated", &whole[..whole.len() / 2]);
    let reason = load_reason(&path);
    std::fs::remove_file(&path).unwrap();
    assert!(reason.contains("half a download"), "{reason}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_library_without_the_symbol_is_no_plugin() {
    let test = "a_library_without_the_symbol_is_no_plugin";
    // This process has the C library mapped, so its file is known.
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let Some(library) =
        maps.lines().filter_map(|line| line.split_whitespace().last()).find(|path| {
            Path::new(path)
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("libc.so"))
        })
    else {
        return support::skip(test, "the C library is linked statically");
    };
    let error = Plugin::load(library.as_ref()).unwrap_err();
    assert!(matches!(error, Error::NotAPlugin { .. }), "{error}");
    assert!(error.to_string().contains("GetPjrtApi"), "{error}");
}

/// A library with nothing of a plugin but its version. C, since a library of Rust's would have to be
/// a crate of its own; `None` where there is no compiler for it.
#[cfg(target_os = "linux")]
fn plugin_of_version(major: i32, minor: i32) -> Option<std::path::PathBuf> {
    let source = format!(
        r#"
#include <stddef.h>
struct version {{ size_t struct_size; void *extension_start; int major; int minor; }};
struct api {{ size_t struct_size; void *extension_start; struct version version; }};
static const struct api api = {{
    sizeof(struct api), NULL, {{ sizeof(struct version), NULL, {major}, {minor} }}
}};
const struct api *GetPjrtApi(void) {{ return &api; }}
"#
    );
    let source = temporary_file(&format!("version-{major}-{minor}.c"), source.as_bytes());
    let library = source.with_extension("so");
    let compiler = std::process::Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .status();
    std::fs::remove_file(&source).unwrap();
    match compiler {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        status => {
            assert!(status.unwrap().success());
            Some(library)
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_plugin_of_another_interface_is_named_with_both_versions() {
    let test = "a_plugin_of_another_interface_is_named_with_both_versions";
    for (major, minor) in [(0, 53), (1, 3)] {
        let Some(path) = plugin_of_version(major, minor) else {
            return support::skip(test, "no C compiler called cc");
        };
        let error = Plugin::load(&path).unwrap_err();
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(error, Error::ApiMismatch { .. }), "{error}");
        assert_eq!(
            error.to_string(),
            format!(
                "{} speaks PJRT API {major}.{minor}, and this program needs 0.54 or a later 0.x: install another version of the plugin",
                path.display()
            )
        );
    }
}

#[test]
fn a_plugin_is_loaded_once() {
    let test = "a_plugin_is_loaded_once";
    let Some(path) = cpu_plugin_path() else { return support::skip(test, "no CPU plugin") };
    let (first, second) = (Plugin::load(&path).unwrap(), Plugin::load(&path).unwrap());
    assert_eq!(format!("{first:?}"), format!("{second:?}"));
}

#[test]
fn a_program_that_does_not_parse_is_refused() {
    let Some(client) = cpu_client("a_program_that_does_not_parse_is_refused") else { return };
    let error = client.compile("this is no program", &compile_options(1)).unwrap_err();
    assert!(matches!(error.code(), Some(Code::InvalidArgument | Code::Unknown)), "{error:?}");
    assert!(error.to_string().contains("this"), "{error}");
}

#[test]
fn options_that_do_not_parse_are_refused() {
    let Some(client) = cpu_client("options_that_do_not_parse_are_refused") else { return };
    let error = client.compile(DOUBLE, b"\xff\xff\xff").unwrap_err();
    assert_eq!(error.code(), Some(Code::InvalidArgument), "{error}");
}

#[test]
fn data_of_the_wrong_length_is_refused() {
    let Some(client) = cpu_client("data_of_the_wrong_length_is_refused") else { return };
    let device = &client.addressable_devices()[0];
    for (bytes, dimensions) in
        [(7, &[2][..]), (9, &[2]), (8, &[-2]), (8, &[i64::MAX, 2]), (0, &[2])]
    {
        let refused =
            client.buffer_from_slice(device, &vec![0; bytes], ElementType::F32, dimensions);
        assert!(
            matches!(refused, Err(Error::InvalidInput { .. })),
            "{bytes} bytes as {dimensions:?}"
        );
    }
    let x =
        client.buffer_from_slice(device, &f32_bytes(&[1., 2.]), ElementType::F32, &[2]).unwrap();
    assert!(matches!(x.to_host(&mut [0; 7]), Err(Error::InvalidInput { .. })));
}

#[test]
fn arguments_that_do_not_fit_are_refused() {
    let Some(client) = cpu_client("arguments_that_do_not_fit_are_refused") else { return };
    let executable = client.compile(DOUBLE, &compile_options(1)).unwrap();
    let device = &client.addressable_devices()[0];
    let x =
        client.buffer_from_slice(device, &f32_bytes(&[1., 2.]), ElementType::F32, &[2]).unwrap();
    let wide = client.buffer_from_slice(device, &[0; 12], ElementType::F32, &[3]).unwrap();
    assert!(matches!(executable.execute(vec![]), Err(Error::InvalidInput { .. })));
    assert!(matches!(executable.execute(vec![vec![], vec![]]), Err(Error::InvalidInput { .. })));
    for arguments in [
        vec![],
        vec![Argument::Borrowed(&x), Argument::Borrowed(&x)],
        vec![Argument::Borrowed(&wide)],
    ] {
        let outcome = executable.execute(vec![arguments]).and_then(|run| run.wait());
        assert!(outcome.unwrap_err().code().is_some());
    }
    // The client still works.
    let run = executable.execute(vec![vec![Argument::Borrowed(&x)]]).unwrap();
    assert_eq!(run.outputs[0][0].to_vec().unwrap(), f32_bytes(&[2., 4.]));
}

/// Handles of one client must not reach another, which may be another plugin.
#[test]
fn handles_of_another_client_are_refused() {
    let Some(client) = cpu_client("handles_of_another_client_are_refused") else { return };
    let other = support::new_cpu_client(
        &support::cpu_plugin("handles_of_another_client_are_refused").unwrap(),
    );
    let (device, stranger) = (&client.devices()[0], &other.devices()[0]);
    assert_ne!(device, stranger);
    let data = f32_bytes(&[1., 2.]);
    assert!(matches!(
        client.buffer_from_slice(stranger, &data, ElementType::F32, &[2]),
        Err(Error::InvalidInput { .. })
    ));
    let theirs = other.buffer_from_slice(stranger, &data, ElementType::F32, &[2]).unwrap();
    assert!(matches!(theirs.copy_to_device(device), Err(Error::InvalidInput { .. })));
    let executable = client.compile(DOUBLE, &compile_options(1)).unwrap();
    let refused = executable.execute(vec![vec![Argument::Borrowed(&theirs)]]);
    assert!(matches!(refused, Err(Error::InvalidInput { .. })));
}

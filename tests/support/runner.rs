//! A runner for tests that need their own `main`: their process is started again, as a compile
//! worker or with another environment, which the standard harness does not allow.

use std::panic::{AssertUnwindSafe, catch_unwind};

pub type Test<'a> = (&'a str, Box<dyn Fn() + 'a>);

/// Runs the tests whose names contain the first argument that is not a flag, and exits with
/// failure if one of them panics.
pub fn run_all(tests: Vec<Test<'_>>) -> ! {
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    if std::env::args().any(|argument| argument == "--list") {
        tests.iter().for_each(|(name, _)| println!("{name}: test"));
        runtime::end_process(0);
    }
    let (mut passed, mut failed) = (0, 0);
    for (name, test) in &tests {
        if filter.as_ref().is_some_and(|filter| !name.contains(filter.as_str())) {
            continue;
        }
        let outcome = catch_unwind(AssertUnwindSafe(test));
        println!("test {name} ... {}", if outcome.is_ok() { "ok" } else { "FAILED" });
        if outcome.is_ok() { passed += 1 } else { failed += 1 }
    }
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    let left_out = tests.len() - passed - failed;
    println!(
        "\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {left_out} filtered out\n"
    );
    runtime::end_process(i32::from(failed > 0));
}

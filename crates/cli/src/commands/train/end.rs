//! The end of a run: its report, what is said of it, its exit code, and how this process parts from the
//! others.

use runtime::distributed::ProcessGroup;
use serde_json::{Value, json};
use train::trainer::{Outcome as End, Records, RunEnd, Setup, TrainError};

use super::Told;
use super::show::Screen;
use crate::console::{self, BOLD, shell_word, styled};
use crate::failure::{Exit, Failure, Outcome};

/// How a run ended, or why.
pub type Ended = Result<End, TrainError>;

/// Leaves the others as the run ended: `Ok` is an end that all processes come to, whatever its exit
/// code; `Err` one that the others know nothing of, and that ends them, at whatever they are.
pub fn part(group: &ProcessGroup, ended: Result<Outcome, Failure>) -> Outcome {
    match ended {
        Ok(outcome) => {
            // Who does not come is no matter any more.
            drop(group.leave());
            outcome
        }
        Err(failure) => {
            group.fail(&failure.to_string());
            Err(failure)
        }
    }
}

/// Writes the report, and tells what the run came to. Answers as it ended.
pub fn tell(
    setup: &Setup,
    records: Records,
    screen: &Screen<'_>,
    ended: Ended,
    told: Told,
) -> Outcome {
    // Also of a run that failed: its curves may say why.
    let (written, unwritten) = match records.finish() {
        Ok(written) => (Some(written), None),
        Err(error) => (None, Some(Failure::from(error))),
    };
    match told {
        Told::Json => console::line(described(setup, screen, &ended, written.as_ref())),
        Told::Text => print(setup, screen, &ended, written.as_ref()),
        Told::InPassing => {
            let result = screen.result().map_or_else(String::new, |text| format!(", {text}"));
            console::remark(format_args!("{}{result}", headline(setup, screen, &ended)));
            if matches!(ended, Ok(End::Stopped { .. })) {
                console::remark("the same command goes on from there");
            }
        }
    }
    worst(outcome(ended), unwritten)
}

fn described(setup: &Setup, screen: &Screen<'_>, ended: &Ended, written: Option<&RunEnd>) -> Value {
    json!({
        "outcome": match ended {
            Ok(End::Finished) => "finished",
            Ok(End::Stopped { .. }) => "stopped",
            Ok(End::Unsaved(_)) => "unsaved",
            Err(_) => "failed",
        },
        "last": screen.last_record(),
        "checkpoints": setup.config.checkpoint.folder,
        "report": written.map(|written| &written.report),
        "cost": written.map(|written| &written.summary),
    })
}

fn headline(setup: &Setup, screen: &Screen<'_>, ended: &Ended) -> String {
    match ended {
        Ok(End::Finished) => format!("trained {} steps", setup.config.training.steps),
        Ok(End::Stopped { step }) => format!("stopped after step {step}, saved"),
        Ok(End::Unsaved(unsaved)) => format!("ended after step {}, not saved", unsaved.step),
        Err(_) => match screen.last_record() {
            Some(last) => format!("failed after step {}", last.step),
            None => "failed before the end of a step".to_string(),
        },
    }
}

fn print(setup: &Setup, screen: &Screen<'_>, ended: &Ended, written: Option<&RunEnd>) {
    let config = &setup.config;
    console::styled_line(styled(BOLD, &headline(setup, screen, ended)));
    if let Some(text) = screen.result() {
        console::line(format_args!("  {text}"));
    }
    if let Some(written) = written {
        console::line(format_args!("  report       {}", written.report.display()));
    }
    console::line(format_args!("  checkpoints  {}", config.checkpoint.folder));
    let folder = &config.output.folder;
    match ended {
        Ok(End::Finished) => {
            let (from, to) = (shell_word(folder), shell_word(&format!("{folder}/model")));
            console::line(format_args!("  next         fungible export {from} {to}"));
        }
        Ok(End::Stopped { .. } | End::Unsaved(_)) => {
            console::line(format_args!("  go on with   {}", same_command_resuming()));
        }
        // What went wrong has to be seen to first.
        Err(_) => {}
    }
    if let Some(written) = written {
        console::line(&written.summary);
    }
}

/// This command, with all its flags, as it goes on.
fn same_command_resuming() -> String {
    let is_kept = |word: &String| word != "--resume" && word != "--overwrite";
    let words = std::env::args().skip(1).filter(is_kept).map(|word| shell_word(&word));
    format!("fungible {} --resume", words.collect::<Vec<_>>().join(" "))
}

/// As a run ends that has no report to write.
pub fn outcome(ended: Ended) -> Outcome {
    match ended? {
        End::Finished => Ok(()),
        End::Stopped { .. } => Err(Failure::silent(Exit::Stopped)),
        End::Unsaved(unsaved) => Err(unsaved.into()),
    }
}

/// A report that could not be written fails a run that has gone well. Of another one the end counts: a
/// scheduler has to hear that a stopped run is saved.
fn worst(end: Outcome, unwritten: Option<Failure>) -> Outcome {
    match (end, unwritten) {
        (Err(end), Some(unwritten)) => {
            console::warning(&format!("there is no report: {unwritten}"));
            Err(end)
        }
        (Ok(()), Some(unwritten)) => Err(unwritten),
        (end, None) => end,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::net::TcpListener;
    use std::sync::mpsc;
    use std::time::Duration;

    use runtime::distributed::{GroupOptions, Launch, LaunchFlags, Variables};

    use super::*;

    fn join(index: u32, coordinator: &str) -> ProcessGroup {
        let flags = LaunchFlags {
            index: Some(index),
            count: Some(2),
            coordinator: Some(coordinator.to_string()),
            ..LaunchFlags::default()
        };
        let launch = Launch::find(&flags, &Variables::new()).unwrap().unwrap();
        ProcessGroup::join(&launch, &GroupOptions::default()).unwrap()
    }

    /// What process 0 hears of the other's end while it writes its report, and its own end.
    fn heard_by_the_first(other: Result<Outcome, Failure>) -> (Option<String>, Outcome) {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let coordinator = format!("127.0.0.1:{port}");
        std::thread::scope(|scope| {
            let second = scope.spawn(|| drop(part(&join(1, &coordinator), other)));
            let group = join(0, &coordinator);
            let (sender, failures) = mpsc::channel();
            // In a process of its own this would be its end.
            group.on_failure(move |error| drop(sender.send(error.to_string())));
            // It would come in this time.
            let heard = failures.recv_timeout(Duration::from_millis(500)).ok();
            let outcome = part(&group, Ok(Err(Failure::silent(Exit::Stopped))));
            second.join().unwrap();
            (heard, outcome)
        })
    }

    #[test]
    fn who_is_stopped_leaves_the_others_alone() {
        let (heard, own) = heard_by_the_first(Ok(Err(Failure::silent(Exit::Stopped))));
        assert_eq!(heard, None);
        assert_eq!(own.unwrap_err().code(), 75);
    }

    #[test]
    fn who_fails_ends_the_others() {
        let (heard, _) = heard_by_the_first(Err(Failure::new(Exit::Failure, "no such file")));
        assert!(heard.unwrap().contains("no such file"));
    }

    #[test]
    fn a_stop_without_a_report_is_a_stop() {
        let full = || Some(Failure::new(Exit::Failure, "the disk is full"));
        assert_eq!(worst(Err(Failure::silent(Exit::Stopped)), full()).unwrap_err().code(), 75);
        assert_eq!(worst(Err(Failure::usage("worse")), full()).unwrap_err().to_string(), "worse");
        assert_eq!(worst(Ok(()), full()).unwrap_err().to_string(), "the disk is full");
        assert!(worst(Ok(()), None).is_ok());
    }
}

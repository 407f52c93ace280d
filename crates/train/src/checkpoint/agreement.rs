//! Which checkpoint all processes of a run resume from: the newest in which nobody finds damage.

use serde::{Deserialize, Serialize};

use super::error::{CheckpointError, Damaged};
use super::exchange::Exchange;
use super::load::{Checkpoint, Share};
use super::{Checkpoints, Latest};

/// What a process, or all of them together, found out about a checkpoint.
#[derive(Debug, Deserialize, Serialize)]
enum Verdict {
    Intact,
    Damaged(String),
    /// It may be intact; the process could not look.
    Unknown(String),
}

pub(super) fn latest(
    checkpoints: &Checkpoints,
    exchange: &dyn Exchange,
) -> Result<Option<Latest>, CheckpointError> {
    let location = checkpoints.location();
    let mut steps = agree_on_steps(checkpoints, exchange)?;
    let mut damaged = Vec::new();
    while let Some(step) = steps.pop() {
        let share = Share { index: exchange.process_index(), count: exchange.process_count() };
        let looked = checkpoints.at(step).and_then(|checkpoint| {
            checkpoint.verify(share)?;
            Ok(checkpoint)
        });
        match agree_on_verdict(step, &looked, exchange)? {
            Verdict::Intact => {
                let checkpoint: Checkpoint = looked?;
                return Ok(Some(Latest { checkpoint, damaged }));
            }
            Verdict::Damaged(reason) => damaged.push(Damaged { step, reason }),
            Verdict::Unknown(reason) => {
                looked?;
                return Err(CheckpointError::Exchange { reason });
            }
        }
    }
    if damaged.is_empty() {
        Ok(None)
    } else {
        Err(CheckpointError::AllDamaged { location, damaged })
    }
}

/// A listing may differ between processes, for one that looks a moment later.
fn agree_on_steps(
    checkpoints: &Checkpoints,
    exchange: &dyn Exchange,
) -> Result<Vec<u64>, CheckpointError> {
    let listed = if exchange.process_index() == 0 { checkpoints.list() } else { Ok(Vec::new()) };
    let said = match &listed {
        Ok(steps) => Ok(steps),
        Err(error) => Err(error.sentence()),
    };
    let said = exchange.broadcast("checkpoint/latest/steps", encode(&said)?).map_err(failed)?;
    listed?;
    let said: Result<Vec<u64>, String> = decode(&said)?;
    said.map_err(|reason| CheckpointError::Process { process_index: 0, reason })
}

fn agree_on_verdict(
    step: u64,
    looked: &Result<Checkpoint, CheckpointError>,
    exchange: &dyn Exchange,
) -> Result<Verdict, CheckpointError> {
    let own = match looked {
        Ok(_) => Verdict::Intact,
        Err(error) if error.is_damage() => Verdict::Damaged(error.sentence()),
        // It was listed a moment ago.
        Err(error @ CheckpointError::NoSuchStep { .. }) => Verdict::Damaged(error.sentence()),
        Err(error) => Verdict::Unknown(error.sentence()),
    };
    let key = format!("checkpoint/latest/{step}");
    let all = exchange.gather(&format!("{key}/own"), encode(&own)?).map_err(failed)?;
    let mut together = Verdict::Intact;
    for (process_index, verdict) in all.iter().flatten().enumerate() {
        together = match (together, decode(verdict)?) {
            // Whoever could not look does not hide that somebody else found damage.
            (together @ Verdict::Damaged(_), _) | (together, Verdict::Intact) => together,
            (_, found @ Verdict::Damaged(_)) => found,
            (_, Verdict::Unknown(reason)) => {
                Verdict::Unknown(format!("process {process_index}: {reason}"))
            }
        };
    }
    let said = exchange.broadcast(&format!("{key}/all"), encode(&together)?).map_err(failed)?;
    decode(&said)
}

fn failed(reason: String) -> CheckpointError {
    CheckpointError::Exchange { reason }
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CheckpointError> {
    serde_json::to_vec(value).map_err(|error| failed(error.to_string()))
}

fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, CheckpointError> {
    serde_json::from_slice(bytes).map_err(|error| failed(error.to_string()))
}

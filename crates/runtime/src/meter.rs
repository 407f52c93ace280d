//! How much energy devices draw, where something counts it: the processor's own counter (RAPL), the
//! GPU's sensor (`nvidia-smi`). Where nothing does there is no figure; what to say then is the
//! caller's.

mod nvidia;
mod rapl;

use std::time::Instant;

use crate::discover::PluginKind;

/// What a meter counted.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    pub joules: f64,
    /// Over which time.
    pub seconds: f64,
    /// What counted, and what is in it.
    pub meter: String,
}

/// A meter that counts until it is stopped.
#[derive(Debug)]
pub struct Meter {
    started: Instant,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Processor(rapl::Counting),
    Gpus(nvidia::Counting),
}

impl Meter {
    /// Starts to count what this many devices of a plugin draw; none where there is no meter for
    /// them, or it cannot be read. The processor's meter counts everything that the machine does.
    pub fn start(kind: PluginKind, devices: usize) -> Option<Meter> {
        let kind = match kind {
            PluginKind::Cpu => Kind::Processor(rapl::Counting::start(rapl::FOLDER.as_ref())?),
            PluginKind::Cuda => {
                Kind::Gpus(nvidia::Counting::start("nvidia-smi".as_ref(), &nvidia::ids(devices))?)
            }
            // Nothing on a TPU host tells.
            PluginKind::Tpu => return None,
        };
        Some(Meter { started: Instant::now(), kind })
    }

    /// What was counted since the start; none if the meter fell silent.
    pub fn stop(self) -> Option<Reading> {
        let seconds = self.started.elapsed().as_secs_f64();
        let (joules, meter) = match self.kind {
            Kind::Processor(counting) => counting.stop()?,
            Kind::Gpus(counting) => counting.stop()?,
        };
        Some(Reading { joules, seconds, meter })
    }
}

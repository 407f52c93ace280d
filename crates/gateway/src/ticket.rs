//! One request's account: what was reserved for it, what it used, and the record that is written before its
//! last byte goes out.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::admission::Permit;
use crate::meter::Meter;
use crate::metrics::Metrics;
use crate::record::{Outcome, Record};
use crate::spans::Trace;
use crate::tenants::{Charge, Reservation};

/// Open until [`Ticket::close`]; one that is dropped belongs to a client that left, and is closed in the
/// background.
pub struct Ticket {
    open: Option<Open>,
}

struct Open {
    record: Record,
    arrived: Instant,
    reservation: Reservation,
    meter: Meter,
    metrics: Arc<Metrics>,
    trace: Option<Trace>,
    /// Its room at the backends' door ends with the request.
    _permit: Permit,
}

/// What HTTP has no status for: the client closed the connection. nginx's number.
const LEFT: u16 = 499;

impl Ticket {
    pub fn new(
        record: Record,
        arrived: Instant,
        reservation: Reservation,
        permit: Permit,
        meter: Meter,
        metrics: Arc<Metrics>,
        trace: Option<Trace>,
    ) -> Ticket {
        let open = Open { record, arrived, reservation, meter, metrics, trace, _permit: permit };
        Ticket { open: Some(open) }
    }

    /// What is known so far.
    pub fn record(&mut self) -> &mut Record {
        // Only `close` and `drop` take it out, and both have the ticket to themselves.
        &mut self.open.as_mut().expect("a ticket is open until it is closed").record
    }

    /// The request's span, if it is collected.
    pub fn trace(&mut self) -> Option<&mut Trace> {
        self.open.as_mut()?.trace.as_mut()
    }

    /// Notes that the first byte of the answer is there.
    pub fn first_byte(&mut self) {
        if let Some(open) = &mut self.open {
            let milliseconds = milliseconds(open.arrived.elapsed());
            open.record.first_byte_milliseconds.get_or_insert(milliseconds);
        }
    }

    /// Returns when the record is safe; nothing of the answer's end may be sent before.
    pub async fn close(mut self) {
        if let Some(open) = self.open.take() {
            open.close().await;
        }
    }
}

impl Open {
    async fn close(mut self) {
        self.record.duration_milliseconds = milliseconds(self.arrived.elapsed());
        self.metrics.ended(&self.record);
        if let Some(trace) = self.trace.take() {
            trace.finish(&self.record);
        }
        let charge = Charge {
            tokens: self.record.prompt_tokens + self.record.completion_tokens,
            cost: self.record.cost,
        };
        let written = self.meter.write(self.record).await;
        // After the record, so that what is spent is never counted as free in between.
        self.reservation.settle(charge);
        if let Err(error) = written {
            tracing::error!(target: "fungible::gateway", %error, "a record was not written");
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let Some(mut open) = self.open.take() else { return };
        open.record.outcome = Outcome::Left;
        open.record.status = LEFT;
        // Without a runtime the process is ending, and what is reserved ends with it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(open.close());
        }
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// By the system's clock, since 1970.
pub(crate) fn now_milliseconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

//! A request's way to backends and its answer's way back: tries, second tries, streams that go on
//! elsewhere.
//!
//! Knows neither keys nor limits: whoever comes here may ask.

mod attempt;
mod bill;
mod continuation;
mod errand;
mod events;
mod fields;
mod hedge;
mod mirror;
mod responses;
mod retry;
mod source;
mod story;
mod stream;
mod usage;
mod whole;

use std::sync::Arc;

use hyper::Response;

use crate::ask::{Ask, Kind};
use crate::body::Body;
use crate::route::Route;
use crate::shared::Shared;
use crate::ticket::Ticket;
use errand::Errand;

/// What keeps the gateway from asking backends too much beyond what clients ask.
#[derive(Debug)]
pub(crate) struct Budgets {
    retries: retry::RetryBudget,
    hedges: hedge::HedgeBudget,
}

impl Budgets {
    pub fn new() -> Budgets {
        Budgets { retries: retry::RetryBudget::new(), hedges: hedge::HedgeBudget::new() }
    }
}

/// Answers a request that was let in. Whatever happens, there is an answer, and the ticket is closed
/// before its end.
pub(crate) async fn answer(
    shared: Arc<Shared>,
    ask: Ask,
    route: Route,
    ticket: Ticket,
) -> Response<Body> {
    let mut errand = Errand::new(shared, ask, route, ticket);
    mirror::begin(&mut errand);
    let is_events = matches!(errand.ask.kind, Kind::Chat | Kind::Completions | Kind::Responses);
    // Boxed, so that not every request's future is as large as the largest.
    match errand.ask.streamed && is_events {
        true => Box::pin(stream::answer(errand)).await,
        false => Box::pin(whole::answer(errand)).await,
    }
}

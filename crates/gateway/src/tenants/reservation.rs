//! What a request has reserved of its tenant's limits, from before it is sent on until it ends.

use std::sync::Arc;

use super::account::{Account, Held};
use super::shared::SharedHold;
use super::{Charge, LimitError};

/// Why a request cannot be taken.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum ReserveError {
    #[error(transparent)]
    Limit(#[from] LimitError),
}

/// Dropped without being settled, it gives everything back, as if the request had never come.
#[must_use = "a reservation that is dropped is given back"]
pub struct Reservation {
    account: Arc<Account>,
    held: Option<Held>,
    /// What a database that several gateways share has of it.
    shared: Option<SharedHold>,
}

impl Reservation {
    pub(super) fn new(
        account: Arc<Account>,
        held: Held,
        shared: Option<SharedHold>,
    ) -> Reservation {
        Reservation { account, held: Some(held), shared }
    }

    /// Ends the request: what it did take stays counted, in place of the estimate. To be called once
    /// its record is written.
    pub fn settle(mut self, charge: Charge) {
        if let Some(held) = self.held.take() {
            self.account.settle(held, charge);
        }
        if let Some(shared) = self.shared.take() {
            shared.settle(charge.tokens);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            self.account.give_back(held);
        }
    }
}

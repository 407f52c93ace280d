//! What a chip-hour costs where.
use serde::Serialize;

#[derive(Clone, Debug, Serialize)]
pub struct Offer {
    pub provider: String,
}

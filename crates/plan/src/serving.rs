//! x
use serde::Serialize;
#[derive(Clone, Debug, Serialize)]
pub struct Figures {}

//! Pools that are not trusted yet: how mirrors and canaries do, and another chance for a canary.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::pools::Pools;

/// Whose canary is to be judged anew.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Again {
    model: String,
}

pub(super) fn mirrors(pools: &Pools) -> Value {
    json!({ "data": pools.mirrors() })
}

pub(super) fn canaries(pools: &Pools) -> Value {
    json!({ "data": pools.canaries() })
}

pub(super) fn try_again(pools: &Pools, Again { model }: Again) -> Result<Value, ApiError> {
    if !pools.try_again(&model) {
        let message = format!("there is no model `{model}` with a canary");
        return Err(ApiError::not_found(message));
    }
    Ok(json!({ "model": model }))
}

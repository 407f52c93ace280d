//! Loading and unloading adapters while serving, in vLLM's shapes.

use std::path::PathBuf;
use std::sync::Arc;

use hyper::{Response, StatusCode};

use super::body::{Body, response};
use super::call::Call;
use super::error::ApiError;

pub(crate) async fn load(call: &mut Call) -> Result<Response<Body>, ApiError> {
    check_allowed(call)?;
    let (name, folder) = call
        .think(|thinking| {
            let fields = &thinking.fields;
            let name = fields.text("lora_name")?.ok_or_else(|| fields.missing("lora_name"))?;
            let folder = fields.text("lora_path")?.ok_or_else(|| fields.missing("lora_path"))?;
            if name.is_empty() {
                return Err(ApiError::field("lora_name", "lora_name is empty; give a name"));
            }
            let taken = thinking.loaded.model.served_names.iter().any(|served| served == name)
                || thinking.loaded.answering.adapters().iter().any(|adapter| adapter == name);
            if taken {
                let message = format!("the name `{name}` is taken; unload that adapter first");
                return Err(ApiError::field("lora_name", message));
            }
            Ok((name.to_owned(), PathBuf::from(folder)))
        })
        .await?;
    let answering = Arc::clone(&call.loaded.answering);
    let loading = {
        let name = name.clone();
        tokio::task::spawn_blocking(move || answering.load_adapter(&name, &folder))
    };
    done(loading.await, format!("Success: LoRA adapter '{name}' added successfully."), "lora_path")
}

pub(crate) async fn unload(call: &mut Call) -> Result<Response<Body>, ApiError> {
    check_allowed(call)?;
    let name = call
        .think(|thinking| {
            let fields = &thinking.fields;
            let name = fields.text("lora_name")?.ok_or_else(|| fields.missing("lora_name"))?;
            if thinking.loaded.answering.adapters().iter().any(|adapter| adapter == name) {
                return Ok(name.to_owned());
            }
            Err(ApiError {
                param: Some("lora_name".to_owned()),
                ..ApiError::not_found(format!("there is no adapter `{name}`"))
            })
        })
        .await?;
    let answering = Arc::clone(&call.loaded.answering);
    let unloading = {
        let name = name.clone();
        tokio::task::spawn_blocking(move || answering.unload_adapter(&name))
    };
    let text = format!("Success: LoRA adapter '{name}' removed successfully.");
    done(unloading.await, text, "lora_name")
}

fn done(
    outcome: Result<Result<(), String>, tokio::task::JoinError>,
    text: String,
    param: &str,
) -> Result<Response<Body>, ApiError> {
    outcome
        .map_err(|_| ApiError::internal("the adapter could not be worked on"))?
        .map_err(|error| ApiError::field(param, error))?;
    Ok(response(StatusCode::OK, "text/plain; charset=utf-8", Body::whole(text)))
}

/// A client names a folder of this machine, so its owner must have said yes.
fn check_allowed(call: &Call) -> Result<(), ApiError> {
    if call.state.settings.adapters_at_run_time {
        return Ok(());
    }
    Err(ApiError {
        code: Some("adapters_not_allowed"),
        ..ApiError::new(
            StatusCode::FORBIDDEN,
            "permission_error",
            "this server was not started with permission to load and unload adapters while it serves; \
             start it with --max-loras",
        )
    })
}

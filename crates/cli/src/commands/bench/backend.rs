//! `fungible bench backend`: a server without a model, for tests and measurements of gateways.

use std::sync::Arc;
use std::time::Duration;

use gateway::stub::{Pace, Stub, StubSettings};
use tokio::net::TcpListener;

use crate::arguments::gateway::BenchBackendArguments;
use crate::console;
use crate::failure::{Exit, Failure, Outcome};

pub fn run(arguments: &BenchBackendArguments) -> Outcome {
    let each = match arguments.tokens_per_second {
        None => Duration::ZERO,
        Some(rate) => Duration::try_from_secs_f64(1.0 / rate).map_err(|_| {
            Failure::usage("--tokens-per-second must be a number above zero, such as 50")
        })?,
    };
    let stub = Stub::new(StubSettings {
        models: arguments.models.clone(),
        pace: Pace { first: arguments.ttft, each },
        continues_by_tokens: !arguments.text_only,
    });
    let mut builder = match arguments.threads {
        // One thread needs no other to be woken.
        Some(1) => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if let Some(threads) = arguments.threads {
        builder.worker_threads(threads.max(1));
    }
    builder.enable_all().build()?.block_on(serve(stub, arguments.port))
}

async fn serve(stub: Arc<Stub>, port: u16) -> Outcome {
    let listener = TcpListener::bind(("127.0.0.1", port)).await.map_err(|error| {
        let message = format!("port {port} cannot be listened on: {error}; give another one");
        Failure::new(Exit::Failure, message)
    })?;
    console::line(format!("http://{}/v1", listener.local_addr()?));
    stub.serve(listener).await;
    Ok(())
}

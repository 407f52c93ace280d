//! The OpenAI-compatible interface: HTTP in front of anything that answers requests.
//!
//! Knows text, JSON and connections. It knows no device, no program and no KV page: the engine
//! behind it is an [`Answering`](crate::engine::Answering), and token ids are all they exchange.

mod adapters;
mod body;
mod call;
mod chat;
mod completions;
mod cors;
mod embeddings;
mod error;
mod fields;
mod generation;
mod job;
mod log_probs;
mod metrics;
mod model_text;
mod models;
mod openapi;
mod parameters;
mod record;
mod responses;
mod routes;
mod settings;
mod shape;
mod state;
mod streaming;
mod tokens;
mod traces;
mod usage;

use std::future::Future;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::mpsc::Receiver;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use web::connections::{self, ConnectionLimits};
use web::tls;
use web::traces::{Exporter, RequestSpan, Tracer};

pub use model_text::ModelText;
pub use settings::{ApiKey, ApiKeyError, ServerSettings};
pub use web::tls::{TlsError, TlsFiles};
pub use web::traces::{TraceError, TraceSettings};

use crate::engine::Answering;
use call::Loaded;
use routes::Router;
use state::State;

/// A server that has not begun to listen.
pub struct Server {
    state: Arc<State>,
    tls: Option<TlsAcceptor>,
    spans: Option<Receiver<RequestSpan>>,
}

/// Gives a server that has begun to listen its model.
#[derive(Clone)]
pub struct Opener {
    state: Arc<State>,
}

impl Opener {
    /// From here on requests are answered and `/ready` says so. Only the first call counts.
    pub fn open(&self, answering: Arc<dyn Answering>, model: Arc<ModelText>) {
        self.state.open(Loaded { answering, model });
    }
}

impl Server {
    /// A server that answers as soon as it runs.
    ///
    /// # Errors
    /// When certificate or key cannot be used.
    pub fn new(
        settings: ServerSettings,
        answering: Arc<dyn Answering>,
        model: Arc<ModelText>,
    ) -> Result<Server, TlsError> {
        let server = Server::starting(settings)?;
        server.opener().open(answering, model);
        Ok(server)
    }

    /// A server whose model is still being loaded: until its [`Opener`] gets one, `/health` is
    /// answered and all else is 503.
    ///
    /// # Errors
    /// As [`Server::new`].
    pub fn starting(settings: ServerSettings) -> Result<Server, TlsError> {
        let tls = settings.tls.as_ref().map(tls::acceptor).transpose()?;
        let (tracer, spans) = settings.traces.as_ref().map(|_| Tracer::new()).unzip();
        Ok(Server { state: Arc::new(State::new(settings, tracer)), tls, spans })
    }

    pub fn opener(&self) -> Opener {
        Opener { state: Arc::clone(&self.state) }
    }

    /// Serves on all `listeners` until `shutdown` comes, then drains: `/ready` and new requests are
    /// answered with 503, those under way go on for as long as the settings allow, and then
    /// everything is closed. How many requests were cut off is the result.
    ///
    /// Must run on a tokio runtime with its network and its clock.
    pub async fn run(
        self,
        listeners: Vec<TcpListener>,
        shutdown: impl Future<Output = ()>,
    ) -> usize {
        let Server { state, tls, spans } = self;
        let exporter = match (&state.settings.traces, &state.tracer, spans) {
            (Some(settings), Some(tracer), Some(spans)) => {
                Some(Exporter::start(settings.clone(), tracer, spans))
            }
            _ => None,
        };
        let limits = ConnectionLimits {
            connections_max: state.settings.connections_max,
            idle: state.settings.idle_limit,
            write: state.settings.write_limit,
        };
        let (stop, stopped) = watch::channel(false);
        let mut serving = JoinSet::new();
        for listener in listeners {
            serving.spawn(connections::serve(
                listener,
                tls.clone(),
                Arc::new(Router::new(Arc::clone(&state))),
                state.flights.clone(),
                limits,
                stopped.clone(),
            ));
        }
        shutdown.await;
        state.stop();
        let under_way = *state.flights.watch().borrow();
        tracing::info!(target: "fungible::http", under_way, "draining");
        // What is left after the limit is cut off; the count says how much that was.
        let _ = timeout(state.settings.drain_limit, state.flights.none()).await;
        let left = *state.flights.watch().borrow();
        stop.send_replace(true);
        while serving.join_next().await.is_some() {}
        if let Some(exporter) = exporter {
            exporter.finish().await;
        }
        tracing::info!(target: "fungible::http", cut_off = left, "stopped");
        left
    }
}

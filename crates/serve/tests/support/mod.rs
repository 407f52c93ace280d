//! A server with an engine that answers from a script, and a client that shows bytes as they came.

#![allow(dead_code, unused_imports, reason = "each test file uses a part")]

pub mod client;
pub mod log;
pub mod marks;
pub mod script;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use llm::ModelFiles;
use serve::engine::Answering;
use serve::http::{ModelText, Opener, Server, ServerSettings};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub use client::{Reply, get, post, post_raw, post_stream, send};
pub use script::{Gate, Script, ScriptedEngine};

/// A tokenizer of 384 tokens with a chat template.
pub fn tiny_model() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/models/smollm2")
}

pub const END_TOKEN: u32 = 2;
pub const MODEL: &str = "tiny";

pub fn model_text() -> ModelText {
    let files = ModelFiles::open(&tiny_model()).unwrap();
    ModelText {
        tokenizer: Arc::new(files.tokenizer().unwrap().unwrap()),
        chat_template: files.chat_template().unwrap(),
        end_tokens: vec![END_TOKEN],
        served_names: vec![MODEL.to_owned(), "org/other-name".to_owned()],
        chip: "test chip".to_owned(),
        devices: 1,
        root: "somewhere/tiny".to_owned(),
        created_seconds: 1_700_000_000,
        system_fingerprint: "fp_test".to_owned(),
        structures: Arc::new(marks::Marks),
    }
}

/// A server that runs until it is dropped or stopped.
pub struct Running {
    pub address: SocketAddr,
    pub engine: Arc<ScriptedEngine>,
    pub opener: Opener,
    runtime: Runtime,
    stop: Option<oneshot::Sender<()>>,
    served: Option<JoinHandle<usize>>,
}

pub fn start(script: Script) -> Running {
    start_with(script, ServerSettings::default())
}

pub fn start_with(script: Script, settings: ServerSettings) -> Running {
    let running = start_closed(script, settings);
    running.open();
    running
}

/// One whose model is still to come.
pub fn start_closed(script: Script, settings: ServerSettings) -> Running {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let engine = Arc::new(ScriptedEngine::new(script, runtime.handle().clone()));
    let server = Server::starting(settings).unwrap();
    let opener = server.opener();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let served = runtime.spawn(server.run(vec![listener], async {
        let _ = stopped.await;
    }));
    Running { address, engine, opener, runtime, stop: Some(stop), served: Some(served) }
}

impl Running {
    pub fn open(&self) {
        let engine: Arc<dyn Answering> = Arc::clone(&self.engine) as _;
        self.opener.open(engine, Arc::new(model_text()));
    }

    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Begins to drain.
    pub fn stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
    }

    /// Waits until the server has stopped; how many requests were cut off.
    pub fn join(&mut self) -> usize {
        self.runtime.block_on(self.served.take().unwrap()).unwrap()
    }
}

//! A gateway with stubs behind it, and what a client gets of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gateway::config::Config;
use gateway::front::Front;
use gateway::ledger::{Ledger, OpenDatabase};
use gateway::metrics::Metrics;
use gateway::pools::Pools;
use gateway::record::Record;
use gateway::secrets::Secrets;
use gateway::shared::Shared;
use gateway::stub::{Stub, StubSettings};
use gateway::usage::RecordQuery;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::HeaderMap;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use web::connections::{self, ConnectionLimits};
use web::flight::Flights;

/// Ends with everything in it when it is dropped.
pub struct Setting {
    pub stubs: Vec<Arc<Stub>>,
    pub address: SocketAddr,
    pub shared: Arc<Shared>,
    _tasks: JoinSet<()>,
    _stop: watch::Sender<bool>,
    _folder: tempfile::TempDir,
}

/// One pool for each stub, in order. A token costs a millionth of a dollar in and two out at the
/// first, ten times as much at the second and so on.
#[derive(Clone)]
pub struct Plan {
    pub stubs: Vec<StubSettings>,
    /// `tokens`, `text` or `never`, for all.
    pub continues: &'static str,
    /// Further keys of the model.
    pub model: &'static str,
    /// So many of the last pools are none of the model's.
    pub apart: usize,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan { stubs: vec![StubSettings::default(); 2], continues: "tokens", model: "", apart: 0 }
    }
}

pub struct Whole {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Whole {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Setting {
    pub async fn new(plan: Plan) -> Setting {
        let folder = tempfile::tempdir().unwrap();
        let mut tasks = JoinSet::new();
        let mut stubs = Vec::new();
        let members = plan.stubs.len() - plan.apart;
        let (mut pools, mut names) = (String::new(), Vec::new());
        for (at, settings) in plan.stubs.into_iter().enumerate() {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let stub = Stub::new(settings);
            tasks.spawn(Arc::clone(&stub).serve(listener));
            stubs.push(stub);
            let times = 10_u32.pow(at as u32);
            pools.push_str(&format!(
                "[pools.p{at}]\n\
                 price = {{ input = \"{times} usd/million\", output = \"{} usd/million\" }}\n\
                 backends = [{{ url = \"http://127.0.0.1:{port}\", continues = \"{}\" }}]\n\
                 breaker = {{ failure_share = 1.0, window = 1000000 }}\n",
                times * 2,
                plan.continues
            ));
            if at < members {
                names.push(format!("p{at} = {{ model = \"inner-{at}\" }}"));
            }
        }
        let text = format!(
            "anonymous = true\n[limits]\nwait = \"1s\"\n{pools}\
             [models.chat]\npools = {{ {} }}\npolicy = \"ordered\"\n{}\n",
            names.join(", "),
            plan.model
        );
        let config = Config::parse(&folder.path().join("gateway.toml"), &text).unwrap();
        let pools = Pools::new(&config, &Arc::new(Secrets::new())).unwrap();
        let database = OpenDatabase::Sqlite(folder.path().join("gateway.db"));
        let ledger = Ledger::open(database, 1000).await.unwrap();
        let shared = Arc::new(Shared::new(config, pools, ledger, Arc::new(Metrics::default())));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limits = ConnectionLimits {
            connections_max: 1000,
            idle: Duration::from_secs(60),
            write: Duration::from_secs(30),
        };
        let (stop, stopped) = watch::channel(false);
        let front = Arc::new(Front::new(Arc::clone(&shared)));
        tasks.spawn(connections::serve(listener, None, front, Flights::new(), limits, stopped));
        Setting { stubs, address, shared, _tasks: tasks, _stop: stop, _folder: folder }
    }

    /// The answer's head, and its body as it comes.
    pub async fn send(&self, path: &str, body: &Value) -> Response<Incoming> {
        send(self.address, path, body).await
    }

    pub async fn ask(&self, path: &str, body: &Value) -> Whole {
        let (head, body) = self.send(path, body).await.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Whole { status: head.status, headers: head.headers, body }
    }

    /// What was written down of an answer.
    pub async fn record(&self, answer: &Whole) -> Record {
        let id = answer.headers["x-request-id"].to_str().unwrap();
        self.record_of(id).await.unwrap()
    }

    pub async fn record_of(&self, id: &str) -> Option<Record> {
        let records = self.shared.ledger.records(&RecordQuery::default(), 10_000).await.unwrap();
        records.into_iter().find(|record| record.id.starts_with(id))
    }
}

pub async fn send(address: SocketAddr, path: &str, body: &Value) -> Response<Incoming> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post(path)
        .header("host", "gateway")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body.to_string())))
        .unwrap();
    sender.send_request(request).await.unwrap()
}

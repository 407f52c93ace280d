//! The coordinator's sockets: one thread takes connections and keeps time, two serve each
//! connection. What is answered is decided in `server_state`.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::folders::unique_name;

use super::server_state::State;
use super::wire::{
    Greeting, Hello, MAX_FRAME_BYTES, MAX_GREETING_BYTES, PROTOCOL, Request, Verdict, read_frame,
    write_frame,
};

/// How often deadlines are looked at and connections taken.
const TICK: Duration = Duration::from_millis(20);

/// A stranger that says nothing does not hold a thread for longer.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);

/// Less patience would be the end of any group on a busy machine.
const LEAST_PATIENCE: Duration = Duration::from_millis(500);

/// How long the last words have time to arrive.
const CLOSING: Duration = Duration::from_secs(2);

/// Runs until dropped.
pub(super) struct Server {
    shared: Arc<Shared>,
    keeper: Option<JoinHandle<()>>,
    address: SocketAddr,
}

struct Shared {
    state: Mutex<State>,
    job: String,
    lost_after: Duration,
    closing: AtomicBool,
    connections: AtomicU64,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    /// Listens on the first of `addresses` that this machine has.
    ///
    /// # Errors
    /// Why the last of them was not to be had.
    pub fn start(
        addresses: &[SocketAddr],
        job: &str,
        count: u32,
        lost_after: Duration,
    ) -> io::Result<Server> {
        let listener = TcpListener::bind(addresses)?;
        // Taking connections never blocks, so that one thread can keep time as well.
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let lost_after = lost_after.max(LEAST_PATIENCE);
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(count, lost_after, Instant::now())),
            job: job.to_string(),
            lost_after,
            closing: AtomicBool::new(false),
            connections: AtomicU64::new(0),
        });
        let for_keeper = Arc::clone(&shared);
        let keeper = std::thread::Builder::new()
            .name("coordinator".to_string())
            .spawn(move || keep(&listener, &for_keeper))?;
        Ok(Server { shared, keeper: Some(keeper), address })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let deadline = Instant::now() + CLOSING;
        while !self.shared.state().is_deserted() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.shared.closing.store(true, Ordering::Relaxed);
        if let Some(keeper) = self.keeper.take() {
            // Ends within a tick and gives the port back; it has no outcome.
            let _ = keeper.join();
        }
        self.shared.state().close();
    }
}

fn keep(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut last = Instant::now();
    while !shared.closing.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                let shared = Arc::clone(shared);
                let name = "coordinator connection".to_string();
                // Without a thread the stream is dropped, and the process tries again.
                let _ = std::thread::Builder::new().name(name).spawn(move || {
                    // What a connection ends with is its process's to deal with.
                    let _ = serve(stream, &shared);
                });
            }
            Err(_) => std::thread::sleep(TICK),
        }
        let now = Instant::now();
        let pause = now.duration_since(last);
        last = now;
        let mut state = shared.state();
        if pause > shared.lost_after / 2 {
            state.forgive(pause);
        }
        state.tick(now);
    }
}

fn serve(mut stream: TcpStream, shared: &Arc<Shared>) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(GREETING_TIMEOUT))?;
    stream.set_write_timeout(Some(shared.lost_after))?;
    let nonce = unique_name();
    let greeting = Greeting {
        protocol: PROTOCOL,
        program_version: env!("CARGO_PKG_VERSION").to_string(),
        nonce: nonce.clone(),
    };
    write_frame(&mut stream, &greeting.encode())?;
    let hello = Hello::decode(&read_frame(&mut stream, MAX_GREETING_BYTES)?)?;
    let connection = shared.connections.fetch_add(1, Ordering::Relaxed);
    let (outbox, queue) = channel();
    let admitted = if hello.proof == proof(&nonce, &shared.job) {
        shared.state().admit(&hello, connection, outbox, Instant::now())
    } else {
        Err("it coordinates another job; choose another port, or give all processes of one job the same job name".to_string())
    };
    let member = match admitted {
        Ok(member) => member,
        Err(reason) => return write_frame(&mut stream, &Verdict::Refused { reason }.encode()),
    };
    let outcome = converse(stream, shared, member, connection, queue);
    shared.state().disconnected(member, connection, Instant::now());
    outcome
}

fn converse(
    mut stream: TcpStream,
    shared: &Shared,
    member: usize,
    connection: u64,
    queue: Receiver<Vec<u8>>,
) -> io::Result<()> {
    let welcome = Verdict::Welcome { lost_after: shared.lost_after };
    write_frame(&mut stream, &welcome.encode())?;
    // Silence is judged by the keeper; this only ends threads that nobody will talk to again.
    stream.set_read_timeout(Some(2 * shared.lost_after))?;
    let writing = stream.try_clone()?;
    std::thread::Builder::new()
        .name("coordinator replies".to_string())
        .spawn(move || send_replies(writing, &queue))?;
    loop {
        let body = read_frame(&mut stream, MAX_FRAME_BYTES)?;
        let (number, request) = Request::decode(&body)?;
        shared.state().receive(member, connection, number, request, Instant::now());
    }
}

/// Ends when the process's outbox is gone and the queue empty.
fn send_replies(mut stream: TcpStream, queue: &Receiver<Vec<u8>>) {
    for body in queue {
        if write_frame(&mut stream, &body).is_err() {
            // Wakes the reading side.
            let _ = stream.shutdown(Shutdown::Both);
            return;
        }
    }
    // The last words still have to arrive, so the process ends the other direction. An error means
    // that all has ended already.
    let _ = stream.shutdown(Shutdown::Write);
}

/// What shows that both sides belong to one job, without saying its name on the network.
pub(super) fn proof(nonce: &str, job: &str) -> String {
    let mut digest = crate::digest::Labelled::default();
    digest.add("nonce", nonce.as_bytes()).add("job", job.as_bytes());
    digest.finish()
}

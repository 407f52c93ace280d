//! A process's line to the coordinator: requests and their replies, heartbeats, connecting again,
//! and learning that the group has failed. Knows nothing of what requests are for.

use std::collections::BTreeMap;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::error::GroupError;
use super::server::proof;
use super::server_state::reconnect_within;
use super::wire::{
    Greeting, Hello, MAX_FRAME_BYTES, MAX_GREETING_BYTES, PROTOCOL, Reply, Request, Verdict,
    read_frame, write_frame,
};

/// Pauses between attempts to connect grow from the first to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// One attempt to connect, to one of the host's addresses.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the last words have time to get out.
const CLOSING: Duration = Duration::from_secs(2);

/// Heartbeats per time in which one must have been heard.
const HEARTBEATS: u32 = 6;

/// Who connects, and where to.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    /// `host:port`, or the loopback address in the coordinator's own process.
    pub address: String,
    /// As the user knows it, for messages.
    pub coordinator: String,
    pub job: String,
    pub index: u32,
    pub count: u32,
    pub instance: String,
}

pub(super) type FailureCallback = Box<dyn FnOnce(&GroupError) + Send>;

/// A connected process.
pub(super) struct Client {
    identity: Identity,
    state: Mutex<State>,
    /// A reply has come, or there will be none.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Requests without a reply so far, by number, with their frames for sending them again.
    pending: BTreeMap<u64, Vec<u8>>,
    replies: BTreeMap<u64, Reply>,
    last_number: u64,
    /// None while there is no connection.
    outbox: Option<Sender<Vec<u8>>>,
    failure: Option<GroupError>,
    callbacks: Vec<FailureCallback>,
    /// Its own wish: the end of the connection is no failure.
    closing: bool,
    ended: bool,
}

/// What came of an attempt to connect.
enum Attempt {
    Connected(TcpStream, Duration),
    /// For good, as opposed to an `io::Error`, which may pass.
    Refused(String),
}

impl Client {
    /// Connects, waiting for a coordinator that is not there yet.
    ///
    /// # Errors
    /// [`GroupError::NoCoordinator`] and [`GroupError::Refused`].
    pub fn connect(identity: Identity, timeout: Duration) -> Result<Arc<Client>, GroupError> {
        let (stream, lost_after) = connect(&identity, timeout, &|| false)?;
        let client = Arc::new(Client {
            identity,
            state: Mutex::new(State::default()),
            changed: Condvar::new(),
        });
        let for_link = Arc::clone(&client);
        std::thread::Builder::new()
            .name("process group".to_string())
            .spawn(move || for_link.keep_connected(stream, lost_after))
            .map_err(|source| client.no_coordinator(timeout, source))?;
        Ok(client)
    }

    fn no_coordinator(&self, waited: Duration, source: io::Error) -> GroupError {
        no_coordinator(&self.identity, waited, source)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request and waits for the reply. The coordinator keeps the request's time; that it
    /// is there at all is seen to by heartbeats.
    ///
    /// # Errors
    /// Why the group has failed.
    pub fn call(&self, request: &Request) -> Result<Reply, GroupError> {
        let mut state = self.state();
        if let Some(failure) = state.over() {
            return Err(failure);
        }
        state.last_number += 1;
        let number = state.last_number;
        let frame = request.encode(number);
        state.send(frame.clone());
        state.pending.insert(number, frame);
        loop {
            if let Some(reply) = state.replies.remove(&number) {
                return Ok(reply);
            }
            if let Some(failure) = state.over() {
                state.pending.remove(&number);
                return Err(failure);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Sends what has no reply.
    pub fn tell(&self, request: &Request) {
        let frame = request.encode(0);
        self.state().send(frame);
    }

    pub fn failure(&self) -> Option<GroupError> {
        self.state().failure.clone()
    }

    /// Calls back, from a thread of this client, when the group fails; at once if it has.
    pub fn on_failure(&self, callback: FailureCallback) {
        let mut state = self.state();
        match state.failure.clone() {
            None => state.callbacks.push(callback),
            Some(failure) => {
                drop(state);
                callback(&failure);
            }
        }
    }

    /// Says `last` and ends the connection. Waits a moment for it to get out.
    pub fn close(&self, last: &Request) {
        let mut state = self.state();
        if state.closing {
            return;
        }
        state.send(last.encode(0));
        state.closing = true;
        // The writing side ends the connection when its queue is empty.
        state.outbox = None;
        state.callbacks.clear();
        self.changed.notify_all();
        let deadline = Instant::now() + CLOSING;
        while !state.ended {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return };
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The life of the connection and of those that replace it.
    fn keep_connected(&self, stream: TcpStream, lost_after: Duration) {
        let mut connection = Some(stream);
        while let Some(stream) = connection.take() {
            let broken = self.converse(stream, lost_after);
            let mut state = self.state();
            state.outbox = None;
            if state.over().is_some() {
                break;
            }
            drop(state);
            let patience = reconnect_within(lost_after);
            let given_up = || self.state().over().is_some();
            match connect(&self.identity, patience, &given_up) {
                Ok((stream, _)) => connection = Some(stream),
                Err(GroupError::NoCoordinator { source, .. }) => self.fail(GroupError::Lost {
                    coordinator: self.identity.coordinator.clone(),
                    seconds: patience.as_secs_f64(),
                    // That nobody listens any more says less than how the connection ended.
                    source: broken.map_or(source, Arc::new),
                }),
                Err(error) => self.fail(error),
            }
        }
        self.state().ended = true;
        self.changed.notify_all();
    }

    /// Until the connection or the group ends; answers how the connection did.
    fn converse(&self, mut stream: TcpStream, lost_after: Duration) -> Option<io::Error> {
        let (outbox, queue) = channel();
        let writing = stream.try_clone().and_then(|writing| {
            stream.set_read_timeout(Some(lost_after))?;
            stream.set_write_timeout(Some(lost_after))?;
            let name = "process group requests".to_string();
            let send = move || send_requests(writing, &queue, lost_after / HEARTBEATS);
            std::thread::Builder::new().name(name).spawn(send)
        });
        if let Err(error) = writing {
            return Some(error);
        }
        {
            let mut state = self.state();
            if state.closing {
                return None;
            }
            state.outbox = Some(outbox);
            let again: Vec<Vec<u8>> = state.pending.values().cloned().collect();
            again.into_iter().for_each(|frame| state.send(frame));
        }
        loop {
            let received = read_frame(&mut stream, MAX_FRAME_BYTES);
            match received.and_then(|body| Reply::decode(&body)) {
                Ok((_, Reply::Heartbeat)) => {}
                Ok((_, Reply::Failed { reason })) => {
                    self.fail(GroupError::Failed { reason });
                    return None;
                }
                Ok((number, reply)) => {
                    let mut state = self.state();
                    if state.pending.remove(&number).is_some() {
                        state.replies.insert(number, reply);
                        self.changed.notify_all();
                    }
                }
                Err(error) => return Some(error),
            }
        }
    }

    fn fail(&self, error: GroupError) {
        let mut state = self.state();
        if state.over().is_some() {
            return;
        }
        state.failure = Some(error.clone());
        let callbacks = std::mem::take(&mut state.callbacks);
        drop(state);
        self.changed.notify_all();
        callbacks.into_iter().for_each(|callback| callback(&error));
    }
}

impl State {
    fn send(&self, frame: Vec<u8>) {
        if let Some(outbox) = &self.outbox {
            // The connection is breaking: what has a reply is sent again on the next.
            let _ = outbox.send(frame);
        }
    }

    /// Why nothing more can be asked.
    fn over(&self) -> Option<GroupError> {
        match &self.failure {
            Some(failure) => Some(failure.clone()),
            None => self.closing.then_some(GroupError::Left),
        }
    }
}

/// Sends what is queued, and a heartbeat whenever there was nothing for a while.
fn send_requests(mut stream: TcpStream, queue: &Receiver<Vec<u8>>, pause: Duration) {
    loop {
        let frame = match queue.recv_timeout(pause) {
            Ok(frame) => frame,
            Err(RecvTimeoutError::Timeout) => Request::Heartbeat.encode(0),
            Err(RecvTimeoutError::Disconnected) => {
                // The last words still have to arrive, so only this direction ends. The coordinator
                // then ends the other. An error means that all has ended already.
                let _ = stream.shutdown(Shutdown::Write);
                return;
            }
        };
        if write_frame(&mut stream, &frame).is_err() {
            // Wakes the reading side.
            let _ = stream.shutdown(Shutdown::Both);
            return;
        }
    }
}

/// Tries until there is an answer, for so long. `given_up` ends it early.
fn connect(
    identity: &Identity,
    timeout: Duration,
    given_up: &dyn Fn() -> bool,
) -> Result<(TcpStream, Duration), GroupError> {
    let start = Instant::now();
    let mut pause = PAUSES.0;
    loop {
        let left = timeout.saturating_sub(start.elapsed());
        match attempt(identity, left.clamp(PAUSES.0, ATTEMPT_TIMEOUT)) {
            Ok(Attempt::Connected(stream, lost_after)) => return Ok((stream, lost_after)),
            Ok(Attempt::Refused(reason)) => {
                let coordinator = identity.coordinator.clone();
                return Err(GroupError::Refused { coordinator, reason });
            }
            Err(error) => {
                if start.elapsed() + pause >= timeout || given_up() {
                    return Err(no_coordinator(identity, timeout, error));
                }
            }
        }
        std::thread::sleep(pause);
        pause = (2 * pause).min(PAUSES.1);
    }
}

fn attempt(identity: &Identity, timeout: Duration) -> io::Result<Attempt> {
    let mut outcome = Err(io::Error::new(io::ErrorKind::NotFound, "the host has no address"));
    for address in identity.address.to_socket_addrs()? {
        outcome = greet(identity, &address, timeout);
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

fn greet(identity: &Identity, address: &SocketAddr, timeout: Duration) -> io::Result<Attempt> {
    let mut stream = TcpStream::connect_timeout(address, timeout)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    let greeting = read_frame(&mut stream, MAX_GREETING_BYTES)?;
    let greeting = match Greeting::decode(&greeting) {
        Ok(greeting) => greeting,
        Err(_) => return Ok(Attempt::Refused("something else listens there".to_string())),
    };
    let ours = (PROTOCOL, env!("CARGO_PKG_VERSION"));
    if (greeting.protocol, greeting.program_version.as_str()) != ours {
        return Ok(Attempt::Refused(format!(
            "it is version {} (protocol {}) and this process {} ({}); install one version everywhere",
            greeting.program_version, greeting.protocol, ours.1, ours.0
        )));
    }
    let hello = Hello {
        proof: proof(&greeting.nonce, &identity.job),
        index: identity.index,
        count: identity.count,
        instance: identity.instance.clone(),
    };
    write_frame(&mut stream, &hello.encode())?;
    match Verdict::decode(&read_frame(&mut stream, MAX_GREETING_BYTES)?)? {
        Verdict::Welcome { lost_after } => Ok(Attempt::Connected(stream, lost_after)),
        Verdict::Refused { reason } => Ok(Attempt::Refused(reason)),
    }
}

fn no_coordinator(identity: &Identity, waited: Duration, source: io::Error) -> GroupError {
    GroupError::NoCoordinator {
        coordinator: identity.coordinator.clone(),
        seconds: waited.as_secs_f64(),
        source: Arc::new(source),
    }
}

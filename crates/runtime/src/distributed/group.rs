//! Processes that form a group: they wait for each other, exchange values, and learn when one of
//! them is no more.

use std::collections::HashMap;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pjrt::{KeyValueStore, MemoryKeyValueStore};

use crate::folders::unique_name;

use super::client::{Client, Identity};
use super::error::GroupError;
use super::key_value::PluginKeys;
use super::launch::{Launch, split_address};
use super::server::Server;
use super::server_state::MAX_VALUES_BYTES;
use super::wire::{Reply, Request};

/// How long a group waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupOptions {
    /// For all processes to come, and at the end for all to be done.
    pub join_timeout: Duration,
    /// A process (or the coordinator) that is not heard of for so long counts as dead. One whose
    /// connection breaks, as when it is killed, has a quarter of it to come back. The coordinator's
    /// value holds for all; half a second is the least.
    pub lost_after: Duration,
}

impl Default for GroupOptions {
    fn default() -> GroupOptions {
        GroupOptions { join_timeout: Duration::from_secs(300), lost_after: Duration::from_secs(60) }
    }
}

/// This process among the others of its job. Process 0 runs the coordinator, to which all others
/// keep a connection; processes are counted from 0.
///
/// Meetings ([`ProcessGroup::barrier`], [`all_gather`](ProcessGroup::all_gather),
/// [`gather`](ProcessGroup::gather), [`broadcast`](ProcessGroup::broadcast)) have names. Every process must come to every meeting;
/// the n-th meeting of a name in one process is the n-th in all others.
///
/// End with [`ProcessGroup::leave`] or [`ProcessGroup::fail`]. A group that is merely dropped fails,
/// so that an error that unwinds past it does not leave the others waiting.
pub struct ProcessGroup {
    index: u32,
    count: u32,
    options: GroupOptions,
    line: Line,
    rounds: Mutex<HashMap<String, u64>>,
}

/// Dropped in this order: the server last, since this process's own client talks to it as well.
enum Line {
    /// There is no other process, and nothing goes over a network.
    Alone(Arc<MemoryKeyValueStore>),
    Connected {
        client: Arc<Client>,
        _server: Option<Server>,
    },
}

/// The first and the last meeting of every group.
const START: &str = "fungible/start";
const END: &str = "fungible/end";

impl ProcessGroup {
    /// Starts the coordinator if this is process 0, connects to it, and waits for all processes.
    ///
    /// # Errors
    /// [`GroupError::Listen`], [`GroupError::NoCoordinator`], [`GroupError::Refused`], and
    /// [`GroupError::Missing`] when not all came in time.
    pub fn join(launch: &Launch, options: &GroupOptions) -> Result<ProcessGroup, GroupError> {
        launch.check()?;
        let mut address = launch.coordinator.clone();
        let mut server = None;
        if launch.index == 0 {
            let started = start_server(launch, options.lost_after)?;
            address = loopback(started.address()).to_string();
            server = Some(started);
        }
        let identity = Identity {
            address,
            coordinator: launch.coordinator.clone(),
            job: launch.job.clone(),
            index: launch.index,
            count: launch.count,
            instance: unique_name(),
        };
        let client = Client::connect(identity, options.join_timeout)?;
        let group = ProcessGroup {
            index: launch.index,
            count: launch.count,
            options: *options,
            line: Line::Connected { client, _server: server },
            rounds: Mutex::default(),
        };
        match group.all_gather(START, &[], options.join_timeout) {
            Ok(_) => Ok(group),
            Err(GroupError::Missing { missing, count, seconds, .. }) => {
                let error = GroupError::Missing { missing, count, meeting: String::new(), seconds };
                group.fail(&error.to_string());
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// A group of this process only: everything works, without a network.
    pub fn alone() -> ProcessGroup {
        ProcessGroup {
            index: 0,
            count: 1,
            options: GroupOptions::default(),
            line: Line::Alone(Arc::default()),
            rounds: Mutex::default(),
        }
    }

    /// [`ProcessGroup::join`] where there is a launch, else [`ProcessGroup::alone`].
    ///
    /// # Errors
    /// As [`ProcessGroup::join`].
    pub fn join_or_alone(
        launch: Option<&Launch>,
        options: &GroupOptions,
    ) -> Result<ProcessGroup, GroupError> {
        launch
            .map_or_else(|| Ok(ProcessGroup::alone()), |launch| ProcessGroup::join(launch, options))
    }

    pub fn index(&self) -> usize {
        self.index as usize
    }

    pub fn count(&self) -> usize {
        self.count as usize
    }

    /// Whether this is process 0, the one that prints and writes what is written once.
    pub fn is_first(&self) -> bool {
        self.index == 0
    }

    /// Waits until all processes have come to `name`.
    ///
    /// # Errors
    /// [`GroupError::Missing`] when some did not within `timeout`, or why the group has failed.
    pub fn barrier(&self, name: &str, timeout: Duration) -> Result<(), GroupError> {
        self.all_gather(name, &[], timeout).map(|_| ())
    }

    /// Brings `value` to the meeting `name` and answers, in every process, what each brought, by
    /// index. All values together may be a gibibyte long, less a mebibyte.
    ///
    /// # Errors
    /// As [`ProcessGroup::barrier`], and [`GroupError::TooLarge`].
    pub fn all_gather(
        &self,
        name: &str,
        value: &[u8],
        timeout: Duration,
    ) -> Result<Vec<Vec<u8>>, GroupError> {
        match &self.line {
            Line::Alone(_) => Ok(vec![value.to_vec()]),
            Line::Connected { client, .. } => {
                Ok(self.meet(client, name, value, timeout, true)?.unwrap_or_default())
            }
        }
    }

    /// As [`ProcessGroup::all_gather`] for process 0; the others get nothing, and need not wait
    /// for each other.
    ///
    /// # Errors
    /// As [`ProcessGroup::all_gather`].
    pub fn gather(
        &self,
        name: &str,
        value: &[u8],
        timeout: Duration,
    ) -> Result<Option<Vec<Vec<u8>>>, GroupError> {
        match &self.line {
            Line::Alone(_) => Ok(Some(vec![value.to_vec()])),
            Line::Connected { client, .. } => {
                self.meet(client, name, value, timeout, self.is_first())
            }
        }
    }

    fn meet(
        &self,
        client: &Client,
        name: &str,
        value: &[u8],
        timeout: Duration,
        wait: bool,
    ) -> Result<Option<Vec<Vec<u8>>>, GroupError> {
        check_size(name, value, MAX_VALUES_BYTES / self.count())?;
        let round = self.next_round(name);
        let (meeting, value) = (name.to_string(), value.to_vec());
        let meet = Request::Meet { name: meeting.clone(), round, timeout, wait, value };
        let values = match client.call(&meet)? {
            Reply::Values { values } => Some(values),
            Reply::Done => None,
            Reply::TimedOut { missing } => {
                let (count, seconds) = (self.count, timeout.as_secs_f64());
                return Err(GroupError::Missing { missing, count, meeting, seconds });
            }
            other => return Err(unexpected(&other)),
        };
        client.tell(&Request::Seen { name: meeting, round });
        Ok(values)
    }

    /// Answers, in every process, what process `from` passed as `value`; what the others pass is
    /// not looked at.
    ///
    /// # Errors
    /// As [`ProcessGroup::all_gather`]; [`GroupError::Failed`] when there is no process `from`.
    pub fn broadcast(
        &self,
        name: &str,
        from: usize,
        value: &[u8],
        timeout: Duration,
    ) -> Result<Vec<u8>, GroupError> {
        let mine = if from == self.index() { value } else { &[] };
        let mut values = self.all_gather(name, mine, timeout)?;
        if from >= values.len() {
            let reason = format!("`{name}` is to come from process {from} of {}", self.count);
            return Err(GroupError::Failed { reason });
        }
        Ok(values.swap_remove(from))
    }

    /// Sets the value of a key, for all processes.
    ///
    /// # Errors
    /// [`GroupError::TooLarge`], or why the group has failed.
    pub fn put(&self, key: &str, value: &[u8]) -> Result<(), GroupError> {
        match &self.line {
            Line::Alone(store) => store.put(key, value).map_err(|error| failed(&error)),
            Line::Connected { client, .. } => put(client, key, value),
        }
    }

    /// The value of a key, waiting for it up to `timeout`.
    ///
    /// # Errors
    /// [`GroupError::NotPut`] when it did not come in time, or why the group has failed.
    pub fn get(&self, key: &str, timeout: Duration) -> Result<Vec<u8>, GroupError> {
        match &self.line {
            Line::Alone(store) => store.get(key, timeout).map_err(|_| not_put(key, timeout)),
            Line::Connected { client, .. } => get(client, key, timeout),
        }
    }

    /// The value of a key, if it is there now.
    ///
    /// # Errors
    /// Why the group has failed.
    pub fn try_get(&self, key: &str) -> Result<Option<Vec<u8>>, GroupError> {
        match &self.line {
            Line::Alone(store) => Ok(store.try_get(key).ok()),
            Line::Connected { client, .. } => try_get(client, key),
        }
    }

    /// The group's keys as plugins use them to find each other. It stays usable until the group
    /// ends; its keys are apart from those of [`ProcessGroup::put`].
    pub fn key_value_store(&self) -> Arc<dyn KeyValueStore> {
        match &self.line {
            Line::Alone(store) => store.clone(),
            Line::Connected { client, .. } => Arc::new(PluginKeys::new(Arc::clone(client))),
        }
    }

    /// Why the group has failed, if it has: to be asked between steps.
    pub fn failure(&self) -> Option<GroupError> {
        match &self.line {
            Line::Alone(_) => None,
            Line::Connected { client, .. } => client.failure(),
        }
    }

    /// Calls back when the group fails, from another thread: a process may be waiting in a plugin
    /// for one that is dead, where nothing else can reach it.
    pub fn on_failure(&self, callback: impl FnOnce(&GroupError) + Send + 'static) {
        if let Line::Connected { client, .. } = &self.line {
            client.on_failure(Box::new(callback));
        }
    }

    /// Waits until all processes are done, and ends the group. What is asked of it later is
    /// answered with [`GroupError::Left`].
    ///
    /// # Errors
    /// As [`ProcessGroup::barrier`].
    pub fn leave(&self) -> Result<(), GroupError> {
        let outcome = self.barrier(END, self.options.join_timeout);
        match &outcome {
            Ok(()) => self.close(&Request::Leave),
            Err(error) => self.close(&Request::Fail { reason: error.to_string() }),
        }
        outcome
    }

    /// Ends the group because this process cannot go on: the others are told why.
    pub fn fail(&self, reason: &str) {
        self.close(&Request::Fail { reason: reason.to_string() });
    }

    fn close(&self, last: &Request) {
        if let Line::Connected { client, .. } = &self.line {
            client.close(last);
        }
    }

    /// Counts the meetings of a name.
    fn next_round(&self, name: &str) -> u64 {
        let mut rounds = self.rounds.lock().unwrap_or_else(PoisonError::into_inner);
        let next = rounds.entry(name.to_string()).or_default();
        let round = *next;
        *next += 1;
        round
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.close(&Request::Fail { reason: "it ended without saying why".to_string() });
    }
}

impl fmt::Debug for ProcessGroup {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ProcessGroup(process {} of {})", self.index, self.count)
    }
}

pub(super) fn put(client: &Client, key: &str, value: &[u8]) -> Result<(), GroupError> {
    check_size(key, value, MAX_VALUES_BYTES)?;
    match client.call(&Request::Put { key: key.to_string(), value: value.to_vec() })? {
        Reply::Done => Ok(()),
        other => Err(unexpected(&other)),
    }
}

pub(super) fn get(client: &Client, key: &str, timeout: Duration) -> Result<Vec<u8>, GroupError> {
    match client.call(&Request::Get { key: key.to_string(), timeout })? {
        Reply::Value { value } => Ok(value),
        Reply::TimedOut { .. } => Err(not_put(key, timeout)),
        other => Err(unexpected(&other)),
    }
}

pub(super) fn try_get(client: &Client, key: &str) -> Result<Option<Vec<u8>>, GroupError> {
    match client.call(&Request::TryGet { key: key.to_string() })? {
        Reply::Value { value } => Ok(Some(value)),
        Reply::NotFound => Ok(None),
        other => Err(unexpected(&other)),
    }
}

fn not_put(key: &str, timeout: Duration) -> GroupError {
    GroupError::NotPut { key: key.to_string(), seconds: timeout.as_secs_f64() }
}

fn failed(error: &pjrt::KeyValueError) -> GroupError {
    GroupError::Failed { reason: error.message.clone() }
}

fn unexpected(reply: &Reply) -> GroupError {
    GroupError::Failed { reason: format!("the coordinator answered something else: {reply:?}") }
}

fn check_size(what: &str, value: &[u8], limit_bytes: usize) -> Result<(), GroupError> {
    if value.len() <= limit_bytes {
        return Ok(());
    }
    Err(GroupError::TooLarge { what: what.to_string(), bytes: value.len(), limit_bytes })
}

/// Listens on all of this machine's addresses: the name by which others reach it need not be one
/// that it knows. A coordinator for this machine only is not reachable from elsewhere.
fn start_server(launch: &Launch, lost_after: Duration) -> Result<Server, GroupError> {
    let (host, port) = split_address(&launch.coordinator)?;
    let all: [SocketAddr; 2] =
        [(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()];
    let here = [SocketAddr::from((Ipv4Addr::LOCALHOST, port))];
    let addresses = if is_loopback(host) { &here[..] } else { &all[..] };
    Server::start(addresses, &launch.job, launch.count, lost_after).map_err(|source| {
        GroupError::Listen { address: launch.coordinator.clone(), source: Arc::new(source) }
    })
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}

/// How the coordinator's own process reaches it.
fn loopback(listening: SocketAddr) -> SocketAddr {
    let port = listening.port();
    match listening {
        SocketAddr::V6(_) => (Ipv6Addr::LOCALHOST, port).into(),
        SocketAddr::V4(_) => (Ipv4Addr::LOCALHOST, port).into(),
    }
}

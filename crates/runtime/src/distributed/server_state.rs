//! What the coordinator knows: who is there, what was put, who waits for what. Decides; knows no
//! socket and reads no clock. Replies go into a queue per process.

use std::collections::HashMap;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use super::error::processes;
use super::wire::{Hello, MAX_FRAME_BYTES, Reply, Request};

/// Frames on their way to one process.
pub(super) type Outbox = Sender<Vec<u8>>;

/// A connection that breaks is made again at once by a process that lives, so the patience with
/// one is a fraction of that with a silent one, which may be a slow network.
pub(super) fn reconnect_within(lost_after: Duration) -> Duration {
    lost_after / 4
}

pub(super) struct State {
    members: Vec<Member>,
    values: HashMap<String, Vec<u8>>,
    /// Keys that are waited for.
    gets: Vec<(String, Waiter)>,
    meetings: HashMap<(String, u64), Meeting>,
    lost_after: Duration,
    /// Why there is nothing more to do.
    failure: Option<String>,
}

struct Member {
    presence: Presence,
    instance: String,
    /// Which of its connections counts; frames of older ones may still arrive.
    connection: u64,
    outbox: Option<Outbox>,
    last_heard: Instant,
    /// When its connection broke, if it has none.
    broken: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Presence {
    Expected,
    Present,
    Left,
}

struct Waiter {
    member: usize,
    request: u64,
    /// None for a wait without end.
    deadline: Option<Instant>,
}

struct Meeting {
    values: Vec<Option<Vec<u8>>>,
    waiters: Vec<Waiter>,
    seen: Vec<bool>,
}

impl State {
    pub fn new(count: u32, lost_after: Duration, now: Instant) -> State {
        let member = || Member {
            presence: Presence::Expected,
            instance: String::new(),
            connection: 0,
            outbox: None,
            last_heard: now,
            broken: now,
        };
        State {
            members: (0..count).map(|_| member()).collect(),
            values: HashMap::new(),
            gets: Vec::new(),
            meetings: HashMap::new(),
            lost_after,
            failure: None,
        }
    }

    fn count(&self) -> u32 {
        self.members.len() as u32
    }

    fn name(&self, member: usize) -> String {
        processes(&[member as u32], self.count())
    }

    /// Takes a process in, for the first time or again.
    ///
    /// # Errors
    /// Why not, as a sentence for its user.
    pub fn admit(
        &mut self,
        hello: &Hello,
        connection: u64,
        outbox: Outbox,
        now: Instant,
    ) -> Result<usize, String> {
        let count = self.count();
        if hello.count != count {
            return Err(format!(
                "it was told that there are {} processes, the coordinator {count}; give all the same number",
                hello.count
            ));
        }
        let index = hello.index as usize;
        let Some(member) = self.members.get_mut(index) else {
            return Err(format!(
                "it is process {index} of {count}, but the last one is {}",
                count.saturating_sub(1)
            ));
        };
        if member.presence != Presence::Expected && member.instance != hello.instance {
            return Err(format!(
                "there is a process {index} of {count} already; give each process an index of its own"
            ));
        }
        if let Some(reason) = &self.failure {
            return Err(reason.clone());
        }
        *member = Member {
            presence: Presence::Present,
            instance: hello.instance.clone(),
            connection,
            outbox: Some(outbox),
            last_heard: now,
            broken: now,
        };
        Ok(index)
    }

    pub fn receive(
        &mut self,
        member: usize,
        connection: u64,
        number: u64,
        request: Request,
        now: Instant,
    ) {
        if self.members[member].connection != connection {
            return;
        }
        self.members[member].last_heard = now;
        if let Some(reason) = &self.failure {
            let reason = reason.clone();
            return self.reply(member, number, &Reply::Failed { reason });
        }
        let waiter = |timeout: Duration| Waiter {
            member,
            request: number,
            deadline: now.checked_add(timeout),
        };
        match request {
            Request::Put { key, value } => {
                self.put(key, value);
                self.reply(member, number, &Reply::Done);
            }
            Request::Get { key, timeout } => match self.values.get(&key) {
                Some(value) => {
                    let value = value.clone();
                    self.reply(member, number, &Reply::Value { value });
                }
                None => {
                    // A process that lost its connection sends its request again.
                    self.gets.retain(|(_, of)| (of.member, of.request) != (member, number));
                    self.gets.push((key, waiter(timeout)));
                }
            },
            Request::TryGet { key } => {
                let found = self.values.get(&key).cloned();
                let reply = found.map_or(Reply::NotFound, |value| Reply::Value { value });
                self.reply(member, number, &reply);
            }
            Request::Meet { name, round, timeout, wait, value } => {
                if !wait {
                    self.reply(member, number, &Reply::Done);
                }
                let waiter = wait.then(|| waiter(timeout));
                self.meet((name, round), member, value, waiter);
            }
            Request::Seen { name, round } => self.seen((name, round), member),
            Request::Heartbeat => self.reply(member, number, &Reply::Heartbeat),
            Request::Leave => {
                self.members[member].presence = Presence::Left;
                self.check_meetings_with_those_who_left();
            }
            Request::Fail { reason } => {
                let reason = format!("{} gave up: {reason}", self.name(member));
                self.members[member].presence = Presence::Left;
                self.fail(reason);
            }
        }
    }

    fn put(&mut self, key: String, value: Vec<u8>) {
        let (met, rest) =
            std::mem::take(&mut self.gets).into_iter().partition(|(of, _)| *of == key);
        self.gets = rest;
        let met: Vec<(String, Waiter)> = met;
        for (_, waiter) in met {
            self.reply(waiter.member, waiter.request, &Reply::Value { value: value.clone() });
        }
        self.values.insert(key, value);
    }

    fn meet(
        &mut self,
        place: (String, u64),
        member: usize,
        value: Vec<u8>,
        waiter: Option<Waiter>,
    ) {
        let count = self.members.len();
        let meeting = self.meetings.entry(place.clone()).or_insert_with(|| Meeting {
            values: vec![None; count],
            waiters: Vec::new(),
            seen: vec![false; count],
        });
        meeting.waiters.retain(|other| other.member != member);
        meeting.values[member] = Some(value);
        meeting.waiters.extend(waiter);
        if meeting.values.iter().any(Option::is_none) {
            return self.check_meetings_with_those_who_left();
        }
        let values: Vec<Vec<u8>> = meeting.values.iter().flatten().cloned().collect();
        let waiters = std::mem::take(&mut meeting.waiters);
        let bytes: usize = values.iter().map(Vec::len).sum();
        if bytes > MAX_VALUES_BYTES {
            return self.fail(format!(
                "what the processes brought to `{}` is {bytes} bytes together, and {MAX_VALUES_BYTES} is the most",
                place.0
            ));
        }
        let reply = Reply::Values { values };
        for waiter in waiters {
            self.reply(waiter.member, waiter.request, &reply);
        }
    }

    fn seen(&mut self, place: (String, u64), member: usize) {
        if let Some(meeting) = self.meetings.get_mut(&place) {
            meeting.seen[member] = true;
            if meeting.seen.iter().all(|&seen| seen) {
                self.meetings.remove(&place);
            }
        }
    }

    /// A meeting that somebody who left has not come to can never be complete.
    fn check_meetings_with_those_who_left(&mut self) {
        let waited_for = self.meetings.iter().filter(|(_, meeting)| !meeting.waiters.is_empty());
        let hopeless = waited_for.into_iter().find_map(|((name, _), meeting)| {
            let left = |member: usize| self.members[member].presence == Presence::Left;
            let absent = (0..self.members.len())
                .find(|&member| meeting.values[member].is_none() && left(member))?;
            Some((name.clone(), absent))
        });
        if let Some((name, absent)) = hopeless {
            let absent = self.name(absent);
            self.fail(format!("{absent} has ended, and others wait for it at `{name}`"));
        }
    }

    /// The connection has ended. Its process may come back with another.
    pub fn disconnected(&mut self, member: usize, connection: u64, now: Instant) {
        let member = &mut self.members[member];
        if member.connection == connection && member.outbox.take().is_some() {
            member.broken = now;
        }
    }

    /// Answers those who have waited long enough, and finds out who is no more.
    pub fn tick(&mut self, now: Instant) {
        let over = |waiter: &Waiter| waiter.deadline.is_some_and(|deadline| deadline <= now);
        let mut answers = Vec::new();
        self.gets.retain(|(_, waiter)| {
            let over = over(waiter);
            if over {
                answers.push((waiter.member, waiter.request, Vec::new()));
            }
            !over
        });
        for meeting in self.meetings.values_mut() {
            let missing = (0u32..).zip(&meeting.values).filter(|(_, value)| value.is_none());
            let missing: Vec<u32> = missing.map(|(member, _)| member).collect();
            meeting.waiters.retain(|waiter| {
                let over = over(waiter);
                if over {
                    answers.push((waiter.member, waiter.request, missing.clone()));
                }
                !over
            });
        }
        for (member, request, missing) in answers {
            self.reply(member, request, &Reply::TimedOut { missing });
        }
        if self.failure.is_some() {
            return;
        }
        let lost = (0..self.members.len()).find_map(|index| {
            let member = &self.members[index];
            let (since, patience, how) = match member.outbox {
                Some(_) => (member.last_heard, self.lost_after, "was not heard of for"),
                None => (
                    member.broken,
                    reconnect_within(self.lost_after),
                    "lost its connection and did not come back within",
                ),
            };
            let present = member.presence == Presence::Present;
            (present && now.saturating_duration_since(since) > patience).then(|| {
                format!(
                    "{} {how} {} s; it ended or its machine is out of reach",
                    self.name(index),
                    patience.as_secs_f64()
                )
            })
        });
        if let Some(reason) = lost {
            self.fail(reason);
        }
    }

    /// The coordinator itself did not run for so long, which says nothing about the others.
    pub fn forgive(&mut self, pause: Duration) {
        for member in &mut self.members {
            member.last_heard += pause;
            member.broken += pause;
        }
    }

    /// Ends the group: all are told, and whoever asks from now on.
    pub fn fail(&mut self, reason: String) {
        if self.failure.is_some() {
            return;
        }
        for member in 0..self.members.len() {
            self.reply(member, 0, &Reply::Failed { reason: reason.clone() });
        }
        self.failure = Some(reason);
    }

    /// Whether every process that came is gone again.
    pub fn is_deserted(&self) -> bool {
        self.members.iter().all(|member| member.outbox.is_none())
    }

    /// Ends all connections once their queues are empty.
    pub fn close(&mut self) {
        for member in &mut self.members {
            member.outbox = None;
        }
    }

    fn reply(&self, member: usize, number: u64, reply: &Reply) {
        if let Some(outbox) = &self.members[member].outbox {
            // The connection is breaking: its process will ask again.
            let _ = outbox.send(reply.encode(number));
        }
    }
}

/// Together with lengths and numbers it still is a frame.
pub(super) const MAX_VALUES_BYTES: usize = MAX_FRAME_BYTES - (1 << 20);

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    struct Setup {
        state: State,
        inboxes: Vec<Receiver<Vec<u8>>>,
        now: Instant,
    }

    fn hello(index: u32, count: u32, instance: &str) -> Hello {
        Hello { proof: String::new(), index, count, instance: instance.to_string() }
    }

    fn setup(count: u32) -> Setup {
        let now = Instant::now();
        let mut state = State::new(count, 40 * SECOND, now);
        let admit = |index| {
            let (outbox, inbox) = channel();
            let hello = hello(index, count, "first");
            state.admit(&hello, u64::from(index), outbox, now).unwrap();
            inbox
        };
        let inboxes = (0..count).map(admit).collect();
        Setup { state, inboxes, now }
    }

    impl Setup {
        fn send(&mut self, member: usize, number: u64, request: Request) {
            self.state.receive(member, member as u64, number, request, self.now);
        }

        fn received(&self, member: usize) -> Option<(u64, Reply)> {
            self.inboxes[member].try_recv().ok().map(|body| Reply::decode(&body).unwrap())
        }
    }

    fn meet(value: &[u8]) -> Request {
        let (name, value) = ("here".to_string(), value.to_vec());
        Request::Meet { name, round: 0, timeout: 10 * SECOND, wait: true, value }
    }

    #[test]
    fn a_meeting_ends_when_the_last_one_comes() {
        let mut setup = setup(2);
        setup.send(1, 7, meet(b"b"));
        assert_eq!(setup.received(1), None);
        // Sent again after a lost connection: it is still one.
        setup.send(1, 7, meet(b"b"));
        setup.send(0, 3, meet(b"a"));
        let values = Reply::Values { values: vec![b"a".to_vec(), b"b".to_vec()] };
        assert_eq!(setup.received(0), Some((3, values.clone())));
        assert_eq!(setup.received(1), Some((7, values.clone())));
        assert_eq!(setup.received(1), None);
        // The answer was lost, so it is asked for again, and then forgotten.
        setup.send(1, 7, meet(b"b"));
        assert_eq!(setup.received(1), Some((7, values)));
        for member in 0..2 {
            setup.send(member, 0, Request::Seen { name: "here".into(), round: 0 });
        }
        assert!(setup.state.meetings.is_empty());
    }

    #[test]
    fn who_wants_no_values_need_not_wait() {
        let mut setup = setup(2);
        let mut bring = meet(b"b");
        if let Request::Meet { wait, .. } = &mut bring {
            *wait = false;
        }
        setup.send(1, 7, bring);
        assert_eq!(setup.received(1), Some((7, Reply::Done)));
        setup.send(1, 0, Request::Seen { name: "here".into(), round: 0 });
        // It may even end before the other one comes.
        setup.send(1, 0, Request::Leave);
        setup.send(0, 3, meet(b"a"));
        let values = Reply::Values { values: vec![b"a".to_vec(), b"b".to_vec()] };
        assert_eq!(setup.received(0), Some((3, values)));
        setup.send(0, 0, Request::Seen { name: "here".into(), round: 0 });
        assert!(setup.state.meetings.is_empty());
    }

    #[test]
    fn those_who_do_not_come_are_named() {
        let mut setup = setup(3);
        setup.send(1, 7, meet(b""));
        setup.state.tick(setup.now + 9 * SECOND);
        assert_eq!(setup.received(1), None);
        setup.state.tick(setup.now + 10 * SECOND);
        assert_eq!(setup.received(1), Some((7, Reply::TimedOut { missing: vec![0, 2] })));
    }

    #[test]
    fn a_put_answers_those_who_wait() {
        let mut setup = setup(2);
        let get = |key: &str| Request::Get { key: key.into(), timeout: SECOND };
        setup.send(1, 1, get("a"));
        setup.send(1, 2, get("b"));
        setup.send(1, 3, Request::TryGet { key: "a".into() });
        setup.send(0, 4, Request::Put { key: "a".into(), value: b"v".to_vec() });
        assert_eq!(setup.received(1), Some((3, Reply::NotFound)));
        let value = Reply::Value { value: b"v".to_vec() };
        assert_eq!(setup.received(1), Some((1, value.clone())));
        assert_eq!(setup.received(0), Some((4, Reply::Done)));
        setup.send(1, 5, get("a"));
        assert_eq!(setup.received(1), Some((5, value)));
        setup.state.tick(setup.now + SECOND);
        assert_eq!(setup.received(1), Some((2, Reply::TimedOut { missing: vec![] })));
    }

    fn failure(reply: Option<(u64, Reply)>) -> String {
        match reply {
            Some((_, Reply::Failed { reason })) => reason,
            other => panic!("no failure but {other:?}"),
        }
    }

    #[test]
    fn who_is_silent_or_gone_ends_the_group() {
        let mut silent = setup(2);
        silent.send(0, 0, Request::Heartbeat);
        let _ = silent.received(0);
        silent.state.tick(silent.now + 39 * SECOND);
        assert_eq!(silent.received(0), None);
        silent.now += 30 * SECOND;
        silent.send(0, 0, Request::Heartbeat);
        let _ = silent.received(0);
        silent.state.tick(silent.now + 11 * SECOND);
        assert_eq!(
            failure(silent.received(0)),
            "process 1 of 2 was not heard of for 40 s; it ended or its machine is out of reach"
        );

        let mut gone = setup(2);
        gone.state.disconnected(1, 1, gone.now);
        gone.state.tick(gone.now + 9 * SECOND);
        assert_eq!(gone.received(0), None);
        gone.state.tick(gone.now + 11 * SECOND);
        assert!(failure(gone.received(0)).contains("process 1 of 2 lost its connection"));
        // Whoever asks later learns it too.
        gone.send(0, 9, Request::TryGet { key: "a".into() });
        assert!(failure(gone.received(0)).contains("process 1 of 2"));
    }

    #[test]
    fn a_process_may_come_back() {
        let mut setup = setup(2);
        setup.state.disconnected(1, 1, setup.now);
        let (outbox, inbox) = channel();
        let now = setup.now + 5 * SECOND;
        assert_eq!(setup.state.admit(&hello(1, 2, "first"), 77, outbox, now), Ok(1));
        // What the old connection still had to say is not heard, nor that it has ended.
        setup.state.receive(1, 1, 1, Request::Fail { reason: "old".into() }, now);
        setup.state.disconnected(1, 1, now);
        setup.state.tick(setup.now + 20 * SECOND);
        setup.state.receive(1, 77, 5, Request::Put { key: "k".into(), value: vec![] }, now);
        assert_eq!(Reply::decode(&inbox.try_recv().unwrap()).unwrap(), (5, Reply::Done));
    }

    #[test]
    fn who_does_not_belong_is_told_why() {
        let mut setup = setup(2);
        let mut refusal = |hello: Hello| {
            let (outbox, _inbox) = channel();
            setup.state.admit(&hello, 9, outbox, setup.now).unwrap_err()
        };
        assert!(refusal(hello(0, 3, "x")).contains("3 processes, the coordinator 2"));
        assert!(refusal(hello(2, 2, "x")).contains("the last one is 1"));
        assert!(refusal(hello(1, 2, "second")).contains("a process 1 of 2 already"));
    }

    #[test]
    fn leaving_is_no_failure_unless_one_is_waited_for() {
        let mut left = setup(2);
        left.send(1, 0, Request::Leave);
        left.state.disconnected(1, 1, left.now);
        left.send(0, 0, Request::Heartbeat);
        left.state.tick(left.now + 30 * SECOND);
        assert_eq!(left.received(0), Some((0, Reply::Heartbeat)));
        assert_eq!(left.received(0), None);
        left.send(0, 1, meet(b""));
        assert_eq!(
            failure(left.received(0)),
            "process 1 of 2 has ended, and others wait for it at `here`"
        );
    }

    #[test]
    fn giving_up_tells_the_others_why() {
        let mut setup = setup(2);
        setup.send(1, 0, Request::Fail { reason: "the disk is full".into() });
        assert_eq!(failure(setup.received(0)), "process 1 of 2 gave up: the disk is full");
    }

    #[test]
    fn a_pause_of_the_coordinator_is_nobody_s_fault() {
        let mut setup = setup(2);
        setup.state.forgive(100 * SECOND);
        setup.state.tick(setup.now + 110 * SECOND);
        assert_eq!(setup.received(0), None);
    }
}

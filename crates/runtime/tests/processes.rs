//! Groups of real processes on this machine: that they find each other, and that none waits for ever
//! for one that is wrong, late or dead. This test starts itself again for each process.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test's findings are printed")]

mod support;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use runtime::distributed::{
    GroupError, GroupOptions, Launch, LaunchFlags, ProcessGroup, Variables,
};

/// What a started process has to do.
const ROLE: &str = "FUNGIBLE_TEST_ROLE";

/// A process that hangs ends itself after this, so that a failed test is no test that hangs.
const HANGS: Duration = Duration::from_secs(120);

/// For what is expected to come.
const LONG: Duration = Duration::from_secs(100);

fn main() {
    if let Ok(role) = std::env::var(ROLE) {
        std::thread::spawn(|| {
            std::thread::sleep(HANGS);
            println!("it hangs");
            runtime::end_process(9);
        });
        match play(&role) {
            Ok(said) => println!("{said}"),
            Err(error) => println!("error: {error}"),
        }
        return;
    }
    support::run_all(vec![
        ("four_processes_exchange_values", Box::new(exchange)),
        ("slurm_s_variables_are_enough", Box::new(started_by_slurm)),
        ("a_wrong_count_is_refused", Box::new(wrong_count)),
        ("who_does_not_come_is_named", Box::new(late)),
        ("a_coordinator_that_never_comes", Box::new(no_coordinator)),
        ("a_killed_process_ends_the_others", Box::new(killed)),
        ("a_killed_coordinator_ends_the_others", Box::new(killed_coordinator)),
        ("a_stopped_process_ends_the_others", Box::new(stopped)),
        ("giving_up_tells_the_others_why", Box::new(gives_up)),
        ("who_waits_elsewhere_is_called_back", Box::new(called_back)),
        ("two_jobs_on_one_port_do_not_mix", Box::new(two_jobs)),
        ("strangers_do_not_disturb", Box::new(strangers)),
        ("a_broken_connection_is_made_again", Box::new(broken_connection)),
        ("keys_are_shared_and_waited_for", Box::new(keys)),
        ("one_process_needs_no_network", Box::new(alone)),
        ("values_that_are_too_long_are_refused", Box::new(too_long)),
    ]);
}

/// What the processes of the tests do, told by its name.
fn play(role: &str) -> Result<String, GroupError> {
    let variables: Variables = std::env::vars().collect();
    let launch = Launch::find(&LaunchFlags::default(), &variables)?.unwrap();
    let options = match role {
        "impatient" => GroupOptions { join_timeout: Duration::from_millis(700), ..patience() },
        _ => patience(),
    };
    let group = ProcessGroup::join(&launch, &options)?;
    let index = group.index();
    match role {
        "exchange" => exchanged(&group),
        "leave" | "impatient" => group.leave().map(|()| "left".to_string()),
        "wait" => {
            let outcome = group.barrier("a meeting that one does not come to", LONG);
            outcome.map(|()| "met".to_string())
        }
        "die" => std::process::abort(),
        "linger" => {
            println!("joined");
            std::thread::sleep(LONG);
            Ok("it was not ended".to_string())
        }
        "give-up" => {
            group.fail("the disk is full");
            Ok("gave up".to_string())
        }
        "drop" => {
            drop(group);
            Ok("dropped".to_string())
        }
        "wait-elsewhere" => {
            let (sender, receiver) = channel();
            group.on_failure(move |error| sender.send(error.to_string()).unwrap());
            Ok(format!("called back: {}", receiver.recv().unwrap()))
        }
        other => panic!("process {index} has no role {other}"),
    }
}

fn patience() -> GroupOptions {
    GroupOptions { join_timeout: LONG, lost_after: Duration::from_secs(6) }
}

fn exchanged(group: &ProcessGroup) -> Result<String, GroupError> {
    let index = group.index();
    let values = group.all_gather("values", &vec![index as u8; index], LONG)?;
    let mut said = format!("{values:?}");
    let large = group.all_gather("megabytes", &vec![index as u8; 4 << 20], LONG)?;
    for (index, value) in large.iter().enumerate() {
        assert!(value.len() == 4 << 20 && value.iter().all(|&byte| byte == index as u8));
    }
    for round in 0..3 {
        let mine = [round, index as u8];
        let all = group.gather("to the first", &mine, LONG)?;
        let expected = (0..4).map(|index| vec![round, index]).collect();
        assert_eq!(all, (index == 0).then_some(expected));
    }
    for _ in 0..3 {
        group.barrier("again", LONG)?;
    }
    let from_two = group.broadcast("config", 2, format!("from {index}").as_bytes(), LONG)?;
    said += &format!(" {}", String::from_utf8(from_two).unwrap());
    group.leave()?;
    Ok(said)
}

struct Started {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

/// A process of `count`, whose role is `role`.
fn start(role: &str, index: usize, count: usize, port: u16) -> Started {
    let own = [
        ("FUNGIBLE_PROCESS_ID", index.to_string()),
        ("FUNGIBLE_PROCESS_COUNT", count.to_string()),
        ("FUNGIBLE_COORDINATOR", format!("127.0.0.1:{port}")),
        ("FUNGIBLE_JOB", "a test".to_string()),
    ];
    start_with(role, &own)
}

fn start_with(role: &str, variables: &[(&str, String)]) -> Started {
    let mut command = Command::new(std::env::current_exe().unwrap());
    // What the machine that runs the tests is a part of does not matter here.
    let others = std::env::vars().map(|(name, _)| name);
    let others = others.filter(|name| name.starts_with("SLURM_") || name.starts_with("FUNGIBLE_"));
    others.for_each(|name| {
        command.env_remove(name);
    });
    command.env(ROLE, role).envs(variables.iter().map(|(name, value)| (name, value)));
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap());
    Started { child, lines }
}

impl Started {
    fn waits_until_joined(&mut self) {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        assert_eq!(line, "joined\n");
    }

    /// The last line that it printed.
    fn said(mut self) -> String {
        let mut said = String::new();
        self.lines.read_to_string(&mut said).unwrap();
        self.child.wait().unwrap();
        said.lines().last().unwrap_or_default().to_string()
    }

    fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One that nobody listens on, a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn all_say(started: Vec<Started>) -> Vec<String> {
    started.into_iter().map(Started::said).collect()
}

fn exchange() {
    let port = free_port();
    // The coordinator comes last.
    let started = (0..4).rev().map(|index| start("exchange", index, 4, port)).collect();
    assert_eq!(all_say(started), vec!["[[], [1], [2, 2], [3, 3, 3]] from 2"; 4]);
}

fn started_by_slurm() {
    // Slurm's job id chooses the port; two runs of this test look for theirs in different places.
    let first = std::process::id() % 4096;
    let is_free = |job: &u32| TcpListener::bind(("127.0.0.1", 61440 + (job % 4096) as u16)).is_ok();
    let job = (first..first + 4096).find(is_free).unwrap();
    let start = |index: usize| {
        let variables = [
            ("SLURM_JOB_ID", job.to_string()),
            ("SLURM_STEP_NODELIST", "127.0.0.[1-2]".to_string()),
            ("SLURM_NTASKS", "2".to_string()),
            ("SLURM_PROCID", index.to_string()),
            ("SLURM_LOCALID", "0".to_string()),
        ];
        start_with("leave", &variables)
    };
    assert_eq!(all_say(vec![start(0), start(1)]), ["left", "left"]);
}

fn wrong_count() {
    let port = free_port();
    let first = start("leave", 0, 2, port);
    let other = start("leave", 1, 3, port).said();
    assert!(
        other.contains(
            "refused this process: it was told that there are 3 processes, the coordinator 2"
        ),
        "{other}"
    );
    // The right one may still come, and none after it.
    let second = start("leave", 1, 2, port);
    assert_eq!(all_say(vec![first, second]), ["left", "left"]);

    let port = free_port();
    let mut joined = [start("linger", 0, 2, port), start("linger", 1, 2, port)];
    joined.iter_mut().for_each(Started::waits_until_joined);
    let twice = start("leave", 1, 2, port).said();
    assert!(twice.contains("there is a process 1 of 2 already"), "{twice}");
}

fn late() {
    let port = free_port();
    let first = start("leave", 0, 3, port);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let impatient = start("impatient", 2, 3, port).said();
    // Whether the first one had come depends on who was faster.
    let one = "error: process 1 of 3 did not come within 0.7 s";
    let both = "error: processes 0 and 1 of 3 did not come within 0.7 s";
    assert!([one, both].contains(&impatient.as_str()), "{impatient}");
    let first = first.said();
    assert!(first.starts_with("error: process 2 of 3 gave up: process"), "{first}");
}

fn no_coordinator() {
    let port = free_port();
    let said = start("impatient", 1, 2, port).said();
    let expected = format!(
        "error: the coordinator (process 0) could not be reached at 127.0.0.1:{port} within 0.7 s"
    );
    assert!(said.starts_with(&expected), "{said}");
}

fn killed() {
    let port = free_port();
    let waiting = vec![start("wait", 0, 3, port), start("wait", 1, 3, port)];
    let dies = start("die", 2, 3, port);
    for said in all_say(waiting) {
        assert!(said.starts_with("error: process 2 of 3 lost its connection"), "{said}");
    }
    drop(dies);
}

fn killed_coordinator() {
    let port = free_port();
    let coordinator = start("die", 0, 3, port);
    let waiting = vec![start("wait", 1, 3, port), start("wait", 2, 3, port)];
    for said in all_say(waiting) {
        let expected = format!(
            "error: the coordinator (process 0, at 127.0.0.1:{port}) did not answer for 1.5 s"
        );
        assert!(said.starts_with(&expected), "{said}");
    }
    drop(coordinator);
}

fn stopped() {
    let port = free_port();
    let waiting = vec![start("wait", 0, 3, port), start("wait", 2, 3, port)];
    let mut stops = start("linger", 1, 3, port);
    stops.waits_until_joined();
    stops.signal("-STOP");
    for said in all_say(waiting) {
        assert!(said.starts_with("error: process 1 of 3 was not heard of for 6 s"), "{said}");
    }
}

fn gives_up() {
    let port = free_port();
    let waiting = vec![start("wait", 0, 3, port), start("wait", 1, 3, port)];
    assert_eq!(start("give-up", 2, 3, port).said(), "gave up");
    let expected = "error: process 2 of 3 gave up: the disk is full";
    assert_eq!(all_say(waiting), [expected, expected]);

    // The coordinator's own process, this time, and without a word.
    let port = free_port();
    let waiting = vec![start("wait", 1, 3, port), start("wait", 2, 3, port)];
    assert_eq!(start("drop", 0, 3, port).said(), "dropped");
    let expected = "error: process 0 of 3 gave up: it ended without saying why";
    assert_eq!(all_say(waiting), [expected, expected]);
}

fn called_back() {
    let port = free_port();
    let waiting = vec![start("wait-elsewhere", 0, 2, port), start("die", 1, 2, port)];
    let said = waiting.into_iter().next().unwrap().said();
    assert!(said.starts_with("called back: process 1 of 2 lost its connection"), "{said}");
}

fn two_jobs() {
    let port = free_port();
    let first = start("leave", 0, 2, port);
    let another = |index: usize| {
        let variables = [
            ("FUNGIBLE_PROCESS_ID", index.to_string()),
            ("FUNGIBLE_PROCESS_COUNT", "2".to_string()),
            ("FUNGIBLE_COORDINATOR", format!("127.0.0.1:{port}")),
            ("FUNGIBLE_JOB", "another test".to_string()),
        ];
        start_with("leave", &variables).said()
    };
    let said = another(1);
    assert!(said.contains("refused this process: it coordinates another job"), "{said}");
    let said = another(0);
    assert!(said.contains("cannot listen on 127.0.0.1"), "{said}");
    // The first job has not noticed.
    let second = start("leave", 1, 2, port);
    assert_eq!(all_say(vec![first, second]), ["left", "left"]);
}

/// The groups of these tests are threads of one process.
fn launch(index: u32, count: u32, address: &str) -> Launch {
    let flags = LaunchFlags {
        index: Some(index),
        count: Some(count),
        coordinator: Some(address.to_string()),
        ..LaunchFlags::default()
    };
    Launch::find(&flags, &Variables::new()).unwrap().unwrap()
}

fn in_threads(
    addresses: &[String],
    run: impl Fn(ProcessGroup) -> Result<(), GroupError> + Sync,
) -> Vec<Result<(), GroupError>> {
    let count = addresses.len() as u32;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .zip(addresses)
            .map(|(index, address)| {
                let (run, launch) = (&run, launch(index, count, address));
                scope.spawn(move || run(ProcessGroup::join(&launch, &patience())?))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn local(count: usize) -> Vec<String> {
    vec![format!("127.0.0.1:{}", free_port()); count]
}

fn strangers() {
    let addresses = local(2);
    let address = addresses[0].clone();
    let outcomes = in_threads(&addresses, |group| {
        if group.index() == 1 {
            let claims = u32::MAX.to_le_bytes();
            for words in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[], &[3, 0, 0, 0, 1, 2, 3], &claims] {
                let mut stream = TcpStream::connect(&address).unwrap();
                stream.write_all(words).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                // It is greeted, and then gets nothing.
                let _ = stream.read_to_end(&mut Vec::new());
            }
        }
        group.barrier("after the strangers", LONG)?;
        group.leave()
    });
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
}

/// Passes bytes on in both directions, until it is told to cut all connections.
struct Proxy {
    address: String,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    fn new(to: String) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let streams = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&streams);
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let near = near.unwrap();
                // The coordinator may not be there yet; then this attempt fails, too.
                let Ok(far) = TcpStream::connect(&to) else { continue };
                let mut streams = all.lock().unwrap();
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    streams.push(from.try_clone().unwrap());
                    std::thread::spawn(move || {
                        let _ = io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Write);
                    });
                }
            }
        });
        Proxy { address, streams }
    }

    fn cut(&self) {
        let mut streams = self.streams.lock().unwrap();
        assert!(!streams.is_empty(), "there is nothing to cut");
        for stream in streams.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn broken_connection() {
    let coordinator = local(1).remove(0);
    let proxy = Proxy::new(coordinator.clone());
    let addresses = vec![coordinator, proxy.address.clone()];
    let outcomes = in_threads(&addresses, |group| {
        for round in 0..5u8 {
            if group.index() == 0 {
                // The other one waits in a meeting, or is about to, when its connection breaks.
                std::thread::sleep(Duration::from_millis(30));
                proxy.cut();
            }
            let values = group.all_gather("round", &[round, group.index() as u8], LONG)?;
            assert_eq!(values, [[round, 0], [round, 1]]);
        }
        group.leave()
    });
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
}

fn keys() {
    let outcomes = in_threads(&local(3), |group| {
        let store = group.key_value_store();
        if group.index() == 1 {
            assert_eq!(group.try_get("own")?, None);
            group.barrier("not yet put", LONG)?;
            group.put("own", b"1")?;
            store.put("plugin's", b"2").unwrap();
        } else {
            group.barrier("not yet put", LONG)?;
        }
        assert_eq!(group.get("own", LONG)?, b"1");
        assert_eq!(group.try_get("own")?.as_deref(), Some(&b"1"[..]));
        assert_eq!(store.get("plugin's", LONG).unwrap(), b"2");
        // Apart from each other.
        assert_eq!(group.try_get("plugin's")?, None);
        let late = store.get("never", Duration::from_millis(50)).unwrap_err();
        assert_eq!(late.code, pjrt::Code::DeadlineExceeded);
        assert_eq!(store.try_get("never").unwrap_err().code, pjrt::Code::NotFound);
        let late = group.get("never", Duration::from_millis(50)).unwrap_err();
        assert_eq!(late.to_string(), "nobody put the key `never` within 0.05 s");
        let late = group.barrier(&format!("only {}", group.index()), Duration::from_millis(50));
        assert!(late.unwrap_err().to_string().contains("did not come to `only"));
        group.leave()
    });
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
}

fn alone() {
    let group = ProcessGroup::join_or_alone(None, &patience()).unwrap();
    assert_eq!((group.index(), group.count()), (0, 1));
    assert_eq!(group.all_gather("x", b"mine", LONG).unwrap(), [b"mine"]);
    assert_eq!(group.gather("x", b"mine", LONG).unwrap().unwrap(), [b"mine"]);
    assert_eq!(group.broadcast("x", 0, b"mine", LONG).unwrap(), b"mine");
    group.put("key", b"value").unwrap();
    assert_eq!(group.get("key", LONG).unwrap(), b"value");
    assert_eq!(group.try_get("none").unwrap(), None);
    group.leave().unwrap();
}

fn too_long() {
    let outcomes = in_threads(&local(2), |group| {
        let error = group.all_gather("big", &vec![0; 600 << 20], LONG).unwrap_err();
        assert!(matches!(error, GroupError::TooLarge { .. }), "{error}");
        group.leave()
    });
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
}

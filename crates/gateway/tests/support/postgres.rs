//! A PostgreSQL server of one test's own, from the programs that this machine has. It does not run
//! as root, so root starts it as another user.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub struct Server {
    programs: PathBuf,
    folder: tempfile::TempDir,
    port: u16,
    user: Option<(u32, u32)>,
    running: Option<Child>,
}

impl Server {
    /// Nothing, said loudly, if this machine has no PostgreSQL.
    pub fn start() -> Option<Server> {
        let Some(programs) = programs() else {
            eprintln!("SKIPPED: no PostgreSQL on this machine (Debian's package `postgresql`)");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let user = (fs::metadata("/proc/self").unwrap().uid() == 0).then(unprivileged);
        if let Some((user, group)) = user {
            chown(folder.path(), Some(user), Some(group)).unwrap();
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Server { programs, folder, port, user, running: None };
        let mut initdb = server.command("initdb");
        initdb.args(["-A", "trust", "-U", "gateway", "-E", "UTF8", "--no-sync", "-D"]);
        let made = initdb.arg(server.data()).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        server.resume();
        Some(server)
    }

    pub fn address(&self) -> String {
        format!("postgres://gateway@127.0.0.1:{}/postgres", self.port)
    }

    /// As a machine that fails.
    pub fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.kill().unwrap();
            running.wait().unwrap();
        }
    }

    pub fn resume(&mut self) {
        // A killed server's own processes may still be about to end, and it waits for them.
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let mut command = self.command("postgres");
            command.arg("-D").arg(self.data()).arg("-k").arg(self.folder.path());
            command.args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
            let mut running = command.stderr(Stdio::null()).spawn().unwrap();
            while running.try_wait().unwrap().is_none() {
                assert!(Instant::now() < until, "PostgreSQL does not start");
                let ready = self.command("pg_isready");
                if is_ready(ready, self.port) {
                    self.running = Some(running);
                    return;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            assert!(Instant::now() < until, "PostgreSQL ends at once");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.current_dir("/").stdout(Stdio::null());
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn is_ready(mut command: Command, port: u16) -> bool {
    command.args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()]).status().unwrap().success()
}

/// The newest that Debian installed, else where the search path has it.
fn programs() -> Option<PathBuf> {
    let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let debian = debian.map(|entry| entry.path().join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has = |folder: &PathBuf| {
        ["initdb", "postgres", "pg_isready"].iter().all(|program| folder.join(program).exists())
    };
    debian.filter(has).max().or_else(|| std::env::split_paths(&path).find(has))
}

fn unprivileged() -> (u32, u32) {
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let user = users.lines().find(|line| line.starts_with("nobody:")).unwrap();
    let mut fields = user.split(':').skip(2).map(|field| field.parse().unwrap());
    (fields.next().unwrap(), fields.next().unwrap())
}

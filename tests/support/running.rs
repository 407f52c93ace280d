//! A process of `fungible` that listens: started, signalled, ended with the test.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

pub struct Running {
    pub address: SocketAddr,
    pub seconds_to_ready: f64,
    process: Child,
    log: tempfile::NamedTempFile,
}

impl Running {
    /// Waits for the address that it prints once it listens, and a server once it has a model.
    pub fn launch(command: &mut Command) -> Running {
        let log = tempfile::NamedTempFile::new().unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log.reopen().unwrap());
        let started = Instant::now();
        let mut process = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.split('/').nth(2).and_then(|address| address.parse().ok());
        let seconds_to_ready = started.elapsed().as_secs_f64();
        match address {
            Some(address) => Running { address, seconds_to_ready, process, log },
            None => {
                let said = std::fs::read_to_string(log.path()).unwrap();
                panic!("{:?}: {said}", process.wait());
            }
        }
    }

    pub fn signal(&self, name: &str) {
        let process = self.process.id().to_string();
        assert!(Command::new("kill").args([name, &process]).status().unwrap().success());
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.process.wait().unwrap()
    }

    /// What it has written to standard error so far.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.log.path()).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

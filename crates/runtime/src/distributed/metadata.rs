//! The metadata server that every Google machine can reach: one kind of request over plain HTTP on
//! the machine's own network. <https://cloud.google.com/compute/docs/metadata/querying-metadata>

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use super::launch::Variables;
use super::launchers::text;

const DEFAULT_HOST: &str = "metadata.google.internal";

/// Attributes are a few kilobytes.
const MAX_ANSWER_BYTES: u64 = 1 << 20;

pub(super) enum Error {
    /// This is no machine of Google's.
    NoServer,
    /// There is a server, and its answer is of no use.
    Answer(String),
}

pub(super) struct Metadata {
    /// `host` or `host:port`.
    host: String,
    timeout: Duration,
}

impl Metadata {
    /// `GCE_METADATA_HOST` and `GCE_METADATA_IP` name another server, as in Google's own libraries.
    pub fn new(variables: &Variables, timeout: Duration) -> Metadata {
        let named = text(variables, "GCE_METADATA_HOST");
        let named = named.or_else(|| text(variables, "GCE_METADATA_IP"));
        Metadata { host: named.unwrap_or(DEFAULT_HOST).to_string(), timeout }
    }

    /// An attribute of this machine, or nothing if it has none of this name.
    pub fn instance_attribute(&self, name: &str) -> Result<Option<String>, Error> {
        let mut stream = self.connect().map_err(|_| Error::NoServer)?;
        let answer = self.ask(&mut stream, name);
        let answer = answer.map_err(|error| Error::Answer(error.to_string()))?;
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .ok_or_else(|| Error::Answer("it does not answer in HTTP".to_string()))?;
        let status = head.split_whitespace().nth(1).unwrap_or_default();
        // Whatever else answers under this name does not know this header.
        let flavored = head.lines().any(|line| {
            let (name, value) = line.split_once(':').unwrap_or_default();
            name.eq_ignore_ascii_case("metadata-flavor") && value.trim() == "Google"
        });
        match status {
            _ if !flavored => Err(Error::NoServer),
            "200" => Ok(Some(body.to_string())),
            "404" => Ok(None),
            other => Err(Error::Answer(format!("it answers `{name}` with status {other}"))),
        }
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let addresses = match self.host.contains(':') {
            true => self.host.to_socket_addrs()?,
            false => (self.host.as_str(), 80).to_socket_addrs()?,
        };
        let mut last = io::ErrorKind::NotFound.into();
        for address in addresses {
            match TcpStream::connect_timeout(&address, self.timeout) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// HTTP 1.0, so that the answer is neither cut in chunks nor followed by another.
    fn ask(&self, stream: &mut TcpStream, name: &str) -> io::Result<String> {
        stream.set_read_timeout(Some(self.timeout))?;
        stream.set_write_timeout(Some(self.timeout))?;
        let request = format!(
            "GET /computeMetadata/v1/instance/attributes/{name} HTTP/1.0\r\nHost: {}\r\nMetadata-Flavor: Google\r\n\r\n",
            self.host
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.take(MAX_ANSWER_BYTES).read_to_string(&mut answer)?;
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::distributed::{Launch, LaunchError, LaunchFlags};

    /// Answers every request by its path, as long as it is asked.
    fn serve(answer: fn(&str) -> &'static str) -> Variables {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = [0; 1024];
                let length = stream.read(&mut request).unwrap();
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                assert!(request.contains("Metadata-Flavor: Google\r\n"), "{request}");
                let path = request.split_whitespace().nth(1).unwrap();
                stream.write_all(answer(path.rsplit('/').next().unwrap()).as_bytes()).unwrap();
            }
        });
        Variables::from([("GCE_METADATA_HOST".to_string(), host)])
    }

    fn find(variables: &Variables) -> Result<Option<Launch>, LaunchError> {
        Launch::find_for_tpu(&LaunchFlags::default(), variables, Duration::from_secs(10))
    }

    #[test]
    fn a_tpu_vm_knows_its_place() {
        let variables = serve(|name| match name {
            "agent-worker-number" => "HTTP/1.0 200 OK\r\nMetadata-Flavor: Google\r\n\r\n1",
            "worker-network-endpoints" => {
                "HTTP/1.0 200 OK\r\nmetadata-flavor: Google\r\n\r\nu:0:10.0.0.2,u:1:10.0.0.3"
            }
            _ => "HTTP/1.0 404 Not Found\r\nMetadata-Flavor: Google\r\n\r\nno such thing",
        });
        assert_eq!(
            find(&variables).unwrap().unwrap().to_string(),
            "process 1 of 2, found by the TPU VM's metadata, coordinator at 10.0.0.2:8482"
        );
        // Nobody is asked where variables say it, or where asking is forbidden, or without a TPU.
        let mut told = variables.clone();
        told.insert("TPU_SKIP_MDS_QUERY".to_string(), "1".to_string());
        assert_eq!(find(&told), Ok(None));
        assert_eq!(Launch::find(&LaunchFlags::default(), &variables), Ok(None));
    }

    #[test]
    fn other_machines_are_alone() {
        let plain = serve(|_| "HTTP/1.0 404 Not Found\r\nMetadata-Flavor: Google\r\n\r\n");
        assert_eq!(find(&plain), Ok(None));
        let other = serve(|_| "HTTP/1.0 200 OK\r\n\r\nwelcome");
        assert_eq!(find(&other), Ok(None));
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let nobody = Variables::from([("GCE_METADATA_HOST".to_string(), nobody)]);
        assert_eq!(find(&nobody), Ok(None));
    }

    #[test]
    fn an_answer_of_no_use_is_an_error() {
        let failing = serve(|_| "HTTP/1.0 503 No\r\nMetadata-Flavor: Google\r\n\r\n");
        assert!(find(&failing).unwrap_err().to_string().contains("with status 503"));
        let odd = serve(|_| "HTTP/1.0 200 OK\r\nMetadata-Flavor: Google\r\n\r\nfirst");
        assert!(find(&odd).unwrap_err().to_string().contains("`agent-worker-number` is `first`"));
    }
}

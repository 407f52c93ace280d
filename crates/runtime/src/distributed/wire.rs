//! What the processes of a group say to each other, as bytes: frames of a length and a body. Both
//! sides are untrusted to the reader: lengths are checked before memory is asked for. Knows no
//! socket but `Read` and `Write`.

use std::io::{self, Read, Write};
use std::time::Duration;

/// Changes with anything in this file.
pub(super) const PROTOCOL: u32 = 1;

/// Longest body. Larger values have to be cut by whoever sends them.
pub(super) const MAX_FRAME_BYTES: usize = 1 << 30;

/// Longest body from a stranger.
pub(super) const MAX_GREETING_BYTES: usize = 4 << 10;

/// So that a plain HTTP client or a port scanner is told apart from one of us.
const MAGIC: &[u8] = b"fungible processes";

/// The coordinator's first words: the client proves that it knows the job by hashing its name with
/// this number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Greeting {
    pub protocol: u32,
    pub program_version: String,
    pub nonce: String,
}

/// The client's answer, to a coordinator that speaks its protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    /// SHA-256 over the nonce and the job's name.
    pub proof: String,
    pub index: u32,
    pub count: u32,
    /// Random; the same when a process connects again.
    pub instance: String,
}

/// What a stranger becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The coordinator's patience holds on both sides.
    Welcome {
        lost_after: Duration,
    },
    Refused {
        reason: String,
    },
}

/// From a process to the coordinator. All but the last four are answered, and may be sent again
/// after a lost connection: none of them does anything twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Put {
        key: String,
        value: Vec<u8>,
    },
    Get {
        key: String,
        timeout: Duration,
    },
    TryGet {
        key: String,
    },
    /// Every process brings a value. Who wants all of them waits for them, the others get
    /// [`Reply::Done`] at once. `round` counts the meetings of a name.
    Meet {
        name: String,
        round: u64,
        timeout: Duration,
        wait: bool,
        value: Vec<u8>,
    },
    /// The values of a meeting have arrived: the coordinator may forget them.
    Seen {
        name: String,
        round: u64,
    },
    Heartbeat,
    /// This process is done; its silence is no failure.
    Leave,
    /// This process ends, and with it the group.
    Fail {
        reason: String,
    },
}

/// From the coordinator. All but the last two answer a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Done,
    Value {
        value: Vec<u8>,
    },
    NotFound,
    Values {
        values: Vec<Vec<u8>>,
    },
    /// Nobody put the key, or these processes did not come to the meeting.
    TimedOut {
        missing: Vec<u32>,
    },
    Heartbeat,
    /// The group has failed; nothing else will come.
    Failed {
        reason: String,
    },
}

/// # Errors
/// What the connection answers.
pub(super) fn write_frame(to: &mut impl Write, body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(body.len()).map_err(|_| malformed())?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(body)?;
    to.flush()
}

/// # Errors
/// What the connection answers; [`io::ErrorKind::InvalidData`] for a body longer than `limit_bytes`.
pub(super) fn read_frame(from: &mut impl Read, limit_bytes: usize) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > limit_bytes {
        return Err(malformed());
    }
    // Grows with what arrives, so that a claimed length alone costs nothing.
    let mut body = Vec::new();
    from.take(length as u64).read_to_end(&mut body)?;
    if body.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(body)
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the other side does not speak our protocol")
}

/// Builds a body.
#[derive(Default)]
struct Body(Vec<u8>);

impl Body {
    fn tagged(request: u64, tag: u8) -> Body {
        let mut body = Body::default();
        body.number(request);
        body.0.push(tag);
        body
    }

    fn number(&mut self, number: u64) -> &mut Body {
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Body {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    fn milliseconds(&mut self, duration: Duration) -> &mut Body {
        self.number(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }
}

/// Takes a body apart.
struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    fn take(&mut self, count: usize) -> io::Result<&'a [u8]> {
        let (part, rest) = self.0.split_at_checked(count).ok_or_else(malformed)?;
        self.0 = rest;
        Ok(part)
    }

    fn number(&mut self) -> io::Result<u64> {
        let (number, rest) = self.0.split_first_chunk().ok_or_else(malformed)?;
        self.0 = rest;
        Ok(u64::from_le_bytes(*number))
    }

    fn small_number(&mut self) -> io::Result<u32> {
        u32::try_from(self.number()?).map_err(|_| malformed())
    }

    fn bytes(&mut self) -> io::Result<&'a [u8]> {
        let length = usize::try_from(self.number()?).map_err(|_| malformed())?;
        self.take(length)
    }

    fn text(&mut self) -> io::Result<String> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| malformed())
    }

    fn milliseconds(&mut self) -> io::Result<Duration> {
        Ok(Duration::from_millis(self.number()?))
    }

    fn tag(&mut self) -> io::Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn end(&self) -> io::Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(malformed()) }
    }
}

impl Greeting {
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Body::default();
        body.bytes(MAGIC).number(self.protocol.into());
        body.bytes(self.program_version.as_bytes()).bytes(self.nonce.as_bytes());
        body.0
    }

    pub fn decode(body: &[u8]) -> io::Result<Greeting> {
        let mut parts = Parts(body);
        check_magic(&mut parts)?;
        // A later protocol may say more; its version is all that is needed to refuse it.
        Ok(Greeting {
            protocol: parts.small_number()?,
            program_version: parts.text()?,
            nonce: parts.text()?,
        })
    }
}

impl Hello {
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Body::default();
        body.bytes(MAGIC).bytes(self.proof.as_bytes());
        body.number(self.index.into()).number(self.count.into());
        body.bytes(self.instance.as_bytes());
        body.0
    }

    pub fn decode(body: &[u8]) -> io::Result<Hello> {
        let mut parts = Parts(body);
        check_magic(&mut parts)?;
        let hello = Hello {
            proof: parts.text()?,
            index: parts.small_number()?,
            count: parts.small_number()?,
            instance: parts.text()?,
        };
        parts.end()?;
        Ok(hello)
    }
}

fn check_magic(parts: &mut Parts<'_>) -> io::Result<()> {
    if parts.bytes()? == MAGIC { Ok(()) } else { Err(malformed()) }
}

impl Verdict {
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Body::default();
        match self {
            Verdict::Welcome { lost_after } => body.number(0).milliseconds(*lost_after),
            Verdict::Refused { reason } => body.number(1).bytes(reason.as_bytes()),
        };
        body.0
    }

    pub fn decode(body: &[u8]) -> io::Result<Verdict> {
        let mut parts = Parts(body);
        let verdict = match parts.number()? {
            0 => Verdict::Welcome { lost_after: parts.milliseconds()? },
            1 => Verdict::Refused { reason: parts.text()? },
            _ => return Err(malformed()),
        };
        parts.end()?;
        Ok(verdict)
    }
}

impl Request {
    /// `number` comes back with the reply.
    pub fn encode(&self, number: u64) -> Vec<u8> {
        let tagged = |tag| Body::tagged(number, tag);
        let mut body;
        match self {
            Request::Put { key, value } => {
                body = tagged(0);
                body.bytes(key.as_bytes()).bytes(value);
            }
            Request::Get { key, timeout } => {
                body = tagged(1);
                body.bytes(key.as_bytes()).milliseconds(*timeout);
            }
            Request::TryGet { key } => {
                body = tagged(2);
                body.bytes(key.as_bytes());
            }
            Request::Meet { name, round, timeout, wait, value } => {
                body = tagged(3);
                body.bytes(name.as_bytes()).number(*round).milliseconds(*timeout);
                body.number((*wait).into()).bytes(value);
            }
            Request::Seen { name, round } => {
                body = tagged(4);
                body.bytes(name.as_bytes()).number(*round);
            }
            Request::Heartbeat => body = tagged(5),
            Request::Leave => body = tagged(6),
            Request::Fail { reason } => {
                body = tagged(7);
                body.bytes(reason.as_bytes());
            }
        }
        body.0
    }

    pub fn decode(body: &[u8]) -> io::Result<(u64, Request)> {
        let mut parts = Parts(body);
        let number = parts.number()?;
        let request = match parts.tag()? {
            0 => Request::Put { key: parts.text()?, value: parts.bytes()?.to_vec() },
            1 => Request::Get { key: parts.text()?, timeout: parts.milliseconds()? },
            2 => Request::TryGet { key: parts.text()? },
            3 => Request::Meet {
                name: parts.text()?,
                round: parts.number()?,
                timeout: parts.milliseconds()?,
                wait: parts.number()? != 0,
                value: parts.bytes()?.to_vec(),
            },
            4 => Request::Seen { name: parts.text()?, round: parts.number()? },
            5 => Request::Heartbeat,
            6 => Request::Leave,
            7 => Request::Fail { reason: parts.text()? },
            _ => return Err(malformed()),
        };
        parts.end()?;
        Ok((number, request))
    }
}

impl Reply {
    /// `number` is that of the request, or 0 where there was none.
    pub fn encode(&self, number: u64) -> Vec<u8> {
        let tagged = |tag| Body::tagged(number, tag);
        let mut body;
        match self {
            Reply::Done => body = tagged(0),
            Reply::Value { value } => {
                body = tagged(1);
                body.bytes(value);
            }
            Reply::NotFound => body = tagged(2),
            Reply::Values { values } => {
                body = tagged(3);
                body.number(values.len() as u64);
                values.iter().for_each(|value| {
                    body.bytes(value);
                });
            }
            Reply::TimedOut { missing } => {
                body = tagged(4);
                body.number(missing.len() as u64);
                missing.iter().for_each(|&index| {
                    body.number(index.into());
                });
            }
            Reply::Heartbeat => body = tagged(5),
            Reply::Failed { reason } => {
                body = tagged(6);
                body.bytes(reason.as_bytes());
            }
        }
        body.0
    }

    pub fn decode(body: &[u8]) -> io::Result<(u64, Reply)> {
        let mut parts = Parts(body);
        let number = parts.number()?;
        let reply = match parts.tag()? {
            0 => Reply::Done,
            1 => Reply::Value { value: parts.bytes()?.to_vec() },
            2 => Reply::NotFound,
            // A wrong count runs into the end of the body.
            3 => {
                let values = (0..parts.number()?).map(|_| Ok(parts.bytes()?.to_vec()));
                Reply::Values { values: values.collect::<io::Result<_>>()? }
            }
            4 => {
                let missing = (0..parts.number()?).map(|_| parts.small_number());
                Reply::TimedOut { missing: missing.collect::<io::Result<_>>()? }
            }
            5 => Reply::Heartbeat,
            6 => Reply::Failed { reason: parts.text()? },
            _ => return Err(malformed()),
        };
        parts.end()?;
        Ok((number, reply))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn requests() -> impl Strategy<Value = Request> {
        let time = (0u64..100_000).prop_map(Duration::from_millis);
        let value = proptest::collection::vec(any::<u8>(), 0..50);
        prop_oneof![
            (".*", value.clone()).prop_map(|(key, value)| Request::Put { key, value }),
            (".*", time.clone()).prop_map(|(key, timeout)| Request::Get { key, timeout }),
            ".*".prop_map(|key| Request::TryGet { key }),
            (".*", any::<u64>(), time, any::<bool>(), value).prop_map(
                |(name, round, timeout, wait, value)| {
                    Request::Meet { name, round, timeout, wait, value }
                }
            ),
            (".*", any::<u64>()).prop_map(|(name, round)| Request::Seen { name, round }),
            Just(Request::Heartbeat),
            Just(Request::Leave),
            ".*".prop_map(|reason| Request::Fail { reason }),
        ]
    }

    fn replies() -> impl Strategy<Value = Reply> {
        let value = proptest::collection::vec(any::<u8>(), 0..50);
        prop_oneof![
            Just(Reply::Done),
            value.clone().prop_map(|value| Reply::Value { value }),
            Just(Reply::NotFound),
            proptest::collection::vec(value, 0..5).prop_map(|values| Reply::Values { values }),
            proptest::collection::vec(any::<u32>(), 0..5)
                .prop_map(|missing| Reply::TimedOut { missing }),
            Just(Reply::Heartbeat),
            ".*".prop_map(|reason| Reply::Failed { reason }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_sent_arrives(number in any::<u64>(), request in requests(), reply in replies()) {
            let mut stream = Vec::new();
            write_frame(&mut stream, &request.encode(number)).unwrap();
            write_frame(&mut stream, &reply.encode(number)).unwrap();
            let mut stream = &stream[..];
            let body = read_frame(&mut stream, MAX_FRAME_BYTES).unwrap();
            prop_assert_eq!(Request::decode(&body).unwrap(), (number, request));
            let body = read_frame(&mut stream, MAX_FRAME_BYTES).unwrap();
            prop_assert_eq!(Reply::decode(&body).unwrap(), (number, reply));
            prop_assert!(stream.is_empty());
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Request::decode(&bytes);
            let _ = Reply::decode(&bytes);
            let _ = Greeting::decode(&bytes);
            let _ = Hello::decode(&bytes);
            let _ = Verdict::decode(&bytes);
            let _ = read_frame(&mut &bytes[..], MAX_GREETING_BYTES);
        }

        #[test]
        fn a_body_that_is_cut_or_continued_is_refused(request in requests(), more in any::<u8>()) {
            let mut body = request.encode(7);
            body.push(more);
            prop_assert!(Request::decode(&body).is_err());
            body.truncate(body.len() - 2);
            prop_assert!(Request::decode(&body).is_err());
        }
    }

    #[test]
    fn greetings_arrive() {
        let greeting = Greeting { protocol: 3, program_version: "1.2".into(), nonce: "n".into() };
        assert_eq!(Greeting::decode(&greeting.encode()).unwrap(), greeting);
        let hello = Hello { proof: "p".into(), index: 1, count: 2, instance: "i".into() };
        assert_eq!(Hello::decode(&hello.encode()).unwrap(), hello);
        for verdict in [
            Verdict::Welcome { lost_after: Duration::from_secs(3) },
            Verdict::Refused { reason: "no".into() },
        ] {
            assert_eq!(Verdict::decode(&verdict.encode()).unwrap(), verdict);
        }
    }

    #[test]
    fn a_claimed_length_alone_is_no_memory() {
        let claims = u32::MAX.to_le_bytes();
        assert!(read_frame(&mut &claims[..], MAX_FRAME_BYTES).is_err());
        let claims = (MAX_FRAME_BYTES as u32).to_le_bytes();
        let error = read_frame(&mut &claims[..], MAX_FRAME_BYTES).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}

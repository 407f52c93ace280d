//! Server-sent events from bytes that come in any pieces.
//! <https://html.spec.whatwg.org/multipage/server-sent-events.html>
//!
//! Stricter than a browser, which passes over what it does not understand: here, a line that was
//! destroyed on its way would be a lost token, so it is an error.

use bytes::BytesMut;
use hyper::body::Bytes;

/// The longest that come are the ids of a prompt.
const EVENT_BYTES_MAX: usize = 16 << 20;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// Of its type, if it has one (`response.completed`).
    pub name: Option<Bytes>,
    pub data: Bytes,
    /// As it came, with the blank line that ends it. None if its lines end in a way that not every
    /// client knows.
    raw: Option<Bytes>,
}

/// What comes is no stream of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoEvents {
    #[error("an event is longer than {EVENT_BYTES_MAX} bytes")]
    TooLong,
    #[error("a line is none that events have")]
    UnknownLine,
}

/// Takes bytes, gives events.
#[derive(Debug, Default)]
pub(crate) struct EventReader {
    buffer: BytesMut,
    /// Where the first line that has not been looked at begins.
    line: usize,
    /// How far that line has been searched for its end.
    searched: usize,
    /// Whether a line feed that comes first belongs to the carriage return before it.
    skips_line_feed: bool,
    has_carriage_return: bool,
    has_begun: bool,
    /// Where lines of the event under way are.
    name: Option<(usize, usize)>,
    data: Vec<(usize, usize)>,
}

impl EventReader {
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole event; none if more bytes are needed for it.
    pub fn next(&mut self) -> Result<Option<Event>, NoEvents> {
        if !self.has_begun {
            let seen = self.buffer.len().min(BYTE_ORDER_MARK.len());
            if seen < BYTE_ORDER_MARK.len() && self.buffer[..] == BYTE_ORDER_MARK[..seen] {
                return Ok(None);
            }
            if self.buffer.starts_with(BYTE_ORDER_MARK) {
                let _ = self.buffer.split_to(BYTE_ORDER_MARK.len());
            }
            self.has_begun = true;
        }
        loop {
            if self.skips_line_feed && self.line < self.buffer.len() {
                self.skips_line_feed = false;
                if self.buffer[self.line] == b'\n' {
                    match self.line {
                        0 => drop(self.buffer.split_to(1)),
                        _ => self.line += 1,
                    }
                    self.searched = self.line;
                }
            }
            let from = self.searched.max(self.line);
            let is_end = |byte: &u8| matches!(byte, b'\n' | b'\r');
            let Some(length) = self.buffer[from..].iter().position(is_end) else {
                self.searched = self.buffer.len();
                return match self.buffer.len() > EVENT_BYTES_MAX {
                    true => Err(NoEvents::TooLong),
                    false => Ok(None),
                };
            };
            let (start, end) = (self.line, from + length);
            if self.buffer[end] == b'\r' {
                self.skips_line_feed = true;
                self.has_carriage_return = true;
            }
            self.line = end + 1;
            self.searched = self.line;
            if start < end {
                self.take_line(start, end)?;
            } else if let Some(event) = self.end_event() {
                return Ok(Some(event));
            }
        }
    }

    fn take_line(&mut self, start: usize, end: usize) -> Result<(), NoEvents> {
        let line = &self.buffer[start..end];
        let colon = line.iter().position(|&byte| byte == b':');
        let name = &line[..colon.unwrap_or(line.len())];
        let mut value = start + colon.map_or(line.len(), |colon| colon + 1);
        if self.buffer[value..end].first() == Some(&b' ') {
            value += 1;
        }
        match name {
            // A comment.
            b"" => {}
            b"data" => self.data.push((value, end)),
            b"event" => self.name = Some((value, end)),
            b"id" | b"retry" => {}
            _ => return Err(NoEvents::UnknownLine),
        }
        Ok(())
    }

    /// At a blank line. Without data there is no event.
    fn end_event(&mut self) -> Option<Event> {
        let raw = self.buffer.split_to(self.line).freeze();
        self.line = 0;
        self.searched = 0;
        let name = self.name.take().map(|(start, end)| raw.slice(start..end));
        let has_carriage_return = std::mem::take(&mut self.has_carriage_return);
        let data = match self.data[..] {
            [] => return None,
            [(start, end)] => raw.slice(start..end),
            _ => {
                let lines: Vec<&[u8]> =
                    self.data.iter().map(|&(start, end)| &raw[start..end]).collect();
                Bytes::from(lines.join(&b'\n'))
            }
        };
        self.data.clear();
        Some(Event { name, data, raw: (!has_carriage_return).then_some(raw) })
    }
}

impl Event {
    /// The event for another stream.
    pub fn bytes(&self) -> Bytes {
        if let Some(raw) = &self.raw {
            return raw.clone();
        }
        let mut bytes = Vec::with_capacity(self.data.len() + 32);
        if let Some(name) = &self.name {
            bytes.extend_from_slice(b"event: ");
            bytes.extend_from_slice(name);
            bytes.push(b'\n');
        }
        for line in self.data.split(|&byte| byte == b'\n') {
            bytes.extend_from_slice(b"data: ");
            bytes.extend_from_slice(line);
            bytes.push(b'\n');
        }
        bytes.push(b'\n');
        Bytes::from(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(pieces: &[&[u8]]) -> Result<Vec<Event>, NoEvents> {
        let mut reader = EventReader::default();
        let mut events = Vec::new();
        for piece in pieces {
            reader.push(piece);
            while let Some(event) = reader.next()? {
                events.push(event);
            }
        }
        Ok(events)
    }

    fn data(bytes: &[u8]) -> Vec<String> {
        let text = |event: &Event| String::from_utf8(event.data.to_vec()).unwrap();
        read(&[bytes]).unwrap().iter().map(text).collect()
    }

    #[test]
    fn lines_end_in_three_ways_and_comments_are_nothing() {
        assert_eq!(data(b"data: a\n\ndata:b\r\n\r\ndata:  c\r\r"), ["a", "b", " c"]);
        assert_eq!(data(b": still there\n\ndata: a\n: hm\nid: 3\nretry: 1\n\n"), ["a"]);
        assert_eq!(data(b"\xef\xbb\xbfdata: a\ndata: b\ndata\n\n"), ["a\nb\n"]);
        assert_eq!(data(b"data: whole\n\ndata: cut\n"), ["whole"]);
    }

    #[test]
    fn what_is_no_event_is_said() {
        assert_eq!(read(&[b"data: a\n\n<html>\n"]), Err(NoEvents::UnknownLine));
        let long = vec![b'x'; EVENT_BYTES_MAX + 1];
        assert_eq!(read(&[&long]), Err(NoEvents::TooLong));
    }

    #[test]
    fn events_are_passed_on_as_they_came_or_so_that_all_clients_know_them() {
        let named = b"event: response.created\ndata: {}\n\n";
        let event = &read(&[named]).unwrap()[0];
        assert_eq!(event.name.as_deref(), Some(&b"response.created"[..]));
        assert_eq!(&event.bytes()[..], named);
        let returns = b"event: x\r\ndata: 1\r\ndata: 2\r\n\r\n";
        assert_eq!(read(&[returns]).unwrap()[0].bytes(), "event: x\ndata: 1\ndata: 2\n\n");
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where_bytes_are_split(
            lines in prop::collection::vec("(data|event|id)?:? ?[ a-zé\u{fffd}]{0,6}", 0..20),
            ends in prop::collection::vec(prop::sample::select(vec!["\n", "\r\n", "\r"]), 20),
            cuts in prop::collection::vec(1_usize..9, 0..60),
        ) {
            let blank = |(line, end): (&String, &&str)| format!("{line}{end}");
            let bytes = lines.iter().zip(&ends).map(blank).collect::<String>().into_bytes();
            let mut pieces = Vec::new();
            let mut rest = &bytes[..];
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            pieces.push(rest);
            prop_assert_eq!(read(&pieces), read(&[&bytes]));
        }

        #[test]
        fn any_bytes_are_events_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&[&bytes]);
        }

        #[test]
        fn events_that_are_written_are_read(texts in prop::collection::vec("[^\r]{0,40}", 1..8)) {
            let write = |text: &String| {
                let lines: Vec<String> = text.split('\n').map(|line| format!("data: {line}\n")).collect();
                format!("{}\n", lines.concat())
            };
            let bytes = texts.iter().map(write).collect::<String>();
            prop_assert_eq!(data(bytes.as_bytes()), texts);
        }
    }
}

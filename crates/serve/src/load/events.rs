//! Server-sent events out of a byte stream that may be cut anywhere. Knows nothing of what they say.
//!
//! After the WHATWG's HTML standard, section "Server-sent events"; of an event only its data is kept.

/// The longest event that is read. Servers send a few hundred bytes; an error or a last chunk with
/// everything in it may have more.
const BYTES_MAX: usize = 16 << 20;

/// A stream under way.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// What came and was not looked at yet, and the part of it that has no line's end.
    buffer: Vec<u8>,
    searched: usize,
    /// The lines of data of the event under way.
    data: Vec<u8>,
    has_data: bool,
    /// The last line ended with a carriage return, so a newline that comes next belongs to it.
    after_return: bool,
    after_first_line: bool,
}

/// An event is longer than any server would send.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server sent an event of more than {BYTES_MAX} bytes")]
pub(super) struct TooLong;

impl Events {
    /// Takes what came, and hands the data of every event that is complete with it to `each`.
    pub(super) fn push(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), TooLong> {
        self.buffer.extend_from_slice(bytes);
        let buffer = std::mem::take(&mut self.buffer);
        let mut start = 0;
        let mut place = self.searched;
        while let Some(end) = buffer[place..].iter().position(|byte| matches!(byte, b'\n' | b'\r'))
        {
            let end = place + end;
            let is_rest = buffer[end] == b'\n' && end == start && self.after_return;
            self.after_return = buffer[end] == b'\r';
            if !is_rest {
                self.line(&buffer[start..end], &mut each);
            }
            start = end + 1;
            place = start;
        }
        self.buffer = buffer;
        self.buffer.drain(..start);
        self.searched = self.buffer.len();
        match self.buffer.len() + self.data.len() > BYTES_MAX {
            true => Err(TooLong),
            false => Ok(()),
        }
    }

    fn line(&mut self, line: &[u8], each: &mut impl FnMut(&[u8])) {
        let mark: &[u8] = "\u{feff}".as_bytes();
        let line = match self.after_first_line {
            true => line,
            false => line.strip_prefix(mark).unwrap_or(line),
        };
        self.after_first_line = true;
        if line.is_empty() {
            if self.has_data {
                each(&self.data);
            }
            self.data.clear();
            self.has_data = false;
            return;
        }
        let value = match line.strip_prefix(b"data") {
            Some([]) => &[],
            Some([b':', b' ', value @ ..] | [b':', value @ ..]) => value,
            // A comment, another field, or a name that only begins like this one.
            _ => return,
        };
        if self.has_data {
            self.data.push(b'\n');
        }
        self.data.extend_from_slice(value);
        self.has_data = true;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(pieces: &[&[u8]]) -> Vec<String> {
        let (mut events, mut found) = (Events::default(), Vec::new());
        for piece in pieces {
            let each = |data: &[u8]| found.push(String::from_utf8_lossy(data).into_owned());
            events.push(piece, each).unwrap();
        }
        found
    }

    #[test]
    fn fields_comments_and_line_ends() {
        let text =
            b"\xef\xbb\xbfdata: one\n\n: keep-alive\n\nevent: x\ndata:two\r\ndata:  three\r\n\r\n\
            datax: no\n\ndata\rdata\r\rid: 7\n\ndata: [DONE]\n\ndata: cut off\n";
        assert_eq!(read(&[text]), ["one", "two\n three", "\n", "[DONE]"]);
    }

    #[test]
    fn a_line_end_of_two_bytes_may_be_cut() {
        assert_eq!(read(&[b"data: a\r", b"\ndata: b\r", b"\n\r", b"\n"]), ["a\nb"]);
        assert_eq!(read(&[b"data: a\r", b"\r", b"\n"]), ["a"]);
    }

    #[test]
    fn an_endless_event_is_an_error() {
        let (mut events, part) = (Events::default(), vec![b'x'; 1 << 20]);
        let pushed = (0..17).map(|_| events.push(&part, |_| {})).find(Result::is_err);
        assert_eq!(pushed, Some(Err(TooLong)));
    }

    proptest! {
        #[test]
        fn where_the_stream_is_cut_does_not_matter(
            lines in prop::collection::vec("(data: ?|:|event:|id)?[a-z\u{e9}\u{4e16}:]{0,6}(\n|\r|\r\n)", 0..30),
            cuts in prop::collection::vec(0usize..400, 0..20),
        ) {
            let text = lines.concat();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> =
                cuts.windows(2).map(|pair| &text.as_bytes()[pair[0]..pair[1]]).collect();
            prop_assert_eq!(read(&pieces), read(&[text.as_bytes()]));
        }

        #[test]
        fn any_bytes_are_read(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20)) {
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            let whole = pieces.concat();
            prop_assert_eq!(read(&pieces), read(&[&whole]));
        }
    }
}

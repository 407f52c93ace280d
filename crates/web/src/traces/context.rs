//! Whose trace a request belongs to: W3C Trace Context, read from headers that anybody may have sent.

use hyper::header::{HeaderMap, HeaderValue};

use crate::random::random_number;

/// Longer ones may be thrown away (W3C Trace Context, 3.3.1.5).
const STATE_BYTES_MAX: usize = 512;

/// A span's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace: u128,
    /// The span that the request was sent from.
    parent: Option<u64>,
    span: u64,
    /// What other makers' tools want passed on.
    state: String,
}

impl TraceContext {
    /// The place of a span for this request: in the sender's trace, or in one of its own if the sender has
    /// none or writes it wrongly. Nothing if the sender wants no trace of it.
    pub fn of_request(headers: &HeaderMap) -> Option<TraceContext> {
        let mut parents = headers.get_all("traceparent").iter();
        let parent = parents.next().and_then(|value| parent(value.as_bytes()));
        // Two of them are none.
        let Some((trace, parent, sampled)) = parent.filter(|_| parents.next().is_none()) else {
            let trace = u128::from(random_id()) << 64 | u128::from(random_id());
            return Some(TraceContext {
                trace,
                parent: None,
                span: random_id(),
                state: String::new(),
            });
        };
        let state: Vec<&str> =
            headers.get_all("tracestate").iter().filter_map(|value| value.to_str().ok()).collect();
        let mut state = state.join(",");
        if state.len() > STATE_BYTES_MAX {
            state.clear();
        }
        sampled.then(|| TraceContext { trace, parent: Some(parent), span: random_id(), state })
    }

    /// As 32 hexadecimal digits.
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace)
    }

    /// As 16 hexadecimal digits.
    pub fn span_id(&self) -> String {
        format!("{:016x}", self.span)
    }

    pub fn parent_id(&self) -> Option<String> {
        self.parent.map(|parent| format!("{parent:016x}"))
    }

    pub fn state(&self) -> &str {
        &self.state
    }

    /// What a request that is sent on because of this one says: that it belongs to this span.
    pub fn write_to(&self, headers: &mut HeaderMap) {
        let parent = format!("00-{:032x}-{:016x}-01", self.trace, self.span);
        // Digits and dashes can stand in a header; the state came in one.
        if let Ok(parent) = HeaderValue::from_str(&parent) {
            headers.insert("traceparent", parent);
        }
        headers.remove("tracestate");
        if let (false, Ok(state)) = (self.state.is_empty(), HeaderValue::from_str(&self.state)) {
            headers.insert("tracestate", state);
        }
    }
}

/// Of a span: 0 stands for none.
pub(super) fn random_id() -> u64 {
    random_number().max(1)
}

/// Trace, span and whether it is collected, out of `version-trace-span-flags`.
fn parent(value: &[u8]) -> Option<(u128, u64, bool)> {
    let value = std::str::from_utf8(value).ok()?;
    let mut parts = value.split('-');
    let mut part = |length: usize| {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        parts.next().filter(|part| part.len() == length && part.bytes().all(is_digit))
    };
    let (version, trace, span, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
    // Later versions may have more parts.
    if version == "ff" || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let trace = u128::from_str_radix(trace, 16).ok().filter(|&trace| trace != 0)?;
    let span = u64::from_str_radix(span, 16).ok().filter(|&span| span != 0)?;
    let flags = u8::from_str_radix(flags, 16).ok()?;
    Some((trace, span, flags & 1 == 1))
}

/// Whether a value can stand in a header.
pub(super) fn header_value(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    // Keys of collectors are secrets.
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    #[test]
    fn a_parent_is_read_as_the_standard_has_it() {
        let numbers = (0x0af7651916cd43dd8448eb211c80319c, 0xb7ad6b7169203331);
        let read = |text: &str| parent(text.as_bytes());
        let with = |sampled| Some((numbers.0, numbers.1, sampled));
        assert_eq!(read(&format!("00-{TRACE}-{SPAN}-01")), with(true));
        assert_eq!(read(&format!("00-{TRACE}-{SPAN}-00")), with(false));
        assert_eq!(read(&format!("00-{TRACE}-{SPAN}-03")), with(true));
        assert_eq!(read(&format!("cc-{TRACE}-{SPAN}-01-what-comes")), with(true));
        for wrong in [
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{}-{SPAN}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!(" 00-{TRACE}-{SPAN}-01"),
            String::new(),
        ] {
            assert_eq!(read(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_sender_decides() {
        let mut headers = HeaderMap::new();
        let own = TraceContext::of_request(&headers).unwrap();
        assert_eq!((own.parent_id(), own.trace_id().len()), (None, 32));
        let parent = format!("00-{TRACE}-{SPAN}-01");
        headers.append("traceparent", parent.parse().unwrap());
        headers.append("tracestate", "a=1".parse().unwrap());
        headers.append("tracestate", "b=2".parse().unwrap());
        let given = TraceContext::of_request(&headers).unwrap();
        assert_eq!(given.trace_id(), TRACE);
        assert_eq!((given.parent_id().as_deref(), given.state()), (Some(SPAN), "a=1,b=2"));
        headers.append("traceparent", parent.parse().unwrap());
        let twice = TraceContext::of_request(&headers).unwrap();
        assert_ne!(twice.trace_id(), TRACE);
        headers.insert("traceparent", parent.replace("-01", "-00").parse().unwrap());
        assert_eq!(TraceContext::of_request(&headers), None);
    }

    #[test]
    fn what_is_sent_on_belongs_to_the_span() {
        let mut headers = HeaderMap::new();
        headers.append("traceparent", format!("00-{TRACE}-{SPAN}-01").parse().unwrap());
        headers.append("tracestate", "a=1".parse().unwrap());
        let first = TraceContext::of_request(&headers).unwrap();
        let mut sent = HeaderMap::new();
        sent.insert("traceparent", "someone else's".parse().unwrap());
        first.write_to(&mut sent);
        let second = TraceContext::of_request(&sent).unwrap();
        assert_eq!((second.trace_id().as_str(), second.state()), (TRACE, "a=1"));
        assert_eq!(second.parent_id(), Some(first.span_id()));
    }

    proptest! {
        #[test]
        fn whatever_is_sent_is_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = parent(&bytes);
        }

        #[test]
        fn what_is_read_is_what_was_written(trace in 1u128.., span in 1u64.., flags: u8) {
            let text = format!("00-{trace:032x}-{span:016x}-{flags:02x}");
            prop_assert_eq!(parent(text.as_bytes()), Some((trace, span, flags % 2 == 1)));
        }
    }
}

//! Requests of the gateway's clients: read without a panic, and passed on meaning the same but for the model.

#![no_main]

use gateway::ask::{Ask, Head};
use hyper::Method;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tokio::time::Instant;

const PATHS: [&str; 4] =
    ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings"];

fuzz_target!(|input: (u8, &[u8])| {
    let (choice, body) = input;
    let is_form = choice & 0x80 != 0;
    let media = if is_form { "multipart/form-data; boundary=b" } else { "application/json" };
    let path = if is_form { "/v1/audio/transcriptions" } else { PATHS[usize::from(choice) % 4] };
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
    let head = Head {
        id: "1".to_owned(),
        method: Method::POST,
        path: path.to_owned(),
        headers,
        arrived: Instant::now(),
    };
    let Ok(ask) = Ask::read(head, Bytes::copy_from_slice(body)) else { return };
    let sent = ask.body_for("elsewhere", &[]);
    if is_form {
        return;
    }
    let given: Value = serde_json::from_slice(body).expect("what was taken is JSON");
    let mut sent: Value = serde_json::from_slice(&sent).expect("what is sent is JSON");
    assert_eq!(sent["model"], "elsewhere");
    assert_eq!(given["model"], ask.model.as_str());
    sent["model"] = given["model"].clone();
    assert_eq!(sent, given);
});

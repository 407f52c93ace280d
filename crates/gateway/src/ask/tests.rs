//! What is read of requests, right ones and others.

use hyper::header::HeaderValue;
use proptest::prelude::*;

use super::*;

fn head(path: &str, media: &str) -> Head {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_str(media).unwrap());
    headers.insert("authorization", HeaderValue::from_static("Bearer secret"));
    headers.insert("connection", HeaderValue::from_static("upgrade"));
    let (id, method) = ("1".to_owned(), Method::POST);
    Head { id, method, path: path.to_owned(), headers, arrived: Instant::now() }
}

fn chat(body: &str) -> Result<Ask, AskError> {
    let head = head("/v1/chat/completions", "application/json; charset=utf-8");
    Ask::read(head, Bytes::copy_from_slice(body.as_bytes()))
}

#[test]
fn what_is_not_read_is_passed_on_as_it_was_written() {
    let body = r#" {"messages":[{"role":"user","content":"a\u00e9"}], "model" : "chat", "new_field": {"x": [1.50, 1e2]},
        "temperature":0.70, "stream": true, "stream_options": {"include_usage": true}, "seed": null, "n": 2, "max_tokens": 7} "#;
    let ask = chat(body).unwrap();
    assert_eq!((ask.model.as_str(), ask.streamed, ask.includes_usage), ("chat", true, true));
    assert_eq!((ask.has_seed, ask.completion_tokens_max(100)), (false, 14));
    assert!(!ask.headers.contains_key("authorization") && !ask.headers.contains_key("connection"));
    let seed = RawValue::from_string("5".to_owned()).unwrap();
    let sent = ask.body_for("meta/llama", &[("seed", &seed)]);
    let text = std::str::from_utf8(&sent).unwrap();
    assert!(text.contains(r#""new_field":{"x": [1.50, 1e2]},"temperature":0.70"#), "{text}");
    assert!(text.contains(r#""content":"a\u00e9""#), "{text}");
    let value: serde_json::Value = serde_json::from_str(text).unwrap();
    assert_eq!((value["model"].as_str(), value["seed"].as_u64()), (Some("meta/llama"), Some(5)));
    assert_eq!(text.matches("\"seed\"").count(), 1);
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    let twice = chat(r#"{"model": "a", "mod\u0065l": "b"}"#).unwrap_err();
    assert_eq!(twice, AskError::Twice("model".to_owned()));
    assert!(matches!(chat(r#"{"model": "a"} {"model": "b"}"#), Err(AskError::Json(_))));
    assert!(matches!(chat(r#"{"model": "a", }"#), Err(AskError::Json(_))));
    assert_eq!(chat("[1]").unwrap_err(), AskError::NotAnObject);
    assert_eq!(chat("{}").unwrap_err(), AskError::NoModel);
    let stream = chat(r#"{"model": "a", "stream": "yes"}"#).unwrap_err();
    assert_eq!(stream.to_string(), "`stream` must be true or false");
    assert_eq!(stream.param(), Some("stream"));
    let plain = Ask::read(head("/v1/chat/completions", "text/plain"), Bytes::from_static(b"{}"));
    assert_eq!(plain.unwrap_err(), AskError::ContentType);
}

#[test]
fn the_turns_of_a_chat_have_one_prefix() {
    let ask =
        |messages: &str| chat(&format!(r#"{{"model": "a", "messages": [{messages}]}}"#)).unwrap();
    let system = r#"{"role": "system", "content": "Be brief."}"#;
    let question = r#"{"role": "user", "content": "Why?"}"#;
    let first = ask(&format!("{system}, {question}"));
    let answer = r#"{"role": "assistant", "content": "So."}"#;
    let later = ask(&format!("{system},{question},{answer},{question}"));
    assert_eq!(first.prefix, later.prefix);
    assert_ne!(first.prefix, ask(question).prefix);
    assert!(later.prompt_tokens > first.prompt_tokens);
    assert!(later.prompt_tokens_max >= later.prompt_tokens);
}

#[test]
fn pictures_do_not_count_by_their_bytes() {
    let picture = "A".repeat(1 << 20);
    let part = format!(
        r#"{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{picture}"}}}}"#
    );
    let body = format!(r#"{{"model":"a","messages":[{{"role":"user","content":[{part}]}}]}}"#);
    let ask = chat(&body).unwrap();
    assert!((1500..1700).contains(&ask.prompt_tokens), "{}", ask.prompt_tokens);
}

#[test]
fn a_form_gets_the_models_other_name() {
    let media = "multipart/form-data; boundary=\"xyz\"";
    let body = "--xyz\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\nRIFF\r\n--x\r\n--xyz\r\n\
        content-disposition: form-data; name=\"model\"\r\n\r\nwhisper\r\n--xyz--\r\n";
    let read = |body: &str| {
        let head = head("/v1/audio/transcriptions", media);
        Ask::read(head, Bytes::copy_from_slice(body.as_bytes()))
    };
    let ask = read(body).unwrap();
    assert_eq!(ask.model, "whisper");
    let expected = body.replace("whisper", "openai/whisper-large");
    assert_eq!(ask.body_for("openai/whisper-large", &[]), expected.as_bytes());
    let second = "--xyz\r\nContent-Disposition: form-data; name=model\r\n\r\nb\r\n--xyz--";
    let twice = body.replace("--xyz--\r\n", second);
    assert_eq!(read(&twice).unwrap_err(), AskError::Twice("model".to_owned()));
    assert!(read("--xyz\r\n").is_err() && read("").is_err());
}

#[test]
fn what_names_no_model_goes_where_it_is_told() {
    let mut files = head("/v1/files", "application/json");
    files.method = Method::GET;
    assert_eq!(
        Ask::read(head("/v1/files/1", ""), Bytes::new()).unwrap_err(),
        AskError::NoModelInPath
    );
    files.headers.insert("x-fungible-model", HeaderValue::from_static("chat"));
    files.headers.remove(CONTENT_TYPE);
    let ask = Ask::read(files, Bytes::new()).unwrap();
    assert_eq!(ask.model, "chat");
    assert!(ask.body_for("other", &[]).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_body_is_a_panic(body in ".{0,200}", form in any::<bool>()) {
        let media = if form { "multipart/form-data; boundary=b" } else { "application/json" };
        let path = if form { "/v1/audio/speech" } else { "/v1/chat/completions" };
        let _ = Ask::read(head(path, media), Bytes::from(body.clone().into_bytes()));
        let body = format!("--b\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\n{body}\r\n--b--");
        let _ = Ask::read(head(path, media), Bytes::from(body.into_bytes()));
    }

    /// Whatever a client writes, the backend gets the same values, but for the model.
    #[test]
    fn what_is_sent_means_what_was_asked(
        names in proptest::collection::hash_set("[a-z\"\\\\é]{1,6}", 0..6),
        text in ".{0,40}",
        number: i64,
    ) {
        let mut object = serde_json::Map::new();
        for (index, name) in names.iter().enumerate() {
            object.insert(name.clone(), if index % 2 == 0 { text.clone().into() } else { number.into() });
        }
        for field in ["messages", "stream", "n", "tools", "max_tokens"] {
            object.remove(field);
        }
        object.insert("model".to_owned(), "public".into());
        let body = serde_json::Value::Object(object.clone()).to_string();
        let ask = chat(&body).unwrap();
        let sent: serde_json::Value = serde_json::from_slice(&ask.body_for("theirs", &[])).unwrap();
        object.insert("model".to_owned(), "theirs".into());
        prop_assert_eq!(sent, serde_json::Value::Object(object));
    }
}

//! The server through `async-openai`, whose types demand every field that OpenAI promises.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use async_openai::error::OpenAIError;
use async_openai::types::chat::{CreateChatCompletionRequest, FinishReason};
use async_openai::types::completions::CreateCompletionRequest;
use async_openai::types::embeddings::CreateEmbeddingRequest;
use async_openai::types::responses::{CreateResponse, OutputItem, ResponseStreamEvent, Status};
use futures_util::StreamExt;
use serde_json::{Value, json};
use support::{MODEL, Running, Script, start};

const TEXT: &str = "[r]hm[/r]Hello[c:add]{\"a\":1}[/c]";

fn client(server: &Running) -> Client<OpenAIConfig> {
    // Other crates of the workspace have reqwest ask for one, even where nothing is encrypted.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let base = format!("http://{}/v1", server.address);
    Client::with_config(OpenAIConfig::new().with_api_base(base).with_api_key("none"))
}

fn request<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn chat(extra: Value) -> CreateChatCompletionRequest {
    let tool = json!({"type": "function", "function": {"name": "add", "parameters": {}}});
    let mut body = json!({"model": MODEL, "messages": [{"role": "user", "content": "Hi"}],
        "tools": [tool]});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    request(body)
}

#[test]
fn chats() {
    let server = start(Script::saying(TEXT));
    let client = client(&server);
    server.runtime().block_on(async {
        let chats = client.chat();
        let ask = chat(json!({"logprobs": true, "top_logprobs": 1}));
        let answer = chats.create(ask).await.unwrap();
        let choice = &answer.choices[0];
        assert_eq!(choice.finish_reason, Some(FinishReason::ToolCalls));
        assert_eq!(choice.message.content.as_deref(), Some("Hello"));
        assert_eq!(choice.message.tool_calls.as_ref().unwrap().len(), 1);
        assert!(answer.usage.unwrap().completion_tokens > 0);
        let options = json!({"stream": true, "stream_options": {"include_usage": true}});
        let mut stream = chats.create_stream(chat(options)).await.unwrap();
        let (mut text, mut arguments, mut usage) = (String::new(), String::new(), None);
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.unwrap();
            usage = usage.or(chunk.usage);
            for choice in chunk.choices {
                text += &choice.delta.content.unwrap_or_default();
                for call in choice.delta.tool_calls.unwrap_or_default() {
                    arguments += &call.function.unwrap().arguments.unwrap_or_default();
                }
            }
        }
        assert_eq!((text.as_str(), arguments.as_str()), ("Hello", "{\"a\":1}"));
        assert!(usage.is_some());
        let ask: CreateChatCompletionRequest = chat(json!({"model": "none"}));
        match chats.create(ask).await {
            Err(OpenAIError::ApiError(error)) => {
                assert_eq!(error.api_error.code.as_deref(), Some("model_not_found"));
            }
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn completions_embeddings_and_models() {
    let server = start(Script::saying("Hello"));
    let client = client(&server);
    server.runtime().block_on(async {
        let ask = || -> CreateCompletionRequest {
            request(json!({"model": MODEL, "prompt": "Once", "logprobs": 1}))
        };
        let answer = client.completions().create(ask()).await.unwrap();
        assert_eq!(answer.choices[0].text, "Hello");
        let mut ask = ask();
        ask.stream = Some(true);
        let stream = client.completions().create_stream(ask).await.unwrap();
        let chunks: Vec<_> = stream.collect().await;
        let text: String =
            chunks.iter().map(|chunk| chunk.as_ref().unwrap().choices[0].text.clone()).collect();
        assert_eq!(text, "Hello");
        let ask: CreateEmbeddingRequest = request(json!({"model": MODEL, "input": ["a", "b"]}));
        let answer = client.embeddings().create(ask).await.unwrap();
        assert_eq!((answer.data.len(), answer.data[0].embedding.len()), (2, 8));
        assert_eq!(client.models().list().await.unwrap().data[0].id, MODEL);
        assert_eq!(client.models().retrieve(MODEL).await.unwrap().id, MODEL);
    });
}

#[test]
fn responses() {
    let server = start(Script::saying(TEXT));
    let client = client(&server);
    server.runtime().block_on(async {
        let tool = json!({"type": "function", "name": "add", "parameters": {}, "strict": false});
        let ask = |stream: bool| -> CreateResponse {
            let include = json!(["message.output_text.logprobs"]);
            request(json!({"model": MODEL, "input": "Hi", "tools": [tool], "stream": stream,
                "include": include, "top_logprobs": 1, "instructions": "Be brief."}))
        };
        let answer = client.responses().create(ask(false)).await.unwrap();
        assert_eq!(answer.status, Status::Completed);
        let [OutputItem::Reasoning(_), OutputItem::Message(_), OutputItem::FunctionCall(call)] =
            &answer.output[..]
        else {
            panic!("{:?}", answer.output)
        };
        assert_eq!((call.name.as_str(), call.arguments.as_str()), ("add", "{\"a\":1}"));
        let stream = client.responses().create_stream(ask(true)).await.unwrap();
        let events: Vec<_> = stream.map(Result::unwrap).collect().await;
        assert!(matches!(events[0], ResponseStreamEvent::ResponseCreated(_)));
        let Some(ResponseStreamEvent::ResponseCompleted(last)) = events.last() else {
            panic!("{:?}", events.last())
        };
        assert_eq!(last.response.output.len(), 3);
    });
}

//! From a request's path to what answers it: keys, the request's id, and errors for what does not
//! exist. The table of paths is the only one; the OpenAPI document is tested against it.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;

use super::body::{self, Body, json_response, response};
use super::call::Call;
use super::error::ApiError;
use super::record::Record;
use super::settings::find_key;
use super::state::State;
use super::traces::Trace;
use super::{adapters, chat, completions, cors, embeddings, models, openapi, responses, tokens};
use crate::page;
use web::connections::Serve;
use web::exposition::CONTENT_TYPE;
use web::random::random_number;

const REQUEST_ID: &str = "x-request-id";
const REQUEST_ID_BYTES_MAX: usize = 128;

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Endpoint {
    Health,
    Ready,
    Version,
    Metrics,
    OpenApi,
    Docs,
    Chat,
    Completions,
    Responses,
    Embeddings,
    Models,
    Model,
    Tokenize,
    Detokenize,
    LoadAdapter,
    UnloadAdapter,
}

impl Endpoint {
    /// Whether everybody may ask, and gets an answer without a model.
    fn is_open(self) -> bool {
        use Endpoint::{Docs, Health, Metrics, OpenApi, Ready, Version};
        matches!(self, Health | Ready | Version | Metrics | OpenApi | Docs)
    }
}

/// One path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    pub post: bool,
    /// A last part in braces stands for the rest of the path.
    pub path: &'static str,
    endpoint: Endpoint,
}

const fn get(path: &'static str, endpoint: Endpoint) -> Route {
    Route { post: false, path, endpoint }
}

const fn post(path: &'static str, endpoint: Endpoint) -> Route {
    Route { post: true, path, endpoint }
}

pub(crate) const ROUTES: &[Route] = &[
    get("/health", Endpoint::Health),
    get("/ready", Endpoint::Ready),
    get("/version", Endpoint::Version),
    get("/metrics", Endpoint::Metrics),
    get("/openapi.json", Endpoint::OpenApi),
    get("/docs", Endpoint::Docs),
    post("/v1/chat/completions", Endpoint::Chat),
    post("/v1/completions", Endpoint::Completions),
    post("/v1/responses", Endpoint::Responses),
    post("/v1/embeddings", Endpoint::Embeddings),
    get("/v1/models", Endpoint::Models),
    get("/v1/models/{model}", Endpoint::Model),
    post("/tokenize", Endpoint::Tokenize),
    post("/detokenize", Endpoint::Detokenize),
    post("/v1/load_lora_adapter", Endpoint::LoadAdapter),
    post("/v1/unload_lora_adapter", Endpoint::UnloadAdapter),
];

impl Route {
    /// What stands for the part in braces, if the path is this one.
    fn rest_of<'p>(&self, path: &'p str) -> Option<&'p str> {
        match self.path.split_once('{') {
            None => (self.path == path).then_some(""),
            Some((fixed, _)) => path.strip_prefix(fixed).filter(|rest| !rest.is_empty()),
        }
    }

    fn methods(&self) -> &'static str {
        if self.post { "POST" } else { "GET, HEAD" }
    }

    fn takes(&self, method: &Method) -> bool {
        if self.post {
            method == Method::POST
        } else {
            method == Method::GET || method == Method::HEAD
        }
    }
}

/// Answers requests.
pub(crate) struct Router {
    state: Arc<State>,
}

impl Router {
    pub fn new(state: Arc<State>) -> Router {
        Router { state }
    }
}

impl Serve for Router {
    type Body = Body;

    async fn call(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let state = &self.state;
        let id = request_id(request.headers());
        let cross_origin = cors::headers(&state.settings.cors_origins, request.headers());
        let answered = if request.method() == Method::OPTIONS {
            Ok(response(StatusCode::NO_CONTENT, "text/plain", Body::empty()))
        } else {
            self.answer(request, &id).await
        };
        let mut response = answered.unwrap_or_else(ApiError::into_response);
        let headers = response.headers_mut();
        headers.extend(cross_origin);
        // Ids are made of characters that can stand in a header.
        if let Ok(id) = HeaderValue::from_str(&id) {
            headers.insert(REQUEST_ID, id);
        }
        if state.is_stopping() {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl Router {
    async fn answer(
        &self,
        request: Request<Incoming>,
        id: &str,
    ) -> Result<Response<Body>, ApiError> {
        let state = &self.state;
        let path = request.uri().path().to_owned();
        if let Some(asset) = page::asset(&path).filter(|_| state.settings.serves_page) {
            if request.method() != Method::GET && request.method() != Method::HEAD {
                return Err(ApiError::wrong_method("GET, HEAD"));
            }
            return Ok(of_page(asset));
        }
        let Some((route, rest)) =
            ROUTES.iter().find_map(|route| Some((route, route.rest_of(&path)?)))
        else {
            return Err(ApiError::not_found(format!("there is nothing at {path}")));
        };
        let tracer = state.tracer.as_ref();
        let trace =
            tracer.and_then(|tracer| Trace::begin(tracer, request.method(), request.headers()));
        let metrics = Arc::clone(&state.metrics);
        let mut record = Record::new(metrics, route.path, id.to_owned(), trace);
        let early = self.early(route, &request);
        if let Some(answered) = early {
            match &answered {
                Ok(response) => record.answered(response.status().as_u16()),
                Err(error) => {
                    record.failed(&error.message);
                    record.answered(error.status.as_u16());
                }
            }
            return answered;
        }
        let owner = match self.owner(request.headers()) {
            Ok(owner) => owner,
            Err(error) => {
                record.answered(error.status.as_u16());
                return Err(error);
            }
        };
        let Some(loaded) = state.loaded().cloned() else { return Err(ApiError::starting()) };
        let rest = rest.to_owned();
        let mut call = Call::new(Arc::clone(state), loaded, rest, owner, record);
        let answered = self.protected(route, request, &mut call).await;
        call.answered(answered.as_ref().map(|response| response.status().as_u16()));
        answered
    }

    /// What needs no key and no model, and what is wrong however it goes on.
    fn early(
        &self,
        route: &Route,
        request: &Request<Incoming>,
    ) -> Option<Result<Response<Body>, ApiError>> {
        let state = &self.state;
        if !route.takes(request.method()) {
            return Some(Err(ApiError::wrong_method(route.methods())));
        }
        if !route.endpoint.is_open() {
            return None;
        }
        Some(match route.endpoint {
            Endpoint::Health => Ok(json_response(StatusCode::OK, &json!({"status": "ok"}))),
            Endpoint::Ready if state.is_stopping() => Err(ApiError::stopping()),
            Endpoint::Ready if state.loaded().is_none() => Err(ApiError::starting()),
            Endpoint::Ready => Ok(json_response(StatusCode::OK, &json!({"status": "ready"}))),
            Endpoint::Version => {
                let mut version = json!({"name": "fungible", "version": env!("CARGO_PKG_VERSION")});
                if let Some(loaded) = state.loaded() {
                    version["chip"] = json!(loaded.model.chip);
                    version["devices"] = json!(loaded.model.devices);
                }
                Ok(json_response(StatusCode::OK, &version))
            }
            Endpoint::Metrics => Ok(self.metrics()),
            Endpoint::OpenApi => Ok(json_response(StatusCode::OK, &openapi::document(state))),
            Endpoint::Docs => Ok(response(
                StatusCode::OK,
                "text/html; charset=utf-8",
                Body::whole(openapi::PAGE.as_bytes()),
            )),
            _ => return None,
        })
    }

    fn metrics(&self) -> Response<Body> {
        let page = match self.state.loaded() {
            Some(loaded) => {
                let spans = self.state.tracer.as_ref().map(|tracer| &*tracer.counts);
                let stats = loaded.answering.stats();
                self.state.metrics.render(loaded.model.name(), &stats, spans)
            }
            None => String::new(),
        };
        response(StatusCode::OK, CONTENT_TYPE, Body::whole(page))
    }

    fn owner(&self, headers: &HeaderMap) -> Result<Option<String>, ApiError> {
        let keys = &self.state.settings.api_keys;
        if keys.is_empty() {
            return Ok(None);
        }
        let presented = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map_or("", |(_, key)| key.trim());
        match find_key(keys, presented) {
            Some(key) => Ok(key.owner().map(str::to_owned)),
            None => Err(ApiError::wrong_key()),
        }
    }

    async fn protected(
        &self,
        route: &Route,
        request: Request<Incoming>,
        call: &mut Call,
    ) -> Result<Response<Body>, ApiError> {
        if route.post {
            if self.state.is_stopping() {
                return Err(ApiError::stopping());
            }
            let settings = &self.state.settings;
            call.body = body::read(request, settings.body_bytes_max, settings.body_limit).await?;
        }
        match route.endpoint {
            Endpoint::Chat => chat::answer(call).await,
            Endpoint::Completions => completions::answer(call).await,
            Endpoint::Responses => responses::answer(call).await,
            Endpoint::Embeddings => embeddings::answer(call).await,
            Endpoint::Models => Ok(models::list(call)),
            Endpoint::Model => models::one(call),
            Endpoint::Tokenize => tokens::tokenize(call).await,
            Endpoint::Detokenize => tokens::detokenize(call).await,
            Endpoint::LoadAdapter => adapters::load(call).await,
            Endpoint::UnloadAdapter => adapters::unload(call).await,
            // The open ones were answered before.
            _ => Err(ApiError::not_found("there is nothing here")),
        }
    }
}

/// The client's own, if it can be shown in a header and a log; else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let is_fit = |id: &&str| {
        (1..=REQUEST_ID_BYTES_MAX).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_graphic())
    };
    match headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).filter(is_fit) {
        Some(id) => id.to_owned(),
        None => format!("{:016x}{:016x}", random_number(), random_number()),
    }
}

/// A file of the chat page, with what keeps it to itself.
fn of_page(asset: &'static page::Asset) -> Response<Body> {
    let mut response = response(StatusCode::OK, asset.content_type, Body::whole(asset.bytes));
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, page::CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_describes_every_path_and_no_other() {
        let document = openapi::written();
        let paths = document["paths"].as_object().unwrap();
        assert_eq!(paths.len(), ROUTES.len(), "{:?}", paths.keys());
        for route in ROUTES {
            let methods = paths[route.path].as_object().unwrap();
            let method = if route.post { "post" } else { "get" };
            assert_eq!(methods.keys().collect::<Vec<_>>(), [method], "{}", route.path);
            // What everybody may ask says so; all else wants a key.
            let is_open = methods[method]["security"] == json!([]);
            assert_eq!(is_open, route.endpoint.is_open(), "{}", route.path);
        }
    }
}

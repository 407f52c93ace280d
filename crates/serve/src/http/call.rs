//! One request on its way through the server, and what it finds there.

use std::sync::Arc;

use super::body::parse;
use super::error::ApiError;
use super::fields::Fields;
use super::model_text::ModelText;
use super::record::Record;
use super::settings::ServerSettings;
use super::state::State;
use crate::engine::Answering;

/// An engine and the text side of its model.
#[derive(Clone)]
pub(crate) struct Loaded {
    pub answering: Arc<dyn Answering>,
    pub model: Arc<ModelText>,
}

/// One request.
pub(crate) struct Call {
    pub state: Arc<State>,
    pub loaded: Loaded,
    /// Empty where the path takes none.
    pub body: Vec<u8>,
    /// What stands behind the path's fixed part: a model's name.
    pub rest: String,
    /// The owner that the key belongs to.
    pub owner: Option<String>,
    record: Option<Record>,
}

/// Which weights a request asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Weights {
    /// The name that the answer carries.
    pub name: String,
    pub adapter: Option<String>,
}

impl Call {
    pub fn new(
        state: Arc<State>,
        loaded: Loaded,
        rest: String,
        owner: Option<String>,
        record: Record,
    ) -> Call {
        Call { state, loaded, body: Vec::new(), rest, owner, record: Some(record) }
    }

    /// # Errors
    /// When a stream has taken it, which is the last thing that happens to a call.
    pub fn record(&mut self) -> Result<&mut Record, ApiError> {
        self.record.as_mut().ok_or_else(|| ApiError::internal("the request is over already"))
    }

    /// # Errors
    /// As [`Call::record`].
    pub fn take_record(&mut self) -> Result<Record, ApiError> {
        self.record.take().ok_or_else(|| ApiError::internal("the request is over already"))
    }

    /// Writes down what the client is told, unless a stream will.
    pub fn answered(&mut self, answered: Result<u16, &ApiError>) {
        let Some(mut record) = self.record.take() else { return };
        match answered {
            Ok(status) => record.answered(status),
            Err(error) => {
                record.failed(&error.message);
                record.answered(error.status.as_u16());
            }
        }
    }

    /// Work on the body that takes the processor: reading it, cutting it into tokens. Not on the
    /// threads that serve connections, and not more of it at once than there are processors.
    pub async fn think<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&Thinking<'_>) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let body = std::mem::take(&mut self.body);
        let (state, loaded) = (Arc::clone(&self.state), self.loaded.clone());
        let owner = self.owner.clone();
        let permit = state.worker(body.len()).acquire_owned().await;
        let permit = permit.map_err(|_| ApiError::stopping())?;
        let thinking = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let body = parse(&body)?;
            let fields = Fields::of_body(&body)?;
            work(&Thinking {
                fields,
                settings: &state.settings,
                loaded: &loaded,
                owner: owner.as_deref(),
            })
        });
        thinking.await.map_err(|_| ApiError::internal("the request could not be worked on"))?
    }
}

/// What work on a body sees.
pub(crate) struct Thinking<'a> {
    pub fields: Fields<'a>,
    pub settings: &'a ServerSettings,
    pub loaded: &'a Loaded,
    /// The owner that the key belongs to.
    pub owner: Option<&'a str>,
}

impl Thinking<'_> {
    /// The weights that `model` names; the base model where it is left out.
    pub fn weights(&self) -> Result<Weights, ApiError> {
        let model = &self.loaded.model;
        let Some(name) = self.fields.text("model")? else {
            return Ok(Weights { name: model.name().to_owned(), adapter: None });
        };
        let name = name.to_owned();
        if model.served_names.contains(&name) {
            return Ok(Weights { name, adapter: None });
        }
        if self.loaded.answering.adapters().contains(&name) {
            return Ok(Weights { adapter: Some(name.clone()), name });
        }
        Err(ApiError::unknown_model(&name))
    }

    /// Who takes turns: the key's owner, or whom the client says it asks for.
    pub fn owner(&self, user: Option<&str>) -> String {
        self.owner.or(user).unwrap_or_default().to_owned()
    }
}

//! What can go wrong with a chat template.

use std::error::Error;

/// Why a conversation could not be rendered.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    #[error(
        "the model's chat template is not valid: use `generate` without it, or correct the template"
    )]
    Syntax {
        #[source]
        source: minijinja::Error,
    },
    #[error("the model's chat template refuses the conversation: {message}")]
    Refused { message: String },
    #[error(
        "the model's chat template failed on the conversation: use `generate` without it, or \
         correct the template"
    )]
    Render {
        #[source]
        source: minijinja::Error,
    },
}

/// Marks an error that the template itself raised, so that its message can be shown as it is.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct Raised {
    pub(super) message: String,
}

impl ChatError {
    pub(super) fn render(source: minijinja::Error) -> ChatError {
        let mut cause: Option<&(dyn Error + 'static)> = source.source();
        while let Some(error) = cause {
            if let Some(raised) = error.downcast_ref::<Raised>() {
                return ChatError::Refused { message: raised.message.clone() };
            }
            cause = error.source();
        }
        ChatError::Render { source }
    }
}

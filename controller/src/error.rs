//! What the controller answers when something cannot be done.

use breakwater_core::{Chain, ErrorClass};
use breakwater_proto::convert;
use breakwater_state::StateError;

use crate::objects::BadDocument;
use crate::pki::PkiError;

/// A failure of one request.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The store.
    #[error("the state store")]
    State(#[from] StateError),
    /// A document.
    #[error(transparent)]
    Document(#[from] BadDocument),
    /// Keys or certificates.
    #[error("certificates")]
    Pki(#[from] PkiError),
    /// A value in the store that this build cannot read.
    #[error("the stored value of `{key}` cannot be read")]
    Stored {
        /// Its key.
        key: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Anything else, with its class and words for people.
    #[error("{message}")]
    Answer {
        /// The class.
        class: ErrorClass,
        /// What is wrong, and the next step.
        message: String,
    },
}

impl ControlError {
    /// An answer of `class` that says `message`.
    pub fn answer(class: ErrorClass, message: impl Into<String>) -> Self {
        ControlError::Answer { class, message: message.into() }
    }

    /// `kind` `name` does not exist.
    pub fn not_found(kind: &str, name: &str) -> Self {
        ControlError::answer(ErrorClass::NotFound, format!("{kind} `{name}` does not exist (hint: brctl get {kind})"))
    }

    /// The class.
    pub fn class(&self) -> ErrorClass {
        match self {
            ControlError::State(error) => error.class(),
            ControlError::Document(error) => error.class(),
            ControlError::Pki(error) => error.class(),
            ControlError::Stored { .. } => ErrorClass::Corrupt,
            ControlError::Answer { class, .. } => *class,
        }
    }
}

impl From<ControlError> for tonic::Status {
    fn from(error: ControlError) -> Self {
        if error.class() == ErrorClass::Internal {
            tracing::error!(error = %Chain(&error), "a request failed");
        }
        convert::status(error.class(), Chain(&error).to_string())
    }
}

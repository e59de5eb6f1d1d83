//! Why bytes are not what they should be.

use breakwater_core::ErrorClass;
use breakwater_crypto::SuiteError;

/// Bytes that cannot be used. `what` names the structure, as `record` or `pack footer`; the object is named by the
/// caller.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The beginning is that of something else.
    #[error("not a {what}")]
    NotThis {
        /// The structure that was expected.
        what: &'static str,
    },
    /// Written by a version that this program does not read.
    #[error("{what} of a newer format ({detail}); hint: use a newer breakwater")]
    Newer {
        /// The structure.
        what: &'static str,
        /// What is not known.
        detail: String,
    },
    /// Bytes are missing, left over, or contradict each other.
    #[error("damaged {what}: {detail}")]
    Damaged {
        /// The structure.
        what: &'static str,
        /// What is wrong.
        detail: String,
    },
    /// The commitment is that of another key, or was changed.
    #[error("{what} was sealed with another key, or its commitment was changed")]
    WrongKey {
        /// The structure.
        what: &'static str,
    },
    /// The seal does not open although the commitment fits.
    #[error("{what} was changed after it was sealed, or lies under another name")]
    Unsealed {
        /// The structure.
        what: &'static str,
    },
    /// The content does not have the id that names it.
    #[error("{what} has another content than its id says")]
    WrongContent {
        /// The structure.
        what: &'static str,
    },
    /// The text is not the JSON that it should be.
    #[error("{what} cannot be read as JSON")]
    Json {
        /// The structure.
        what: &'static str,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
    /// The cipher suite is not one of this program's.
    #[error("{what} cannot be opened")]
    Suite {
        /// The structure.
        what: &'static str,
        /// Which suite.
        #[source]
        source: SuiteError,
    },
}

impl FormatError {
    /// What it means.
    pub fn class(&self) -> ErrorClass {
        match self {
            FormatError::Newer { .. } => ErrorClass::Refused,
            FormatError::Suite { source, .. } => source.class(),
            _ => ErrorClass::Corrupt,
        }
    }

    pub(crate) fn damaged(what: &'static str, detail: impl Into<String>) -> Self {
        FormatError::Damaged { what, detail: detail.into() }
    }
}

//! Why an engine could not do what was asked.

use breakwater_core::ErrorClass;

/// The kind of an engine's failure; decides the class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineErrorKind {
    /// A setting or an address is wrong.
    Invalid,
    /// The source refuses our credentials or lacks a right.
    Denied,
    /// A precondition is not met and nothing was changed.
    Refused,
    /// The source, or what was named in it, is not there.
    NotFound,
    /// The source is another one than the one we know (foreign system id), or history diverged.
    Conflict,
    /// The source does not answer now.
    Unreachable,
    /// What the source holds is damaged.
    Corrupt,
    /// Stopped on request.
    Cancelled,
    /// A defect.
    Internal,
}

/// What was attempted, and why it failed. `what` names the thing; `hint` the next step, where there is one.
#[derive(Debug, thiserror::Error)]
#[error("{what}{}", self.hint.as_ref().map(|hint| format!(" (hint: {hint})")).unwrap_or_default())]
pub struct EngineError {
    /// The kind.
    pub kind: EngineErrorKind,
    /// What failed, naming the thing.
    pub what: String,
    /// The next step.
    pub hint: Option<String>,
    /// What lies underneath.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl EngineError {
    /// An error of `kind` that says `what`.
    pub fn new(kind: EngineErrorKind, what: impl Into<String>) -> Self {
        EngineError { kind, what: what.into(), hint: None, source: None }
    }

    /// Adds the next step.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds what lies underneath.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The error of an I/O operation on `what`; full disks and lost peers are `Unreachable`.
    pub fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        let kind = match ErrorClass::of_io(&source) {
            ErrorClass::NotFound => EngineErrorKind::NotFound,
            ErrorClass::Denied => EngineErrorKind::Denied,
            ErrorClass::Unavailable => EngineErrorKind::Unreachable,
            ErrorClass::Conflict => EngineErrorKind::Refused,
            _ => EngineErrorKind::Internal,
        };
        EngineError::new(kind, what).because(source)
    }

    /// The class that decides retry and exit code.
    pub fn class(&self) -> ErrorClass {
        match self.kind {
            EngineErrorKind::Invalid => ErrorClass::Invalid,
            EngineErrorKind::Denied => ErrorClass::Denied,
            EngineErrorKind::Refused => ErrorClass::Refused,
            EngineErrorKind::NotFound => ErrorClass::NotFound,
            EngineErrorKind::Conflict => ErrorClass::Conflict,
            EngineErrorKind::Unreachable => ErrorClass::Unavailable,
            EngineErrorKind::Corrupt => ErrorClass::Corrupt,
            EngineErrorKind::Cancelled => ErrorClass::Cancelled,
            EngineErrorKind::Internal => ErrorClass::Internal,
        }
    }
}

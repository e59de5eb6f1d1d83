//! How a command ends when it does not do what was asked: an exit code of the contract, one line, and a next step.
//!
//! Invariant: no failure has exit code 0, except that nobody reads our output any more.

use std::error::Error;
use std::fmt;

use breakwater_core::{Chain, ErrorClass};

/// A failed command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    code: u8,
    message: String,
    hint: Option<String>,
}

impl Failure {
    /// A failure of `class`. Hints inside the message (`(hint: …)`, `; hint: …`) become the failure's own.
    pub(crate) fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        let (message, hint) = split_hint(&message.into());
        Failure { code: class.exit_code(), message, hint }
    }

    /// The failure that `error` of `class` is, with all its causes on one line.
    pub(crate) fn of(class: ErrorClass, error: &(dyn Error + 'static)) -> Self {
        Failure::new(class, Chain(error).to_string())
    }

    /// A usage error that only became known after the arguments were read.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Failure::new(ErrorClass::Invalid, message)
    }

    /// Nothing was changed because of this.
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Failure::new(ErrorClass::Refused, message)
    }

    /// A defect of this program.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Failure::new(ErrorClass::Internal, message)
    }

    /// The reader of our output is gone, as with `| head`: no failure at all.
    pub(crate) fn reader_gone() -> Self {
        Failure { code: 0, message: String::new(), hint: None }
    }

    /// The failure of reading or writing `what`.
    pub(crate) fn io(what: impl fmt::Display, error: &std::io::Error) -> Self {
        Failure::new(ErrorClass::of_io(error), format!("{what}: {error}"))
    }

    /// Adds the next step, unless there is one.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint.get_or_insert_with(|| hint.into());
        self
    }

    /// Says first what was being done.
    #[must_use]
    pub(crate) fn doing(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// The exit code.
    pub(crate) fn code(&self) -> u8 {
        self.code
    }

    /// Whether only the reader of our output went away.
    pub(crate) fn is_reader_gone(&self) -> bool {
        self.code == 0
    }

    /// Whether the same call may pass later.
    pub(crate) fn is_transient(&self) -> bool {
        self.code == ErrorClass::Unavailable.exit_code()
    }

    /// What went wrong, without the hint.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// The next step.
    pub(crate) fn next_step(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

/// Turns errors of our crates, which know their class, into failures.
macro_rules! from_classed {
    ($($error:ty),* $(,)?) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Failure::of(error.class(), &error)
            }
        }
    )*};
}

from_classed! {
    breakwater_agent::AgentError,
    breakwater_controller::StartError,
    breakwater_controller::objects::BadDocument,
    breakwater_controller::error::ControlError,
    breakwater_crypto::KeyFileError,
    breakwater_crypto::ShareError,
    breakwater_repository::RepositoryError,
    breakwater_storage::StorageError,
}

/// Takes the first hint out of a message: `(hint: …)` anywhere, or `; hint: …` up to the end.
pub(crate) fn split_hint(text: &str) -> (String, Option<String>) {
    const OPEN: &str = " (hint: ";
    if let Some((before, rest)) = text.split_once(OPEN) {
        let mut depth = 1_usize;
        let end = rest.char_indices().find(|(_, c)| {
            match c {
                '(' => depth += 1,
                ')' => depth -= 1,
                _ => {}
            }
            depth == 0
        });
        if let Some((end, _)) = end {
            let (hint, after) = rest.split_at(end);
            let after = after.strip_prefix(')').unwrap_or(after);
            return (format!("{before}{after}"), Some(hint.to_owned()));
        }
    }
    match text.split_once("; hint: ") {
        Some((before, hint)) => (before.to_owned(), Some(hint.to_owned())),
        None => (text.to_owned(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_taken_out_of_messages() {
        let check = |text: &str, message: &str, hint: Option<&str>| {
            assert_eq!(split_hint(text), (message.to_owned(), hint.map(str::to_owned)));
        };
        check("no agent (hint: brctl agent list)", "no agent", Some("brctl agent list"));
        check("a (hint: b (or c) d): cause", "a: cause", Some("b (or c) d"));
        check("key file exists: x; hint: name another", "key file exists: x", Some("name another"));
        check("plain", "plain", None);
        check("broken (hint: never closed", "broken (hint: never closed", None);
    }

    #[test]
    fn codes_are_those_of_the_contract() {
        let check = |class, code| assert_eq!(Failure::new(class, "x").code(), code);
        check(ErrorClass::Internal, 1);
        check(ErrorClass::Invalid, 2);
        check(ErrorClass::Denied, 3);
        check(ErrorClass::Refused, 4);
        check(ErrorClass::Cancelled, 5);
        check(ErrorClass::NotFound, 6);
        check(ErrorClass::Conflict, 7);
        check(ErrorClass::Unavailable, 8);
        check(ErrorClass::Corrupt, 9);
        check(ErrorClass::Partial, 10);
        assert_eq!(Failure::reader_gone().code(), 0);
    }

    #[test]
    fn a_failure_is_shown_with_its_next_step() {
        let failure = Failure::refused("the target is not empty").hint("give an empty directory");
        assert_eq!(failure.to_string(), "error: the target is not empty\nhint: give an empty directory");
    }
}

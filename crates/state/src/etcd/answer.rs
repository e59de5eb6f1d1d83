//! Reading etcd's answers: what its errors mean, and entries from its rows.

use std::error::Error;
use std::fmt;

use bytes::Bytes;
use etcd_client::{KeyValue, ResponseHeader};
use tonic::{Code, ConnectError};

use crate::error::StateError;
use crate::store::{Entry, Revision};

/// What is said of a call without answer.
pub(super) const SILENCE: &str = "no answer in time";

/// What the TLS library says of a member that cannot prove to be the one.
pub(super) const BAD_CERTIFICATE: &str = "invalid peer certificate";

/// A call that failed: etcd's code and words, and whether the words are the client's own.
#[derive(Debug)]
pub(super) struct Failure {
    code: Code,
    message: String,
    /// Whether no member saw the request.
    never_arrived: bool,
}

impl Failure {
    pub(super) fn of(error: etcd_client::Error) -> Self {
        use etcd_client::Error as E;
        let plain = |code, message: String| Failure { code, message, never_arrived: false };
        match error {
            E::GRpcStatus(status) => {
                let never_arrived = has_connect_error(&status);
                // Statuses with a cause were made here, from a broken connection; those of the server have none.
                let local = status.source().is_some();
                let code = match status.code() {
                    Code::Unknown | Code::Internal | Code::Cancelled if local => Code::Unavailable,
                    code => code,
                };
                let mut message = status.message().to_owned();
                let mut cause = status.source();
                while let Some(error) = cause {
                    let text = error.to_string();
                    // Layers that add nothing but their own name.
                    if text != "transport error" && !message.contains(&text) {
                        message = format!("{message}: {text}");
                    }
                    cause = error.source();
                }
                if message.contains(BAD_CERTIFICATE) {
                    // No use in trying again.
                    return plain(Code::Unauthenticated, message);
                }
                Failure { code, message, never_arrived }
            }
            E::TransportError(error) => {
                let never_arrived = has_connect_error(&error);
                let cause = breakwater_core::Chain(&error).to_string();
                // Without a connection that failed, it is the certificates or the address that cannot be used.
                plain(if never_arrived { Code::Unavailable } else { Code::InvalidArgument }, cause)
            }
            E::IoError(error) => plain(Code::Unavailable, error.to_string()),
            E::InvalidArgs(message) | E::EndpointError(message) => plain(Code::InvalidArgument, message),
            E::InvalidUri(error) => plain(Code::InvalidArgument, error.to_string()),
            // How the client says that a lease is gone.
            E::LeaseKeepAliveError(message) => plain(Code::NotFound, message),
            // The member closed a stream before it said anything.
            E::WatchError(message) => plain(Code::Unavailable, message),
            other => plain(Code::Internal, other.to_string()),
        }
    }

    /// No answer in time.
    pub(super) fn silence() -> Self {
        Failure { code: Code::DeadlineExceeded, message: SILENCE.to_owned(), never_arrived: false }
    }

    /// What a member said when it ended a watch.
    pub(super) fn cancelled(reason: &str) -> Self {
        let code = if reason.contains("permission denied") {
            Code::PermissionDenied
        } else if reason.contains("invalid auth token") {
            Code::Unauthenticated
        } else {
            Code::Unavailable
        };
        Failure { code, message: reason.to_owned(), never_arrived: false }
    }

    pub(super) fn never_arrived(&self) -> bool {
        self.never_arrived
    }

    pub(super) fn is_transient(&self) -> bool {
        matches!(
            self.code,
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Aborted | Code::ResourceExhausted
        )
    }

    pub(super) fn is_denied(&self) -> bool {
        // Wrong passwords and missing user names come as invalid arguments.
        matches!(self.code, Code::PermissionDenied | Code::Unauthenticated)
            || (self.code == Code::InvalidArgument
                && (self.message.contains("authentication failed") || self.message.contains("user name is empty")))
    }

    pub(super) fn is_compacted(&self) -> bool {
        self.code == Code::OutOfRange && self.message.contains("has been compacted")
    }

    pub(super) fn is_future(&self) -> bool {
        self.code == Code::OutOfRange && self.message.contains("future revision")
    }

    pub(super) fn is_too_large(&self) -> bool {
        self.code == Code::OutOfRange && self.message.contains("length too large")
    }

    pub(super) fn is_lease_gone(&self) -> bool {
        self.code == Code::NotFound && self.message.contains("lease not found")
    }

    /// The error for callers: `doing` says what was tried.
    pub(super) fn into_error(self, store: &str, doing: &str) -> StateError {
        let store = store.to_owned();
        let what = format!("{doing}: {}", self.message);
        let cause = None;
        match self.code {
            _ if self.is_denied() => StateError::Denied { store, what, cause },
            _ if self.is_transient() => StateError::Unavailable { store, what, cause },
            Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange | Code::NotFound => {
                StateError::Invalid { what: format!("{store} cannot do it: {what}") }
            }
            Code::DataLoss => StateError::Corrupt { store, what, cause },
            _ => StateError::Internal { store, what, cause },
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.code, self.message)
    }
}

fn has_connect_error(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The revision in etcd's form.
pub(super) fn wire(revision: Revision) -> Result<i64, StateError> {
    i64::try_from(revision.0).map_err(|_| StateError::invalid(format!("{revision} is not a revision")))
}

/// etcd's number as a revision.
pub(super) fn revision_of(number: i64) -> Revision {
    Revision(u64::try_from(number).unwrap_or(0))
}

/// The newest revision, which every answer carries.
pub(super) fn newest_of(store: &str, header: Option<&ResponseHeader>) -> Result<Revision, StateError> {
    header.map(|header| revision_of(header.revision())).ok_or_else(|| StateError::Internal {
        store: store.to_owned(),
        what: "an answer without revision".to_owned(),
        cause: None,
    })
}

/// The key as the callers know it, without the store's prefix.
pub(super) fn key_of(store: &str, prefix: &str, kv: &KeyValue) -> Result<String, StateError> {
    let key = std::str::from_utf8(kv.key()).ok().and_then(|key| key.strip_prefix(prefix));
    key.map(str::to_owned).ok_or_else(|| StateError::Internal {
        store: store.to_owned(),
        what: format!("the key `{}`, which is none of ours", String::from_utf8_lossy(kv.key())),
        cause: None,
    })
}

/// The row as an entry.
pub(super) fn entry_of(store: &str, prefix: &str, kv: &KeyValue) -> Result<Entry, StateError> {
    Ok(Entry {
        key: key_of(store, prefix, kv)?,
        value: Bytes::copy_from_slice(kv.value()),
        revision: revision_of(kv.mod_revision()),
        created: revision_of(kv.create_revision()),
        version: u64::try_from(kv.version()).unwrap_or(0),
    })
}

//! What the service answers, errors in the words that the real one is known to use.

use bytes::Bytes;
use serde_json::{Value, json};

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(value: &Value) -> Answer {
        let headers = vec![("content-type", "application/json; charset=UTF-8".to_owned())];
        Answer { status: 200, headers, body: value.to_string().into() }
    }

    pub(crate) fn empty(status: u16) -> Answer {
        Answer { status, headers: Vec::new(), body: Bytes::new() }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Answer {
        self.headers.push((name, value.into()));
        self
    }
}

/// A request that is refused.
pub(crate) type Refused = Box<Answer>;

/// A refusal with the reason and message of the reference's form.
pub(crate) fn refuse(status: u16, reason: &str, message: impl Into<String>) -> Refused {
    let message = message.into();
    let detail = json!({"domain": "global", "reason": reason, "message": message});
    let body = json!({"error": {"code": status, "message": message, "errors": [detail]}});
    Box::new(Answer { status, ..Answer::json(&body) })
}

/// The same for a read of content, which answers in plain text.
pub(crate) fn plain(mut refused: Refused) -> Refused {
    let message = serde_json::from_slice::<Value>(&refused.body).ok();
    let message = message.and_then(|body| Some(body["error"]["message"].as_str()?.to_owned())).unwrap_or_default();
    refused.headers.retain(|(name, _)| *name != "content-type");
    refused.headers.push(("content-type", "text/html; charset=UTF-8".to_owned()));
    refused.body = message.into();
    refused
}

/// That the reference has it and this service does not.
pub(crate) fn unknown(what: impl std::fmt::Display) -> Refused {
    refuse(501, "notImplemented", format!("this service of tests does not know {what}"))
}

pub(crate) fn invalid(message: impl Into<String>) -> Refused {
    refuse(400, "invalid", message)
}

pub(crate) fn no_bucket() -> Refused {
    refuse(404, "notFound", "The specified bucket does not exist.")
}

pub(crate) fn no_object(bucket: &str, name: &str) -> Refused {
    refuse(404, "notFound", format!("No such object: {bucket}/{name}"))
}

pub(crate) fn precondition() -> Refused {
    refuse(412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.")
}

//! YAML documents: `apiVersion`, `kind`, `metadata`, `spec`.

use breakwater_core::{ErrorClass, Name};
use serde::{Deserialize, Serialize};

use crate::objects::{PlanSpec, RepositorySpec, SourceSpec};

/// The API version that this build reads.
pub const API_VERSION: &str = "breakwater/v1";

/// The namespace of objects that name none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// Kinds of the contract that this version does not serve yet.
const LATER_KINDS: [&str; 8] =
    ["Group", "RetentionPolicy", "SlaTier", "DrPlan", "AlertRule", "AlertChannel", "Role", "RoleBinding"];

/// A checked object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its namespace.
    pub namespace: Name,
    /// Its name, unique among its kind in the namespace.
    pub name: Name,
    /// What it declares.
    pub spec: Spec,
}

/// What an object declares, by kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spec {
    /// A repository and its regions.
    Repository(RepositorySpec),
    /// A source and its engine's settings.
    Source(SourceSpec),
    /// Which sources go to which repository.
    Plan(PlanSpec),
}

impl Spec {
    /// The kind's word in documents: `Repository`, `Source`, `Plan`.
    pub fn kind(&self) -> &'static str {
        match self {
            Spec::Repository(_) => "Repository",
            Spec::Source(_) => "Source",
            Spec::Plan(_) => "Plan",
        }
    }

    /// The spec as stored: JSON.
    pub fn to_json(&self) -> serde_json::Value {
        let value = match self {
            Spec::Repository(spec) => serde_json::to_value(spec),
            Spec::Source(spec) => serde_json::to_value(spec),
            Spec::Plan(spec) => serde_json::to_value(spec),
        };
        value.expect("specs are plain data with string keys")
    }

    /// Reads a stored spec of `kind` back.
    pub fn from_json(kind: &str, value: serde_json::Value) -> Result<Self, BadDocument> {
        let bad = |source: serde_json::Error| BadDocument::Unreadable {
            place: format!("stored {kind}"),
            reason: source.to_string(),
        };
        match kind {
            "Repository" => serde_json::from_value(value).map(Spec::Repository).map_err(bad),
            "Source" => serde_json::from_value(value).map(Spec::Source).map_err(bad),
            "Plan" => serde_json::from_value(value).map(Spec::Plan).map_err(bad),
            other => Err(BadDocument::UnknownKind { place: "store".to_owned(), kind: other.to_owned() }),
        }
    }
}

/// The lower-case word of a kind in store keys, from what people type (`Source`, `source`, `sources`).
pub fn kind_word(text: &str) -> Option<&'static str> {
    match text.to_ascii_lowercase().as_str() {
        "repository" | "repositories" => Some("repository"),
        "source" | "sources" => Some("source"),
        "plan" | "plans" => Some("plan"),
        _ => None,
    }
}

/// A document that cannot be taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadDocument {
    /// Not YAML, or a field is wrong or unknown.
    #[error("{place}: {reason}")]
    Unreadable {
        /// Which document.
        place: String,
        /// What the parser says, with the field's name.
        reason: String,
    },
    /// Another API version.
    #[error("{place}: apiVersion `{version}` is not `{API_VERSION}`")]
    OtherVersion {
        /// Which document.
        place: String,
        /// What it says.
        version: String,
    },
    /// A kind nobody knows.
    #[error("{place}: unknown kind `{kind}` (hint: Repository, Source or Plan)")]
    UnknownKind {
        /// Which document.
        place: String,
        /// What it says.
        kind: String,
    },
    /// A kind of a later version.
    #[error("{place}: kind `{kind}` is not in this version")]
    LaterKind {
        /// Which document.
        place: String,
        /// What it says.
        kind: String,
    },
    /// Values that contradict each other or the rules.
    #[error("{place}: {what}")]
    Refused {
        /// Which document.
        place: String,
        /// What is wrong, and the next step.
        what: String,
    },
    /// There was nothing in it.
    #[error("no document found")]
    Empty,
}

impl BadDocument {
    /// Always the caller's to mend.
    pub fn class(&self) -> ErrorClass {
        ErrorClass::Invalid
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawDocument {
    api_version: String,
    kind: String,
    metadata: RawMetadata,
    spec: serde_yaml_ng::Value,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct RawMetadata {
    name: Name,
    namespace: Option<Name>,
}

/// Reads all documents of `text`. `namespace` holds for documents that name none.
pub fn parse(text: &str, namespace: &Name) -> Result<Vec<Object>, BadDocument> {
    let mut objects = Vec::new();
    for (index, document) in serde_yaml_ng::Deserializer::from_str(text).enumerate() {
        let place = format!("document {}", index + 1);
        let value = serde_yaml_ng::Value::deserialize(document)
            .map_err(|error| BadDocument::Unreadable { place: place.clone(), reason: error.to_string() })?;
        if value.is_null() {
            continue;
        }
        objects.push(parse_one(value, place, namespace)?);
    }
    if objects.is_empty() { Err(BadDocument::Empty) } else { Ok(objects) }
}

fn parse_one(value: serde_yaml_ng::Value, place: String, namespace: &Name) -> Result<Object, BadDocument> {
    let raw: RawDocument = serde_yaml_ng::from_value(value)
        .map_err(|error| BadDocument::Unreadable { place: place.clone(), reason: error.to_string() })?;
    let place = format!("{place} ({} `{}`)", raw.kind, raw.metadata.name);
    if raw.api_version != API_VERSION {
        return Err(BadDocument::OtherVersion { place, version: raw.api_version });
    }
    let unreadable = |error: serde_yaml_ng::Error| BadDocument::Unreadable {
        place: place.clone(),
        reason: format!("spec: {error}"),
    };
    let refused = |what: String| BadDocument::Refused { place: place.clone(), what };
    let spec = match raw.kind.as_str() {
        "Repository" => {
            let spec: RepositorySpec = serde_yaml_ng::from_value(raw.spec).map_err(unreadable)?;
            spec.check().map_err(refused)?;
            Spec::Repository(spec)
        }
        "Source" => {
            let spec: SourceSpec = serde_yaml_ng::from_value(raw.spec).map_err(unreadable)?;
            spec.check().map_err(refused)?;
            Spec::Source(spec)
        }
        "Plan" => {
            let spec: PlanSpec = serde_yaml_ng::from_value(raw.spec).map_err(unreadable)?;
            spec.check().map_err(refused)?;
            Spec::Plan(spec)
        }
        later if LATER_KINDS.contains(&later) => {
            return Err(BadDocument::LaterKind { place, kind: later.to_owned() });
        }
        other => return Err(BadDocument::UnknownKind { place, kind: other.to_owned() }),
    };
    let namespace = raw.metadata.namespace.unwrap_or_else(|| namespace.clone());
    Ok(Object { namespace, name: raw.metadata.name, spec })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
apiVersion: breakwater/v1
kind: Repository
metadata: {name: main}
spec:
  regions:
    - {name: east, url: file:///srv/east}
    - {name: west, url: /srv/west, role: async}
---
apiVersion: breakwater/v1
kind: Source
metadata: {name: app, namespace: shop}
spec:
  agent: host-a
  sqlite: {path: /srv/app.db}
---
apiVersion: breakwater/v1
kind: Plan
metadata: {name: nightly}
spec: {repository: main, sources: [app]}
";

    fn parse_text(text: &str) -> Result<Vec<Object>, BadDocument> {
        parse(text, &Name::new("default").expect("a good name"))
    }

    #[test]
    fn good_documents_are_read_and_survive_the_store() {
        let objects = parse_text(GOOD).expect("good");
        assert_eq!(objects.len(), 3);
        assert_eq!(objects[1].namespace.as_str(), "shop");
        for object in objects {
            let back = Spec::from_json(object.spec.kind(), object.spec.to_json()).expect("stored specs are read back");
            assert_eq!(back, object.spec);
        }
    }

    #[test]
    fn bad_documents_name_the_place_and_the_field() {
        let check = |from: &str, to: &str, expected: &str| {
            let text = GOOD.replacen(from, to, 1);
            assert_ne!(text, GOOD, "the change applies");
            let message = parse_text(&text).expect_err(expected).to_string();
            assert!(message.contains(expected), "`{message}` names `{expected}`");
        };
        check("agent:", "agnet:", "agnet");
        check("name: app", "name: App", "`App` is not a name");
        check("kind: Plan", "kind: Pan", "unknown kind `Pan`");
        check("kind: Plan", "kind: DrPlan", "not in this version");
        check("breakwater/v1\nkind: Plan", "breakwater/v9\nkind: Plan", "breakwater/v9");
        check("role: async", "role: slow", "slow");
        check("name: west", "name: east", "two regions are named `east`");
        check("url: /srv/west", "url: /srv/east", "one place");
        check("sources: [app]", "sources: []", "no source");
        check("sqlite: {path: /srv/app.db}", "{}", "");
        assert_eq!(parse_text("---\n"), Err(BadDocument::Empty));
    }
}

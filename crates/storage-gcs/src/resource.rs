//! What the JSON API says of objects and buckets, as far as it matters here
//! (<https://cloud.google.com/storage/docs/json_api/v1/objects#resource>, `…/buckets#resource`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use breakwater_core::Timestamp;
use breakwater_storage::{LockMode, ObjectMeta, Placement, Retention, Tier};
use serde::{Deserialize, Serialize};

/// The parts of an object that its [`ObjectMeta`] is made of, as the `fields` of a request.
pub(crate) const META_FIELDS: &str = "name,size,timeCreated,storageClass";

/// An object. A field that was not asked for is absent.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Object {
    pub(crate) name: Option<String>,
    size: Option<String>,
    time_created: Option<String>,
    storage_class: Option<String>,
    pub(crate) generation: Option<String>,
    pub(crate) metageneration: Option<String>,
    crc32c: Option<String>,
    pub(crate) retention: Option<ObjectRetention>,
    retention_expiration_time: Option<String>,
    #[serde(default)]
    temporary_hold: bool,
    #[serde(default)]
    event_based_hold: bool,
}

impl Object {
    /// What is known of the object, which is called `key` here.
    pub(crate) fn meta(&self, key: &str) -> Option<ObjectMeta> {
        let modified = Timestamp::parse(self.time_created.as_deref()?).ok()?;
        Some(ObjectMeta { tier: self.tier(), ..ObjectMeta::new(key, self.size()?, modified) })
    }

    pub(crate) fn size(&self) -> Option<u64> {
        self.size.as_deref()?.parse().ok()
    }

    pub(crate) fn crc32c(&self) -> Option<u32> {
        crc32c_of(self.crc32c.as_deref()?)
    }

    /// Classes that Breakwater does not write (`MULTI_REGIONAL`, `REGIONAL`, `DURABLE_REDUCED_AVAILABILITY`) are kept and read
    /// like the standard one.
    pub(crate) fn tier(&self) -> Tier {
        let class = self.storage_class.as_deref();
        Tier::ALL.into_iter().find(|tier| Some(storage_class(*tier)) == class).unwrap_or(Tier::Hot)
    }

    pub(crate) fn is_held(&self) -> bool {
        self.temporary_hold || self.event_based_hold
    }

    /// The earliest moment at which it can be deleted, by its own lock and by the policy of its bucket.
    pub(crate) fn kept_until(&self) -> Option<Timestamp> {
        let own = self.retention.as_ref().and_then(ObjectRetention::lock).map(|lock| lock.until);
        let both = self.retention_expiration_time.as_deref().and_then(|text| Timestamp::parse(text).ok());
        own.max(both)
    }
}

/// The lock of one object.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ObjectRetention {
    mode: String,
    retain_until_time: String,
}

impl ObjectRetention {
    pub(crate) fn lock(&self) -> Option<Retention> {
        let mode = if self.mode == "Locked" { LockMode::Compliance } else { LockMode::Governance };
        Some(Retention { mode, until: Timestamp::parse(&self.retain_until_time).ok()? })
    }
}

impl From<Retention> for ObjectRetention {
    fn from(retention: Retention) -> ObjectRetention {
        let mode = match retention.mode {
            LockMode::Governance => "Unlocked",
            LockMode::Compliance => "Locked",
        };
        ObjectRetention { mode: mode.to_owned(), retain_until_time: retention.until.to_string() }
    }
}

/// What is said of an object to be created.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewObject {
    name: String,
    /// The service compares it with what it received, and creates nothing when they differ.
    crc32c: String,
    content_type: &'static str,
    storage_class: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    retention: Option<ObjectRetention>,
}

impl NewObject {
    pub(crate) fn new(name: String, crc32c: u32, placement: &Placement) -> NewObject {
        NewObject {
            name,
            crc32c: STANDARD.encode(crc32c.to_be_bytes()),
            content_type: "application/octet-stream",
            storage_class: storage_class(placement.tier),
            retention: placement.retention.map(ObjectRetention::from),
        }
    }
}

/// A page of a list.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Page {
    #[serde(default)]
    pub(crate) items: Vec<Object>,
    #[serde(default)]
    pub(crate) prefixes: Vec<String>,
    pub(crate) next_page_token: Option<String>,
}

/// How a bucket is set up.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Bucket {
    versioning: Option<Versioning>,
    object_retention: Option<BucketObjectRetention>,
    retention_policy: Option<RetentionPolicy>,
}

impl Bucket {
    pub(crate) const FIELDS: &str = "versioning,objectRetention,retentionPolicy";

    pub(crate) fn keeps_versions(&self) -> bool {
        self.versioning.as_ref().is_some_and(|versioning| versioning.enabled)
    }

    /// Whether objects can have locks of their own, which is decided when a bucket is made.
    pub(crate) fn has_locks(&self) -> bool {
        self.object_retention.as_ref().is_some_and(|retention| retention.mode == "Enabled")
    }

    /// Whether its retention policy can no longer be taken back.
    pub(crate) fn has_locked_policy(&self) -> bool {
        self.retention_policy.as_ref().is_some_and(|policy| policy.is_locked)
    }
}

#[derive(Debug, Deserialize)]
struct Versioning {
    #[serde(default)]
    enabled: bool,
}

#[derive(Debug, Deserialize)]
struct BucketObjectRetention {
    #[serde(default)]
    mode: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RetentionPolicy {
    #[serde(default)]
    is_locked: bool,
}

/// The provider's name of a tier. Its archive is read at once like the others, for a price.
pub(crate) fn storage_class(tier: Tier) -> &'static str {
    match tier {
        Tier::Hot => "STANDARD",
        Tier::Warm => "NEARLINE",
        Tier::Cold => "COLDLINE",
        Tier::Archive => "ARCHIVE",
    }
}

/// A checksum as the service writes it: base64 of its four bytes, the highest first.
pub(crate) fn crc32c_of(text: &str) -> Option<u32> {
    Some(u32::from_be_bytes(STANDARD.decode(text).ok()?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(json: &str) -> Object {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn an_object_as_the_service_says_it() {
        let object = object(
            r#"{"kind":"storage#object","name":"p/data/x","size":"1024","timeCreated":"2026-09-30T21:58:39.652Z",
            "storageClass":"COLDLINE","crc32c":"2fSt1g==","temporaryHold":false}"#,
        );
        let meta = object.meta("data/x").unwrap();
        assert_eq!((&*meta.key, meta.size, meta.tier), ("data/x", 1024, Tier::Cold));
        assert_eq!(meta.modified.to_string(), "2026-09-30T21:58:39.652000Z");
        assert_eq!(object.crc32c(), Some(0xd9f4_add6));
        assert!(!object.is_held() && object.kept_until().is_none());
    }

    #[test]
    fn the_longer_of_lock_and_policy_keeps() {
        let kept = |json: &str| object(json).kept_until().unwrap().to_string();
        let lock = r#""retention":{"mode":"Locked","retainUntilTime":"2027-01-02T00:00:00Z"}"#;
        assert_eq!(kept(&format!("{{{lock}}}")), "2027-01-02T00:00:00.000000Z");
        let longer = kept(&format!(r#"{{{lock},"retentionExpirationTime":"2027-01-03T00:00:00Z"}}"#));
        assert_eq!(longer, "2027-01-03T00:00:00.000000Z");
        assert!(object(r#"{"eventBasedHold":true}"#).is_held());
    }

    #[test]
    fn what_makes_no_sense_is_no_object() {
        for json in [r#"{"size":"x","timeCreated":"2026-09-30T21:58:39Z"}"#, r#"{"size":"1"}"#, "{}"] {
            assert_eq!(object(json).meta("k"), None);
        }
        assert_eq!((crc32c_of("AAAA"), crc32c_of("!")), (None, None));
        assert_eq!(object(r#"{"storageClass":"REGIONAL"}"#).tier(), Tier::Hot);
    }
}

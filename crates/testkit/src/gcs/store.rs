//! Buckets, objects and their versions, and what keeps them.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use breakwater_core::Timestamp;
use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::answer::{Refused, invalid, no_bucket, no_object, refuse};

/// How a bucket is set up.
#[derive(Clone, Debug, Default)]
pub struct BucketSettings {
    /// Whether what is deleted or written over stays as a version.
    pub versioning: bool,
    /// Whether objects can have locks of their own.
    pub object_retention: bool,
    /// How many seconds each object is kept.
    pub retention_period: Option<u64>,
    /// Whether that can no longer be taken back.
    pub policy_locked: bool,
    /// Whether requests must name a project that pays.
    pub requester_pays: bool,
    /// The most objects in a page of a list; 1000 when zero. The reference allows pages shorter than asked for.
    pub page: usize,
    /// How many bytes one call of a rewrite moves; all when zero.
    pub rewrite_step: u64,
    /// Whether an account that may not delete is refused before the preconditions of an insert are looked at. The reference
    /// does not say which comes first.
    pub permission_first: bool,
}

/// All buckets, sessions and rewrites.
#[derive(Debug, Default)]
pub(crate) struct Store {
    buckets: BTreeMap<String, Bucket>,
    pub(crate) sessions: BTreeMap<String, super::upload::Session>,
    pub(crate) rewrites: BTreeMap<String, u64>,
    last_generation: i64,
}

/// A bucket.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    pub(crate) settings: BucketSettings,
    /// By name, then by generation.
    pub(crate) objects: BTreeMap<(String, i64), Version>,
}

/// A generation of an object.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub(crate) generation: i64,
    pub(crate) metageneration: u64,
    pub(crate) live: bool,
    pub(crate) content: Bytes,
    /// As it was when it was stored.
    pub(crate) crc32c: u32,
    pub(crate) created: Timestamp,
    pub(crate) class: String,
    pub(crate) content_type: Option<String>,
    pub(crate) lock: Option<Lock>,
    pub(crate) temporary_hold: Option<bool>,
    pub(crate) event_based_hold: Option<bool>,
    /// From when the period of the bucket's policy counts.
    pub(crate) kept_from: Timestamp,
}

/// The lock of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lock {
    pub(crate) locked: bool,
    pub(crate) until: Timestamp,
}

pub(crate) const CLASSES: [&str; 4] = ["STANDARD", "NEARLINE", "COLDLINE", "ARCHIVE"];

impl Store {
    pub(crate) fn set_bucket(&mut self, name: &str, settings: BucketSettings) {
        self.buckets.entry(name.to_owned()).or_default().settings = settings;
    }

    pub(crate) fn remove_bucket(&mut self, name: &str) {
        self.buckets.remove(name);
    }

    pub(crate) fn versions(&self, bucket: &str) -> usize {
        self.buckets.get(bucket).map_or(0, |bucket| bucket.objects.len())
    }

    pub(crate) fn damage(&mut self, bucket: &str, name: &str) {
        let version = self.buckets.get_mut(bucket).and_then(|bucket| bucket.live_mut(name));
        let version = version.expect("an object to damage");
        version.content = damaged(&version.content);
    }

    pub(crate) fn bucket(&self, name: &str) -> Result<&Bucket, Refused> {
        self.buckets.get(name).ok_or_else(no_bucket)
    }

    pub(crate) fn bucket_mut(&mut self, name: &str) -> Result<&mut Bucket, Refused> {
        self.buckets.get_mut(name).ok_or_else(no_bucket)
    }

    /// A number for a new generation: its time in microseconds, and higher than all before it.
    pub(crate) fn next_generation(&mut self, now: Timestamp) -> i64 {
        self.last_generation = now.as_micros().max(self.last_generation + 1);
        self.last_generation
    }
}

impl Bucket {
    pub(crate) fn live(&self, name: &str) -> Option<&Version> {
        self.versions_of(name).find(|version| version.live)
    }

    pub(crate) fn live_mut(&mut self, name: &str) -> Option<&mut Version> {
        let range = (name.to_owned(), i64::MIN)..=(name.to_owned(), i64::MAX);
        self.objects.range_mut(range).map(|(_, version)| version).find(|version| version.live)
    }

    fn versions_of(&self, name: &str) -> impl Iterator<Item = &Version> {
        let range = (name.to_owned(), i64::MIN)..=(name.to_owned(), i64::MAX);
        self.objects.range(range).map(|(_, version)| version)
    }

    /// The version that a request means.
    pub(crate) fn find(&self, bucket: &str, name: &str, generation: Option<i64>) -> Result<&Version, Refused> {
        let found = match generation {
            None => self.live(name),
            Some(generation) => self.objects.get(&(name.to_owned(), generation)),
        };
        found.ok_or_else(|| no_object(bucket, name))
    }

    /// The earliest moment at which it can be deleted.
    pub(crate) fn kept_until(&self, version: &Version) -> Option<Timestamp> {
        let own = version.lock.map(|lock| lock.until);
        let deferred = version.event_based_hold == Some(true);
        let period = self.settings.retention_period.filter(|_| !deferred);
        let policy =
            period.map(|seconds| version.kept_from.plus_micros(i64::try_from(seconds).unwrap_or(0) * 1_000_000));
        own.max(policy)
    }

    /// Refuses to delete or to write over `version` while something keeps it. The real service gives holds the reason
    /// `forbidden`, not the documented `objectUnderActiveHold`.
    pub(crate) fn check_free(
        &self,
        bucket: &str,
        name: &str,
        version: &Version,
        now: Timestamp,
    ) -> Result<(), Refused> {
        check_holds(bucket, name, version)?;
        match self.kept_until(version) {
            Some(until) if now < until => Err(refuse(
                403,
                "retentionPolicyNotMet",
                format!(
                    "Object '{bucket}/{name}' is subject to bucket's retention policy or object retention and cannot be deleted or \
                     overwritten until {until}"
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Puts a new generation in the place of the live one, which stays as a version where the bucket keeps those.
    pub(crate) fn put(&mut self, bucket: &str, name: &str, version: Version, now: Timestamp) -> Result<(), Refused> {
        if let Some(old) = self.live(name).cloned() {
            if self.settings.versioning {
                check_holds(bucket, name, &old)?;
                self.objects.insert((name.to_owned(), old.generation), Version { live: false, ..old });
            } else {
                self.check_free(bucket, name, &old, now)?;
                self.objects.remove(&(name.to_owned(), old.generation));
            }
        }
        self.objects.insert((name.to_owned(), version.generation), version);
        Ok(())
    }

    /// The resource of an object.
    pub(crate) fn resource(&self, bucket: &str, name: &str, version: &Version) -> Value {
        let generation = version.generation;
        let mut object = json!({
            "kind": "storage#object",
            "id": format!("{bucket}/{name}/{generation}"),
            "name": name,
            "bucket": bucket,
            "generation": generation.to_string(),
            "metageneration": version.metageneration.to_string(),
            "size": version.content.len().to_string(),
            "crc32c": STANDARD.encode(version.crc32c.to_be_bytes()),
            "timeCreated": millis(version.created),
            "updated": millis(version.created),
            "storageClass": version.class,
        });
        let fields = object.as_object_mut().expect("made as an object");
        let mut set = |field: &str, value: Option<Value>| {
            fields.extend(value.map(|value| (field.to_owned(), value)));
        };
        set("contentType", version.content_type.clone().map(Value::String));
        set("temporaryHold", version.temporary_hold.map(Value::Bool));
        set("eventBasedHold", version.event_based_hold.map(Value::Bool));
        set(
            "retention",
            version.lock.map(|lock| {
                let mode = if lock.locked { "Locked" } else { "Unlocked" };
                json!({"mode": mode, "retainUntilTime": lock.until.to_string()})
            }),
        );
        set("retentionExpirationTime", self.kept_until(version).map(|until| Value::String(until.to_string())));
        object
    }
}

fn check_holds(bucket: &str, name: &str, version: &Version) -> Result<(), Refused> {
    let hold = match (version.temporary_hold, version.event_based_hold) {
        (Some(true), _) => "Temporary",
        (_, Some(true)) => "Event-Based",
        _ => return Ok(()),
    };
    let message = format!(
        "Object '{bucket}/{name}' is under active {hold} hold and cannot be deleted, overwritten or archived until hold is removed."
    );
    Err(refuse(403, "forbidden", message))
}

/// The lock that `value` asks for, in the words of the real service where it cannot be.
pub(crate) fn wanted_lock(settings: &BucketSettings, value: &Value, now: Timestamp) -> Result<Lock, Refused> {
    if !settings.object_retention {
        return Err(invalid("Object retention is not enabled on the bucket."));
    }
    let fields = value.as_object().ok_or_else(|| invalid("retention is not an object"))?;
    only_fields(fields, &["mode", "retainUntilTime"])?;
    let both = "Both mode and retain until time are required.";
    let locked = match fields.get("mode").and_then(Value::as_str) {
        Some("Locked") => true,
        Some("Unlocked") => false,
        Some(mode) => return Err(invalid(format!("Invalid value for: {mode} is not a valid value"))),
        None => return Err(invalid(format!("Missing retention mode. {both}"))),
    };
    let until = fields.get("retainUntilTime").and_then(Value::as_str);
    let until = until.ok_or_else(|| invalid(format!("Missing retain until time. {both}")))?;
    let until = Timestamp::parse(until).map_err(|_| invalid("Illegal timestamp format"))?;
    if until <= now {
        return Err(invalid("Retain until time cannot be in the past."));
    }
    Ok(Lock { locked, until })
}

pub(crate) fn only_fields(fields: &Map<String, Value>, known: &[&str]) -> Result<(), Refused> {
    match fields.keys().find(|field| !known.contains(&field.as_str())) {
        Some(field) => Err(invalid(format!("Unknown name \"{field}\": Cannot find field."))),
        None => Ok(()),
    }
}

/// The content with one bit turned.
pub(crate) fn damaged(content: &Bytes) -> Bytes {
    let mut bytes = content.to_vec();
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 1;
    }
    bytes.into()
}

/// Times of objects have milliseconds.
fn millis(time: Timestamp) -> String {
    let text = Timestamp::from_micros(time.as_micros() / 1000 * 1000).to_string();
    text.replace("000Z", "Z")
}

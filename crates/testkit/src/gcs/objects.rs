//! Looking up, reading, patching, deleting and rewriting objects
//! (<https://cloud.google.com/storage/docs/json_api/v1/objects>), and looking up buckets.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::State;
use super::answer::{Answer, Refused, invalid, refuse};
use super::list::selected;
use super::route::{Call, Query};
use super::store::{CLASSES, Lock, Version, only_fields, wanted_lock};

const UNLOCKED: &str = "The unlocked object retention can only be shortened, removed or locked with override unlocked retention \
                        intent and permission.";
const LOCKED: &str = "The locked object retention cannot be removed. Its retention mode cannot be changed and its retention period \
                      cannot be shortened.";

impl Call<'_> {
    pub(crate) fn bucket(&self, state: &State, query: &mut Query) -> Result<Answer, Refused> {
        let fields = query.take("fields");
        query.end()?;
        let settings = &state.store.bucket(self.bucket)?.settings;
        self.caller.must("storage.buckets.get", "")?;
        let mut bucket = json!({
            "kind": "storage#bucket", "id": self.bucket, "name": self.bucket, "location": "EUROPE-WEST3", "storageClass": "STANDARD",
            "metageneration": "1", "timeCreated": "2026-09-30T21:57:51.487Z",
        });
        if settings.versioning {
            bucket["versioning"] = json!({"enabled": true});
        }
        if settings.object_retention {
            bucket["objectRetention"] = json!({"mode": "Enabled"});
        }
        if let Some(period) = settings.retention_period {
            bucket["retentionPolicy"] =
                json!({"retentionPeriod": period.to_string(), "effectiveTime": "2026-09-30T21:57:51.487Z"});
            if settings.policy_locked {
                bucket["retentionPolicy"]["isLocked"] = json!(true);
            }
        }
        Ok(Answer::json(&selected(bucket, fields.as_deref())?))
    }

    pub(crate) fn head(&self, state: &State, query: &mut Query) -> Result<Answer, Refused> {
        let (fields, generation, conditions) =
            (query.take("fields"), query.number("generation")?, query.conditions("")?);
        query.end()?;
        let bucket = state.store.bucket(self.bucket)?;
        self.caller.must("storage.objects.get", self.name)?;
        let version = bucket.find(self.bucket, self.name, generation)?;
        if let Some(unchanged) = conditions.check_read(version)? {
            return Ok(unchanged);
        }
        Ok(Answer::json(&selected(bucket.resource(self.bucket, self.name, version), fields.as_deref())?))
    }

    /// The content, or a part of it (<https://cloud.google.com/storage/docs/json_api/v1/objects/get>, `alt=media`).
    pub(crate) fn media(&self, state: &State, query: &mut Query) -> Result<Answer, Refused> {
        query.take("alt");
        let (generation, conditions) = (query.number("generation")?, query.conditions("")?);
        query.end()?;
        let bucket = state.store.bucket(self.bucket)?;
        self.caller.must("storage.objects.get", self.name)?;
        let version = bucket.find(self.bucket, self.name, generation)?;
        if let Some(unchanged) = conditions.check_read(version)? {
            return Ok(unchanged);
        }
        let size = version.content.len();
        let answer = match self.asked.header("range") {
            None => Answer { body: version.content.clone(), ..Answer::empty(200) },
            Some(range) => {
                let Some((first, last)) = span(range, size)? else {
                    let mut refused = refuse(416, "requestedRangeNotSatisfiable", "Request range not satisfiable");
                    refused.headers.push(("content-range", format!("bytes */{size}")));
                    return Err(refused);
                };
                let part = version.content.slice(first..=last);
                Answer { body: part, ..Answer::empty(206) }
                    .with("content-range", format!("bytes {first}-{last}/{size}"))
            }
        };
        // The checksum is that of the whole object, also beside a part.
        let crc32c = STANDARD.encode(version.crc32c.to_be_bytes());
        Ok(answer
            .with("content-type", version.content_type.clone().unwrap_or_default())
            .with("x-goog-hash", format!("crc32c={crc32c}"))
            .with("x-goog-generation", version.generation.to_string())
            .with("x-goog-metageneration", version.metageneration.to_string())
            .with("x-goog-storage-class", version.class.clone())
            .with("x-goog-stored-content-length", size.to_string()))
    }

    pub(crate) fn patch(&self, state: &mut State, query: &mut Query) -> Result<Answer, Refused> {
        let (fields, generation, conditions) =
            (query.take("fields"), query.number("generation")?, query.conditions("")?);
        let overrides = query.flag("overrideUnlockedRetention")?;
        query.end()?;
        let now = state.now();
        let patch = self.asked.json()?;
        only_fields(&patch, &["retention", "temporaryHold", "eventBasedHold", "contentType"])?;
        let bucket = state.store.bucket(self.bucket)?;
        self.caller.must("storage.objects.get", self.name)?;
        self.caller.must("storage.objects.update", self.name)?;
        let mut version = bucket.find(self.bucket, self.name, generation)?.clone();
        conditions.check(Some(&version))?;
        if let Some(value) = patch.get("retention") {
            self.caller.must("storage.objects.setRetention", self.name)?;
            if overrides {
                self.caller.must("storage.objects.overrideUnlockedRetention", self.name)?;
            }
            version.lock = relocked(version.lock, value, overrides, |value| wanted_lock(&bucket.settings, value, now))?;
        }
        if let Some(hold) = flag(&patch, "temporaryHold")? {
            version.temporary_hold = Some(hold);
        }
        if let Some(hold) = flag(&patch, "eventBasedHold")? {
            if version.event_based_hold == Some(true) && !hold {
                version.kept_from = now;
            }
            version.event_based_hold = Some(hold);
        }
        check_lock_alone(&version)?;
        if let Some(kind) = patch.get("contentType").and_then(Value::as_str) {
            version.content_type = Some(kind.to_owned());
        }
        version.metageneration += 1;
        let answer = selected(bucket.resource(self.bucket, self.name, &version), fields.as_deref())?;
        let key = (self.name.to_owned(), version.generation);
        state.store.bucket_mut(self.bucket)?.objects.insert(key, version);
        Ok(Answer::json(&answer))
    }

    /// Without a generation, the live object becomes a version where the bucket keeps those, which a lock does not forbid.
    pub(crate) fn delete(&self, state: &mut State, query: &mut Query) -> Result<Answer, Refused> {
        let (generation, conditions) = (query.number("generation")?, query.conditions("")?);
        query.end()?;
        let now = state.now();
        let bucket = state.store.bucket_mut(self.bucket)?;
        self.caller.must("storage.objects.delete", self.name)?;
        let version = bucket.find(self.bucket, self.name, generation)?.clone();
        conditions.check(Some(&version))?;
        let key = (self.name.to_owned(), version.generation);
        if generation.is_none() && bucket.settings.versioning {
            bucket.check_free(
                self.bucket,
                self.name,
                &Version { lock: None, kept_from: OLD, ..version.clone() },
                now,
            )?;
            bucket.objects.insert(key, Version { live: false, ..version });
        } else {
            bucket.check_free(self.bucket, self.name, &version, now)?;
            bucket.objects.remove(&key);
        }
        Ok(Answer::empty(204))
    }

    /// <https://cloud.google.com/storage/docs/json_api/v1/objects/rewrite>: a copy, perhaps in several calls.
    pub(crate) fn rewrite(
        &self,
        state: &mut State,
        query: &mut Query,
        to: &str,
        target: &str,
    ) -> Result<Answer, Refused> {
        let (fields, generation) = (query.take("fields"), query.number("sourceGeneration")?);
        let (source_conditions, conditions) = (query.conditions("Source")?, query.conditions("")?);
        let token = query.take("rewriteToken");
        query.end()?;
        let now = state.now();
        let wanted = if self.asked.body.is_empty() { Map::new() } else { self.asked.json()? };
        only_fields(&wanted, &["storageClass", "contentType"])?;
        let class = wanted.get("storageClass").and_then(Value::as_str).unwrap_or("STANDARD");
        if !CLASSES.contains(&class) {
            return Err(invalid(format!("Invalid argument: {class}")));
        }
        self.caller.must("storage.objects.get", self.name)?;
        self.caller.must("storage.objects.create", target)?;
        let source = state.store.bucket(self.bucket)?.find(self.bucket, self.name, generation)?.clone();
        source_conditions.check(Some(&source))?;
        let bucket = state.store.bucket(to)?;
        conditions.check(bucket.live(target))?;
        if let Some(old) = bucket.live(target) {
            self.caller.must("storage.objects.delete", target)?;
            if !bucket.settings.versioning {
                bucket.check_free(to, target, old, now)?;
            }
        }
        let (size, step) = (source.content.len() as u64, bucket.settings.rewrite_step);
        let before = match token {
            None => 0,
            Some(token) => state.store.rewrites.remove(&token).ok_or_else(|| invalid("Invalid rewrite token"))?,
        };
        let done = if step == 0 { size } else { size.min(before + step) };
        let mut answer = json!({
            "kind": "storage#rewriteResponse", "totalBytesRewritten": done.to_string(), "objectSize": size.to_string(),
            "done": done == size,
        });
        if done < size {
            let token = format!("rewrite-{}-{done}", source.generation);
            state.store.rewrites.insert(token.clone(), done);
            answer["rewriteToken"] = Value::String(token);
        } else {
            let generation = state.store.next_generation(now);
            let copy = Version {
                generation,
                metageneration: 1,
                live: true,
                created: now,
                class: class.to_owned(),
                content_type: wanted.get("contentType").and_then(Value::as_str).map(str::to_owned),
                lock: None,
                temporary_hold: None,
                event_based_hold: None,
                kept_from: now,
                ..source
            };
            let bucket = state.store.bucket_mut(to)?;
            bucket.put(to, target, copy.clone(), now)?;
            answer["resource"] = bucket.resource(to, target, &copy);
        }
        Ok(Answer::json(&selected(answer, fields.as_deref())?))
    }
}

/// A moment before all others.
const OLD: breakwater_core::Timestamp = breakwater_core::Timestamp(i64::MIN / 2);

/// A lock and an event-based hold exclude each other.
pub(crate) fn check_lock_alone(version: &Version) -> Result<(), Refused> {
    if version.lock.is_some() && version.event_based_hold == Some(true) {
        return Err(invalid("Retention and event based holds cannot be configured together."));
    }
    Ok(())
}

/// The lock after a patch that says `value`.
fn relocked(
    old: Option<Lock>,
    value: &Value,
    overrides: bool,
    wanted: impl Fn(&Value) -> Result<Lock, Refused>,
) -> Result<Option<Lock>, Refused> {
    let forbid = |message| Err(refuse(403, "forbidden", message));
    if value.is_null() {
        return match old {
            Some(Lock { locked: true, .. }) => forbid(LOCKED),
            Some(_) if !overrides => forbid(UNLOCKED),
            _ => Ok(None),
        };
    }
    let new = wanted(value)?;
    match old {
        Some(old) if old.locked && (!new.locked || new.until < old.until) => forbid(LOCKED),
        Some(old) if !old.locked && (new.locked || new.until < old.until) && !overrides => forbid(UNLOCKED),
        _ => Ok(Some(new)),
    }
}

pub(crate) fn flag(fields: &Map<String, Value>, name: &str) -> Result<Option<bool>, Refused> {
    match fields.get(name) {
        None => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(*value)),
        Some(_) => Err(invalid(format!("Invalid value for {name}"))),
    }
}

/// The first and the last byte of `bytes=…` in `size` bytes; `None` when there are none.
fn span(range: &str, size: usize) -> Result<Option<(usize, usize)>, Refused> {
    let unknown = || super::answer::unknown(format!("the range {range}"));
    let (first, last) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')).ok_or_else(unknown)?;
    let number =
        |text: &str| text.parse::<u64>().map(|n| usize::try_from(n).unwrap_or(usize::MAX)).map_err(|_| unknown());
    let (first, last) = match (first, last) {
        ("", last) => (size.saturating_sub(number(last)?), size.saturating_sub(1)),
        (first, "") => (number(first)?, size.saturating_sub(1)),
        (first, last) => (number(first)?, number(last)?.min(size.saturating_sub(1))),
    };
    Ok((first <= last && last < size).then_some((first, last)))
}

//! Lists and partial answers (<https://cloud.google.com/storage/docs/json_api/v1/objects/list>,
//! <https://cloud.google.com/storage/docs/json_api#partial-response>).

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use serde_json::{Value, json};

use super::State;
use super::answer::{Answer, Refused, invalid, unknown};
use super::route::{Call, Query};

/// Every field that a selection may name.
const FIELDS: [&str; 30] = [
    "kind",
    "id",
    "name",
    "bucket",
    "generation",
    "metageneration",
    "size",
    "crc32c",
    "timeCreated",
    "updated",
    "storageClass",
    "contentType",
    "temporaryHold",
    "eventBasedHold",
    "retention",
    "retentionExpirationTime",
    "items",
    "prefixes",
    "nextPageToken",
    "done",
    "rewriteToken",
    "resource",
    "totalBytesRewritten",
    "objectSize",
    "versioning",
    "objectRetention",
    "retentionPolicy",
    "location",
    "mode",
    "retainUntilTime",
];

impl Call<'_> {
    pub(crate) fn list(&self, state: &State, query: &mut Query) -> Result<Answer, Refused> {
        let fields = query.take("fields");
        let prefix = query.take("prefix").unwrap_or_default();
        let delimiter = query.take("delimiter");
        if delimiter.as_deref().is_some_and(|delimiter| delimiter != "/") {
            return Err(unknown("another delimiter than /"));
        }
        let asked = query.number("maxResults")?.unwrap_or(1000);
        let asked = usize::try_from(asked).ok().filter(|asked| *asked > 0);
        let asked = asked.ok_or_else(|| invalid("Invalid value for maxResults"))?.min(1000);
        let (start, end) = (query.take("startOffset"), query.take("endOffset"));
        let (versions, token) = (query.flag("versions")?, query.take("pageToken"));
        query.end()?;
        let bucket = state.store.bucket(self.bucket)?;
        self.caller.must("storage.objects.list", &prefix)?;
        // A token belongs to the list that it goes on with.
        let list = format!("{prefix}\n{delimiter:?}\n{start:?}\n{end:?}\n{versions}");
        let after = token.map(|token| read_token(&token, &list)).transpose()?;

        // What an entry is listed as, in the order of its name or of the prefix that stands for it.
        let mut entries: BTreeMap<(String, i64), Option<Value>> = BTreeMap::new();
        let from = (start.clone().unwrap_or_default().max(prefix.clone()), i64::MIN);
        for ((name, generation), version) in bucket.objects.range(from..) {
            if !name.starts_with(&prefix) || end.as_ref().is_some_and(|end| name >= end) {
                break;
            }
            if !version.live && !versions {
                continue;
            }
            let below = delimiter.as_ref().and_then(|_| name[prefix.len()..].find('/'));
            match below {
                Some(at) => entries.insert((name[..=prefix.len() + at].to_owned(), i64::MIN), None),
                None => {
                    let resource = bucket.resource(self.bucket, name, version);
                    entries.insert((name.clone(), *generation), Some(resource))
                }
            };
        }
        if let Some(after) = after {
            entries = entries.split_off(&after);
            entries.remove(&after);
        }
        let page = if bucket.settings.page == 0 { asked } else { asked.min(bucket.settings.page) };
        let mut answer = json!({"kind": "storage#objects"});
        if let Some((last, _)) = entries.iter().nth(page - 1).filter(|_| entries.len() > page) {
            answer["nextPageToken"] = Value::String(write_token(last, &list));
        }
        let (mut items, mut prefixes) = (Vec::new(), Vec::new());
        for ((name, _), resource) in entries.into_iter().take(page) {
            match resource {
                Some(resource) => items.push(resource),
                None => prefixes.push(Value::String(name)),
            }
        }
        // What is empty is left out.
        for (field, values) in [("items", items), ("prefixes", prefixes)] {
            if !values.is_empty() {
                answer[field] = Value::Array(values);
            }
        }
        Ok(Answer::json(&selected(answer, fields.as_deref())?))
    }
}

fn write_token((name, generation): &(String, i64), list: &str) -> String {
    URL_SAFE.encode(json!([name, generation, list]).to_string())
}

fn read_token(token: &str, list: &str) -> Result<(String, i64), Refused> {
    let parts: Option<(String, i64, String)> =
        URL_SAFE.decode(token).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    match parts {
        Some((name, generation, of)) if of == list => Ok((name, generation)),
        _ => Err(invalid("Invalid page token")),
    }
}

/// The parts of `value` that `fields` selects: names and, in parentheses, names below them.
pub(crate) fn selected(value: Value, fields: Option<&str>) -> Result<Value, Refused> {
    let Some(fields) = fields else { return Ok(value) };
    let mut kept = json!({});
    for field in split(fields) {
        let (name, below) = match field.split_once('(') {
            Some((name, below)) => (name, Some(below.strip_suffix(')').ok_or_else(|| bad_field(field))?)),
            None => (field, None),
        };
        if !FIELDS.contains(&name) {
            return Err(bad_field(field));
        }
        let part = match (value.get(name).cloned(), below) {
            (Some(Value::Array(parts)), Some(below)) => {
                Value::Array(parts.into_iter().map(|part| selected(part, Some(below))).collect::<Result<_, _>>()?)
            }
            (Some(part), Some(below)) => selected(part, Some(below))?,
            (Some(part), None) => part,
            (None, _) => continue,
        };
        kept[name] = part;
    }
    Ok(kept)
}

fn bad_field(field: &str) -> Refused {
    invalid(format!("Invalid field selection {field}"))
}

/// The fields of a selection, at the commas outside of parentheses.
fn split(fields: &str) -> Vec<&str> {
    let mut depth = 0;
    let is_comma = |c: char| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        c == ',' && depth == 0
    };
    fields.split(is_comma).collect()
}

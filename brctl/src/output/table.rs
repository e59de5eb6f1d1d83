//! Tables of JSON values: each column says where its cell is found and how it is shown.

use breakwater_core::{ByteCount, Clock, Timestamp};
use breakwater_runtime::SystemClock;
use comfy_table::Table;
use serde_json::Value;

use crate::output::moment;

/// Characters of a sentence in a table that is not wide.
const BRIEF: usize = 60;

/// How a cell is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// As it is; absent and empty as `-`.
    Text,
    /// The first twelve digits of an id; whole in wide tables.
    Id,
    /// A number of bytes.
    Bytes,
    /// How long ago a moment was.
    Age,
    /// A moment, to the second.
    Moment,
    /// A number of seconds, as a span.
    Seconds,
    /// The elements of an array, with commas.
    List,
    /// The beginning of a sentence; whole in wide tables.
    Brief,
}

/// One column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    header: &'static str,
    pointer: &'static str,
    kind: Kind,
    wide: bool,
}

impl Column {
    /// The column `header` of what lies at `pointer` in each item, like `/metadata/name`.
    pub(crate) const fn new(header: &'static str, pointer: &'static str, kind: Kind) -> Self {
        Column { header, pointer, kind, wide: false }
    }

    /// A column of wide tables only.
    pub(crate) const fn wide(header: &'static str, pointer: &'static str, kind: Kind) -> Self {
        Column { header, pointer, kind, wide: true }
    }
}

/// How a kind of item is listed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listing {
    /// The columns.
    pub(crate) columns: &'static [Column],
    /// Where an item's name is found.
    pub(crate) name: &'static str,
    /// What to say when there is nothing.
    pub(crate) empty: &'static str,
}

impl Listing {
    /// The items as a table.
    pub(crate) fn table(&self, items: &[Value], wide: bool) -> String {
        let columns: Vec<&Column> = self.columns.iter().filter(|column| wide || !column.wide).collect();
        let now = SystemClock.now();
        let headers = columns.iter().map(|column| column.header.to_owned()).collect();
        let rows = items.iter().map(|item| {
            columns.iter().map(|column| cell(item.pointer(column.pointer), column.kind, wide, now)).collect()
        });
        columns_of(headers, rows.collect())
    }

    /// The name of one item.
    pub(crate) fn name_of(&self, item: &Value) -> String {
        plain(item.pointer(self.name).unwrap_or(&Value::Null))
    }
}

/// Aligned columns without lines.
pub(crate) fn columns_of(headers: Vec<String>, rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(headers);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = String::new();
    for line in table.to_string().lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn cell(value: Option<&Value>, kind: Kind, wide: bool, now: Timestamp) -> String {
    let absent = || "-".to_owned();
    let Some(value) = value.filter(|value| !value.is_null()) else { return absent() };
    let moment_of = || value.as_str().and_then(|text| Timestamp::parse(text).ok());
    let text = match kind {
        Kind::Text => plain(value),
        Kind::Id | Kind::Brief if wide => plain(value),
        Kind::Brief => brief(&plain(value)),
        Kind::Id => plain(value).chars().take(12).collect(),
        Kind::Bytes => value.as_u64().map_or_else(|| plain(value), |bytes| ByteCount(bytes).to_string()),
        Kind::Age => moment_of().map_or_else(|| plain(value), |then| moment::ago(then, now)),
        Kind::Moment => moment_of().map_or_else(|| plain(value), moment::to_the_second),
        Kind::Seconds => value.as_f64().map_or_else(|| plain(value), seconds),
        Kind::List => match value.as_array() {
            Some(all) => all.iter().map(plain).collect::<Vec<_>>().join(", "),
            None => plain(value),
        },
    };
    if text.is_empty() { absent() } else { text }
}

#[expect(clippy::cast_possible_truncation, reason = "a float saturates, and spans of that length do not occur")]
fn seconds(seconds: f64) -> String {
    moment::span((seconds * 1e6) as i64)
}

/// The first [`BRIEF`] characters.
fn brief(text: &str) -> String {
    if text.chars().count() <= BRIEF {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(BRIEF - 1).collect();
    short.push('…');
    short
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const LISTING: Listing = Listing {
        columns: &[
            Column::new("NAME", "/meta/name", Kind::Text),
            Column::new("ID", "/id", Kind::Id),
            Column::new("SIZE", "/size", Kind::Bytes),
            Column::wide("SINCE", "/since", Kind::Moment),
        ],
        name: "/meta/name",
        empty: "nothing",
    };

    #[test]
    fn cells_stand_under_their_headers() {
        let items = [
            json!({"meta": {"name": "app"}, "id": "0123456789abcdef", "size": 2048, "since": "2026-11-20T12:00:00.5Z"}),
            json!({"meta": {"name": "longer-name"}, "id": null}),
        ];
        let expected = "NAME         ID            SIZE\n\
                        app          0123456789ab  2.0 KiB\n\
                        longer-name  -             -\n";
        assert_eq!(LISTING.table(&items, false), expected);
        let wide = LISTING.table(&items, true);
        assert!(wide.contains("0123456789abcdef") && wide.contains("2026-11-20T12:00:00Z"), "{wide}");
        assert_eq!(LISTING.name_of(&items[1]), "longer-name");
    }

    #[test]
    fn no_raw_microseconds_reach_a_table() {
        let now = Timestamp(1_795_179_038_000_000);
        let show = |value: Value, kind| cell(Some(&value), kind, false, now);
        assert_eq!(show(json!("2026-11-20T12:50:35Z"), Kind::Age), "3.0s ago");
        assert_eq!(show(json!(185.0), Kind::Seconds), "3m 5s");
        assert_eq!(show(json!(["a", "b"]), Kind::List), "a, b");
        assert_eq!(show(json!(""), Kind::Text), "-");
    }
}

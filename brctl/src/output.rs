//! What a command shows: data on standard output in the chosen form, everything else on standard error.
//!
//! Invariant: a reader that stops reading ends the program quietly, and nothing but data is ever on standard output.

pub(crate) mod moment;
pub(crate) mod table;

use std::io::{IsTerminal, Write};

use serde_json::Value;

use crate::args::Format;
use crate::failure::Failure;
use crate::output::table::Listing;

/// Where and how to show things.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    format: Format,
    quiet: bool,
    terminal: bool,
}

impl Output {
    /// Output in `format`, or what suits where standard output goes.
    pub(crate) fn new(format: Option<Format>, quiet: bool) -> Self {
        let default = if std::io::stdout().is_terminal() { Format::Table } else { Format::Json };
        Output { format: format.unwrap_or(default), quiet, terminal: std::io::stderr().is_terminal() }
    }

    /// The form.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// Whether the form is made for people.
    pub(crate) fn is_for_people(&self) -> bool {
        matches!(self.format, Format::Table | Format::Wide)
    }

    /// Whether a progress bar can be drawn: somebody looks at standard error and wants to be told.
    pub(crate) fn can_draw(&self) -> bool {
        self.terminal && !self.quiet && self.format != Format::Ndjson
    }

    /// Shows a list: a table, one JSON array, one document a line, or names.
    pub(crate) fn list(&self, listing: &Listing, items: &[Value]) -> Result<(), Failure> {
        match self.format {
            Format::Table | Format::Wide => {
                if items.is_empty() {
                    self.note(listing.empty);
                    return Ok(());
                }
                self.text(&listing.table(items, self.format == Format::Wide))
            }
            Format::Name => {
                self.text(&items.iter().map(|item| format!("{}\n", listing.name_of(item))).collect::<String>())
            }
            Format::Ndjson => self.text(&items.iter().map(|item| format!("{item}\n")).collect::<String>()),
            Format::Json | Format::Yaml => self.document(&Value::Array(items.to_vec())),
        }
    }

    /// Shows one thing: as a document, its name, or for people as `human` says it.
    pub(crate) fn item(&self, value: &Value, name: &str, human: impl FnOnce() -> String) -> Result<(), Failure> {
        match self.format {
            Format::Table | Format::Wide => self.text(&human()),
            Format::Name => self.text(&format!("{name}\n")),
            Format::Json | Format::Yaml | Format::Ndjson => self.document(value),
        }
    }

    /// Shows a document as JSON, YAML or one line of JSON; for people as YAML.
    pub(crate) fn document(&self, value: &Value) -> Result<(), Failure> {
        match self.format {
            Format::Json => self.text(&format!("{value:#}\n")),
            Format::Ndjson => self.text(&format!("{value}\n")),
            Format::Table | Format::Wide | Format::Yaml | Format::Name => self.text(&yaml(value)),
        }
    }

    /// Writes text to standard output.
    pub(crate) fn text(&self, text: &str) -> Result<(), Failure> {
        let mut stdout = std::io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Failure::reader_gone()),
            Err(error) => Err(Failure::io("standard output", &error)),
        }
    }

    /// Says something on standard error, unless only what was asked for is wanted.
    pub(crate) fn note(&self, text: impl std::fmt::Display) {
        if !self.quiet {
            say(text);
        }
    }
}

/// Says something on standard error. Where nobody can hear it, it is lost.
pub(crate) fn say(text: impl std::fmt::Display) {
    drop(writeln!(std::io::stderr().lock(), "{text}"));
}

/// A document as YAML.
pub(crate) fn yaml(value: &Value) -> String {
    serde_yaml_ng::to_string(value).expect("JSON values are YAML values")
}

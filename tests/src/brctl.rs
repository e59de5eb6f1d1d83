//! `brctl` as a script would call it: words in, exit code and JSON out.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use breakwater_core::Timestamp;
use breakwater_testkit::process::{Finished, Program, Running};
use serde_json::Value;

/// Longer than any command of a scenario takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// `brctl` with what it needs to reach one controller, or none.
#[derive(Clone, Debug)]
pub struct Brctl {
    program: Program,
}

impl Brctl {
    /// Without a controller.
    pub fn alone() -> Result<Brctl> {
        Ok(Brctl { program: Program::brctl()?.time_limit(PATIENCE) })
    }

    /// With the context file that a controller wrote.
    pub fn with_context(file: &Path) -> Result<Brctl> {
        Ok(Brctl::alone()?.env("BRCTL_CONTEXT_FILE", &file.display().to_string()))
    }

    /// One more environment variable.
    pub fn env(self, name: &str, value: &str) -> Brctl {
        Brctl { program: self.program.env(name, value) }
    }

    /// Runs a command to its end, whatever that is.
    pub async fn run(&self, words: &[&str]) -> Result<Finished> {
        self.program.clone().args(words).run().await
    }

    /// Standard output of a command that must succeed.
    pub async fn ok(&self, words: &[&str]) -> Result<String> {
        self.run(words).await?.success()
    }

    /// The JSON answer of a command that must succeed.
    pub async fn json(&self, words: &[&str]) -> Result<Value> {
        self.program.clone().args(["--output", "json"]).args(words).run().await?.json()
    }

    /// Standard error of a command that must fail with `code`, name what is wrong and keep its standard output to data.
    pub async fn fails(&self, code: i32, words: &[&str]) -> Result<String> {
        self.run(words).await?.failure(code)
    }

    /// Starts a command in the background.
    pub fn start(&self, words: &[&str]) -> Result<Running> {
        self.program.clone().args(words).start("brctl")
    }
}

/// A field of an answer as text. An error that shows the answer when it is not there.
pub fn text<'a>(value: &'a Value, field: &str) -> Result<&'a str> {
    value.get(field).and_then(Value::as_str).with_context(|| format!("no text `{field}` in {value:#}"))
}

/// A field of an answer as a whole number.
pub fn number(value: &Value, field: &str) -> Result<i64> {
    value.get(field).and_then(Value::as_i64).with_context(|| format!("no number `{field}` in {value:#}"))
}

/// A field of an answer as seconds, which may be a fraction.
pub fn seconds(value: &Value, field: &str) -> Result<f64> {
    value.get(field).and_then(Value::as_f64).with_context(|| format!("no seconds `{field}` in {value:#}"))
}

/// A field of an answer as a moment.
pub fn moment(value: &Value, field: &str) -> Result<Timestamp> {
    let text = text(value, field)?;
    Timestamp::parse(text).with_context(|| format!("`{field}` is not a moment: {text}"))
}

/// The rows of an answer: the answer itself when it is a list, else its list `field`.
pub fn rows<'a>(value: &'a Value, field: &str) -> Result<&'a [Value]> {
    let list = value.as_array().or_else(|| value.get(field)?.as_array());
    list.map(Vec::as_slice).with_context(|| format!("no list `{field}` in {value:#}"))
}

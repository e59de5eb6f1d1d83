//! `source check` and `agent discover`: what an agent finds on its host, and what is missing, ready to paste.

use breakwater_core::ErrorClass;
use breakwater_proto::v1;
use serde_json::Value;

use crate::args::agent::SourceCommand;
use crate::command::{Desk, Ended, Ending};
use crate::output::yaml;

pub(super) async fn run(desk: &Desk, command: SourceCommand) -> Ended {
    let SourceCommand::Check { name } = command;
    let client = desk.client()?;
    let request = v1::CheckSourceRequest { namespace: desk.namespace(), name: name.clone() };
    let documents = client.documents(client.operator().check_source(request)).await?;
    let value = documents.into_iter().next().unwrap_or_default();
    desk.output.item(&value, &name, || report(&name, &value))?;
    let blocking = findings(&value).iter().any(|finding| finding["severity"] == "blocking");
    // A source that cannot be protected is not a good check.
    Ok(if blocking { Ending::of(ErrorClass::Refused) } else { Ending::OK })
}

pub(super) async fn discover(desk: &Desk, agent: String) -> Ended {
    let client = desk.client()?;
    let documents = client.documents(client.operator().discover(v1::DiscoverRequest { agent })).await?;
    if !desk.output.is_for_people() {
        desk.output.document(&Value::Array(documents))?;
        return Ok(Ending::OK);
    }
    let mut text = String::new();
    for document in &documents {
        text.push_str(&discovered(document));
    }
    if text.is_empty() {
        desk.output.note("no database was found");
    }
    desk.output.text(&text)?;
    Ok(Ending::OK)
}

fn findings(value: &Value) -> &[Value] {
    let probe = value.get("probe").filter(|probe| !probe.is_null()).unwrap_or(value);
    probe.get("findings").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn report(name: &str, value: &Value) -> String {
    let mut text = String::new();
    let found = findings(value);
    let verdict = match found.iter().find(|finding| finding["severity"] == "blocking") {
        Some(_) => "cannot be protected yet",
        None => "can be protected",
    };
    text.push_str(&format!("source {name} {verdict}\n"));
    let probe = value.get("probe").unwrap_or(value);
    for field in ["identity", "version", "data_directory", "size_bytes"] {
        match &probe[field] {
            Value::Null => {}
            Value::String(said) => text.push_str(&format!("  {field}: {said}\n")),
            other => text.push_str(&format!("  {field}: {other}\n")),
        }
    }
    for finding in found {
        text.push_str(&finding_text(finding));
    }
    text
}

fn finding_text(finding: &Value) -> String {
    let said = |field: &str| finding[field].as_str().unwrap_or_default();
    let mut text = format!("\n{}: {}\n", said("severity"), said("what"));
    if !said("next_step").is_empty() {
        text.push_str(&format!("  next: {}\n", said("next_step")));
    }
    for line in finding["lines"].as_array().map_or(&[][..], Vec::as_slice) {
        text.push_str(&format!("    {}\n", line.as_str().unwrap_or_default()));
    }
    text
}

/// What one agent found: ready YAML, with findings as comments.
fn discovered(document: &Value) -> String {
    let databases = document
        .get("sources")
        .or_else(|| document.get("found"))
        .or_else(|| document.get("databases"))
        .and_then(Value::as_array)
        .or_else(|| document.as_array());
    let Some(databases) = databases else { return yaml(document) };
    let mut text = String::new();
    for database in databases {
        let ready = database.get("yaml").and_then(Value::as_str).map(str::to_owned).unwrap_or_else(|| yaml(database));
        text.push_str("---\n");
        for finding in findings(database) {
            for line in finding_text(finding).lines().filter(|line| !line.is_empty()) {
                text.push_str(&format!("# {line}\n"));
            }
        }
        text.push_str(ready.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_to_paste_stand_by_themselves() {
        let value = json!({"identity": "7", "findings": [{
            "severity": "blocking", "what": "wal_level is `minimal`", "next_step": "set it and restart",
            "lines": ["wal_level = replica"],
        }]});
        let text = report("app", &value);
        assert!(text.starts_with("source app cannot be protected yet\n"), "{text}");
        assert!(text.contains("\n    wal_level = replica\n"), "{text}");
        assert!(report("app", &json!({"findings": []})).contains("can be protected"));
    }
}

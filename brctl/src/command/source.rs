//! `source check` and `agent discover`: what an agent finds on its host, and what is missing, ready to paste.

use breakwater_core::{ByteCount, ErrorClass};
use breakwater_proto::v1;
use serde_json::Value;

use crate::args::agent::SourceCommand;
use crate::command::{Desk, Ended, Ending};
use crate::failure::Failure;

pub(super) async fn run(desk: &Desk, command: SourceCommand) -> Ended {
    let name = match command {
        SourceCommand::Check { name } => name,
        SourceCommand::Explain { name, path } => return explain(desk, name, path).await,
    };
    let client = desk.client()?;
    let request = v1::CheckSourceRequest { namespace: desk.namespace(), name: name.clone() };
    let documents = client.documents(client.operator().check_source(request)).await?;
    let mut value = documents.into_iter().next().unwrap_or_default();
    // Programs find them in one place, whether the source answered or not.
    value["findings"] = Value::Array(findings(&value).to_vec());
    desk.output.item(&value, &name, || report(&name, &value))?;
    match (value["error"].as_str(), value["ready"].as_bool()) {
        (Some(error), _) => {
            let class = ErrorClass::from_word(value["class"].as_str().unwrap_or_default());
            Err(Failure::new(class, error).doing(format!("source `{name}` cannot be looked at")))
        }
        (None, Some(true)) => Ok(Ending::OK),
        // A source that cannot be protected is not a good check.
        (None, _) => Err(Failure::refused(format!("source `{name}` cannot be protected yet: {}", first(&value)))
            .hint("do what the lines of the check say, then check again")),
    }
}

async fn explain(desk: &Desk, name: String, path: String) -> Ended {
    let client = desk.client()?;
    let request = v1::ExplainPathRequest { namespace: desk.namespace(), name, path };
    let documents = client.documents(client.operator().explain_path(request)).await?;
    let value = documents.into_iter().next().unwrap_or_default();
    let path = value["path"].as_str().unwrap_or_default().to_owned();
    desk.output.item(&value, &path, || explained(&value))?;
    Ok(Ending::OK)
}

fn explained(value: &Value) -> String {
    let said = |field: &str| value[field].as_str().unwrap_or_default();
    let verdict = if value["included"].as_bool() == Some(true) { "is backed up" } else { "is left out" };
    let mut text = format!("{} {verdict}: {}\n", said("path"), said("because"));
    if said("decided_at") != said("path") {
        text.push_str(&format!("  decided at: {}\n", said("decided_at")));
    }
    if value["exists"].as_bool() == Some(false) {
        text.push_str("  nothing is there now\n");
    }
    text
}

/// The worst finding.
fn first(value: &Value) -> &str {
    findings(value).first().and_then(|finding| finding["what"].as_str()).unwrap_or("it is not ready")
}

pub(super) async fn discover(desk: &Desk, agent: String) -> Ended {
    let client = desk.client()?;
    let documents = client.documents(client.operator().discover(v1::DiscoverRequest { agent })).await?;
    if !desk.output.is_for_people() {
        desk.output.document(&Value::Array(documents))?;
        return Ok(Ending::OK);
    }
    let mut text: String = documents.iter().map(discovered).collect();
    if text.is_empty() {
        desk.output.note("no database was found");
    } else {
        text.push_str(&plan(&documents));
    }
    desk.output.text(&text)?;
    Ok(Ending::OK)
}

fn findings(value: &Value) -> &[Value] {
    let probe = value.get("probe").filter(|probe| !probe.is_null()).unwrap_or(value);
    probe.get("findings").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn report(name: &str, value: &Value) -> String {
    let verdict = match value["ready"].as_bool() {
        Some(true) => "can be protected",
        _ => "cannot be protected yet",
    };
    let mut text = format!("source {name} {verdict}\n");
    for field in ["identity", "version", "data_directory"] {
        if let Some(said) = value["probe"][field].as_str().filter(|said| !said.is_empty()) {
            text.push_str(&format!("  {field}: {said}\n"));
        }
    }
    if let Some(bytes) = value["probe"]["size_bytes"].as_u64().filter(|bytes| *bytes > 0) {
        text.push_str(&format!("  size: {}\n", ByteCount(bytes)));
    }
    if let Some(state) = value["stream"]["state"].as_str() {
        let failure = value["stream"]["failure"].as_str().map(|why| format!(" ({why})")).unwrap_or_default();
        text.push_str(&format!("  stream: {state}{failure}\n"));
    }
    for finding in findings(value) {
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

/// What one agent found: ready YAML, with what else is known as comments.
fn discovered(document: &Value) -> String {
    let said = |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
    let mut text = String::new();
    for source in document["sources"].as_array().map_or(&[][..], Vec::as_slice) {
        let ready = match source["ready"].as_bool() {
            Some(true) => "ready",
            Some(false) => "not ready yet",
            None => "not looked into",
        };
        let (engine, location, host) = (said(source, "engine"), said(source, "location"), said(document, "host"));
        text.push_str(&format!("---\n# {engine} at {location} on {host}: {ready}\n"));
        let failure = said(source, "error");
        if !failure.is_empty() {
            text.push_str(&format!("# {failure}\n"));
            for line in source["lines"].as_array().map_or(&[][..], Vec::as_slice) {
                text.push_str(&format!("#   {}\n", line.as_str().unwrap_or_default()));
            }
        }
        for finding in findings(source) {
            for line in finding_text(finding).lines().filter(|line| !line.is_empty()) {
                text.push_str(&format!("# {line}\n"));
            }
        }
        text.push_str(said(source, "suggestion_yaml").trim_end());
        text.push('\n');
    }
    text
}

/// A plan for all that was found, without which nothing is backed up.
fn plan(documents: &[Value]) -> String {
    let sources = documents.iter().filter_map(|document| document["sources"].as_array()).flatten();
    let names: Vec<&str> = sources.filter_map(|source| source["name"].as_str()).collect();
    format!(
        "---\n# takes them to the repository `main`, which `brctl repository create` declared; leave out what need not be protected\n\
         apiVersion: breakwater/v1\nkind: Plan\nmetadata:\n  name: nightly\nspec:\n  repository: main\n  sources: [{}]\n",
        names.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_to_paste_stand_by_themselves() {
        let value = json!({"ready": false, "probe": {"identity": "7", "findings": [{
            "severity": "blocking", "what": "wal_level is `minimal`", "next_step": "set it and restart",
            "lines": ["wal_level = replica"],
        }]}});
        let text = report("app", &value);
        assert!(text.starts_with("source app cannot be protected yet\n"), "{text}");
        assert!(text.contains("\n    wal_level = replica\n"), "{text}");
        assert!(report("app", &json!({"ready": true})).contains("can be protected"));
    }

    #[test]
    fn an_explanation_says_what_decided_and_where() {
        let value = json!({"path": "docs/a/x.log", "included": false, "exists": false, "decided_at": "docs/a",
            "because": "`a/` (exclude, line 2)"});
        let text = explained(&value);
        assert!(text.starts_with("docs/a/x.log is left out: `a/` (exclude, line 2)\n"), "{text}");
        assert!(text.contains("decided at: docs/a\n") && text.contains("nothing is there now"), "{text}");
    }

    #[test]
    fn what_is_discovered_is_yaml_with_comments() {
        let yaml = "apiVersion: breakwater/v1\nkind: Source\nmetadata: {name: pg-5432}\nspec: {agent: a, postgres: {connection: x}}\n";
        let document = json!({"host": "h", "sources": [{
            "engine": "postgres", "location": "/run/postgresql:5432", "ready": false, "suggestion_yaml": yaml,
            "findings": [{"severity": "blocking", "what": "no role", "next_step": "make it", "lines": ["create role x;"]}],
        }]});
        let text = discovered(&document);
        assert!(text.contains("#     create role x;"), "{text}");
        let namespace = breakwater_core::Name::new("default").unwrap();
        assert_eq!(breakwater_controller::objects::document::parse(&text, &namespace).unwrap().len(), 1);
        let named = [json!({"sources": [{"name": "pg-15-main"}, {"name": "sqlite-app"}]})];
        let text = text + &plan(&named);
        assert_eq!(breakwater_controller::objects::document::parse(&text, &namespace).unwrap().len(), 2);
        assert!(text.contains("sources: [pg-15-main, sqlite-app]"), "{text}");
    }
}

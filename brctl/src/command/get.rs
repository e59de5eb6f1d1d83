//! `get`, `describe` and `delete` of declared objects.

use breakwater_controller::objects::document::kind_word;
use breakwater_proto::v1;
use serde_json::{Value, json};

use crate::args::Format;
use crate::args::object::{DeleteArgs, GetArgs, NamedArgs};
use crate::command::{Desk, Ended, Ending, repository};
use crate::confirm::confirm;
use crate::failure::Failure;
use crate::output::table::{Column, Kind, Listing};
use crate::output::yaml;
use crate::view;

const REPOSITORIES: Listing = Listing {
    columns: &[
        Column::new("NAME", "/metadata/name", Kind::Text),
        Column::new("COMMIT", "/spec/commit", Kind::Text),
        Column::new("REGIONS", "/regions", Kind::List),
        Column::new("CHANGED", "/metadata/changed", Kind::Age),
        Column::wide("UID", "/metadata/uid", Kind::Id),
    ],
    name: "/metadata/name",
    empty: "no repository is declared",
};

const SOURCES: Listing = Listing {
    columns: &[
        Column::new("NAME", "/metadata/name", Kind::Text),
        Column::new("ENGINE", "/engine", Kind::Text),
        Column::new("AGENT", "/spec/agent", Kind::Text),
        Column::new("DOMAIN", "/spec/domain", Kind::Text),
        Column::new("CHANGED", "/metadata/changed", Kind::Age),
        Column::wide("UID", "/metadata/uid", Kind::Id),
    ],
    name: "/metadata/name",
    empty: "no source is declared",
};

const PLANS: Listing = Listing {
    columns: &[
        Column::new("NAME", "/metadata/name", Kind::Text),
        Column::new("REPOSITORY", "/spec/repository", Kind::Text),
        Column::new("SOURCES", "/spec/sources", Kind::List),
        Column::wide("COMPRESSION", "/spec/compression", Kind::Text),
        Column::new("CHANGED", "/metadata/changed", Kind::Age),
        Column::wide("UID", "/metadata/uid", Kind::Id),
    ],
    name: "/metadata/name",
    empty: "no plan is declared",
};

pub(super) async fn get(desk: &Desk, args: GetArgs) -> Ended {
    let objects = objects(desk, &args.kind, args.name.as_deref().unwrap_or_default()).await?;
    if desk.output.format() == Format::Yaml {
        let documents: Vec<String> = objects.iter().map(|object| yaml(&declared(object))).collect();
        desk.output.text(&documents.join("---\n"))?;
        return Ok(Ending::OK);
    }
    let listing = match kind_word(&args.kind) {
        Some("repository") => &REPOSITORIES,
        Some("source") => &SOURCES,
        _ => &PLANS,
    };
    if desk.output.is_for_people() {
        desk.output.list(listing, &objects.into_iter().map(with_digest).collect::<Vec<_>>())?;
    } else {
        desk.output.list(listing, &objects)?;
    }
    Ok(Ending::OK)
}

pub(super) async fn describe(desk: &Desk, args: NamedArgs) -> Ended {
    let objects = objects(desk, &args.kind, &args.name).await?;
    let object = objects.into_iter().next().unwrap_or_default();
    let mut described = object;
    if kind_word(&args.kind) == Some("source") {
        let client = desk.client()?;
        let request = v1::StatusRequest { namespace: desk.namespace() };
        let status = view::status(&client.call(client.operator().status(request)).await?);
        let found =
            status["sources"].as_array().and_then(|all| all.iter().find(|one| one["name"] == args.name.as_str()));
        described["status"] = found.cloned().unwrap_or_default();
    }
    if kind_word(&args.kind) == Some("repository") {
        described["status"] = repository::facts(desk, &args.name).await;
    }
    desk.output.document(&described)?;
    Ok(Ending::OK)
}

pub(super) async fn delete(desk: &Desk, args: DeleteArgs) -> Ended {
    let NamedArgs { kind, name } = args.object;
    let word = kind_word(&kind).ok_or_else(|| unknown_kind(&kind))?;
    // Known first, so that nobody confirms the deletion of something that is not there.
    objects(desk, &kind, &name).await?;
    confirm(word, &[&name], args.yes.as_deref())?;
    let client = desk.client()?;
    let request = v1::DeleteRequest { kind: word.to_owned(), name: name.clone(), namespace: desk.namespace() };
    let effects = client.call(client.operator().delete(request)).await?.effects;
    desk.output.item(&json!({"kind": word, "name": name, "action": "deleted", "effects": effects}), &name, || {
        let effects: String = effects.iter().map(|effect| format!("  effect: {effect}\n")).collect();
        format!("deleted {word} {name}\n{effects}")
    })?;
    Ok(Ending::OK)
}

fn unknown_kind(kind: &str) -> Failure {
    Failure::usage(format!("unknown kind `{kind}`")).hint("repository, source or plan")
}

/// The objects of a kind, or the one of that name.
pub(super) async fn objects(desk: &Desk, kind: &str, name: &str) -> Result<Vec<Value>, Failure> {
    let word = kind_word(kind).ok_or_else(|| unknown_kind(kind))?;
    let client = desk.client()?;
    let request = v1::GetRequest { kind: word.to_owned(), name: name.to_owned(), namespace: desk.namespace() };
    let found = client.call(client.operator().get(request)).await?;
    Ok(found.objects.iter().map(view::object).collect())
}

/// The object as a person would write it: nothing that the controller assigned.
fn declared(object: &Value) -> Value {
    let metadata = &object["metadata"];
    json!({
        "apiVersion": object["apiVersion"],
        "kind": object["kind"],
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]},
        "spec": object["spec"],
    })
}

/// Adds what tables show of a spec in one cell.
fn with_digest(mut object: Value) -> Value {
    let engine = ["postgres", "sqlite", "files"].into_iter().find(|engine| !object["spec"][engine].is_null());
    let regions: Vec<Value> = object["spec"]["regions"]
        .as_array()
        .map(|regions| {
            let text = |region: &Value, field: &str| region[field].as_str().unwrap_or_default().to_owned();
            regions.iter().map(|one| Value::from(format!("{} ({})", text(one, "name"), text(one, "role")))).collect()
        })
        .unwrap_or_default();
    object["engine"] = engine.map(Value::from).unwrap_or_default();
    object["regions"] = Value::Array(regions);
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_get_prints_as_yaml_can_be_applied() {
        let object = json!({
            "apiVersion": "breakwater/v1", "kind": "Plan",
            "metadata": {"name": "p", "namespace": "default", "uid": "x", "created": "y", "changed": "z", "revision": 3},
            "spec": {"repository": "main", "sources": ["app"]},
        });
        let text = yaml(&declared(&object));
        let namespace = breakwater_core::Name::new("default").unwrap();
        let read = breakwater_controller::objects::document::parse(&text, &namespace).unwrap();
        assert_eq!(read[0].name.as_str(), "p");
    }
}

//! `apply` and `diff`: documents in, changes out.

use std::io::Read;
use std::path::{Path, PathBuf};

use breakwater_controller::objects::document::{DEFAULT_NAMESPACE, Object, parse};
use breakwater_core::Name;
use breakwater_proto::v1;
use serde_json::{Value, json};

use crate::args::object::{ApplyArgs, DryRun, FileArgs};
use crate::command::{Desk, Ended, Ending};
use crate::failure::Failure;
use crate::output::table::{Column, Kind, Listing};
use crate::output::yaml;

/// Larger inputs are not documents that somebody wrote.
const BYTES_MAX: u64 = 16 << 20;

const APPLIED: Listing = Listing {
    columns: &[
        Column::new("KIND", "/kind", Kind::Text),
        Column::wide("NAMESPACE", "/namespace", Kind::Text),
        Column::new("NAME", "/name", Kind::Text),
        Column::new("ACTION", "/action", Kind::Text),
        Column::new("EFFECTS", "/effects", Kind::List),
    ],
    name: "/name",
    empty: "nothing to apply",
};

pub(super) async fn apply(desk: &Desk, args: ApplyArgs) -> Ended {
    let text = read(&args.files.files)?;
    // Read here first: a slip is told without a controller, and with the file's own line.
    let objects = parsed(desk, &text)?;
    if args.dry_run == Some(DryRun::Client) {
        let items: Vec<Value> = objects.iter().map(checked).collect();
        desk.output.list(&APPLIED, &items)?;
        return Ok(Ending::OK);
    }
    let applied = send(desk, text, args.dry_run == Some(DryRun::Server)).await?;
    let items: Vec<Value> = applied.iter().map(shown).collect();
    desk.output.list(&APPLIED, &items)?;
    if args.dry_run.is_some() {
        desk.output.note("dry run: nothing was changed");
    }
    Ok(Ending::OK)
}

pub(super) async fn diff(desk: &Desk, args: FileArgs) -> Ended {
    let text = read(&args.files)?;
    let objects = parsed(desk, &text)?;
    let applied = send(desk, text, true).await?;
    let client = desk.client()?;
    let mut items = Vec::new();
    let mut report = String::new();
    for (object, applied) in objects.iter().zip(&applied).filter(|(_, applied)| applied.action != "unchanged") {
        let current = if applied.action == "created" {
            Value::Null
        } else {
            let request = v1::GetRequest {
                kind: applied.kind.clone(),
                name: applied.name.clone(),
                namespace: applied.namespace.clone(),
            };
            let found = client.call(client.operator().get(request)).await?;
            let json = found.objects.first().map(|object| object.json.as_str()).unwrap_or("null");
            serde_json::from_str::<Value>(json).map(|value| value["spec"].clone()).unwrap_or_default()
        };
        let wanted = object.spec.to_json();
        report.push_str(&format!("{} {} {}\n", applied.action, applied.kind.to_lowercase(), applied.name));
        report.push_str(&lines_changed(&current, &wanted));
        for effect in &applied.effects {
            report.push_str(&format!("  effect: {effect}\n"));
        }
        let mut item = shown(applied);
        item["before"] = current;
        item["after"] = wanted;
        items.push(item);
    }
    if desk.output.is_for_people() {
        desk.output.text(&report)?;
    } else {
        desk.output.list(&APPLIED, &items)?;
    }
    if items.is_empty() {
        desk.output.note("no changes");
        return Ok(Ending::OK);
    }
    Ok(Ending::CHANGES)
}

async fn send(desk: &Desk, documents: String, dry_run: bool) -> Result<Vec<v1::Applied>, Failure> {
    let client = desk.client()?;
    let request = v1::ApplyRequest { documents, dry_run, namespace: desk.namespace() };
    Ok(client.call(client.operator().apply(request)).await?.applied)
}

fn parsed(desk: &Desk, text: &str) -> Result<Vec<Object>, Failure> {
    let namespace = desk.namespace();
    let namespace = if namespace.is_empty() { DEFAULT_NAMESPACE } else { &namespace };
    let namespace = Name::new(namespace).map_err(|bad| Failure::usage(format!("--namespace: {bad}")))?;
    Ok(parse(text, &namespace)?)
}

fn shown(applied: &v1::Applied) -> Value {
    json!({
        "kind": applied.kind, "namespace": applied.namespace, "name": applied.name,
        "action": applied.action, "effects": applied.effects,
    })
}

fn checked(object: &Object) -> Value {
    json!({
        "kind": object.spec.kind(), "namespace": object.namespace, "name": object.name,
        "action": "checked", "effects": [],
    })
}

/// The documents of all files, one after the other.
fn read(files: &[PathBuf]) -> Result<String, Failure> {
    let mut all = String::new();
    for path in files {
        if !all.is_empty() {
            all.push_str("\n---\n");
        }
        all.push_str(&read_one(path)?);
    }
    Ok(all)
}

fn read_one(path: &Path) -> Result<String, Failure> {
    let failed = |error: std::io::Error| Failure::io(path.display(), &error);
    let mut text = String::new();
    let from: &mut dyn Read = if path == Path::new("-") {
        &mut std::io::stdin().lock()
    } else {
        &mut std::fs::File::open(path).map_err(failed)?
    };
    from.take(BYTES_MAX).read_to_string(&mut text).map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidData => Failure::usage(format!("{}: it is not text", path.display())),
        _ => failed(error),
    })?;
    if text.len() as u64 >= BYTES_MAX {
        return Err(Failure::usage(format!("{}: larger than {BYTES_MAX} bytes", path.display())));
    }
    Ok(text)
}

/// The lines that go and come, with those around them that stay.
fn lines_changed(before: &Value, after: &Value) -> String {
    let text = |value: &Value| if value.is_null() { String::new() } else { yaml(value) };
    let (before, after) = (text(before), text(after));
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    // Longest common subsequence: specs have tens of lines.
    let mut common = vec![vec![0_usize; new.len() + 1]; old.len() + 1];
    for (i, a) in old.iter().enumerate().rev() {
        for (j, b) in new.iter().enumerate().rev() {
            common[i][j] = if a == b { common[i + 1][j + 1] + 1 } else { common[i + 1][j].max(common[i][j + 1]) };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut text = String::new();
    while i < old.len() || j < new.len() {
        let (sign, line) = match (old.get(i), new.get(j)) {
            (Some(a), Some(b)) if a == b => {
                i += 1;
                j += 1;
                (' ', *a)
            }
            (Some(a), b) if b.is_none() || common[i + 1][j] >= common[i][j + 1] => {
                i += 1;
                ('-', *a)
            }
            (_, Some(b)) => {
                j += 1;
                ('+', *b)
            }
            (_, None) => break,
        };
        text.push_str(&format!("{sign} {line}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_lines_are_marked() {
        let before = json!({"a": 1, "b": 2, "d": 4});
        let after = json!({"a": 1, "b": 3, "d": 4, "e": 5});
        assert_eq!(lines_changed(&before, &after), "  a: 1\n- b: 2\n+ b: 3\n  d: 4\n+ e: 5\n");
        assert_eq!(lines_changed(&Value::Null, &json!({"a": 1})), "+ a: 1\n");
        assert_eq!(lines_changed(&before, &before), "  a: 1\n  b: 2\n  d: 4\n");
    }

    #[test]
    fn files_that_are_not_there_or_not_text_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.yaml");
        let missing = read(std::slice::from_ref(&path)).unwrap_err();
        assert!(missing.code() == 6 && missing.message().contains("a.yaml"), "{missing}");
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert_eq!(read(std::slice::from_ref(&path)).unwrap_err().code(), 2);
        std::fs::write(&path, "a: 1").unwrap();
        assert_eq!(read(&[path.clone(), path]).unwrap(), "a: 1\n---\na: 1");
    }
}

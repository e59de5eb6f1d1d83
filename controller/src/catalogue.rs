//! Declared objects in the store: apply, get, delete, with what follows from each in words.

use std::collections::BTreeSet;

use breakwater_core::{ErrorClass, Name, SourceUid, Timestamp, Uid};
use breakwater_planner::assignment::{self, DeclaredPlan, DeclaredSource};
use breakwater_runtime::SystemEntropy;
use breakwater_state::keyspace::{self, Key, ObjectKind};
use breakwater_state::{Condition, Op, Revision};

use crate::book::{Book, encode};
use crate::error::ControlError;
use crate::objects::{EngineSettings, Object, PlanSpec, RepositorySpec, SourceSpec, Spec};
use crate::records::{ObjectRecord, RemovedSource};

/// An object as stored.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its namespace.
    pub namespace: Name,
    /// Its name.
    pub name: Name,
    /// Its uid.
    pub uid: Uid,
    /// The store's revision of its last change.
    pub revision: u64,
    /// When it was first applied.
    pub created: Timestamp,
    /// When it last changed.
    pub changed: Timestamp,
    /// What it declares.
    pub spec: Spec,
}

/// All objects of one namespace, read together.
#[derive(Clone, Debug, Default)]
pub struct Declared {
    /// Repositories by name.
    pub repositories: Vec<(Stored, RepositorySpec)>,
    /// Sources by name.
    pub sources: Vec<(Stored, SourceSpec)>,
    /// Plans by name.
    pub plans: Vec<(Stored, PlanSpec)>,
}

impl Declared {
    /// The source `name`.
    pub fn source(&self, name: &str) -> Option<&(Stored, SourceSpec)> {
        self.sources.iter().find(|(stored, _)| stored.name.as_str() == name)
    }

    /// The source with this uid.
    pub fn source_by_uid(&self, uid: &str) -> Option<&(Stored, SourceSpec)> {
        self.sources.iter().find(|(stored, _)| stored.uid.to_string() == uid)
    }

    /// The repository `name`.
    pub fn repository(&self, name: &str) -> Option<&(Stored, RepositorySpec)> {
        self.repositories.iter().find(|(stored, _)| stored.name.as_str() == name)
    }

    /// The plan that covers the source `name`.
    pub fn plan_of(&self, name: &str) -> Option<&(Stored, PlanSpec)> {
        self.plans.iter().find(|(_, plan)| plan.sources.iter().any(|source| source.as_str() == name))
    }
}

/// What applying one object did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The object's kind.
    pub kind: &'static str,
    /// Its namespace.
    pub namespace: Name,
    /// Its name.
    pub name: Name,
    /// `created`, `changed` or `unchanged`.
    pub action: &'static str,
    /// What follows from it.
    pub effects: Vec<String>,
}

/// Reads all objects of `namespace`.
pub async fn read(book: &Book, namespace: &Name) -> Result<Declared, ControlError> {
    let mut declared = Declared::default();
    for kind in ObjectKind::ALL {
        for stored in list(book, namespace, kind).await? {
            match stored.spec.clone() {
                Spec::Repository(spec) => declared.repositories.push((stored, spec)),
                Spec::Source(spec) => declared.sources.push((stored, spec)),
                Spec::Plan(spec) => declared.plans.push((stored, spec)),
            }
        }
    }
    Ok(declared)
}

/// The namespaces that hold objects.
pub async fn namespaces(book: &Book) -> Result<BTreeSet<Name>, ControlError> {
    let range = breakwater_state::list(book.store().as_ref(), &keyspace::all_namespaces()).await?;
    let mut names = BTreeSet::new();
    for entry in range.entries {
        if let Key::Object { namespace, .. } | Key::Job { namespace, .. } = entry.key.parse()? {
            names.insert(namespace);
        }
    }
    Ok(names)
}

/// The objects of one kind.
pub async fn list(book: &Book, namespace: &Name, kind: ObjectKind) -> Result<Vec<Stored>, ControlError> {
    let records = book.list::<ObjectRecord>(&keyspace::objects(namespace, kind)).await?;
    let mut objects = Vec::with_capacity(records.len());
    for record in records {
        let Key::Object { namespace, name, .. } = record.key else { continue };
        objects.push(Stored {
            namespace,
            name,
            uid: record.value.uid,
            revision: record.revision,
            created: record.value.created,
            changed: record.value.changed,
            spec: Spec::from_json(document_kind(kind), record.value.spec)?,
        });
    }
    Ok(objects)
}

/// Applies `objects` together: all of them are checked against each other and against what is there before the first is
/// written. With `dry_run` nothing is written and the answer says what would be.
pub async fn apply(
    book: &Book,
    objects: Vec<Object>,
    now: Timestamp,
    dry_run: bool,
) -> Result<Vec<Applied>, ControlError> {
    let namespaces: BTreeSet<Name> = objects.iter().map(|object| object.namespace.clone()).collect();
    for namespace in &namespaces {
        let declared = read(book, namespace).await?;
        check_together(&declared, objects.iter().filter(|object| object.namespace == *namespace))?;
    }
    let mut answers = Vec::with_capacity(objects.len());
    for object in objects {
        answers.push(apply_one(book, object, now, dry_run).await?);
    }
    Ok(answers)
}

/// Refuses references to nothing, sources of two plans and changes of what is fixed.
fn check_together<'a>(
    declared: &Declared,
    objects: impl Iterator<Item = &'a Object> + Clone,
) -> Result<(), ControlError> {
    let refused = |message: String| Err(ControlError::answer(ErrorClass::Refused, message));
    let exists = |kind: &str, name: &Name| {
        let here = match kind {
            "Source" => declared.source(name.as_str()).is_some(),
            _ => declared.repository(name.as_str()).is_some(),
        };
        here || objects.clone().any(|object| object.spec.kind() == kind && object.name == *name)
    };
    let mut plans: Vec<DeclaredPlan> = Vec::new();
    let mut add_plan = |name: &Name, spec: &PlanSpec| {
        plans.push(DeclaredPlan {
            name: name.clone(),
            sources: spec.sources.clone(),
            repository: spec.repository.clone(),
        });
    };
    for (stored, spec) in &declared.plans {
        if !objects.clone().any(|object| object.spec.kind() == "Plan" && object.name == stored.name) {
            add_plan(&stored.name, spec);
        }
    }
    for object in objects.clone() {
        match &object.spec {
            Spec::Plan(spec) => {
                if !exists("Repository", &spec.repository) {
                    return refused(format!(
                        "plan `{}`: repository `{}` does not exist (hint: apply it first or in the same file)",
                        object.name, spec.repository
                    ));
                }
                for source in &spec.sources {
                    if !exists("Source", source) {
                        return refused(format!(
                            "plan `{}`: source `{source}` does not exist (hint: apply it first or in the same file)",
                            object.name
                        ));
                    }
                }
                add_plan(&object.name, spec);
            }
            Spec::Source(spec) => {
                if let Some((_, old)) = declared.source(object.name.as_str()) {
                    if old.domain != spec.domain {
                        return refused(format!(
                            "source `{}`: its domain is `{}` and cannot become `{}`",
                            object.name, old.domain, spec.domain
                        ));
                    }
                    if old.engine_word() != spec.engine_word() {
                        return refused(format!(
                            "source `{}` is a {} source and cannot become a {} source (hint: use another name)",
                            object.name,
                            old.engine_word(),
                            spec.engine_word()
                        ));
                    }
                }
            }
            Spec::Repository(_) => {}
        }
    }
    let sources: Vec<DeclaredSource> = declared
        .sources
        .iter()
        .map(|(stored, spec)| DeclaredSource { name: stored.name.clone(), agent: spec.agent.clone() })
        .collect();
    match assignment::derive(&sources, &plans) {
        Ok(_) => Ok(()),
        Err(bad) => refused(bad.to_string()),
    }
}

async fn apply_one(book: &Book, object: Object, now: Timestamp, dry_run: bool) -> Result<Applied, ControlError> {
    let kind = kind_of(&object.spec);
    let key = Key::Object { namespace: object.namespace.clone(), kind, name: object.name.clone() };
    let spec = object.spec.to_json();
    let old = book.read::<ObjectRecord>(&key).await?;
    let action = match &old {
        None => "created",
        Some(old) if old.value.spec == spec => "unchanged",
        Some(_) => "changed",
    };
    let applied = Applied {
        kind: object.spec.kind(),
        namespace: object.namespace.clone(),
        name: object.name.clone(),
        action,
        effects: effects_of(&object.spec, action),
    };
    if dry_run || action == "unchanged" {
        return Ok(applied);
    }
    let (uid, created, condition) = match &old {
        Some(old) => (old.value.uid, old.value.created, Condition::RevisionIs(key.to_string(), Revision(old.revision))),
        None => (Uid::v7(now, &SystemEntropy), now, Condition::Absent(key.to_string())),
    };
    let record = ObjectRecord { uid, created, changed: now, spec };
    let mut ops = vec![Op::Put { key: key.to_string(), value: encode(&record), lease: None }];
    if kind == ObjectKind::Source {
        let owner = serde_json::json!({ "namespace": object.namespace, "name": object.name });
        ops.push(Op::Put { key: Key::SourceUid(SourceUid(uid)).to_string(), value: encode(&owner), lease: None });
    }
    if !book.apply(vec![condition], ops).await? {
        let message =
            format!("{} `{}` was changed by somebody else just now (hint: apply again)", applied.kind, applied.name);
        return Err(ControlError::answer(ErrorClass::Conflict, message));
    }
    Ok(applied)
}

fn effects_of(spec: &Spec, action: &str) -> Vec<String> {
    match spec {
        _ if action == "unchanged" => Vec::new(),
        Spec::Plan(plan) => {
            let names: Vec<&str> = plan.sources.iter().map(Name::as_str).collect();
            let mut effects = vec![
                format!("agents begin to stream {} into repository `{}`", names.join(", "), plan.repository),
                "no schedule in this version: start backups with `brctl backup run`".to_owned(),
            ];
            let word = plan.compression.as_ref();
            effects.extend(word.map(|word| format!("its next backups compress what is new by `{word}`")));
            effects
        }
        Spec::Source(source) => vec![format!("agent `{}` looks after it once a plan covers it", source.agent)],
        Spec::Repository(repository) => {
            vec![format!("an object counts once {} of {} regions hold it", repository.commit, repository.regions.len())]
        }
    }
}

/// Deletes an object. Answers what follows.
pub async fn delete(book: &Book, namespace: &Name, kind: ObjectKind, name: &Name) -> Result<Vec<String>, ControlError> {
    let declared = read(book, namespace).await?;
    let key = Key::Object { namespace: namespace.clone(), kind, name: name.clone() };
    let Some(record) = book.read::<ObjectRecord>(&key).await? else {
        return Err(ControlError::not_found(kind.as_str(), name.as_str()));
    };
    let refused = |message: String| Err(ControlError::answer(ErrorClass::Refused, message));
    let mut ops = vec![Op::Delete { key: key.to_string() }];
    let mut effects = Vec::new();
    match kind {
        ObjectKind::Repository => {
            if let Some((plan, _)) = declared.plans.iter().find(|(_, plan)| plan.repository == *name) {
                return refused(format!(
                    "repository `{name}` is used by plan `{}` (hint: delete the plan first)",
                    plan.name
                ));
            }
            effects.push("what its regions hold stays as it is".to_owned());
        }
        ObjectKind::Source => {
            if let Some((plan, _)) = declared.plan_of(name.as_str()) {
                return refused(format!(
                    "source `{name}` is covered by plan `{}` (hint: take it out of the plan first)",
                    plan.name
                ));
            }
            if let Some((stored, spec)) = declared.source(name.as_str()) {
                let uid = SourceUid(stored.uid);
                let removed = RemovedSource {
                    name: name.clone(),
                    namespace: namespace.clone(),
                    agent: spec.agent.clone(),
                    spec: record.value.spec.clone(),
                };
                ops.push(Op::Put { key: Key::Removed(uid).to_string(), value: encode(&removed), lease: None });
                ops.push(Op::Delete { key: Key::Summary(uid).to_string() });
                effects.push(format!("its snapshots stay in the repository under uid {uid}"));
                if let Some(EngineSettings::Postgres(postgres)) = spec.engine() {
                    let slot = slot_of(name, postgres.slot.as_deref());
                    effects.push(format!(
                        "agent `{}` drops replication slot `{slot}`; until it has, the server keeps WAL for it",
                        spec.agent
                    ));
                }
            }
        }
        ObjectKind::Plan => {
            effects.push("its sources are not protected any more; their slots are kept".to_owned());
        }
    }
    let condition = Condition::RevisionIs(key.to_string(), Revision(record.revision));
    if book.apply(vec![condition], ops).await? {
        return Ok(effects);
    }
    let message = format!("{kind} `{name}` was changed by somebody else just now (hint: look again, then delete)");
    Err(ControlError::answer(ErrorClass::Conflict, message))
}

/// The replication slot of a source.
pub fn slot_of(source: &Name, declared: Option<&str>) -> String {
    match declared {
        Some(slot) => slot.to_owned(),
        None => format!("breakwater_{}", source.as_str().replace(['-', '.'], "_")),
    }
}

fn kind_of(spec: &Spec) -> ObjectKind {
    match spec {
        Spec::Repository(_) => ObjectKind::Repository,
        Spec::Source(_) => ObjectKind::Source,
        Spec::Plan(_) => ObjectKind::Plan,
    }
}

/// The word in documents for a kind of the store.
pub fn document_kind(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::Repository => "Repository",
        ObjectKind::Source => "Source",
        ObjectKind::Plan => "Plan",
    }
}

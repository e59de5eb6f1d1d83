//! `repository key` and `erase`: who may open a repository, how that changes, and how a domain ends. Done here, with a
//! bucket and a recipient's key.

use std::path::Path;

use breakwater_core::{Chain, DomainName, ErrorClass};
use breakwater_crypto::{Holder, Identity, KeyShare, RecipientId, parse_public};
use breakwater_repository::keys::{Erased, KeyStanding, Resealed};
use breakwater_repository::{Cause, KeyChange, KeyChanged, Repository, Selector};
use breakwater_runtime::SystemEntropy;
use serde_json::{Value, json};

use crate::args::key::{AddArgs, EraseArgs, EscrowArgs, GrantArgs, KeyCommand, RemoveArgs};
use crate::command::{Desk, Ended, Ending, holder};
use crate::confirm::confirm;
use crate::failure::Failure;
use crate::offline::{Glass, passphrase};
use crate::output::moment::rfc3339;
use crate::output::table::{Column, Kind, Listing};
use crate::output::yaml;

const KEYS: Listing = Listing {
    columns: &[
        Column::new("KIND", "/kind", Kind::Text),
        Column::new("NAME", "/name", Kind::Text),
        Column::new("ID", "/id", Kind::Text),
        Column::new("HELD", "/held", Kind::Text),
        Column::new("EPOCH", "/epoch", Kind::Text),
        Column::new("WRITERS SINCE", "/restore_epoch", Kind::Text),
    ],
    name: "/name",
    empty: "nobody may open this repository",
};

pub(super) async fn run(desk: &Desk, command: KeyCommand) -> Ended {
    // An identity is made by the one who is to get a grant, and needs no repository.
    if let KeyCommand::Identity { out } = &command {
        let identity = Identity::generate(&SystemEntropy);
        identity.write_new(out)?;
        let public = identity.public_text();
        let value = json!({"public": public, "file": out.display().to_string()});
        desk.output.item(&value, &public, || yaml(&value))?;
        return Ok(Ending::OK);
    }
    let glass = opened(desk).await?;
    let repository = glass.repository();
    match command {
        KeyCommand::List => list(desk, repository).await,
        KeyCommand::Add(args) => add(desk, repository, args).await,
        KeyCommand::Remove(args) => remove(desk, repository, args).await,
        KeyCommand::Rotate(args) => {
            let changed = repository.change_keys(KeyChange::Rotate).await?;
            desk.output.note(
                "note: agents go on with their writer keys; `repository key writer` makes new ones, for the new restore key",
            );
            finish(desk, "rotated", changed, args.reseal).await
        }
        KeyCommand::Finish(args) => {
            let changed = repository.change_keys(KeyChange::Finish).await?;
            finish(desk, "finished", changed, args.reseal).await
        }
        KeyCommand::Escrow(args) => escrow(desk, repository, args).await,
        KeyCommand::Domain { name, writer_key_out } => {
            let domain = domain(&name)?;
            refuse_existing(&writer_key_out)?;
            let changed = repository.change_keys(KeyChange::Domain(domain.clone())).await?;
            changed.repository.in_domain(&domain)?.writer_key().write_new(&writer_key_out)?;
            finish(desk, "made", changed, false).await
        }
        KeyCommand::Writer { domain: name, out } => {
            needs_recipient(&glass)?;
            let key = repository.in_domain(&domain(&name)?)?.writer_key();
            key.write_new(&out)?;
            written(desk, "writer_key", &out)
        }
        KeyCommand::Reaper { out } => {
            repository.reaper_key()?.write_new(&out)?;
            written(desk, "reaper_key", &out)
        }
        KeyCommand::Grant(args) => grant(desk, repository, args).await,
        KeyCommand::Identity { .. } => Err(Failure::internal("an identity was made already")),
    }
}

/// Destroys the keys of a domain, or checks that they were.
pub(super) async fn erase(desk: &Desk, args: EraseArgs) -> Ended {
    let glass = opened(desk).await?;
    let repository = glass.repository();
    let domain = domain(&args.domain)?;
    let erased = if args.verify {
        repository.verify_erasure(&domain).await?
    } else {
        confirm("domain", &[domain.as_str()], args.yes.as_deref())?;
        repository.erase_domain(&domain, args.without_silent).await?
    };
    let Erased { proof, deleted, remaining, behind } = erased;
    let value = json!({
        "domain": proof.domain,
        "erased": rfc3339(proof.at.0),
        "by": proof.by,
        "sources": proof.sources,
        "sessions": proof.sessions,
        "destroyed": proof.destroyed,
        "deleted": deleted,
        "remaining": remaining,
        "unreachable": causes(&behind),
    });
    desk.output.item(&value, domain.as_str(), || yaml(&value))?;
    if remaining.is_empty() && behind.is_empty() {
        return Ok(Ending::OK);
    }
    let left: Vec<String> = remaining.keys().cloned().chain(causes(&behind)).collect();
    let class = if args.verify { ErrorClass::Corrupt } else { ErrorClass::Unavailable };
    Err(Failure::new(class, format!("the keys of domain `{domain}` are not gone everywhere: {}", left.join("; ")))
        .hint("run `brctl erase` again when every region answers"))
}

async fn opened(desk: &Desk) -> Result<Glass, Failure> {
    desk.glass().await?.ok_or_else(|| {
        Failure::usage("keys are changed with the repository itself and a recipient's key, by nobody in between")
            .hint("--offline --repository URL --key FILE")
    })
}

fn needs_recipient(glass: &Glass) -> Result<(), Failure> {
    if glass.repository().reaper_key().is_ok() {
        return Ok(());
    }
    Err(Failure::new(ErrorClass::Denied, "this needs a recipient's key").hint("--key with the recovery key"))
}

fn domain(name: &str) -> Result<DomainName, Failure> {
    DomainName::new(name).map_err(|bad| Failure::usage(format!("the domain's name: {bad}")))
}

fn causes(causes: &[Cause]) -> Vec<String> {
    causes.iter().map(|cause| format!("{}: {}", cause.region, cause.trouble)).collect()
}

fn refuse_existing(path: &Path) -> Result<(), Failure> {
    if path.symlink_metadata().is_ok() {
        return Err(Failure::refused(format!("key file exists: {}", path.display()))
            .hint("name another file, a key is never overwritten"));
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !parent.is_dir() {
        return Err(Failure::refused(format!("the directory for key file {} does not exist", path.display())));
    }
    Ok(())
}

fn written(desk: &Desk, what: &str, path: &Path) -> Ended {
    let shown = path.display().to_string();
    let value = json!({ what: shown });
    desk.output.item(&value, &shown, || yaml(&value))?;
    Ok(Ending::OK)
}

async fn list(desk: &Desk, repository: &Repository) -> Ended {
    let standing: KeyStanding = repository.key_standing().await?;
    let mut rows: Vec<Value> = Vec::new();
    for member in &standing.recipients {
        let recipient = &member.recipient;
        let held = member.holder.word();
        rows.push(json!({"kind": "recipient", "name": recipient.name, "id": recipient.id, "held": held}));
    }
    for domain in &standing.domains {
        let (epoch, restore) = (domain.epoch, domain.restore);
        rows.push(json!({"kind": "domain", "name": domain.name, "epoch": epoch, "restore_epoch": restore}));
    }
    for name in &standing.erased {
        rows.push(json!({"kind": "erased", "name": name}));
    }
    desk.output.list(&KEYS, &rows)?;
    for line in &standing.unfinished {
        desk.output.note(format!("note: {line}"));
    }
    for cause in &standing.silent {
        desk.output.note(format!("note: region {} did not answer: {}", cause.region, cause.trouble));
    }
    if !standing.unfinished.is_empty() {
        desk.output.note("hint: `repository key finish` does what is left when every region answers");
    }
    Ok(Ending::OK)
}

async fn add(desk: &Desk, repository: &Repository, args: AddArgs) -> Ended {
    let key = holder::new_key(repository.id(), repository.fingerprint(), &args.name);
    let holder = match (&args.key_out, &args.kms, &args.passphrase_file) {
        // The key first: a recipient whose key nobody has would be worse than a key that opens nothing.
        (Some(path), _, _) => {
            refuse_existing(path)?;
            key.write_new(path)?;
            Holder::File
        }
        (None, Some(url), _) => holder::by_service(&key, url).await?,
        (None, None, file) => holder::by_passphrase(&key, passphrase(file.as_deref(), "new passphrase: ")?).await?,
    };
    let added = repository.change_keys(KeyChange::Add(key.recipient(), holder)).await;
    let changed = added.inspect_err(|_| {
        if let Some(path) = &args.key_out {
            desk.output.note(format!("note: {} was written, and opens nothing yet", path.display()));
        }
    })?;
    finish(desk, "added", changed, false).await
}

async fn remove(desk: &Desk, repository: &Repository, args: RemoveArgs) -> Ended {
    let standing = repository.key_standing().await?;
    let found = standing
        .recipients
        .iter()
        .map(|member| &member.recipient)
        .find(|recipient| recipient.name == args.recipient || recipient.id.to_string() == args.recipient);
    let Some(recipient) = found else {
        let names: Vec<&str> = standing.recipients.iter().map(|member| member.recipient.name.as_str()).collect();
        return Err(Failure::new(ErrorClass::NotFound, format!("there is no recipient `{}`", args.recipient))
            .hint(format!("one of: {}", names.join(", "))));
    };
    let id: RecipientId = recipient.id;
    confirm("recipient", &[&recipient.name, &id.to_string()], args.yes.as_deref())?;
    let changed = repository.change_keys(KeyChange::Remove(id)).await?;
    if !args.reseal {
        desk.output.note(
            "note: whoever kept the removed key and the domain's old record opens sessions that are there already; hint: \
             `repository key finish --reseal` ends that",
        );
    }
    finish(desk, "removed", changed, args.reseal).await
}

async fn escrow(desk: &Desk, repository: &Repository, args: EscrowArgs) -> Ended {
    let key = holder::new_key(repository.id(), repository.fingerprint(), &args.name);
    let shares = KeyShare::split(&key, args.threshold, args.shares)?;
    std::fs::create_dir_all(&args.out).map_err(|error| Failure::io(args.out.display(), &error))?;
    for share in &shares {
        share.write_new(&args.out.join(format!("share-{}.json", share.number)))?;
    }
    let changed = repository.change_keys(KeyChange::Add(key.recipient(), Holder::File)).await?;
    desk.output.note(format!(
        "note: {} of the {} shares in {} open the repository; give each to another person, and remove them here",
        args.threshold,
        args.shares,
        args.out.display()
    ));
    finish(desk, "added", changed, false).await
}

async fn grant(desk: &Desk, repository: &Repository, args: GrantArgs) -> Ended {
    let public = parse_public(&args.to).ok_or_else(|| {
        Failure::usage("--to is not the public key of an identity, or a digit of it is wrong")
            .hint("`repository key identity` prints it")
    })?;
    let order = repository.read_order();
    let snapshot = repository.find_snapshot(&order, None, &Selector::Id(args.snapshot)).await?;
    let grant = repository.grant(&order, &snapshot, &public).await?;
    grant.write_new(&args.out)?;
    let shown = args.out.display().to_string();
    let value = json!({"grant": shown, "snapshot": grant.snapshot, "source": grant.source, "identity": grant.identity});
    desk.output.item(&value, &shown, || yaml(&value))?;
    Ok(Ending::OK)
}

/// Seals sessions again where that was asked for, and says what was done and what is left.
async fn finish(desk: &Desk, done: &str, changed: KeyChanged, reseal: bool) -> Ended {
    let mut behind = causes(&changed.behind);
    let resealed: Option<Resealed> = match reseal {
        true => Some(changed.repository.reseal(&|_| {}).await?),
        false => None,
    };
    behind.extend(resealed.iter().flat_map(|resealed| causes(&resealed.behind)));
    let standing = changed.repository.key_standing().await;
    let recipients = match &standing {
        Ok(standing) => standing.recipients.iter().map(|member| member.recipient.name.clone()).collect(),
        Err(error) => {
            behind.push(Chain(error).to_string());
            Vec::new()
        }
    };
    let value = json!({
        "done": done,
        "recipients": recipients,
        "objects_written": changed.written,
        "objects_deleted": changed.deleted,
        "resealed": resealed.map(|resealed| json!({
            "sessions": resealed.sessions,
            "sealed": resealed.sealed,
            "objects_written": resealed.written,
            "objects_deleted": resealed.deleted,
            "objects_locked": resealed.locked,
        })),
        "unfinished": behind,
    });
    desk.output.item(&value, done, || yaml(&value))?;
    if behind.is_empty() {
        return Ok(Ending::OK);
    }
    Err(Failure::new(ErrorClass::Unavailable, format!("not every region has the change: {}", behind.join("; "))).hint(
        "`repository key finish` does what is left when every region answers, with --reseal if that was asked for",
    ))
}

//! `repository`: making one, showing it, and the work on it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use breakwater_core::{Clock, DomainName, Entropy, Name};
use breakwater_crypto::Suite;
use breakwater_proto::v1;
use breakwater_proto::v1::repository_work::Work;
use breakwater_repository::regions::Role;
use breakwater_repository::{CreateOptions, Created, Place, Repository};
use breakwater_runtime::{SystemClock, SystemEntropy};
use serde_json::{Value, json};

use crate::args::Format;
use crate::args::repository::{CheckArgs, CreateArgs, GcArgs, RepairArgs, RepositoryCommand, TierArgs, WorkArgs};
use crate::command::holder::Further;
use crate::command::policies::Policies;
use crate::command::{Desk, Ended, Ending, get, work};
use crate::failure::Failure;
use crate::output::yaml;
use crate::{offline, settings, view};

pub(super) async fn run(desk: &Desk, command: RepositoryCommand) -> Ended {
    match command {
        RepositoryCommand::Create(args) => create(desk, args).await,
        RepositoryCommand::Show { name } => show(desk, name).await,
        RepositoryCommand::Check(args) => check(desk, args).await,
        RepositoryCommand::Gc(args) => gc(desk, args).await,
        RepositoryCommand::Repair(args) => repair(desk, args).await,
        RepositoryCommand::Renew(args) => perform(desk, args.name, Work::Renew(v1::RenewSpec {}), args.work).await,
        RepositoryCommand::Tier(args) => tier(desk, args).await,
        RepositoryCommand::Key(command) => super::key::run(desk, command).await,
    }
}

async fn show(desk: &Desk, name: Option<String>) -> Ended {
    if let Some(glass) = desk.glass().await? {
        let value = offline::show(&glass).await?;
        let id = value["repository"].as_str().unwrap_or_default();
        desk.output.item(&value, id, || yaml(&value))?;
        return Ok(Ending::OK);
    }
    let name = named(desk, name)?;
    let objects = get::objects(desk, "repository", &name).await?;
    let mut value = objects.into_iter().next().unwrap_or_default();
    value["status"] = facts(desk, &name).await;
    desk.output.item(&value, &name, || yaml(&value))?;
    Ok(Ending::OK)
}

/// What an agent that works with the repository says of it; null, and a note, when none can be asked.
pub(super) async fn facts(desk: &Desk, name: &str) -> Value {
    let asking = async {
        let client = desk.client()?;
        let request = v1::RepositoryFactsRequest { namespace: desk.namespace(), repository: name.to_owned() };
        client.documents(client.operator().repository_facts(request)).await
    };
    match asking.await {
        Ok(documents) => {
            let mut facts = documents.into_iter().next().unwrap_or_default();
            view::readable(&mut facts);
            facts
        }
        Err(failure) => {
            desk.output.note(format!("note: suite and sizes are not known: {}", failure.message()));
            Value::Null
        }
    }
}

async fn check(desk: &Desk, args: CheckArgs) -> Ended {
    let subset = args.read_data_subset.unwrap_or_default();
    let read_data = args.read_data || !subset.is_empty();
    let work = Work::Check(v1::CheckSpec { read_data, subset, regions: args.regions });
    perform(desk, args.name, work, args.work).await
}

async fn gc(desk: &Desk, args: GcArgs) -> Ended {
    let GcArgs { name, dry_run, repack_below, all_regions, fence_unknown, work } = args;
    if let (Some(settings), false, false) = (&desk.settings.offline, dry_run, all_regions) {
        // What an unfinished backup needs may be known in one region only.
        let named: Vec<&str> = settings.regions.iter().map(|(name, _)| name.as_str()).collect();
        let message = format!("only these regions are named: {}; nothing was changed", named.join(", "));
        return Err(Failure::refused(message)
            .hint("name every region with --repository, then add --all-regions to say that there is no other"));
    }
    let spec = v1::GcSpec { dry_run, repack_below, fence_unknown, over: Vec::new() };
    perform(desk, name, Work::Gc(spec), work).await
}

async fn repair(desk: &Desk, args: RepairArgs) -> Ended {
    let RepairArgs { name, dry_run, read_data, regions, work } = args;
    perform(desk, name, Work::Repair(v1::RepairSpec { dry_run, read_data, regions }), work).await
}

async fn tier(desk: &Desk, args: TierArgs) -> Ended {
    let TierArgs { name, regions, to, older_than, unneeded_since, dry_run, work } = args;
    let spec = v1::TierSpec {
        regions,
        to: to.unwrap_or_default(),
        older_than_days: older_than.unwrap_or_default(),
        unneeded_since: unneeded_since.map_or(0, |moment| moment.as_micros()),
        dry_run,
    };
    perform(desk, name, Work::Tier(spec), work).await
}

/// Does `work` on the repository that was named, by an agent or here.
pub(super) async fn perform(desk: &Desk, name: Option<String>, work: Work, args: WorkArgs) -> Ended {
    match desk.glass().await? {
        Some(glass) => work::here(desk, &glass, work, &args).await,
        None => work::by_agent(desk, named(desk, name)?, work, args).await,
    }
}

/// The name that was given, as an argument or as `--repository`.
fn named(desk: &Desk, name: Option<String>) -> Result<String, Failure> {
    name.or_else(|| desk.settings.repository.clone())
        .ok_or_else(|| Failure::usage("which repository?").hint("brctl get repository lists them"))
}

async fn create(desk: &Desk, args: CreateArgs) -> Ended {
    let name = Name::new(&args.name).map_err(|bad| Failure::usage(format!("--name: {bad}")))?;
    let keys = [&args.writer_key_out, &args.key_out, &args.recovery_key_out];
    let suite: Suite = args.suite.parse().map_err(|bad| Failure::usage(format!("--suite: {bad}")))?;
    let domain = DomainName::new(&args.domain).map_err(|bad| Failure::usage(format!("--domain: {bad}")))?;
    let (extent_size, pack_size, verified_chunks) = (args.extent_size, args.pack_size, args.verified_chunks);
    let options = CreateOptions { suite, domain, extent_size, pack_size, verified_chunks };
    // Before anything is made, so that a service that does not work leaves nothing half done.
    check_key_files(&keys)?;
    let further = Further::tried(args.kms, args.passphrase_file.as_deref()).await?;
    let policies = Policies::parse(&args.locks, &args.tiers)?;
    let Made { repository, regions } = make(&args.regions, &policies, args.commit, options, &keys).await?;
    let made = repository.id();
    let (repository, further) = further.add(repository).await.map_err(|failure| {
        failure
            .doing(format!(
                "repository {made} was made and its key files open it, but not every other recipient was added"
            ))
            .hint("`repository key list` shows who was, `repository key add` adds the others")
    })?;
    let created = Made { repository, regions };
    let id = created.repository.id().to_string();
    let object = policies.declared(declaration(name.as_str(), &created.regions, args.commit));
    let shown = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string();
    let value = json!({
        "repository": id,
        "fingerprint": created.repository.fingerprint().to_string(),
        "suite": created.repository.suite().to_string(),
        "extent_size": created.repository.descriptor().extent_size,
        "pack_size": created.repository.descriptor().pack_size,
        "writer_key": shown(&args.writer_key_out),
        "key": shown(&args.key_out),
        "recovery_key": shown(&args.recovery_key_out),
        "further_recipients": further,
        "object": object,
    });
    if desk.output.format() == Format::Yaml {
        // What can be applied, as with `get`.
        desk.output.text(&yaml(&object))?;
    } else {
        desk.output.item(&value, &id, || yaml(&object))?;
    }
    desk.output.note(format!("repository {id} is made; the recovery key has opened it once"));
    desk.output.note(format!(
        "keep {} apart from this machine and from the repository: without it or {} no backup can be opened",
        shown(&args.recovery_key_out),
        shown(&args.key_out)
    ));
    desk.output.note(format!(
        "put {} into the `keys` directory of each agent, as a .json file of mode 0600; to restore there, {} as well",
        shown(&args.writer_key_out),
        shown(&args.key_out)
    ));
    Ok(Ending::OK)
}

/// A repository that was just made.
pub(crate) struct Made {
    /// Opened with its primary key.
    pub(crate) repository: Repository,
    /// Its regions: name and place.
    pub(crate) regions: Vec<(String, String)>,
}

/// Makes a repository in `regions` (`NAME=URL` each) and writes its writer, daily and recovery key to new files. When a
/// key cannot be written, what was made is of no use to anybody, and the error says so.
pub(crate) async fn make(
    regions: &[String],
    policies: &Policies,
    commit: u32,
    options: CreateOptions,
    keys: &[&PathBuf; 3],
) -> Result<Made, Failure> {
    let mut named = Vec::new();
    for text in regions {
        let (Some(name), url) = settings::region(text)? else {
            return Err(Failure::usage(format!("--region {text}: the region has no name (hint: --region NAME=URL)")));
        };
        named.push((name, url));
    }
    if commit == 0 || usize::try_from(commit).is_ok_and(|commit| commit > named.len()) {
        return Err(Failure::usage(format!("--commit {commit} is not between 1 and the {} regions", named.len())));
    }
    policies.refuse_strangers(named.iter().map(|(name, _)| name.as_str()))?;
    check_key_files(keys)?;
    let (clock, entropy): (Arc<dyn Clock>, Arc<dyn Entropy>) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
    let kinds = breakwater_agent::wiring::places();
    let mut places = Vec::new();
    for (name, url) in &named {
        let storage = kinds.open_fresh(url).await.map_err(|error| {
            let hint = "the directory above it must be there: mount it, or make it first";
            Failure::from(error).doing(format!("region {name}")).hint(hint)
        })?;
        places.push(Place::new(name, Role::Sync, storage).kept(policies.of(name), Arc::clone(&clock)));
    }
    let Created { repository, writer_key, key, recovery_key } =
        Repository::create(places, options, clock, entropy).await?;
    let [writer_path, key_path, recovery_path] = keys;
    // The recovery key first: whoever has it can open everything.
    let written = recovery_key
        .write_new(recovery_path)
        .and_then(|()| key.write_new(key_path))
        .and_then(|()| writer_key.write_new(writer_path));
    written.map_err(|error| {
        Failure::from(error)
            .doing(format!("repository {} was made, but not all of its keys could be written", repository.id()))
            .hint("nothing is in it yet: remove the regions' directories and the key files, then create it again")
    })?;
    Ok(Made { repository, regions: named })
}

/// Refuses key files that exist, lie in a directory that does not, or are one and the same.
fn check_key_files(keys: &[&PathBuf; 3]) -> Result<(), Failure> {
    for (index, path) in keys.iter().enumerate() {
        if keys.iter().skip(index + 1).any(|other| other == path) {
            return Err(Failure::usage(format!("two keys cannot be written to one file: {}", path.display())));
        }
        if path.symlink_metadata().is_ok() {
            return Err(Failure::refused(format!("key file exists: {}", path.display()))
                .hint("name another file, a key is never overwritten"));
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !parent.is_dir() {
            return Err(Failure::refused(format!("the directory for key file {} does not exist", path.display())));
        }
    }
    Ok(())
}

/// The Repository object, ready to apply.
pub(crate) fn declaration(name: &str, regions: &[(String, String)], commit: u32) -> Value {
    let regions: Vec<Value> =
        regions.iter().map(|(name, url)| json!({"name": name, "url": url, "role": "sync"})).collect();
    json!({
        "apiVersion": "breakwater/v1",
        "kind": "Repository",
        "metadata": {"name": name},
        "spec": {"regions": regions, "commit": commit},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keys_are_written_and_the_declaration_can_be_applied() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let keys = [&path("writer.json"), &path("key.json"), &path("recovery.json")];
        let regions = [format!("one={}", path("r1").display()), format!("two={}", path("r2").display())];
        let made = make(&regions, &Policies::default(), 1, CreateOptions::default(), &keys).await.unwrap();
        for key in keys {
            assert!(key.is_file(), "{}", key.display());
        }
        let text = yaml(&declaration("main", &made.regions, 1));
        let namespace = Name::new("default").unwrap();
        let read = breakwater_controller::objects::document::parse(&text, &namespace).unwrap();
        assert_eq!(read[0].name.as_str(), "main");

        let again =
            make(&regions, &Policies::default(), 1, CreateOptions::default(), &keys).await.map(|_| ()).unwrap_err();
        assert!(again.code() == 4 && again.message().contains("writer.json"), "{again}");
        let others = [&path("w2"), &path("k2"), &path("r2key")];
        let occupied =
            make(&regions, &Policies::default(), 1, CreateOptions::default(), &others).await.map(|_| ()).unwrap_err();
        assert!(occupied.code() == 4, "{occupied}");
        assert!(!path("w2").exists(), "no key of a repository that was not made");
    }

    #[tokio::test]
    async fn slips_are_named_before_anything_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let region = format!("one={}", path("r1").display());
        let (w, k, r) = (path("w"), path("k"), path("r"));
        let check = async |regions: &[String], commit: u32, keys: [&PathBuf; 3], code: u8| {
            let error = make(regions, &Policies::default(), commit, CreateOptions::default(), &keys)
                .await
                .map(|_| ())
                .unwrap_err();
            assert_eq!(error.code(), code, "{error}");
            assert!(!path("r1").exists());
        };
        check(&[path("r1").display().to_string()], 1, [&w, &k, &r], 2).await;
        check(std::slice::from_ref(&region), 2, [&w, &k, &r], 2).await;
        check(std::slice::from_ref(&region), 1, [&w, &k, &w], 2).await;
        check(std::slice::from_ref(&region), 1, [&w, &k, &path("absent/r")], 4).await;
    }
}

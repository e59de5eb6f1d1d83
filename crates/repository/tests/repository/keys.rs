//! Who may open a repository, and how that changes: on real objects, since what a removed key can still open is decided by
//! what lies in the regions.

use std::collections::BTreeMap;
use std::sync::Arc;

use breakwater_core::{DomainName, ErrorClass, SourceUid};
use breakwater_crypto::{
    Cost, Fingerprint, Holder, Identity, Recipient, RecipientId, RecipientKey, RecipientSecret, parse_public,
};
use breakwater_repository::format::descriptor::Descriptor;
use breakwater_repository::{
    Access, CheckOptions, Holders, KeyChange, KeyChanged, OpenedGrant, Place, Repository, RepositoryError, Verdict,
};
use breakwater_storage::{Backend, Operation, Record, Storage};

use crate::lab::{
    Files, Lab, Spot, backup, clock, entropy, intent, places, restore, restore_of, some_files, write, write_of,
};

const OTHER: SourceUid = SourceUid::from_bytes(*b"the-other-source");

fn key(lab: &Lab, name: &str, seed: u8) -> RecipientKey {
    let secret = RecipientSecret::from_secret(breakwater_crypto::Secret::from_bytes([seed; 32]));
    let (repository, fingerprint) = (lab.repository.id(), lab.repository.fingerprint());
    RecipientKey { repository, fingerprint, name: name.to_owned(), secret }
}

async fn add(repository: &Repository, key: &RecipientKey) -> KeyChanged {
    repository.change_keys(KeyChange::Add(key.recipient(), Holder::File)).await.unwrap()
}

fn changed(files: &Files, with: u8) -> Files {
    files.iter().map(|(path, bytes)| (path.clone(), bytes.iter().map(|byte| byte ^ with).collect())).collect()
}

fn ignore(_: &breakwater_repository::keys::Resealed) {}

#[tokio::test]
async fn an_added_key_opens_everything_and_costs_one_object_a_domain_and_region() {
    let lab = Lab::new(2).await;
    let manifest = backup(&lab, 1, &some_files()).await;
    let third = key(&lab, "third", 3);
    let before = lab.spots[0].names().await.len();
    let added = add(&lab.repository, &third).await;
    assert_eq!((added.written, added.deleted), (4, 4), "a list and a record in each of two regions");
    assert!(added.behind.is_empty());
    assert_eq!(lab.spots[0].names().await.len(), before);
    for access in [third.clone(), lab.created.key.clone(), lab.created.recovery_key.clone()] {
        let opened = lab.reopen(Access::Recipient(access)).await.unwrap();
        let files = restore(&opened, &opened.read_order(), manifest.snapshot, manifest.session).await.unwrap();
        assert_eq!(files, some_files());
    }
    // Writers keep their keys: the restore key is the same one.
    assert_eq!(added.repository.writer_key(), lab.created.writer_key);
    let twice = added.repository.change_keys(KeyChange::Add(third.recipient(), Holder::File)).await.unwrap_err();
    assert_eq!(twice.class(), ErrorClass::Refused);
    let report = added.repository.check(&CheckOptions { read_data: true, ..CheckOptions::default() }).await.unwrap();
    assert_eq!(report.verdict(), Verdict::Sound, "{report:#?}");
}

#[tokio::test]
async fn a_removed_key_opens_nothing() {
    let lab = Lab::new(2).await;
    let manifest = backup(&lab, 1, &some_files()).await;
    let third = key(&lab, "third", 3);
    add(&lab.repository, &third).await;
    let with_third = lab.reopen(Access::Recipient(third.clone())).await.unwrap();
    let removed = with_third.change_keys(KeyChange::Remove(lab.created.key.id())).await.unwrap();
    assert!(removed.behind.is_empty(), "{:?}", removed.behind);
    let resealed = removed.repository.reseal(&ignore).await.unwrap();
    assert_eq!((resealed.sessions, resealed.sealed, resealed.written, resealed.deleted), (1, 1, 2, 2));
    assert!(resealed.behind.is_empty(), "{:?}", resealed.behind);

    // By its own words, and by every object that there is.
    let refused = lab.reopen(Access::Recipient(lab.created.key.clone())).await.unwrap_err();
    assert_eq!(refused.class(), ErrorClass::Denied, "{refused}");
    let id = lab.created.key.id().to_string();
    for spot in &lab.spots {
        for name in spot.names().await.iter().filter(|name| name.starts_with("repo/")) {
            let bytes = spot.inside().get(name).await.unwrap();
            assert!(!String::from_utf8_lossy(&bytes).contains(&id), "{name} still names the removed key");
        }
        assert!(!spot.names().await.iter().any(|name| name.ends_with(&format!("keys/{}", manifest.session))));
    }
    for access in [third, lab.created.recovery_key.clone()] {
        let opened = lab.reopen(Access::Recipient(access)).await.unwrap();
        let files = restore(&opened, &opened.read_order(), manifest.snapshot, manifest.session).await.unwrap();
        assert_eq!(files, some_files());
    }
    let again = removed.repository.reseal(&ignore).await.unwrap();
    assert_eq!((again.sealed, again.written, again.deleted), (0, 0, 0), "what is done is not done again");
    let report = removed.repository.check(&CheckOptions { read_data: true, ..CheckOptions::default() }).await.unwrap();
    assert_eq!(report.verdict(), Verdict::Sound, "{report:#?}");
}

#[tokio::test]
async fn what_the_old_restore_key_opened_is_gone_for_the_one_who_kept_it() {
    let lab = Lab::new(1).await;
    let manifest = backup(&lab, 1, &some_files()).await;
    // The thief has the key, and the domain record of that day.
    let record = lab.spots[0].inside().get("repo/domain/default/1").await.unwrap();
    let list = lab.spots[0].inside().get("repo/recipients/1").await.unwrap();
    let third = key(&lab, "third", 3);
    add(&lab.repository, &third).await;
    let with_third = lab.reopen(Access::Recipient(third.clone())).await.unwrap();
    let removed = with_third.change_keys(KeyChange::Remove(lab.created.key.id())).await.unwrap().repository;
    removed.reseal(&ignore).await.unwrap();
    // The thief lays what he kept beside the present packs in a place of his own.
    let own = Spot::new();
    for name in lab.spots[0]
        .names()
        .await
        .iter()
        .filter(|name| !name.starts_with("repo/recipients/") && !name.starts_with("repo/domain/"))
    {
        let bytes = lab.spots[0].inside().get(name).await.unwrap();
        own.inside().create(name, bytes.into()).await.unwrap();
    }
    own.inside().create("repo/domain/default/1", record.into()).await.unwrap();
    own.inside().create("repo/recipients/1", list.into()).await.unwrap();
    let access = Access::Recipient(lab.created.key.clone());
    let opened = Repository::open(places(std::slice::from_ref(&own)), access, clock(), entropy()).await.unwrap();
    let error = restore(&opened, &opened.read_order(), manifest.snapshot, manifest.session).await.unwrap_err();
    assert!(matches!(error, RepositoryError::NotFound { .. } | RepositoryError::NoRestoreKey { .. }), "{error}");
}

#[tokio::test]
async fn a_rotation_writes_no_pack_and_old_writers_still_write() {
    let memory = Spot::new();
    let recorder = Arc::new(Record::new(Arc::clone(&memory.memory) as Arc<dyn Backend>));
    let lab = Lab::new(1).await;
    let manifest = backup(&lab, 1, &some_files()).await;
    for name in lab.spots[0].names().await {
        let bytes = lab.spots[0].inside().get(&name).await.unwrap();
        memory.inside().create(&name, bytes.into()).await.unwrap();
    }
    let place = || {
        vec![Place::new(
            "r0",
            breakwater_repository::regions::Role::Sync,
            Storage::new(Arc::clone(&recorder) as Arc<dyn Backend>),
        )]
    };
    let open =
        async |access| Repository::open(place(), access, clock(), lab.repository.entropy().clone()).await.unwrap();
    let repository = open(Access::Recipient(lab.created.recovery_key.clone())).await;
    recorder.clear();
    let rotated = repository.change_keys(KeyChange::Rotate).await.unwrap();
    let resealed = rotated.repository.reseal(&ignore).await.unwrap();
    assert_eq!((resealed.sessions, resealed.sealed, resealed.deleted), (1, 1, 1));
    let created = recorder.created();
    assert_eq!(created.len(), 3, "{created:?}");
    assert!(!created.iter().any(|name| name.contains("/pack/")), "{created:?}");
    let creates = recorder.operations().into_iter().filter(|recorded| recorded.operation == Operation::Create);
    assert!(creates.map(|recorded| recorded.bytes).sum::<u64>() < 16 << 10);

    assert_ne!(rotated.repository.writer_key().restore, lab.created.writer_key.restore);
    assert_eq!(rotated.repository.writer_key().epoch, 2);
    let after = open(Access::Recipient(lab.created.key.clone())).await;
    let files = restore(&after, &after.read_order(), manifest.snapshot, manifest.session).await.unwrap();
    assert_eq!(files, some_files());
    // An agent that has not got its new key file yet: its sessions open with the older restore key.
    let old_writer = open(Access::Writer(lab.created.writer_key.clone())).await;
    let direct = crate::lab::DirectWriter::new(&old_writer, 1);
    let written = write(&old_writer, &direct, intent(2, 1), &changed(&some_files(), 1), &BTreeMap::new()).await;
    written.session.commit(&direct, &written.manifest).await.unwrap();
    let files =
        restore(&after, &after.read_order(), written.manifest.snapshot, written.manifest.session).await.unwrap();
    assert_eq!(files, changed(&some_files(), 1));
    let resealed = after.reseal(&ignore).await.unwrap();
    assert_eq!((resealed.sessions, resealed.sealed), (2, 1), "only what is sealed to the old key");
}

#[tokio::test]
async fn two_recipients_are_the_fewest() {
    let lab = Lab::new(1).await;
    for id in [lab.created.key.id(), lab.created.recovery_key.id()] {
        let refused = lab.repository.change_keys(KeyChange::Remove(id)).await.unwrap_err();
        assert_eq!(refused.class(), ErrorClass::Refused);
        assert!(refused.to_string().contains("hint:"), "{refused}");
    }
    let absent = lab.repository.change_keys(KeyChange::Remove(RecipientId::of(&[9; 32]))).await.unwrap_err();
    assert_eq!(absent.class(), ErrorClass::NotFound);
    let writer = lab.reopen(Access::Writer(lab.created.writer_key.clone())).await.unwrap();
    assert!(matches!(writer.change_keys(KeyChange::Rotate).await, Err(RepositoryError::NeedsRecipient { .. })));
}

#[tokio::test]
async fn a_region_that_was_away_is_finished_later() {
    let lab = Lab::new(2).await;
    let manifest = backup(&lab, 1, &some_files()).await;
    let third = key(&lab, "third", 3);
    add(&lab.repository, &third).await;
    let with_third = lab.reopen(Access::Recipient(third.clone())).await.unwrap();
    lab.spots[1].fault.set_reachable(false);
    let removed = with_third.change_keys(KeyChange::Remove(lab.created.key.id())).await.unwrap();
    assert_eq!(removed.behind.len(), 1, "{:?}", removed.behind);
    let resealed = removed.repository.reseal(&ignore).await.unwrap();
    assert!(!resealed.behind.is_empty());
    lab.spots[1].fault.set_reachable(true);

    let later = lab.reopen(Access::Recipient(third.clone())).await.unwrap();
    let standing = later.key_standing().await.unwrap();
    assert!(standing.unfinished.iter().any(|line| line.contains("r1")), "{standing:?}");
    assert_eq!(standing.recipients.len(), 2);
    let finished = later.change_keys(KeyChange::Finish).await.unwrap();
    assert!(finished.behind.is_empty() && finished.written == 2 && finished.deleted == 2, "{finished:?}");
    let resealed = finished.repository.reseal(&ignore).await.unwrap();
    assert!(resealed.behind.is_empty() && resealed.sealed == 0 && resealed.written == 1, "{resealed:?}");
    assert!(finished.repository.key_standing().await.unwrap().unfinished.is_empty());
    lab.spots[0].fault.set_reachable(false);
    let alone = lab.reopen(Access::Recipient(third)).await.unwrap();
    assert!(lab.reopen(Access::Recipient(lab.created.key.clone())).await.is_err());
    let files = restore(&alone, &alone.read_order(), manifest.snapshot, manifest.session).await.unwrap();
    assert_eq!(files, some_files());
}

#[tokio::test]
async fn a_repair_does_not_bring_a_replaced_record_back() {
    let lab = Lab::new(2).await;
    let manifest = backup(&lab, 1, &some_files()).await;
    let old = format!("keys/{}", manifest.session);
    let shows = async |at: usize, end: &str| lab.spots[at].names().await.iter().any(|name| name.ends_with(end));
    lab.spots[1].fault.set_reachable(false);
    let rotated = lab.repository.change_keys(KeyChange::Rotate).await.unwrap();
    rotated.repository.reseal(&ignore).await.unwrap();
    lab.spots[1].fault.set_reachable(true);
    assert!(!shows(0, &old).await && shows(1, &old).await, "the scene: each has a record that the other one lacks");

    let opened = lab.reopen(Access::Recipient(lab.created.key.clone())).await.unwrap();
    let finished = opened.change_keys(KeyChange::Finish).await.unwrap().repository;
    finished.repair(&breakwater_repository::RepairOptions::default()).await.unwrap();
    assert!(!shows(0, &old).await, "a repair brought the old record back");
    assert!(shows(1, &format!("{old}.2")).await, "and the new one is mended where it was missing");
    let done = finished.reseal(&ignore).await.unwrap();
    assert!(done.behind.is_empty() && done.deleted == 1, "{done:?}");
    assert!(!shows(1, &old).await);
    let order = finished.read_order();
    assert_eq!(restore(&finished, &order, manifest.snapshot, manifest.session).await.unwrap(), some_files());
}

#[tokio::test]
async fn a_passphrase_unlocks_a_key_that_lies_in_the_repository() {
    let lab = Lab::new(1).await;
    let words = "correct horse battery staple";
    let fourth = key(&lab, "passphrase", 4);
    let cheap = Cost { memory: 64, passes: 1, lanes: 1 };
    let holder = Holder::locked(&fourth, words, cheap, lab.repository.entropy().as_ref()).unwrap();
    lab.repository.change_keys(KeyChange::Add(fourth.recipient(), holder)).await.unwrap();
    let holders = Holders::read(&places(&lab.spots)).await.unwrap();
    let unlocked = holders.unlock(words).unwrap();
    assert_eq!(unlocked, fourth);
    lab.reopen(Access::Recipient(unlocked)).await.unwrap();
    let wrong = holders.unlock("correct horse battery stable").unwrap_err();
    assert_eq!(wrong.class(), ErrorClass::Denied, "{wrong}");
    // A descriptor of somebody else's does not pass: the lock holds the fingerprint.
    let mut elsewhere = holders.clone();
    elsewhere.fingerprint = Fingerprint([7; 32]);
    assert!(elsewhere.unlock(words).is_err());
}

#[tokio::test]
async fn a_grant_opens_one_snapshot_and_no_other() {
    let lab = Lab::new(1).await;
    let first = backup(&lab, 1, &some_files()).await;
    let second = backup(&lab, 2, &changed(&some_files(), 1)).await;
    let order = lab.order();
    let list = lab.repository.snapshots(&order, None).await.unwrap();
    let wanted = list.snapshots.iter().find(|one| one.id == first.snapshot).unwrap();
    let identity = Identity::generate(lab.repository.entropy().as_ref());
    let public = parse_public(&identity.public_text()).unwrap();
    let grant = lab.repository.grant(&order, wanted, &public).await.unwrap();
    let secrets = grant.open(&identity).unwrap();
    let opened = lab.reopen(Access::Grant(OpenedGrant { grant, secrets })).await.unwrap();
    assert!(opened.opens_content());
    let files = restore(&opened, &opened.read_order(), first.snapshot, first.session).await.unwrap();
    assert_eq!(files, some_files());
    let error = restore(&opened, &opened.read_order(), second.snapshot, second.session).await.unwrap_err();
    assert!(matches!(error, RepositoryError::NotGranted { .. }), "{error}");
    assert!(opened.change_keys(KeyChange::Rotate).await.is_err());
}

#[tokio::test]
async fn domains_are_apart_and_an_erased_one_is_gone_for_every_key() {
    let lab = Lab::new(2).await;
    let kept = backup(&lab, 1, &some_files()).await;
    let tenant = DomainName::new("tenant").unwrap();
    let made = lab.repository.change_keys(KeyChange::Domain(tenant.clone())).await.unwrap();
    let inside = made.repository.in_domain(&tenant).unwrap();
    let writer = lab.reopen(Access::Writer(inside.writer_key())).await.unwrap();
    assert_eq!(writer.domain(), &tenant);
    assert_ne!(writer.id_key(), lab.repository.id_key());
    let direct = crate::lab::DirectWriter::new(&writer, 2);
    let files = changed(&some_files(), 1);
    let written = write_of(OTHER, &writer, &direct, intent(2, 1), &files, &BTreeMap::new()).await;
    written.session.commit(&direct, &written.manifest).await.unwrap();
    let gone = written.manifest;

    // A recipient opens both, each source in its own domain; a writer of one sees nothing of the other.
    let both = lab.reopen(Access::Recipient(lab.created.recovery_key.clone())).await.unwrap();
    assert_eq!(both.domain_of(OTHER), &tenant);
    assert_eq!(restore_of(OTHER, &both, &both.read_order(), gone.snapshot, gone.session).await.unwrap(), files);
    assert_eq!(restore(&both, &both.read_order(), kept.snapshot, kept.session).await.unwrap(), some_files());
    assert!(lab.repository.writer_key().id_key != inside.writer_key().id_key);
    let report = both.check(&CheckOptions { read_data: true, ..CheckOptions::default() }).await.unwrap();
    assert_eq!(report.verdict(), Verdict::Sound, "{report:#?}");
    let outsider = lab.reopen(Access::Writer(lab.created.writer_key.clone())).await.unwrap();
    let seen = outsider.snapshots(&outsider.read_order(), Some(OTHER)).await.unwrap();
    assert!(seen.snapshots.is_empty() && !seen.damaged.is_empty());

    lab.spots[1].fault.set_reachable(false);
    let away = lab.reopen(Access::Recipient(lab.created.recovery_key.clone())).await.unwrap();
    let refused = away.erase_domain(&tenant, false).await.unwrap_err();
    assert!(refused.class() == ErrorClass::Refused && refused.to_string().contains("r1"), "{refused}");
    let half = away.erase_domain(&tenant, true).await.unwrap();
    assert_eq!((half.deleted, half.behind.len()), (1, 1));
    lab.spots[1].fault.set_reachable(true);

    // The region that was away still has the keys, but the proof says that they do not count.
    let after = lab.reopen(Access::Recipient(lab.created.key.clone())).await.unwrap();
    assert_eq!(after.domains(), [DomainName::new("default").unwrap()]);
    let standing = after.verify_erasure(&tenant).await.unwrap();
    assert_eq!(standing.remaining.len(), 1, "{standing:?}");
    let whole = after.erase_domain(&tenant, false).await.unwrap();
    assert!(whole.remaining.is_empty() && whole.behind.is_empty() && whole.deleted == 1, "{whole:?}");
    assert_eq!((whole.proof.sessions, whole.proof.sources.len()), (1, 1));
    let verified = after.verify_erasure(&tenant).await.unwrap();
    assert!(verified.remaining.is_empty());
    for access in [lab.created.key.clone(), lab.created.recovery_key.clone()] {
        let opened = lab.reopen(Access::Recipient(access)).await.unwrap();
        let order = opened.read_order();
        assert!(restore_of(OTHER, &opened, &order, gone.snapshot, gone.session).await.is_err());
        assert_eq!(restore(&opened, &order, kept.snapshot, kept.session).await.unwrap(), some_files());
        let list = opened.snapshots(&order, None).await.unwrap();
        assert!(list.damaged.is_empty() && list.snapshots.len() == 1, "{:?}", list.damaged);
    }
    let again = after.change_keys(KeyChange::Domain(tenant)).await.unwrap_err();
    assert_eq!(again.class(), ErrorClass::Refused, "{again}");
    let only = DomainName::new("default").unwrap();
    assert!(after.erase_domain(&only, false).await.is_err(), "the only domain is not erased");
}

#[tokio::test]
async fn a_reaper_sees_structure_and_opens_nothing() {
    let lab = Lab::new(1).await;
    let manifest = backup(&lab, 1, &some_files()).await;
    let key = lab.repository.reaper_key().unwrap();
    let reaper = lab.reopen(Access::Reaper(key)).await.unwrap();
    let order = reaper.read_order();
    assert_eq!(reaper.snapshots(&order, None).await.unwrap().snapshots.len(), 1);
    assert_ne!(reaper.id_key(), lab.repository.id_key());
    let mut tree = breakwater_repository::TreeReader::new(&reaper, order.clone(), &manifest);
    assert!(tree.next().await.unwrap().is_some(), "references and trees are read without naming chunks");
    let error = restore(&reaper, &order, manifest.snapshot, manifest.session).await.unwrap_err();
    assert!(matches!(error, RepositoryError::NeedsRecipient { .. }), "{error}");
    assert!(reaper.reaper_key().is_err());
    // It cannot begin a session: nobody could ever open it.
    let direct = crate::lab::DirectWriter::new(&reaper, 1);
    assert!(breakwater_repository::SessionKey::create(&reaper, &direct, crate::lab::SOURCE).await.is_err());
}

#[tokio::test]
async fn a_forged_list_and_a_forged_proof_do_not_count() {
    let lab = Lab::new(1).await;
    let stranger = RecipientSecret::from_secret(breakwater_crypto::Secret::from_bytes([8; 32]));
    let list = lab.spots[0].inside().get("repo/recipients/1").await.unwrap();
    let text = String::from_utf8(list.to_vec()).unwrap();
    let forged = text
        .replace("\\\"number\\\":1", "\\\"number\\\":9")
        .replace(&hex_of(&lab.created.key.recipient()), &hex_of(&Recipient::new("x", stranger.public())));
    assert_ne!(forged, text);
    lab.spots[0].inside().create("repo/recipients/9", forged.into_bytes().into()).await.unwrap();
    lab.spots[0].inside().create("repo/audit/erased/default", b"{}".to_vec().into()).await.unwrap();
    let opened = lab.reopen(Access::Recipient(lab.created.key.clone())).await.unwrap();
    assert_eq!(opened.key_standing().await.unwrap().recipients.len(), 2);
    let descriptor = Descriptor::decode(&lab.spots[0].inside().get("repo/descriptor").await.unwrap()).unwrap();
    assert_eq!(descriptor.repository, opened.id());
}

fn hex_of(recipient: &Recipient) -> String {
    recipient.public.iter().map(|byte| format!("{byte:02x}")).collect()
}

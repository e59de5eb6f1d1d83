//! A source that leans on verified packs of another one keeps what it needs, whatever is deleted there; and leans on nothing
//! that nobody vouched for.

use std::collections::BTreeMap;

use breakwater_core::{DomainName, ErrorClass, SourceUid};
use breakwater_crypto::{Identity, Secret, Voucher, parse_public};
use breakwater_repository::check::{CheckOptions, Level, VerifyOptions};
use breakwater_repository::format::leaning::{Lean, LeanedOn};
use breakwater_repository::format::pack::FrameContent;
use breakwater_repository::format::record::RecordKind;
use breakwater_repository::format::verified::{VerifiedPack, VerifiedPacks};
use breakwater_repository::gc::{GcOptions, GcReport};
use breakwater_repository::verified::VerifiedSet;
use breakwater_repository::{
    Access, Class, Codec, CommitOutcome, CreateOptions, GcOutcome, KeyChange, ObjectName, OpenedGrant, RepairOptions,
    Repository, SessionIntent,
};
use breakwater_storage::Payload;

use crate::lab::{EXTENT, Files, Lab, SOURCE, Written, intent, restore_of, store, write_of};
use crate::world::{Chunks, files};

const OTHER: SourceUid = SourceUid::from_bytes([0x77; 16]);

async fn lab(regions: usize) -> Lab {
    let options =
        CreateOptions { extent_size: 4096, pack_size: 1 << 20, verified_chunks: true, ..CreateOptions::default() };
    Lab::with(regions, options).await
}

/// A handle as an agent has it.
async fn writer_handle(lab: &Lab) -> Repository {
    lab.reopen(Access::Writer(lab.created.writer_key.clone())).await.unwrap()
}

fn no_moves() -> GcOptions {
    GcOptions { repack_below: 0, ..GcOptions::default() }
}

async fn gc(lab: &Lab, source: SourceUid, options: &GcOptions) -> GcReport {
    let report = lab.repository.gc_source(source, options).await.unwrap();
    assert!(matches!(report.outcome, GcOutcome::Done), "{report:?}");
    report
}

async fn commit(lab: &Lab, written: &Written) {
    let outcome = written.session.commit(&lab.writer(1), &written.manifest).await.unwrap();
    assert!(matches!(outcome, CommitOutcome::Committed { .. }), "{outcome:?}");
}

/// A snapshot of the first source, for which the recipient vouches.
async fn vouched(lab: &Lab, snapshot: u8, files: &Files) -> Written {
    let written = write_of(SOURCE, &lab.repository, &lab.writer(1), intent(snapshot, 1), files, &Chunks::new()).await;
    commit(lab, &written).await;
    let of = (written.manifest.snapshot, written.manifest.session);
    let report = lab.repository.vouch(SOURCE, of, &|_| ()).await.unwrap();
    assert!(report.packs > 0 && report.left_out == 0, "{report:?}");
    written
}

/// All that may be leaned on of `set`.
async fn leanable(repository: &Repository, set: &VerifiedSet) -> (Chunks, LeanedOn) {
    let mut chunks = Chunks::new();
    let mut reader = repository.leanable(set).await.unwrap().unwrap();
    while let Some(pack) = reader.next().await.unwrap() {
        chunks.extend(pack.into_iter().map(|chunk| (chunk.id.0, chunk)));
    }
    (chunks, reader.leaned_on())
}

/// A backup of the other source up to its commit, which leans on what is vouched for.
async fn leaning(lab: &Lab, snapshot: u8, files: &Files) -> Written {
    let repository = writer_handle(lab).await;
    let sets = repository.verified_sets().await.unwrap();
    let set = sets.first().expect("somebody vouches for something");
    let (chunks, leaned_on) = leanable(&repository, set).await;
    let intent = SessionIntent { leans: vec![set.lean], ..intent(snapshot, 1) };
    let mut written = write_of(OTHER, &repository, &lab.writer(1), intent, files, &chunks).await;
    assert_eq!(written.session.intent().leans, [set.lean]);
    written.manifest.leans = vec![leaned_on];
    written
}

/// The other source's snapshot can be read back from each region alone, and everything is sound.
async fn reads_back(lab: &Lab, written: &Written, files: &Files) {
    for region in lab.repository.regions() {
        let only = lab.repository.read_only_from(region.name()).unwrap();
        let (snapshot, session) = (written.manifest.snapshot, written.manifest.session);
        let found = restore_of(OTHER, &lab.repository, &only, snapshot, session).await;
        let found = found.unwrap_or_else(|error| panic!("{}: {}", region.name(), breakwater_core::Chain(&error)));
        assert!(found == *files, "it is another one in {}", region.name());
    }
    let checked = lab.repository.check(&CheckOptions { read_data: true, ..CheckOptions::default() }).await.unwrap();
    let of = (written.manifest.snapshot, written.manifest.session);
    let options = VerifyOptions { level: Level::Forensic, regions: Vec::new() };
    let verified = lab.repository.verify_snapshot(OTHER, of, &options, &|_| ()).await.unwrap();
    for region in checked.regions.iter().chain(&verified.regions) {
        assert!(region.findings.is_empty() && region.unchecked.is_none(), "{region:?}");
    }
}

async fn names(lab: &Lab, part: &str) -> Vec<String> {
    let all = lab.spots.first().unwrap().names().await;
    all.into_iter().filter(|name| name.contains(part)).collect()
}

#[tokio::test]
async fn what_another_source_needs_outlives_the_snapshot_that_stored_it() {
    let lab = lab(2).await;
    let content = files(0..40);
    let first = vouched(&lab, 1, &content).await;
    let second = leaning(&lab, 2, &content).await;
    commit(&lab, &second).await;
    assert_eq!(names(&lab, &format!("data/{OTHER}/")).await, [""; 0], "nothing is stored twice");
    reads_back(&lab, &second, &content).await;

    lab.repository.delete_snapshot(SOURCE, first.manifest.snapshot).await.unwrap();
    let report = gc(&lab, SOURCE, &no_moves()).await;
    assert_eq!((report.deleted.objects, report.leaners.as_slice()), (1, &[OTHER][..]), "its structure: {report:?}");
    assert_eq!(names(&lab, "repo/verified/").await, [""; 0], "nobody leans on it anew");
    reads_back(&lab, &second, &content).await;

    lab.repository.delete_snapshot(OTHER, second.manifest.snapshot).await.unwrap();
    gc(&lab, OTHER, &no_moves()).await;
    gc(&lab, SOURCE, &no_moves()).await;
    assert_eq!(names(&lab, "/pack/").await, [""; 0]);
    assert_eq!(names(&lab, "/keys/").await, [""; 0]);
}

#[tokio::test]
async fn an_open_session_keeps_what_it_leans_on() {
    let lab = lab(2).await;
    let content = files(0..20);
    let first = vouched(&lab, 1, &content).await;
    let second = leaning(&lab, 2, &content).await;
    lab.repository.delete_snapshot(SOURCE, first.manifest.snapshot).await.unwrap();
    let report = gc(&lab, SOURCE, &no_moves()).await;
    assert_eq!((report.deleted.objects, report.pins.len()), (0, 1), "{report:?}");
    commit(&lab, &second).await;
    gc(&lab, SOURCE, &no_moves()).await;
    reads_back(&lab, &second, &content).await;
}

#[tokio::test]
async fn a_later_snapshot_of_the_leaning_source_keeps_it_too() {
    let lab = lab(2).await;
    let content = files(0..20);
    let first = vouched(&lab, 1, &content).await;
    let second = leaning(&lab, 2, &content).await;
    commit(&lab, &second).await;
    lab.repository.delete_snapshot(SOURCE, first.manifest.snapshot).await.unwrap();
    gc(&lab, SOURCE, &no_moves()).await;

    // It compares with its own snapshot, and never names the first source.
    let chunks = chunks_of(&lab, &second).await;
    let base = crate::lab::snapshot_session(&second.manifest);
    let third = SessionIntent { bases: vec![base], ..intent(3, 1) };
    let mut third = write_of(OTHER, &lab.repository, &lab.writer(1), third, &content, &chunks).await;
    third.manifest.leans.clone_from(&second.manifest.leans);
    lab.repository.delete_snapshot(OTHER, second.manifest.snapshot).await.unwrap();
    for source in [OTHER, SOURCE] {
        gc(&lab, source, &no_moves()).await;
    }
    commit(&lab, &third).await;
    for source in [OTHER, SOURCE] {
        gc(&lab, source, &no_moves()).await;
    }
    reads_back(&lab, &third, &content).await;
}

async fn chunks_of(lab: &Lab, written: &Written) -> Chunks {
    use breakwater_repository::format::leaf::Extent;
    use breakwater_repository::format::tree::TreeKind;
    let order = lab.order();
    let mut tree = breakwater_repository::TreeReader::new(&lab.repository, order, &written.manifest);
    let mut chunks = BTreeMap::new();
    while let Some(entries) = tree.next().await.unwrap() {
        for entry in entries {
            let TreeKind::File { leaves, .. } = &entry.kind else { continue };
            for leaf in leaves {
                for extent in tree.leaf_extents(leaf).await.unwrap() {
                    let Extent::Stored(location) = extent else { continue };
                    chunks.insert(location.id.0, location);
                }
            }
        }
    }
    chunks
}

#[tokio::test]
async fn the_tombstone_of_a_snapshot_retires_what_was_verified_of_it() {
    let lab = lab(2).await;
    let content = files(0..5);
    let first = vouched(&lab, 1, &content).await;
    let repository = writer_handle(&lab).await;
    let set = repository.verified_sets().await.unwrap().remove(0);
    lab.repository.delete_snapshot(SOURCE, first.manifest.snapshot).await.unwrap();
    let wanted = SessionIntent { leans: vec![set.lean], ..intent(2, 1) };
    let written = write_of(OTHER, &repository, &lab.writer(1), wanted, &content, &Chunks::new()).await;
    assert_eq!(written.session.intent().leans, []);
    let report = gc(&lab, SOURCE, &no_moves()).await;
    assert_eq!(
        (report.deleted.objects, report.pins.len()),
        (2, 0),
        "a session that was fenced pins nothing: {report:?}"
    );
}

#[tokio::test]
async fn what_only_another_source_needs_is_moved_and_found_there() {
    let lab = lab(2).await;
    let first = vouched(&lab, 1, &files(0..60)).await;
    let part = files(7..12);
    let second = leaning(&lab, 2, &part).await;
    commit(&lab, &second).await;
    lab.repository.delete_snapshot(SOURCE, first.manifest.snapshot).await.unwrap();
    let report = gc(&lab, SOURCE, &GcOptions { repack_below: 90, ..GcOptions::default() }).await;
    assert_eq!(report.repacked.objects, 1, "{report:?}");
    reads_back(&lab, &second, &part).await;
    lab.repository.delete_snapshot(OTHER, second.manifest.snapshot).await.unwrap();
    for source in [OTHER, SOURCE] {
        gc(&lab, source, &no_moves()).await;
    }
    assert_eq!(names(&lab, "/pack/").await, [""; 0]);
}

#[tokio::test]
async fn a_grant_opens_what_the_snapshot_has_in_packs_of_another_source() {
    let lab = lab(1).await;
    let content = files(0..10);
    vouched(&lab, 1, &content).await;
    let second = leaning(&lab, 2, &content).await;
    commit(&lab, &second).await;
    let (snapshot, session) = (second.manifest.snapshot, second.manifest.session);
    let order = lab.order();
    let list = lab.repository.snapshots(&order, Some(OTHER)).await.unwrap();
    let summary = list.snapshots.iter().find(|one| one.session == session).unwrap();
    let identity = Identity::generate(lab.repository.entropy().as_ref());
    let public = parse_public(&identity.public_text()).unwrap();
    let grant = lab.repository.grant(&order, summary, &public).await.unwrap();
    let secrets = grant.open(&identity).unwrap();
    let opened = lab.reopen(Access::Grant(OpenedGrant { grant, secrets })).await.unwrap();
    let found = restore_of(OTHER, &opened, &opened.read_order(), snapshot, session).await.unwrap();
    assert!(found == content);
}

#[tokio::test]
async fn what_no_region_has_any_more_is_lost_for_the_source_that_leans_until_it_is_stored_anew() {
    let lab = lab(2).await;
    let content = files(0..10);
    vouched(&lab, 1, &content).await;
    let second = leaning(&lab, 2, &content).await;
    commit(&lab, &second).await;
    let pack = names(&lab, &format!("data/{SOURCE}/pack/")).await.remove(0);
    for spot in &lab.spots {
        spot.inside().delete(&pack).await.unwrap();
    }
    let report = lab.repository.repair(&RepairOptions::default()).await.unwrap();
    assert!(report.lost.iter().any(|loss| loss.source == OTHER && loss.object == pack), "{report:?}");
    assert_eq!(lab.repository.lost_packs(OTHER).await.unwrap().len(), 1);

    // The next backup compares with nothing and leans on nothing.
    let third = write_of(OTHER, &lab.repository, &lab.writer(1), intent(3, 1), &content, &Chunks::new()).await;
    commit(&lab, &third).await;
    let settled = lab.repository.settle_losses(OTHER).await.unwrap();
    assert_eq!((settled.found, settled.open), (10, 0));
    let (snapshot, session) = (second.manifest.snapshot, second.manifest.session);
    let found = restore_of(OTHER, &lab.repository, &lab.order(), snapshot, session).await.unwrap();
    assert!(found == content, "the older snapshot is whole again");
}

#[tokio::test]
async fn a_source_whose_needs_are_not_known_stops_the_round() {
    let lab = lab(1).await;
    let content = files(0..5);
    let first = vouched(&lab, 1, &content).await;
    let second = leaning(&lab, 2, &content).await;
    commit(&lab, &second).await;
    lab.repository.delete_snapshot(SOURCE, first.manifest.snapshot).await.unwrap();
    let (snapshot, session) = (second.manifest.snapshot, second.manifest.session);
    let register = format!("meta/{OTHER}/snap/{snapshot}.{session}");
    let bytes = lab.spots[0].inside().get(&register).await.unwrap();
    let mut damaged = bytes.to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    lab.spots[0].replace(&register, damaged.into()).await;
    let before = names(&lab, "data/").await;
    let error = lab.repository.gc_source(SOURCE, &no_moves()).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Corrupt, "{error}");
    assert_eq!(names(&lab, "data/").await, before);
}

/// A pack of the first source in which every chunk of `files` has other content than its name says, in a snapshot that looks
/// like any other: what the holder of a stolen writer key can make.
async fn poison(lab: &Lab, snapshot: u8, files: &Files) -> Written {
    let thief = writer_handle(lab).await;
    let writer = lab.writer(1);
    let intent = intent(snapshot, 1);
    let session = breakwater_repository::BackupSession::begin(&thief, &writer, SOURCE, intent.clone()).await.unwrap();
    let mut packs = session.content_packs();
    let mut chunks = Chunks::new();
    for extent in files.values().flat_map(|bytes| bytes.chunks(EXTENT)) {
        let id = thief.suite().chunk_id(thief.id_key(), Class::Extent.byte(), extent);
        let other: Vec<u8> = extent.iter().map(|byte| !byte).collect();
        let (codec, payload) = Codec::encode(&other, 3).unwrap();
        let plain = u32::try_from(other.len()).unwrap();
        let ticket = packs.reserve(FrameContent { class: Class::Extent, codec, plain, id }, payload.len()).unwrap();
        chunks.insert(id.0, *ticket.location());
        packs.place(ticket.seal(&payload).unwrap()).unwrap();
    }
    store(&writer, packs.finish().unwrap()).await;
    let next = SessionIntent { snapshot: breakwater_core::SnapshotId::from_bytes([snapshot + 100; 16]), ..intent };
    let mut written = write_of(SOURCE, &thief, &writer, next, files, &chunks).await;
    written.manifest.warnings.clear();
    commit(lab, &written).await;
    written
}

#[tokio::test]
async fn nobody_vouches_for_poison_and_nobody_else_can_vouch() {
    let lab = lab(2).await;
    let content = files(0..10);
    let poisoned = poison(&lab, 1, &content).await;
    let of = (poisoned.manifest.snapshot, poisoned.manifest.session);
    let report = lab.repository.vouch(SOURCE, of, &|_| ()).await.unwrap();
    assert_eq!((report.packs, report.left_out), (0, 1), "{report:?}");
    let thief = writer_handle(&lab).await;
    assert_eq!(thief.verified_sets().await.unwrap(), []);
    assert_eq!(thief.vouch(SOURCE, of, &|_| ()).await.unwrap_err().class(), ErrorClass::Denied);

    // With the writer key he can seal the record, but not sign what is in it.
    let pack = match ObjectName::parse(&names(&lab, &format!("data/{SOURCE}/pack/")).await.remove(0)) {
        Some(ObjectName::ContentPack(_, pack)) => pack,
        other => panic!("{other:?}"),
    };
    let forged = VerifiedPacks {
        repository: lab.repository.id(),
        domain: lab.repository.domain().clone(),
        source: SOURCE,
        snapshot: of.0,
        session: of.1,
        run: lab.repository.new_session(),
        part: 0,
        at: lab.repository.now(),
        regions: lab.repository.regions().iter().filter_map(|region| region.id()).collect(),
        packs: vec![VerifiedPack(pack, [0; 32])],
    };
    let voucher = Voucher::of_root(&Secret::from_bytes([1; 32]));
    let bytes = thief.seal_record(SOURCE, RecordKind::Verified, &forged.name(), &forged.vouched(&voucher)).unwrap();
    for spot in &lab.spots {
        spot.inside().create(&forged.name().to_string(), Payload::from(bytes.clone())).await.unwrap();
    }
    let victim = writer_handle(&lab).await;
    let set = victim.verified_sets().await.unwrap().remove(0);
    let (chunks, leaned_on) = leanable(&victim, &set).await;
    assert!(chunks.is_empty() && leaned_on.sessions.is_empty());
}

#[tokio::test]
async fn poison_in_one_region_only_is_not_vouched_for() {
    let lab = lab(2).await;
    let content = files(0..10);
    let written = write_of(SOURCE, &lab.repository, &lab.writer(1), intent(1, 1), &content, &Chunks::new()).await;
    commit(&lab, &written).await;
    let pack = names(&lab, &format!("data/{SOURCE}/pack/")).await.remove(0);
    let mut bytes = lab.spots[1].inside().get(&pack).await.unwrap().to_vec();
    bytes[400] ^= 1;
    lab.spots[1].replace(&pack, bytes.into()).await;
    let of = (written.manifest.snapshot, written.manifest.session);
    let report = lab.repository.vouch(SOURCE, of, &|_| ()).await.unwrap();
    assert_eq!((report.packs, report.left_out), (0, 1), "{report:?}");
}

#[tokio::test]
async fn only_what_every_region_of_now_has_shown_is_leaned_on() {
    let lab = lab(2).await;
    let content = files(0..10);
    vouched(&lab, 1, &content).await;
    let repository = writer_handle(&lab).await;
    let set = repository.verified_sets().await.unwrap().remove(0);
    assert_eq!(leanable(&repository, &set).await.0.len(), 10);
    // A region lost the pack.
    let pack = names(&lab, &format!("data/{SOURCE}/pack/")).await.remove(0);
    let whole = lab.spots[1].inside().get(&pack).await.unwrap();
    lab.spots[1].inside().delete(&pack).await.unwrap();
    assert_eq!(leanable(&repository, &set).await.0.len(), 0);
    lab.spots[1].inside().create(&pack, Payload::from(whole)).await.unwrap();
    // A region has joined in which nobody has read it.
    let spot = crate::lab::Spot::new();
    let place = breakwater_repository::Place::new("new", breakwater_repository::regions::Role::Sync, spot.storage());
    let joined = lab.repository.join(place).await.unwrap();
    assert_eq!(leanable(&joined, &set).await.0.len(), 0);
}

#[tokio::test]
async fn an_earlier_run_is_believed_where_nothing_has_changed() {
    let lab = lab(2).await;
    let first = vouched(&lab, 1, &files(0..10)).await;
    let of = (first.manifest.snapshot, first.manifest.session);
    let again = lab.repository.vouch(SOURCE, of, &|_| ()).await.unwrap();
    assert_eq!((again.packs, again.known, again.bytes_read), (1, 1, 0), "{again:?}");
}

#[tokio::test]
async fn nothing_is_shared_between_domains() {
    let lab = lab(2).await;
    let content = files(0..10);
    vouched(&lab, 1, &content).await;
    let name = DomainName::new("apart").unwrap();
    let changed = lab.repository.change_keys(KeyChange::Domain(name.clone())).await.unwrap();
    let writer = changed.repository.in_domain(&name).unwrap().writer_key();
    let apart = lab.reopen(Access::Writer(writer)).await.unwrap();
    assert_eq!(apart.verified_sets().await.unwrap(), [], "sets are listed by domain");
    // Handed the set of the other domain, its key opens none of it.
    let set = writer_handle(&lab).await.verified_sets().await.unwrap().remove(0);
    assert!(apart.leanable(&set).await.is_err());
    assert_ne!(apart.id_key(), lab.repository.id_key(), "and equal chunks have other names");
}

#[tokio::test]
async fn a_repository_that_is_not_made_for_it_refuses() {
    let lab = Lab::new(1).await;
    let written = write_of(SOURCE, &lab.repository, &lab.writer(1), intent(1, 1), &files(0..3), &Chunks::new()).await;
    commit(&lab, &written).await;
    let of = (written.manifest.snapshot, written.manifest.session);
    let error = lab.repository.vouch(SOURCE, of, &|_| ()).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Refused);
    assert!(error.to_string().contains("--verified-chunks"), "{error}");
    assert_eq!(lab.repository.verified_sets().await.unwrap(), []);
    let lean = Lean { source: OTHER, snapshot: of.0, session: of.1 };
    let wanted = SessionIntent { leans: vec![lean], ..intent(2, 1) };
    let begun = breakwater_repository::BackupSession::begin(&lab.repository, &lab.writer(1), SOURCE, wanted).await;
    assert_eq!(begun.unwrap_err().class(), ErrorClass::Refused);
}

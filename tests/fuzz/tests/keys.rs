//! Files of keys, and what says in a repository who may open it. Objects that a repository's root signs are fuzzed from the
//! outside, as somebody with access to the bucket would change them, and from the inside, as a holder of the root could.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use breakwater_core::{DomainName, Entropy, RepositoryId, SessionId, SnapshotId, SourceUid, Timestamp};
use breakwater_crypto::{
    Cost, Fingerprint, Grant, GrantSecrets, Holder, Identity, KeyShare, PassphraseLock, Purpose, ReaperKey, Recipient,
    RecipientKey, RecipientSecret, Secret, ServiceLock, Suite, WriterKey, commitment, derive, holder, key_kind,
    parse_public, seal_for_all, sha256,
};
use breakwater_fuzz::{Bound, targets};
use breakwater_repository::format::descriptor::{Descriptor, RegionRecord};
use breakwater_repository::format::domain::{DomainRecord, RestoreRecord};
use breakwater_repository::format::erasure::{Destroyed, ErasureRecord};
use breakwater_repository::format::gc_plan::{GcFence, GcPlan};
use breakwater_repository::format::lost::Lost;
use breakwater_repository::format::recipients::{Member, RecipientsRecord};
use breakwater_repository::format::record::read_json;
use breakwater_repository::format::{ObjectName, PackId};

const REPOSITORY: RepositoryId = RepositoryId::from_bytes([1; 16]);
const SOURCE: SourceUid = SourceUid::from_bytes([2; 16]);
const SESSION: SessionId = SessionId::from_bytes([3; 16]);
const FINGERPRINT: Fingerprint = Fingerprint([6; 32]);
const PASSPHRASE: &str = "a passphrase for tests";

/// What a passphrase may cost where the input says it: more would make the run slow, not wrong.
const CHEAP: Cost = Cost { memory: 64, passes: 2, lanes: 2 };

#[derive(Debug)]
struct Sevens;

impl Entropy for Sevens {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.fill(7);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn domain() -> DomainName {
    DomainName::new("default").expect("a good name")
}

fn secret(byte: u8) -> Secret {
    Secret::from_bytes([byte; 32])
}

fn private() -> RecipientSecret {
    RecipientSecret::generate(&Sevens)
}

fn recipient_key() -> RecipientKey {
    RecipientKey { repository: REPOSITORY, fingerprint: FINGERPRINT, name: "primary".to_owned(), secret: private() }
}

/// What `write` makes of a path.
fn file(write: impl FnOnce(&Path)) -> Vec<u8> {
    let directory = tempfile::tempdir().expect("a directory for a key");
    let path = directory.path().join("key");
    write(&path);
    std::fs::read(path).expect("the key was written")
}

/// Calls `read` on a file with these bytes, the same one each time.
fn with_file(bytes: &[u8], read: impl FnOnce(&Path)) {
    thread_local!(static FILE: RefCell<Option<(tempfile::TempDir, PathBuf)>> = const { RefCell::new(None) });
    FILE.with_borrow_mut(|place| {
        let (_, path) = place.get_or_insert_with(|| {
            let directory = tempfile::tempdir().expect("a directory for a key");
            let path = directory.path().join("key");
            (directory, path)
        });
        std::fs::write(&*path, bytes).expect("write the key");
        read(path);
    });
}

fn grant() -> Grant {
    let snapshot = SnapshotId::from_bytes([4; 16]);
    let purpose = Purpose::Grant { repository: REPOSITORY, source: SOURCE, snapshot };
    let secrets = GrantSecrets {
        id_key: secret(1),
        structure: secret(2),
        sessions: [(SESSION, secret(3))].into_iter().collect(),
    };
    let seal = secrets.seal(&private().public(), &purpose, &Sevens).expect("a good public key");
    Grant {
        repository: REPOSITORY,
        fingerprint: FINGERPRINT,
        source: SOURCE,
        domain: domain(),
        snapshot,
        created: Timestamp(7),
        identity: private().id(),
        seal,
    }
}

/// One file of each kind.
fn key_files() -> Vec<Vec<u8>> {
    let key = recipient_key();
    let writer = WriterKey {
        repository: REPOSITORY,
        fingerprint: FINGERPRINT,
        suite: Suite::Standard,
        domain: domain(),
        epoch: 1,
        id_key: secret(1),
        structure_root: secret(2),
        restore: private().public(),
    };
    let reaper =
        ReaperKey { repository: REPOSITORY, fingerprint: FINGERPRINT, domains: vec![(domain(), secret(0xd3))] };
    let share = KeyShare::split(&key, 2, 3).expect("two of three").remove(0);
    vec![
        file(|path| writer.write_new(path).expect("write a key")),
        file(|path| key.write_new(path).expect("write a key")),
        file(|path| reaper.write_new(path).expect("write a key")),
        file(|path| share.write_new(path).expect("write a share")),
        file(|path| Identity(private()).write_new(path).expect("write an identity")),
        file(|path| grant().write_new(path).expect("write a grant")),
    ]
}

/// Every reader is shown the file. At most one takes it, and what it takes keeps the promises of its type.
fn read_key_file(path: &Path) {
    let kind = key_kind(path).ok();
    let mut taken = 0;
    if let Ok(key) = WriterKey::read(path) {
        assert!(!format!("{key:?}").contains(&hex(&key.id_key)), "a key is never shown");
        taken += 1;
    }
    if let Ok(key) = RecipientKey::read(path) {
        assert!(!format!("{key:?}").contains(&hex(key.secret.secret())), "a key is never shown");
        taken += 1;
    }
    if let Ok(key) = ReaperKey::read(path) {
        assert!(!key.domains.is_empty());
        taken += 1;
    }
    if let Ok(share) = KeyShare::read(path) {
        assert!(share.threshold >= 2 && share.number >= 1);
        let pair = [(path.to_owned(), share.clone()), (path.to_owned(), share)];
        assert!(KeyShare::join(&pair).is_err(), "one share twice is one share");
        taken += 1;
    }
    if let Ok(identity) = Identity::read(path) {
        assert_eq!(parse_public(&identity.public_text()), Some(identity.0.public()));
        taken += 1;
    }
    if let Ok(read) = Grant::read(path) {
        // What opens was made by somebody who knew the secrets: here, only the seed.
        if let Ok(secrets) = read.open(&Identity(private())) {
            assert_eq!((secrets.id_key, secrets.structure), (secret(1), secret(2)));
            assert_eq!((read.repository, read.source, read.snapshot), (REPOSITORY, SOURCE, grant().snapshot));
        }
        taken += 1;
    }
    assert!(taken <= 1 && (taken == 0 || kind.is_some()), "a file is of one kind: {kind:?}");
}

fn hex(secret: &Secret) -> String {
    secret.expose().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn root() -> Secret {
    secret(9)
}

fn recipients() -> RecipientsRecord {
    let recipient = Recipient::new("primary", private().public());
    let root = seal_for_all(std::slice::from_ref(&recipient), &Purpose::RepositoryRoot(REPOSITORY), &root(), &Sevens);
    let member = |holder| Member { recipient: recipient.clone(), holder };
    let service = ServiceLock { service: "aws-kms:alias/backup".to_owned(), wrapped: vec![1; 64] };
    RecipientsRecord {
        repository: REPOSITORY,
        number: 1,
        created: Timestamp(7),
        rotation: 0,
        recipients: vec![
            member(Holder::File),
            member(Holder::Passphrase(lock(&context()))),
            member(Holder::Service(service)),
        ],
        root: root.expect("a good public key"),
    }
}

fn context() -> Vec<u8> {
    holder::context(REPOSITORY, private().id())
}

fn lock(context: &[u8]) -> PassphraseLock {
    let plain = holder::payload(&recipient_key());
    PassphraseLock::new(PASSPHRASE, CHEAP, context, &plain, &Sevens).expect("a good passphrase")
}

/// A list that somebody without the root has changed is refused, or says what it said.
fn recipients_from_outside(bytes: &[u8]) {
    let pinned = commitment(&root());
    if let Ok(Some(opened)) = RecipientsRecord::open(bytes, REPOSITORY, &pinned, &private()) {
        assert_eq!(opened, (recipients(), root()));
    }
    if let Ok(peeked) = RecipientsRecord::peek(bytes) {
        peeked.recipients.iter().for_each(|member| open_holder(&member.holder));
    }
}

/// A private key that lies locked in the repository is the one that was locked, or none.
fn open_holder(holder: &Holder) {
    let Holder::Passphrase(lock) = holder else { return };
    if lock.cost.memory > CHEAP.memory || lock.cost.passes > CHEAP.passes || lock.cost.lanes > CHEAP.lanes {
        return;
    }
    let Ok(plain) = lock.open(PASSPHRASE, &context()) else { return };
    let read = holder::read_payload(&plain, REPOSITORY, FINGERPRINT, private().id(), "primary");
    assert_eq!(read, Some(recipient_key()));
}

fn open_lock(bytes: &[u8]) {
    if let Ok(holder) = read_json::<Holder>("holder", bytes) {
        open_holder(&holder);
        assert!(!holder.word().contains(':'), "the word for people is the service, not the key");
    }
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("it has text keys only")
}

/// The object around a body, as section 3 of the format says, made by a holder of the root.
fn signed(label: &str, body: &[u8]) -> Vec<u8> {
    let body = text(body);
    let mac = derive(&root(), label, &[&sha256(body.as_bytes())]);
    json(&serde_json::json!({"body": body, "mac": hex(&mac)}))
}

fn domain_record() -> DomainRecord {
    let recipient = Recipient::new("primary", private().public());
    let sealed = seal_for_all(std::slice::from_ref(&recipient), &Purpose::RepositoryRoot(REPOSITORY), &root(), &Sevens)
        .expect("a good public key");
    let restore = |epoch| RestoreRecord { epoch, public: private().public(), secret: sealed.clone() };
    DomainRecord {
        repository: REPOSITORY,
        domain: domain(),
        epoch: 2,
        created: Timestamp(7),
        rotation: 0,
        recipients: vec![recipient],
        root: sealed.clone(),
        restore: vec![restore(1), restore(2)],
    }
}

fn erasure() -> ErasureRecord {
    ErasureRecord {
        repository: REPOSITORY,
        domain: domain(),
        at: Timestamp(9),
        by: private().id(),
        destroyed: vec![Destroyed { name: "repo/domains/default.1".to_owned(), sha256: "05".repeat(32) }],
        sources: [SOURCE].into_iter().collect(),
        sessions: 3,
    }
}

/// Whoever holds the root can write what it likes; it is read without a panic, and in order.
fn signed_from_inside(body: &[u8]) {
    if let Ok(record) = DomainRecord::decode(&signed("domain-mac", body), &root()) {
        assert!(record.restore.is_sorted_by(|one, next| one.epoch < next.epoch) && !record.restore.is_empty());
        assert_eq!(DomainRecord::decode(&record.encode(&root()), &root()).ok(), Some(record));
    }
    if let Ok(record) = RecipientsRecord::decode(&signed("recipients-mac", body), &root()) {
        assert_eq!(record.public().len(), record.recipients.len());
        assert_eq!(RecipientsRecord::decode(&record.encode(&root()), &root()).ok(), Some(record));
    }
    if let Ok(record) = ErasureRecord::decode(&signed("erasure-mac", body), &root()) {
        assert_eq!(ErasureRecord::decode(&record.encode(&root()), &root()).ok(), Some(record));
    }
}

fn signed_from_outside(bytes: &[u8]) {
    if let Ok(record) = DomainRecord::decode(bytes, &root()) {
        assert_eq!(record, domain_record());
    }
    if let Ok(record) = ErasureRecord::decode(bytes, &root()) {
        assert_eq!(record, erasure());
    }
}

fn collections() -> Vec<Vec<u8>> {
    let (id, at) = ("03".repeat(16), 1_795_179_038_000_123_i64);
    [
        format!(
            "{{\"run\":\"{id}\",\"source\":\"{id}\",\"at\":{at},\"delete_packs\":1,\"delete_bytes\":2,\"repack_packs\":3,\"repack_bytes\":4}}"
        ),
        format!("{{\"run\":\"{id}\",\"reason\":\"taken for dead\",\"at\":{at}}}"),
        format!(
            "{{\"pack\":[\"{id}\",7],\"run\":\"{id}\",\"chunks\":[{{\"class\":1,\"id\":\"{}\"}}],\"at\":{at}}}",
            "05".repeat(32)
        ),
    ]
    .map(String::into_bytes)
    .to_vec()
}

/// The plan of a collection, the fence of one, and the record of a loss.
fn read_collection(bytes: &[u8]) {
    drop(read_json::<GcPlan>("plan", bytes));
    drop(read_json::<GcFence>("fence", bytes));
    let Ok(lost) = read_json::<Lost>("lost", bytes) else { return };
    let pack = PackId { session: SESSION, number: 7 };
    let name = ObjectName::Lost { source: SOURCE, pack, run: SESSION };
    assert_eq!(lost.check(&name).is_ok(), (lost.pack, lost.run) == (pack, SESSION));
}

fn descriptors() -> Vec<Vec<u8>> {
    let descriptor = Descriptor::new(REPOSITORY, Suite::Standard, (131_072, 64 << 20), Timestamp(5), [4; 32]);
    let region = format!("{{\"repository\":\"{REPOSITORY}\",\"region\":\"{}\",\"joined\":7}}", "04".repeat(16));
    vec![descriptor.encode(), region.into_bytes()]
}

fn read_descriptor(bytes: &[u8]) {
    if let Ok(descriptor) = Descriptor::decode(bytes) {
        assert!(descriptor.extent_size > 0 && descriptor.pack_size > 0);
        assert_eq!(Descriptor::decode(&descriptor.encode()).ok(), Some(descriptor));
    }
    drop(RegionRecord::decode(bytes));
}

#[test]
fn the_seeds_are_good_ones() {
    let _alone = breakwater_fuzz::alone();
    for bytes in key_files() {
        with_file(&bytes, |path| assert!(key_kind(path).is_ok(), "{}", text(&bytes)));
    }
    let grant_file = key_files().pop().expect("there are six");
    with_file(&grant_file, |path| assert!(Grant::read(path).expect("a grant").open(&Identity(private())).is_ok()));
    let opened = RecipientsRecord::open(&recipients().encode(&root()), REPOSITORY, &commitment(&root()), &private());
    assert_eq!(opened.expect("it opens"), Some((recipients(), root())));
    assert!(lock(&context()).open(PASSPHRASE, &context()).is_ok());
    assert!(DomainRecord::decode(&signed("domain-mac", &json(&domain_record())), &root()).is_ok());
    assert!(RecipientsRecord::decode(&signed("recipients-mac", &json(&recipients())), &root()).is_ok());
    assert!(ErasureRecord::decode(&signed("erasure-mac", &json(&erasure())), &root()).is_ok());
    let [plan, fence, lost] = collections().try_into().expect("there are three");
    assert!(read_json::<GcPlan>("plan", &plan).is_ok() && read_json::<GcFence>("fence", &fence).is_ok());
    assert!(read_json::<Lost>("lost", &lost).is_ok());
    assert!(descriptors().iter().any(|bytes| RegionRecord::decode(bytes).is_ok()));
    assert!(descriptors().iter().any(|bytes| Descriptor::decode(bytes).is_ok()));
}

targets! {
    files_of_keys(key_files(), Bound::TREE, |bytes| with_file(bytes, read_key_file));
    public_keys_as_text(vec![Identity(private()).public_text().into_bytes()], Bound::SMALL, |bytes| {
        if let Some(public) = parse_public(&text(bytes)) {
            assert_eq!(public, private().public(), "a wrong digit is noticed");
        }
    });
    list_of_recipients(vec![recipients().encode(&root())], Bound::TREE, |bytes| recipients_from_outside(bytes));
    holders_of_keys(
        recipients().recipients.iter().map(|member| json(&member.holder)).collect(),
        Bound::TREE,
        |bytes| open_lock(bytes)
    );
    signed_objects_from_outside(
        vec![domain_record().encode(&root()), erasure().encode(&root())],
        Bound::TREE,
        |bytes| signed_from_outside(bytes)
    );
    signed_objects_from_inside(
        vec![json(&domain_record()), json(&recipients()), json(&erasure())],
        Bound::TREE,
        |bytes| signed_from_inside(bytes)
    );
    plans_and_losses(collections(), Bound::TREE, |bytes| read_collection(bytes));
    descriptor_and_regions(descriptors(), Bound::TREE, |bytes| read_descriptor(bytes));
}

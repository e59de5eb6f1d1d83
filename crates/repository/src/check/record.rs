//! Understanding the small objects: what is sealed as one record, and what belongs to the repository itself.

use breakwater_core::SessionId;

use super::report::CheckError;
use crate::error::Trouble;
use crate::format::descriptor::{Descriptor, RegionRecord};
use crate::format::domain::DomainRecord;
use crate::format::gc_plan::{GcFence, GcPlan};
use crate::format::hold::Hold;
use crate::format::leaning::Leaning;
use crate::format::log::{Over, StreamClaim};
use crate::format::lost::{Losses, Lost};
use crate::format::manifest::Manifest;
use crate::format::moved::Moved;
use crate::format::open::{OpenRecord, SessionKeys, SourceRecord};
use crate::format::recipients::RecipientsRecord;
use crate::format::record::{RecordKind, read_json};
use crate::format::tombstone::Tombstone;
use crate::format::verified::Vouched;
use crate::format::{FormatError, ObjectName};
use crate::repository::Repository;
use crate::session::commit::{RegisterValue, read_register};

/// What a small object turned out to be, as far as others lean on it.
#[derive(Debug)]
pub(crate) enum Content {
    /// The keys of this session.
    Keys(SessionId),
    /// A committed session.
    Manifest(Box<Manifest>),
    /// Something else.
    Other,
}

const WHAT: &str = "record";

/// Reads the object `name`, which is none with the form of a pack. `place` is the region's id where it is known.
pub(crate) fn read(
    repository: &Repository,
    name: &ObjectName,
    bytes: &[u8],
    place: Option<breakwater_core::RegionId>,
) -> Result<Content, CheckError> {
    match name.source() {
        None => read_of_repository(repository, name, bytes, place).map(|()| Content::Other),
        Some(_) => read_of_source(repository, name, bytes),
    }
}

fn damaged<T>(what: &'static str, detail: &str) -> Result<T, CheckError> {
    Err(CheckError::Trouble(Trouble::Format(FormatError::damaged(what, detail))))
}

fn read_of_repository(
    repository: &Repository,
    name: &ObjectName,
    bytes: &[u8],
    place: Option<breakwater_core::RegionId>,
) -> Result<(), CheckError> {
    match name {
        ObjectName::Descriptor if Descriptor::fingerprint(bytes) != repository.fingerprint() => {
            damaged("repository descriptor", "it is not the one that the key pins")
        }
        ObjectName::Region => {
            let record = RegionRecord::decode(bytes)?;
            if record.repository != repository.id() || place.is_some_and(|place| place != record.region) {
                return damaged("region record", "it names another region than the one that was joined");
            }
            Ok(())
        }
        ObjectName::Domain { domain, epoch } => {
            // Without the repository's root nobody can tell who wrote it; a writer does not use it.
            let Some(root) = repository.root() else { return Ok(()) };
            let record = DomainRecord::decode(bytes, root)?;
            if (&record.domain, record.epoch, record.repository) != (domain, *epoch, repository.id()) {
                return damaged("domain record", "it lies under another name");
            }
            Ok(())
        }
        ObjectName::Recipients(number) => {
            let Some(root) = repository.root() else { return Ok(()) };
            let record = RecipientsRecord::decode(bytes, root)?;
            if (record.number, record.repository) != (*number, repository.id()) {
                return damaged("list of recipients", "it lies under another name");
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn read_of_source(repository: &Repository, name: &ObjectName, bytes: &[u8]) -> Result<Content, CheckError> {
    if matches!(name, ObjectName::Register(..) | ObjectName::Committed(..)) {
        return Ok(match read_register(repository, name, bytes)? {
            RegisterValue::Manifest(manifest) => Content::Manifest(manifest),
            RegisterValue::Fence(_) => Content::Other,
        });
    }
    let Some(source) = name.source() else { return Ok(Content::Other) };
    let (kind, json) = repository.open_any_record(source, name, bytes)?;
    let same = match (name, kind) {
        (ObjectName::Source(_), RecordKind::Source) => read_json::<SourceRecord>(WHAT, &json)?.uid == source,
        (ObjectName::SessionKeys(_, session) | ObjectName::ResealedKeys(_, session, _), RecordKind::SessionKeys) => {
            let keys: SessionKeys = read_json(WHAT, &json)?;
            if keys.session == *session {
                if repository.opens_content() {
                    repository.unseal_session(source, &keys)?;
                }
                return Ok(Content::Keys(*session));
            }
            false
        }
        (ObjectName::Leaning(_, on), RecordKind::Leaning) => {
            let leaning: Leaning = read_json(WHAT, &json)?;
            (leaning.source, leaning.on) == (source, *on)
        }
        (ObjectName::Verified { .. }, RecordKind::Verified) => {
            let Some(voucher) = repository.descriptor().voucher else {
                return damaged(WHAT, "nobody can vouch for packs in this repository");
            };
            read_json::<Vouched>(WHAT, &json)?.open(&voucher, repository.id(), name)?;
            true
        }
        (ObjectName::Open(_, session), RecordKind::Open) => read_json::<OpenRecord>(WHAT, &json)?.session == *session,
        (ObjectName::StreamClaim(_, generation, session), RecordKind::StreamClaim) => {
            let claim: StreamClaim = read_json(WHAT, &json)?;
            (claim.generation, claim.session) == (*generation, *session)
        }
        (ObjectName::Over(_, generation, session), RecordKind::Over) => {
            read_json::<Over>(WHAT, &json)? == Over { generation: *generation, session: *session }
        }
        (ObjectName::History(..), RecordKind::History) => true,
        (ObjectName::Tombstone(_, snapshot, session), RecordKind::Tombstone) => {
            let tombstone: Tombstone = read_json(WHAT, &json)?;
            (tombstone.snapshot, tombstone.session) == (*snapshot, *session)
        }
        (ObjectName::Hold { .. }, RecordKind::Hold) => {
            read_json::<Hold>(WHAT, &json)?.check(name)?;
            true
        }
        (ObjectName::Losses(_), RecordKind::Lost) => read_json::<Losses>(WHAT, &json)?.source == source,
        (ObjectName::Lost { .. }, RecordKind::Lost) => {
            read_json::<Lost>(WHAT, &json)?.check(name)?;
            true
        }
        (ObjectName::Moved { .. }, RecordKind::Moved) => {
            read_json::<Moved>(WHAT, &json)?.check(name)?;
            true
        }
        (ObjectName::GcPlan(_, run) | ObjectName::GcDecision(_, run), RecordKind::GcPlan) => {
            read_json::<GcPlan>(WHAT, &json)?.run == *run
        }
        (ObjectName::GcDecision(_, run), RecordKind::Fence) => read_json::<GcFence>(WHAT, &json)?.run == *run,
        _ => return damaged(WHAT, "it is of another kind than its name says"),
    };
    if same { Ok(Content::Other) } else { damaged(WHAT, "it speaks of another thing than its name") }
}

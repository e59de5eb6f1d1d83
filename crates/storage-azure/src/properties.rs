//! What the service says of a blob, in the words of the storage contract, and the other way round.

use azure_core::http::Response;
use azure_core::http::headers::{HeaderName, Headers};
use azure_core::time::{OffsetDateTime, parse_rfc7231};
use azure_storage_blob::models::{
    AccessTier, ArchiveStatus, BlobClientGetPropertiesResult, BlobClientGetPropertiesResultHeaders, BlobItem,
    ImmutabilityPolicyMode, RehydratePriority,
};
use breakwater_core::Timestamp;
use breakwater_storage::{Availability, LockMode, ObjectMeta, Protection, Retention, ThawSpeed, Tier};

/// A blob as its properties show it.
#[derive(Debug)]
pub(crate) struct Look {
    /// What is known of it.
    pub(crate) meta: ObjectMeta,
    /// What keeps it.
    pub(crate) protection: Protection,
    /// The version that is current; where there is none, the account keeps no versions.
    pub(crate) version: Option<String>,
    /// When the service said so, by its clock.
    pub(crate) at: Option<Timestamp>,
}

/// Reads the properties of the blob that holds the object `key`. `None` when something is missing that the service always says.
pub(crate) fn look(
    key: &str,
    found: &Response<BlobClientGetPropertiesResult, azure_core::http::NoFormat>,
) -> azure_core::Result<Option<Look>> {
    let (Some(size), Some(created)) = (found.content_length()?, found.creation_time()?) else { return Ok(None) };
    let tier = tier(found.access_tier()?.as_deref());
    let meta = ObjectMeta {
        tier,
        availability: availability(tier, found.archive_status()?.is_some()),
        ..ObjectMeta::new(key, size, timestamp(created))
    };
    let at = service_time(found.headers());
    let mode = found.immutability_policy_mode()?.map(lock_mode);
    let until = found.immutability_policy_expires_on()?.map(timestamp);
    let retention = mode.zip(until).map(|(mode, until)| Retention { mode, until });
    let retention = retention.filter(|retention| at.is_none_or(|at| at < retention.until));
    let protection = Protection { retention, held: found.legal_hold()?.unwrap_or(false) };
    Ok(Some(Look { meta, protection, version: found.version_id()?, at }))
}

/// An item of a list, whose key is `key`.
pub(crate) fn listed(key: &str, item: &BlobItem) -> Option<ObjectMeta> {
    let properties = item.properties.as_ref()?;
    let tier = tier(properties.access_tier.as_ref().map(AccessTier::as_ref));
    let status: Option<&ArchiveStatus> = properties.archive_status.as_ref();
    Some(ObjectMeta {
        tier,
        availability: availability(tier, status.is_some()),
        ..ObjectMeta::new(key, properties.content_length?, timestamp(properties.creation_time?))
    })
}

/// When an answer was given, by the clock of the service.
pub(crate) fn service_time(headers: &Headers) -> Option<Timestamp> {
    headers.get_optional_str(&HeaderName::from_static("date")).and_then(|text| parse_rfc7231(text).ok()).map(timestamp)
}

/// The service's name for a tier.
pub(crate) fn access_tier(tier: Tier) -> AccessTier {
    match tier {
        Tier::Hot => AccessTier::Hot,
        Tier::Warm => AccessTier::Cool,
        Tier::Cold => AccessTier::Cold,
        Tier::Archive => AccessTier::Archive,
    }
}

/// The tier of that name; the tiers of premium accounts, and none at all, are read at once and free of charge.
fn tier(name: Option<&str>) -> Tier {
    match name {
        Some("Cool") => Tier::Warm,
        Some("Cold") => Tier::Cold,
        Some("Archive") => Tier::Archive,
        _ => Tier::Hot,
    }
}

fn availability(tier: Tier, rehydrating: bool) -> Availability {
    match tier {
        Tier::Archive if rehydrating => Availability::Thawing,
        Tier::Archive => Availability::Archived,
        _ => Availability::Ready,
    }
}

/// The service knows two speeds.
pub(crate) fn priority(speed: ThawSpeed) -> RehydratePriority {
    match speed {
        ThawSpeed::Bulk | ThawSpeed::Standard => RehydratePriority::Standard,
        ThawSpeed::Fast => RehydratePriority::High,
    }
}

/// The service's word for whom a lock binds.
pub(crate) fn policy_mode(mode: LockMode) -> ImmutabilityPolicyMode {
    match mode {
        LockMode::Governance => ImmutabilityPolicyMode::Unlocked,
        LockMode::Compliance => ImmutabilityPolicyMode::Locked,
    }
}

fn lock_mode(mode: ImmutabilityPolicyMode) -> LockMode {
    match mode {
        ImmutabilityPolicyMode::Locked => LockMode::Compliance,
        ImmutabilityPolicyMode::Unlocked | ImmutabilityPolicyMode::Mutable => LockMode::Governance,
    }
}

/// A moment as the service takes it: whole seconds, and never earlier than asked for.
pub(crate) fn date(moment: Timestamp) -> OffsetDateTime {
    let seconds = moment.plus_micros(999_999).as_micros().div_euclid(1_000_000);
    // Only moments after the year 9999 are beyond a date; no lock is meant to end then.
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn timestamp(moment: OffsetDateTime) -> Timestamp {
    Timestamp::from_micros(i64::try_from(moment.unix_timestamp_nanos() / 1000).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiers_are_one_to_one() {
        for one in Tier::ALL {
            assert_eq!(tier(Some(access_tier(one).as_ref())), one);
        }
        assert_eq!((tier(None), tier(Some("P10"))), (Tier::Hot, Tier::Hot));
    }

    #[test]
    fn what_is_archived_can_be_on_its_way() {
        assert_eq!(availability(Tier::Archive, false), Availability::Archived);
        assert_eq!(availability(Tier::Archive, true), Availability::Thawing);
        assert_eq!(availability(Tier::Cold, false), Availability::Ready);
    }

    #[test]
    fn a_lock_does_not_end_before_it_was_asked_to() {
        for (micros, seconds) in [(0, 0), (1, 1), (1_000_000, 1), (1_999_999, 2)] {
            assert_eq!(date(Timestamp::from_micros(micros)).unix_timestamp(), seconds);
        }
        for mode in [LockMode::Governance, LockMode::Compliance] {
            assert_eq!(lock_mode(policy_mode(mode)), mode);
        }
    }
}

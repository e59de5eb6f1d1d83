//! What controllers hear of a stream, once a second.

use std::sync::Arc;
use std::time::Duration;

use breakwater_core::{Clock, Timestamp};
use breakwater_proto::v1;

use super::Source;
use super::memory::Memory;
use super::state::{RegionShare, RegionView, StreamState, Word};
use crate::session::outbox::Outbox;

/// Reports between two writes of what is remembered.
const KEEP_EVERY: u64 = 15;

/// Reports the stream of `source` for as long as it is polled.
pub(super) async fn each_second(source: &Source, outbox: &Arc<Outbox>, memory: &Memory, clock: &dyn Clock) {
    let mut second = tokio::time::interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for count in 1_u64.. {
        second.tick().await;
        let state = source.state();
        if count.is_multiple_of(KEEP_EVERY) && state.recoverable().is_some() {
            let (memory, state) = (memory.clone(), state.clone());
            // Not waited for: a slow disk must not hold up what people hear.
            drop(tokio::task::spawn_blocking(move || memory.keep(&state)));
        }
        outbox.stream(message(&source.assigned.uid, &state, &source.region_views(), clock.now()));
    }
}

/// The message for one moment.
pub(super) fn message(uid: &str, state: &StreamState, views: &[RegionView], now: Timestamp) -> v1::StreamStatus {
    let failure = match (&state.failure, state.gap_until) {
        (Some(failure), _) => Some(failure.clone()),
        (None, Some(until)) => Some(v1::Failure::new(
            breakwater_core::ErrorClass::Partial,
            format!(
                "the log has a gap before {until}, so moments in it cannot be restored (hint: take a new backup of this source)"
            ),
        )),
        (None, None) => None,
    };
    // While the stream flows it is measured all the time; a stream that stands still says when that was.
    let observed = if state.observed.as_micros() == 0 { now } else { state.observed };
    v1::StreamStatus {
        source_uid: uid.to_owned(),
        state: state.shown().to_owned(),
        failure,
        observed: match state.word {
            // That it does not answer is known now.
            Word::Starting | Word::Unreachable | Word::Failed | Word::Stopped => now.as_micros(),
            Word::Streaming | Word::SpoolFull => observed.as_micros(),
        },
        source_clock: state.watermark.map_or(0, |watermark| watermark.clock.as_micros()),
        source_position: state.watermark.map(|watermark| watermark.position.into()),
        released: state.released.map(Into::into),
        spool_bytes: state.spool_bytes,
        regions: state.regions.iter().map(|share| point(share, state, views, now)).collect(),
    }
}

fn point(share: &RegionShare, state: &StreamState, views: &[RegionView], now: Timestamp) -> v1::RegionPoint {
    let view = views.iter().find(|view| Some(view.status.id) == share.id);
    let status = view.map(|view| &view.status);
    let debt = view.map(|view| view.debt).unwrap_or_default();
    let away = status.is_none_or(|status| status.reachable == Some(false));
    let lags = state.durable.zip(share.held_to).is_some_and(|(durable, held)| held < durable);
    // Nobody can say that a region lacks nothing before it was compared with the others.
    let unknown = view.is_none_or(|view| !view.compared);
    let word = match share.recoverable {
        None => "never",
        Some(_) if away => "unreachable",
        Some(_) if lags || debt.objects > 0 || unknown => "behind",
        Some(_) => "ok",
    };
    // What is on its way for less than a second is no debt.
    let missing = word != "ok" && (share.pending_bytes > 0 || debt.objects > 0);
    let oldest = debt.oldest.or_else(|| status.and_then(|status| status.oldest_owed_since)).unwrap_or(now);
    let drain = status.and_then(|status| status.drain_estimate);
    let failure = status.filter(|_| away || missing).and_then(|status| status.last_error.as_ref());
    v1::RegionPoint {
        region: share.region.clone(),
        state: word.to_owned(),
        recoverable: share.recoverable.map_or(0, |watermark| watermark.clock.as_micros()),
        position: share.held_to.map(Into::into),
        // The debt holds what is missing of the log too, but not what was received and stored nowhere yet.
        pending_bytes: share.pending_bytes.max(debt.bytes),
        pending_items: if missing { debt.objects } else { 0 },
        oldest_pending: if missing { oldest.as_micros() } else { 0 },
        drain_seconds: match (missing, drain) {
            (false, _) => 0,
            (true, Some(drain)) => i64::try_from(drain.as_secs()).unwrap_or(-1),
            (true, None) => -1,
        },
        last_error: match failure {
            Some((failure, _)) => failure.to_string(),
            None if word == "behind" && unknown => "not yet compared with the other regions".to_owned(),
            None => String::new(),
        },
    }
}

#[cfg(test)]
mod tests {
    use breakwater_core::{LogPosition, RegionId, Watermark};
    use breakwater_repository::regions::{RegionStatus, Role, SourceDebt};

    use super::*;

    fn view(reachable: bool, owed: u64) -> RegionView {
        let status = RegionStatus {
            name: "one".to_owned(),
            id: RegionId::from_bytes([1; 16]),
            role: Role::Sync,
            reachable: Some(reachable),
            last_error: None,
            last_success: None,
            compared: true,
            owed_objects: owed + 7,
            owed_bytes: owed * 10,
            oldest_owed_since: Some(Timestamp(1)),
            bytes_written: 0,
            drain_estimate: None,
        };
        let oldest = (owed > 0).then_some(Timestamp(3));
        let debt = SourceDebt { objects: owed, bytes: owed * 10, oldest, ..SourceDebt::default() };
        RegionView { status, debt, compared: true }
    }

    fn state(held: u64, durable: u64) -> StreamState {
        let watermark = Watermark { clock: Timestamp(7), position: LogPosition::new(1, 70) };
        let share = RegionShare {
            region: "one".to_owned(),
            id: Some(RegionId::from_bytes([1; 16])),
            recoverable: Some(watermark),
            held_to: Some(LogPosition::new(1, held)),
            pending_bytes: durable - held,
        };
        let durable = Some(LogPosition::new(1, durable));
        StreamState { word: Word::Streaming, durable, regions: vec![share], ..StreamState::default() }
    }

    #[test]
    fn a_region_is_ok_behind_unreachable_or_never_and_nothing_else() {
        let word = |state: &StreamState, view: RegionView| {
            let message = message("u", state, &[view], Timestamp(100));
            (message.regions[0].state.clone(), message.regions[0].oldest_pending)
        };
        assert_eq!(word(&state(80, 80), view(true, 0)), ("ok".to_owned(), 0), "what other sources owe is not ours");
        assert_eq!(word(&state(80, 90), view(true, 2)), ("behind".to_owned(), 3));
        assert_eq!(word(&state(80, 90), view(false, 2)), ("unreachable".to_owned(), 3));
        let mut never = state(80, 90);
        never.regions[0].recoverable = None;
        assert_eq!(word(&never, view(true, 0)).0, "never");
        assert_eq!(message("u", &state(8, 8), &[], Timestamp(1)).regions[0].state, "unreachable");
    }

    #[test]
    fn a_region_that_holds_the_log_and_lacks_a_base_is_behind() {
        let message = message("u", &state(80, 80), &[view(true, 2)], Timestamp(100));
        let point = &message.regions[0];
        assert_eq!((point.state.as_str(), point.pending_items, point.pending_bytes), ("behind", 2, 20));
    }

    #[test]
    fn a_region_that_was_not_compared_is_never_ok() {
        let unknown = RegionView { compared: false, ..view(true, 0) };
        let message = message("u", &state(80, 80), &[unknown], Timestamp(100));
        assert_eq!(message.regions[0].state, "behind");
        assert!(message.regions[0].last_error.contains("not yet compared"));
    }

    #[test]
    fn a_gap_says_what_to_do() {
        let mut state = state(80, 80);
        state.gap_until = Some(LogPosition::new(1, 64));
        let message = message("u", &state, &[view(true, 0)], Timestamp(100));
        assert_eq!(message.state, "gap");
        assert!(message.failure.is_some_and(|failure| failure.message.contains("new backup")));
    }
}

//! What was last known of a stream's regions, kept on disk: an agent that starts while everything is away goes on to say
//! how old each region is, and not that it never held anything.

use std::path::PathBuf;

use breakwater_core::{Chain, Timestamp, Watermark};
use serde::{Deserialize, Serialize};

use super::state::{RegionShare, StreamState};
use crate::durable;

/// The file of one source.
#[derive(Clone, Debug)]
pub struct Memory {
    path: PathBuf,
}

#[derive(Debug, Deserialize, Serialize)]
struct Remembered {
    observed: Timestamp,
    watermark: Option<Watermark>,
    regions: Vec<RegionShare>,
}

impl Memory {
    /// The file at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Memory { path: path.into() }
    }

    /// Puts what is remembered into a new state. Nothing, or nothing readable, is no reason to stop: the regions say it
    /// again once they answer.
    pub(super) fn recall(&self, state: &mut StreamState) {
        let Ok(Some(bytes)) = durable::read(&self.path) else { return };
        if let Ok(remembered) = serde_json::from_slice::<Remembered>(&bytes) {
            state.observed = remembered.observed;
            state.watermark = remembered.watermark;
            state.regions = remembered.regions;
        }
    }

    /// Keeps what is known now. Blocking for a moment.
    pub(super) fn keep(&self, state: &StreamState) {
        let remembered =
            Remembered { observed: state.observed, watermark: state.watermark, regions: state.regions.clone() };
        let kept = self
            .path
            .parent()
            .map_or(Ok(()), durable::make_private_directory)
            .and_then(|()| durable::replace(&self.path, &serde_json::to_vec(&remembered).unwrap_or_default()));
        if let Err(error) = kept {
            tracing::warn!(error = %Chain(&error), "what is known of a stream's regions is not kept");
        }
    }
}

#[cfg(test)]
mod tests {
    use breakwater_core::LogPosition;

    use super::*;

    #[test]
    fn what_a_region_held_is_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let memory = Memory::new(directory.path().join("streams/a.json"));
        let mut nothing = StreamState::default();
        memory.recall(&mut nothing);
        assert_eq!(nothing, StreamState::default());
        let watermark = Watermark { clock: Timestamp(7), position: LogPosition::new(1, 70) };
        let share = RegionShare { region: "one".to_owned(), recoverable: Some(watermark), ..RegionShare::default() };
        let known = StreamState { observed: Timestamp(9), regions: vec![share], ..StreamState::default() };
        memory.keep(&known);
        let mut state = StreamState::default();
        memory.recall(&mut state);
        assert_eq!((state.recoverable(), state.observed), (Some(Timestamp(7)), Timestamp(9)));
        std::fs::write(directory.path().join("streams/a.json"), "{").unwrap();
        memory.recall(&mut nothing);
        assert_eq!(nothing, StreamState::default());
    }
}

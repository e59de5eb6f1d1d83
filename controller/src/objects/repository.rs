//! A repository as declared: its regions and how many of them must hold an object before it counts.

use serde::{Deserialize, Serialize};

use super::region::{RegionRole, RegionSpec};

/// The `spec` of a `Repository`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RepositorySpec {
    /// The regions, in the order in which they are preferred for reading.
    pub regions: Vec<RegionSpec>,
    /// Sync regions that must hold an object before it is durable; 1 unless said.
    #[serde(default = "default_commit")]
    pub commit: u32,
}

fn default_commit() -> u32 {
    1
}

impl RepositorySpec {
    pub(crate) fn check(&self) -> Result<(), String> {
        let sync = self.regions.iter().filter(|region| region.role == RegionRole::Sync).count();
        if sync == 0 {
            return Err("spec.regions: at least one region with role `sync` is needed".to_owned());
        }
        if self.commit == 0 || usize::try_from(self.commit).is_ok_and(|commit| commit > sync) {
            return Err(format!("spec.commit: {} is not between 1 and the {sync} sync regions", self.commit));
        }
        for (index, region) in self.regions.iter().enumerate() {
            let earlier = || self.regions.iter().take(index);
            if earlier().any(|other| other.name == region.name) {
                return Err(format!("spec.regions: two regions are named `{}`", region.name));
            }
            region.check().map_err(|error| format!("spec.regions: {error}"))?;
            let is_same = |other: &&RegionSpec| match (other.place(), region.place()) {
                (Ok(one), Ok(two)) => one.is_same_place(&two),
                _ => false,
            };
            if let Some(other) = earlier().find(is_same) {
                return Err(format!(
                    "spec.regions: `{}` and `{}` are one place: {}",
                    other.name, region.name, region.url
                ));
            }
        }
        Ok(())
    }
}

//! A repository as declared: its regions and how many of them must hold an object before it counts.

use breakwater_core::Name;
use serde::{Deserialize, Serialize};

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

/// One region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RegionSpec {
    /// Its name.
    pub name: Name,
    /// Where it is: `file:///path` or an absolute path, as its agents see it.
    pub url: String,
    /// `sync` unless said.
    #[serde(default)]
    pub role: RegionRole,
}

/// What a region is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RegionRole {
    /// Counts for `commit`.
    #[default]
    Sync,
    /// Follows; a full copy that is never waited for.
    Async,
}

impl RegionRole {
    /// The word in documents and on the wire.
    pub fn word(self) -> &'static str {
        match self {
            RegionRole::Sync => "sync",
            RegionRole::Async => "async",
        }
    }
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
            if let Some(other) = earlier().find(|other| place(&other.url) == place(&region.url)) {
                return Err(format!(
                    "spec.regions: `{}` and `{}` are one place: {}",
                    other.name, region.name, region.url
                ));
            }
            let known = region.url.starts_with('/') || region.url.starts_with("file:///");
            if !known {
                return Err(format!(
                    "spec.regions: `{}`: `{}` is not a place this version can write to (hint: file:///path or an absolute path)",
                    region.name, region.url
                ));
            }
        }
        Ok(())
    }
}

fn place(url: &str) -> &str {
    url.strip_prefix("file://").unwrap_or(url).trim_end_matches('/')
}

//! A plan: which sources go to which repository. Schedules and retention join it in a later version.

use breakwater_core::Name;
use serde::{Deserialize, Serialize};

use super::compression;

/// The `spec` of a `Plan`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PlanSpec {
    /// The repository it writes to, in the same namespace.
    pub repository: Name,
    /// The sources it covers, in the same namespace.
    pub sources: Vec<Name>,
    /// How data is compressed: a word like `zstd:3` (see [`super::compression`]); the agent's own choice unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<String>,
    /// Packs of one backup that are on their way into the regions at once; the agent's own choice unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uploads: Option<u32>,
}

impl PlanSpec {
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.sources.is_empty() {
            return Err("spec.sources: a plan with no source protects nothing".to_owned());
        }
        for (index, source) in self.sources.iter().enumerate() {
            if self.sources.iter().take(index).any(|earlier| earlier == source) {
                return Err(format!("spec.sources: `{source}` is named twice"));
            }
        }
        if let Some(word) = &self.compression {
            compression::check(word).map_err(|bad| format!("spec.compression: {bad}"))?;
        }
        match self.uploads {
            Some(0) => Err("spec.uploads: with none at once nothing is ever written".to_owned()),
            _ => Ok(()),
        }
    }
}

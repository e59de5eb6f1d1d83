//! What jobs, questions and sources work with.

use std::path::PathBuf;
use std::sync::Arc;

use breakwater_core::{Clock, Entropy};
use breakwater_runtime::ByteBudget;

use crate::jobs::Lineage;
use crate::repositories::Repositories;
use crate::sources::Sources;

/// The tools of one agent.
#[derive(Debug)]
pub struct Toolbox {
    /// Opened repositories.
    pub repositories: Repositories,
    /// The sources that are looked after.
    pub sources: Sources,
    /// Bytes for buffers, for everything together.
    pub budget: ByteBudget,
    /// Where work may keep files while it goes on.
    pub scratch: PathBuf,
    /// What was committed last.
    pub lineage: Lineage,
    /// The program whose `wal-fetch` restored servers call.
    pub fetch_program: PathBuf,
    /// The name of this host.
    pub host: String,
    /// This agent's name.
    pub agent: String,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
}

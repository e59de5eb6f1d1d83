//! The tokio side that every program of Breakwater shares: the system's clock and randomness, tasks that stop when told,
//! retries, a budget of bytes, and telemetry.
//!
//! Nothing here knows what a backup is. What decides belongs into the pure crates; what is here only runs it.
//!
//! Reading order: [`system`], [`task_group`], [`signal`], [`retry`], [`byte_budget`], [`telemetry`].

pub mod byte_budget;
pub mod retry;
pub mod signal;
pub mod system;
pub mod task_group;
pub mod telemetry;

pub use byte_budget::{ByteBudget, Permit};
pub use retry::RetryPolicy;
pub use signal::shutdown_signal;
pub use system::{SystemClock, SystemEntropy};
pub use task_group::TaskGroup;

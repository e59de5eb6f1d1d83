//! What the end-to-end scenarios share: a small installation of the real programs, and the questions asked of it.
//!
//! Each file of `tests/tests` is one scenario. A [`Fleet`] is a controller, agents and a repository in directories of its own; it is
//! driven through `brctl` and signals alone, as an operator and a crash would. The parts' logs are shown when a test fails.
//!
//! Reading order: [`fleet`], [`part`], [`brctl`], [`region`], [`source`], [`load`], [`packs`], [`restored`], [`main_job`].

pub mod brctl;
pub mod fleet;
pub mod load;
pub mod main_job;
pub mod packs;
pub mod part;
pub mod region;
pub mod restored;
pub mod source;

pub use brctl::Brctl;
pub use fleet::Fleet;
pub use region::Region;

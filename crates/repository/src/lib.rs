//! (module map to come)

pub mod regions;

//! Decisions without effects: what follows from a state, a policy and a moment.
//!
//! Nothing here does I/O, reads a clock or draws randomness. [`job`] is the life of a job; [`assignment`] derives what
//! each agent looks after from the declared objects; [`lag`] turns watermarks into figures that cannot lie;
//! [`protection`] says how well a source is protected and what to do next.

pub mod assignment;
pub mod job;
pub mod lag;
pub mod protection;

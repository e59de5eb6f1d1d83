//! Regions that fail in every way, under a clock that jumps from timer to timer.

mod comparing;
pub(crate) mod lab;
mod outages;
mod reading;
mod registers;

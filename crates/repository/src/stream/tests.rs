//! Streams against a byte vector that says what must come back, over regions that fail.

mod bed;
mod planning;
mod restarts;
mod writing;

//! `brctl`: how a person drives Breakwater.

use std::process::ExitCode;

fn main() -> ExitCode {
    breakwater_brctl::run()
}

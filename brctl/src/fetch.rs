//! The program that a recovering server calls for its log.
//!
//! While we recover ourselves that is this very program, so that both ends are of one version. What is left behind for a
//! person's own recovery names `breakwater-agent` where it is installed, because that one stays.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use breakwater_agent::wiring::{WAL_FETCH_FAILED, wal_fetch};

use crate::failure::Failure;
use crate::output::say;

const AGENT: &str = "breakwater-agent";

/// This program, whose `wal-fetch` servers call while we recover them.
pub(crate) fn own_program() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(|error| Failure::io("cannot find this program", &error))
}

/// The program whose `wal-fetch` servers call in a person's own recovery.
pub(crate) fn lasting_program() -> Result<PathBuf, Failure> {
    let own = own_program()?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let beside = own.parent().map(Path::to_owned);
    let places = beside.into_iter().chain(std::env::split_paths(&path).filter(|place| place.is_absolute()));
    let installed = places.map(|place| place.join(AGENT)).find(|candidate| candidate.is_file());
    Ok(installed.unwrap_or(own))
}

/// Serves `wal-fetch [--socket PATH] %f %p`. Every doubt ends with a code that stops the recovery: a smaller one would
/// tell the server that its log ends here.
pub(crate) fn serve(words: impl Iterator<Item = OsString>) -> u8 {
    let mut socket = std::env::var_os("BREAKWATER_FETCH_SOCKET");
    let mut rest = Vec::new();
    let mut words = words;
    while let Some(word) = words.next() {
        if word == "--socket" {
            socket = words.next();
        } else {
            rest.push(word);
        }
    }
    match (socket, rest.as_slice()) {
        (Some(socket), [name, destination]) => match name.to_str() {
            Some(name) => wal_fetch(Path::new(&socket), name, Path::new(destination)),
            None => WAL_FETCH_FAILED,
        },
        (None, [_, _]) => {
            say("breakwater: no restore serves this server (hint: run the restore without --no-recover)");
            WAL_FETCH_FAILED
        }
        _ => {
            say("breakwater: wal-fetch is called as restore_command: wal-fetch [--socket PATH] %f %p");
            WAL_FETCH_FAILED
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_doubt_stops_the_recovery() {
        let serve = |words: &[&str]| serve(words.iter().map(OsString::from));
        for words in [
            &[][..],
            &["000000010000000000000001"],
            &["000000010000000000000001", "/x/p"],
            &["--socket", "/nowhere/s", "000000010000000000000001", "/x/p"],
            &["--socket"],
            &["--surprise", "a", "b"],
        ] {
            assert!(serve(words) > 125, "{words:?}");
        }
    }
}

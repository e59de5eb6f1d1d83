//! The program that a recovering server calls for its log: `breakwater-agent` where it is installed, else this one.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use breakwater_agent::wiring::{WAL_FETCH_FAILED, wal_fetch};

use crate::failure::Failure;
use crate::output::say;

const AGENT: &str = "breakwater-agent";

/// The program whose `wal-fetch` restored servers call.
pub(crate) fn program() -> Result<PathBuf, Failure> {
    let own = std::env::current_exe().map_err(|error| Failure::io("cannot find this program", &error))?;
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

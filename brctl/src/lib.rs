//! The command line: reads what was typed, does it, and ends with an exit code of the contract in `docs/cli.md`.
//!
//! Reading order: [`args`] and [`settings`] (what was asked), [`context`] and [`client`] (which controller),
//! [`output`], [`view`] and [`failure`] (what is shown), [`wait`] (following jobs), [`command`] (one module a noun),
//! [`offline`] (without a controller), [`local`], [`demo`] and [`fetch`] (with everything in this process).

mod args;
mod client;
mod command;
mod confirm;
mod context;
mod demo;
mod failure;
mod fetch;
mod local;
mod offline;
mod output;
mod settings;
mod view;
mod wait;
mod wiring;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Args;
use crate::command::Ending;
use crate::failure::Failure;

/// Runs `brctl` with this process's arguments and environment.
pub fn run() -> ExitCode {
    // Before anything else may refuse a word with a code that a recovering server understands otherwise.
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|first| first == "wal-fetch") {
        return ExitCode::from(fetch::serve(words));
    }
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let code = if error.use_stderr() { 2 } else { 0 };
            // Where nobody reads, the code still says it.
            drop(error.print());
            return ExitCode::from(code);
        }
    };
    let ended = settings::resolve(&args.global, &|name| std::env::var_os(name))
        .and_then(|settings| runtime()?.block_on(command::run(args.command, settings)));
    match ended {
        Ok(Ending(code)) => ExitCode::from(code),
        Err(failure) => {
            if !failure.is_reader_gone() {
                output::say(&failure);
            }
            ExitCode::from(failure.code())
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Runtime::new().map_err(|error| Failure::io("cannot start the runtime", &error))
}

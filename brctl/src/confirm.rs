//! Asking before something is destroyed.
//!
//! Invariant: nothing is destroyed unless its name was typed, at the prompt or in `--yes`.

use std::io::{BufRead, IsTerminal};

use crate::failure::Failure;
use crate::output::say;

/// Asks for the name of what is to be destroyed, or takes it from `--yes`. `what` is its kind, like `source`; `names` are what
/// it may be called by, the first one is shown.
pub(crate) fn confirm(what: &str, names: &[&str], yes: Option<&str>) -> Result<(), Failure> {
    let name = names.first().copied().unwrap_or_default();
    let given = match yes {
        Some(given) => given.to_owned(),
        None if std::io::stdin().is_terminal() => {
            say(format!("this deletes {what} `{name}`; type its name to go on:"));
            let mut line = String::new();
            std::io::stdin().lock().read_line(&mut line).map_err(|error| Failure::io("standard input", &error))?;
            line.trim().to_owned()
        }
        None => {
            return Err(Failure::refused(format!("deleting {what} `{name}` has to be confirmed; nothing was changed"))
                .hint(format!("--yes={name}")));
        }
    };
    if !given.is_empty() && names.contains(&given.as_str()) {
        return Ok(());
    }
    Err(Failure::refused(format!("`{given}` is not `{name}`; nothing was changed")).hint(format!("--yes={name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deleting_needs_the_right_name() {
        assert!(confirm("source", &["app"], Some("app")).is_ok());
        assert!(confirm("snapshot", &["0199-whole", "0199"], Some("0199")).is_ok());
        for (names, given) in [(&["app"][..], "ap"), (&["app"][..], ""), (&["0199-whole", ""][..], "")] {
            let wrong = confirm("source", names, Some(given)).unwrap_err();
            assert!(wrong.code() == 4 && wrong.to_string().contains("--yes="), "{wrong}");
        }
    }
}

//! Which controller, with which token, behind which certificate.
//!
//! Invariant: a token is never sent to an address that it was not given for: naming another controller leaves the
//! context's token behind.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use breakwater_core::ErrorClass;
use serde::Deserialize;

use crate::failure::Failure;
use crate::settings::ContextChoice;

/// All that is needed to talk to a controller.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Context {
    /// Its address.
    pub(crate) controller: String,
    /// Its certificate authority, PEM.
    pub(crate) ca_pem: String,
    /// The operator token.
    pub(crate) token: String,
    /// Where this was found, for people.
    pub(crate) origin: String,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("controller", &self.controller)
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

/// A context in a file; a controller writes all three.
#[derive(Clone, Debug, Default, Deserialize)]
struct FileContext {
    controller: Option<String>,
    ca: Option<String>,
    token: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct ContextsFile {
    current: Option<String>,
    #[serde(default)]
    contexts: BTreeMap<String, FileContext>,
    #[serde(flatten)]
    single: FileContext,
}

/// Finds the context that was chosen.
pub(crate) fn find(choice: &ContextChoice) -> Result<Context, Failure> {
    let (found, origin) = from_file(choice)?;
    let explicit = choice.file.is_some() || choice.context.is_some();
    let (controller, of_context) = match (&choice.controller, &found.controller) {
        (Some(named), known) => (named.clone(), explicit || known.as_deref().is_some_and(|known| same(known, named))),
        (None, Some(known)) => (known.clone(), true),
        (None, None) => {
            return Err(Failure::usage("it is not known where the controller is").hint(
                "--controller URL, or BRCTL_CONTEXT_FILE=FILE with the context file that the controller writes; to try it here: brctl dev --data-dir DIR",
            ));
        }
    };
    let (context_token, context_ca) = if of_context { (found.token, found.ca) } else { (None, None) };
    let token = choice.token.clone().or(context_token).ok_or_else(|| {
        Failure::new(ErrorClass::Denied, format!("there is no operator token for {controller}"))
            .hint("set BRCTL_TOKEN, or use the context file that the controller writes")
    })?;
    let ca_pem = match &choice.ca {
        Some(path) => std::fs::read_to_string(path).map_err(|error| Failure::io(path.display(), &error))?,
        None => context_ca.ok_or_else(|| {
            Failure::new(ErrorClass::Denied, format!("there is no certificate authority to know {controller} by"))
                .hint("--ca FILE or BRCTL_CA, or use the context file that the controller writes")
        })?,
    };
    Ok(Context { controller: address(&controller)?, ca_pem, token, origin })
}

/// The context from a file, empty when none was named and the usual file is absent.
fn from_file(choice: &ContextChoice) -> Result<(FileContext, String), Failure> {
    let nothing = || Ok((FileContext::default(), "flags and environment".to_owned()));
    let path: PathBuf = match (&choice.file, &choice.default_file) {
        (Some(path), _) => path.clone(),
        (None, Some(path)) if path.exists() || choice.context.is_some() => path.clone(),
        (None, _) if choice.context.is_some() => {
            return Err(Failure::usage("--context needs a contexts file (hint: --context-file FILE)"));
        }
        (None, _) => return nothing(),
    };
    let file = read(&path)?;
    let shown = path.display();
    let Some(name) = choice.context.as_ref().or(file.current.as_ref()) else {
        if file.single.controller.is_some() {
            return Ok((file.single, shown.to_string()));
        }
        if choice.controller.is_some() && choice.file.is_none() {
            return nothing();
        }
        return Err(Failure::usage(format!("{shown} says no current context"))
            .hint(format!("--context NAME, one of: {}", names(&file.contexts))));
    };
    match file.contexts.get(name) {
        Some(context) => Ok((context.clone(), format!("context `{name}` of {shown}"))),
        None => Err(Failure::new(ErrorClass::NotFound, format!("{shown} has no context `{name}`"))
            .hint(format!("it has: {}", names(&file.contexts)))),
    }
}

fn names(contexts: &BTreeMap<String, FileContext>) -> String {
    if contexts.is_empty() {
        return "none".to_owned();
    }
    contexts.keys().cloned().collect::<Vec<_>>().join(", ")
}

fn read(path: &Path) -> Result<ContextsFile, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::io(format!("context file {}", path.display()), &error))?;
    serde_json::from_str(&text).map_err(|error| {
        // The parser's own message may quote the text, and the text holds a token.
        let place = format!("line {}, column {}", error.line(), error.column());
        Failure::usage(format!("context file {} is not readable: {place}", path.display())).hint(
            "{\"controller\": URL, \"ca\": PEM, \"token\": TOKEN}, or {\"current\": NAME, \"contexts\": {NAME: {...}}}",
        )
    })
}

fn same(a: &str, b: &str) -> bool {
    a.trim_end_matches('/').eq_ignore_ascii_case(b.trim_end_matches('/'))
}

/// A controller's address with its scheme.
fn address(text: &str) -> Result<String, Failure> {
    let text = text.trim_end_matches('/');
    match text.split_once("://") {
        Some(("https", rest)) if !rest.is_empty() => Ok(text.to_owned()),
        Some(("http", _)) => {
            Err(Failure::usage(format!("`{text}`: a controller speaks TLS only")).hint("use https://"))
        }
        Some(_) => {
            Err(Failure::usage(format!("`{text}` is not the address of a controller")).hint("like https://host:7443"))
        }
        None if !text.is_empty() => Ok(format!("https://{text}")),
        None => Err(Failure::usage("the controller's address is empty").hint("like https://host:7443")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SINGLE: &str = r#"{"controller": "https://a:1", "ca": "PEM", "token": "t1"}"#;
    const SEVERAL: &str = r#"{"current": "prod", "contexts": {
        "prod": {"controller": "https://p:1", "ca": "PEM", "token": "t2"},
        "test": {"controller": "https://t:1", "ca": "PEM", "token": "t3"}}}"#;

    fn check(text: &str, change: impl FnOnce(&mut ContextChoice)) -> Result<Context, Failure> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("contexts.json");
        std::fs::write(&path, text).unwrap();
        let mut choice = ContextChoice { default_file: Some(path), ..ContextChoice::default() };
        change(&mut choice);
        find(&choice)
    }

    #[test]
    fn contexts_are_found() {
        let single = check(SINGLE, |_| ()).unwrap();
        assert_eq!((single.controller.as_str(), single.token.as_str()), ("https://a:1", "t1"));
        assert_eq!(check(SEVERAL, |_| ()).unwrap().token, "t2");
        assert_eq!(check(SEVERAL, |choice| choice.context = Some("test".to_owned())).unwrap().token, "t3");
        let unknown = check(SEVERAL, |choice| choice.context = Some("other".to_owned())).unwrap_err();
        assert_eq!(unknown.code(), 6);
        assert!(unknown.to_string().contains("prod, test"), "{unknown}");
        let missing = check(SINGLE, |choice| choice.file = Some("/nowhere/x.json".into())).unwrap_err();
        assert_eq!(missing.code(), 6, "{missing}");
        assert_eq!(check("", |choice| choice.default_file = None).unwrap_err().code(), 2);
    }

    #[test]
    fn a_token_stays_with_its_controller() {
        let elsewhere = |choice: &mut ContextChoice| choice.controller = Some("https://evil:1".to_owned());
        assert_eq!(check(SINGLE, elsewhere).unwrap_err().code(), 3);
        let same = check(SINGLE, |choice| choice.controller = Some("https://A:1/".to_owned())).unwrap();
        assert_eq!(same.token, "t1");
        let own = check(SINGLE, |choice| {
            elsewhere(choice);
            choice.token = Some("mine".to_owned());
        });
        assert_eq!(own.unwrap_err().code(), 3, "the certificate authority is not taken over either");
    }

    #[test]
    fn bad_files_and_addresses_are_named_without_their_secrets() {
        let error = check(r#"{"controller": "https://a:1", "token": "t1"#, |_| ()).unwrap_err();
        assert!(error.code() == 2 && !error.to_string().contains("t1"), "{error}");
        let plain = check(&SINGLE.replace("https", "http"), |_| ()).unwrap_err();
        assert!(plain.code() == 2 && plain.to_string().contains("TLS"), "{plain}");
        assert!(!format!("{:?}", check(SINGLE, |_| ()).unwrap()).contains("t1"));
    }
}

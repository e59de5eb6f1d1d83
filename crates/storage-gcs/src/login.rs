//! As whom requests are made: the credentials that Google's own library makes of a file or of the host's identity.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use breakwater_core::Chain;
use breakwater_storage::StorageErrorKind;
use google_cloud_auth::credentials::{
    CacheableResource, Credentials, anonymous, external_account, impersonated, mds, service_account, user_account,
};
use google_cloud_auth::errors::CredentialsError;
use reqwest::header::HeaderMap;
use serde_json::Value;

use crate::wire::Trouble;

/// All of storage and nothing else; locks and holds need it. What the account may really do is a matter of its roles.
const SCOPE: &str = "https://www.googleapis.com/auth/devstorage.full_control";
/// Where `gcloud auth application-default login` leaves credentials, below the home directory.
const WELL_KNOWN: &str = ".config/gcloud/application_default_credentials.json";

/// Where credentials come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Nowhere: a server of tests that asks for none.
    Anonymous,
    /// The file of the option `credentials`, which is its owner's alone.
    Private(PathBuf),
    /// A file that other programs of this host use too.
    Shared(PathBuf),
    /// The metadata server of the host: a virtual machine, a pod with workload identity.
    Host,
}

impl Source {
    /// The first that is there, in the order of Application Default Credentials (<https://google.aip.dev/auth/4110>) behind
    /// `option`. `variable` reads the environment.
    pub(crate) fn choose(option: Option<&str>, variable: impl Fn(&str) -> Option<OsString>) -> Source {
        if let Some(path) = option {
            return Source::Private(path.into());
        }
        if let Some(path) = variable("GOOGLE_APPLICATION_CREDENTIALS").filter(|path| !path.is_empty()) {
            return Source::Shared(path.into());
        }
        let well_known = variable("HOME").map(|home| Path::new(&home).join(WELL_KNOWN));
        well_known.filter(|path| path.is_file()).map_or(Source::Host, Source::Shared)
    }
}

/// The identity of requests. It is made anew, also from a file that was replaced meanwhile, after it was refused.
#[derive(Debug)]
pub(crate) struct Login {
    source: Source,
    quota_project: Option<String>,
    current: Mutex<Option<Credentials>>,
}

impl Login {
    /// Credentials of `source`, charged to `quota_project`. A file is read and judged now; nothing is asked of the network.
    pub(crate) fn new(source: Source, quota_project: Option<String>) -> Result<Login, String> {
        if let Source::Private(path) | Source::Shared(path) = &source {
            kind_of(&read(path, matches!(source, Source::Private(_)))?, path)?;
        }
        Ok(Login { source, quota_project, current: Mutex::new(None) })
    }

    #[cfg(test)]
    pub(crate) fn anonymous() -> Login {
        Login { source: Source::Anonymous, quota_project: None, current: Mutex::new(None) }
    }

    /// The headers that say who is asking.
    pub(crate) async fn headers(&self) -> Result<HeaderMap, Trouble> {
        let credentials = self.credentials().map_err(|why| Trouble::failed(StorageErrorKind::Denied, why))?;
        match credentials.headers(Default::default()).await {
            Ok(CacheableResource::New { data, .. }) => Ok(data),
            Ok(CacheableResource::NotModified) => Err(Trouble::nonsense("credentials without a token")),
            Err(error) => {
                self.forget();
                Err(judged(&error, &self.source))
            }
        }
    }

    /// Lets go of credentials that were refused.
    pub(crate) fn forget(&self) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn credentials(&self) -> Result<Credentials, String> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(credentials) = current.as_ref() {
            return Ok(credentials.clone());
        }
        let credentials = self.make()?;
        *current = Some(credentials.clone());
        Ok(credentials)
    }

    fn make(&self) -> Result<Credentials, String> {
        let project = self.quota_project.clone();
        let (path, is_private) = match &self.source {
            Source::Anonymous => return Ok(anonymous::Builder::new().build()),
            Source::Host => {
                let builder = project.into_iter().fold(mds::Builder::default(), mds::Builder::with_quota_project_id);
                return builder.build().map_err(|error| Chain(&error).to_string());
            }
            Source::Private(path) => (path, true),
            Source::Shared(path) => (path, false),
        };
        let document = read(path, is_private)?;
        // Tokens are fetched once for each try of an operation; the one policy of retries is Breakwater's.
        let built = match kind_of(&document, path)? {
            Kind::ServiceAccount => {
                let scopes = service_account::AccessSpecifier::from_scopes([SCOPE]);
                let builder = service_account::Builder::new(document).with_access_specifier(scopes);
                project.into_iter().fold(builder, service_account::Builder::with_quota_project_id).build()
            }
            Kind::ExternalAccount => {
                let builder = external_account::Builder::new(document).with_scopes([SCOPE]);
                project.into_iter().fold(builder, external_account::Builder::with_quota_project_id).build()
            }
            Kind::Impersonated => {
                let builder = impersonated::Builder::new(document).with_scopes([SCOPE]);
                project.into_iter().fold(builder, impersonated::Builder::with_quota_project_id).build()
            }
            Kind::User => {
                let builder = user_account::Builder::new(document);
                project.into_iter().fold(builder, user_account::Builder::with_quota_project_id).build()
            }
        };
        built.map_err(|error| format!("credentials in {}: {}", path.display(), Chain(&error)))
    }
}

/// What a file of credentials describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    ServiceAccount,
    ExternalAccount,
    Impersonated,
    User,
}

fn kind_of(document: &Value, path: &Path) -> Result<Kind, String> {
    match document.get("type").and_then(Value::as_str) {
        Some("service_account") => Ok(Kind::ServiceAccount),
        Some("external_account") => Ok(Kind::ExternalAccount),
        Some("impersonated_service_account") => Ok(Kind::Impersonated),
        Some("authorized_user") => Ok(Kind::User),
        other => Err(format!(
            "{} is of type {} (hint: a key of a service account, or a configuration of workload identity federation)",
            path.display(),
            other.map_or("nothing".to_owned(), |name| format!("`{name}`"))
        )),
    }
}

fn read(path: &Path, is_private: bool) -> Result<Value, String> {
    let unreadable = |error: std::io::Error| format!("credentials in {} cannot be read: {error}", path.display());
    let mode = std::fs::metadata(path).map_err(unreadable)?.permissions().mode();
    if is_private && mode & 0o077 != 0 {
        return Err(format!("others can read {} (hint: chmod 600 {})", path.display(), path.display()));
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    // What is in the file is a secret, so an error says only where it is wrong.
    serde_json::from_str(&text)
        .map_err(|error| format!("{} is no JSON at line {}, column {}", path.display(), error.line(), error.column()))
}

/// What an error of the library means here.
fn judged(error: &CredentialsError, source: &Source) -> Trouble {
    let text = Chain(error).to_string();
    let hint = match source {
        Source::Host => {
            " (hint: no metadata server answers here; name a file with credentials=/PATH, or run where the host has an \
                         identity)"
        }
        _ if text.contains("invalid_grant") => {
            " (hint: the key was deleted, its account disabled, or this host's clock is wrong)"
        }
        _ => " (hint: are the credentials those of an account that exists?)",
    };
    let kind = if error.is_transient() { StorageErrorKind::Unreachable } else { StorageErrorKind::Denied };
    Trouble::failed(kind, format!("there is no token: {text}{hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_source_counts() {
        let home = tempfile::tempdir().unwrap();
        let env = |name: &str, also: bool| match name {
            "GOOGLE_APPLICATION_CREDENTIALS" if also => Some("/run/adc.json".into()),
            "HOME" => Some(home.path().as_os_str().to_owned()),
            _ => None,
        };
        assert_eq!(Source::choose(Some("/k"), |name| env(name, true)), Source::Private("/k".into()));
        assert_eq!(Source::choose(None, |name| env(name, true)), Source::Shared("/run/adc.json".into()));
        assert_eq!(Source::choose(None, |name| env(name, false)), Source::Host);
        let well_known = home.path().join(WELL_KNOWN);
        std::fs::create_dir_all(well_known.parent().unwrap()).unwrap();
        std::fs::write(&well_known, "{}").unwrap();
        assert_eq!(Source::choose(None, |name| env(name, false)), Source::Shared(well_known));
    }

    #[test]
    fn files_are_judged_before_they_are_used() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key.json");
        let judged = |text: &str, mode: u32, source: fn(PathBuf) -> Source| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            Login::new(source(path.clone()), None)
                .map(|_| ())
                .map_err(|error| error.replace(path.to_str().unwrap(), "F"))
        };
        let key = r#"{"type":"service_account","private_key":"s3cret"}"#;
        assert_eq!(judged(key, 0o600, Source::Private), Ok(()));
        assert_eq!(judged(key, 0o644, Source::Private), Err("others can read F (hint: chmod 600 F)".to_owned()));
        assert_eq!(judged(key, 0o644, Source::Shared), Ok(()));
        let error = judged(r#"{"type":"gdch_service_account"}"#, 0o600, Source::Private).unwrap_err();
        assert!(error.contains("`gdch_service_account`") && error.contains("hint:"), "{error}");
        assert_eq!(
            judged("{\"private_key\":\"s3cret\"", 0o600, Source::Private),
            Err("F is no JSON at line 1, column 23".to_owned())
        );
        let error = Login::new(Source::Shared("/nowhere/x".into()), None).unwrap_err();
        assert!(error.contains("/nowhere/x cannot be read"), "{error}");
    }
}

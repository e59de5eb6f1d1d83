//! Shared access signatures: rights that somebody with more of them wrote down, with an end. They go into the query of each
//! request and nowhere else, so that no error and no log shows one.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use azure_core::error::ErrorKind;
use azure_core::http::policies::{Policy, PolicyResult};
use azure_core::http::{Context, Request};
use zeroize::Zeroizing;

use crate::secret;

/// Where the signature comes from.
pub(crate) enum Sas {
    /// This one.
    Fixed(Zeroizing<String>),
    /// A file that somebody renews; read anew for every request, since signatures are meant to be short-lived.
    File(PathBuf),
}

impl Sas {
    async fn token(&self) -> Result<Zeroizing<String>, String> {
        match self {
            Sas::Fixed(token) => Ok(token.clone()),
            Sas::File(path) => checked(&secret::read(path).await?),
        }
    }

    /// That there is a signature now.
    pub(crate) async fn check(&self) -> Result<(), String> {
        self.token().await.map(drop)
    }
}

/// A signature as it goes into a query, from text that may begin with a `?`.
pub(crate) fn checked(text: &str) -> Result<Zeroizing<String>, String> {
    let token = text.trim().trim_start_matches('?');
    let is_sas = token.split('&').any(|pair| pair.starts_with("sig="));
    let is_sas = is_sas && token.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if is_sas {
        Ok(Zeroizing::new(token.to_owned()))
    } else {
        Err("the SAS is none: it has no `sig=` (hint: the part behind the `?` of a SAS URL)".to_owned())
    }
}

impl fmt::Debug for Sas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sas::Fixed(_) => f.write_str("Fixed(..)"),
            Sas::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

#[async_trait]
impl Policy for Sas {
    #[expect(elided_lifetimes_in_paths, reason = "the macro needs the lifetimes as the trait has them")]
    async fn send(&self, context: &Context, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        let token = self.token().await.map_err(|why| azure_core::Error::with_message(ErrorKind::Credential, why))?;
        let query = match request.url().query() {
            Some(query) if !query.is_empty() => format!("{query}&{}", *token),
            _ => token.to_string(),
        };
        request.url_mut().set_query(Some(&query));
        next[0].send(context, request, &next[1..]).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_known_by_its_sig() {
        assert_eq!(*checked("?sv=2024-11-04&sig=abc%3D\n").unwrap(), "sv=2024-11-04&sig=abc%3D");
        for bad in ["", "sv=2024-11-04&sp=rl", "https://a/?sv=1#sig=x", "sv=1& sig=x"] {
            assert!(checked(bad).is_err(), "{bad}");
        }
        assert_eq!(format!("{:?}", Sas::Fixed(Zeroizing::new("sig=secret".to_owned()))), "Fixed(..)");
    }
}

//! Which key services there are, by the first word of a key's address.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::service::{KeyService, ServiceError};

/// Makes the service for an address.
pub type Maker = fn(&str) -> Result<Arc<dyn KeyService>, ServiceError>;

/// The services that a program knows.
#[derive(Clone, Default)]
pub struct KeyServices(BTreeMap<&'static str, Maker>);

impl fmt::Debug for KeyServices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl KeyServices {
    /// None yet.
    pub fn new() -> Self {
        KeyServices::default()
    }

    /// One more, for addresses that begin with `scheme:`.
    #[must_use]
    pub fn with(mut self, scheme: &'static str, maker: Maker) -> Self {
        self.0.insert(scheme, maker);
        self
    }

    /// Whether `text` is the address of a key in one of them.
    pub fn knows(&self, text: &str) -> bool {
        text.split_once(':').is_some_and(|(scheme, _)| self.0.contains_key(scheme))
    }

    /// The service of an address like `aws-kms:alias/backup`.
    pub fn open(&self, url: &str) -> Result<Arc<dyn KeyService>, ServiceError> {
        let found = url.split_once(':').and_then(|(scheme, rest)| Some((self.0.get(scheme)?, rest)));
        let Some((maker, rest)) = found else {
            let known = self.0.keys().copied().collect::<Vec<_>>().join(", ");
            let problem = format!("it begins with none of: {known}");
            return Err(ServiceError::Address { url: url.to_owned(), problem });
        };
        if rest.is_empty() {
            let problem = "it names no key".to_owned();
            return Err(ServiceError::Address { url: url.to_owned(), problem });
        }
        maker(rest)
    }
}

//! PKCS#11, as hardware security modules speak it: `pkcs11:module=/path/to/module.so;token=LABEL;object=LABEL`. The object is
//! an RSA key pair; the PIN comes from the file that `BREAKWATER_PKCS11_PIN_FILE` names. RSA-OAEP (SHA-1, the only one that
//! every module has; OAEP does not rely on its collision resistance) wraps the key of an [`crate::envelope`].

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use breakwater_core::Entropy;
use breakwater_crypto::Secret;
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, ObjectClass};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use zeroize::Zeroizing;

use crate::service::{KeyContext, KeyService, ServiceError};
use crate::{envelope, rest};

const SERVICE: &str = "pkcs11";

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The randomness of the operating system.
#[derive(Debug)]
pub(crate) struct Os;

impl Entropy for Os {
    fn fill(&self, buffer: &mut [u8]) {
        getrandom::fill(buffer).expect("the operating system gives randomness");
    }
}

/// One key pair in one token.
#[derive(Clone, Debug)]
pub struct Pkcs11Key {
    module: PathBuf,
    token: String,
    object: String,
}

impl Pkcs11Key {
    /// The key at this address.
    pub fn open(address: &str) -> Result<Arc<dyn KeyService>, ServiceError> {
        let wrong = |problem: String| ServiceError::Address { url: format!("pkcs11:{address}"), problem };
        let (mut module, mut token, mut object) = (None, None, None);
        for part in address.split(';') {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let slot = match name {
                "module" => &mut module,
                "token" => &mut token,
                "object" => &mut object,
                "pin-value" => return Err(wrong("a PIN does not belong in an address".to_owned())),
                _ => return Err(wrong(format!("`{name}` is not module, token or object"))),
            };
            *slot = Some(value.to_owned()).filter(|value| !value.is_empty());
        }
        let need = |value: Option<String>, name: &str| value.ok_or_else(|| wrong(format!("it has no {name}=")));
        let (module, token, object) = (need(module, "module")?, need(token, "token")?, need(object, "object")?);
        Ok(Arc::new(Pkcs11Key { module: PathBuf::from(module), token, object }))
    }

    /// Runs `work` in a session with the token, on a thread for blocking work.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Session, &Pkcs11Key) -> Result<T, ServiceError> + Send + 'static,
    ) -> Result<T, ServiceError> {
        let pin =
            rest::credential(SERVICE, "BREAKWATER_PKCS11_PIN_FILE")?.ok_or_else(|| ServiceError::Credentials {
                service: SERVICE,
                problem: "set BREAKWATER_PKCS11_PIN_FILE to a file with the token's PIN".to_owned(),
            })?;
        let key = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            // Initialising and finalising a module hold for the whole process, so there is one session at a time.
            let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
            let context = Pkcs11::new(&key.module).map_err(unusable)?;
            context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).map_err(unusable)?;
            let slots = context.get_slots_with_token().map_err(unusable)?;
            let labelled = slots
                .into_iter()
                .find(|slot| context.get_token_info(*slot).is_ok_and(|info| info.label().trim_end() == key.token));
            let slot = labelled.ok_or_else(|| ServiceError::NoKey {
                service: SERVICE,
                problem: format!("the module shows no token `{}`", key.token),
            })?;
            let session = context.open_ro_session(slot).map_err(unusable)?;
            session.login(UserType::User, Some(&AuthPin::new(pin.as_str().into()))).map_err(refused)?;
            work(&session, &key)
        });
        done.await
            .map_err(|_| ServiceError::Unusable { service: SERVICE, problem: "the module's thread died".to_owned() })?
    }

    fn object(&self, session: &Session, class: ObjectClass) -> Result<cryptoki::object::ObjectHandle, ServiceError> {
        let template = [Attribute::Class(class), Attribute::Label(self.object.as_bytes().to_vec())];
        let found = session.find_objects(&template).map_err(unusable)?;
        match found.as_slice() {
            [one] => Ok(*one),
            [] => Err(ServiceError::NoKey {
                service: SERVICE,
                problem: format!("token `{}` has no {class} `{}`", self.token, self.object),
            }),
            _ => Err(ServiceError::Refused {
                service: SERVICE,
                problem: format!("token `{}` has several objects `{}`", self.token, self.object),
            }),
        }
    }
}

fn oaep() -> Mechanism<'static> {
    Mechanism::RsaPkcsOaep(PkcsOaepParams::new(MechanismType::SHA1, PkcsMgfType::MGF1_SHA1, PkcsOaepSource::empty()))
}

fn unusable(error: Error) -> ServiceError {
    ServiceError::Unusable { service: SERVICE, problem: error.to_string() }
}

/// A module that cannot decrypt says so in one of several ways: SoftHSM with a general error where others have a word for it.
fn not_opened(error: Error) -> ServiceError {
    match error {
        Error::Pkcs11(RvError::EncryptedDataInvalid | RvError::EncryptedDataLenRange | RvError::GeneralError, _) => {
            ServiceError::DoesNotOpen
        }
        other => refused(other),
    }
}

fn refused(error: Error) -> ServiceError {
    ServiceError::Refused { service: SERVICE, problem: error.to_string() }
}

#[async_trait]
impl KeyService for Pkcs11Key {
    async fn wrap(&self, plain: &[u8], context: &KeyContext) -> Result<Vec<u8>, ServiceError> {
        let sealed = envelope::seal(plain, context, Secret::generate(&Os));
        let envelope::Sealed { key, sealed } = sealed;
        let wrapped = self.with(move |session, name| {
            let public = name.object(session, ObjectClass::PUBLIC_KEY)?;
            session.encrypt(&oaep(), public, key.expose()).map_err(refused)
        });
        Ok(envelope::join(&wrapped.await?, &sealed))
    }

    async fn unwrap(&self, wrapped: &[u8], context: &KeyContext) -> Result<Zeroizing<Vec<u8>>, ServiceError> {
        let (key, sealed) = envelope::split(wrapped)?;
        let key = key.to_vec();
        let opened = self.with(move |session, name| {
            let private = name.object(session, ObjectClass::PRIVATE_KEY)?;
            session.decrypt(&oaep(), private, &key).map(Zeroizing::new).map_err(not_opened)
        });
        envelope::open(sealed, context, &opened.await?)
    }
}

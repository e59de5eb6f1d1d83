//! Unlocking a recipient's key that lies in the repository itself: with a passphrase, or with what a key service unwraps.
//!
//! Invariant: nothing that is read here is believed before the opened key fits the recipient and pins the descriptor that
//! was read; the address of a key service never comes from the repository.

use breakwater_core::RepositoryId;
use breakwater_crypto::{Fingerprint, Holder, PassphraseError, RecipientKey, holder};

use crate::error::{Cause, RepositoryError};
use crate::format::ObjectName;
use crate::format::descriptor::Descriptor;
use crate::format::recipients::{Member, RecipientsRecord};
use crate::region::{self, Place, READ_DEADLINE, within};

/// What a repository says, to anyone who asks, about how its recipients hold their keys. Not authenticated.
#[derive(Clone, Debug)]
pub struct Holders {
    /// The repository.
    pub repository: RepositoryId,
    /// The fingerprint of the descriptor that was read.
    pub fingerprint: Fingerprint,
    /// The recipients of the newest list.
    pub members: Vec<Member>,
}

impl Holders {
    /// Reads them from the first of `places` that answers.
    pub async fn read(places: &[Place]) -> Result<Holders, RepositoryError> {
        let mut causes = Vec::new();
        for place in places {
            let read = async {
                let bytes = region::get(&place.storage, &ObjectName::Descriptor).await?;
                let descriptor = Descriptor::decode(&bytes)?;
                let mut listing = place.storage.list("repo/recipients/");
                let mut newest = 0;
                while let Some(object) = within(READ_DEADLINE, futures::TryStreamExt::try_next(&mut listing)).await? {
                    if let Some(ObjectName::Recipients(number)) = ObjectName::parse(&object.key) {
                        newest = newest.max(number);
                    }
                }
                let list = region::get(&place.storage, &ObjectName::Recipients(newest)).await?;
                let members = RecipientsRecord::peek(&list)?.recipients;
                Ok(Holders { repository: descriptor.repository, fingerprint: Descriptor::fingerprint(&bytes), members })
            };
            match read.await {
                Ok(holders) => return Ok(holders),
                Err(trouble) => causes.push(Cause { region: place.name.clone(), trouble }),
            }
        }
        Err(RepositoryError::NoRegion { causes })
    }

    /// The key that a passphrase opens. Takes about a second and 256 MiB for each recipient with a passphrase.
    pub fn unlock(&self, passphrase: &str) -> Result<RecipientKey, RepositoryError> {
        let mut wrong = None;
        for member in &self.members {
            let Holder::Passphrase(lock) = &member.holder else { continue };
            let recipient = &member.recipient;
            match lock.open(passphrase, &holder::context(self.repository, recipient.id)) {
                Ok(payload) => return self.key_of(member, &payload),
                Err(error) => wrong = Some(error),
            }
        }
        match wrong {
            Some(PassphraseError::Wrong) => {
                Err(RepositoryError::Locked("the passphrase opens no key of this repository".to_owned()))
            }
            Some(error) => Err(RepositoryError::Locked(error.to_string())),
            None => Err(RepositoryError::Locked("no recipient of this repository has a passphrase".to_owned())),
        }
    }

    /// The recipients whose key is wrapped by the service that `service` names, with what it wrapped.
    pub fn wrapped_by<'a>(&'a self, service: &'a str) -> impl Iterator<Item = (&'a Member, &'a [u8])> {
        self.members.iter().filter_map(move |member| match &member.holder {
            Holder::Service(lock) if lock.service == service => Some((member, lock.wrapped.as_slice())),
            _ => None,
        })
    }

    /// The key in what a lock or a service gave back.
    pub fn key_of(&self, member: &Member, payload: &[u8]) -> Result<RecipientKey, RepositoryError> {
        let recipient = &member.recipient;
        holder::read_payload(payload, self.repository, self.fingerprint, recipient.id, &recipient.name).ok_or_else(|| {
            RepositoryError::Locked(format!(
                "what was unlocked is not the key of recipient `{}` of this repository: the list of recipients or the \
                 descriptor was changed",
                recipient.name
            ))
        })
    }
}

//! How the keys of a repository stand: who may open, which domains there are, and which regions are behind.

use std::collections::BTreeSet;

use breakwater_core::{DomainName, Timestamp};

use super::opening::KeyObjects;
use crate::error::{Cause, RepositoryError};
use crate::format::ObjectName;
use crate::format::recipients::Member;
use crate::repository::Repository;

/// How the keys stand.
#[derive(Debug)]
pub struct KeyStanding {
    /// The number of the list of recipients.
    pub number: u32,
    /// When it was made.
    pub changed: Timestamp,
    /// The present recipients.
    pub recipients: Vec<Member>,
    /// The domains that the key opens.
    pub domains: Vec<DomainStanding>,
    /// The domains that were erased.
    pub erased: Vec<DomainName>,
    /// What is left to do, region by region: a change of keys did not reach it, or what it replaced is still there.
    pub unfinished: Vec<String>,
    /// Regions that did not answer.
    pub silent: Vec<Cause>,
}

/// One domain.
#[derive(Clone, Debug)]
pub struct DomainStanding {
    /// Its name.
    pub name: DomainName,
    /// The epoch of its record.
    pub epoch: u32,
    /// The epoch of the restore key in use: writer keys that say less are old.
    pub restore: u32,
}

impl Repository {
    /// How the keys stand. Needs a recipient's key.
    pub async fn key_standing(&self) -> Result<KeyStanding, RepositoryError> {
        let opener = self.opener("listing keys")?;
        let objects = KeyObjects::look(self.regions()).await;
        let list = &opener.recipients;
        let present = list.public();
        let mut unfinished = Vec::new();
        let mut wanted = vec![ObjectName::Recipients(list.number)];
        let mut domains = Vec::new();
        for domain in self.ring().domains() {
            let Some(opened) = &domain.opened else { continue };
            if opened.record.recipients != present || opened.record.rotation != list.rotation {
                unfinished.push(format!("domain `{}` is not sealed to the present recipients yet", domain.name));
            }
            wanted.push(ObjectName::Domain { domain: domain.name.clone(), epoch: opened.record.epoch });
            domains.push(DomainStanding {
                name: domain.name.clone(),
                epoch: opened.record.epoch,
                restore: domain.present().epoch,
            });
        }
        let away: BTreeSet<&str> = objects.silent.iter().map(|cause| cause.region.as_str()).collect();
        for region in self.regions().iter().filter(|region| !away.contains(region.name())) {
            for name in &wanted {
                if !objects.holders(name).iter().any(|held| held.name() == region.name()) {
                    unfinished.push(format!("region `{}` lacks `{name}`", region.name()));
                }
            }
            for name in objects.replaced_by(&wanted, region.name()) {
                unfinished.push(format!("region `{}` still has `{name}`, which was replaced", region.name()));
            }
        }
        Ok(KeyStanding {
            number: list.number,
            changed: list.created,
            recipients: list.recipients.clone(),
            domains,
            erased: self.ring().erased.keys().cloned().collect(),
            unfinished,
            silent: objects.silent,
        })
    }
}

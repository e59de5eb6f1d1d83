//! The packs of a source as the regions hold them, one after the other, in the order of their names: content, then
//! structure.

use breakwater_core::SourceUid;
use breakwater_storage::Listing;
use futures::TryStreamExt;
use tokio::sync::mpsc;

use super::Figure;
use super::everywhere::{Everywhere, Stop};
use super::sweep::ListedPack;
use crate::format::ObjectName;
use crate::format::pack::KeyKind;
use crate::region::{READ_DEADLINE, Region, within};

/// Names that are ours by no form.
#[derive(Clone, Debug, Default)]
pub(super) struct Unknown {
    pub(super) figure: Figure,
    pub(super) names: Vec<String>,
}

/// The first so many are named.
const NAMED: usize = 100;

struct Side<'a> {
    region: &'a Region,
    listing: Listing,
    head: Option<(String, u64)>,
}

impl Everywhere<'_> {
    /// Sends every pack that some region holds, once. Any region that breaks off ends it.
    pub(super) async fn list_packs(&self, to: mpsc::Sender<ListedPack>) -> Result<Unknown, Stop> {
        let mut unknown = Unknown::default();
        for kind in [KeyKind::Content, KeyKind::Structure] {
            self.confirm().await?;
            let mut sides = Vec::new();
            for region in self.repository.regions() {
                let listing = region.place().list(&folder(self.source, kind));
                let mut side = Side { region, listing, head: None };
                side.next().await?;
                sides.push(side);
            }
            while let Some(name) = sides.iter().filter_map(|side| side.head.as_ref()).map(|(name, _)| name).min() {
                self.go_on()?;
                let name = name.clone();
                let mut size = 0;
                for side in &mut sides {
                    if let Some((_, bytes)) = side.head.take_if(|(head, _)| *head == name) {
                        size = size.max(bytes);
                        side.next().await?;
                    }
                }
                let pack = match (ObjectName::parse(&name), kind) {
                    (Some(ObjectName::ContentPack(_, pack)), KeyKind::Content)
                    | (Some(ObjectName::StructurePack(_, pack)), KeyKind::Structure) => pack,
                    _ => {
                        unknown.figure.add(size);
                        if unknown.names.len() < NAMED {
                            unknown.names.push(name);
                        }
                        continue;
                    }
                };
                if to.send(ListedPack { kind, pack, size }).await.is_err() {
                    return Ok(unknown);
                }
            }
            // What an empty mount does not list is not gone.
            self.confirm().await?;
        }
        Ok(unknown)
    }
}

fn folder(source: SourceUid, kind: KeyKind) -> String {
    match kind {
        KeyKind::Content => ObjectName::data_prefix(source, "pack"),
        KeyKind::Structure => ObjectName::meta_prefix(source, "pack"),
    }
}

impl Side<'_> {
    async fn next(&mut self) -> Result<(), Stop> {
        let next = within(READ_DEADLINE, self.listing.try_next()).await;
        let next = next.map_err(|trouble| Stop::Away(vec![self.region.cause(trouble)]))?;
        self.head = next.map(|object| (object.key, object.size));
        Ok(())
    }
}

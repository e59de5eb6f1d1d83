//! Lists, page by page. The service answers in the byte order of names, and says with a marker that there is more: only a page
//! without one is the last.

use azure_core::http::pager::PagerOptions;
use azure_storage_blob::models::{
    BlobContainerClientListBlobsOptions, BlobItem, ListBlobsIncludeItem, ListBlobsResponse,
};
use breakwater_storage::{Listing, ObjectMeta, Operation, StorageError, StorageErrorKind};
use futures::{StreamExt, TryStreamExt};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::backend::Azure;
use crate::{properties, wire};

impl Azure {
    pub(crate) fn list_blobs(&self, prefix: &str) -> Listing {
        let (place, asked) = (self.clone(), prefix.to_owned());
        let options = BlobContainerClientListBlobsOptions {
            prefix: self.full_prefix(prefix),
            ..BlobContainerClientListBlobsOptions::default()
        };
        let pages = match self.container.list_blobs(Some(options)) {
            Ok(pager) => pager.into_pages(),
            Err(error) => {
                let error = self.judge.error(Operation::List, prefix, &error);
                return futures::stream::iter([Err(error)]).boxed();
            }
        };
        // After an error the SDK's pages are at their end.
        let pages = pages.map(move |page| {
            let page: ListBlobsResponse = page
                .and_then(azure_core::http::Response::into_model)
                .map_err(|error| place.judge.error(Operation::List, &asked, &error))?;
            let metas: Vec<_> = page.blob_items.iter().map(|item| place.listed(&asked, item)).collect();
            Ok::<_, StorageError>(futures::stream::iter(metas))
        });
        ended(pages.try_flatten().boxed())
    }

    fn listed(&self, asked: &str, item: &BlobItem) -> Result<ObjectMeta, StorageError> {
        let key = item.name.as_deref().and_then(|name| name.strip_prefix(&self.prefix));
        key.and_then(|key| properties::listed(key, item)).ok_or_else(|| {
            let why = "an item of the list lacks its name, length or time of creation";
            self.judge.say(StorageErrorKind::Unreachable, Operation::List, asked, why)
        })
    }

    pub(crate) async fn directories(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        let trouble = |error| self.judge.error(Operation::ListDirectories, prefix, &error);
        let context = wire::with(wire::Extra::Directories);
        let options = BlobContainerClientListBlobsOptions {
            prefix: self.full_prefix(prefix),
            method_options: PagerOptions { context, ..PagerOptions::default() },
            ..BlobContainerClientListBlobsOptions::default()
        };
        let mut pages = self.container.list_blobs(Some(options)).map_err(trouble)?.into_pages();
        let mut names: Vec<String> = Vec::new();
        while let Some(page) = pages.try_next().await.map_err(trouble)? {
            let page: Page = azure_core::xml::from_xml(page.into_body()).map_err(trouble)?;
            for entry in page.blobs.entries {
                let Entry::BlobPrefix { name } = entry else { continue };
                let name = name.strip_prefix(&self.prefix).and_then(|name| name.strip_prefix(prefix));
                names.extend(name.and_then(|name| name.strip_suffix('/')).map(str::to_owned));
            }
        }
        // The slash at their ends decided their order.
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    /// All versions and snapshots of the object `key`, the current one among them.
    pub(crate) async fn versions(&self, operation: Operation, key: &str) -> Result<Vec<BlobItem>, StorageError> {
        let trouble = |error| self.judge.error(operation, key, &error);
        let name = format!("{}{key}", self.prefix);
        let options = BlobContainerClientListBlobsOptions {
            include: Some(vec![ListBlobsIncludeItem::Versions, ListBlobsIncludeItem::Snapshots]),
            prefix: Some(name.clone()),
            ..BlobContainerClientListBlobsOptions::default()
        };
        let mut pages = self.container.list_blobs(Some(options)).map_err(trouble)?.into_pages();
        let mut found = Vec::new();
        while let Some(page) = pages.try_next().await.map_err(trouble)? {
            let items = page.into_model().map_err(trouble)?.blob_items;
            let longer = items.iter().any(|item| item.name.as_deref() != Some(&name));
            found.extend(items.into_iter().filter(|item| item.name.as_deref() == Some(&name)));
            // Names that are longer come after all of this one.
            if longer {
                break;
            }
        }
        Ok(found)
    }

    /// Whether blobs of this container have versions, as far as one of them shows it.
    pub(crate) async fn keeps_versions(&self) -> Result<bool, StorageError> {
        let trouble = |error| self.judge.error(Operation::Features, "", &error);
        let options = BlobContainerClientListBlobsOptions {
            include: Some(vec![ListBlobsIncludeItem::Versions]),
            maxresults: Some(1),
            ..BlobContainerClientListBlobsOptions::default()
        };
        let mut pages = self.container.list_blobs(Some(options)).map_err(trouble)?.into_pages();
        let Some(page) = pages.try_next().await.map_err(trouble)? else { return Ok(false) };
        let page = page.into_model().map_err(trouble)?;
        Ok(page.blob_items.iter().any(|item| item.version_id.is_some()))
    }

    fn full_prefix(&self, prefix: &str) -> Option<String> {
        let whole = format!("{}{prefix}", self.prefix);
        (!whole.is_empty()).then_some(whole)
    }
}

/// The same list, with nothing after its first error.
fn ended(listing: Listing) -> Listing {
    futures::stream::unfold(Some(listing), |listing| async move {
        let mut listing = listing?;
        let item = listing.next().await?;
        let rest = item.is_ok().then_some(listing);
        Some((item, rest))
    })
    .boxed()
}

/// A page of a list by directories, as far as it is read here. The SDK's own model knows no directories.
#[derive(Deserialize)]
struct Page {
    #[serde(rename = "Blobs", default)]
    blobs: Entries,
}

#[derive(Default, Deserialize)]
struct Entries {
    #[serde(rename = "$value", default)]
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
enum Entry {
    BlobPrefix {
        #[serde(rename = "Name")]
        name: String,
    },
    Blob(IgnoredAny),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_stand_among_blobs() {
        let names = |xml: &str| -> Vec<String> {
            let page: Page = azure_core::xml::from_xml(xml.as_bytes()).unwrap();
            let names = page.blobs.entries.into_iter().filter_map(|entry| match entry {
                Entry::BlobPrefix { name } => Some(name),
                Entry::Blob(_) => None,
            });
            names.collect()
        };
        let xml = "<EnumerationResults><Prefix>a</Prefix><Blobs><BlobPrefix><Name>a/</Name></BlobPrefix><Blob><Name>b</Name>\
                   <Properties><Etag>1</Etag></Properties></Blob><BlobPrefix><Name>c&amp;d/</Name></BlobPrefix></Blobs><NextMarker/>\
                   </EnumerationResults>";
        assert_eq!(names(xml), ["a/", "c&d/"]);
        assert_eq!(names("<EnumerationResults><Blobs/><NextMarker/></EnumerationResults>"), Vec::<String>::new());
    }
}

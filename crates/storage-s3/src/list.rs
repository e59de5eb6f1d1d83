//! Lists, page by page. A list that is out of order or names what was not asked for is damage, not data: stores that list in
//! another order cannot hold a region.

use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::operation::list_objects_v2::builders::ListObjectsV2FluentBuilder;
use aws_sdk_s3::types::{Object, OptionalObjectAttributes};
use breakwater_storage::key::check_key;
use breakwater_storage::{Listing, ObjectMeta, Operation, StorageError, StorageErrorKind};
use futures::{StreamExt, TryStreamExt};

use crate::backend::S3;
use crate::class::{availability_in_list, tier_of};
use crate::failure::Call;
use crate::read::whole_seconds;

/// The right that every list takes.
const LIST: &str = "s3:ListBucket";

/// Where a list stands.
struct Progress {
    s3: S3,
    prefix: String,
    last: Option<String>,
    next: Next,
}

enum Next {
    First,
    Page(String),
    End,
}

impl S3 {
    pub(crate) fn list_objects(&self, prefix: &str) -> Listing {
        let start = Progress { s3: self.clone(), prefix: prefix.to_owned(), last: None, next: Next::First };
        let pages = futures::stream::try_unfold(start, |mut progress| async move {
            Ok::<_, StorageError>(progress.page().await?.map(|page| (page, progress)))
        });
        pages.map_ok(|page| futures::stream::iter(page.into_iter().map(Ok))).try_flatten().boxed()
    }

    pub(crate) async fn directories(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        let call = Call { operation: Operation::ListDirectories, action: LIST, key: prefix };
        let mut names = Vec::new();
        let mut token = None;
        loop {
            let request = self.list_request(prefix).delimiter("/").set_continuation_token(token);
            let page = request.send().await.map_err(|error| self.failed(call, &error))?;
            for common in page.common_prefixes().iter().filter_map(|common| common.prefix()) {
                let name = self.relative(common).and_then(|key| key.strip_prefix(prefix)?.strip_suffix('/'));
                let name = name.ok_or_else(|| self.not_asked(call, common))?;
                if check_key(&format!("{prefix}{name}")).is_ok() {
                    names.push(name.to_owned());
                }
            }
            token = match self.next_page(call, &page)? {
                Next::Page(token) => Some(token),
                Next::First | Next::End => break,
            };
        }
        // The store sorts them with the slash at their end.
        names.sort_unstable();
        Ok(names)
    }

    fn list_request(&self, prefix: &str) -> ListObjectsV2FluentBuilder {
        self.client().list_objects_v2().bucket(self.bucket()).prefix(self.full(prefix))
    }

    fn next_page(&self, call: Call<'_>, page: &ListObjectsV2Output) -> Result<Next, StorageError> {
        match (page.is_truncated(), page.next_continuation_token()) {
            (Some(true), Some(token)) => Ok(Next::Page(token.to_owned())),
            (Some(true), None) => {
                let why = "the store says that the list goes on, and not where";
                Err(self.error(StorageErrorKind::Corrupt, call).because(why))
            }
            _ => Ok(Next::End),
        }
    }

    fn not_asked(&self, call: Call<'_>, key: &str) -> StorageError {
        let why = format!("the store lists `{}`, which nobody asked for", key.escape_default());
        self.error(StorageErrorKind::Corrupt, call).because(why)
    }
}

impl Progress {
    /// The objects of the next page; none at the end.
    async fn page(&mut self) -> Result<Option<Vec<ObjectMeta>>, StorageError> {
        let token = match std::mem::replace(&mut self.next, Next::End) {
            Next::First => None,
            Next::Page(token) => Some(token),
            Next::End => return Ok(None),
        };
        let s3 = self.s3.clone();
        let prefix = self.prefix.clone();
        let call = Call { operation: Operation::List, action: LIST, key: &prefix };
        let request = s3.list_request(&prefix).optional_object_attributes(OptionalObjectAttributes::RestoreStatus);
        let answer = request.set_continuation_token(token).send().await.map_err(|error| s3.failed(call, &error))?;
        self.next = s3.next_page(call, &answer)?;
        let mut metas = Vec::with_capacity(answer.contents().len());
        for object in answer.contents() {
            metas.extend(self.object(&s3, call, object)?);
        }
        Ok(Some(metas))
    }

    /// What a list says of an object; none for names that no key can have, such as the `a/` that consoles make for a folder.
    fn object(&mut self, s3: &S3, call: Call<'_>, object: &Object) -> Result<Option<ObjectMeta>, StorageError> {
        let full = object.key().unwrap_or_default();
        let key = s3.relative(full).filter(|key| key.starts_with(call.key)).ok_or_else(|| s3.not_asked(call, full))?;
        if self.last.as_deref().is_some_and(|last| last >= key) {
            let why = format!("the store lists `{}` out of order", key.escape_default());
            return Err(s3.error(StorageErrorKind::Corrupt, call).because(why));
        }
        self.last = Some(key.to_owned());
        if check_key(key).is_err() {
            return Ok(None);
        }
        let class = object.storage_class().map(|class| class.as_str());
        let size = object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
        Ok(Some(ObjectMeta {
            tier: tier_of(class),
            availability: availability_in_list(class, object.restore_status()),
            ..ObjectMeta::new(key, size, whole_seconds(object.last_modified()))
        }))
    }
}

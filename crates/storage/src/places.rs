//! Which kinds of places a program can open: one [`Provider`] for each scheme of URLs.
//!
//! The library knows those that need nothing but the host, `file` and `memory`. A program adds the others where it is wired
//! together, and a kind of place that is not among ours is added there in the same way.

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use breakwater_core::PlaceUrl;

use crate::{Backend, FileSystem, Memory, Operation, Storage, StorageError, StorageErrorKind};

/// Opens the places of one scheme.
#[async_trait]
pub trait Provider: Debug + Send + Sync {
    /// The scheme: `s3`.
    fn scheme(&self) -> &'static str;

    /// How its URLs look, for people: `s3://BUCKET[/PREFIX]`.
    fn form(&self) -> &'static str;

    /// The place that `url` names. Asks nothing of the network, so that a place that is away can be opened too; what is wrong with
    /// the URL or its options is said here. With `Fresh` it may make a directory for the place, never a bucket.
    async fn open(&self, url: &PlaceUrl, use_as: UseAs) -> Result<Arc<dyn Backend>, StorageError>;
}

/// What a place is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UseAs {
    /// A place for a new region: a missing directory is made.
    Fresh,
    /// A place that was used before: nothing is made, so that an unmounted volume is not taken for an empty one.
    Existing,
}

/// The kinds of places that a program can open.
#[derive(Clone, Debug)]
pub struct Places {
    providers: Vec<Arc<dyn Provider>>,
}

impl Places {
    /// Those that need nothing but the host.
    pub fn local() -> Places {
        Places { providers: vec![Arc::new(FileProvider), Arc::new(MemoryProvider)] }
    }

    /// The same with one more kind.
    #[must_use]
    pub fn with(mut self, provider: Arc<dyn Provider>) -> Places {
        self.providers.push(provider);
        self
    }

    /// A place for a new region.
    pub async fn open_fresh(&self, url: &str) -> Result<Storage, StorageError> {
        self.open(url, UseAs::Fresh).await
    }

    /// A place that was used before. While it is away every operation answers `Unreachable`, and works again once it is back.
    pub async fn open_existing(&self, url: &str) -> Result<Storage, StorageError> {
        self.open(url, UseAs::Existing).await
    }

    /// The place that `url` names.
    pub async fn open(&self, url: &str, use_as: UseAs) -> Result<Storage, StorageError> {
        let parsed: PlaceUrl = url.parse().map_err(|error| invalid(url, error))?;
        let provider = self.providers.iter().find(|provider| provider.scheme() == parsed.scheme());
        let provider = provider.ok_or_else(|| {
            let forms: Vec<&str> = self.providers.iter().map(|provider| provider.form()).collect();
            invalid(url, format!("there is no kind of place `{}` (hint: {})", parsed.scheme(), forms.join(", ")))
        })?;
        Ok(Storage::new(provider.open(&parsed, use_as).await?))
    }
}

/// That `url` cannot be the name of a place here.
pub fn invalid(url: impl std::fmt::Display, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StorageError {
    StorageError::new(StorageErrorKind::Invalid, Operation::Open, &url.to_string(), "").because(why)
}

#[derive(Debug)]
struct FileProvider;

#[async_trait]
impl Provider for FileProvider {
    fn scheme(&self) -> &'static str {
        "file"
    }

    fn form(&self) -> &'static str {
        "file:///PATH or an absolute path"
    }

    async fn open(&self, url: &PlaceUrl, use_as: UseAs) -> Result<Arc<dyn Backend>, StorageError> {
        let root = Path::new(url.path());
        Ok(Arc::new(match use_as {
            UseAs::Fresh => FileSystem::create(root)?,
            UseAs::Existing => FileSystem::existing(root)?,
        }))
    }
}

#[derive(Debug)]
struct MemoryProvider;

#[async_trait]
impl Provider for MemoryProvider {
    fn scheme(&self) -> &'static str {
        "memory"
    }

    fn form(&self) -> &'static str {
        "memory:"
    }

    async fn open(&self, _: &PlaceUrl, _: UseAs) -> Result<Arc<dyn Backend>, StorageError> {
        Ok(Arc::new(Memory::new()))
    }
}

#[cfg(test)]
mod tests {
    use breakwater_core::Chain;

    use super::*;

    #[tokio::test]
    async fn urls_name_places() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_str().unwrap();
        let places = Places::local();
        let location = async |url: &str| places.open_fresh(url).await.unwrap().location().to_owned();
        assert_eq!(location(path).await, format!("file://{path}"));
        assert_eq!(location(&format!("file://{path}")).await, format!("file://{path}"));
        assert_eq!(location("memory:").await, "memory:");
        for bad in ["s3://bucket", "relative/path", "file://relative", "", "memory"] {
            let error = places.open_fresh(bad).await.unwrap_err();
            assert_eq!(error.kind(), StorageErrorKind::Invalid);
            let text = Chain(&error).to_string();
            assert!(text.contains(bad) && text.contains("file:///"), "{text}");
        }
    }
}

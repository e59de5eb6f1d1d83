//! Opens `s3://` URLs.

use std::sync::Arc;

use async_trait::async_trait;
use breakwater_core::PlaceUrl;
use breakwater_storage::places::{UseAs, invalid};
use breakwater_storage::{Backend, Provider, StorageError};

use crate::S3;
use crate::connect::client;
use crate::options::Options;

/// The provider of S3. Buckets are never made here: who owns them decides about their region, their locks and their price.
#[derive(Clone, Copy, Debug, Default)]
pub struct S3Provider;

#[async_trait]
impl Provider for S3Provider {
    fn scheme(&self) -> &'static str {
        "s3"
    }

    fn form(&self) -> &'static str {
        "s3://BUCKET[/PREFIX]?region=REGION"
    }

    async fn open(&self, url: &PlaceUrl, _: UseAs) -> Result<Arc<dyn Backend>, StorageError> {
        let options = Options::new(url).map_err(|error| invalid(url, error))?;
        let client = client(&options).await.map_err(|error| invalid(url, error))?;
        Ok(Arc::new(S3::new(client, options)))
    }
}

//! Creates: one request up to a length, staged blocks and a commit above it. `If-None-Match: *` stands on the request that makes
//! the object appear, so one of any number of creates wins.

use std::num::NonZero;

use azure_core::http::{ClientMethodOptions, RequestContent};
use azure_storage_blob::models::{
    BlockBlobClientCommitBlockListOptions, BlockBlobClientStageBlockOptions, BlockBlobClientUploadOptions,
    BlockLookupList,
};
use breakwater_storage::{Operation, Payload, Placement, StorageError, StorageErrorKind, Tier};
use futures::{StreamExt, TryStreamExt};

use crate::backend::Azure;
use crate::{body, properties, wire};

/// How many blocks of one object are on their way at once.
const BLOCKS_AT_ONCE: usize = 4;

impl Azure {
    pub(crate) async fn create_blob(
        &self,
        key: &str,
        payload: &Payload,
        placement: &Placement,
    ) -> Result<(), StorageError> {
        let created = match NonZero::new(self.limits.single) {
            Some(single) if payload.len() <= self.limits.single => self.put(key, payload, placement, single).await,
            _ => self.put_blocks(key, payload, placement).await,
        };
        let Err(error) = created else { return Ok(()) };
        let error = self.judge.error(Operation::Create, key, &error);
        Err(match error.kind {
            // Only what is there can be locked or archived.
            StorageErrorKind::Locked | StorageErrorKind::Archived => {
                StorageError { kind: StorageErrorKind::AlreadyExists, ..error }
            }
            // Blocks that are staged are gone once another writer has made an object of that name.
            StorageErrorKind::Invalid if payload.len() > self.limits.single && self.is_there(key).await => {
                StorageError { kind: StorageErrorKind::AlreadyExists, ..error }
            }
            _ if placement.retention.is_some() => self.no_locks(error),
            _ => error,
        })
    }

    async fn is_there(&self, key: &str) -> bool {
        self.look(Operation::Create, key).await.is_ok()
    }

    /// One Put Blob.
    async fn put(
        &self,
        key: &str,
        payload: &Payload,
        placement: &Placement,
        single: NonZero<u64>,
    ) -> azure_core::Result<()> {
        let context = wire::with(wire::Extra::Crc64(body::crc64_text(payload)));
        let options = BlockBlobClientUploadOptions {
            immutability_policy_expiry: placement.retention.map(|retention| properties::date(retention.until)),
            immutability_policy_mode: placement.retention.map(|retention| properties::policy_mode(retention.mode)),
            method_options: ClientMethodOptions { context },
            partition_size: Some(single),
            tier: (placement.tier != Tier::Hot).then(|| properties::access_tier(placement.tier)),
            ..BlockBlobClientUploadOptions::default()
        };
        self.blob(key).upload(body::body(payload).into(), Some(options.if_not_exists())).await.map(drop)
    }

    /// Blocks that nobody sees, then the list that makes an object of them. What is never committed the service throws away after a
    /// week.
    async fn put_blocks(&self, key: &str, payload: &Payload, placement: &Placement) -> azure_core::Result<()> {
        let client = self.blob(key).block_blob_client();
        // Writers of one name share its uncommitted blocks, so each has names of its own.
        let mut writer = [0_u8; 16];
        self.entropy.fill(&mut writer);
        let blocks = (0_u32..).zip(body::blocks(payload, self.limits.block.max(1)));
        let staged = blocks.map(|(number, block)| {
            let (client, id) = (&client, [&writer[..], &number.to_be_bytes()].concat());
            async move {
                let options = BlockBlobClientStageBlockOptions {
                    transactional_content_crc64: Some(body::crc64(&block).to_vec()),
                    ..BlockBlobClientStageBlockOptions::default()
                };
                client.stage_block(&id, block.len(), body::body(&block).into(), Some(options)).await?;
                azure_core::Result::Ok(id)
            }
        });
        let ids = futures::stream::iter(staged).buffered(BLOCKS_AT_ONCE).try_collect().await?;
        let list = BlockLookupList { latest: Some(ids), ..BlockLookupList::default() };
        let list: RequestContent<_, _> = list.try_into()?;
        let options = BlockBlobClientCommitBlockListOptions {
            immutability_policy_expiry: placement.retention.map(|retention| properties::date(retention.until)),
            immutability_policy_mode: placement.retention.map(|retention| properties::policy_mode(retention.mode)),
            tier: (placement.tier != Tier::Hot).then(|| properties::access_tier(placement.tier)),
            if_none_match: Some("*".into()),
            ..BlockBlobClientCommitBlockListOptions::default()
        };
        client.commit_block_list(list, Some(options)).await.map(drop)
    }
}

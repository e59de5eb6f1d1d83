//! An open file on the server: its content in blocks, many of them under way at once.

use std::sync::Arc;

use breakwater_storage::Payload;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use super::{Connection, WINDOW_BYTES};
use crate::failure::Refusal;

/// How much room is made at once for an object whose size only the server says.
const ROOM_BYTES: u64 = 16 << 20;

/// An open file or directory on the server, closed with this value.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(super) connection: Arc<Connection>,
    pub(super) handle: String,
}

impl OpenFile {
    /// Writes all of `payload` from the beginning on.
    pub(crate) async fn write(&self, payload: &Payload) -> Result<(), Refusal> {
        let connection = &self.connection;
        let writes = blocks(payload, connection.write_bytes).into_iter().map(|block| async move {
            let _room = connection.room(block.bytes).await?;
            connection.ask(connection.sftp.write(self.handle.as_str(), block.offset, block.content())).await
        });
        let at_once = WINDOW_BYTES / usize::try_from(connection.write_bytes).unwrap_or(WINDOW_BYTES) + 1;
        futures::stream::iter(writes).buffer_unordered(at_once).try_for_each(|_| async { Ok(()) }).await
    }

    /// The `length` bytes from `start` on; fewer when the file ends before.
    pub(crate) async fn read(&self, start: u64, length: u64) -> Result<Bytes, Refusal> {
        let block = self.connection.read_bytes;
        let end = start.saturating_add(length);
        let count = length.div_ceil(block);
        let reads = (0..count).map(|index| {
            let from = start + index * block;
            self.read_block(from, (end - from).min(block))
        });
        let at_once = WINDOW_BYTES / usize::try_from(block).unwrap_or(WINDOW_BYTES) + 1;
        let content = Vec::with_capacity(usize::try_from(length.min(ROOM_BYTES)).unwrap_or(0));
        let content = futures::stream::iter(reads)
            .buffered(at_once)
            .try_fold(content, |mut content, block| async move {
                content.extend_from_slice(&block);
                Ok(content)
            })
            .await?;
        Ok(content.into())
    }

    /// A server may answer with less than was asked for.
    async fn read_block(&self, mut from: u64, mut length: u64) -> Result<Vec<u8>, Refusal> {
        let connection = &self.connection;
        let _room = connection.room(length).await?;
        let mut content = Vec::new();
        while length > 0 {
            let asked = u32::try_from(length).unwrap_or(u32::MAX);
            match connection.ask(connection.sftp.read(self.handle.as_str(), from, asked)).await {
                Ok(data) if data.data.is_empty() || data.data.len() as u64 > length => {
                    return Err(Refusal::Invalid("it answers a read with a wrong number of bytes".to_owned()));
                }
                Ok(data) => {
                    from += data.data.len() as u64;
                    length -= data.data.len() as u64;
                    content.extend(data.data);
                }
                Err(Refusal::End) => break,
                Err(refusal) => return Err(refusal),
            }
        }
        Ok(content)
    }

    /// Flushes what was written to the disk of the server.
    pub(crate) async fn flush(&self) -> Result<(), Refusal> {
        self.connection.ask(self.connection.sftp.fsync(self.handle.as_str())).await.map(drop)
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        // Nobody waits for it: a handle that is not closed ends with the session. Without a runtime that has happened.
        if let Ok(runtime) = tokio::runtime::Handle::try_current()
            && self.connection.is_alive()
        {
            let (connection, handle) = (Arc::clone(&self.connection), std::mem::take(&mut self.handle));
            drop(runtime.spawn(async move { connection.ask(connection.sftp.close(handle)).await.ok() }));
        }
    }
}

/// A stretch of a payload that is sent in one request.
struct Block {
    offset: u64,
    bytes: u64,
    parts: Vec<Bytes>,
}

impl Block {
    fn content(self) -> Vec<u8> {
        self.parts.concat()
    }
}

/// Cuts a payload into blocks of `size` bytes, without copying.
fn blocks(payload: &Payload, size: u64) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut offset = 0;
    for part in payload.parts() {
        let mut part = part.clone();
        while !part.is_empty() {
            if blocks.last().is_none_or(|last| last.bytes == size) {
                blocks.push(Block { offset, bytes: 0, parts: Vec::new() });
            }
            let Some(last) = blocks.last_mut() else { break };
            let taken = part.split_to(part.len().min(usize::try_from(size - last.bytes).unwrap_or(usize::MAX)));
            offset += taken.len() as u64;
            last.bytes += taken.len() as u64;
            last.parts.push(taken);
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn blocks_are_the_payload(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..10), size in 1_u64..50) {
            let payload = Payload::from(parts.into_iter().map(Bytes::from).collect::<Vec<_>>());
            let mut content = Vec::new();
            let cut = blocks(&payload, size);
            let count = cut.len() as u64;
            prop_assert_eq!(count, payload.len().div_ceil(size));
            for (index, block) in cut.into_iter().enumerate() {
                prop_assert_eq!(block.offset, content.len() as u64);
                prop_assert!(block.bytes == size || index as u64 == count - 1);
                content.extend(block.content());
            }
            prop_assert_eq!(content, payload.to_bytes());
        }
    }
}

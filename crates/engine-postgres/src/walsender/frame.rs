//! Messages of the wire protocol: a letter, a length, a body.
//!
//! Invariant: a length that the server claims is checked before anything is allocated for it.

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use super::error::WalSenderError;
use crate::connection::Socket;

/// The longest message that is accepted. Log data comes in 128 KiB, histories of timelines are far smaller.
const MAX_FRAME: usize = 16 << 20;
/// How much memory is taken at once to read into. Messages share it, so a queue of small ones holds no more than that.
const READ_SIZE: usize = 256 << 10;
/// With less room than this left a new piece is taken. Taking one for every read would pin a whole piece to each message.
const LEAST_ROOM: usize = 4 << 10;

/// One message from the server.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) tag: u8,
    pub(super) body: Bytes,
}

/// The receiving side of a connection.
#[derive(Debug)]
pub(super) struct FrameReader {
    socket: ReadHalf<Socket>,
    buffer: BytesMut,
}

impl FrameReader {
    pub(super) fn new(socket: ReadHalf<Socket>) -> Self {
        FrameReader { socket, buffer: BytesMut::new() }
    }

    /// The next message. Nothing is lost when the call is given up.
    pub(super) async fn next(&mut self) -> Result<Frame, WalSenderError> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(frame);
            }
            if self.buffer.capacity() - self.buffer.len() < LEAST_ROOM {
                self.buffer.reserve(READ_SIZE);
            }
            if self.socket.read_buf(&mut self.buffer).await.map_err(WalSenderError::Io)? == 0 {
                return Err(WalSenderError::Closed);
            }
        }
    }

    fn buffered(&mut self) -> Result<Option<Frame>, WalSenderError> {
        let Some(&[tag, a, b, c, d]) = self.buffer.first_chunk::<5>() else {
            return Ok(None);
        };
        // The length counts itself but not the letter.
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if !(4..=MAX_FRAME).contains(&length) {
            return Err(WalSenderError::Protocol(format!("message `{}` of {length} bytes", char::from(tag))));
        }
        if self.buffer.len() < length + 1 {
            return Ok(None);
        }
        let mut body = self.buffer.split_to(length + 1).freeze();
        body.advance(5);
        Ok(Some(Frame { tag, body }))
    }
}

/// The sending side of a connection.
#[derive(Debug)]
pub(super) struct FrameWriter {
    socket: WriteHalf<Socket>,
}

impl FrameWriter {
    pub(super) fn new(socket: WriteHalf<Socket>) -> Self {
        FrameWriter { socket }
    }

    /// Sends whole messages.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), WalSenderError> {
        self.socket.write_all(bytes).await.map_err(WalSenderError::Io)?;
        self.socket.flush().await.map_err(WalSenderError::Io)
    }

    /// Says that nothing more will be sent.
    pub(super) async fn shutdown(&mut self) -> Result<(), WalSenderError> {
        self.socket.shutdown().await.map_err(WalSenderError::Io)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixStream;

    async fn pair() -> (UnixStream, FrameReader, FrameWriter) {
        let (server, client) = UnixStream::pair().expect("sockets are available");
        let (reader, writer) = tokio::io::split(Socket::Unix(client));
        (server, FrameReader::new(reader), FrameWriter::new(writer))
    }

    #[tokio::test]
    async fn small_messages_share_their_memory() {
        let (mut server, mut reader, _writer) = pair().await;
        let mut kept = Vec::new();
        for round in 0..100_u8 {
            server.write_all(&[b'd', 0, 0, 0, 6, round, 7]).await.unwrap();
            kept.push(reader.next().await.unwrap().body);
        }
        assert!(kept.iter().enumerate().all(|(round, body)| usize::from(body[0]) == round));
        let (first, last) = (kept[0].as_ptr() as usize, kept[99].as_ptr() as usize);
        assert!(last.abs_diff(first) < READ_SIZE, "each message has memory of its own");
    }

    #[tokio::test]
    async fn claimed_lengths_are_checked() {
        for length in [0_u32, 3, u32::MAX] {
            let (mut server, mut reader, _writer) = pair().await;
            server.write_all(b"d").await.unwrap();
            server.write_all(&length.to_be_bytes()).await.unwrap();
            assert!(matches!(reader.next().await, Err(WalSenderError::Protocol(_))), "{length}");
        }
        let (mut server, mut reader, _writer) = pair().await;
        server.write_all(&[b'd', 0, 0, 0, 9, 1]).await.unwrap();
        drop(server);
        assert!(matches!(reader.next().await, Err(WalSenderError::Closed)));
    }
}

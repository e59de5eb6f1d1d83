//! Messages of the wire protocol: a letter, a length, a body.
//!
//! Invariant: a length that the server claims is checked before anything is allocated for it.

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use super::error::WalSenderError;
use crate::connection::Socket;

/// The longest message that is accepted. Log data comes in 128 KiB, histories of timelines are far smaller.
const MAX_FRAME: usize = 16 << 20;
/// How much is read from the socket at once.
const READ_SIZE: usize = 256 << 10;

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
            self.buffer.reserve(READ_SIZE);
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

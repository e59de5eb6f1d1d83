//! The start of a replication connection: who we are, and the proof of it.
//!
//! Invariant: with SCRAM the server has to prove that it knows the password too before the login counts.

use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend;

use super::error::{ServerError, WalSenderError};
use super::frame::{FrameReader, FrameWriter};
use crate::connection::ConnectionSettings;

/// What the database is called for replication, also in libpq's password file.
const REPLICATION: &str = "replication";

/// Logs in and answers with the server's version as it states it, e.g. `15.18 (Debian 15.18-0+deb12u1)`.
pub(super) async fn log_in(
    settings: &ConnectionSettings,
    reader: &mut FrameReader,
    writer: &mut FrameWriter,
) -> Result<String, WalSenderError> {
    let mut buffer = BytesMut::new();
    let parameters = [
        ("user", settings.user()),
        ("database", REPLICATION),
        ("replication", "true"),
        ("application_name", settings.application_name()),
        ("client_encoding", "UTF8"),
    ];
    frontend::startup_message(parameters, &mut buffer).map_err(WalSenderError::Io)?;
    writer.send(&buffer).await?;

    let mut version = String::new();
    let mut login = Login { settings, scram: None };
    loop {
        let frame = reader.next().await?;
        match frame.tag {
            b'R' => {
                if let Some(answer) = login.answer(frame.body).await? {
                    writer.send(&answer).await?;
                }
            }
            b'S' => {
                let mut texts = frame.body.split(|byte| *byte == 0);
                if let (Some(b"server_version"), Some(value)) = (texts.next(), texts.next()) {
                    version = String::from_utf8_lossy(value).into_owned();
                }
            }
            b'E' => {
                let command = format!("the server refused to let `{}` replicate", settings.user());
                return Err(WalSenderError::Server { command, source: Box::new(ServerError::parse(&frame.body)) });
            }
            b'Z' => return Ok(version),
            // The key for cancelling, notices, and the answer to a protocol version that we do not ask for.
            b'K' | b'N' | b'v' => {}
            tag => return Err(WalSenderError::Protocol(format!("message `{}` during login", char::from(tag)))),
        }
    }
}

struct Login<'a> {
    settings: &'a ConnectionSettings,
    scram: Option<ScramSha256>,
}

impl Login<'_> {
    /// The answer to one request of the server; none where it wants none.
    async fn answer(&mut self, mut request: Bytes) -> Result<Option<BytesMut>, WalSenderError> {
        let code = request.try_get_u32().map_err(|_| WalSenderError::Protocol("empty login request".to_owned()))?;
        let mut answer = BytesMut::new();
        match code {
            0 if self.scram.is_some() => {
                return Err(WalSenderError::Protocol("login ended before the server proved itself".to_owned()));
            }
            0 => return Ok(None),
            3 => {
                let password = self.password().await?;
                frontend::password_message(password.as_bytes(), &mut answer).map_err(WalSenderError::Io)?;
            }
            5 => {
                let salt = request.first_chunk::<4>().copied();
                let salt = salt.ok_or_else(|| WalSenderError::Protocol("md5 login without salt".to_owned()))?;
                let password = self.password().await?;
                let hash = md5_hash(self.settings.user().as_bytes(), password.as_bytes(), salt);
                frontend::password_message(hash.as_bytes(), &mut answer).map_err(WalSenderError::Io)?;
            }
            10 => {
                if !request.split(|byte| *byte == 0).any(|name| name == SCRAM_SHA_256.as_bytes()) {
                    return Err(WalSenderError::Authentication { method: "an unknown SASL mechanism".to_owned() });
                }
                let password = self.password().await?;
                let scram = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
                frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), &mut answer)
                    .map_err(WalSenderError::Io)?;
                self.scram = Some(scram);
            }
            11 => {
                let scram = self.scram.as_mut().ok_or_else(out_of_order)?;
                scram.update(&request).map_err(WalSenderError::Scram)?;
                frontend::sasl_response(scram.message(), &mut answer).map_err(WalSenderError::Io)?;
            }
            12 => {
                let mut scram = self.scram.take().ok_or_else(out_of_order)?;
                scram.finish(&request).map_err(WalSenderError::Scram)?;
                return Ok(None);
            }
            7 | 9 => return Err(WalSenderError::Authentication { method: "GSSAPI or SSPI".to_owned() }),
            other => return Err(WalSenderError::Authentication { method: format!("login method {other}") }),
        }
        Ok(Some(answer))
    }

    async fn password(&self) -> Result<String, WalSenderError> {
        self.settings.password(REPLICATION).await?.ok_or(WalSenderError::NoPassword)
    }
}

fn out_of_order() -> WalSenderError {
    WalSenderError::Protocol("login steps out of order".to_owned())
}

//! Our own client of a server's walsender: physical replication over the wire protocol.
//!
//! A [`WalSender`] is a replication connection that takes commands; [`WalSender::start_replication`] turns it into a
//! [`ReplicationStream`] of log bytes, and the end of a timeline turns that back.
//!
//! Invariants: what a server is told to be flushed is only what the caller released; a stream has no gap; an answer is
//! never waited for without a deadline; after a command that was given up the connection is not used again.
//!
//! Reading order: this file (commands), [`stream`] (log bytes), `feedback` (what the server is told), `startup` (login),
//! `reply` and `frame` (the protocol), [`error`].

pub mod error;
mod feedback;
mod frame;
mod reply;
mod startup;
pub mod stream;

use std::time::Duration;

use breakwater_core::{Lsn, TimelineId};
use bytes::BytesMut;
use postgres_protocol::message::frontend;

use crate::connection::{ConnectionError, ConnectionSettings, dial};
use frame::{FrameReader, FrameWriter};
use reply::{Reply, ResultSet};

pub use error::{ServerError, WalSenderError, class_of_sqlstate};
pub use feedback::{AckHandle, Acknowledged};
pub use stream::{Message, ReplicationStream, StreamOptions, StreamStart};

/// How long a command may take. Creating a slot waits for nothing on a physical one.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// What `IDENTIFY_SYSTEM` answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemIdentity {
    /// The cluster's system identifier.
    pub system_id: u64,
    /// The timeline that the server is on.
    pub timeline: TimelineId,
    /// How far its log is flushed.
    pub position: Lsn,
    /// The database of the connection; none on a physical one.
    pub database: Option<String>,
}

/// Where a slot keeps the log from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotPosition {
    /// The oldest position that it holds; none when it holds nothing yet.
    pub restart_lsn: Option<Lsn>,
    /// The timeline of that position.
    pub restart_timeline: Option<TimelineId>,
}

/// The history file of a timeline, as the server has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineHistoryFile {
    /// Its file name, `00000002.history`.
    pub filename: String,
    /// Its content, to be stored byte for byte.
    pub content: String,
}

/// A replication connection that is ready for commands.
#[derive(Debug)]
pub struct WalSender {
    reader: FrameReader,
    writer: FrameWriter,
    server_version: String,
    /// Set while a command runs; a command that was given up leaves it set.
    in_command: bool,
}

impl WalSender {
    /// Connects and logs in, within the settings' connect timeout each.
    ///
    /// # Errors
    /// When the server is not reached in time, or does not let this user replicate.
    pub async fn connect(settings: &ConnectionSettings) -> Result<Self, WalSenderError> {
        let (socket, target) = dial(settings).await?;
        let (reader, writer) = tokio::io::split(socket);
        let mut reader = FrameReader::new(reader);
        let mut writer = FrameWriter::new(writer);
        let timeout = settings.connect_timeout();
        let server_version = tokio::time::timeout(timeout, startup::log_in(settings, &mut reader, &mut writer))
            .await
            .map_err(|_| ConnectionError::Timeout { target, timeout })??;
        Ok(WalSender { reader, writer, server_version, in_command: false })
    }

    /// The server's version as it states it, e.g. `15.18 (Debian 15.18-0+deb12u1)`.
    pub fn server_version(&self) -> &str {
        &self.server_version
    }

    /// The server's major version; 0 when it stated none.
    pub fn major_version(&self) -> u32 {
        let digits = self.server_version.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        digits.parse().unwrap_or(0)
    }

    /// Which cluster this is and how far it is.
    ///
    /// # Errors
    /// When the connection fails.
    pub async fn identify_system(&mut self) -> Result<SystemIdentity, WalSenderError> {
        let table = self.command("IDENTIFY_SYSTEM").await?;
        Ok(SystemIdentity {
            system_id: table.parse("systemid")?,
            timeline: TimelineId(table.parse("timeline")?),
            position: table.parse("xlogpos")?,
            database: table.text("dbname").filter(|name| !name.is_empty()),
        })
    }

    /// The value of a server setting, as `SHOW` prints it.
    ///
    /// # Errors
    /// When the name is unknown or not a plain name, or the connection fails.
    pub async fn show(&mut self, name: &str) -> Result<String, WalSenderError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        if name.is_empty() || !name.chars().all(plain) {
            return Err(WalSenderError::BadName { name: name.to_owned(), expected: "the name of a server setting" });
        }
        self.command(&format!("SHOW {name}")).await?.parse(name)
    }

    /// Creates a physical slot that holds the log from this moment on.
    ///
    /// # Errors
    /// `Conflict` when a slot of that name exists; `Refused` when the server allows no more slots.
    pub async fn create_physical_slot(&mut self, name: &str) -> Result<(), WalSenderError> {
        check_slot_name(name)?;
        self.command(&format!("CREATE_REPLICATION_SLOT {name} PHYSICAL RESERVE_WAL")).await.map(drop)
    }

    /// Where a physical slot holds the log from; none when there is no such slot. Servers from version 15 on.
    ///
    /// # Errors
    /// When the slot is a logical one, or the server does not know the command.
    pub async fn read_slot(&mut self, name: &str) -> Result<Option<SlotPosition>, WalSenderError> {
        check_slot_name(name)?;
        let table = self.command(&format!("READ_REPLICATION_SLOT {name}")).await?;
        if table.bytes("slot_type").is_none() {
            return Ok(None);
        }
        let restart_lsn = table.bytes("restart_lsn").map(|_| table.parse("restart_lsn")).transpose()?;
        let restart_timeline = table.bytes("restart_tli").map(|_| table.parse("restart_tli")).transpose()?;
        Ok(Some(SlotPosition { restart_lsn, restart_timeline: restart_timeline.map(TimelineId) }))
    }

    /// Removes a slot, so that the server keeps no more log for it.
    ///
    /// # Errors
    /// `NotFound` when there is no such slot; `Conflict` when it is in use.
    pub async fn drop_slot(&mut self, name: &str) -> Result<(), WalSenderError> {
        check_slot_name(name)?;
        self.command(&format!("DROP_REPLICATION_SLOT {name}")).await.map(drop)
    }

    /// The history file of a timeline. Timeline 1 has none.
    ///
    /// # Errors
    /// `NotFound` when the server does not have it.
    pub async fn timeline_history(&mut self, timeline: TimelineId) -> Result<TimelineHistoryFile, WalSenderError> {
        let table = self.command(&format!("TIMELINE_HISTORY {timeline}")).await?;
        let (Some(filename), Some(content)) = (table.text("filename"), table.bytes("content")) else {
            return Err(WalSenderError::Protocol(format!("no content in the history of timeline {timeline}")));
        };
        let content = String::from_utf8(content.to_vec())
            .map_err(|_| WalSenderError::Protocol(format!("the history of timeline {timeline} is not UTF-8")))?;
        Ok(TimelineHistoryFile { filename, content })
    }

    /// Starts streaming the log. When `start` is where its timeline ended, the stream consists of that end alone.
    ///
    /// # Errors
    /// Some of these the server reports only once the stream has begun, so that [`ReplicationStream::next`] gives them:
    /// `NotFound` when the server no longer has the log of `start`; `Refused` when `start` lies ahead of the server or
    /// its timeline is not in the server's history; `Conflict` when the slot is in use.
    pub async fn start_replication(
        mut self,
        start: StreamStart,
        options: StreamOptions,
    ) -> Result<ReplicationStream, WalSenderError> {
        let slot = match &start.slot {
            Some(name) => {
                check_slot_name(name)?;
                format!("SLOT {name} ")
            }
            None => String::new(),
        };
        let command = format!("START_REPLICATION {slot}PHYSICAL {} TIMELINE {}", start.position, start.timeline);
        match self.ask(&command).await? {
            Reply::CopyBoth => Ok(ReplicationStream::running(self, &start, &options)),
            Reply::Table(table) => ReplicationStream::at_end(self, &start, &options, &table),
        }
    }

    async fn command(&mut self, command: &str) -> Result<ResultSet, WalSenderError> {
        match self.ask(command).await? {
            Reply::Table(table) => Ok(table),
            Reply::CopyBoth => Err(WalSenderError::Protocol(format!("a stream in reply to `{command}`"))),
        }
    }

    async fn ask(&mut self, command: &str) -> Result<Reply, WalSenderError> {
        if self.in_command {
            return Err(WalSenderError::OutOfStep);
        }
        self.in_command = true;
        let mut query = BytesMut::new();
        frontend::query(command, &mut query).map_err(WalSenderError::Io)?;
        let asking = async {
            self.writer.send(&query).await?;
            reply::read_reply(&mut self.reader, command).await
        };
        let reply = tokio::time::timeout(COMMAND_TIMEOUT, asking)
            .await
            .map_err(|_| WalSenderError::CommandTimeout { command: command.to_owned(), waited: COMMAND_TIMEOUT })?;
        // A plain error of the server was read to its end; everything else leaves the connection unusable.
        let in_step = match &reply {
            Ok(_) => true,
            Err(error) => error.server_error().is_some_and(|error| !error.is_fatal()),
        };
        self.in_command = !in_step;
        reply
    }
}

/// Slot names are restricted by the server in the same way, so nothing has to be quoted.
fn check_slot_name(name: &str) -> Result<(), WalSenderError> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.is_empty() || name.len() > 63 || !name.chars().all(allowed) {
        return Err(WalSenderError::BadName {
            name: name.to_owned(),
            expected: "a slot name: lower-case letters, digits and `_`, at most 63",
        });
    }
    Ok(())
}

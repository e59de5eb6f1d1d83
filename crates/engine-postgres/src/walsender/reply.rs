//! Answers to commands: a small table of texts.

use breakwater_core::{Lsn, TimelineId};
use bytes::{Buf, Bytes};

use super::error::{ServerError, WalSenderError};
use super::frame::{Frame, FrameReader};

/// The rows of one answer, as texts under the names of their columns.
#[derive(Debug, Default)]
pub(super) struct ResultSet {
    columns: Vec<String>,
    rows: Vec<Vec<Option<Bytes>>>,
}

impl ResultSet {
    /// The value of `column` in the first row; none when it is NULL or there is no row.
    pub(super) fn bytes(&self, column: &str) -> Option<&Bytes> {
        let index = self.columns.iter().position(|name| name == column)?;
        self.rows.first()?.get(index)?.as_ref()
    }

    /// Like [`bytes`](Self::bytes), as a text.
    pub(super) fn text(&self, column: &str) -> Option<String> {
        self.bytes(column).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    /// The value of `column`, which has to be there and to read as a `T`.
    pub(super) fn parse<T: std::str::FromStr>(&self, column: &str) -> Result<T, WalSenderError> {
        let text = self.text(column).ok_or_else(|| WalSenderError::Protocol(format!("no `{column}` in the answer")))?;
        text.trim().parse().map_err(|_| WalSenderError::Protocol(format!("`{column}` is `{text}`")))
    }

    /// The next timeline and where it begins, as they end a stream.
    pub(super) fn next_timeline(&self) -> Result<(TimelineId, Lsn), WalSenderError> {
        Ok((TimelineId(self.parse("next_tli")?), self.parse("next_tli_startpos")?))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn describe(&mut self, mut body: Bytes) -> Option<()> {
        self.columns.clear();
        for _ in 0..body.try_get_u16().ok()? {
            let end = body.iter().position(|byte| *byte == 0)?;
            self.columns.push(String::from_utf8_lossy(&body.split_to(end)).into_owned());
            // The zero, then table, column, type, length, modifier and format.
            body.try_copy_to_slice(&mut [0; 19]).ok()?;
        }
        Some(())
    }

    fn add_row(&mut self, mut body: Bytes) -> Option<()> {
        let mut row = Vec::new();
        for _ in 0..body.try_get_u16().ok()? {
            let length = body.try_get_i32().ok()?;
            row.push(match usize::try_from(length) {
                Ok(length) if length > body.len() => return None,
                Ok(length) => Some(body.split_to(length)),
                Err(_) => None,
            });
        }
        self.rows.push(row);
        Some(())
    }
}

/// What a reply turned out to be.
#[derive(Debug)]
pub(super) enum Reply {
    /// A table, perhaps an empty one.
    Table(ResultSet),
    /// The connection now carries a stream in both directions.
    CopyBoth,
}

/// Reads one reply up to where the server is ready again (or streams). `command` names it in errors.
pub(super) async fn read_reply(reader: &mut FrameReader, command: &str) -> Result<Reply, WalSenderError> {
    let mut table = ResultSet::default();
    let mut failure = None;
    loop {
        let Frame { tag, body } = reader.next().await?;
        let understood = match tag {
            b'T' => table.describe(body),
            b'D' => table.add_row(body),
            b'W' => return Ok(Reply::CopyBoth),
            b'E' => {
                let source = Box::new(ServerError::parse(&body));
                let fatal = source.is_fatal();
                let error = WalSenderError::Server { command: command.to_owned(), source };
                // After a fatal error the server closes; waiting for `ready` would only turn it into `closed`.
                if fatal {
                    return Err(error);
                }
                failure = Some(error);
                Some(())
            }
            b'Z' => return failure.map_or(Ok(Reply::Table(table)), Err),
            // Command tags, empty answers, notices, changed parameters.
            b'C' | b'I' | b'N' | b'S' => Some(()),
            _ => None,
        };
        if understood.is_none() {
            return Err(WalSenderError::Protocol(format!("message `{}` in reply to `{command}`", char::from(tag))));
        }
    }
}

//! The physical slot: the server's promise to keep its log for us.

use breakwater_core::Lsn;
use breakwater_engine::{EngineError, EngineErrorKind};

use crate::connection::SqlClient;
use crate::failure::{of_sql, of_walsender};
use crate::server::{Server, parse_lsn};
use crate::settings::{PostgresSettings, Protect};
use crate::walsender::WalSender;

/// A slot as the server shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub physical: bool,
    /// The oldest position that it keeps; none before it keeps anything, and when it is lost.
    pub restart: Option<Lsn>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// Bytes that can be written before the slot is in danger; none without a bound.
    pub safe_wal_size: Option<i64>,
}

impl Slot {
    /// Looks the slot `name` up; `None` when there is none.
    pub(crate) async fn look_up(client: &SqlClient, name: &str) -> Result<Option<Slot>, EngineError> {
        let what = "cannot look at the replication slot";
        let row = client
            .query_opt(
                "SELECT slot_type::text, restart_lsn::text, wal_status, safe_wal_size FROM pg_replication_slots \
                 WHERE slot_name = $1::text",
                &[&name],
            )
            .await
            .map_err(|error| of_sql(what, error))?;
        let Some(row) = row else { return Ok(None) };
        let restart = row.get::<_, Option<String>>(1).map(|text| parse_lsn(what, Some(text))).transpose()?;
        Ok(Some(Slot {
            physical: row.get::<_, String>(0) == "physical",
            restart,
            wal_status: row.get(2),
            safe_wal_size: row.get(3),
        }))
    }

    /// Whether the server has removed log that the slot was to keep.
    pub(crate) fn is_lost(&self) -> bool {
        self.wal_status.as_deref() == Some("lost")
    }
}

/// The error of a slot that the server has given up.
pub(crate) fn lost(name: &str) -> EngineError {
    let what =
        format!("the log has a gap: the server has given up the slot {name} and removed log that was not stored");
    EngineError::new(EngineErrorKind::Conflict, what)
        .hint("forget the slot, open a new stretch of the log and take a new backup; raise max_slot_wal_keep_size to prevent it")
}

/// The slot of this source, made if there is none yet.
pub(crate) async fn ensure(
    client: &SqlClient,
    server: &Server,
    walsender: &mut WalSender,
    settings: &PostgresSettings,
) -> Result<Slot, EngineError> {
    let name = &settings.slot;
    if Slot::look_up(client, name).await?.is_none() {
        refuse_unbounded(server, settings)?;
        walsender
            .create_physical_slot(name)
            .await
            .map_err(|error| of_walsender(&format!("cannot make the replication slot {name}"), error))?;
    }
    match Slot::look_up(client, name).await? {
        None => Err(EngineError::new(EngineErrorKind::Conflict, format!("somebody drops the replication slot {name}"))),
        Some(slot) if !slot.physical => {
            let what = format!("the replication slot {name} is a logical one, of somebody else");
            Err(EngineError::new(EngineErrorKind::Refused, what).hint("give this source another slot name"))
        }
        Some(slot) if slot.is_lost() => Err(lost(name)),
        Some(slot) => Ok(slot),
    }
}

/// A slot without bound fills the server's disk when the log cannot be stored, so that is only made when it is wanted.
fn refuse_unbounded(server: &Server, settings: &PostgresSettings) -> Result<(), EngineError> {
    let bounded = server.setting("max_slot_wal_keep_size").is_some_and(|size| size != "-1");
    if bounded || settings.allow_unbounded_slot || settings.protect == Protect::Archive {
        return Ok(());
    }
    let what =
        "max_slot_wal_keep_size is -1: while the log cannot be stored, the server would keep it until its disk is full";
    Err(EngineError::new(EngineErrorKind::Refused, what)
        .hint("ALTER SYSTEM SET max_slot_wal_keep_size = '10GB'; SELECT pg_reload_conf(); or allow an unbounded slot for this source"))
}

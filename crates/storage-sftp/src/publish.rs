//! How an object gets its name: by an operation that must refuse where the name is taken, for any number of writers at once.
//!
//! A hard link is that on every server that has it. The rename of SFTP version 3 is meant to be, but servers differ, so that
//! it is used only where there are no links, and only after it was seen to refuse, and to let one of several connections win.
//! Invariant: nothing is published on a server by an operation that was not proven there since this process opened it.

use breakwater_storage::StorageErrorKind;

use crate::call::Call;
use crate::connection::Connection;
use crate::directory;
use crate::failure::{Failure, Refusal};
use crate::pool::Pool;
use crate::write::{Leftovers, TEMPORARY, Temporary, temporary_key};

/// How often connections race for one name before a rename is trusted.
const RACES: usize = 8;

/// The operation that publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Publishing {
    /// `hardlink@openssh.com`; the temporary name is removed afterwards.
    HardLink,
    /// `SSH_FXP_RENAME`.
    Rename,
}

impl Publishing {
    /// Gives the file at `from` the name `to`, which must be free.
    pub(crate) async fn publish(self, connection: &Connection, from: &str, to: &str) -> Result<(), Refusal> {
        match self {
            Publishing::HardLink => connection.hard_link(from, to).await,
            Publishing::Rename => connection.rename(from, to).await,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Publishing::HardLink => "hard link",
            Publishing::Rename => "rename",
        }
    }
}

/// Why a server cannot hold a region.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    #[error(
        "the server has no {what}, without which a backup could be lost with its power (hint: OpenSSH 6.5 or newer on a Unix has it)"
    )]
    NotDurable { what: &'static str },
    #[error(
        "a {} to a free name fails, so nothing can be published (hint: the file system behind it must have hard links, and the \
         account must be allowed to use the request)", .publishing.as_str()
    )]
    NotPublished { publishing: Publishing, source: Refusal },
    #[error("a {} replaced what was there, so backups could be overwritten (hint: a server with hardlink@openssh.com, such as OpenSSH)", .0.as_str())]
    Replaces(Publishing),
    #[error("of several connections, {winners} could {} to one name, so backups could be overwritten (hint: a server with hardlink@openssh.com, such as OpenSSH)", .publishing.as_str())]
    Races { publishing: Publishing, winners: usize },
}

impl From<Unfit> for Failure {
    fn from(unfit: Unfit) -> Failure {
        let kind = match unfit {
            Unfit::NotDurable { .. } | Unfit::NotPublished { .. } => StorageErrorKind::Unsupported,
            Unfit::Replaces(_) | Unfit::Races { .. } => StorageErrorKind::Invalid,
        };
        Failure::because(kind, unfit)
    }
}

/// Finds out how objects can be published on this server, in `.tmp/`, and leaves nothing there.
pub(crate) async fn prove(call: &Call, pool: &Pool, leftovers: &Leftovers) -> Result<Publishing, Failure> {
    let has_hard_links = call.connection.extensions().hard_links;
    let publishing = if has_hard_links { Publishing::HardLink } else { Publishing::Rename };
    let mut made = Vec::new();
    let proven = async {
        refuses_and_publishes(call, publishing, &mut made).await?;
        if publishing == Publishing::Rename {
            lets_one_win(call, pool, publishing, &mut made).await?;
        }
        Ok(publishing)
    };
    let proven = proven.await;
    leftovers.remove(call, made).await;
    proven
}

async fn refuses_and_publishes(call: &Call, publishing: Publishing, made: &mut Vec<String>) -> Result<(), Failure> {
    // An account that only reads is denied this; its server does not mention what it would not be allowed.
    let full = temporary(call, made).await?;
    if !call.connection.extensions().flushes {
        return Err(Unfit::NotDurable { what: "fsync@openssh.com" }.into());
    }
    full.file.write(&b"x".as_slice().into()).await?;
    let taken = temporary(call, made).await?;
    match directory::flush_path(call, &call.path(TEMPORARY)).await {
        Ok(()) => {}
        Err(refusal @ Refusal::Lost(_)) => return Err(refusal.into()),
        Err(_) => return Err(Unfit::NotDurable { what: "way to flush a directory" }.into()),
    }
    match publishing.publish(&call.connection, &call.path(&full.key), &call.path(&taken.key)).await {
        Ok(()) => return Err(Unfit::Replaces(publishing).into()),
        Err(refusal @ Refusal::Lost(_)) => return Err(refusal.into()),
        Err(_) => {}
    }
    if call.connection.lstat(&call.path(&taken.key)).await?.size != Some(0) {
        return Err(Unfit::Replaces(publishing).into());
    }
    let free = temporary_key();
    made.push(free.clone());
    match publishing.publish(&call.connection, &call.path(&full.key), &call.path(&free)).await {
        Ok(()) => Ok(()),
        Err(refusal @ (Refusal::Lost(_) | Refusal::Missing)) => Err(refusal.into()),
        Err(source) => Err(Unfit::NotPublished { publishing, source }.into()),
    }
}

async fn lets_one_win(call: &Call, pool: &Pool, publishing: Publishing, made: &mut Vec<String>) -> Result<(), Failure> {
    let connections = pool.all().await?;
    for _ in 0..RACES {
        let target = temporary_key();
        made.push(target.clone());
        let mut runners = Vec::new();
        for connection in &connections {
            runners.push((connection, temporary(call, made).await?.key));
        }
        let races = runners.iter().map(|(connection, key)| {
            let (from, to) = (call.path(key), call.path(&target));
            async move { publishing.publish(connection, &from, &to).await }
        });
        let mut winners = 0;
        for finish in futures::future::join_all(races).await {
            match finish {
                Ok(()) => winners += 1,
                Err(refusal @ Refusal::Lost(_)) => return Err(refusal.into()),
                Err(_) => {}
            }
        }
        if winners != 1 {
            return Err(Unfit::Races { publishing, winners }.into());
        }
    }
    Ok(())
}

async fn temporary(call: &Call, made: &mut Vec<String>) -> Result<Temporary, Failure> {
    let temporary = Temporary::create(call).await?;
    made.push(temporary.key.clone());
    Ok(temporary)
}

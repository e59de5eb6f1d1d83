//! Regions in directories on hosts that are reached by SFTP: one [`Backend`](breakwater_storage::Backend) and its provider.
//!
//! The promises are those of a local directory, kept with the few words that SFTP version 3 has: an object is written under a
//! temporary name, flushed, and published by an operation that the server has been seen to refuse where the name is taken.
//! What the server says of itself is not trusted; what it cannot do is refused by name.
//!
//! Reading order: [`settings`], [`credentials`] and [`host_key`] (what a URL says, who we are, whom we trust), [`connection`]
//! and [`pool`] (the way there), [`failure`], [`call`] (one operation of the contract), [`directory`], [`object`], [`list`],
//! [`write`] with [`publish`], and [`sftp`], which puts them behind the contract.

mod call;
mod connection;
mod credentials;
mod directory;
mod failure;
mod host_key;
mod list;
mod object;
mod pool;
mod publish;
mod settings;
mod sftp;
mod write;

pub use settings::{Environment, Patience, Settings};
pub use sftp::{Sftp, SftpProvider};

//! Regions on Azure Blob Storage: one [`Backend`](breakwater_storage::Backend) over the official SDK, and its [`Provider`](breakwater_storage::Provider).
//!
//! An object is a block blob. It is created by one Put Blob with `If-None-Match: *`, whose checksum, tier and lock travel in the
//! same request; the SDK's own retries are off. Nothing here knows what is stored.
//!
//! Reading order: [`provider`], [`credentials`] with [`shared_key`], [`sas`] and [`certificate`], [`wire`], [`backend`] with
//! [`create`], [`body`], [`list`], [`delete`] and [`properties`], [`failure`].

mod backend;
mod body;
mod certificate;
mod create;
mod credentials;
mod delete;
mod failure;
mod list;
mod properties;
mod provider;
mod sas;
mod secret;
mod shared_key;
mod wire;

pub use backend::{Azure, Limits};
pub use provider::AzureProvider;

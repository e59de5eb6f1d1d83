//! Regions on Google Cloud Storage: one [`Backend`](breakwater_storage::Backend) and its provider.
//!
//! Everything goes through the JSON API (<https://cloud.google.com/storage/docs/json_api/v1>), whose answers are read here and
//! nowhere else; credentials are Google's own library's. Why not the whole of Google's library: docs/decisions/0022-gcs.md.
//!
//! Reading order: [`gcs`] (the backend), `upload`, `resource` and `lock` (what the service says of objects), `refusal` (what it
//! says when it does not do something), `wire` and `login` below them, [`provider`] on top.

pub mod gcs;
mod lock;
mod login;
pub mod provider;
mod refusal;
mod resource;
mod rope;
mod upload;
mod wire;

pub use gcs::Gcs;
pub use provider::GcsProvider;
pub use upload::SINGLE_BYTES_MAX;

//! Regions on S3 and what speaks like it: one [`Backend`](breakwater_storage::Backend) and its provider.
//!
//! Nothing here is trusted that a store can check itself: creates are conditional, content travels with its CRC64NVME, lists are
//! compared with their order, parts with what was asked for. Nothing is tried twice here either: the SDK's own retries are off.
//!
//! Reading order: [`options`] (what a URL may say), [`credentials`], [`connect`], [`backend`] (the store itself), then what each
//! operation is: [`create`] with [`rope`] and [`multipart`], [`read`], [`list`], [`delete`], [`lock`], [`class`],
//! [`features`]; and [`refusal`] with [`failure`], which say what is wrong and what to change.

mod backend;
mod class;
mod connect;
mod create;
mod credentials;
mod delete;
mod failure;
mod features;
mod list;
mod lock;
mod multipart;
mod options;
mod provider;
mod read;
mod refusal;
mod rope;

pub use backend::S3;
pub use provider::S3Provider;

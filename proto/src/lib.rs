//! The wire protocols, version 1: [`v1`] is generated from `breakwater/v1/*.proto`; [`convert`] goes between its
//! messages and the domain's types.
//!
//! Invariant: no message of the agent stream is larger than [`MESSAGE_BYTES_MAX`]; long answers travel in pieces of
//! [`PIECE_BYTES`].

pub mod convert;

/// The generated messages, clients and servers of protocol version 1.
#[expect(unused_qualifications, reason = "generated")]
#[expect(clippy::large_enum_variant, reason = "generated; one question at a time is held")]
pub mod v1 {
    tonic::include_proto!("breakwater.v1");
}

/// The protocol version that this build speaks.
pub const PROTOCOL_VERSION: u32 = 1;

/// The largest message of the agent stream, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Bytes in one piece of a long answer.
pub const PIECE_BYTES: usize = 32 * 1024;

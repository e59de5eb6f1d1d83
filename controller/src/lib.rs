//! The controller: keeps what people declared, hands work to agents, knows how exposed every source is.

pub mod objects;
pub mod pki;

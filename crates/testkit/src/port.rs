//! Ports on the loopback interface.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

// Below the range from which the kernel takes ports for outgoing connections (32768 and up on Linux), so that a server
// which was stopped finds its port free when it is started again.
const LOWEST: u16 = 18_000;
const COUNT: u16 = 14_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A TCP port on which nothing listens now. Each call of a process gives another one, and processes start at different
/// places; still, somebody may take it first, so a server that fails to bind should be tried again with another.
pub fn free_port() -> u16 {
    let start = u16::try_from(u64::from(std::process::id()) * 97 % u64::from(COUNT)).expect("less than COUNT");
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let port = LOWEST + (start + step) % COUNT;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free TCP port between {LOWEST} and {}", LOWEST + COUNT);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ_and_can_be_bound() {
        let (a, b) = (free_port(), free_port());
        assert_ne!(a, b);
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, a)).unwrap();
        assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, a)).is_err(), "the port is really taken now");
        drop(held);
    }
}

//! Free ports on loopback.

use std::{
    net::TcpListener,
    sync::atomic::{AtomicU16, Ordering},
};

/// A port of 127.0.0.1 that nobody listens at, below the range from which the
/// kernel takes those of outgoing connections.
///
/// # Panics
/// When there is none.
pub fn free_port() -> u16 {
    let start = (std::process::id() % 180) as u16 * 100;
    for _ in 0..RANGE {
        let port = FIRST + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % RANGE;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + RANGE);
}

static NEXT: AtomicU16 = AtomicU16::new(0);
const FIRST: u16 = 14_000;
const RANGE: u16 = 18_000;

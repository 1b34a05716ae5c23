//! Real servers of Debian's packages, each in a temporary directory of its own
//! and on a free port. They end when the value that stands for them is dropped.

#![expect(clippy::unwrap_used, reason = "for tests and benchmarks, which may panic")]

mod postgres;
mod redis;
mod softhsm;
mod tree;

pub use postgres::{POSTGRES_PASSWORD, Postgres, give};
pub use redis::{Redis, RedisCluster, RedisSentinel, TlsFiles};
pub use softhsm::{SOFTHSM_PIN, SOFTHSM_TOKEN, SoftHsm};
pub use tree::{freeze, thaw};

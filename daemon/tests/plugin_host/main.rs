//! The plugin host against real shared libraries, under the daemon's
//! allocator: memory that is freed on the wrong side would show.

#![expect(clippy::unwrap_used, reason = "tests, and what they are made of")]

mod calls;
mod conformance;
mod contract;
mod files;
mod limits;
mod reload;
mod services;
mod signatures;
mod support;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

//! What plugins are tested with: one suite for all stores of a kind.
//!
//! Each suite is a function that takes a maker of fresh, empty stores, checks
//! the contract of the trait against the real store, and panics with what was
//! expected. Call it on a tokio runtime with several threads: the races in it
//! are run as tasks.
//!
//! - [`cipher`]: the suite of [`CipherSuite`](crate::CipherSuite);
//! - [`user_store`]: the suite of [`UserStore`]; a store that outlives its process
//!   passes [`restart`] too, and one that several daemons may share [`processes`];
//! - [`state_store`]: the suite of [`StateStore`](crate::StateStore);
//! - [`issuer`]: the suite of [`KeyIssuer`](crate::KeyIssuer);
//! - [`custody`]: the suite of [`KeyCustody`](crate::KeyCustody);
//! - [`Check`]: one check of a suite. `clavigerd plugin test` makes them one by
//!   one, each in a process of its own, and reports them by name;
//! - [`MemoryState`]: a state store in memory for tests of issuers;
//! - [`StoppedClock`]: time that passes when it is told to.

mod check;
mod cipher;
mod clock;
mod counters;
mod custody;
mod dropped;
mod issuer;
mod lists;
mod memory_state;
mod processes;
mod races;
mod records;
mod restart;
mod scans;
mod state_store;

use std::{future::Future, sync::Arc};

pub use check::{Check, Make};
pub use cipher::{CipherCheck, cipher, cipher_checks};
pub use clock::StoppedClock;
pub use custody::{custody, custody_checks};
pub use issuer::{issuer, issuer_checks};
pub use memory_state::MemoryState;
pub use processes::processes;
pub use restart::restart;
pub use state_store::{state_store, state_store_checks};
use tokio::task::JoinSet;

use check::checks;

use crate::UserStore;

/// Checks a user store against the contract of the trait. `make` gives a new,
/// empty store each time.
///
/// # Panics
/// With what was expected, where the store does not keep the contract.
pub async fn user_store<M, F>(make: M)
where
    M: Fn() -> F,
    F: Future<Output = Arc<dyn UserStore>>,
{
    check::all(&user_store_checks(), &make).await;
}

/// The checks of [`user_store`] one by one.
pub fn user_store_checks() -> Vec<Check<Arc<dyn UserStore>>> {
    let mut checks = records::checks();
    checks.extend(scans::checks());
    checks.extend(counters::checks());
    checks.extend(lists::checks());
    checks.extend(races::checks());
    checks.extend(dropped::checks());
    checks.extend(checks!("health", [a_fresh_store_is_healthy]));
    checks
}

async fn a_fresh_store_is_healthy(store: Arc<dyn UserStore>) {
    store.health().await.expect("a fresh store is healthy");
}

/// Runs `task` for 0..`count` at once, each on the runtime's threads, and
/// gathers the results in any order.
async fn at_once<T, F>(count: u32, task: impl Fn(u32) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let mut running = JoinSet::new();
    for number in 0..count {
        running.spawn(task(number));
    }
    running.join_all().await
}

//! What plugins are tested with: one suite for all stores of a kind.
//!
//! Each suite is a function that takes a maker of fresh, empty stores, checks
//! the contract of the trait against the real store, and panics with what was
//! expected. Call it on a tokio runtime with several threads: the races in it
//! are run as tasks.
//!
//! - [`user_store`]: the suite of [`UserStore`]; a store that outlives its process
//!   passes [`restart`] too, and one that several daemons may share [`processes`];
//! - [`state_store`]: the suite of [`StateStore`](crate::StateStore);
//! - [`custody`]: the suite of [`KeyCustody`](crate::KeyCustody);
//! - [`MemoryState`]: a state store in memory for tests of issuers;
//! - [`StoppedClock`]: time that passes when it is told to.

mod clock;
mod counters;
mod custody;
mod dropped;
mod lists;
mod memory_state;
mod processes;
mod races;
mod records;
mod restart;
mod scans;
mod state_store;

use std::{future::Future, sync::Arc};

pub use clock::StoppedClock;
pub use custody::custody;
pub use memory_state::MemoryState;
pub use processes::processes;
pub use restart::restart;
pub use state_store::state_store;
use tokio::task::JoinSet;

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
    records::suite(&make).await;
    scans::suite(&make).await;
    counters::suite(&make).await;
    lists::suite(&make).await;
    races::suite(&make).await;
    dropped::suite(&make).await;
    make().await.health().await.expect("a fresh store is healthy");
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

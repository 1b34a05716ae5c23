//! Logs changes, not every failure: whether something we depend on answers.

use std::{
    borrow::Cow,
    fmt::Display,
    sync::atomic::{AtomicBool, Ordering},
};

use tracing::{debug, info, warn};

/// Whether the last call to something came about.
pub(super) struct Reachability {
    what: Cow<'static, str>,
    answering: AtomicBool,
}

impl Reachability {
    /// Assumed to answer until it does not. `what` names it in the log.
    pub(super) fn new(what: impl Into<Cow<'static, str>>) -> Self {
        Self { what: what.into(), answering: AtomicBool::new(true) }
    }

    /// It answered.
    pub(super) fn up(&self) {
        // The load keeps the common case free of writes to a shared cache line.
        if !self.answering.load(Ordering::Relaxed) && !self.answering.swap(true, Ordering::Relaxed) {
            info!("{} answers again", self.what);
        }
    }

    /// It did not: the first time is a warning, the rest is for debugging.
    pub(super) fn down(&self, error: &dyn Display) {
        if self.answering.swap(false, Ordering::Relaxed) {
            warn!(%error, "{} does not answer", self.what);
        } else {
            debug!(%error, "{} does not answer", self.what);
        }
    }
}

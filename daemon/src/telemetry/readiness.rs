//! Which components of the daemon are ready for requests, and why others are not.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// The components of one daemon. Clones share their state.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    state: Arc<Mutex<State>>,
}

/// Sets the readiness of one component. Not ready until it is told so.
#[derive(Debug, Clone)]
pub struct ReadyFlag {
    state: Arc<Mutex<State>>,
    at: usize,
}

/// What `/readyz` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Whether requests may be sent here: at least one component, all of them ready, and not draining.
    pub ready: bool,
    /// Whether the daemon is about to end.
    pub draining: bool,
    /// Each component, in the order of registration.
    pub components: Vec<Component>,
}

/// One component in a [`Report`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    /// Such as `management` or `plugin store-sqlite`.
    pub name: String,
    /// Whether it works.
    pub ready: bool,
    /// Why it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Readiness {
    /// Nothing is registered yet, so nothing is ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a component, which is not ready ("starting") until its flag says so.
    pub fn register(&self, name: impl Into<String>) -> ReadyFlag {
        let mut state = lock(&self.state);
        let component = Component { name: name.into(), ready: false, reason: Some("starting".to_owned()) };
        show(&component);
        state.components.push(component);
        ReadyFlag { state: self.state.clone(), at: state.components.len() - 1 }
    }

    /// From now on nothing is ready: the daemon finishes what it has and ends.
    pub fn drain(&self) {
        lock(&self.state).draining = true;
    }

    /// How things stand.
    pub fn report(&self) -> Report {
        let state = lock(&self.state);
        Report {
            ready: !state.draining && !state.components.is_empty() && state.components.iter().all(|c| c.ready),
            draining: state.draining,
            components: state.components.clone(),
        }
    }
}

impl ReadyFlag {
    /// Sets whether the component works; `reason` says why not, and is left out when it does.
    /// A change is logged.
    pub fn set(&self, ready: bool, reason: &str) {
        let mut state = lock(&self.state);
        let Some(component) = state.components.get_mut(self.at) else { return };
        let changed = component.ready != ready;
        component.ready = ready;
        component.reason = (!ready).then(|| reason.to_owned());
        if changed {
            show(component);
            match ready {
                true => tracing::info!(component = component.name, "ready"),
                false => tracing::warn!(component = component.name, reason, "not ready"),
            }
        }
    }

    /// The component works.
    pub fn ready(&self) {
        self.set(true, "");
    }
}

#[derive(Debug, Default)]
struct State {
    draining: bool,
    components: Vec<Component>,
}

fn show(component: &Component) {
    metrics::gauge!("claviger_ready", "component" => component.name.clone()).set(f64::from(u8::from(component.ready)));
}

/// Each change is a single assignment, so a panic elsewhere leaves the state whole.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_is_ready_when_all_components_are() {
        let readiness = Readiness::new();
        assert!(!readiness.report().ready, "nothing is registered");
        let (store, role) = (readiness.register("store"), readiness.register("management"));
        role.ready();
        let report = readiness.report();
        assert!(!report.ready);
        assert_eq!(report.components[0].reason.as_deref(), Some("starting"));
        store.ready();
        assert!(readiness.report().ready);
        store.set(false, "does not answer");
        assert_eq!(readiness.report().components[0].reason.as_deref(), Some("does not answer"));
        store.ready();
        readiness.drain();
        let report = readiness.report();
        assert!(!report.ready && report.draining && report.components.iter().all(|c| c.ready));
    }
}

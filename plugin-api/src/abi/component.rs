//! What a component with asynchronous calls is behind its [`Object`].

use std::{future::Future, sync::Arc};

use super::{
    future::{Answer, answer},
    object::Object,
};
use crate::{PluginError, plugin::PollIn};

/// The component, and how its futures are to be polled.
pub(super) struct Lent<T: ?Sized> {
    pub(super) component: Arc<T>,
    pub(super) poll_in: Option<PollIn>,
}

impl<T: ?Sized + Send + Sync + 'static> Lent<T> {
    pub(super) fn object(component: Arc<T>, poll_in: Option<PollIn>) -> Object {
        Object::new(Self { component, poll_in })
    }

    /// The answer of one call: `call` runs at the first poll.
    pub(super) fn answer<'a, R: 'a, A: 'a>(
        &'a self,
        call: impl Future<Output = Result<R, PluginError>> + Send + 'a,
        map: fn(R) -> A,
    ) -> Answer<'a, A> {
        answer(self.poll_in.clone(), call, map)
    }
}

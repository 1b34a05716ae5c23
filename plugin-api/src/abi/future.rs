//! Futures that cross the boundary: each poll, and the drop, caught in the
//! library that made them.

use std::{
    future::Future,
    mem::ManuallyDrop,
    pin::Pin,
    task::{Context, Poll},
};

use abi_stable::std_types::{RErr, ROk, RResult};
use async_ffi::BorrowingFfiFuture;

use super::{error::Failure, object::catch};
use crate::{PluginError, plugin::PollIn};

/// What an asynchronous function of a table returns.
pub(super) type Answer<'a, T> = BorrowingFfiFuture<'a, RResult<T, Failure>>;

/// Makes an answer of `future`, mapping its value by `map`. Each poll runs
/// inside `poll_in`, when the plugin asked for that.
pub(super) fn answer<'a, T, A>(
    poll_in: Option<PollIn>,
    future: impl Future<Output = Result<T, PluginError>> + Send + 'a,
    map: fn(T) -> A,
) -> Answer<'a, A>
where
    T: 'a,
    A: 'a,
{
    BorrowingFfiFuture::new(Guarded { future: ManuallyDrop::new(future), live: true, poll_in, map })
}

struct Guarded<F, T, A> {
    /// Pinned with this struct; gone when `live` is false.
    future: ManuallyDrop<F>,
    live: bool,
    poll_in: Option<PollIn>,
    map: fn(T) -> A,
}

impl<F, T, A> Future for Guarded<F, T, A>
where
    F: Future<Output = Result<T, PluginError>>,
{
    type Output = RResult<A, Failure>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: `future` is pinned structurally: it is never moved, and dropped in place by `end`.
        let this = unsafe { self.get_unchecked_mut() };
        if !this.live {
            return Poll::Ready(RErr(PluginError::Panicked.into()));
        }
        let map = this.map;
        let mut polled = None;
        let survived = catch(|| {
            // SAFETY: `this` is pinned, and so is its field; it is live.
            let mut future = unsafe { Pin::new_unchecked(&mut *this.future) };
            let mut poll = || polled = Some(future.as_mut().poll(context).map(|result| result.map(map)));
            match &this.poll_in {
                None => poll(),
                Some(poll_in) => poll_in(&mut poll),
            }
        });
        let result = match (survived, polled) {
            (Some(()), Some(Poll::Pending)) => return Poll::Pending,
            (Some(()), Some(Poll::Ready(result))) => result,
            _ => Err(PluginError::Panicked),
        };
        this.end();
        Poll::Ready(match result {
            Ok(value) => ROk(value),
            Err(error) => RErr(error.into()),
        })
    }
}

impl<F, T, A> Guarded<F, T, A> {
    fn end(&mut self) {
        if std::mem::take(&mut self.live) {
            // SAFETY: `live` was true, so the future has not been dropped, and it is not used again.
            catch(|| unsafe { ManuallyDrop::drop(&mut self.future) });
        }
    }
}

impl<F, T, A> Drop for Guarded<F, T, A> {
    fn drop(&mut self) {
        self.end();
    }
}

//! The body of a request on its way to the upstream.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, error::Elapsed, timeout_at};

use super::headers::strip_trailers;
use crate::net::BoxError;

/// Streams a body through, notes that it moves, and cleans its trailers.
pub(super) struct Upload<B> {
    body: B,
    progress: Arc<Progress>,
}

impl<B> Upload<B> {
    pub(super) fn new(body: B, progress: Arc<Progress>) -> Self {
        Self { body, progress }
    }
}

impl<B> Body for Upload<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.progress.moved();
        Poll::Ready(frame.map(|frame| {
            let mut frame = frame.map_err(Into::into)?;
            if let Some(trailers) = frame.trailers_mut() {
                strip_trailers(trailers);
            }
            Ok(frame)
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// When something last moved.
pub(super) struct Progress {
    start: Instant,
    /// Milliseconds after `start`.
    last: AtomicU64,
}

impl Progress {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { start: Instant::now(), last: AtomicU64::new(0) })
    }

    fn moved(&self) {
        let elapsed = self.start.elapsed().as_millis();
        self.last.store(u64::try_from(elapsed).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn last(&self) -> Instant {
        self.start + Duration::from_millis(self.last.load(Ordering::Relaxed))
    }

    /// Waits for `future` until nothing has moved for `limit`.
    pub(super) async fn limit<F: Future>(&self, limit: Duration, future: F) -> Result<F::Output, Elapsed> {
        let mut future = std::pin::pin!(future);
        loop {
            match timeout_at(self.last() + limit, &mut future).await {
                Err(_) if Instant::now() < self.last() + limit => {}
                outcome => return outcome,
            }
        }
    }
}

//! WebSocket: two upgraded connections become one tunnel.

use std::time::SystemTime;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tracing::debug;

/// Joins both sides in a task of its own. The tunnel ends when either side
/// ends it, and when the session that opened it is over.
pub(super) fn tunnel(client: OnUpgrade, upstream: OnUpgrade, expires: SystemTime) {
    tokio::spawn(async move {
        let (client, upstream) = match tokio::try_join!(client, upstream) {
            Ok(both) => both,
            Err(error) => return debug!(%error, "the upgrade did not come about"),
        };
        let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
        let left = expires.duration_since(SystemTime::now()).unwrap_or_default();
        let copied = tokio::time::timeout(left, tokio::io::copy_bidirectional(&mut client, &mut upstream)).await;
        match copied {
            Ok(Ok((up, down))) => debug!(up, down, "tunnel closed"),
            Ok(Err(error)) => debug!(%error, "tunnel broke off"),
            Err(_) => debug!("tunnel closed at the end of its session"),
        }
    });
}

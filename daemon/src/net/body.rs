//! Bodies: one boxed type for every answer, and reading requests with a limit.

use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, Full, LengthLimitError, Limited, combinators::UnsyncBoxBody};

/// Any error of a body stream.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of every answer, whole or streamed.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A body that is already in memory.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// No body.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A plain-text answer. `message` is shown to the peer as it is.
pub fn text(status: StatusCode, message: &str) -> Response<Body> {
    with_type(status, "text/plain; charset=utf-8", message.to_owned())
}

/// An answer that is in memory, with its content type.
pub fn with_type(status: StatusCode, content_type: &'static str, bytes: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

/// Why a request body was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// More bytes than allowed were announced or sent: answer 413.
    #[error("the body is too large")]
    TooLarge,
    /// The peer broke off, took too long, or broke the framing: answer 400, if it still listens.
    #[error("the body broke off")]
    Broken,
}

/// Reads a whole body of at most `limit` bytes, which must be there within 10 s:
/// a peer that sends a head and then nothing must not hold its connection.
///
/// A larger `Content-Length` is refused before a byte is read; a body without
/// one is refused at the first byte over the limit.
pub async fn read_body<B>(body: B, limit: usize) -> Result<Bytes, BodyError>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    read_body_within(body, limit, READ_TIMEOUT).await
}

async fn read_body_within<B>(body: B, limit: usize, time: Duration) -> Result<Bytes, BodyError>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    if body.size_hint().lower() > limit as u64 {
        return Err(BodyError::TooLarge);
    }
    match tokio::time::timeout(time, Limited::new(body, limit).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(e)) if e.is::<LengthLimitError>() => Err(BodyError::TooLarge),
        Ok(Err(_)) | Err(_) => Err(BodyError::Broken),
    }
}

const READ_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bodies_are_read_up_to_the_limit_and_no_further() {
        for (length, limit, expected) in
            [(0, 0, Ok(0)), (10, 10, Ok(10)), (11, 10, Err(BodyError::TooLarge)), (1, 0, Err(BodyError::TooLarge))]
        {
            assert_eq!(read_body(full(vec![7; length]), limit).await.map(|b| b.len()), expected, "{length} of {limit}");
        }
    }

    #[tokio::test]
    async fn unannounced_length_is_stopped_while_streaming() {
        let endless = http_body_util::StreamBody::new(futures_util::stream::repeat_with(|| {
            Ok::<_, BoxError>(http_body::Frame::data(Bytes::from_static(&[0; 1024])))
        }));
        assert_eq!(read_body(endless, 4096).await, Err(BodyError::TooLarge));
    }

    #[tokio::test]
    async fn a_broken_stream_is_told_apart() {
        let broken = http_body_util::StreamBody::new(futures_util::stream::iter([
            Ok(http_body::Frame::data(Bytes::from_static(b"ab"))),
            Err(BoxError::from("reset")),
        ]));
        assert_eq!(read_body(broken, 10).await, Err(BodyError::Broken));
    }

    #[tokio::test]
    async fn a_body_that_never_ends_is_given_up() {
        let first = futures_util::stream::iter([Ok::<_, BoxError>(http_body::Frame::data(Bytes::from_static(b"a")))]);
        let silent =
            http_body_util::StreamBody::new(futures_util::StreamExt::chain(first, futures_util::stream::pending()));
        let time = Duration::from_millis(20);
        assert_eq!(read_body_within(silent, 10, time).await, Err(BodyError::Broken));
    }
}

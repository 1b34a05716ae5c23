//! A service as the signed-on user.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use claviger_protocol::message::{KeyGrant, Scope};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Incoming};
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use crate::{
    client::{Body, BoxError, Transport, full},
    credential::Service,
    credential_file::CredentialFile,
    error::{Error, Result},
    origin::Origin,
    session_cache::SessionCache,
    terminal::{SignOnOptions, Terminal, now_ms},
};

/// Requests to one service, with a key that is renewed when it ends. Redirects
/// are not followed, and the key is sent to the session's origin alone.
/// Usable from many tasks at once; they share one sign-on.
pub struct Session {
    terminal: Terminal,
    service: Service,
    transport: Transport,
    scope: Scope,
    cache: bool,
    current: Mutex<Option<Arc<SessionKey>>>,
}

impl Session {
    pub(crate) async fn open(
        terminal: Terminal,
        service: Service,
        transport: Transport,
        options: SignOnOptions,
    ) -> Result<Self> {
        let SignOnOptions { share: scope, cache } = options;
        let mut current = None;
        if cache {
            let (origin, scope) = (service.origin.clone(), scope.clone());
            let cached =
                terminal.blocking(move |file| SessionCache::beside(file).get(&origin, &scope, now_ms())).await?;
            current = cached.filter(|key| key.service == service.id.as_str()).map(Arc::new);
        }
        Ok(Self { terminal, service, transport, scope, cache, current: Mutex::new(current) })
    }

    /// The service.
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// The key, after a sign-on where that is needed.
    pub async fn key(&self) -> Result<Arc<SessionKey>> {
        let mut current = self.current.lock().await;
        match &*current {
            Some(key) if key.is_usable(now_ms()) => Ok(Arc::clone(key)),
            _ => self.replace(&mut current).await,
        }
    }

    /// Signs on now, whatever key there is.
    pub async fn sign_on(&self) -> Result<Arc<SessionKey>> {
        self.replace(&mut *self.current.lock().await).await
    }

    /// Makes a request. Its URI is a path, or absolute at the session's origin.
    /// `Authorization` is set here.
    ///
    /// Where the service answers 401 with `WWW-Authenticate: Claviger`, the
    /// session signs on anew and sends the request once more, provided that
    /// its body is known to have at most [`REPLAY_LIMIT`] bytes; otherwise the
    /// 401 is returned, and the next request signs on.
    pub async fn request<B>(&self, request: Request<B>) -> Result<Response<Incoming>>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (parts, body) = request.into_parts();
        if body.size_hint().upper().is_some_and(|upper| upper <= REPLAY_LIMIT) {
            let body = body.collect().await.map_err(|error| Error::Body(error.into().to_string()))?;
            return self.request_bytes(Request::from_parts(parts, body.to_bytes())).await;
        }
        let outgoing = Outgoing::new(&self.service.origin, parts)?;
        let key = self.key().await?;
        let response = self.transport.send(outgoing.with(&key, body.map_err(Into::into).boxed_unsync())?).await?;
        if wants_sign_on(&response) {
            self.forget(&key).await;
        }
        Ok(response)
    }

    /// As [`Self::request`] with a body in memory, of any length, which can
    /// always be sent again.
    pub async fn request_bytes(&self, request: Request<Bytes>) -> Result<Response<Incoming>> {
        let (parts, body) = request.into_parts();
        let outgoing = Outgoing::new(&self.service.origin, parts)?;
        let key = self.key().await?;
        let response = self.transport.send(outgoing.with(&key, full(body.clone()))?).await?;
        if !wants_sign_on(&response) {
            return Ok(response);
        }
        drop(response);
        self.forget(&key).await;
        let key = self.key().await?;
        self.transport.send(outgoing.with(&key, full(body))?).await
    }

    /// Gives up `stale`, unless another task has renewed it already.
    async fn forget(&self, stale: &Arc<SessionKey>) {
        let mut current = self.current.lock().await;
        if current.as_ref().is_some_and(|key| Arc::ptr_eq(key, stale)) {
            *current = None;
        }
    }

    async fn replace(&self, current: &mut Option<Arc<SessionKey>>) -> Result<Arc<SessionKey>> {
        let (key, credential) = self.terminal.obtain(&self.service, &self.transport, &self.scope).await?;
        let key = Arc::new(key);
        *current = Some(Arc::clone(&key));
        if self.cache {
            let (kept, scope) = (Arc::clone(&key), self.scope.clone());
            let put = move |file: &CredentialFile| SessionCache::beside(file).put(&kept, &scope, &credential, now_ms());
            self.terminal.blocking(put).await?;
        }
        Ok(key)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("service", &self.service.id).finish_non_exhaustive()
    }
}

/// The longest body in bytes that [`Session::request`] keeps to send it again.
pub const REPLAY_LIMIT: u64 = 64 * 1024;

/// A service authentication key. `Debug` shows no secret; wiped when dropped.
#[derive(Clone)]
pub struct SessionKey {
    /// The service id.
    pub service: String,
    /// Where the key may be sent.
    pub origin: Origin,
    /// 1 opaque bearer, 2 JWT bearer.
    pub kind: u8,
    /// The key's public name.
    pub key_id: Vec<u8>,
    /// When it was asked for, by this machine's clock in milliseconds since 1970.
    pub from_ms: u64,
    /// When it ends, by this machine's clock in milliseconds since 1970.
    pub until_ms: u64,
    key: Zeroizing<Vec<u8>>,
}

impl SessionKey {
    pub(crate) fn new(service: &Service, grant: KeyGrant, from_ms: u64) -> Result<Self> {
        Self {
            service: service.id.to_string(),
            origin: service.origin.clone(),
            kind: grant.kind,
            key_id: grant.key_id,
            from_ms,
            until_ms: from_ms.saturating_add(u64::from(grant.lifetime) * 1000),
            key: grant.key,
        }
        .checked()
    }

    pub(crate) fn restore(
        service: String,
        origin: Origin,
        kind: u8,
        key_id: Vec<u8>,
        times_ms: (u64, u64),
        key: Zeroizing<Vec<u8>>,
    ) -> Result<Self> {
        Self { service, origin, kind, key_id, from_ms: times_ms.0, until_ms: times_ms.1, key }.checked()
    }

    /// A key that cannot be sent as a bearer token is refused at once.
    fn checked(self) -> Result<Self> {
        if self.key.is_empty() || !self.key.iter().all(u8::is_ascii_graphic) {
            return Err(Error::InvalidReply("the key is not text that can be sent as a bearer token"));
        }
        Ok(self)
    }

    /// The key itself: whoever has it is the user, at this service, until it ends.
    pub fn expose(&self) -> &[u8] {
        &self.key
    }

    /// Whether it lives now, with a margin (a tenth of its life, at most 10 s)
    /// for the request's way. A clock that was set back ends it too.
    pub fn is_usable(&self, now_ms: u64) -> bool {
        let margin = (self.until_ms.saturating_sub(self.from_ms) / 10).min(10_000);
        (self.from_ms..self.until_ms.saturating_sub(margin)).contains(&now_ms)
    }

    fn authorization(&self) -> Result<HeaderValue> {
        let mut text = Zeroizing::new(Vec::with_capacity(7 + self.key.len()));
        text.extend_from_slice(b"Bearer ");
        text.extend_from_slice(&self.key);
        let mut value =
            HeaderValue::from_bytes(&text).map_err(|_| Error::InvalidReply("the key does not fit into a header"))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionKey")
            .field("service", &self.service)
            .field("kind", &self.kind)
            .field("until_ms", &self.until_ms)
            .finish_non_exhaustive()
    }
}

/// A request without its body, which can be made several times.
struct Outgoing {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

impl Outgoing {
    fn new(origin: &Origin, parts: http::request::Parts) -> Result<Self> {
        let uri = if parts.uri.scheme().is_some() || parts.uri.authority().is_some() {
            let asked = Origin::of(&parts.uri)?;
            if asked != *origin {
                return Err(Error::OtherOrigin { asked: asked.to_string(), own: origin.clone() });
            }
            parts.uri
        } else {
            origin.uri(parts.uri.path_and_query().map_or("/", |path| path.as_str()))?
        };
        let mut headers = parts.headers;
        // The host decides who answers behind a proxy: it is the origin's.
        headers.remove(header::HOST);
        Ok(Self { method: parts.method, uri, headers })
    }

    fn with(&self, key: &SessionKey, body: Body) -> Result<Request<Body>> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request.headers_mut().insert(header::AUTHORIZATION, key.authorization()?);
        Ok(request)
    }
}

/// Whether the service says that the key has ended.
fn wants_sign_on(response: &Response<Incoming>) -> bool {
    response.status() == StatusCode::UNAUTHORIZED && has_challenge(response.headers())
}

fn has_challenge(headers: &HeaderMap) -> bool {
    headers.get_all(header::WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        value
            .split(',')
            .filter_map(|challenge| challenge.split_ascii_whitespace().next())
            .any(|scheme| scheme.eq_ignore_ascii_case("Claviger"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SessionKey {
        let key = Zeroizing::new(b"secret-key".to_vec());
        SessionKey::restore("shop".into(), "https://shop".parse().unwrap(), 1, vec![], (100_000, 160_000), key).unwrap()
    }

    #[test]
    fn a_key_is_used_while_it_lives() {
        for (now, usable) in [(99_999, false), (100_000, true), (153_999, true), (154_000, false), (u64::MAX, false)] {
            assert_eq!(key().is_usable(now), usable, "{now}");
        }
    }

    #[test]
    fn a_key_is_not_shown_and_must_be_text() {
        assert!(!format!("{:?}", key()).contains("secret"));
        assert!(format!("{:?}", key().authorization().unwrap()).contains("Sensitive"));
        for bad in [&b""[..], b"a b", b"a\r\nX: y", &[0xff]] {
            let restored = SessionKey::restore(
                "shop".into(),
                "https://shop".parse().unwrap(),
                1,
                vec![],
                (0, 1),
                Zeroizing::new(bad.to_vec()),
            );
            assert!(restored.is_err());
        }
    }

    #[test]
    fn only_the_scheme_claviger_asks_for_a_sign_on() {
        for (value, expected) in [
            ("Claviger", true),
            ("claviger realm=\"x\"", true),
            ("Basic realm=\"a\", Claviger", true),
            ("Bearer", false),
            ("Clavigers", false),
            ("Basic realm=Claviger", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::WWW_AUTHENTICATE, value.parse().unwrap());
            assert_eq!(has_challenge(&headers), expected, "{value}");
        }
    }

    #[test]
    fn the_key_goes_to_its_origin_alone() {
        let origin: Origin = "https://shop".parse().unwrap();
        for (uri, ok) in [
            ("/path?q", true),
            ("https://shop/path", true),
            ("https://SHOP:443/", true),
            ("https://shop:444/", false),
            ("https://evil/", false),
            ("http://shop/", false),
        ] {
            let (parts, ()) = Request::get(uri).header("host", "evil").body(()).unwrap().into_parts();
            let outgoing = Outgoing::new(&origin, parts);
            assert_eq!(outgoing.is_ok(), ok, "{uri}");
            if let Ok(outgoing) = outgoing {
                let request = outgoing.with(&key(), full("")).unwrap();
                assert_eq!(request.headers()["authorization"], "Bearer secret-key");
                assert!(!request.headers().contains_key("host"));
            }
        }
    }
}

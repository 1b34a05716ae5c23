//! A real role in front of a real upstream.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use claviger_plugin_api::{Identity, Session};
use futures_util::{SinkExt, StreamExt, stream};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest, handshake::derive_accept_key, protocol::Role},
};

use super::Proxy;
use crate::{
    net::{
        Body, BoxError, Handler, Peer,
        body::with_type,
        empty, full,
        testing::{Authority, Running, serve},
        tls::{client_config, server_config},
    },
    service::testing::{Fixture, config},
};

/// `/echo` sends the body back as it comes; `/websocket` upgrades; everything
/// else answers with what the upstream saw.
struct Upstream;

#[async_trait]
impl Handler for Upstream {
    async fn handle(&self, mut request: Request<Incoming>, _peer: Peer) -> Response<Body> {
        match request.uri().path() {
            "/echo" => Response::new(request.into_body().map_err(BoxError::from).boxed_unsync()),
            "/websocket" if request.headers().contains_key("upgrade") => {
                let accept = derive_accept_key(request.headers()["sec-websocket-key"].as_bytes());
                let user = request.headers()["remote-user"].to_str().unwrap().to_owned();
                let upgrade = hyper::upgrade::on(&mut request);
                tokio::spawn(async move {
                    let io = TokioIo::new(upgrade.await.unwrap());
                    let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
                    socket.send(Message::text(format!("hello {user}"))).await.unwrap();
                    while let Some(Ok(message)) = socket.next().await {
                        if message.is_close() || socket.send(message).await.is_err() {
                            return;
                        }
                    }
                });
                Response::builder()
                    .status(StatusCode::SWITCHING_PROTOCOLS)
                    .header("connection", "upgrade")
                    .header("upgrade", "websocket")
                    .header("sec-websocket-accept", accept)
                    .body(empty())
                    .unwrap()
            }
            "/hop" => Response::builder()
                .header("connection", "x-hop")
                .header("x-hop", "1")
                .header("keep-alive", "timeout=5")
                .header("proxy-authenticate", "Basic")
                .header("x-kept", "1")
                .body(full("hop"))
                .unwrap(),
            "/never" => std::future::pending().await,
            _ => seen(request).await,
        }
    }
}

/// What the upstream saw, as JSON: a list for each header.
async fn seen(request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let (mut length, mut trailers) = (0, HeaderMap::new());
    let mut body = body;
    while let Some(frame) = body.frame().await {
        match frame.unwrap().into_data() {
            Ok(data) => length += data.len(),
            Err(frame) => trailers = frame.into_trailers().unwrap(),
        }
    }
    let json = |headers: &HeaderMap| -> Value {
        headers
            .keys()
            .map(|name| {
                let values = headers.get_all(name).iter().map(|v| Value::from(v.to_str().unwrap()));
                (name.to_string(), Value::Array(values.collect()))
            })
            .collect()
    };
    let seen = serde_json::json!({
        "method": head.method.as_str(),
        "target": head.uri.to_string(),
        "version": format!("{:?}", head.version),
        "headers": json(&head.headers),
        "trailers": json(&trailers),
        "length": length,
    });
    with_type(StatusCode::OK, "application/json", seen.to_string())
}

struct Setup {
    service: Running,
    _upstream: Running,
    key: String,
}

const ANN: &str = r#"{"user":"ann","groups":["dev","ops"],"name":"Ann Lee"}"#;

async fn setup() -> Setup {
    setup_with(false).await
}

async fn setup_with(upstream_http2: bool) -> Setup {
    let upstream = serve(None, Arc::new(Upstream));
    let mut config = config(upstream.address);
    config.upstream_http2 = upstream_http2;
    let fixture = Fixture::new(&config);
    let key = fixture.key(ANN).await;
    Setup { service: serve(None, fixture.role.clone()), _upstream: upstream, key }
}

impl Setup {
    fn request(&self, path: &str) -> http::request::Builder {
        Request::builder()
            .uri(format!("http://{}{path}", self.service.address))
            .header("authorization", format!("Bearer {}", self.key))
    }

    /// Sends a request with these headers and gives what the upstream saw.
    async fn seen(&self, headers: &[(&str, &str)]) -> Value {
        let mut request = self.request("/path?q=1");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = send(request.body(empty()).unwrap()).await;
        assert_eq!(response.status(), StatusCode::OK);
        json(response).await
    }
}

async fn send(request: Request<Body>) -> Response<Incoming> {
    Client::builder(TokioExecutor::new()).build_http().request(request).await.unwrap()
}

async fn json(response: Response<Incoming>) -> Value {
    serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
}

fn one(value: &str) -> Value {
    serde_json::json!([value])
}

#[tokio::test]
async fn the_upstream_learns_who_asks_and_not_the_key() {
    let setup = setup().await;
    let seen = setup.seen(&[("cookie", "a=1"), ("cookie", "b=2"), ("accept", "x/y")]).await;
    assert_eq!(seen["target"], "/path?q=1");
    let host = setup.service.address.to_string();
    let expected = [
        ("remote-user", "ann"),
        ("remote-groups", "dev,ops"),
        ("remote-subject", "s-1"),
        ("remote-email", ""),
        ("remote-name", "Ann Lee"),
        ("host", &host),
        ("forwarded", &format!("for=127.0.0.1;host=\"{host}\";proto=http")),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", &host),
        ("via", "1.1 claviger"),
        ("cookie", "a=1; b=2"),
        ("accept", "x/y"),
    ];
    for (name, value) in expected {
        assert_eq!(seen["headers"][name], one(value), "{name}");
    }
    assert_eq!(seen["headers"].as_object().unwrap().len(), expected.len(), "{seen}");
}

#[tokio::test]
async fn spoofed_headers_never_arrive() {
    let setup = setup().await;
    for (name, is_set) in [
        ("Remote-User", true),
        ("REMOTE-GROUPS", true),
        ("remote_user", false),
        ("Remote_Groups", false),
        ("remote.subject", false),
        ("Remote-Admin", false),
        ("X-Forwarded-For", true),
        ("X_Forwarded_For", false),
        ("X-Forwarded-Server", false),
        ("Forwarded", true),
        ("X-Real-IP", false),
    ] {
        let seen = setup.seen(&[(name, "root"), (name, "admins")]).await;
        let value = &seen["headers"][name.to_ascii_lowercase()];
        assert_eq!(value.as_array().map_or(0, Vec::len), usize::from(is_set), "{name}");
        assert!(!seen.to_string().contains("root") && !seen.to_string().contains("admins"), "{name}: {seen}");
    }
    // Not even by asking this proxy to drop its own.
    let seen = setup.seen(&[("connection", "close, remote-user, x-forwarded-for, host")]).await;
    assert_eq!(seen["headers"]["remote-user"], one("ann"));
    assert_eq!(seen["headers"]["x-forwarded-for"], one("127.0.0.1"));
}

#[tokio::test]
async fn spoofed_trailers_never_arrive() {
    for http2 in [false, true] {
        let setup = setup_with(http2).await;
        let mut trailers = HeaderMap::new();
        for name in ["remote-user", "remote_groups", "authorization", "x-checksum"] {
            trailers.insert(http::HeaderName::from_static(name), HeaderValue::from_static("x"));
        }
        let frames = [Frame::data(Bytes::from_static(b"abc")), Frame::trailers(trailers)].map(Ok::<_, BoxError>);
        let request = setup
            .request("/")
            .method("POST")
            .header("trailer", "remote-user, remote_groups, authorization, x-checksum");
        let response = send(request.body(StreamBody::new(stream::iter(frames)).boxed_unsync()).unwrap()).await;
        let seen = json(response).await;
        assert_eq!((&seen["length"], &seen["trailers"]), (&3.into(), &serde_json::json!({"x-checksum": ["x"]})));
    }
}

#[tokio::test]
async fn hop_by_hop_headers_stay_on_their_hop() {
    let setup = setup().await;
    let seen = setup
        .seen(&[
            ("connection", "x-private, te"),
            ("x-private", "1"),
            ("te", "trailers, deflate"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "Basic x"),
            ("upgrade", "h2c"),
            ("http2-settings", "x"),
        ])
        .await;
    for name in ["x-private", "keep-alive", "proxy-authorization", "upgrade", "http2-settings"] {
        assert_eq!(seen["headers"][name], Value::Null, "{name}");
    }
    assert_eq!(seen["headers"]["te"], one("trailers"));
    assert_eq!(seen["headers"]["connection"], one("te"));

    let response = send(setup.request("/hop").body(empty()).unwrap()).await;
    for (name, kept) in [
        ("x-hop", false),
        ("keep-alive", false),
        ("proxy-authenticate", false),
        ("connection", false),
        ("x-kept", true),
    ] {
        assert_eq!(response.headers().contains_key(name), kept, "{name}");
    }
}

#[tokio::test]
async fn fifty_mebibytes_are_streamed_both_ways_at_once() {
    const CHUNK: usize = 64 * 1024;
    const CHUNKS: usize = 800;
    for http2 in [false, true] {
        let setup = setup_with(http2).await;
        let chunks =
            stream::iter((0..CHUNKS).map(|i| Ok::<_, BoxError>(Frame::data(Bytes::from(vec![i as u8; CHUNK])))));
        let request = setup.request("/echo").method("POST").body(StreamBody::new(chunks).boxed_unsync()).unwrap();
        let mut body = send(request).await.into_body();
        let mut at = 0;
        while let Some(frame) = body.frame().await {
            let data = frame.unwrap().into_data().unwrap();
            assert!(data.iter().enumerate().all(|(i, byte)| *byte == ((at + i) / CHUNK) as u8), "at {at}");
            at += data.len();
        }
        assert_eq!(at, CHUNK * CHUNKS);
    }
}

#[tokio::test]
async fn a_body_is_passed_on_before_it_is_complete() {
    let setup = setup().await;
    let (mut feed, frames) = hand_fed();
    feed.send("first");
    let response = send(setup.request("/echo").method("POST").body(frames).unwrap()).await;
    let mut body = response.into_body();
    for (expected, next) in [("first", Some("second")), ("second", None)] {
        let data = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(data, expected);
        match next {
            Some(next) => feed.send(next),
            None => feed.close(),
        }
    }
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn http_2_clients_and_upstreams_are_served() {
    let upstream = serve(None, Arc::new(Upstream));
    for upstream_http2 in [false, true] {
        let mut config = config(upstream.address);
        config.upstream_http2 = upstream_http2;
        let fixture = Fixture::new(&config);
        let authority = Authority::new();
        let identity = authority.issue("shop", &[]);
        let tls = server_config(&identity.certificate, &identity.key, None).unwrap();
        let service = serve(Some(tls), fixture.role.clone());
        let client = crate::net::client::https_client(client_config(Some(&authority.ca()), None, None).unwrap());
        let key = fixture.key("{}").await;
        for round in 0..3 {
            let request = Request::post(format!("https://{}/x", service.address))
                .header("authorization", format!("Bearer {key}"));
            let response = client.request(request.body(full("abc")).unwrap()).await.unwrap();
            assert_eq!((response.status(), response.version()), (StatusCode::OK, Version::HTTP_2), "round {round}");
            let seen = json(response).await;
            assert_eq!(seen["version"], if upstream_http2 { "HTTP/2.0" } else { "HTTP/1.1" });
            assert_eq!(seen["length"], 3);
            assert_eq!(seen["headers"]["x-forwarded-proto"], one("https"));
            assert_eq!(seen["headers"]["x-forwarded-host"], one(&service.address.to_string()));
            assert_eq!(seen["headers"]["remote-user"], one("s-1"));
            let host = if upstream_http2 { &seen["target"] } else { &seen["headers"]["host"][0] };
            assert!(host.as_str().unwrap().contains(&service.address.to_string()), "{seen}");
        }
    }
}

#[tokio::test]
async fn websockets_are_tunnelled() {
    for http2 in [false, true] {
        let setup = setup_with(http2).await;
        let stream = TcpStream::connect(setup.service.address).await.unwrap();
        let mut request = format!("ws://{}/websocket", setup.service.address).into_client_request().unwrap();
        let bearer = HeaderValue::from_str(&format!("Bearer {}", setup.key)).unwrap();
        request.headers_mut().insert(header::AUTHORIZATION, bearer);
        request.headers_mut().insert("remote-user", HeaderValue::from_static("root"));
        let (mut socket, _) = client_async(request, stream).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("hello ann"));
        for message in [Message::text("hi"), Message::binary(vec![7; 100_000])] {
            socket.send(message.clone()).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), message);
        }
        socket.close(None).await.unwrap();
    }
}

#[tokio::test]
async fn websockets_need_a_key_and_a_willing_upstream() {
    let setup = setup().await;
    let upgrade = |path: &str, key: &str| {
        Request::get(format!("http://{}{path}", setup.service.address))
            .header("authorization", format!("Bearer {key}"))
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("sec-websocket-version", "13")
            .body(empty())
            .unwrap()
    };
    assert_eq!(send(upgrade("/websocket", "wrong")).await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(send(upgrade("/plain", &setup.key)).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_tunnel_ends_with_its_session() {
    let upstream = serve(None, Arc::new(Upstream));
    let proxy = Short(Proxy::new(upstream.address.to_string().parse().unwrap(), false), Duration::from_millis(300));
    let service = serve(None, Arc::new(proxy));
    let stream = TcpStream::connect(service.address).await.unwrap();
    let (mut socket, _) = client_async(format!("ws://{}/websocket", service.address), stream).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("hello s"));
    let end = tokio::time::timeout(Duration::from_secs(5), socket.next()).await.unwrap();
    assert!(end.is_none_or(|message| message.is_err()));
}

#[tokio::test]
async fn an_upstream_that_is_down_is_a_bad_gateway() {
    for http2 in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = config(listener.local_addr().unwrap());
        config.upstream_http2 = http2;
        let fixture = Fixture::new(&config);
        let service = serve(None, fixture.role.clone());
        let key = fixture.key("{}").await;
        let get = || {
            Request::get(format!("http://{}/", service.address))
                .header("authorization", format!("Bearer {key}"))
                .body(empty())
                .unwrap()
        };
        // It accepts and hangs up.
        let hang_up = tokio::spawn(async move { drop(listener.accept().await) });
        assert_eq!(send(get()).await.status(), StatusCode::BAD_GATEWAY);
        hang_up.await.unwrap();
        // It refuses the connection.
        let response = send(get()).await;
        assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
    }
}

#[tokio::test]
async fn an_upstream_that_does_not_begin_to_answer_is_a_timeout_but_a_slow_upload_is_not() {
    let upstream = serve(None, Arc::new(Upstream));
    let proxy =
        Proxy::new(upstream.address.to_string().parse().unwrap(), false).with_first_byte(Duration::from_millis(300));
    let service = serve(None, Arc::new(Short(proxy, Duration::from_secs(60))));
    let uri = |path| format!("http://{}{path}", service.address);
    let response = send(Request::get(uri("/never")).body(empty()).unwrap()).await;
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    let slow = stream::unfold(0, |at| async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        (at < 8).then(|| (Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"x"))), at + 1))
    });
    let response = send(Request::post(uri("/")).body(StreamBody::new(Box::pin(slow)).boxed_unsync()).unwrap()).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(json(response).await["length"], 8);
}

#[tokio::test]
async fn ambiguous_requests_are_refused_before_they_are_looked_at() {
    let setup = setup().await;
    let key = &setup.key;
    for head in [
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 4\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, identity\r\n",
        "POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n",
        "GET / HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx : y\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx: a\r\n b\r\n",
        "OPTIONS * HTTP/1.1\r\nhost: a\r\n",
    ] {
        let answer = raw(setup.service.address, &format!("{head}authorization: Bearer {key}\r\n\r\n0\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") || answer.starts_with("HTTP/1.0 400 "), "{head:?}: {answer}");
    }
    for method in ["TRACE / ", "CONNECT a:443 "] {
        let answer = raw(setup.service.address, &format!("{method}HTTP/1.1\r\nhost: a:443\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 405 "), "{method}: {answer}");
    }
}

#[tokio::test]
async fn of_two_lengths_the_chunks_count_and_nothing_after_them_is_a_request() {
    let setup = setup().await;
    for lengths in
        ["content-length: 3\r\ntransfer-encoding: chunked", "transfer-encoding: chunked\r\ncontent-length: 30"]
    {
        let mut stream = TcpStream::connect(setup.service.address).await.unwrap();
        let smuggled = format!("GET /smuggled HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\n\r\n", setup.key);
        let head = format!("POST / HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\n{lengths}\r\n\r\n", setup.key);
        stream.write_all(format!("{head}1\r\nx\r\n0\r\n\r\n{smuggled}").as_bytes()).await.unwrap();
        let mut answer = String::new();
        // The connection ends; bytes that were not read may make that a reset.
        let _ = stream.read_to_string(&mut answer).await;
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
        assert!(!answer.contains("smuggled"), "{answer}");
        let Some((_, body)) = answer.split_once("\r\n\r\n").filter(|_| answer.starts_with("HTTP/1.1 200 ")) else {
            assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
            continue;
        };
        let seen: Value = serde_json::from_str(body).unwrap();
        assert_eq!((&seen["length"], &seen["headers"]["content-length"]), (&1.into(), &Value::Null));
    }
}

/// Sends bytes and gives the first part of the answer.
async fn raw(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = vec![0; 1024];
    let length = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut answer)).await.unwrap().unwrap();
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

/// A proxy whose sessions end after a time.
struct Short(Proxy, Duration);

#[async_trait]
impl Handler for Short {
    async fn handle(&self, request: Request<Incoming>, peer: Peer) -> Response<Body> {
        let now = SystemTime::now();
        let identity = Identity::new("shop.example".into(), "s".into(), [0; 16], now, "{}".into());
        let session = Session::new(identity, b"k".to_vec(), now + self.1, false);
        self.0.forward(request, &"a".parse().unwrap(), &peer, &session).await
    }
}

/// A body that is fed by hand.
fn hand_fed() -> (Feed, Body) {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel::<&'static str>();
    let frames = stream::unfold(receiver, |mut receiver| async move {
        let data = receiver.recv().await?;
        Some((Ok::<_, BoxError>(Frame::data(Bytes::from_static(data.as_bytes()))), receiver))
    });
    (Feed(Some(sender)), StreamBody::new(Box::pin(frames)).boxed_unsync())
}

struct Feed(Option<tokio::sync::mpsc::UnboundedSender<&'static str>>);

impl Feed {
    fn send(&mut self, data: &'static str) {
        self.0.as_ref().unwrap().send(data).unwrap();
    }

    fn close(&mut self) {
        self.0 = None;
    }
}

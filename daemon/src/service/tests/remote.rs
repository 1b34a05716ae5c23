//! The management server over mutual TLS.

use std::{sync::atomic::AtomicU32, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    super::{ManagerLink, Relay, RemoteManager, testing::REALM},
    *,
};
use crate::{
    config::types::ManagerConfig,
    net::{
        Handler, Peer,
        body::with_type,
        read_body,
        testing::Authority,
        tls::{peer_uri_sans, server_config},
    },
};

/// Answers with the path and the envelope; the envelope says how to misbehave.
struct Manager;

#[async_trait]
impl Handler for Manager {
    async fn handle(&self, request: Request<Incoming>, peer: Peer) -> Response<Body> {
        assert_eq!(request.method(), Method::POST);
        assert_eq!(request.headers()["content-type"], CONTENT_TYPE);
        assert_eq!(peer_uri_sans(&peer.certificate.unwrap()), ["idb://example/service/shop.example"]);
        let path = request.uri().path().to_owned();
        let envelope = read_body(request.into_body(), 4096).await.unwrap();
        match &envelope[..] {
            b"html" => with_type(StatusCode::OK, "text/html", "<p>"),
            b"long" => with_type(StatusCode::OK, CONTENT_TYPE, vec![0; 20_000]),
            b"too long" => with_type(StatusCode::OK, CONTENT_TYPE, vec![0; 32 * 1024 + 1]),
            b"refused" => with_type(StatusCode::UNAUTHORIZED, CONTENT_TYPE, "refused"),
            b"unknown" => with_type(StatusCode::FORBIDDEN, "text/plain", "this service is not registered"),
            b"slow" => std::future::pending().await,
            _ => with_type(StatusCode::OK, CONTENT_TYPE, [path.as_bytes(), b" ", &envelope[..]].concat()),
        }
    }
}

fn link(authority: &Authority, addresses: &[SocketAddr], realm: &str) -> RemoteManager {
    let client = authority.issue("shop", &["idb://example/service/shop.example"]);
    let config = ManagerConfig {
        urls: addresses.iter().map(|address| format!("https://{address}").parse().unwrap()).collect(),
        ca: authority.ca(),
        certificate: client.certificate,
        private_key: client.key,
    };
    RemoteManager::new(&config, realm).unwrap().with_deadline(Duration::from_millis(500))
}

#[tokio::test]
async fn any_answer_of_the_protocol_is_passed_on_and_anything_else_is_unavailable() {
    let authority = Authority::new();
    let server = authority.issue("manager", &["idb://example/manager"]);
    let config = server_config(&server.certificate, &server.key, Some(&authority.ca())).unwrap();
    let server = serve(Some(config), Arc::new(Manager));
    let remote = link(&authority, &[server.address], REALM);
    for (envelope, expected) in [
        ("hello", Ok("/idb/v1/decrypt hello")),
        ("refused", Ok("refused")),
        ("html", Err("it answered 200 OK without a protocol message")),
        ("unknown", Err("it answered 403 Forbidden without a protocol message")),
        ("long", Err("too large")),
        ("slow", Err("no answer within 500ms")),
        ("hello", Ok("/idb/v1/decrypt hello")),
    ] {
        let answer = remote.decrypt(Bytes::from_static(envelope.as_bytes())).await;
        match expected {
            Ok(bytes) => assert_eq!(answer.unwrap(), bytes.as_bytes()),
            Err(part) => assert!(answer.as_ref().is_err_and(|e| e.0.contains(part)), "{answer:?}"),
        }
    }
    remote.drop_connections();
    assert!(remote.decrypt(Bytes::from_static(b"hello")).await.is_ok());

    let other_realm = link(&authority, &[server.address], "other");
    let error = other_realm.decrypt(Bytes::from_static(b"hello")).await.unwrap_err();
    assert!(error.0.contains("cannot connect"), "{error}");
    let nobody = link(&authority, &[nowhere()], REALM);
    assert!(nobody.decrypt(Bytes::new()).await.unwrap_err().0.contains("Connection refused"));
}

#[tokio::test]
async fn relayed_answers_keep_their_status_and_may_be_longer() {
    let authority = Authority::new();
    let server = authority.issue("manager", &["idb://example/manager"]);
    let config = server_config(&server.certificate, &server.key, Some(&authority.ca())).unwrap();
    let server = serve(Some(config), Arc::new(Manager));
    let remote = link(&authority, &[server.address], REALM);
    let long = vec![0; 20_000];
    for (kind, envelope, expected) in [
        (Relay::Rotate, "hello", Ok((200, &b"/idb/v1/rotate hello"[..]))),
        (Relay::Directory, "hello", Ok((200, b"/idb/v1/directory hello"))),
        (Relay::Rotate, "refused", Ok((401, b"refused"))),
        (Relay::Directory, "long", Ok((200, &long))),
        (Relay::Directory, "too long", Err("too large")),
        (Relay::Rotate, "unknown", Err("it answered 403 Forbidden without a protocol message")),
        (Relay::Rotate, "slow", Err("no answer within 500ms")),
    ] {
        let answer = remote.relay(kind, Bytes::from_static(envelope.as_bytes())).await;
        match expected {
            Ok((status, body)) => {
                let answer = answer.unwrap();
                assert_eq!((answer.status, &answer.body[..]), (status, body), "{kind:?} {envelope}");
            }
            Err(part) => assert!(answer.as_ref().is_err_and(|e| e.0.contains(part)), "{answer:?}"),
        }
    }
}

/// Says who it is, and counts; "slow" is never answered.
struct Counting(&'static str, AtomicU32);

#[async_trait]
impl Handler for Counting {
    async fn handle(&self, request: Request<Incoming>, _: Peer) -> Response<Body> {
        self.1.fetch_add(1, SeqCst);
        let envelope = read_body(request.into_body(), 4096).await.unwrap();
        match &envelope[..] {
            b"slow" => std::future::pending().await,
            b"away" => with_type(StatusCode::SERVICE_UNAVAILABLE, CONTENT_TYPE, self.0),
            _ => with_type(StatusCode::OK, CONTENT_TYPE, self.0),
        }
    }
}

#[tokio::test]
async fn another_daemon_is_asked_when_one_is_away_and_no_envelope_goes_to_two() {
    let authority = Authority::new();
    let certificate = authority.issue("manager", &["idb://example/manager"]);
    let start = |name| {
        let config = server_config(&certificate.certificate, &certificate.key, Some(&authority.ca())).unwrap();
        let handler = Arc::new(Counting(name, AtomicU32::new(0)));
        (serve(Some(config), handler.clone()), handler)
    };
    let ((a, asked_a), (b, asked_b)) = (start("a"), start("b"));
    let ask = async |link: &RemoteManager, envelope: &'static str| {
        let answer = link.decrypt(Bytes::from_static(envelope.as_bytes())).await;
        answer.map(|answer| String::from_utf8(answer).unwrap())
    };
    // Nobody listens at the first one: the same envelope goes to the next.
    let remote = link(&authority, &[nowhere(), a.address], REALM);
    assert_eq!(ask(&remote, "x").await.unwrap(), "a");
    assert_eq!(ask(&remote, "x").await.unwrap(), "a");
    // One that may have got the envelope: it is not sent again, and the next one is asked from then on.
    let remote = link(&authority, &[a.address, b.address], REALM);
    assert_eq!(ask(&remote, "x").await.unwrap(), "a");
    let error = ask(&remote, "slow").await.unwrap_err();
    assert!(error.0.contains("no answer"), "{error}");
    assert_eq!(asked_b.1.load(SeqCst), 0);
    assert_eq!(ask(&remote, "x").await.unwrap(), "b");
    assert_eq!((asked_a.1.load(SeqCst), asked_b.1.load(SeqCst)), (4, 1));
    // One that answers and cannot work: likewise.
    assert_eq!(ask(&remote, "away").await.unwrap(), "b");
    assert_eq!(ask(&remote, "x").await.unwrap(), "a");
    // All are away.
    let remote = link(&authority, &[nowhere(), nowhere()], REALM);
    assert!(ask(&remote, "x").await.unwrap_err().0.contains("Connection refused"));
}

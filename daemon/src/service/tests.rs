//! The protocol endpoints and the verification of keys, over real connections.

mod binding;
mod relay;
mod remote;

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::SeqCst},
};

use claviger_plugin_api::StateStore;
use claviger_protocol::{
    CONTENT_TYPE, Code, KemId,
    message::{Binding as Bind, Refusal, Reply},
    terminal::login::{Accept, Refused},
};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};

use super::testing::{Fixture, SERVICE, SUITES, Terminal, config, random};
use crate::net::{Body, empty, full, testing::serve};

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

async fn send(request: Request<Body>) -> Answer {
    let response = Client::builder(TokioExecutor::new()).build_http().request(request).await.unwrap();
    Answer::read(response).await
}

impl Answer {
    async fn read(response: Response<Incoming>) -> Self {
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Self { status: head.status, headers: head.headers, body }
    }
}

async fn post(address: SocketAddr, path: &str, message: &[u8]) -> Answer {
    let request = Request::post(format!("http://{address}{path}")).header("content-type", CONTENT_TYPE);
    send(request.body(full(message.to_vec())).unwrap()).await
}

async fn sign_on(address: SocketAddr, envelope: Vec<u8>) -> Answer {
    post(address, "/idb/v1/sign-on", &envelope).await
}

/// The code in the body, after checking that the HTTP status repeats it.
fn code(answer: &Answer) -> Code {
    assert_eq!(answer.headers["content-type"], CONTENT_TYPE);
    assert_eq!(answer.headers["cache-control"], "no-store");
    let code = Reply::decode(&answer.body).unwrap().code;
    assert_eq!(answer.status, code.http_status());
    code
}

/// Nothing listens here.
fn nowhere() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

const ACCEPT: Accept<'_> = Accept { kinds: &[1], max_lifetime: 3600 };

#[tokio::test]
async fn a_terminal_signs_on_with_every_suite_and_kem_and_its_key_is_pending_until_used() {
    let fixture = Fixture::new(&config(nowhere()));
    let server = serve(None, fixture.role.clone());
    for suite in SUITES {
        for kem in KemId::ALL {
            let terminal = Terminal { suite, kem, ..Terminal::new() };
            let (envelope, waiting) = terminal.envelope();
            let answer = sign_on(server.address, envelope).await;
            assert_eq!(code(&answer), Code::Ok);
            assert_eq!(Reply::decode(&answer.body).unwrap().kem_share.len(), kem.peer_share_len());
            let signed_on = waiting.receive(terminal.suite(), &answer.body, ACCEPT).unwrap();
            assert_eq!(signed_on.grant.lifetime, 600, "no longer than the management server allows");
            let key = std::str::from_utf8(&signed_on.grant.key).unwrap();
            let value = fixture.state.get(key).await.unwrap().unwrap();
            assert_eq!(value, br#"pending s-1 {"user":"ann","groups":["dev"]}"#);
            // The upstream is down, so a good key gets as far as 502.
            let request =
                Request::get(format!("http://{}/", server.address)).header("authorization", format!("Bearer {key}"));
            assert_eq!(send(request.body(empty()).unwrap()).await.status, StatusCode::BAD_GATEWAY);
            assert!(fixture.state.get(key).await.unwrap().unwrap().starts_with(b"active"));
        }
    }
}

#[tokio::test]
async fn what_this_service_can_refuse_itself_never_reaches_the_management_server() {
    let fixture = Fixture::new(&config(nowhere()));
    let server = serve(None, fixture.role.clone());
    let good = Terminal::new();
    let mut rotate = good.envelope().0;
    rotate[2 + 4] = 2;
    let mut version = good.envelope().0;
    version[2 + 3] = b'2';
    let mut suite = good.envelope().0;
    suite[2 + 7] = 4;
    for (what, envelope, expected) in [
        ("nothing", Vec::new(), Code::Malformed),
        ("a byte too many", [good.envelope().0, vec![0]].concat(), Code::Malformed),
        ("another type", rotate, Code::Malformed),
        ("another version", version, Code::Unsupported),
        ("another service", Terminal { service: "evil.example", ..good.clone() }.envelope().0, Code::WrongService),
        ("another realm", Terminal { realm: "other", ..good.clone() }.envelope().0, Code::Unsupported),
        ("another suite", suite, Code::Unsupported),
        (
            "a challenge of nobody",
            Terminal { binding: Bind::Challenge([9; 32]), ..good.clone() }.envelope().0,
            Code::BindMismatch,
        ),
        ("an exporter", Terminal { binding: Bind::TlsExporter([9; 32]), ..good }.envelope().0, Code::BindMismatch),
    ] {
        assert_eq!(code(&sign_on(server.address, envelope).await), expected, "{what}");
    }
    assert_eq!(fixture.manager.asked.load(SeqCst), 0);
}

#[tokio::test]
async fn refusals_of_the_management_server_are_passed_on_with_their_note() {
    let fixture = Fixture::new(&config(nowhere()));
    let server = serve(None, fixture.role.clone());
    let stranger = Terminal { management_key: [9; 32], ..Terminal::new() };
    assert_eq!(code(&sign_on(server.address, stranger.envelope().0).await), Code::AuthFailed);

    fixture.manager.denies.store(true, SeqCst);
    let (envelope, waiting) = Terminal::new().envelope();
    let answer = sign_on(server.address, envelope).await;
    assert_eq!(code(&answer), Code::Denied);
    let refused = waiting.receive(Terminal::new().suite(), &answer.body, ACCEPT).unwrap_err();
    assert!(matches!(refused, Refused::Sealed(note) if note.code == Code::Denied));
}

#[tokio::test]
async fn no_answer_or_a_foreign_answer_is_unavailable() {
    let fixture = Fixture::new(&config(nowhere()));
    let server = serve(None, fixture.role.clone());
    fixture.manager.away.store(true, SeqCst);
    let answer = sign_on(server.address, Terminal::new().envelope().0).await;
    assert_eq!(code(&answer), Code::Unavailable);
    assert_eq!(answer.headers["retry-after"], "1");
    fixture.manager.away.store(false, SeqCst);

    fixture.manager.mixed_up.store(true, SeqCst);
    assert_eq!(code(&sign_on(server.address, Terminal::new().envelope().0).await), Code::Unavailable);
    assert_eq!(fixture.manager.dropped.load(SeqCst), 1);
    assert!(fixture.state.is_empty(), "no key was issued");
}

#[tokio::test]
async fn a_source_that_asks_too_often_is_told_so() {
    let mut config = config(nowhere());
    config.limits.per_source_per_second = 1;
    config.limits.per_source_burst = 2;
    let fixture = Fixture::new(&config);
    let server = serve(None, fixture.role.clone());
    for expected in [Code::Ok, Code::Ok, Code::RateLimited] {
        assert_eq!(code(&sign_on(server.address, Terminal::new().envelope().0).await), expected);
    }
    let request = Request::get(format!("http://{}/idb/v1/challenge", server.address)).body(empty()).unwrap();
    assert_eq!(send(request).await.status, StatusCode::TOO_MANY_REQUESTS);
    let answer = post(server.address, "/idb/v1/rotate", b"anything").await;
    assert_eq!((answer.status, answer.body), (StatusCode::TOO_MANY_REQUESTS, Refusal(Code::RateLimited).encode()));
    assert_eq!(fixture.manager.asked.load(SeqCst), 2);
}

#[tokio::test]
async fn a_user_that_asks_too_often_is_told_so_and_others_go_on() {
    let mut config = config(nowhere());
    config.limits.per_user_per_second = 1;
    config.limits.per_user_burst = 2;
    let fixture = Fixture::new(&config);
    let server = serve(None, fixture.role.clone());
    let bob = Terminal { user: b"bob", ..Terminal::new() };
    for (terminal, expected) in [
        (Terminal::new(), Code::Ok),
        (Terminal::new(), Code::Ok),
        (Terminal::new(), Code::RateLimited),
        (bob, Code::AuthFailed),
    ] {
        assert_eq!(code(&sign_on(server.address, terminal.envelope().0).await), expected);
    }
}

#[tokio::test]
async fn requests_that_are_not_of_the_protocol_are_told_why() {
    let fixture = Fixture::new(&config(nowhere()));
    let server = serve(None, fixture.role.clone());
    for (method, path, content_type, length, expected) in [
        (Method::GET, "/idb/v1/sign-on", CONTENT_TYPE, 0, 405),
        (Method::POST, "/idb/v1/challenge", CONTENT_TYPE, 0, 405),
        (Method::PUT, "/idb/v1/rotate", CONTENT_TYPE, 0, 405),
        (Method::GET, "/idb/v1/directory", CONTENT_TYPE, 0, 405),
        (Method::POST, "/idb/v1/rotate", "text/plain", 10, 415),
        (Method::POST, "/idb/v1/directory", "application/octet-stream", 10, 415),
        (Method::POST, "/idb/v1/rotate", CONTENT_TYPE, 4097, 413),
        (Method::POST, "/idb/v1/directory", CONTENT_TYPE, 4097, 413),
        (Method::POST, "/idb/v1/sign-on", "application/json", 10, 415),
        (Method::POST, "/idb/v1/sign-on", "application/vnd.idb12", 10, 415),
        (Method::POST, "/idb/v1/sign-on", CONTENT_TYPE, 4097, 413),
        (Method::POST, "/idb/v1/sign-on", "application/vnd.IDB1; v=1", 10, 400),
    ] {
        let request = Request::builder().method(&method).uri(format!("http://{}{path}", server.address));
        let request = request.header("content-type", content_type).body(full(vec![0; length])).unwrap();
        let answer = send(request).await;
        assert_eq!(answer.status, expected, "{method} {path} {content_type} {length}");
        assert_eq!(answer.headers.contains_key("allow"), expected == 405);
    }
}

#[tokio::test]
async fn requests_without_a_good_key_are_told_to_sign_on() {
    let fixture = Fixture::new(&config(nowhere()));
    let server = serve(None, fixture.role.clone());
    let key = fixture.key("{}").await;
    let unknown = data_encoding::BASE64URL_NOPAD.encode(&random());
    for headers in [
        &[][..],
        &[format!("Bearer {unknown}")],
        &["Basic YTpi".to_owned()],
        &[format!("Bearer {key}"), format!("Bearer {key}")],
    ] {
        let mut request = Request::get(format!("http://{}/", server.address));
        for value in headers {
            request = request.header("authorization", value);
        }
        let answer = send(request.body(empty()).unwrap()).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        assert_eq!(answer.headers["www-authenticate"], format!("Claviger service=\"{SERVICE}\""));
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(problem["status"], 401);
    }
    fixture.issuer.away.store(true, SeqCst);
    let request = Request::get(format!("http://{}/", server.address)).header("authorization", format!("Bearer {key}"));
    let answer = send(request.body(empty()).unwrap()).await;
    assert_eq!((answer.status, answer.headers["retry-after"].as_bytes()), (StatusCode::SERVICE_UNAVAILABLE, &b"1"[..]));
}

//! Requests as the user: keys are renewed, and go nowhere else.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use claviger_terminal::{Error, SignOnOptions, Terminal, session::REPLAY_LIMIT};
use http::{Request, StatusCode};

use crate::harness::{World, streamed, text};

fn post(body: &str) -> Request<String> {
    Request::post("/orders").body(body.to_owned()).unwrap()
}

#[tokio::test]
async fn requests_carry_the_key_over_each_version_of_http() {
    for http2 in [true, false] {
        let world = World::start(http2).await;
        let terminal = Terminal::enrol(world.options()).await.unwrap();
        terminal.add_service(world.service()).await.unwrap();
        let session = terminal.sign_on("shop.example").await.unwrap();
        let answer = session.request(post("one")).await.unwrap();
        assert_eq!((answer.status(), text(answer).await.as_str()), (StatusCode::OK, "POST /orders: one"));
        let absolute = Request::get(format!("{}/a?b", world.shop)).body(String::new()).unwrap();
        assert_eq!(text(session.request(absolute).await.unwrap()).await, "GET /a: ");
        assert_eq!(world.seen(|seen| seen.sign_ons), 1);
        let version = if http2 { "HTTP/2.0" } else { "HTTP/1.1" };
        assert_eq!(world.seen(|seen| seen.versions.iter().cloned().collect::<Vec<_>>()), [version]);
    }
}

#[tokio::test]
async fn a_key_that_ended_is_renewed_without_a_refusal() {
    let (world, terminal) = World::enrolled().await;
    world.faults(|faults| faults.lifetime = 1);
    let session = terminal.sign_on("shop.example").await.unwrap();
    assert_eq!(session.request(post("one")).await.unwrap().status(), StatusCode::OK);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(session.request(post("two")).await.unwrap().status(), StatusCode::OK);
    assert_eq!(world.seen(|seen| seen.sign_ons), 2);
}

#[tokio::test]
async fn a_key_the_service_forgot_is_renewed_and_the_request_sent_again() {
    let (world, terminal) = World::enrolled().await;
    let session = terminal.sign_on("shop.example").await.unwrap();
    world.forget_keys();
    assert_eq!(text(session.request(post("again")).await.unwrap()).await, "POST /orders: again");
    assert_eq!(world.seen(|seen| (seen.sign_ons, seen.requests.len())), (2, 1));

    world.forget_keys();
    let large = Bytes::from(vec![b'x'; REPLAY_LIMIT as usize + 1]);
    let request = Request::post("/large").body(large).unwrap();
    assert_eq!(session.request_bytes(request).await.unwrap().status(), StatusCode::OK);
    assert_eq!(world.seen(|seen| seen.sign_ons), 3);
}

#[tokio::test]
async fn a_body_that_cannot_be_sent_again_costs_one_refusal() {
    let (world, terminal) = World::enrolled().await;
    let session = terminal.sign_on("shop.example").await.unwrap();
    let request = || Request::post("/stream").body(streamed(b"streamed")).unwrap();
    assert_eq!(text(session.request(request()).await.unwrap()).await, "POST /stream: streamed");
    world.forget_keys();
    assert_eq!(session.request(request()).await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(session.request(request()).await.unwrap().status(), StatusCode::OK);
    assert_eq!(world.seen(|seen| seen.sign_ons), 2);
}

#[tokio::test]
async fn there_is_one_retry_and_then_the_refusal_is_the_answer() {
    let (world, terminal) = World::enrolled().await;
    let session = terminal.sign_on("shop.example").await.unwrap();
    world.forget_keys();
    world.faults(|faults| faults.denied = true);
    assert!(matches!(session.request(post("x")).await, Err(Error::Denied { .. })));
    world.faults(|faults| faults.denied = false);
    assert_eq!(session.request(post("x")).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn the_key_stays_at_its_origin() {
    let (world, terminal) = World::enrolled().await;
    let session = terminal.sign_on("shop.example").await.unwrap();
    for uri in [world.manager.as_str(), "https://evil.example/", "https://localhost/"] {
        let error = session.request(Request::get(uri).body(String::new()).unwrap()).await.unwrap_err();
        assert!(matches!(error, Error::OtherOrigin { .. }), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_share_one_sign_on() {
    let (world, terminal) = World::enrolled().await;
    let session = Arc::new(terminal.session("shop.example", SignOnOptions::default()).await.unwrap());
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let session = Arc::clone(&session);
            tokio::spawn(async move { session.request(post("x")).await.unwrap().status() })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap(), StatusCode::OK);
    }
    assert_eq!(world.seen(|seen| seen.sign_ons), 1);
}

#[tokio::test]
async fn sessions_are_kept_between_runs() {
    let (world, terminal) = World::enrolled().await;
    let options = SignOnOptions { cache: true, ..SignOnOptions::default() };
    terminal.sign_on_with("shop.example", options.clone()).await.unwrap();
    let terminal = Terminal::open(world.path()).await.unwrap();
    let session = terminal.session("shop.example", options.clone()).await.unwrap();
    assert_eq!(session.request(post("x")).await.unwrap().status(), StatusCode::OK);
    assert_eq!(world.seen(|seen| seen.sign_ons), 1);
    // The service has forgotten the key: it is renewed, and that one is kept.
    world.forget_keys();
    assert_eq!(session.request(post("x")).await.unwrap().status(), StatusCode::OK);
    let session = terminal.session("shop.example", options).await.unwrap();
    assert_eq!(session.request(post("x")).await.unwrap().status(), StatusCode::OK);
    assert_eq!(world.seen(|seen| seen.sign_ons), 2);
}

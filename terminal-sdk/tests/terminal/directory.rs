//! The directory: services that the terminal learns from the management server.

use std::fs;

use claviger_terminal::{Bind, Code, Error, Service, Source, Terminal};
use serde_json::json;

use crate::harness::{Message, Mishap, World};

fn list(world: &World, services: &[(&str, &[&str])]) {
    let rows = services.iter().map(|(service, origins)| json!({ "service": service, "origins": origins, "name": "N" }));
    world.policy(|policy| policy.directory = json!(rows.collect::<Vec<_>>()).to_string());
}

async fn enrolled() -> (World, Terminal) {
    let world = World::start(true).await;
    let terminal = Terminal::enrol(world.options()).await.unwrap();
    (world, terminal)
}

async fn rows(terminal: &Terminal) -> Vec<(String, String, Source)> {
    let services = terminal.credential().await.unwrap().services;
    services.into_iter().map(|row| (row.id.to_string(), row.origin.to_string(), row.source)).collect()
}

#[tokio::test]
async fn an_origin_that_is_not_known_is_looked_for_once() {
    let (world, terminal) = enrolled().await;
    list(&world, &[("shop.example", &[world.shop.as_str()])]);
    terminal.sign_on(world.shop.as_str()).await.unwrap();
    terminal.sign_on("shop.example").await.unwrap();
    assert_eq!(world.seen(|seen| seen.directories), 1);
    for target in ["https://evil.example", "evil.example"] {
        let error = terminal.sign_on(target).await.unwrap_err();
        assert!(matches!(error, Error::UnknownService(_)), "{error}");
    }
    assert_eq!(world.seen(|seen| seen.directories), 3);
}

#[tokio::test]
async fn each_refresh_replaces_what_came_before_and_leaves_what_the_user_added() {
    let (world, terminal) = enrolled().await;
    let own = Service::new("mine.example".parse().unwrap(), "https://a.example".parse().unwrap());
    terminal.add_service(Service { bind: Bind::TlsExporter, ..own.clone() }).await.unwrap();
    list(&world, &[("a.example", &["https://a.example", "https://a2.example"]), ("b.example", &["https://b.example"])]);
    let learnt = terminal.refresh_directory().await.unwrap();
    assert_eq!(learnt.len(), 2);
    let row = |id: &str, origin: &str, source| (id.to_owned(), origin.to_owned(), source);
    assert_eq!(
        rows(&terminal).await,
        [
            row("mine.example", "https://a.example", Source::Hand),
            row("a.example", "https://a2.example", Source::Directory),
            row("b.example", "https://b.example", Source::Directory),
        ]
    );
    // The user contradicts; the directory changes.
    terminal
        .add_service(Service::new("c.example".parse().unwrap(), "https://b.example".parse().unwrap()))
        .await
        .unwrap();
    list(&world, &[("b.example", &["https://b.example", "https://b2.example"])]);
    terminal.refresh_directory().await.unwrap();
    assert_eq!(
        rows(&terminal).await,
        [
            row("mine.example", "https://a.example", Source::Hand),
            row("c.example", "https://b.example", Source::Hand),
            row("b.example", "https://b2.example", Source::Directory),
        ]
    );
    // It survives on the disk, and a new enrolment.
    let options = claviger_terminal::EnrolOptions { replace: true, ..world.options() };
    let terminal = Terminal::enrol(options).await.unwrap();
    assert_eq!(rows(&terminal).await.len(), 3);
    assert_eq!(terminal.credential().await.unwrap().services[0].bind, Bind::TlsExporter);
}

#[tokio::test]
async fn a_directory_that_nobody_sealed_or_that_is_refused_changes_nothing() {
    let (world, terminal) = enrolled().await;
    list(&world, &[("shop.example", &[world.shop.as_str()])]);
    terminal.refresh_directory().await.unwrap();
    list(&world, &[]);
    let before = fs::read(world.path()).unwrap();
    for code in [Code::Unsupported, Code::Denied, Code::AuthFailed, Code::RateLimited] {
        world.mishaps(Message::Directory, &[Mishap::Forge(code)]);
        let outcome = terminal.refresh_directory().await;
        assert!(matches!(outcome, Err(Error::Refused { code: given, .. }) if given == code), "{code}: {outcome:?}");
    }
    world.faults(|faults| faults.denied = true);
    let outcome = terminal.refresh_directory().await;
    assert!(matches!(outcome, Err(Error::Denied { code: Code::Denied })), "{outcome:?}");
    assert_eq!(fs::read(world.path()).unwrap(), before);
    // An old answer is none to a new envelope, which a service passes on.
    world.faults(|faults| faults.denied = false);
    world.mishaps(Message::Directory, &[Mishap::LateAnswer]);
    let outcome = terminal.refresh_directory().await;
    assert!(matches!(outcome, Err(Error::InvalidReply(_))), "{outcome:?}");
}

#[tokio::test]
async fn it_comes_through_a_service_when_the_management_server_is_away() {
    let (world, terminal) = World::enrolled().await;
    list(&world, &[("b.example", &["https://b.example"])]);
    world.faults(|faults| faults.manager_away = true);
    assert_eq!(terminal.refresh_directory().await.unwrap().len(), 1);
    assert_eq!(world.seen(|seen| seen.relayed), 1);
    world.mishaps(Message::Directory, &[Mishap::LoseRequest]);
    let error = terminal.sign_on("https://c.example").await.unwrap_err();
    assert!(matches!(error, Error::NoDirectory { .. }), "{error}");
    assert!(error.to_string().contains("https://c.example"), "{error}");
}

#[tokio::test]
async fn the_clock_is_corrected_by_a_sealed_directory() {
    let (world, terminal) = enrolled().await;
    list(&world, &[("shop.example", &[world.shop.as_str()])]);
    world.faults(|faults| faults.clock_ms = -7_200_000);
    assert_eq!(terminal.refresh_directory().await.unwrap().len(), 1);
    assert!((terminal.credential().await.unwrap().clock_offset_ms + 7_200_000).abs() < 10_000);
    assert_eq!(world.seen(|seen| seen.directories), 2);
}

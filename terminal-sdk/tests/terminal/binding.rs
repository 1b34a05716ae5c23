//! Envelopes that are bound to a challenge or to the TLS connection.

use claviger_protocol::{Secret32, message::Scope, terminal::login::LoginRandom};
use claviger_terminal::{
    Bind, Code, CredentialFile, Error, Service, Trust,
    client::Transport,
    core::{
        Fresh,
        sign_on::{SignOn, Step},
    },
};

use crate::harness::{Demand, World, random};

fn bindings(world: &World) -> Vec<&'static str> {
    world.seen(|seen| std::mem::take(&mut seen.bindings))
}

#[tokio::test]
async fn the_terminal_finds_out_what_a_service_demands() {
    for (demand, no_challenges, expected) in [
        (Demand::Nothing, false, &["none"][..]),
        (Demand::Challenge, false, &["none", "challenge"]),
        (Demand::TlsExporter, false, &["none", "challenge", "tls-exporter"]),
        (Demand::TlsExporter, true, &["none", "tls-exporter"]),
    ] {
        let (world, terminal) = World::enrolled().await;
        world.faults(|faults| (faults.bind, faults.no_challenges) = (demand, no_challenges));
        let session = terminal.sign_on("shop.example").await.unwrap();
        assert_eq!(bindings(&world), expected);
        let answer = session.request(http::Request::get("/").body(String::new()).unwrap()).await.unwrap();
        assert_eq!(answer.status(), 200);
        // Together with a wrong clock.
        world.faults(|faults| faults.clock_ms = 7_200_000);
        terminal.sign_on("shop.example").await.unwrap();
    }
}

#[tokio::test]
async fn the_table_says_what_to_bind_to_and_nothing_unsealed_changes_that() {
    for (bind, demand, expected) in [
        (Bind::Challenge, Demand::Nothing, Ok("challenge")),
        (Bind::Challenge, Demand::Challenge, Ok("challenge")),
        (Bind::TlsExporter, Demand::Nothing, Ok("tls-exporter")),
        (Bind::TlsExporter, Demand::TlsExporter, Ok("tls-exporter")),
        (Bind::Challenge, Demand::TlsExporter, Err("challenge")),
    ] {
        for http2 in [true, false] {
            let world = World::start(http2).await;
            let terminal = claviger_terminal::Terminal::enrol(world.options()).await.unwrap();
            terminal.add_service(Service { bind, ..world.service() }).await.unwrap();
            world.faults(|faults| faults.bind = demand);
            let outcome = terminal.sign_on("shop.example").await;
            assert_eq!(bindings(&world), [expected.unwrap_or_else(|only| only)]);
            match outcome {
                Ok(_) => assert!(expected.is_ok()),
                Err(error) => {
                    assert!(expected.is_err());
                    assert!(matches!(error, Error::Refused { code: Code::BindMismatch, .. }), "{error}");
                }
            }
        }
    }
}

#[tokio::test]
async fn an_envelope_is_worth_nothing_on_another_connection() {
    let (world, _terminal) = World::enrolled().await;
    world.faults(|faults| faults.bind = Demand::TlsExporter);
    let transport = Transport::new(&Trust::Ca(world.ca.clone())).unwrap();
    let file = CredentialFile::new(world.path());
    for same in [true, false] {
        let (one, other) =
            (transport.connect(&world.shop).await.unwrap(), transport.connect(&world.shop).await.unwrap());
        assert_ne!(one.exporter(), other.exporter());
        let step = SignOn::start("shop.example".parse().unwrap(), Scope::default(), Bind::TlsExporter);
        let Step::Connection(need) = step else { panic!("another step") };
        let (credential, counter) = file.take_counter().unwrap();
        let random =
            LoginRandom { nonce: random(), session_password: Secret32::new(random()), kem: Secret32::new(random()) };
        let now_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
        let ready = need.connected(one.exporter());
        let (request, awaited) = ready.seal(&credential, Fresh { counter, now_ms, random }).unwrap();
        let response = if same { one.exchange(request).await } else { other.exchange(request).await };
        let judged = awaited.receive(&response.unwrap(), now_ms, "https://shop");
        match judged.next {
            Ok(_) => assert!(same),
            Err(error) => {
                assert!(!same);
                assert!(matches!(error, Error::Refused { code: Code::BindMismatch, .. }), "{error}");
            }
        }
    }
}

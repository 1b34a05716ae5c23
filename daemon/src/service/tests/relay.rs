//! Rotation and directory through a service, with both ends of the protocol.

use claviger_protocol::{
    Secret32,
    terminal::{directory, envelope::Refused, rotate},
};

use super::{super::testing::DIRECTORY, *};

#[tokio::test]
async fn a_terminal_gets_its_new_keys_and_its_directory_through_a_service() {
    let fixture = Fixture::new(&config(nowhere()));
    let server = serve(None, fixture.role.clone());
    for kem in [KemId::X25519, KemId::X25519MlKem768] {
        let terminal = Terminal { kem, ..Terminal::new() };
        let (envelope, waiting) = terminal
            .with_sender(|sender| rotate::start(terminal.suite(), sender, random(), &Secret32::new(random())).unwrap());
        let answer = post(server.address, "/idb/v1/rotate", &envelope).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.headers["content-type"], CONTENT_TYPE);
        assert_eq!(answer.headers["cache-control"], "no-store");
        assert_eq!(waiting.receive(terminal.suite(), &answer.body).unwrap().epoch, 2);
    }
    let terminal = Terminal::new();
    let (envelope, waiting) = terminal
        .with_sender(|sender| directory::start(terminal.suite(), sender, random(), &Secret32::new(random())).unwrap());
    let answer = post(server.address, "/idb/v1/directory", &envelope).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(waiting.receive(terminal.suite(), &answer.body).unwrap().json, DIRECTORY);
}

#[tokio::test]
async fn refusals_pass_with_their_status_and_seal() {
    let fixture = Fixture::new(&config(nowhere()));
    let server = serve(None, fixture.role.clone());
    let (good, stranger) = (Terminal::new(), Terminal { management_key: [9; 32], ..Terminal::new() });
    fixture.manager.denies.store(true, SeqCst);
    for (terminal, sealed) in [(good, true), (stranger, false)] {
        let (envelope, waiting) = terminal
            .with_sender(|sender| rotate::start(terminal.suite(), sender, random(), &Secret32::new(random())).unwrap());
        let answer = post(server.address, "/idb/v1/rotate", &envelope).await;
        match waiting.receive(terminal.suite(), &answer.body).unwrap_err() {
            Refused::Sealed(note) if sealed => assert_eq!((note.code, answer.status.as_u16()), (Code::Denied, 403)),
            Refused::Advisory(code) if !sealed => {
                assert_eq!((code, answer.status.as_u16()), (Code::AuthFailed, 401));
            }
            other => panic!("{other:?}"),
        }
    }
    // What it is not is for the management server to say.
    for path in ["/idb/v1/rotate", "/idb/v1/directory"] {
        let answer = post(server.address, path, b"no envelope").await;
        assert_eq!((answer.status.as_u16(), answer.body), (400, Refusal(Code::Malformed).encode()), "{path}");
    }
}

#[tokio::test]
async fn a_management_server_that_is_away_is_unavailable() {
    let fixture = Fixture::new(&config(nowhere()));
    let server = serve(None, fixture.role.clone());
    fixture.manager.away.store(true, SeqCst);
    for path in ["/idb/v1/rotate", "/idb/v1/directory"] {
        let answer = post(server.address, path, b"anything").await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert_eq!(answer.headers["content-type"], CONTENT_TYPE);
        assert_eq!(answer.headers["retry-after"], "1");
        assert_eq!(answer.body, Refusal(Code::Unavailable).encode());
    }
}

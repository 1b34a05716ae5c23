//! What a sign-on is bound to: nothing, a challenge, or its TLS connection.

use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::*;
use crate::{
    config::types::Binding,
    net::{
        testing::{Authority, Running},
        tls::{client_config, server_config},
    },
};

#[tokio::test]
async fn a_challenge_is_good_for_one_sign_on() {
    for binding in [Binding::None, Binding::Challenge] {
        let fixture = bound(binding);
        let server = serve(None, fixture.role.clone());
        let (first, second) = (challenge(&server).await, challenge(&server).await);
        assert_ne!(first, second);
        let terminal = Terminal { binding: Bind::Challenge(first), ..Terminal::new() };
        assert_eq!(code(&sign_on(server.address, terminal.envelope().0).await), Code::Ok);
        assert_eq!(code(&sign_on(server.address, terminal.envelope().0).await), Code::BindMismatch);
    }
}

#[tokio::test]
async fn a_challenge_is_spent_by_an_envelope_that_fails_later() {
    let fixture = bound(Binding::Challenge);
    let server = serve(None, fixture.role.clone());
    let binding = Bind::Challenge(challenge(&server).await);
    let stranger = Terminal { management_key: [9; 32], binding, ..Terminal::new() };
    assert_eq!(code(&sign_on(server.address, stranger.envelope().0).await), Code::AuthFailed);
    let terminal = Terminal { binding, ..Terminal::new() };
    assert_eq!(code(&sign_on(server.address, terminal.envelope().0).await), Code::BindMismatch);
}

#[tokio::test]
async fn what_is_demanded_is_met_by_nothing_weaker() {
    let authority = Authority::new();
    for (demanded, without, by_challenge, by_exporter) in [
        (Binding::None, Code::Ok, Code::Ok, Code::Ok),
        (Binding::Challenge, Code::BindMismatch, Code::Ok, Code::Ok),
        (Binding::TlsExporter, Code::BindMismatch, Code::BindMismatch, Code::Ok),
    ] {
        let fixture = bound(demanded);
        let server = serve_tls(&authority, &fixture);
        for http2 in [false, true] {
            let mut connection = Connection::open(&authority, &server, http2).await;
            let challenge = connection.challenge().await;
            for (binding, expected) in [
                (Bind::None, without),
                (Bind::Challenge(challenge), by_challenge),
                (Bind::TlsExporter(connection.exporter), by_exporter),
                // Good for as long as the connection: the counter is what keeps an envelope from being used twice.
                (Bind::TlsExporter(connection.exporter), by_exporter),
            ] {
                let answer = connection.sign_on(binding).await;
                assert_eq!(code(&answer), expected, "{demanded:?} {binding:?} {http2}");
            }
        }
    }
}

#[tokio::test]
async fn the_exporter_of_another_connection_is_refused() {
    let authority = Authority::new();
    for demanded in [Binding::None, Binding::Challenge, Binding::TlsExporter] {
        let fixture = bound(demanded);
        let server = serve_tls(&authority, &fixture);
        let mut mine = Connection::open(&authority, &server, true).await;
        let theirs = Connection::open(&authority, &server, true).await;
        assert_ne!(mine.exporter, theirs.exporter);
        let mut flipped = mine.exporter;
        flipped[31] ^= 1;
        for exporter in [theirs.exporter, flipped, [0; 32]] {
            assert_eq!(code(&mine.sign_on(Bind::TlsExporter(exporter)).await), Code::BindMismatch);
        }
        assert_eq!(fixture.manager.asked.load(SeqCst), 0, "it never reached the management server");
        assert_eq!(code(&mine.sign_on(Bind::TlsExporter(mine.exporter)).await), Code::Ok);
        // A plain listener has none at all.
        let plain = serve(None, fixture.role.clone());
        let terminal = Terminal { binding: Bind::TlsExporter([0; 32]), ..Terminal::new() };
        assert_eq!(code(&sign_on(plain.address, terminal.envelope().0).await), Code::BindMismatch);
    }
}

fn bound(binding: Binding) -> Fixture {
    let mut config = config(nowhere());
    config.binding = binding;
    Fixture::new(&config)
}

async fn challenge(server: &Running) -> [u8; 32] {
    let request = Request::get(format!("http://{}/idb/v1/challenge", server.address));
    let answer = send(request.body(empty()).unwrap()).await;
    assert_eq!((answer.status, &answer.headers["content-type"]), (StatusCode::OK, &CONTENT_TYPE.parse().unwrap()));
    answer.body.try_into().unwrap()
}

fn serve_tls(authority: &Authority, fixture: &Fixture) -> Running {
    let identity = authority.issue("shop", &[]);
    let tls = server_config(&identity.certificate, &identity.key, None).unwrap();
    serve(Some(tls), fixture.role.clone())
}

/// One TLS connection, with what only its ends know.
struct Connection {
    sender: Sender,
    exporter: [u8; 32],
    address: SocketAddr,
}

enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

impl Connection {
    async fn open(authority: &Authority, server: &Running, http2: bool) -> Self {
        let mut tls = client_config(Some(&authority.ca()), None, None).unwrap();
        tls.alpn_protocols = vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        let tcp = TcpStream::connect(server.address).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let stream: TlsStream<_> = TlsConnector::from(Arc::new(tls)).connect(name, tcp).await.unwrap();
        // The label of RFC 9266, section 2.
        let label = b"EXPORTER-Channel-Binding";
        let exporter = stream.get_ref().1.export_keying_material([0; 32], label, None).unwrap();
        let io = TokioIo::new(stream);
        let sender = if http2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            Sender::Http2(sender)
        } else {
            let (sender, connection) = http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            Sender::Http1(sender)
        };
        Self { sender, exporter, address: server.address }
    }

    async fn challenge(&mut self) -> [u8; 32] {
        let request = Request::get(format!("https://{}/idb/v1/challenge", self.address));
        self.send(request.body(empty()).unwrap()).await.body.try_into().unwrap()
    }

    async fn sign_on(&mut self, binding: Bind) -> Answer {
        let envelope = Terminal { binding, ..Terminal::new() }.envelope().0;
        let request = Request::post(format!("https://{}/idb/v1/sign-on", self.address));
        self.send(request.header("content-type", CONTENT_TYPE).body(full(envelope)).unwrap()).await
    }

    async fn send(&mut self, mut request: Request<Body>) -> Answer {
        let response = match &mut self.sender {
            Sender::Http1(sender) => {
                let host = self.address.to_string().parse().unwrap();
                request.headers_mut().insert("host", host);
                *request.uri_mut() = request.uri().path().parse().unwrap();
                sender.ready().await.unwrap();
                sender.send_request(request).await.unwrap()
            }
            Sender::Http2(sender) => {
                sender.ready().await.unwrap();
                sender.send_request(request).await.unwrap()
            }
        };
        Answer::read(response).await
    }
}

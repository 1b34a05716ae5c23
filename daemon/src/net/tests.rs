//! Real servers and clients on loopback.

use std::{io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use http::{Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName, version::TLS12};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::{
    Body, Handler, Peer,
    client::https_client,
    empty,
    testing::{Authority, Running, serve, serve_with_grace},
    text,
    tls::{client_config, peer_uri_sans, server_config},
};

/// Answers with the version of HTTP and who the client is; `/slow` takes a while.
struct WhoAmI;

#[async_trait]
impl Handler for WhoAmI {
    async fn handle(&self, request: Request<Incoming>, peer: Peer) -> Response<Body> {
        if request.uri().path() == "/slow" {
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
        let uris = peer.certificate.as_ref().map(peer_uri_sans).unwrap_or_default();
        text(StatusCode::OK, &format!("{:?} {} {}", request.version(), peer.tls, uris.join(" ")))
    }
}

async fn get(config: ClientConfig, address: SocketAddr) -> Result<String, String> {
    let request = Request::get(format!("https://{address}/")).body(empty()).unwrap();
    let response = https_client(config).request(request).await.map_err(|e| format!("{e:?}"))?;
    let body = response.into_body().collect().await.map_err(|e| format!("{e:?}"))?;
    Ok(String::from_utf8(body.to_bytes().to_vec()).unwrap())
}

const MANAGER: &str = "idb://example/manager";
const SHOP: &str = "idb://example/service/shop.example";

fn mutual(authority: &Authority) -> Running {
    let server = authority.issue("server", &[MANAGER]);
    let config = server_config(&server.certificate, &server.key, Some(&authority.ca())).unwrap();
    serve(Some(config), Arc::new(WhoAmI))
}

#[tokio::test]
async fn mutual_tls_tells_each_side_who_the_other_is() {
    let authority = Authority::new();
    let server = mutual(&authority);
    let shop = authority.issue("shop", &[SHOP]);
    let config = client_config(Some(&authority.ca()), Some(shop.paths()), Some(MANAGER.into())).unwrap();
    assert_eq!(get(config, server.address).await.unwrap(), format!("HTTP/2.0 true {SHOP}"));
}

#[tokio::test]
async fn strangers_are_refused_in_both_directions() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = mutual(&authority);
    let shop = authority.issue("shop", &[SHOP]);
    let stranger = other.issue("stranger", &[SHOP]);
    let (ca, other_ca) = (authority.ca(), other.ca());
    for (what, ca, identity, uri, expected) in [
        ("no certificate", &ca, None, MANAGER, "CertificateRequired"),
        ("a certificate of another authority", &ca, Some(stranger.paths()), MANAGER, "received fatal alert"),
        ("another URI of the server", &ca, Some(shop.paths()), "idb://other/manager", "NotValidForName"),
        ("a prefix of the server's URI", &ca, Some(shop.paths()), "idb://example/manage", "NotValidForName"),
        ("a server of another authority", &other_ca, Some(shop.paths()), MANAGER, "InvalidCertificate"),
    ] {
        let config = client_config(Some(ca), identity, Some(uri.into())).unwrap();
        let error = get(config, server.address).await.unwrap_err();
        assert!(error.contains(expected), "{what}: {error}");
    }
    // The URI takes the place of the name only where one is expected.
    let server = serve(Some(server_only(&authority)), Arc::new(WhoAmI));
    let by_name = client_config(Some(&ca), None, None).unwrap();
    assert_eq!(get(by_name.clone(), server.address).await.unwrap(), "HTTP/2.0 true ");
    let error = connect(by_name, server.address, "elsewhere.example").await.unwrap_err();
    assert!(error.to_string().contains("not valid for name"), "{error}");
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let authority = Authority::new();
    let server = serve(Some(server_only(&authority)), Arc::new(WhoAmI));
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let error = connect(config, server.address, "127.0.0.1").await.unwrap_err();
    assert!(error.to_string().contains("ProtocolVersion"), "{error}");
}

#[tokio::test]
async fn the_hybrid_key_exchange_comes_first_and_is_the_only_one_between_servers() {
    let authority = Authority::new();
    let hybrid = Some(rustls::NamedGroup::X25519MLKEM768);
    let open = serve(Some(server_only(&authority)), Arc::new(WhoAmI));
    let config = client_config(Some(&authority.ca()), None, None).unwrap();
    assert_eq!(connect(config.clone(), open.address, "127.0.0.1").await.unwrap(), hybrid);

    let mut classical = aws_lc_rs::default_provider();
    classical.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    let builder = ClientConfig::builder_with_provider(Arc::new(classical));
    let classical = builder
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_webpki_verifier({
            let mut roots = RootCertStore::empty();
            use rustls::pki_types::{CertificateDer, pem::PemObject};
            roots.add(CertificateDer::from_pem_file(authority.ca()).unwrap()).unwrap();
            rustls::client::WebPkiServerVerifier::builder(Arc::new(roots)).build().unwrap()
        })
        .with_no_client_auth();
    let group = connect(classical.clone(), open.address, "127.0.0.1").await.unwrap();
    assert_eq!(group, Some(rustls::NamedGroup::X25519));
    let between = mutual(&authority);
    let error = connect(classical, between.address, "127.0.0.1").await.unwrap_err();
    assert!(error.to_string().contains("HandshakeFailure"), "{error}");
}

#[tokio::test]
async fn drain_lets_running_requests_finish_and_takes_no_new_ones() {
    let server = serve(None, Arc::new(WhoAmI));
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.shutdown.cancel();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("HTTP/1.1 false "), "{answer}");
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0, "an idle connection is closed at once");
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn what_outlasts_the_grace_period_is_cut() {
    let mut server = serve_with_grace(None, Arc::new(WhoAmI), Duration::from_millis(50));
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.shutdown.cancel();
    (&mut server.task).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "");
}

#[tokio::test]
async fn plain_listeners_speak_both_versions() {
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let server = serve(None, Arc::new(WhoAmI));
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get(format!("http://{}/", server.address)).body(empty()).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().version(), Version::HTTP_2);
}

#[test]
fn unusable_files_are_told_in_one_line() {
    let authority = Authority::new();
    let server = authority.issue("server", &[]);
    let other = authority.issue("other", &[]);
    let ca = authority.ca();
    let missing = Path::new("/nonexistent/file.pem");
    for (certificate, key, client_ca, expected) in [
        (missing, server.key.as_path(), None, "/nonexistent/file.pem: "),
        (&server.key, &server.key, None, "no certificate in this file"),
        (&server.certificate, &server.certificate, None, "no private key in this file"),
        (&server.certificate, &other.key, None, "TLS with "),
        (&server.certificate, &server.key, Some(missing), "/nonexistent/file.pem: "),
        (&server.certificate, &server.key, Some(server.key.as_path()), "no certificate in this file"),
    ] {
        let error = server_config(certificate, key, client_ca).unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains('\n'), "{error}");
    }
    assert!(client_config(Some(&ca), Some((&server.certificate, &other.key)), None).is_err());
}

#[tokio::test]
async fn a_taken_port_is_told() {
    let first = super::Server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let error = super::Server::bind(first.local_addr()).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot listen on {}: ", first.local_addr())), "{error}");
}

fn server_only(authority: &Authority) -> Arc<rustls::ServerConfig> {
    let server = authority.issue("open", &[]);
    server_config(&server.certificate, &server.key, None).unwrap()
}

/// Makes a TLS connection and tells its key exchange.
async fn connect(
    config: ClientConfig,
    address: SocketAddr,
    name: &'static str,
) -> io::Result<Option<rustls::NamedGroup>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name).unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    Ok(stream.get_ref().1.negotiated_key_exchange_group().map(rustls::crypto::SupportedKxGroup::name))
}

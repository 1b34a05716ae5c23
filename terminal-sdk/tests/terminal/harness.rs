//! A realm in the test's own process: one management server and one service,
//! each on a TLS listener.

mod management;
mod shop;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    convert::Infallible,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use claviger_protocol::{
    CONTENT_TYPE, Code, KemId, Realm, Suite, SuiteId, aws_lc::AwsLc, enrolment_code::EnrolmentCode, service,
};
use claviger_terminal::{EnrolOptions, Origin, Service, Terminal};
use data_encoding::BASE64URL_NOPAD;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use management::Management;
pub(crate) use management::Policy;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{ServerConfig, pki_types::PrivateKeyDer, server::ParsedCertificate};
use shop::ServiceState;
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::Notify};
use tokio_rustls::TlsAcceptor;

pub(crate) const SERVICE: &str = "shop.example";

pub(crate) struct World {
    pub(crate) realm: Arc<Servers>,
    pub(crate) manager: Origin,
    pub(crate) shop: Origin,
    pub(crate) ca: String,
    /// SHA-256 of the servers' SubjectPublicKeyInfo.
    pub(crate) spki: [u8; 32],
    directory: TempDir,
}

/// Both servers' state; the test turns its screws.
pub(crate) struct Servers {
    pub(crate) faults: Mutex<Faults>,
    pub(crate) seen: Mutex<Seen>,
    pub(crate) policy: Mutex<Policy>,
    /// Told when a message of a mishap has come as far as it goes.
    pub(crate) happened: Notify,
    late: Mutex<Vec<(Message, Bytes)>>,
    management: Mutex<Management>,
    service: Mutex<ServiceState>,
}

#[derive(Default)]
pub(crate) struct Faults {
    /// The management server's clock minus this machine's.
    pub(crate) clock_ms: i64,
    /// Break the connection after E3 was processed.
    pub(crate) lose_e4: bool,
    /// Answer E3 with an unauthenticated refusal.
    pub(crate) refuse_e3: Option<Code>,
    /// The user may not use the service.
    pub(crate) denied: bool,
    /// Answer a sign-on with an unauthenticated refusal.
    pub(crate) advisory: Option<Code>,
    /// Change the reply.
    pub(crate) tamper: Option<fn(&mut Vec<u8>)>,
    /// Answer with the first reply again.
    pub(crate) old_reply: bool,
    /// Answer like a web server that has never heard of the protocol.
    pub(crate) plain_http: bool,
    /// Demand a binding.
    pub(crate) bind: Demand,
    /// The service gives no challenges.
    pub(crate) no_challenges: bool,
    /// The management server breaks off all connections of terminals.
    pub(crate) manager_away: bool,
    /// What happens to the next messages of a kind; then nothing.
    pub(crate) mishaps: HashMap<Message, VecDeque<Mishap>>,
    /// Seconds that keys live; 3600 when 0.
    pub(crate) lifetime: u32,
}

/// What a service demands of an envelope.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Demand {
    #[default]
    Nothing,
    Challenge,
    TlsExporter,
}

/// Messages that may have a mishap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Message {
    SignOn,
    Rotate,
    Directory,
}

/// What a hostile or bad network does to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mishap {
    /// It does not arrive.
    LoseRequest,
    /// It is processed, and its answer does not arrive.
    LoseAnswer,
    /// It arrives twice; the terminal gets the first answer.
    Duplicate,
    /// It arrives twice; the terminal gets the second answer.
    SecondAnswer,
    /// It arrives after the next message of its kind was processed; the terminal gets no answer.
    Late,
    /// It is processed, and its answer comes for the next message of its kind.
    LateAnswer,
    /// Nothing comes, before it is processed.
    HangBefore,
    /// Nothing comes, after it was processed.
    HangAfter,
    /// A relay makes an answer of its own.
    Forge(Code),
}

#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) sign_ons: usize,
    pub(crate) confirmations: usize,
    pub(crate) requests: Vec<(String, String)>,
    pub(crate) key_exchange: Option<rustls::NamedGroup>,
    pub(crate) versions: HashSet<String>,
    pub(crate) first_reply: Option<Vec<u8>>,
    pub(crate) suspended: bool,
    /// How envelopes named the user.
    pub(crate) names: Vec<&'static str>,
    pub(crate) bindings: Vec<&'static str>,
    pub(crate) rotations: usize,
    pub(crate) directories: usize,
    pub(crate) relayed: usize,
    pub(crate) rotate_kem: Option<KemId>,
    pub(crate) kems: Vec<KemId>,
    pub(crate) comparison: String,
    late_answers: HashMap<Message, (Code, Vec<u8>)>,
}

impl World {
    /// Starts both servers. `http2` says whether they offer it.
    pub(crate) async fn start(http2: bool) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let (ca, spki, tls) = certificates(http2);
        let realm = Arc::new(Servers {
            faults: Mutex::default(),
            seen: Mutex::default(),
            policy: Mutex::default(),
            happened: Notify::new(),
            late: Mutex::default(),
            management: Mutex::default(),
            service: Mutex::default(),
        });
        let manager = listen(Arc::clone(&realm), tls.clone(), Role::Manager).await;
        let shop = listen(Arc::clone(&realm), tls, Role::Service).await;
        let origin = |address: SocketAddr| format!("https://localhost:{}", address.port()).parse().unwrap();
        let directory = tempfile::tempdir().unwrap();
        Self { realm, manager: origin(manager), shop: origin(shop), ca, spki, directory }
    }

    /// With an enrolled terminal that knows the service.
    pub(crate) async fn enrolled() -> (Self, Terminal) {
        let world = Self::start(true).await;
        let terminal = Terminal::enrol(world.options()).await.unwrap();
        terminal.add_service(world.service()).await.unwrap();
        (world, terminal)
    }

    pub(crate) fn service(&self) -> Service {
        Service::new(SERVICE.parse().unwrap(), self.shop.clone())
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("terminal/credential.json")
    }

    pub(crate) fn new_code(&self) -> EnrolmentCode {
        let code = EnrolmentCode::new(random());
        self.realm.management.lock().unwrap().codes.insert(code.id(), (code.psk(), None));
        code
    }

    pub(crate) fn options(&self) -> EnrolOptions {
        EnrolOptions {
            server: self.manager.clone(),
            realm: realm_name(),
            code: self.new_code(),
            ca: Some(self.ca.clone()),
            path: self.path(),
            spki: None,
            suite: None,
            kem: Some(KemId::X25519),
            replace: false,
        }
    }

    pub(crate) fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.realm.faults.lock().unwrap());
    }

    pub(crate) fn policy(&self, change: impl FnOnce(&mut Policy)) {
        change(&mut self.realm.policy.lock().unwrap());
    }

    /// What happens to the next messages of a kind.
    pub(crate) fn mishaps(&self, message: Message, mishaps: &[Mishap]) {
        self.faults(|faults| drop(faults.mishaps.insert(message, mishaps.iter().copied().collect())));
    }

    /// The management server's current epoch, and whether it has another pending.
    pub(crate) fn epoch(&self) -> (u32, bool) {
        let management = self.realm.management.lock().unwrap();
        management.active.as_ref().map_or((0, false), |active| (active.epoch, active.next.is_some()))
    }

    /// An enrolment link with a new code.
    pub(crate) fn link(&self, spki: &[u8; 32]) -> String {
        let server = self.manager.as_str().replace(':', "%3A").replace('/', "%2F");
        let (spki, code) = (BASE64URL_NOPAD.encode(spki), self.new_code().expose());
        format!("idb1:enrol?server={server}&realm=example&spki={spki}&code={code}")
    }

    pub(crate) fn seen<T>(&self, read: impl FnOnce(&mut Seen) -> T) -> T {
        read(&mut self.realm.seen.lock().unwrap())
    }

    pub(crate) fn scope(&self) -> Vec<String> {
        self.realm.management.lock().unwrap().scope.clone()
    }

    /// The service forgets all keys, as when it is started anew.
    pub(crate) fn forget_keys(&self) {
        self.realm.service.lock().unwrap().keys.clear();
    }

    /// The management server loses the keys of the next epoch, as after a restore.
    pub(crate) fn forget_pending_epoch(&self) {
        self.realm.management.lock().unwrap().active.as_mut().unwrap().next = None;
    }

    /// Answers that are still on their way never come.
    pub(crate) fn forget_late_answers(&self) {
        self.seen(|seen| seen.late_answers.clear());
    }

    /// The management server forgets the user.
    pub(crate) fn forget_user(&self) {
        self.realm.management.lock().unwrap().active = None;
    }
}

#[derive(Clone, Copy)]
enum Role {
    Manager,
    Service,
}

/// `None` breaks the connection.
type Answer = Option<Response<Full<Bytes>>>;

async fn listen(realm: Arc<Servers>, tls: Arc<ServerConfig>, role: Role) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(tls);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (realm, acceptor) = (Arc::clone(&realm), acceptor.clone());
            stream.set_nodelay(true).unwrap();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let tls = stream.get_ref().1;
                let group = tls.negotiated_key_exchange_group().map(rustls::crypto::SupportedKxGroup::name);
                let exporter = tls.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", None).unwrap();
                realm.seen.lock().unwrap().key_exchange = group;
                let service = service_fn(move |request| {
                    let realm = Arc::clone(&realm);
                    async move { realm.handle(role, exporter, request).await.ok_or("the connection is broken off") }
                });
                let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

impl Servers {
    async fn handle(&self, role: Role, exporter: [u8; 32], request: Request<Incoming>) -> Answer {
        self.seen.lock().unwrap().versions.insert(format!("{:?}", request.version()));
        let (parts, body) = request.into_parts();
        let body = body.collect().await.ok()?.to_bytes();
        {
            let faults = self.faults.lock().unwrap();
            if faults.plain_http {
                return Some(response(StatusCode::NOT_FOUND, "text/html", "<h1>Not Found</h1>"));
            }
            if faults.manager_away && matches!(role, Role::Manager) {
                return None;
            }
        }
        match (role, parts.uri.path()) {
            (Role::Manager, "/idb/v1/enrol") => self.enrol(&body),
            (Role::Manager, "/idb/v1/realm") => self.realm_info(),
            (role, "/idb/v1/rotate") => {
                self.seen(|seen| (seen.rotations, seen.relayed) = (seen.rotations + 1, seen.relayed + relayed(role)));
                self.deliver(Message::Rotate, &body, exporter).await
            }
            (role, "/idb/v1/directory") => {
                self.seen(|seen| {
                    (seen.directories, seen.relayed) = (seen.directories + 1, seen.relayed + relayed(role));
                });
                self.deliver(Message::Directory, &body, exporter).await
            }
            (Role::Service, "/idb/v1/sign-on") => {
                self.seen(|seen| seen.sign_ons += 1);
                self.deliver(Message::SignOn, &body, exporter).await
            }
            (Role::Service, "/idb/v1/challenge") if self.faults.lock().unwrap().no_challenges => {
                Some(response(StatusCode::NOT_FOUND, "text/plain", ""))
            }
            (Role::Service, "/idb/v1/challenge") => {
                let challenge = random();
                self.service.lock().unwrap().challenges.insert(challenge);
                Some(response(StatusCode::OK, CONTENT_TYPE, challenge.to_vec()))
            }
            (Role::Service, _) => Some(self.application(&parts, &body)),
            (Role::Manager, _) => Some(response(StatusCode::NOT_FOUND, "text/plain", "")),
        }
    }

    /// Processes a message, with the mishap that is due.
    async fn deliver(&self, message: Message, body: &Bytes, exporter: [u8; 32]) -> Answer {
        let mishap = self.faults.lock().unwrap().mishaps.get_mut(&message).and_then(VecDeque::pop_front);
        let process = || self.process(message, body, exporter);
        let answer = match mishap {
            None => process(),
            Some(Mishap::LoseRequest) => return None,
            Some(Mishap::LoseAnswer) => {
                process();
                return None;
            }
            Some(Mishap::Duplicate) => {
                let first = process();
                process();
                first
            }
            Some(Mishap::SecondAnswer) => {
                process();
                process()
            }
            Some(Mishap::Late) => {
                self.late.lock().unwrap().push((message, body.clone()));
                return None;
            }
            Some(Mishap::LateAnswer) => {
                let answer = process();
                self.seen(|seen| seen.late_answers.insert(message, answer));
                return None;
            }
            Some(Mishap::Forge(code)) if message == Message::SignOn => (code, service::refusal(code, &random(), &[])),
            Some(Mishap::Forge(code)) => (code, claviger_protocol::message::Refusal(code).encode()),
            Some(hang @ (Mishap::HangBefore | Mishap::HangAfter)) => {
                if hang == Mishap::HangAfter {
                    process();
                }
                self.happened.notify_one();
                std::future::pending().await
            }
        };
        let late: Vec<_> = self.late.lock().unwrap().extract_if(.., |(kind, _)| *kind == message).collect();
        for (kind, body) in late {
            self.process(kind, &body, exporter);
        }
        let (code, bytes) = self.seen(|seen| seen.late_answers.remove(&message)).unwrap_or(answer);
        Some(response(StatusCode::from_u16(code.http_status()).unwrap(), CONTENT_TYPE, bytes))
    }

    fn process(&self, message: Message, body: &[u8], exporter: [u8; 32]) -> (Code, Vec<u8>) {
        match message {
            Message::SignOn => self.sign_on(body, exporter),
            Message::Rotate => self.rotate(body),
            Message::Directory => self.directory(body),
        }
    }

    fn seen<T>(&self, change: impl FnOnce(&mut Seen) -> T) -> T {
        change(&mut self.seen.lock().unwrap())
    }

    fn now_ms(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        now.saturating_add_signed(self.faults.lock().unwrap().clock_ms)
    }
}

const SUITES: [SuiteId; 2] = [SuiteId::AES_256_GCM_SHA256, SuiteId::CHACHA20_POLY1305_SHA256];

fn relayed(role: Role) -> usize {
    usize::from(matches!(role, Role::Service))
}

fn realm_name() -> Realm {
    "example".parse().unwrap()
}

fn suite(id: SuiteId) -> &'static dyn Suite {
    AwsLc::suite(id).unwrap()
}

pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    bytes
}

fn response(status: StatusCode, content_type: &str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let builder = Response::builder().status(status).header(header::CONTENT_TYPE, content_type);
    builder.body(Full::new(body.into())).unwrap()
}

/// A certificate authority (PEM), the server's pin and its configuration, for `localhost`.
fn certificates(http2: bool) -> (String, [u8; 32], Arc<ServerConfig>) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let mut tls = ServerConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    tls.alpn_protocols = if http2 { vec![b"h2".to_vec(), b"http/1.1".to_vec()] } else { vec![b"http/1.1".to_vec()] };
    let spki = ParsedCertificate::try_from(certificate.der()).unwrap().subject_public_key_info();
    let spki = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &spki).as_ref().try_into().unwrap();
    (ca_certificate.pem(), spki, Arc::new(tls))
}

/// The whole body as text.
pub(crate) async fn text(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// A body whose length is not known before it is read.
pub(crate) fn streamed(
    bytes: &'static [u8],
) -> impl hyper::body::Body<Data = Bytes, Error = Infallible> + Send + 'static {
    UnknownLength(Some(Bytes::from_static(bytes)))
}

struct UnknownLength(Option<Bytes>);

impl hyper::body::Body for UnknownLength {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
        std::task::Poll::Ready(self.0.take().map(|bytes| Ok(hyper::body::Frame::data(bytes))))
    }
}

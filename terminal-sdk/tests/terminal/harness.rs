//! A realm in the test's own process: one management server and one service,
//! each on a TLS listener.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use claviger_protocol::{
    CONTENT_TYPE, Code, KemId, Realm, Secret32, ServiceId, Suite, SuiteId,
    aws_lc::AwsLc,
    enrolment_code::EnrolmentCode,
    management::{
        enrol::{self, PendingEnrolment},
        login::{self, Candidate, Clock, Counted, Floor, Granting},
    },
    message::{Binding, Enrol3, EnrolBox, KeyGrant, NoteFlags, Refusal},
    service::{self, Answered, BindingCheck},
};
use claviger_terminal::{EnrolOptions, Origin, Service, Terminal};
use data_encoding::HEXLOWER;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

pub(crate) const SERVICE: &str = "shop.example";

pub(crate) struct World {
    pub(crate) realm: Arc<Servers>,
    pub(crate) manager: Origin,
    pub(crate) shop: Origin,
    pub(crate) ca: String,
    directory: TempDir,
}

/// Both servers' state; the test turns its screws.
pub(crate) struct Servers {
    pub(crate) faults: Mutex<Faults>,
    pub(crate) seen: Mutex<Seen>,
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
    /// Demand a challenge in the envelope.
    pub(crate) challenge: bool,
    /// Seconds that keys live; 3600 when 0.
    pub(crate) lifetime: u32,
    /// The epoch's floor for suites.
    pub(crate) suite_floor: Option<SuiteId>,
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
}

#[derive(Default)]
struct Management {
    codes: HashMap<[u8; 8], (Secret32, Option<PendingEnrolment>)>,
    active: Option<PendingEnrolment>,
    counters: HashMap<u64, [u8; 32]>,
    scope: Vec<String>,
}

#[derive(Default)]
struct ServiceState {
    keys: HashMap<String, Instant>,
    challenges: HashSet<[u8; 32]>,
}

impl World {
    /// Starts both servers. `http2` says whether they offer it.
    pub(crate) async fn start(http2: bool) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let (ca, tls) = certificates(http2);
        let realm = Arc::new(Servers {
            faults: Mutex::default(),
            seen: Mutex::default(),
            management: Mutex::default(),
            service: Mutex::default(),
        });
        let manager = listen(Arc::clone(&realm), tls.clone(), Role::Manager).await;
        let shop = listen(Arc::clone(&realm), tls, Role::Service).await;
        let origin = |address: SocketAddr| format!("https://localhost:{}", address.port()).parse().unwrap();
        let directory = tempfile::tempdir().unwrap();
        Self { realm, manager: origin(manager), shop: origin(shop), ca, directory }
    }

    /// With an enrolled terminal that knows the service.
    pub(crate) async fn enrolled() -> (Self, Terminal) {
        let world = Self::start(true).await;
        let terminal = Terminal::enrol(world.options()).await.unwrap();
        terminal.add_service(world.service()).await.unwrap();
        (world, terminal)
    }

    pub(crate) fn service(&self) -> Service {
        Service { id: SERVICE.parse().unwrap(), origin: self.shop.clone(), ca: None }
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
            suite: SuiteId::AES_256_GCM_SHA256,
            kem: KemId::X25519,
            replace: false,
        }
    }

    pub(crate) fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.realm.faults.lock().unwrap());
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
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let group =
                    stream.get_ref().1.negotiated_key_exchange_group().map(rustls::crypto::SupportedKxGroup::name);
                realm.seen.lock().unwrap().key_exchange = group;
                let service = service_fn(move |request| {
                    let realm = Arc::clone(&realm);
                    async move { realm.handle(role, request).await.ok_or("the connection is broken off") }
                });
                let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

impl Servers {
    async fn handle(&self, role: Role, request: Request<Incoming>) -> Answer {
        self.seen.lock().unwrap().versions.insert(format!("{:?}", request.version()));
        let (parts, body) = request.into_parts();
        let body = body.collect().await.ok()?.to_bytes();
        if self.faults.lock().unwrap().plain_http {
            return Some(response(StatusCode::NOT_FOUND, "text/html", "<h1>Not Found</h1>"));
        }
        match (role, parts.uri.path()) {
            (Role::Manager, "/idb/v1/enrol") => self.enrol(&body),
            (Role::Service, "/idb/v1/sign-on") => {
                self.seen.lock().unwrap().sign_ons += 1;
                let (code, reply) = self.sign_on(&body);
                Some(response(StatusCode::from_u16(code.http_status()).unwrap(), CONTENT_TYPE, reply))
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

    /// The service's own content, for users who have signed on.
    fn application(&self, parts: &http::request::Parts, body: &Bytes) -> Response<Full<Bytes>> {
        let authorization = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let key = authorization.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        let live = self.service.lock().unwrap().keys.get(key).is_some_and(|until| *until > Instant::now());
        if !live {
            let mut refused = response(StatusCode::UNAUTHORIZED, "text/plain", "sign on first");
            refused.headers_mut().insert(header::WWW_AUTHENTICATE, "Claviger".parse().unwrap());
            return refused;
        }
        let text = String::from_utf8_lossy(body).into_owned();
        let line = format!("{} {}", parts.method, parts.uri.path());
        self.seen.lock().unwrap().requests.push((line.clone(), text.clone()));
        response(StatusCode::OK, "text/plain", format!("{line}: {text}"))
    }

    fn enrol(&self, body: &[u8]) -> Answer {
        let outcome = if body.get(4) == Some(&0x13) { self.enrol_confirm(body)? } else { self.enrol_offer(body) };
        Some(match outcome {
            Ok(message) => response(StatusCode::OK, CONTENT_TYPE, message),
            Err(code) => {
                let status = StatusCode::from_u16(code.http_status()).unwrap();
                response(status, CONTENT_TYPE, Refusal(code).encode())
            }
        })
    }

    fn enrol_offer(&self, e1: &[u8]) -> Result<Vec<u8>, Code> {
        let request = enrol::receive(e1, &realm_name(), &SUITES, &KEMS)?;
        let suite = suite(request.suite());
        let id = request.id();
        let mut management = self.management.lock().unwrap();
        let (psk, known) = match management.codes.get(&id) {
            Some((psk, _)) => (psk.clone(), true),
            None => (Secret32::new([0; 32]), false),
        };
        let floor = self.faults.lock().unwrap().suite_floor.unwrap_or(SuiteId::AES_256_GCM_SHA256);
        let details = EnrolBox {
            user_id: b"alice".to_vec(),
            epoch: 1,
            suite_floor: floor,
            kem_floor: KemId::None,
            server_time_ms: self.now_ms(),
        };
        let kem_random = Secret32::new(random());
        let (e2, pending) = request.verify(suite, &psk, known)?.offer(suite, &psk, &details, &random(), &kem_random)?;
        management.codes.insert(id, (psk, Some(pending)));
        Ok(e2)
    }

    fn enrol_confirm(&self, e3: &[u8]) -> Option<Result<Vec<u8>, Code>> {
        self.seen.lock().unwrap().confirmations += 1;
        if let Some(code) = self.faults.lock().unwrap().refuse_e3 {
            return Some(Err(code));
        }
        let Ok(e3) = Enrol3::decode(e3) else { return Some(Err(Code::Malformed)) };
        let mut management = self.management.lock().unwrap();
        let Some(pending) = management.codes.get(&e3.id).and_then(|(_, pending)| pending.clone()) else {
            return Some(Err(Code::AuthFailed));
        };
        let outcome = pending.confirm(&e3);
        if outcome.is_ok() {
            management.active = Some(pending);
        }
        if self.faults.lock().unwrap().lose_e4 { None } else { Some(outcome) }
    }

    fn sign_on(&self, envelope: &[u8]) -> (Code, Vec<u8>) {
        if let Some(code) = self.faults.lock().unwrap().advisory {
            return (code, service::refusal(code, &random(), &[]));
        }
        let (code, mut reply) = match self.service_side(envelope) {
            Ok(outcome) => outcome,
            Err(code) => (code, service::refusal(code, &random(), &[])),
        };
        let faults = self.faults.lock().unwrap();
        if let Some(tamper) = faults.tamper {
            tamper(&mut reply);
        }
        let mut seen = self.seen.lock().unwrap();
        let first = seen.first_reply.get_or_insert_with(|| reply.clone());
        if faults.old_reply { (code, first.clone()) } else { (code, reply) }
    }

    fn service_side(&self, envelope: &[u8]) -> Result<(Code, Vec<u8>), Code> {
        let id: ServiceId = SERVICE.parse().unwrap();
        let realm = realm_name();
        let policy = service::Policy { service: &id, realm: &realm, suites: &SUITES, kems: &KEMS };
        let received = service::receive(envelope, &policy)?;
        let suite = suite(received.header().suite);
        let check = match received.header().binding {
            Binding::None if self.faults.lock().unwrap().challenge => BindingCheck::Failed,
            Binding::None => BindingCheck::NotRequired,
            Binding::Challenge(challenge) if self.service.lock().unwrap().challenges.remove(&challenge) => {
                BindingCheck::OwnChallenge
            }
            _ => BindingCheck::Failed,
        };
        let bound = received.bound(check)?;
        let awaited = bound.await_answer(suite).unwrap();
        let answer = self.decrypt(bound.forward(), &id).unwrap_or_else(|code| login::refuse(code, envelope));
        match awaited.receive(&answer).unwrap() {
            Answered::Refused { code, note } => Ok((code, service::refusal(code, &random(), note))),
            Answered::Granted(granted) => {
                let lifetime = match self.faults.lock().unwrap().lifetime {
                    0 => 3600,
                    seconds => seconds,
                };
                let key = HEXLOWER.encode(&random::<32>());
                let until = Instant::now() + Duration::from_secs(lifetime.into());
                self.service.lock().unwrap().keys.insert(key.clone(), until);
                let grant = KeyGrant {
                    kind: 1,
                    lifetime,
                    key_id: b"key".to_vec(),
                    key: Zeroizing::new(key.into_bytes()),
                    audience: id.clone(),
                };
                let kem_random = Secret32::new(random());
                Ok((Code::Ok, granted.reply(suite, &grant, &random(), &kem_random).unwrap()))
            }
        }
    }

    fn decrypt(&self, envelope: &[u8], peer: &ServiceId) -> Result<Vec<u8>, Code> {
        let realm = realm_name();
        let policy = login::Policy { realm: &realm, suites: &SUITES, kems: &KEMS };
        let request = login::receive(envelope, &policy)?.from_service(peer)?;
        let suite = suite(request.header().suite);
        let mut management = self.management.lock().unwrap();
        let dummy = Secret32::new([0; 32]);
        let active = management.active.clone();
        let (unique_key, management_key) = match &active {
            Some(active) => (&active.unique_key, &active.management_key),
            None => (&dummy, &dummy),
        };
        let candidate = Candidate { user_id: b"alice", management_key, known: active.is_some() };
        let authenticated = request.open(suite, unique_key, candidate)?;
        let floor = Floor { hash_len: 32, suite: SuiteId::AES_256_GCM_SHA256, kem: KemId::None };
        let outcome = (|| {
            let allowed = authenticated.meets_floor(&floor)?;
            let (_, counter, nonce) = allowed.counter();
            let highest = management.counters.keys().max().copied().unwrap_or(0);
            let verdict = match management.counters.get(&counter) {
                Some(known) if *known == nonce => Counted::SameNonce,
                Some(_) => Counted::OtherNonce,
                None if counter + 64 <= highest => Counted::TooOld,
                None => Counted::Fresh,
            };
            management.counters.insert(counter, nonce);
            let clock = Clock { now_ms: self.now_ms(), window_ms: 120_000, not_before_ms: 0 };
            let fresh = allowed.counted(verdict, &clock)?;
            let allowed = !self.faults.lock().unwrap().denied && !self.seen.lock().unwrap().suspended;
            fresh.decided(allowed)
        })();
        match outcome {
            Ok(authorised) => {
                management.scope = authorised.scope().names().map(str::to_owned).collect();
                let granting = Granting {
                    auth_id: random(),
                    subject: "subject",
                    now_ms: self.now_ms(),
                    max_session: 3600,
                    attributes: b"{}",
                    epoch: 1,
                    flags: NoteFlags::default(),
                };
                Ok(authorised.grant(suite, &granting).unwrap().to_vec())
            }
            Err(refusal) => {
                self.seen.lock().unwrap().suspended |= refusal.is_clone();
                Ok(refusal.answer(suite, self.now_ms(), 1).unwrap())
            }
        }
    }

    fn now_ms(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        now.saturating_add_signed(self.faults.lock().unwrap().clock_ms)
    }
}

const SUITES: [SuiteId; 2] = [SuiteId::AES_256_GCM_SHA256, SuiteId::CHACHA20_POLY1305_SHA256];
const KEMS: [KemId; 2] = [KemId::None, KemId::X25519];

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

/// A certificate authority (PEM) and a server configuration for `localhost`.
fn certificates(http2: bool) -> (String, Arc<ServerConfig>) {
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
    (ca_certificate.pem(), Arc::new(tls))
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

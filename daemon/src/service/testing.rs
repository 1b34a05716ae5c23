//! What the tests of this module run against: a real listener of the role,
//! with an issuer over the in-memory state, and a management server that is
//! the protocol's own and knows one user.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use bytes::Bytes;
use claviger_plugin_api::{
    CipherError, CipherSuite, Identity, IssueRequest, IssuedKey, KeyIssuer, KeyKind, PluginError, Presented,
    SecretBytes, Session, StateStore, SuiteInfo, Verified,
};
use claviger_protocol::{
    Code, KemId, Secret32, ServiceId, Suite, SuiteError, SuiteId,
    aws_lc::AwsLc,
    management::{
        directory,
        envelope::{
            Authorised, Candidate, Clock, Counted, DirectoryInner, Floor, Inner, Received, Refusal as Refused,
            RotateInner,
        },
        login::{self, Granting},
        rotate,
    },
    message::{Binding as Bind, LoginInner, Refusal, Scope, Uid},
    terminal::login::{AwaitReply, Login, LoginRandom, Sender, start},
};
use data_encoding::BASE64URL_NOPAD;

use super::{ManagerLink, Relay, Relayed, ServiceRole, Unavailable};
use crate::{
    config::types::{Binding, ServiceConfig, ServiceLimits, StateChoice},
    state::MemoryState,
};

pub(super) const SERVICE: &str = "shop.example";
pub(super) const REALM: &str = "example";

/// All that [`suites`] serves.
pub(super) const SUITES: [SuiteId; 3] =
    [SuiteId::AES_256_GCM_SHA256, SuiteId::AES_256_GCM_SIV_SHA256, SuiteId::CHACHA20_POLY1305_SHA256];

/// `[service]` in front of `upstream`.
pub(super) fn config(upstream: SocketAddr) -> ServiceConfig {
    ServiceConfig {
        id: SERVICE.into(),
        listen: "127.0.0.1:0".parse().unwrap(),
        certificate: "unused".into(),
        private_key: "unused".into(),
        issuer: "test".into(),
        state: StateChoice::Memory,
        key_lifetime: Duration::from_secs(3600),
        pending: Duration::from_secs(60),
        suites: SUITES.map(|id| id.0).to_vec(),
        kems: KemId::ALL.map(KemId::to_wire).to_vec(),
        binding: Binding::None,
        upstream: format!("http://{upstream}").parse().unwrap(),
        upstream_http2: false,
        limits: ServiceLimits {
            per_source_per_second: 1000,
            per_source_burst: 1000,
            per_user_per_second: 1000,
            per_user_burst: 1000,
        },
        manager: None,
    }
}

/// A role with its handles.
pub(super) struct Fixture {
    pub(super) role: Arc<ServiceRole>,
    pub(super) issuer: Arc<TestIssuer>,
    pub(super) state: Arc<MemoryState>,
    pub(super) manager: Arc<TestManager>,
}

impl Fixture {
    pub(super) fn new(config: &ServiceConfig) -> Self {
        let state = Arc::new(MemoryState::new());
        let issuer = Arc::new(TestIssuer { state: state.clone(), away: AtomicBool::new(false) });
        let manager = Arc::new(TestManager::default());
        let role =
            ServiceRole::build(config, REALM, &suites(), issuer.clone(), state.clone(), manager.clone()).unwrap();
        Self { role, issuer, state, manager }
    }

    /// A key of this subject, without a sign-on.
    pub(super) async fn key(&self, attributes: &str) -> String {
        let identity = Identity::new(SERVICE.into(), "s-1".into(), [1; 16], SystemTime::now(), attributes.into());
        let hour = Duration::from_secs(3600);
        let key = self.issuer.issue(IssueRequest::new(identity, hour, hour)).await.unwrap();
        String::from_utf8(key.key.expose().to_vec()).unwrap()
    }
}

pub(crate) fn suites() -> Vec<Arc<dyn CipherSuite>> {
    SUITES.map(|id| Arc::new(PluginSuite(id)) as Arc<dyn CipherSuite>).to_vec()
}

/// The protocol's own suites behind the plugin trait.
struct PluginSuite(SuiteId);

impl PluginSuite {
    fn suite(&self) -> &'static AwsLc {
        AwsLc::suite(self.0).unwrap()
    }
}

impl CipherSuite for PluginSuite {
    fn info(&self) -> SuiteInfo {
        SuiteInfo::new(self.0.0, "test", self.suite().hash_len(), "aws-lc-rs")
    }

    fn hash(&self, data: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
        self.suite().hash(data, out).map_err(error)
    }

    fn mac(&self, key: &[u8], data: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
        self.suite().mac(key, data, out).map_err(error)
    }

    fn seal(&self, key: &[u8], nonce: &[u8], aad: &[u8], plain: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
        self.suite().seal(key, nonce, aad, plain, out).map_err(error)
    }

    fn open(&self, key: &[u8], nonce: &[u8], aad: &[u8], cipher: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
        self.suite().open(key, nonce, aad, cipher, out).map_err(error)
    }

    fn random(&self, out: &mut [u8]) -> Result<(), CipherError> {
        aws_lc_rs::rand::fill(out).map_err(|_| CipherError::Failed)
    }
}

fn error(error: SuiteError) -> CipherError {
    match error {
        SuiteError::Rejected => CipherError::Rejected,
        SuiteError::Failed => CipherError::Failed,
    }
}

/// Opaque keys over the in-memory state: `pending` until their first use.
pub(super) struct TestIssuer {
    state: Arc<MemoryState>,
    pub(super) away: AtomicBool,
}

const HOUR: Duration = Duration::from_secs(3600);

#[async_trait]
impl KeyIssuer for TestIssuer {
    fn kind(&self) -> KeyKind {
        KeyKind::Opaque
    }

    async fn issue(&self, request: IssueRequest) -> Result<IssuedKey, PluginError> {
        let key = BASE64URL_NOPAD.encode(&random());
        let value = format!("pending {} {}", request.identity.subject, request.identity.attributes);
        assert!(self.state.put_new(&key, value.as_bytes(), request.pending).await?);
        Ok(IssuedKey::new(KeyKind::Opaque, b"k1".to_vec(), SecretBytes::copy_from(key.as_bytes()), request.lifetime))
    }

    async fn verify(&self, presented: &Presented) -> Result<Verified, PluginError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(PluginError::Unavailable("test".into()));
        }
        let Some(value) = presented.single_header("authorization") else { return Ok(Verified::Absent) };
        let Some(key) = value.strip_prefix(b"Bearer ").and_then(|key| std::str::from_utf8(key).ok()) else {
            return Ok(Verified::Absent);
        };
        let Some(value) = self.state.get(key).await? else { return Ok(Verified::Refused) };
        let text = String::from_utf8(value.clone()).unwrap();
        let parts: Vec<&str> = text.splitn(3, ' ').collect();
        let active = format!("active {} {}", parts[1], parts[2]);
        let first_use = parts[0] == "pending" && self.state.update(key, &value, active.as_bytes(), HOUR).await?;
        let now = SystemTime::now();
        let identity = Identity::new(presented.service.clone(), parts[1].into(), [1; 16], now, parts[2].into());
        Ok(Verified::Session(Session::new(identity, b"k1".to_vec(), now + HOUR, first_use)))
    }

    async fn revoke(&self, _key_id: &[u8]) -> Result<bool, PluginError> {
        Ok(false)
    }

    async fn published(&self) -> Result<Option<String>, PluginError> {
        Ok(None)
    }

    async fn health(&self) -> Result<(), PluginError> {
        Ok(())
    }
}

/// The protocol's management side with one user, `ann`.
#[derive(Default)]
pub(super) struct TestManager {
    pub(super) away: AtomicBool,
    /// Answers with somebody else's answer.
    pub(super) mixed_up: AtomicBool,
    pub(super) denies: AtomicBool,
    pub(super) asked: AtomicU32,
    pub(super) dropped: AtomicU32,
}

#[async_trait]
impl ManagerLink for TestManager {
    async fn decrypt(&self, envelope: Bytes) -> Result<Vec<u8>, Unavailable> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.away.load(Ordering::SeqCst) {
            return Err(Unavailable("test".into()));
        }
        if self.mixed_up.load(Ordering::SeqCst) {
            let other = Terminal::new().envelope().0;
            return Ok(self.judge(&other).unwrap());
        }
        Ok(self.judge(&envelope).unwrap_or_else(|code| login::refuse(code, &envelope)))
    }

    async fn relay(&self, kind: Relay, envelope: Bytes) -> Result<Relayed, Unavailable> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.away.load(Ordering::SeqCst) {
            return Err(Unavailable("test".into()));
        }
        let (code, body) = match kind {
            Relay::Rotate => self.rotate(&envelope),
            Relay::Directory => self.directory(&envelope),
        }
        .unwrap_or_else(|code| (code, Refusal(code).encode()));
        Ok(Relayed { status: code.http_status(), body })
    }

    fn drop_connections(&self) {
        self.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

impl TestManager {
    fn judge(&self, envelope: &[u8]) -> Result<Vec<u8>, Code> {
        let service: ServiceId = SERVICE.parse().unwrap();
        let envelope = with_policy(|policy| login::receive(envelope, policy))?.from_service(&service)?;
        let now = now_ms();
        let (suite, decided) = self.decide::<LoginInner>(envelope, now)?;
        match decided {
            Ok(authorised) => {
                let granting = Granting {
                    auth_id: [1; 16],
                    subject: "s-1",
                    now_ms: now,
                    max_session: 600,
                    attributes: br#"{"user":"ann","groups":["dev"]}"#,
                    epoch: 1,
                    rotate_required: false,
                    next_handle: None,
                };
                Ok(authorised.grant(suite, &granting).unwrap().to_vec())
            }
            Err(refusal) => Ok(refusal.answer(suite, now, 1).unwrap()),
        }
    }

    fn rotate(&self, envelope: &[u8]) -> Result<(Code, Vec<u8>), Code> {
        let now = now_ms();
        let (suite, decided) =
            self.decide::<RotateInner>(with_policy(|policy| rotate::receive(envelope, policy))?, now)?;
        Ok(match decided {
            Ok(authorised) => (Code::Ok, authorised.rotate(suite, &Secret32::new(random()), now, 2)?.0),
            Err(refusal) => (refusal.code(), refusal.note(suite, now, 1).unwrap()),
        })
    }

    fn directory(&self, envelope: &[u8]) -> Result<(Code, Vec<u8>), Code> {
        let now = now_ms();
        let (suite, decided) =
            self.decide::<DirectoryInner>(with_policy(|policy| directory::receive(envelope, policy))?, now)?;
        Ok(match decided {
            Ok(authorised) => (Code::Ok, authorised.list(suite, now, DIRECTORY.into()).unwrap()),
            Err(refusal) => (refusal.code(), refusal.directory(suite, now).unwrap()),
        })
    }

    /// Steps 6 to 11.
    fn decide<I: Inner>(&self, envelope: Received<'_>, now: u64) -> Result<(&'static AwsLc, Decided<I>), Code> {
        let suite = AwsLc::suite(envelope.header().suite).unwrap();
        let management_key = Secret32::new([2; 32]);
        let candidate = Candidate { user_id: b"ann", management_key: &management_key, known: true };
        let floor = Floor { hash_len: 32, suite: SuiteId(1), kem: KemId::None };
        let clock = Clock { now_ms: now, window_ms: 120_000, not_before_ms: 0 };
        let decided = envelope
            .open::<I>(suite, &Secret32::new([1; 32]), candidate)?
            .meets_floor(&floor)
            .and_then(|allowed| allowed.counted(Counted::Fresh, &clock))
            .and_then(|fresh| fresh.decided(!self.denies.load(Ordering::SeqCst)));
        Ok((suite, decided))
    }
}

type Decided<I> = Result<Authorised<I>, Box<Refused>>;

fn with_policy<R>(f: impl FnOnce(&login::Policy<'_>) -> R) -> R {
    f(&login::Policy { realm: &REALM.parse().unwrap(), suites: &SUITES, kems: &KemId::ALL })
}

/// What `ann` may reach.
pub(super) const DIRECTORY: &str = r#"[{"service":"shop.example","origins":["https://shop.example"],"name":"Shop"}]"#;

/// The terminal of `ann`, unless it says otherwise.
#[derive(Clone)]
pub(super) struct Terminal {
    pub(super) service: &'static str,
    pub(super) realm: &'static str,
    pub(super) suite: SuiteId,
    pub(super) kem: KemId,
    pub(super) management_key: [u8; 32],
    pub(super) binding: Bind,
    pub(super) user: &'static [u8],
}

impl Terminal {
    pub(super) fn new() -> Self {
        Self {
            service: SERVICE,
            realm: REALM,
            suite: SuiteId::AES_256_GCM_SHA256,
            kem: KemId::X25519,
            management_key: [2; 32],
            binding: Bind::None,
            user: b"ann",
        }
    }

    pub(super) fn suite(&self) -> &'static AwsLc {
        AwsLc::suite(self.suite).unwrap()
    }

    pub(super) fn envelope(&self) -> (Vec<u8>, AwaitReply) {
        self.with_sender(|sender| {
            let login = Login {
                sender: *sender,
                service: &self.service.parse().unwrap(),
                binding: self.binding,
                scope: Scope::new(["user", "groups"]).unwrap(),
            };
            let random = LoginRandom {
                nonce: random(),
                session_password: Secret32::new(random()),
                kem: Secret32::new(random()),
            };
            start(self.suite(), login, random).unwrap()
        })
    }

    /// Calls `f` with the credential and the moment.
    pub(super) fn with_sender<R>(&self, f: impl FnOnce(&Sender<'_>) -> R) -> R {
        f(&Sender {
            realm: &self.realm.parse().unwrap(),
            user_id: self.user,
            uid: Uid::UserId(self.user),
            epoch: 1,
            unique_key: &Secret32::new([1; 32]),
            management_key: &Secret32::new(self.management_key),
            suite: self.suite,
            kem: self.kem,
            counter: 1,
            time_ms: now_ms(),
        })
    }
}

pub(super) fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    bytes
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

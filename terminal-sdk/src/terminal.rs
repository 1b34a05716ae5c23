//! The asynchronous way in: enrol, open, sign on. What a terminal asks the
//! management server for itself is in `account`.

mod account;

use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use claviger_protocol::{
    KemId, Realm, Secret32, SuiteId, enrolment_code::EnrolmentCode, message::Scope, terminal::login,
};
use tokio::{sync::Semaphore, time::Instant};
use zeroize::Zeroizing;

pub use self::account::Rotated;
use crate::{
    client::{self, Transport, Trust},
    core::{
        Fresh, Learnt,
        enrolment::{self, Enrolment},
        realm,
        sign_on::{Granted, Next, SignOn, Step},
    },
    credential::{Credential, Service},
    credential_file::CredentialFile,
    error::{Error, Result},
    link::EnrolmentLink,
    origin::Origin,
    session::{Session, SessionKey},
    session_cache::SessionCache,
};

/// What to enrol with. The code is a secret until it is used.
#[derive(Debug, Clone)]
pub struct EnrolOptions {
    /// The management server.
    pub server: Origin,
    /// The realm.
    pub realm: Realm,
    /// The code the user was given.
    pub code: EnrolmentCode,
    /// Certificates (PEM) to trust for every server, instead of the system's.
    pub ca: Option<String>,
    /// The credential's file; see [`CredentialFile::default_path`].
    pub path: PathBuf,
    /// SHA-256 of the management server's SubjectPublicKeyInfo: its certificate
    /// is accepted by that alone. `ca` then counts for services.
    pub spki: Option<[u8; 32]>,
    /// The cipher suite of the credential; the realm's usual one when none is asked for.
    pub suite: Option<SuiteId>,
    /// The key agreement; when none is asked for, X25519MLKEM768 where the
    /// realm offers it, and X25519 otherwise.
    pub kem: Option<KemId>,
    /// Whether a credential that is in use may be given up for the new one.
    pub replace: bool,
}

impl EnrolOptions {
    /// Options with the realm's usual suite and key agreement, for the default path.
    pub fn new(server: Origin, realm: Realm, code: EnrolmentCode) -> Result<Self> {
        Ok(Self {
            server,
            realm,
            code,
            ca: None,
            spki: None,
            path: CredentialFile::default_path()?,
            suite: None,
            kem: None,
            replace: false,
        })
    }

    /// As [`Self::new`], from an enrolment link.
    pub fn from_link(link: EnrolmentLink) -> Result<Self> {
        let EnrolmentLink { server, realm, spki, code } = link;
        Ok(Self { spki, ..Self::new(server, realm, code)? })
    }
}

/// The attributes that a service may learn when nothing is said.
pub const DEFAULT_SCOPE: [&str; 4] = ["user", "groups", "name", "email"];

/// How to sign on.
#[derive(Debug, Clone)]
pub struct SignOnOptions {
    /// The attributes that the service may learn: the user's consent.
    pub share: Scope,
    /// Whether keys are taken from and put into `NAME.sessions.json` beside the credential.
    pub cache: bool,
}

impl Default for SignOnOptions {
    fn default() -> Self {
        Self { share: Scope::new(DEFAULT_SCOPE).unwrap_or_default(), cache: false }
    }
}

/// An enrolled terminal. Clones are the same terminal.
#[derive(Clone)]
pub struct Terminal(Arc<Inner>);

struct Inner {
    file: CredentialFile,
    transports: Mutex<HashMap<Trust, Transport>>,
    /// Bounds the sign-ons under way, so that no envelope is overtaken by so
    /// many others that the management server takes it for a clone's.
    under_way: Semaphore,
    /// One rotation at a time.
    rotating: tokio::sync::Mutex<()>,
    warning: Mutex<Option<String>>,
}

impl Terminal {
    /// Turns an enrolment code into a credential. The keys are on the disk
    /// before the management server is asked to activate them.
    ///
    /// # Errors
    /// [`Error::Unconfirmed`] when they are stored, but the confirmation did
    /// not come: [`Terminal::open`] asks for it again. [`Error::Held`] when
    /// they are stored, and an administrator has to compare a string first:
    /// [`Terminal::open`], then [`Terminal::await_activation`]. Other errors
    /// leave the disk as it was.
    pub async fn enrol(options: EnrolOptions) -> Result<Self> {
        let EnrolOptions { server, realm, code, ca, spki, path, suite, kem, replace } = options;
        let terminal = Self::with_file(CredentialFile::new(path));
        let trust = Trust::of(ca.as_deref());
        let transport = terminal.transport(&trust)?;
        let transport = spki.map_or(Ok(transport), |spki| terminal.transport(&Trust::Pin(spki)))?;
        terminal
            .blocking(move |file| match file.try_load()? {
                Some(before) => file.may_replace(&before, replace),
                None => Ok(()),
            })
            .await?;
        let response = transport.exchange(&server, realm::request()).await?;
        let info = realm::receive(&response, &realm, server.as_str())?;
        let suite = suite.unwrap_or_else(|| info.default_suite());
        let kem = kem.unwrap_or_else(|| info.default_kem());
        let random = enrolment::Random { nonce: random()?, kem: Secret32::new(random()?), id: random()? };
        let enrolment = Enrolment { server: server.clone(), realm, code, suite, kem, ca, spki, info };
        let (request, awaited) = enrolment::start(enrolment, &random)?;
        let response = transport.exchange(&server, request).await?;
        let credential = awaited.receive(&response, now_ms())?;
        terminal
            .blocking(move |file| {
                SessionCache::beside(file).clear()?;
                file.install(credential, replace)
            })
            .await?;
        match terminal.confirm(&CONFIRM_PAUSES).await {
            Ok(()) => Ok(terminal),
            Err(held @ Error::Held { .. }) => Err(held),
            Err(error) => Err(Error::Unconfirmed(Box::new(error))),
        }
    }

    /// Opens a terminal that was enrolled before. Where the enrolment was not
    /// confirmed yet, it asks once more; a failure of that is no error here,
    /// since the credential may be active all the same:
    /// [`Credential::is_pending`] tells.
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let terminal = Self::with_file(CredentialFile::new(path));
        if terminal.credential().await?.is_pending() {
            let _ = terminal.confirm(&[]).await;
        }
        Ok(terminal)
    }

    /// The credential as it is on the disk now.
    pub async fn credential(&self) -> Result<Credential> {
        self.blocking(CredentialFile::load).await
    }

    /// The credential's file.
    pub fn path(&self) -> &Path {
        self.0.file.path()
    }

    /// Adds an origin to the table of services.
    pub async fn add_service(&self, service: Service) -> Result<()> {
        if let Some(pem) = &service.ca {
            client::check_ca(pem)?;
        }
        self.blocking(move |file| file.update(|credential| credential.add_service(service))).await
    }

    /// Asks the management server to confirm an enrolment that is pending.
    pub async fn confirm_enrolment(&self) -> Result<()> {
        self.confirm(&CONFIRM_PAUSES).await
    }

    /// Waits until an enrolment that is held becomes active, asking every two
    /// seconds, at most for `limit`. Meanwhile the user tells the administrator
    /// [`Credential::comparison`]. May be dropped and begun again at any time.
    pub async fn await_activation(&self, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        loop {
            match self.confirm(&[]).await {
                Err(error) if matches!(error, Error::Held { .. }) || error.is_temporary() => {
                    if Instant::now() + HELD_PAUSE > end {
                        return Err(error);
                    }
                    tokio::time::sleep(HELD_PAUSE).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// What went wrong beside what was asked for, such as a rotation that the
    /// management server wished for: once, for the user to read.
    pub fn take_warning(&self) -> Option<String> {
        self.0.warning.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Signs on to a service by its origin (`https://…`) or its id, with the
    /// default [`SignOnOptions`].
    pub async fn sign_on(&self, target: &str) -> Result<Session> {
        self.sign_on_with(target, SignOnOptions::default()).await
    }

    /// Signs on to a service by its origin or its id. The service id comes
    /// from the terminal's own table alone.
    pub async fn sign_on_with(&self, target: &str, options: SignOnOptions) -> Result<Session> {
        let session = self.session(target, options).await?;
        session.sign_on().await?;
        Ok(session)
    }

    /// A session that signs on when its first request needs it. With
    /// [`SignOnOptions::cache`] a key of an earlier run is used as long as it lives.
    /// A target that is not in the table is looked for in the directory, once.
    pub async fn session(&self, target: &str, options: SignOnOptions) -> Result<Session> {
        let mut credential = self.credential().await?;
        if let Err(Error::UnknownService(target)) = credential.service(target) {
            if let Err(cause) = self.refresh_directory().await {
                return Err(Error::NoDirectory { target, cause: Box::new(cause) });
            }
            credential = self.credential().await?;
        }
        let service = credential.service(target)?.clone();
        let transport = self.transport(&Trust::of(service.ca.as_deref().or(credential.ca.as_deref())))?;
        Session::open(self.clone(), service, transport, options).await
    }

    /// One sign-on, with what it takes to get through, and the rotation that
    /// the management server may ask for with it. Gives the id of the
    /// credential it was made with, too.
    pub(crate) async fn obtain(
        &self,
        service: &Service,
        transport: &Transport,
        scope: &Scope,
    ) -> Result<(SessionKey, String)> {
        let (granted, used, sent_ms) = self.sign_on_once(service, transport, scope).await?;
        let key = SessionKey::new(service, granted.grant, sent_ms)?;
        if granted.rotate_required || granted.is_behind {
            self.rotate_by_itself(&used, granted.epoch, granted.is_behind).await;
        }
        Ok((key, used.id))
    }

    /// What was granted, the credential as it was used, and when.
    async fn sign_on_once(
        &self,
        service: &Service,
        transport: &Transport,
        scope: &Scope,
    ) -> Result<(Granted, Credential, u64)> {
        let _permit = self.permit().await?;
        let origin = &service.origin;
        let mut step = SignOn::start(service.id.clone(), scope.clone(), service.bind);
        loop {
            let mut connection = None;
            let ready = match step {
                Step::Challenge(need) => {
                    let response = transport.exchange(origin, need.request()).await?;
                    step = need.receive(&response, origin.as_str())?;
                    continue;
                }
                Step::Connection(need) => {
                    let opened = transport.connect(origin).await?;
                    need.connected(connection.insert(opened).exporter())
                }
                Step::Seal(ready) => ready,
            };
            let (credential, counter) = self.blocking(CredentialFile::take_counter).await?;
            let random = login::LoginRandom {
                nonce: random()?,
                session_password: Secret32::new(random()?),
                kem: Secret32::new(random()?),
            };
            let sent_ms = now_ms();
            let (request, awaited) = ready.seal(&credential, Fresh { counter, now_ms: sent_ms, random })?;
            let response = match connection {
                Some(connection) => connection.exchange(request).await?,
                None => transport.exchange(origin, request).await?,
            };
            let judged = awaited.receive(&response, now_ms(), origin.as_str());
            self.learn(&credential, judged.learnt).await?;
            match judged.next? {
                Next::Granted(granted) => return Ok((*granted, credential, sent_ms)),
                Next::Again(next) => step = next,
            }
        }
    }

    async fn permit(&self) -> Result<tokio::sync::SemaphorePermit<'_>> {
        self.0.under_way.acquire().await.map_err(|_| Error::Crypto("the terminal is closed"))
    }

    /// Runs `work`, which may block, off the runtime's threads.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&CredentialFile) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let file = self.0.file.clone();
        match tokio::task::spawn_blocking(move || work(&file)).await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(Error::Crypto("the runtime is shutting down")),
            },
        }
    }

    fn with_file(file: CredentialFile) -> Self {
        Self(Arc::new(Inner {
            file,
            transports: Mutex::default(),
            under_way: Semaphore::new(UNDER_WAY),
            rotating: tokio::sync::Mutex::default(),
            warning: Mutex::default(),
        }))
    }

    /// Stores what an answer has shown. Only what the management server sealed gets here.
    async fn learn(&self, used: &Credential, learnt: Learnt) -> Result<()> {
        if !learnt.is_news(used) {
            return Ok(());
        }
        let id = used.id.clone();
        let change = move |credential: &mut Credential| {
            if credential.id == id {
                learnt.apply(credential);
            }
            Ok(())
        };
        self.blocking(move |file| file.update(change)).await
    }

    /// Sends E3 until E4 comes, again after each of `pauses`. An answer that
    /// is not authentic ends it and deletes nothing.
    async fn confirm(&self, pauses: &[Duration]) -> Result<()> {
        let credential = self.credential().await?;
        let transport = self.transport(&credential.server_trust())?;
        let mut pauses = pauses.iter();
        loop {
            let Some(request) = enrolment::confirmation(&credential) else { return Ok(()) };
            let answer = transport.exchange(&credential.server, request).await;
            match answer.and_then(|response| enrolment::confirmed(&credential, &response)) {
                Ok(()) => return self.learn(&credential, Learnt::confirmed()).await,
                Err(error) if error.is_temporary() => match pauses.next() {
                    Some(pause) => tokio::time::sleep(*pause).await,
                    None => return Err(error),
                },
                Err(error) => return Err(error),
            }
        }
    }

    fn transport(&self, trust: &Trust) -> Result<Transport> {
        let mut transports = self.0.transports.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(transport) = transports.get(trust) {
            return Ok(transport.clone());
        }
        let transport = Transport::new(trust)?;
        transports.insert(trust.clone(), transport.clone());
        Ok(transport)
    }
}

impl fmt::Debug for Terminal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terminal").field("path", &self.path()).finish_non_exhaustive()
    }
}

/// Well below the 64 by which the management server tells clones.
const UNDER_WAY: usize = 16;

const CONFIRM_PAUSES: [Duration; 4] =
    [Duration::from_millis(250), Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];

/// Between two questions whether an enrolment is held still.
const HELD_PAUSE: Duration = Duration::from_secs(2);

/// This machine's clock in milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = Zeroizing::new([0; N]);
    aws_lc_rs::rand::fill(bytes.as_mut_slice()).map_err(|_| Error::Crypto("the system gives no random bytes"))?;
    Ok(*bytes)
}

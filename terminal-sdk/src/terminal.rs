//! The asynchronous way in: enrol, open, sign on.

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
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use crate::{
    client::{self, Transport},
    core::{
        enrolment::{self, Enrolment},
        sign_on::{Fresh, Next, SignOn, Step},
    },
    credential::{Credential, Service},
    credential_file::CredentialFile,
    error::{Error, Result},
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
    /// The cipher suite of the credential.
    pub suite: SuiteId,
    /// The key agreement.
    pub kem: KemId,
    /// Whether a credential that is in use may be given up for the new one.
    pub replace: bool,
}

impl EnrolOptions {
    /// Options with the usual suite and key agreement, for the default path.
    pub fn new(server: Origin, realm: Realm, code: EnrolmentCode) -> Result<Self> {
        Ok(Self {
            server,
            realm,
            code,
            ca: None,
            path: CredentialFile::default_path()?,
            suite: DEFAULT_SUITE,
            kem: DEFAULT_KEM,
            replace: false,
        })
    }
}

/// The suite of a credential when none is asked for.
pub const DEFAULT_SUITE: SuiteId = SuiteId::AES_256_GCM_SHA256;
/// The key agreement when none is asked for.
pub const DEFAULT_KEM: KemId = KemId::X25519;
/// The attributes that a service may learn when nothing is said.
pub const DEFAULT_SCOPE: [&str; 4] = ["user", "groups", "name", "email"];

/// How to sign on.
#[derive(Debug, Clone)]
pub struct SignOnOptions {
    /// The attributes that the service may learn: the user's consent.
    pub share: Scope,
    /// Whether keys are taken from and put into `sessions.json` beside the credential.
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
    transports: Mutex<HashMap<Option<String>, Transport>>,
    /// Bounds the sign-ons under way, so that no envelope is overtaken by so
    /// many others that the management server takes it for a clone's.
    under_way: Semaphore,
}

impl Terminal {
    /// Turns an enrolment code into a credential. The keys are on the disk
    /// before the management server is asked to activate them.
    ///
    /// # Errors
    /// [`Error::Unconfirmed`] when they are stored, but the confirmation did
    /// not come: [`Terminal::open`] asks for it again. Other errors leave the
    /// disk as it was.
    pub async fn enrol(options: EnrolOptions) -> Result<Self> {
        let EnrolOptions { server, realm, code, ca, path, suite, kem, replace } = options;
        let terminal = Self::with_file(CredentialFile::new(path));
        let transport = terminal.transport(ca.as_deref())?;
        terminal
            .blocking(move |file| match file.try_load()? {
                Some(before) => file.may_replace(&before, replace),
                None => Ok(()),
            })
            .await?;
        let random = enrolment::Random { nonce: random()?, kem: Secret32::new(random()?), id: random()? };
        let enrolment = Enrolment { server: server.clone(), realm, code, suite, kem, ca };
        let (request, awaited) = enrolment::start(enrolment, &random)?;
        let response = transport.exchange(&server, request).await?;
        let credential = awaited.receive(&response, now_ms())?;
        terminal
            .blocking(move |file| {
                SessionCache::beside(file).clear()?;
                file.install(credential, replace)
            })
            .await?;
        terminal.confirm(&CONFIRM_PAUSES).await.map_err(|error| Error::Unconfirmed(Box::new(error)))?;
        Ok(terminal)
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
    pub async fn session(&self, target: &str, options: SignOnOptions) -> Result<Session> {
        let credential = self.credential().await?;
        let service = credential.service(target)?.clone();
        let transport = self.transport(service.ca.as_deref().or(credential.ca.as_deref()))?;
        Session::open(self.clone(), service, transport, options).await
    }

    /// One sign-on, with what it takes to get through.
    pub(crate) async fn obtain(&self, service: &Service, transport: &Transport, scope: &Scope) -> Result<SessionKey> {
        let _permit = self.0.under_way.acquire().await.map_err(|_| Error::Crypto("the terminal is closed"))?;
        let origin = &service.origin;
        let mut step = SignOn::start(service.id.clone(), scope.clone());
        loop {
            let ready = match step {
                Step::Challenge(need) => {
                    let response = transport.exchange(origin, need.request()).await?;
                    need.receive(&response, origin.as_str())?
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
            let response = transport.exchange(origin, request).await?;
            let judged = awaited.receive(&response, now_ms(), origin.as_str());
            self.learn(&credential, judged.authenticated, judged.clock_offset_ms).await?;
            match judged.next? {
                Next::Granted(granted) => return SessionKey::new(service, granted.grant, sent_ms),
                Next::Again(next) => step = next,
            }
        }
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
        Self(Arc::new(Inner { file, transports: Mutex::default(), under_way: Semaphore::new(UNDER_WAY) }))
    }

    /// Stores what a reply has shown. Only what the management server sealed gets here.
    async fn learn(&self, used: &Credential, authenticated: bool, offset_ms: Option<i64>) -> Result<()> {
        if offset_ms.is_none() && !(authenticated && used.is_pending()) {
            return Ok(());
        }
        let id = used.id.clone();
        let learnt = move |credential: &mut Credential| {
            if credential.id == id {
                credential.clock_offset_ms = offset_ms.unwrap_or(credential.clock_offset_ms);
                credential.pending = None;
            }
            Ok(())
        };
        self.blocking(move |file| file.update(learnt)).await
    }

    /// Sends E3 until E4 comes, again after each of `pauses`. An answer that
    /// is not authentic ends it and deletes nothing.
    async fn confirm(&self, pauses: &[Duration]) -> Result<()> {
        let credential = self.credential().await?;
        let transport = self.transport(credential.ca.as_deref())?;
        let mut pauses = pauses.iter();
        loop {
            let Some(request) = enrolment::confirmation(&credential) else { return Ok(()) };
            let answer = transport.exchange(&credential.server, request).await;
            match answer.and_then(|response| enrolment::confirmed(&credential, &response)) {
                Ok(()) => return self.learn(&credential, true, None).await,
                Err(error) if error.is_temporary() => match pauses.next() {
                    Some(pause) => tokio::time::sleep(*pause).await,
                    None => return Err(error),
                },
                Err(error) => return Err(error),
            }
        }
    }

    fn transport(&self, ca: Option<&str>) -> Result<Transport> {
        let key = ca.map(str::to_owned);
        let mut transports = self.0.transports.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(transport) = transports.get(&key) {
            return Ok(transport.clone());
        }
        let transport = Transport::new(ca)?;
        transports.insert(key, transport.clone());
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

//! The module: loaded, initialised, logged in, and its keys looked up; and how
//! all that is had again after a fault.
//!
//! Calls share a read lock on the state; whoever repairs it holds the write
//! lock, so that the module is never finalised below a call. A token that shows
//! nothing is not believed to be empty: a canary object must be there, and it
//! holds an HMAC by the master key.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use claviger_plugin_api::{KeyId, PluginError, SecretBytes};
use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error, RvError},
    object::ObjectHandle,
    session::{Session, SessionState, UserType},
    slot::{Slot, TokenInfo},
    types::AuthPin,
};

use crate::{
    Configuration,
    fault::{Fault, Remedy, describe, unavailable},
    objects::{self, Names},
};

/// The module of this plugin.
pub(crate) struct Module {
    pub(crate) configuration: Arc<Configuration>,
    pub(crate) names: Names,
    pin: AuthPin,
    state: RwLock<State>,
    /// The generation of the index, 0 while the module is away.
    live: AtomicU64,
    /// Loaded once: some modules do not survive being unloaded.
    library: Mutex<Option<Pkcs11>>,
    /// Whether this is who initialised the library, and so who finalises it.
    initialised_library: AtomicBool,
    /// Whether a master key and its canary were seen since the start.
    seen_whole: AtomicBool,
    generations: AtomicU64,
}

enum State {
    Away(Away),
    Up(Box<Up>),
}

struct Away {
    text: String,
    /// When to try again; never after a refusal of the PIN.
    next: Option<Instant>,
    pause: Duration,
}

/// A module that is logged in.
pub(crate) struct Up {
    client: Pkcs11,
    pub(crate) slot: Slot,
    /// Counts initialisations: sessions of an earlier one are numbers of others now.
    pub(crate) initialisation: u64,
    /// Counts looks at all objects.
    pub(crate) generation: u64,
    /// Keeps the login, which ends with the last session.
    keeper: Mutex<Session>,
    pub(crate) keys: RwLock<BTreeMap<KeyId, ObjectHandle>>,
    master: Option<Master>,
    looked: Instant,
}

/// The master key, and the canary that proves it.
struct Master {
    key: ObjectHandle,
    canary: ObjectHandle,
    proof: Vec<u8>,
}

/// What the canary holds is an HMAC over this.
const CANARY: &[u8] = b"claviger canary/1\0";

/// How often a module that was not initialised is asked whether it is by now.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Pauses between tries to reach a module that is away: the first, the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// The answer while there is no master key.
pub(crate) const NOT_INITIALISED: &str = "the token has no master key of this daemon; run `clavigerd hsm init`";

impl Module {
    pub(crate) fn new(configuration: Arc<Configuration>, pin: AuthPin) -> Self {
        Self {
            names: Names::new(&configuration.prefix),
            configuration,
            pin,
            state: RwLock::new(State::Away(Away {
                text: "not tried yet".to_owned(),
                next: Some(Instant::now()),
                pause: PAUSES.0,
            })),
            live: AtomicU64::new(0),
            library: Mutex::default(),
            initialised_library: AtomicBool::new(false),
            seen_whole: AtomicBool::new(false),
            generations: AtomicU64::new(0),
        }
    }

    /// Which look at all objects is valid now; 0 while the module is away.
    pub(crate) fn live(&self) -> u64 {
        self.live.load(Ordering::Acquire)
    }

    /// The module as it is, for the time of one try: connected where that was
    /// due, or why it is not.
    pub(crate) fn enter(&self) -> Result<Entered<'_>, PluginError> {
        let state = self.read();
        let generation = match &*state {
            State::Up(up) if up.master.is_some() || up.looked.elapsed() < LOOK_AGAIN => return Ok(Entered(state)),
            State::Up(up) => up.generation,
            State::Away(away) if away.is_due() => 0,
            State::Away(away) => return Err(unavailable(&away.text)),
        };
        drop(state);
        if generation == 0 {
            self.reconnect(0);
        } else {
            self.refresh(generation);
        }
        let state = self.read();
        match &*state {
            State::Up(_) => Ok(Entered(state)),
            State::Away(away) => Err(unavailable(&away.text)),
        }
    }

    /// Logs in again where that is lost and looks up all objects, unless
    /// another thread has done so since that generation.
    pub(crate) fn refresh(&self, generation: u64) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let State::Up(up) = &mut *state else { return };
        if up.generation != generation {
            return;
        }
        match self.refreshed(up) {
            Ok(()) => {
                up.generation = self.next_generation();
                self.live.store(up.generation, Ordering::Release);
            }
            Err(trouble) if trouble.is_final => self.leave(&mut state, trouble),
            Err(trouble) => {
                tracing::warn!(reason = trouble.text, "the PKCS#11 module is initialised anew");
                self.connect_anew(&mut state);
            }
        }
    }

    /// Initialises the module anew, unless another thread has done so since
    /// that generation (0: since the module went away).
    pub(crate) fn reconnect(&self, generation: u64) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let stale = match &*state {
            State::Up(up) => up.generation != generation,
            State::Away(away) => !away.is_due(),
        };
        if !stale {
            self.connect_anew(&mut state);
        }
    }

    /// Uses the module no more: the PIN was refused.
    pub(crate) fn refuse(&self, error: &Error) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        self.leave(&mut state, Trouble::pin(error));
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_generation(&self) -> u64 {
        self.generations.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn refreshed(&self, up: &mut Up) -> Result<(), Trouble> {
        let keeper = lock(&up.keeper);
        if keeper.get_session_info()?.session_state() != SessionState::RwUser {
            check_pin_flags(&up.client.get_token_info(up.slot)?)?;
            self.log_in(&keeper)?;
        }
        let (keys, master) = self.look(&keeper)?;
        drop(keeper);
        up.keys = RwLock::new(keys);
        up.master = master;
        up.looked = Instant::now();
        Ok(())
    }

    fn connect_anew(&self, state: &mut State) {
        let pause = match state {
            State::Away(away) => (away.pause * 2).min(PAUSES.1),
            State::Up(_) => PAUSES.0,
        };
        let was_away = matches!(state, State::Away(_));
        // Nothing of it is used from here on; sessions do not close themselves.
        self.live.store(0, Ordering::Release);
        *state = State::Away(Away { text: "being initialised".to_owned(), next: None, pause });
        self.finalise();
        match self.connect() {
            Ok(up) => {
                tracing::info!(
                    token = self.configuration.token,
                    keys = read(&up.keys).len(),
                    initialised = up.master.is_some(),
                    "logged in to the PKCS#11 token"
                );
                self.live.store(up.generation, Ordering::Release);
                *state = State::Up(Box::new(up));
            }
            Err(trouble) => {
                self.finalise();
                if !was_away || trouble.is_final {
                    tracing::error!(reason = trouble.text, "the PKCS#11 module cannot be used");
                }
                let next = (!trouble.is_final).then(|| Instant::now() + pause);
                *state = State::Away(Away { text: trouble.text, next, pause });
            }
        }
    }

    fn leave(&self, state: &mut State, trouble: Trouble) {
        tracing::error!(reason = trouble.text, "the PKCS#11 module is used no more");
        self.live.store(0, Ordering::Release);
        *state = State::Away(Away { text: trouble.text, next: None, pause: PAUSES.0 });
    }

    fn connect(&self) -> Result<Up, Trouble> {
        let client = self.load()?;
        match client.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            Ok(()) => self.initialised_library.store(true, Ordering::Relaxed),
            Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(error) => return Err(error.into()),
        }
        let slot = self.slot(&client)?;
        check_pin_flags(&client.get_token_info(slot)?)?;
        // Not to be closed by itself: after the module was initialised anew its
        // number is that of another session.
        let keeper = client.open_rw_session_no_drop(slot)?;
        self.log_in(&keeper)?;
        let (keys, master) = self.look(&keeper)?;
        let generation = self.next_generation();
        Ok(Up {
            client,
            slot,
            initialisation: generation,
            generation,
            keeper: Mutex::new(keeper),
            keys: RwLock::new(keys),
            master,
            looked: Instant::now(),
        })
    }

    fn load(&self) -> Result<Pkcs11, Trouble> {
        let mut library = lock(&self.library);
        if let Some(loaded) = &*library {
            return Ok(loaded.clone());
        }
        let file = self.configuration.module.display();
        let loaded = Pkcs11::new(&self.configuration.module)
            .map_err(|e| Trouble::passing(format!("the module {file} cannot be loaded: {}", describe(&e))))?;
        Ok(library.insert(loaded).clone())
    }

    fn slot(&self, client: &Pkcs11) -> Result<Slot, Trouble> {
        let wanted = self.configuration.token.as_str();
        let (mut found, mut others) = (Vec::new(), Vec::new());
        for slot in client.get_slots_with_token()? {
            // A slot that breaks must not hide the others.
            match client.get_token_info(slot) {
                Ok(token) if token.label() == wanted => found.push(slot),
                Ok(token) if token.token_initialized() => others.push(format!("{:?}", token.label())),
                _ => {}
            }
        }
        match found[..] {
            [slot] => Ok(slot),
            [] if others.is_empty() => Err(Trouble::passing(format!("no token is labelled {wanted:?}; there is none"))),
            [] => Err(Trouble::passing(format!("no token is labelled {wanted:?}; there are {}", others.join(", ")))),
            _ => Err(Trouble::passing(format!("{} tokens are labelled {wanted:?}", found.len()))),
        }
    }

    fn log_in(&self, session: &Session) -> Result<(), Trouble> {
        match session.login(UserType::User, Some(&self.pin)) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
            Err(error) if Remedy::of(&error) == Remedy::Refuse => Err(Trouble::pin(&error)),
            Err(error) => Err(error.into()),
        }
    }

    /// Looks up what is in the token, and whether that can be all.
    fn look(&self, session: &Session) -> Result<(BTreeMap<KeyId, ObjectHandle>, Option<Master>), Trouble> {
        let names = &self.names;
        let mut keys = BTreeMap::new();
        for handle in objects::find(session, &names.keys())? {
            if let Some(id) = objects::id_of(session, handle)? {
                keys.insert(id, handle);
            }
        }
        let masters = objects::find(session, &names.master())?;
        let canaries = objects::find(session, &names.canary())?;
        let lost = |what: &str| {
            Trouble::passing(format!(
                "the token has lost objects ({what}): put its storage back, or restore its backup"
            ))
        };
        match (&masters[..], &canaries[..]) {
            ([], []) if self.seen_whole.load(Ordering::Relaxed) => Err(lost("the master key and the canary")),
            ([], []) if !keys.is_empty() => Err(lost("the master key")),
            ([], []) if !objects::find(session, &names.all_data())?.is_empty() => Err(lost("the master key")),
            ([_], []) if self.seen_whole.load(Ordering::Relaxed) || !keys.is_empty() => Err(lost("the canary")),
            // Never initialised, or half way through it.
            ([_] | [], []) => Ok((keys, None)),
            ([], [_]) => Err(lost("the master key")),
            ([key], [canary]) => {
                let (key, canary) = (*key, *canary);
                let (_, proof) = objects::data_of(session, canary)?;
                if objects::mac(session, key, 32, CANARY)?.expose() != &proof[..] {
                    return Err(Trouble::passing(
                        "the token's master key is not the one that its canary was made with".to_owned(),
                    ));
                }
                self.seen_whole.store(true, Ordering::Relaxed);
                Ok((keys, Some(Master { key, canary, proof })))
            }
            _ => Err(Trouble::passing(format!(
                "the token holds {} master keys and {} canaries of the prefix {:?}; one of each is right: remove the others",
                masters.len(),
                canaries.len(),
                self.configuration.prefix
            ))),
        }
    }

    fn finalise(&self) {
        if self.initialised_library.swap(false, Ordering::Relaxed)
            && let Some(client) = lock(&self.library).clone()
            && let Err(error) = client.finalize()
        {
            tracing::debug!(error = describe(&error), "the PKCS#11 module could not be finalised");
        }
    }

    /// Finalises the module where this plugin had initialised it. No call may
    /// be in it any more.
    pub(crate) fn shut_down(&self) {
        if let Ok(mut state) = self.state.try_write() {
            self.live.store(0, Ordering::Release);
            *state = State::Away(Away { text: "shut down".to_owned(), next: None, pause: PAUSES.0 });
            self.finalise();
        }
    }
}

impl Away {
    fn is_due(&self) -> bool {
        self.next.is_some_and(|next| next <= Instant::now())
    }
}

/// Holds the module as it is.
pub(crate) struct Entered<'a>(RwLockReadGuard<'a, State>);

impl Entered<'_> {
    /// The module; `None` cannot be, as it was up when this was made.
    pub(crate) fn up(&self) -> Option<&Up> {
        match &*self.0 {
            State::Up(up) => Some(up),
            State::Away(_) => None,
        }
    }
}

impl Up {
    /// A session of one's own, not to be closed by itself.
    pub(crate) fn open_session(&self) -> Result<Session, Fault> {
        Ok(self.client.open_rw_session_no_drop(self.slot)?)
    }

    pub(crate) fn client(&self) -> &Pkcs11 {
        &self.client
    }

    pub(crate) fn is_initialised(&self) -> bool {
        self.master.is_some()
    }

    /// An HMAC of 32 bytes by the master key.
    pub(crate) fn master_mac(&self, session: &Session, message: &[u8]) -> Result<SecretBytes, Fault> {
        objects::mac(session, self.master()?.key, 32, message)
    }

    /// Proves that what the session shows is what the token holds: it is logged
    /// in, and the canary is there.
    pub(crate) fn prove(&self, session: &Session) -> Result<(), Fault> {
        let master = self.master()?;
        if session.get_session_info()?.session_state() != SessionState::RwUser {
            return Err(Fault::Lost("the token has logged this session out".to_owned()));
        }
        match objects::data_of(session, master.canary)? {
            (_, value) if value == master.proof => Ok(()),
            _ => Err(Fault::Lost("the canary in the token is not what it was".to_owned())),
        }
    }

    fn master(&self) -> Result<&Master, Fault> {
        self.master.as_ref().ok_or_else(|| Fault::Answer(unavailable(NOT_INITIALISED)))
    }

    /// Makes what is missing of master key and canary. The next look finds it,
    /// and whether another process has done the same at this moment.
    pub(crate) fn initialise(&self, session: &Session, names: &Names) -> Result<(), Fault> {
        let master = match objects::find(session, &names.master())?[..] {
            [] => objects::generate_master(session, names)?,
            // Half way through an earlier try.
            [key, ..] => key,
        };
        if objects::find(session, &names.canary())?.is_empty() {
            let proof = objects::mac(session, master, 32, CANARY)?;
            objects::create_data(session, names, "canary", proof.expose().to_vec())?;
        }
        Ok(())
    }
}

/// Why the module cannot be used.
struct Trouble {
    text: String,
    /// Whether trying again would do harm.
    is_final: bool,
}

impl Trouble {
    fn passing(text: String) -> Self {
        Self { text, is_final: false }
    }

    fn pin(error: &Error) -> Self {
        Self {
            text: format!(
                "the token refused the PIN ({}); it is not tried again: put the right one into the PIN's file and restart",
                describe(error)
            ),
            is_final: true,
        }
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        if Remedy::of(&error) == Remedy::Refuse { Self::pin(&error) } else { Self::passing(describe(&error)) }
    }
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Module(error) | Fault::InDoubt(error) => error.into(),
            Fault::Lost(text) => Self::passing(text),
            Fault::Answer(error) => Self::passing(error.to_string()),
        }
    }
}

/// Refuses a login that could lock the token.
fn check_pin_flags(token: &TokenInfo) -> Result<(), Trouble> {
    let trouble = |what: &str| {
        Err(Trouble::passing(format!(
            "{what}; no PIN is tried. See to it with the module's own tool: a login there with the right PIN clears it"
        )))
    };
    if !token.user_pin_initialized() {
        return Err(Trouble::passing("the token has no user PIN yet: set it with the module's own tool".to_owned()));
    }
    if token.user_pin_locked() {
        return trouble("the token says that the user PIN is locked");
    }
    if token.user_pin_final_try() {
        return trouble("the token says that one more wrong PIN locks it");
    }
    if token.user_pin_count_low() {
        return trouble("the token says that a wrong PIN was tried since the last login");
    }
    Ok(())
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

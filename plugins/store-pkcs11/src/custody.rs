//! Key custody: unique keys as objects, or sealed under keys of the module.

use std::{
    collections::BTreeSet,
    ops::{Bound, Range},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use claviger_plugin_api::{KeyCustody, KeyId, MAX_TOKEN, MacRequest, PluginError, SecretBytes, async_trait};
use cryptoki::{mechanism::MechanismType, object::ObjectHandle, types::Version};
use futures_util::future::try_join_all;
use serde_json::json;

use crate::{
    Mode, Token,
    fault::{Fault, describe, is_of_one_key, unavailable},
    module::{lock, read},
    objects::{self, KEY_LEN},
    record::hex,
    sealed,
    worker::{Desk, Pool},
};

/// Custody of unique keys in a token, as [`Token::custody`] gives it.
pub struct Custody {
    token: Arc<Token>,
    /// Keys are made one after the other, so that the count is right. Holds
    /// when they were last counted in the module itself.
    keeping: Arc<Mutex<Option<Instant>>>,
    /// Nanoseconds that one HMAC took of late.
    pace: Arc<AtomicU64>,
}

/// Requests of a call, ids of a page, at most.
const MAX_BATCH: usize = 1000;
/// Bytes of a message, at most.
const MAX_MESSAGE: usize = 8 * 1024;
/// Bytes of a context, at most.
const MAX_CONTEXT: usize = 255;
/// An HMAC that takes longer waits for a network, and a batch gains from more
/// than one thread. A module in software gains nothing from it.
const SLOW: Duration = Duration::from_micros(300);
/// Requests below which a batch is not split.
const SPLIT_FROM: usize = 8;
/// Between two counts of the keys in a module that seems to be full.
const COUNT_AGAIN: Duration = Duration::from_secs(3);
/// To make a master key and look up all objects.
const INITIALISE: Duration = Duration::from_secs(60);

impl Custody {
    pub(crate) fn new(token: Arc<Token>) -> Self {
        Self { token, keeping: Arc::default(), pace: Arc::default() }
    }

    fn pool(&self) -> &Pool {
        &self.token.pool
    }

    /// How a batch is divided among the threads.
    fn shares(&self, requests: usize) -> Vec<Range<usize>> {
        let threads = self.token.configuration.threads;
        let slow = u128::from(self.pace.load(Ordering::Relaxed)) > SLOW.as_nanos();
        let shares = if slow && requests >= SPLIT_FROM { threads.min(requests / (SPLIT_FROM / 2)) } else { 1 };
        let each = requests.div_ceil(shares.max(1)).max(1);
        (0..requests).step_by(each).map(|from| from..(from + each).min(requests)).collect()
    }
}

#[async_trait]
impl KeyCustody for Custody {
    async fn keep(&self, id: KeyId, key: SecretBytes) -> Result<Vec<u8>, PluginError> {
        let len = key.expose().len();
        require(len == KEY_LEN, || format!("a unique key of {len} bytes; {KEY_LEN} are right"))?;
        match self.token.configuration.mode {
            Mode::Objects => {
                let keeping = self.keeping.clone();
                self.pool().call(move |desk| keep_object(desk, &keeping, &id, &key)).await
            }
            Mode::Derived => {
                let sealing = self.pool().call(move |desk| desk.master_mac(&sealed::context(&id))).await?;
                sealed::seal(&sealing, &id, &key)
            }
        }
    }

    async fn mac(&self, requests: &[MacRequest]) -> Result<Vec<Option<SecretBytes>>, PluginError> {
        batch(requests.len())?;
        requests.iter().try_for_each(check_request)?;
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let requests: Arc<[MacRequest]> = requests.into();
        let parts = self.shares(requests.len()).into_iter().map(|share| {
            let (requests, pace) = (requests.clone(), self.pace.clone());
            self.pool().call(move |desk| mac_all(desk, &requests[share.clone()], &pace))
        });
        Ok(try_join_all(parts).await?.into_iter().flatten().collect())
    }

    async fn destroy(&self, ids: &[KeyId]) -> Result<(), PluginError> {
        batch(ids.len())?;
        let ids = ids.to_vec();
        self.pool().call(move |desk| ids.iter().try_for_each(|id| destroy_one(desk, id))).await
    }

    async fn keys(&self, after: Option<KeyId>, limit: usize) -> Result<Vec<KeyId>, PluginError> {
        require((1..=MAX_BATCH).contains(&limit), || format!("a page of {limit} ids; 1 to {MAX_BATCH}"))?;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.pool()
            .call(move |desk| {
                desk.up.prove(desk.session)?;
                let keys = read(&desk.up.keys);
                Ok(keys.range((from, Bound::Unbounded)).take(limit).map(|(id, _)| *id).collect())
            })
            .await
    }

    async fn derive(&self, context: &[u8]) -> Result<SecretBytes, PluginError> {
        let len = context.len();
        require(len <= MAX_CONTEXT, || format!("a context of {len} bytes; at most {MAX_CONTEXT}"))?;
        let message = [b"claviger derive/1\0", context].concat();
        self.pool().call(move |desk| desk.master_mac(&message)).await
    }

    async fn initialise(&self) -> Result<String, PluginError> {
        let mut made = None;
        let line = self
            .pool()
            .call_within(INITIALISE, move |desk| {
                check_mechanisms(desk)?;
                match made {
                    None if desk.up.is_initialised() => Ok("it is initialised already; nothing was changed"),
                    None => {
                        desk.up.initialise(desk.session, &desk.module.names)?;
                        made = Some("master key and canary were made; make a backup of the token now");
                        // Looks up all objects, and runs this once more.
                        Err(Fault::Lost("the master key was made, and is looked for".to_owned()))
                    }
                    Some(line) if desk.up.is_initialised() => Ok(line),
                    Some(_) => Err(Fault::Answer(unavailable("the master key was made, and is not found"))),
                }
            })
            .await?;
        Ok(format!("token {:?}: {line}", self.token.configuration.token))
    }

    async fn status(&self) -> Result<String, PluginError> {
        let configuration = self.token.configuration.clone();
        self.pool()
            .call(move |desk| {
                let library = desk.up.client().get_library_info()?;
                let token = desk.up.client().get_token_info(desk.up.slot)?;
                let mechanisms: Vec<&str> = missing_and_present(desk)?.1;
                let version = |version: Version| format!("{}.{}", version.major(), version.minor());
                Ok(json!({
                    "module": configuration.module,
                    "library": library.library_description().trim_end(),
                    "library_version": version(library.library_version()),
                    "pkcs11_version": version(library.cryptoki_version()),
                    "token": configuration.token,
                    "manufacturer": token.manufacturer_id(),
                    "model": token.model(),
                    "serial": token.serial_number(),
                    "firmware": version(token.firmware_version()),
                    "prefix": configuration.prefix,
                    "mode": configuration.mode.name(),
                    "initialised": desk.up.is_initialised(),
                    "keys": read(&desk.up.keys).len(),
                    "max_keys": (configuration.mode == Mode::Objects).then_some(configuration.max_keys),
                    "mechanisms": mechanisms,
                    "threads": configuration.threads,
                    "sessions": token.session_count(),
                })
                .to_string())
            })
            .await
    }

    async fn health(&self) -> Result<(), PluginError> {
        self.pool()
            .call(|desk| {
                desk.up.prove(desk.session)?;
                desk.master_mac(b"claviger health/1\0").map(drop)
            })
            .await
    }
}

impl Desk<'_> {
    fn master_mac(&self, message: &[u8]) -> Result<SecretBytes, Fault> {
        self.up.master_mac(self.session, message)
    }

    /// Destroys an object. That it is gone already is believed only while the
    /// module can show its canary.
    pub(crate) fn destroy(&self, object: ObjectHandle) -> Result<(), Fault> {
        if objects::destroy(self.session, object)? { Ok(()) } else { self.up.prove(self.session) }
    }
}

/// Takes a key into the module. Where the id is there already, the first key
/// stays: this may be the second run of the same call.
fn keep_object(
    desk: &Desk<'_>,
    keeping: &Mutex<Option<Instant>>,
    id: &KeyId,
    key: &SecretBytes,
) -> Result<Vec<u8>, Fault> {
    desk.up.prove(desk.session)?;
    let mut counted = lock(keeping);
    let mut count = {
        let keys = read(&desk.up.keys);
        if keys.contains_key(id) {
            return Ok(Vec::new());
        }
        keys.len()
    };
    let max = desk.module.configuration.max_keys;
    if count >= max && counted.is_none_or(|counted| counted.elapsed() >= COUNT_AGAIN) {
        *counted = Some(Instant::now());
        count = count_anew(desk)?;
    }
    if count >= max {
        let text = format!("the token holds {count} unique keys, and max_keys is {max}");
        return Err(Fault::Answer(PluginError::Full(text)));
    }
    let handle = objects::create_key(desk.session, &desk.module.names, id, key.expose())?;
    desk.up.keys.write().unwrap_or_else(PoisonError::into_inner).insert(*id, handle);
    Ok(Vec::new())
}

/// Brings the index up to what the module holds now, whoever made or destroyed
/// it: how many keys that are.
fn count_anew(desk: &Desk<'_>) -> Result<usize, Fault> {
    let found = objects::find(desk.session, &desk.module.names.keys())?;
    let known: BTreeSet<_> = read(&desk.up.keys).values().map(ObjectHandle::handle).collect();
    let mut new = Vec::new();
    for handle in found.iter().filter(|handle| !known.contains(&handle.handle())) {
        new.extend(objects::id_of(desk.session, *handle)?.map(|id| (id, *handle)));
    }
    // A token that has lost its login shows none.
    desk.up.prove(desk.session)?;
    let found: BTreeSet<_> = found.iter().map(ObjectHandle::handle).collect();
    let mut keys = desk.up.keys.write().unwrap_or_else(PoisonError::into_inner);
    keys.retain(|_, handle| found.contains(&handle.handle()));
    keys.extend(new);
    Ok(keys.len())
}

fn mac_all(desk: &Desk<'_>, requests: &[MacRequest], pace: &AtomicU64) -> Result<Vec<Option<SecretBytes>>, Fault> {
    let begun = Instant::now();
    let macs = requests.iter().map(|request| mac_one(desk, request)).collect::<Result<Vec<_>, Fault>>()?;
    let each = begun.elapsed().as_nanos() / requests.len().max(1) as u128;
    let (each, before) = (u64::try_from(each).unwrap_or(u64::MAX), pace.load(Ordering::Relaxed));
    // Slow once is no network: the last ones count for much.
    pace.store(before - before / 4 + each / 4, Ordering::Relaxed);
    Ok(macs)
}

/// The token says how the key was kept, whatever the mode is by now.
fn mac_one(desk: &Desk<'_>, request: &MacRequest) -> Result<Option<SecretBytes>, Fault> {
    if !request.token.is_empty() {
        let sealing = desk.master_mac(&sealed::context(&request.key))?;
        let opened = sealed::open(&sealing, &request.key, &request.token)?;
        if opened.is_none() {
            // Its own user's trouble alone, and not that of all who share the batch.
            let key = hex(&request.key);
            tracing::error!(key, "the token of a unique key is damaged, or was sealed under another master key");
        }
        return Ok(opened.map(|key| sealed::mac(&key, request.hash_len, &request.message)));
    }
    if !desk.up.is_initialised() {
        desk.up.prove(desk.session)?;
    }
    let Some(handle) = handle_of(desk, &request.key)? else { return Ok(None) };
    match objects::mac(desk.session, handle, request.hash_len, &request.message) {
        Err(Fault::Module(error)) if is_of_one_key(&error) => {
            let (key, error) = (hex(&request.key), describe(&error));
            tracing::error!(
                key,
                error,
                "the module cannot use this unique key: its attributes are not those that it was made with, or the module's policy forbids it"
            );
            Ok(None)
        }
        answer => answer.map(Some),
    }
}

/// The key's handle. That there is none is believed of the module alone, and
/// only while it can show its canary.
fn handle_of(desk: &Desk<'_>, id: &KeyId) -> Result<Option<ObjectHandle>, Fault> {
    if let Some(handle) = read(&desk.up.keys).get(id) {
        return Ok(Some(*handle));
    }
    // Another daemon may have made it.
    match objects::find(desk.session, &desk.module.names.key(id))?.first() {
        Some(handle) => {
            desk.up.keys.write().unwrap_or_else(PoisonError::into_inner).insert(*id, *handle);
            Ok(Some(*handle))
        }
        None => {
            desk.up.prove(desk.session)?;
            Ok(None)
        }
    }
}

fn destroy_one(desk: &Desk<'_>, id: &KeyId) -> Result<(), Fault> {
    let found = objects::find(desk.session, &desk.module.names.key(id))?;
    if found.is_empty() {
        desk.up.prove(desk.session)?;
    }
    for handle in found {
        desk.destroy(handle)?;
    }
    desk.up.keys.write().unwrap_or_else(PoisonError::into_inner).remove(id);
    Ok(())
}

/// What the module must be able to do.
const MECHANISMS: [(MechanismType, &str); 3] = [
    (MechanismType::GENERIC_SECRET_KEY_GEN, "CKM_GENERIC_SECRET_KEY_GEN"),
    (MechanismType::SHA256_HMAC, "CKM_SHA256_HMAC"),
    (MechanismType::SHA384_HMAC, "CKM_SHA384_HMAC"),
];

fn missing_and_present(desk: &Desk<'_>) -> Result<(Vec<&'static str>, Vec<&'static str>), Fault> {
    let offered = desk.up.client().get_mechanism_list(desk.up.slot)?;
    let (present, missing): (Vec<_>, Vec<_>) = MECHANISMS.iter().partition(|(wanted, _)| offered.contains(wanted));
    let names = |list: Vec<&(MechanismType, &'static str)>| list.into_iter().map(|(_, name)| *name).collect();
    Ok((names(missing), names(present)))
}

fn check_mechanisms(desk: &Desk<'_>) -> Result<(), Fault> {
    let (missing, _) = missing_and_present(desk)?;
    if missing.is_empty() {
        return Ok(());
    }
    let text = format!("the token cannot be used: it lacks {}", missing.join(", "));
    Err(Fault::Answer(unavailable(text)))
}

fn check_request(request: &MacRequest) -> Result<(), PluginError> {
    let (hash, message, token) = (request.hash_len, request.message.len(), request.token.len());
    require(hash == 32 || hash == 48, || format!("a hash of {hash} bytes; 32 or 48"))?;
    require(message <= MAX_MESSAGE, || format!("a message of {message} bytes; at most {MAX_MESSAGE}"))?;
    require(token <= MAX_TOKEN, || format!("a token of {token} bytes; at most {MAX_TOKEN}"))
}

fn batch(len: usize) -> Result<(), PluginError> {
    require(len <= MAX_BATCH, || format!("a batch of {len}; at most {MAX_BATCH}"))
}

fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), PluginError> {
    if holds { Ok(()) } else { Err(PluginError::InvalidCall(otherwise())) }
}

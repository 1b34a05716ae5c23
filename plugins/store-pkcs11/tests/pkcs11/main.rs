//! The plugin on tokens of SoftHSM.

#![expect(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod configuration;
mod durability;
mod faults;
mod keys;
mod limits;
mod pin;
mod retention;

use std::{
    env,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use claviger_plugin_api::{
    CounterUse, KeyCustody, KeyId, MacRequest, PluginError, Put, SecretBytes, UserStore, testkit,
};
use claviger_servers::{SOFTHSM_TOKEN, SoftHsm};
use claviger_store_pkcs11::{Configuration, Custody, Mode, Store, Token};

#[test]
fn objects_keep_the_contract_of_custody() {
    on_a_token(async |hsm| custody_keeps_the_contract(&hsm, Mode::Objects).await);
}

#[test]
fn sealed_keys_keep_the_contract_of_custody() {
    on_a_token(async |hsm| custody_keeps_the_contract(&hsm, Mode::Derived).await);
}

async fn custody_keeps_the_contract(hsm: &SoftHsm, mode: Mode) {
    let number = AtomicU32::new(0);
    testkit::custody(|| async {
        let prefix = format!("t{}", number.fetch_add(1, Ordering::Relaxed));
        let token = Token::open(Configuration { mode, prefix, lock_file: None, ..configuration(hsm) }).unwrap();
        Arc::new(token.custody()) as Arc<dyn KeyCustody>
    })
    .await;
}

#[test]
fn objects_keep_the_contract_of_user_stores() {
    on_a_token(async |hsm| {
        let (number, open) = (AtomicU32::new(0), Mutex::new(Vec::<Weak<Store>>::new()));
        testkit::user_store(|| async {
            let number = number.fetch_add(1, Ordering::Relaxed);
            if open.lock().unwrap().iter().all(|store| store.strong_count() == 0) {
                // What stores before have left makes SoftHSM slow.
                objects(&storage(&hsm)).iter().for_each(|file| std::fs::remove_file(file).unwrap());
            }
            let lock_file = Some(hsm.directory().join(format!("lock{number}")));
            let prefix = format!("t{number}");
            let token = Token::open(Configuration { prefix, lock_file, ..configuration(&hsm) }).unwrap();
            token.custody().initialise().await.unwrap();
            let store = Arc::new(token.user_store().unwrap());
            open.lock().unwrap().push(Arc::downgrade(&store));
            store as Arc<dyn UserStore>
        })
        .await;
    });
}

#[test]
fn objects_outlive_the_process() {
    on_a_token(async |hsm| testkit::restart(|| async { open(&hsm).await.1 as Arc<dyn UserStore> }).await);
}

/// A process that runs one of this binary's functions and is killed when this is dropped.
struct Other(Child);

impl Other {
    /// `what` is said to it in the environment; returns when it has said `ready`.
    fn start(function: &str, hsm: &SoftHsm, what: &str) -> (Self, BufReader<ChildStdout>) {
        let child = Command::new(env::current_exe().unwrap())
            .args([function, "--exact", "--nocapture", "--test-threads=1"])
            .env("SOFTHSM2_CONF", hsm.configuration())
            .env(WHAT, what)
            .env(DIRECTORY, hsm.directory())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut child = Self(child);
        let mut output = BufReader::new(child.0.stdout.take().unwrap());
        let mut line = String::new();
        while !line.ends_with("ready\n") {
            line.clear();
            assert!(output.read_line(&mut line).unwrap() > 0, "{function} ended before it was ready");
        }
        (child, output)
    }

    /// What the test has said to this process; `None` where it is none of these.
    fn what() -> Option<String> {
        env::var(WHAT).ok()
    }

    /// The directory of the test's [`SoftHsm`].
    fn directory() -> PathBuf {
        env::var_os(DIRECTORY).unwrap().into()
    }

    /// Lets [`start`](Self::start) return, and waits for the end.
    fn ready_and_wait() -> ! {
        println!("ready");
        loop {
            std::thread::park();
        }
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const WHAT: &str = "STORE_PKCS11_TEST_WHAT";
const DIRECTORY: &str = "STORE_PKCS11_TEST_DIRECTORY";

/// Runs a test with a new token, one after the other: the module and its
/// environment are there once for a process.
fn on_a_token(test: impl AsyncFnOnce(SoftHsm)) {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let hsm = SoftHsm::new();
    // SAFETY: no thread of this process reads or writes the environment at this
    // moment: other tests wait for the lock, and no runtime or module runs.
    unsafe { env::set_var("SOFTHSM2_CONF", hsm.configuration()) };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    runtime.block_on(test(hsm));
}

/// A user store in the token too, and patience for a noisy machine.
fn configuration(hsm: &SoftHsm) -> Configuration {
    configuration_in(hsm.directory())
}

/// The same for who knows the directory only.
fn configuration_in(directory: &Path) -> Configuration {
    Configuration {
        lock_file: Some(directory.join("lock")),
        deadline_ms: 30_000,
        ..Configuration::new(SoftHsm::module(), SOFTHSM_TOKEN, directory.join("pin"), Mode::Objects)
    }
}

/// An initialised token with both components.
async fn open(hsm: &SoftHsm) -> (Arc<Custody>, Arc<Store>) {
    let token = Token::open(configuration(hsm)).unwrap();
    token.custody().initialise().await.unwrap();
    (Arc::new(token.custody()), Arc::new(token.user_store().unwrap()))
}

fn id(number: u8) -> KeyId {
    [number; 16]
}

fn key(number: u8) -> SecretBytes {
    SecretBytes::copy_from(&[number; 32])
}

fn request(number: u8, token: &[u8]) -> MacRequest {
    MacRequest { key: id(number), token: token.to_vec(), hash_len: 32, message: b"message".to_vec() }
}

/// What the key of that number makes of the message of [`request`].
fn expected(number: u8) -> Vec<u8> {
    use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
    sign(&Key::new(HMAC_SHA256, &[number; 32]), b"message").as_ref().to_vec()
}

async fn mac(custody: &dyn KeyCustody, number: u8) -> Result<Option<Vec<u8>>, PluginError> {
    let macs = custody.mac(&[request(number, b"")]).await?;
    Ok(macs.into_iter().next().unwrap().map(|mac| mac.expose().to_vec()))
}

fn put(key: &str, expected: u64, value: &[u8]) -> Put {
    Put { key: key.to_owned(), expected, value: value.to_vec(), terms: Vec::new() }
}

fn counter_use(credential: u8, counter: u64, nonce: u8) -> CounterUse {
    CounterUse { credential: [credential; 16], epoch: 1, counter, nonce: [nonce; 32], time_ms: 0 }
}

/// Waits until it is healthy; every answer until then must be *unavailable*.
async fn recovers(custody: &dyn KeyCustody) {
    let patience = Instant::now() + Duration::from_secs(60);
    while let Err(error) = custody.health().await {
        assert!(matches!(error, PluginError::Unavailable(_)), "{error:?}");
        assert!(Instant::now() < patience, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The directory of the only token's objects.
fn storage(hsm: &SoftHsm) -> PathBuf {
    only(std::fs::read_dir(hsm.tokens()).unwrap().map(|entry| entry.unwrap().path()))
}

/// The files of objects in a token's directory, without the one of the token itself.
fn objects(storage: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(storage).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|file| file.extension().is_some_and(|e| e == "object") && !file.ends_with("token.object")).collect()
}

fn only<T>(mut all: impl Iterator<Item = T>) -> T {
    let one = all.next().unwrap();
    assert!(all.next().is_none(), "exactly one");
    one
}

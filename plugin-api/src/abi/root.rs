//! The root of a plugin: how it is started and what it then delivers.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use abi_stable::{
    StableAbi,
    library::{CheckTypeLayout, LibHeader, RootModule, RootModuleResult},
    package_version_strings,
    prefix_type::{PrefixRefTrait, PrefixTypeTrait},
    sabi_types::VersionStrings,
    std_types::{RErr, ROk, ROption, RResult, RStr, RVec},
};

use super::{
    bridge,
    cipher::SuiteObject,
    custody::CustodyObject,
    error::InitFailure,
    host::HostObject,
    issuer::IssuerObject,
    object::{Object, catch},
    state_store::StateStoreObject,
    user_store::UserStoreObject,
};
use crate::{Context, InitError, Plugin, StateStore};

/// What the export macro implements for a plugin crate.
pub trait Entry: 'static {
    /// Starts the plugin.
    fn init(context: Context) -> Result<Plugin, InitError>;
}

/// The header that a plugin exports as `CLAVIGER_PLUGIN_ROOT`.
pub type RootHeader = LibHeader;

/// The symbol of the [`RootHeader`], with its NUL.
pub const ROOT_SYMBOL: &[u8] = b"CLAVIGER_PLUGIN_ROOT\0";

/// The header for a plugin, layout check included.
#[must_use]
pub const fn root_header<E: Entry>() -> RootHeader {
    // SAFETY: `constructor` gives a `PluginRootRef`, the type named here.
    unsafe { LibHeader::from_constructor::<PluginRootRef>(constructor::<E>, CheckTypeLayout::Yes) }
}

/// The functions of a plugin. Its layout holds all that crosses, so checking
/// this type checks everything. New functions are appended, and are optional
/// for older plugins.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginRootRef, prefix_fields = PluginRootPrefix)))]
pub struct PluginRoot {
    init: unsafe extern "C" fn(
        HostObject,
        name: RStr<'_>,
        configuration: RStr<'_>,
        state: ROption<StateStoreObject>,
    ) -> RResult<Object, InitFailure>,
    suites: unsafe extern "C" fn(Object) -> RVec<SuiteObject>,
    user_store: unsafe extern "C" fn(Object) -> ROption<UserStoreObject>,
    state_store: unsafe extern "C" fn(Object) -> ROption<StateStoreObject>,
    issuer: unsafe extern "C" fn(Object) -> ROption<IssuerObject>,
    custody: unsafe extern "C" fn(Object) -> ROption<CustodyObject>,
    #[sabi(last_prefix_field)]
    release: unsafe extern "C" fn(Object),
}

impl RootModule for PluginRootRef {
    abi_stable::declare_root_module_statics! {PluginRootRef}

    const BASE_NAME: &'static str = "claviger_plugin";
    const NAME: &'static str = "claviger_plugin";
    const VERSION_STRINGS: VersionStrings = package_version_strings!();
}

/// What a plugin delivered, as the host gets it.
#[derive(Default)]
pub struct Delivered {
    /// Its cipher suites.
    pub suites: Vec<SuiteObject>,
    /// Its user store.
    pub user_store: Option<UserStoreObject>,
    /// Its state store.
    pub state_store: Option<StateStoreObject>,
    /// Its issuer.
    pub issuer: Option<IssuerObject>,
    /// Its key custody.
    pub custody: Option<CustodyObject>,
}

impl PluginRootRef {
    /// Starts the plugin `name` with its configuration (JSON) and takes what
    /// it delivers. Once per loaded library; may block.
    pub fn start(
        self,
        host: HostObject,
        name: &str,
        configuration: &str,
        state: Option<Arc<dyn StateStore>>,
    ) -> Result<Delivered, InitError> {
        let state = state.map(|state| StateStoreObject::new(state, None));
        // SAFETY: the root's layout was checked when it was made, so its functions are what they say;
        // the object goes only to functions of the same root, and to `release` last.
        unsafe {
            let plugin = self.init()(host, name.into(), configuration.into(), state.into()).into_result()?;
            let delivered = Delivered {
                suites: self.suites()(plugin).into_vec(),
                user_store: self.user_store()(plugin).into_option(),
                state_store: self.state_store()(plugin).into_option(),
                issuer: self.issuer()(plugin).into_option(),
                custody: self.custody()(plugin).into_option(),
            };
            self.release()(plugin);
            Ok(delivered)
        }
    }
}

/// Behind the root's object: the plugin, until its components are taken.
type Started = Mutex<Plugin>;

extern "C" fn constructor<E: Entry>() -> RootModuleResult {
    let root = PluginRoot { init: init::<E>, suites, user_store, state_store, issuer, custody, release };
    // SAFETY: the reverse cast is made by the host once the layout has been checked.
    ROk(unsafe { root.leak_into_prefix().to_prefix_ref().cast() })
}

unsafe extern "C" fn init<E: Entry>(
    host: HostObject,
    name: RStr<'_>,
    configuration: RStr<'_>,
    state: ROption<StateStoreObject>,
) -> RResult<Object, InitFailure> {
    static STARTED: AtomicBool = AtomicBool::new(false);
    if STARTED.swap(true, Ordering::SeqCst) {
        return RErr(InitError::Failed("this copy of the library was started before".into()).into());
    }
    let started = catch(|| {
        bridge::install(host);
        let configuration = serde_json::from_str(configuration.as_str())
            .map_err(|error| InitError::Configuration(error.to_string()))?;
        E::init(Context {
            name: name.into(),
            configuration,
            state: state.into_option().map(|state| Arc::new(state) as Arc<dyn StateStore>),
            clock: Arc::new(move || host.now()),
        })
    });
    match started {
        Some(Ok(plugin)) => ROk(Object::new::<Started>(Mutex::new(plugin))),
        Some(Err(error)) => RErr(error.into()),
        None => RErr(InitFailure::panicked()),
    }
}

// SAFETY of all below: the host passes the object that `init` of this root gave, before `release`.

unsafe extern "C" fn suites(plugin: Object) -> RVec<SuiteObject> {
    // SAFETY: see above.
    let suites = unsafe { with(plugin, |plugin| std::mem::take(&mut plugin.suites)) };
    suites.into_iter().map(SuiteObject::new).collect()
}

unsafe extern "C" fn user_store(plugin: Object) -> ROption<UserStoreObject> {
    // SAFETY: see above.
    let store = unsafe { with(plugin, |plugin| plugin.user_store.take().map(|s| (s, plugin.poll_in.clone()))) };
    store.map(|(store, poll_in)| UserStoreObject::new(store, poll_in)).into()
}

unsafe extern "C" fn state_store(plugin: Object) -> ROption<StateStoreObject> {
    // SAFETY: see above.
    let store = unsafe { with(plugin, |plugin| plugin.state_store.take().map(|s| (s, plugin.poll_in.clone()))) };
    store.map(|(store, poll_in)| StateStoreObject::new(store.into(), poll_in)).into()
}

unsafe extern "C" fn issuer(plugin: Object) -> ROption<IssuerObject> {
    // SAFETY: see above.
    let issuer = unsafe { with(plugin, |plugin| plugin.issuer.take().map(|i| (i, plugin.poll_in.clone()))) };
    issuer.map_or(ROption::RNone, |(issuer, poll_in)| IssuerObject::new(issuer, poll_in))
}

unsafe extern "C" fn custody(plugin: Object) -> ROption<CustodyObject> {
    // SAFETY: see above.
    let custody = unsafe { with(plugin, |plugin| plugin.custody.take().map(|c| (c, plugin.poll_in.clone()))) };
    custody.map(|(custody, poll_in)| CustodyObject::new(custody, poll_in)).into()
}

unsafe extern "C" fn release(plugin: Object) {
    // SAFETY: see above.
    unsafe { plugin.free::<Started>() }
}

unsafe fn with<R>(plugin: Object, take: impl FnOnce(&mut Plugin) -> R) -> R {
    // SAFETY: the caller's contract.
    let plugin = unsafe { plugin.get::<Started>() };
    take(&mut plugin.lock().unwrap_or_else(PoisonError::into_inner))
}

//! The stable ABI between a plugin and the host. Plugin authors need nothing
//! from here: the export macro and the host use it.
//!
//! The only module that names `abi_stable`, and the only one with unsafe code.
//! Every component crosses as a pointer with a table of functions
//! ([`SuiteObject`] and its kin); each function runs inside `catch_unwind` in
//! the library that it belongs to, each poll of a future and each drop too.
//! Tables are prefix types: functions are appended and never changed, so a
//! plugin of an older or a newer minor version loads. The structs that cross
//! by value cannot grow; what needs more gets a new function.

mod bridge;
mod cipher;
mod component;
mod custody;
mod error;
mod future;
mod host;
mod issuer;
mod keys;
mod object;
mod records;
mod root;
mod secret;
mod state_store;
mod time;
mod user_store;

pub use cipher::SuiteObject;
pub use custody::CustodyObject;
pub use error::{ErrorCode, Failure, InitFailure};
pub use host::{HostFunctions, HostObject};
pub use issuer::IssuerObject;
pub use root::{Delivered, Entry, PluginRootRef, ROOT_SYMBOL, RootHeader, root_header};
pub use secret::SecretBuffer;
pub use state_store::StateStoreObject;
pub use time::Time;
pub use user_store::UserStoreObject;

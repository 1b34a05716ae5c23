//! Cipher suites across the boundary. No allocation on either side but in `info`.

use abi_stable::{
    StableAbi,
    prefix_type::PrefixTypeTrait,
    std_types::{RNone, ROption, RSlice, RSliceMut, RSome, RString},
};

use super::{
    error::CipherStatus,
    object::{Object, catch},
};
use crate::{CipherError, CipherSuite, SuiteInfo};

/// A cipher suite of a plugin. In the host it is a [`CipherSuite`] again.
#[repr(C)]
#[derive(StableAbi)]
pub struct SuiteObject {
    object: Object,
    table: SuiteTableRef,
}

/// What crosses for [`SuiteInfo`].
#[repr(C)]
#[derive(StableAbi)]
pub struct SuiteDescription {
    id: u16,
    hash_len: usize,
    name: RString,
    implementation: RString,
}

/// The functions of a suite. New ones are appended, and are optional for older plugins.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = SuiteTableRef, prefix_fields = SuiteTablePrefix)))]
pub struct SuiteTable {
    release: unsafe extern "C" fn(Object),
    info: unsafe extern "C" fn(Object) -> ROption<SuiteDescription>,
    hash: unsafe extern "C" fn(Object, data: RSlice<'_, u8>, out: RSliceMut<'_, u8>) -> CipherStatus,
    mac:
        unsafe extern "C" fn(Object, key: RSlice<'_, u8>, data: RSlice<'_, u8>, out: RSliceMut<'_, u8>) -> CipherStatus,
    seal: unsafe extern "C" fn(
        Object,
        key: RSlice<'_, u8>,
        nonce: RSlice<'_, u8>,
        aad: RSlice<'_, u8>,
        plaintext: RSlice<'_, u8>,
        out: RSliceMut<'_, u8>,
    ) -> CipherStatus,
    open: unsafe extern "C" fn(
        Object,
        key: RSlice<'_, u8>,
        nonce: RSlice<'_, u8>,
        aad: RSlice<'_, u8>,
        ciphertext: RSlice<'_, u8>,
        out: RSliceMut<'_, u8>,
    ) -> CipherStatus,
    #[sabi(last_prefix_field)]
    random: unsafe extern "C" fn(Object, out: RSliceMut<'_, u8>) -> CipherStatus,
}

type Suite = Box<dyn CipherSuite>;

impl SuiteObject {
    /// Lends `suite` to another library.
    #[must_use]
    pub fn new(suite: Suite) -> Self {
        let table = SuiteTable { release, info, hash, mac, seal, open, random }.leak_into_prefix();
        Self { object: Object::new(suite), table }
    }
}

impl Drop for SuiteObject {
    fn drop(&mut self) {
        // SAFETY: made by `new` in the library that `table` belongs to; not used after this.
        unsafe { (self.table.release())(self.object) }
    }
}

impl CipherSuite for SuiteObject {
    /// An `info` that panicked gives a suite of number 0, which no registry has.
    fn info(&self) -> SuiteInfo {
        // SAFETY: `object` is what `table` was made for, and lives as long as `self`; so below.
        match unsafe { (self.table.info())(self.object) } {
            RSome(d) => SuiteInfo::new(d.id, d.name.into_string(), d.hash_len, d.implementation.into_string()),
            RNone => SuiteInfo::new(0, "", 0, ""),
        }
    }

    fn hash(&self, data: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
        // SAFETY: as in `info`.
        unsafe { (self.table.hash())(self.object, data.into(), out.into()) }.into_result()
    }

    fn mac(&self, key: &[u8], data: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
        // SAFETY: as in `info`.
        unsafe { (self.table.mac())(self.object, key.into(), data.into(), out.into()) }.into_result()
    }

    fn seal(&self, key: &[u8], nonce: &[u8], aad: &[u8], plaintext: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
        // SAFETY: as in `info`.
        unsafe { (self.table.seal())(self.object, key.into(), nonce.into(), aad.into(), plaintext.into(), out.into()) }
            .into_result()
    }

    fn open(&self, key: &[u8], nonce: &[u8], aad: &[u8], ciphertext: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
        // SAFETY: as in `info`.
        unsafe { (self.table.open())(self.object, key.into(), nonce.into(), aad.into(), ciphertext.into(), out.into()) }
            .into_result()
    }

    fn random(&self, out: &mut [u8]) -> Result<(), CipherError> {
        // SAFETY: as in `info`.
        unsafe { (self.table.random())(self.object, out.into()) }.into_result()
    }
}

// SAFETY of all below: the caller passes the object of the `SuiteObject` whose
// table holds the function, alive; `new` made it with `T = Suite`.

unsafe extern "C" fn release(object: Object) {
    // SAFETY: see above.
    unsafe { object.free::<Suite>() }
}

unsafe extern "C" fn info(object: Object) -> ROption<SuiteDescription> {
    // SAFETY: see above.
    let suite = unsafe { object.get::<Suite>() };
    catch(|| {
        let SuiteInfo { id, name, hash_len, implementation } = suite.info();
        SuiteDescription { id, hash_len, name: name.into(), implementation: implementation.into() }
    })
    .into()
}

unsafe extern "C" fn hash(object: Object, data: RSlice<'_, u8>, out: RSliceMut<'_, u8>) -> CipherStatus {
    // SAFETY: see above.
    let suite = unsafe { object.get::<Suite>() };
    run(|| suite.hash(data.as_slice(), out.into_mut_slice()))
}

unsafe extern "C" fn mac(
    object: Object,
    key: RSlice<'_, u8>,
    data: RSlice<'_, u8>,
    out: RSliceMut<'_, u8>,
) -> CipherStatus {
    // SAFETY: see above.
    let suite = unsafe { object.get::<Suite>() };
    run(|| suite.mac(key.as_slice(), data.as_slice(), out.into_mut_slice()))
}

unsafe extern "C" fn seal(
    object: Object,
    key: RSlice<'_, u8>,
    nonce: RSlice<'_, u8>,
    aad: RSlice<'_, u8>,
    plaintext: RSlice<'_, u8>,
    out: RSliceMut<'_, u8>,
) -> CipherStatus {
    // SAFETY: see above.
    let suite = unsafe { object.get::<Suite>() };
    run(|| suite.seal(key.as_slice(), nonce.as_slice(), aad.as_slice(), plaintext.as_slice(), out.into_mut_slice()))
}

unsafe extern "C" fn open(
    object: Object,
    key: RSlice<'_, u8>,
    nonce: RSlice<'_, u8>,
    aad: RSlice<'_, u8>,
    ciphertext: RSlice<'_, u8>,
    out: RSliceMut<'_, u8>,
) -> CipherStatus {
    // SAFETY: see above.
    let suite = unsafe { object.get::<Suite>() };
    run(|| suite.open(key.as_slice(), nonce.as_slice(), aad.as_slice(), ciphertext.as_slice(), out.into_mut_slice()))
}

unsafe extern "C" fn random(object: Object, out: RSliceMut<'_, u8>) -> CipherStatus {
    // SAFETY: see above.
    let suite = unsafe { object.get::<Suite>() };
    run(|| suite.random(out.into_mut_slice()))
}

fn run(call: impl FnOnce() -> Result<(), CipherError>) -> CipherStatus {
    catch(call).map_or(CipherStatus::PANICKED, Into::into)
}

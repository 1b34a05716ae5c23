//! What the `openssl` crate lacks: HMAC and random bytes of a library context, loading of a
//! configuration into one, and the version of a provider. The only unsafe code of this plugin.
//!
//! Pointers that OpenSSL gives lie in a type each, which frees them when dropped. Those handed in come
//! from references, which outlive the call; OpenSSL keeps none of them.

use std::{
    ffi::{CStr, CString, c_char, c_int, c_uint, c_void},
    os::unix::ffi::OsStrExt,
    path::Path,
    ptr::{self, NonNull},
};

use foreign_types::ForeignTypeRef;
use openssl::{error::ErrorStack, lib_ctx::LibCtx, provider::ProviderRef};
use openssl_sys as ffi;

unsafe extern "C" {
    fn OSSL_LIB_CTX_load_config(context: *mut ffi::OSSL_LIB_CTX, file: *const c_char) -> c_int;
    fn OSSL_PROVIDER_get_params(provider: *const ffi::OSSL_PROVIDER, params: *mut ffi::OSSL_PARAM) -> c_int;
    fn RAND_bytes_ex(context: *mut ffi::OSSL_LIB_CTX, out: *mut u8, len: usize, strength: c_uint) -> c_int;
}

/// HMAC over a digest, without a key.
pub(crate) struct Mac(NonNull<ffi::EVP_MAC_CTX>);

// SAFETY: after `fetch` the context is only read, by `EVP_MAC_CTX_dup`, and what that shares between
// copies (algorithms) is counted atomically by OpenSSL.
unsafe impl Send for Mac {}
// SAFETY: as above.
unsafe impl Sync for Mac {}

impl Mac {
    /// HMAC over `digest` (OpenSSL's name), both with these properties.
    pub(crate) fn fetch(context: &LibCtx, digest: &CStr, properties: &CStr) -> Result<Self, ErrorStack> {
        // SAFETY: strings that end with a zero; an `EVP_MAC` is freed once here, and the context has a
        // reference of its own.
        let template = unsafe {
            let mac = ffi::EVP_MAC_fetch(context.as_ptr(), c"HMAC".as_ptr(), properties.as_ptr());
            let mac = NonNull::new(mac).ok_or_else(ErrorStack::get)?;
            let template = ffi::EVP_MAC_CTX_new(mac.as_ptr());
            ffi::EVP_MAC_free(mac.as_ptr());
            Self(NonNull::new(template).ok_or_else(ErrorStack::get)?)
        };
        let params = [text(c"digest", digest), text(c"properties", properties), END];
        // SAFETY: the list ends with `END`, and its texts are only read, within the call.
        check(unsafe { ffi::EVP_MAC_CTX_set_params(template.0.as_ptr(), params.as_ptr()) })?;
        Ok(template)
    }

    /// The MAC of `data` under `key` (any length) into `out` of the digest's size.
    pub(crate) fn sign(&self, key: &[u8], data: &[u8], out: &mut [u8]) -> Result<(), ErrorStack> {
        // SAFETY: the template is valid as long as `self`. What is made of it is freed, and its key wiped,
        // when `copy` is dropped.
        let copy = Self(NonNull::new(unsafe { ffi::EVP_MAC_CTX_dup(self.0.as_ptr()) }).ok_or_else(ErrorStack::get)?);
        let copy = copy.0.as_ptr();
        let mut len = 0;
        // SAFETY: each pointer goes with the length of its slice; `out` is not written beyond that.
        unsafe {
            check(ffi::EVP_MAC_init(copy, key.as_ptr(), key.len(), ptr::null()))?;
            check(ffi::EVP_MAC_update(copy, data.as_ptr(), data.len()))?;
            check(ffi::EVP_MAC_final(copy, out.as_mut_ptr(), &raw mut len, out.len()))?;
        }
        if len == out.len() { Ok(()) } else { Err(ErrorStack::get()) }
    }
}

impl Drop for Mac {
    fn drop(&mut self) {
        // SAFETY: made by `EVP_MAC_CTX_new` or `_dup`, and freed nowhere else.
        unsafe { ffi::EVP_MAC_CTX_free(self.0.as_ptr()) }
    }
}

/// Random bytes from the context's generator.
pub(crate) fn random(context: &LibCtx, out: &mut [u8]) -> Result<(), ErrorStack> {
    // SAFETY: writes `out.len()` bytes.
    check(unsafe { RAND_bytes_ex(context.as_ptr(), out.as_mut_ptr(), out.len(), 0) })
}

/// Loads a configuration file, or the system's, into the context.
pub(crate) fn load_configuration(context: &LibCtx, file: Option<&Path>) -> Result<(), ErrorStack> {
    let file = file.map(|file| CString::new(file.as_os_str().as_bytes())).transpose().map_err(|_| ErrorStack::get())?;
    // SAFETY: a string that ends with a zero, or null for the system's file.
    check(unsafe {
        OSSL_LIB_CTX_load_config(context.as_ptr(), file.as_ref().map_or(ptr::null(), |file| file.as_ptr()))
    })
}

/// From now on the context uses nothing but FIPS algorithms, for its random generator too.
pub(crate) fn require_fips(context: &LibCtx) -> Result<(), ErrorStack> {
    // SAFETY: a valid context that no other thread has yet.
    check(unsafe { ffi::EVP_default_properties_enable_fips(context.as_ptr(), 1) })
}

/// The provider's own version.
pub(crate) fn version(provider: &ProviderRef) -> Option<String> {
    let mut value: *const c_char = ptr::null();
    let param = ffi::OSSL_PARAM {
        key: c"version".as_ptr(),
        data_type: UTF8_PTR,
        data: (&raw mut value).cast::<c_void>(),
        data_size: 0,
        return_size: UNMODIFIED,
    };
    let mut params = [param, END];
    // SAFETY: the list ends with `END`. `value` is null afterwards, or points to a string that ends with a
    // zero and that the provider keeps.
    unsafe {
        check(OSSL_PROVIDER_get_params(provider.as_ptr(), params.as_mut_ptr())).ok()?;
        if value.is_null() { None } else { CStr::from_ptr(value).to_str().ok().map(str::to_owned) }
    }
}

/// OpenSSL's answers: 1 is well.
fn check(answer: c_int) -> Result<(), ErrorStack> {
    if answer == 1 { Ok(()) } else { Err(ErrorStack::get()) }
}

/// A parameter that is a text; OpenSSL does not write to those that set something.
fn text(key: &CStr, value: &CStr) -> ffi::OSSL_PARAM {
    ffi::OSSL_PARAM {
        key: key.as_ptr(),
        data_type: UTF8_STRING,
        data: value.as_ptr().cast_mut().cast::<c_void>(),
        data_size: value.count_bytes(),
        return_size: UNMODIFIED,
    }
}

/// The end of a list of parameters.
const END: ffi::OSSL_PARAM =
    ffi::OSSL_PARAM { key: ptr::null(), data_type: 0, data: ptr::null_mut(), data_size: 0, return_size: 0 };

// <openssl/core.h> and <openssl/params.h>
const UTF8_STRING: c_uint = 4;
const UTF8_PTR: c_uint = 6;
const UNMODIFIED: usize = usize::MAX;

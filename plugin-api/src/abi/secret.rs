//! A secret that is wiped and freed by the library that allocated it.

use abi_stable::StableAbi;

use crate::SecretBytes;

/// Owned bytes of fixed length. No `Debug`, no clone.
#[repr(C)]
#[derive(StableAbi)]
pub struct SecretBuffer {
    data: *mut u8,
    len: usize,
    release: unsafe extern "C" fn(*mut u8, usize),
}

// SAFETY: it owns plain bytes, and `release` is a function without state.
unsafe impl Send for SecretBuffer {}

impl From<SecretBytes> for SecretBuffer {
    /// Without a copy.
    fn from(secret: SecretBytes) -> Self {
        let bytes = Box::leak(secret.into_box());
        Self { data: bytes.as_mut_ptr(), len: bytes.len(), release }
    }
}

impl From<SecretBuffer> for SecretBytes {
    /// By a copy into this library's memory; the other one wipes its own.
    fn from(buffer: SecretBuffer) -> Self {
        // SAFETY: the library that made the buffer gave a pointer to `len` initialised bytes that it
        // does not touch before `release`.
        Self::copy_from(unsafe { std::slice::from_raw_parts(buffer.data, buffer.len) })
    }
}

impl Drop for SecretBuffer {
    fn drop(&mut self) {
        // SAFETY: called once, with what the same library put in.
        unsafe { (self.release)(self.data, self.len) }
    }
}

unsafe extern "C" fn release(data: *mut u8, len: usize) {
    // SAFETY: `data` and `len` come from the box leaked in `From<SecretBytes>`.
    let bytes = unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(data, len)) };
    drop(SecretBytes::from_box(bytes));
}

//! A user store and key custody in a PKCS#11 module.

#![forbid(unsafe_code)]

//! The management server's side: [`login`] is what the reply processor runs,
//! [`enrol`] hands out credentials.

pub mod enrol;
pub mod login;

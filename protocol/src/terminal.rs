//! The terminal's side: [`login`] signs on, [`enrol`] turns a code into a credential.

pub mod enrol;
pub mod login;

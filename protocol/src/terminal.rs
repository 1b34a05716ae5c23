//! The terminal's side: [`login`] signs on, [`rotate`] gets new keys,
//! [`directory`] learns where services are, [`enrol`] turns a code into a
//! credential. What all envelopes share is in [`envelope`].

pub mod directory;
pub mod enrol;
pub mod envelope;
pub mod login;
pub mod rotate;

//! The management server's side. What all envelopes go through is in
//! [`envelope`]; [`login`] is what the reply processor runs for services,
//! [`rotate`] and [`directory`] what terminals ask for themselves, [`enrol`]
//! hands out credentials.

pub mod directory;
pub mod enrol;
pub mod envelope;
pub mod login;
pub mod rotate;

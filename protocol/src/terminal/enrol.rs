//! Enrolment as the terminal sees it (section 8): [`start`] → [`AwaitOffer`]
//! → (store the credential durably) → [`AwaitDone`].

use std::fmt;

use subtle::ConstantTimeEq;

use crate::{
    enrolment_code::EnrolmentCode,
    kem::{KemError, TerminalKey},
    message::{Enrol1, Enrol2, Enrol3, Enrol4, EnrolBox},
    names::Realm,
    registry::{KemId, SuiteId},
    schedule::enrolment as keys,
    secret::Secret32,
    suite::{Digest, Suite, SuiteError},
};

/// Why an enrolment failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnrolError {
    /// The answer is not of the protocol.
    #[error("the management server's answer is malformed")]
    Malformed,
    /// The answer was not made with this enrolment code. Somebody stands between.
    #[error("the management server's answer does not belong to this enrolment code")]
    NotAuthentic,
    /// The key share is not valid, or the KEM is not offered.
    #[error(transparent)]
    Kem(#[from] KemError),
    /// The cipher library failed.
    #[error(transparent)]
    Suite(#[from] SuiteError),
}

/// Makes E1. `nonce` and `kem_random` are fresh random bytes.
pub fn start(
    suite: &dyn Suite,
    suite_id: SuiteId,
    realm: &Realm,
    code: &EnrolmentCode,
    kem: KemId,
    nonce: &[u8; 32],
    kem_random: &Secret32,
) -> Result<(Vec<u8>, AwaitOffer), EnrolError> {
    let (ephemeral, share) = TerminalKey::generate(kem, kem_random)?;
    start_with(suite, suite_id, realm, code, (kem, ephemeral, &share), nonce)
}

/// As [`start`], with a key share made already: for test vectors.
#[cfg_attr(not(feature = "vectors"), doc(hidden))]
pub fn start_with(
    suite: &dyn Suite,
    suite_id: SuiteId,
    realm: &Realm,
    code: &EnrolmentCode,
    (kem, ephemeral, share): (KemId, TerminalKey, &[u8]),
    nonce: &[u8; 32],
) -> Result<(Vec<u8>, AwaitOffer), EnrolError> {
    let psk = code.psk();
    let mut e1 = Enrol1::body(suite_id, realm, &code.id(), nonce, kem, share);
    let tag = keys::request_tag(suite, &psk, &e1)?;
    e1.extend_from_slice(&tag);
    let hash = crate::schedule::hash(suite, &e1)?;
    Ok((e1, AwaitOffer { id: code.id(), psk, ephemeral, hash }))
}

/// An enrolment whose E1 was sent.
#[derive(Debug)]
pub struct AwaitOffer {
    id: [u8; 8],
    psk: Secret32,
    ephemeral: TerminalKey,
    hash: Digest,
}

/// What the management server offers: to be stored durably before E3 is sent.
pub struct Offered {
    /// User id, epoch, floors and the server's time.
    pub details: EnrolBox,
    /// The unique key.
    pub unique_key: Secret32,
    /// The management authentication key.
    pub management_key: Secret32,
    /// E3, to be sent after the credential is stored.
    pub confirm: Vec<u8>,
    /// Below 1,000,000: shown with six digits where an administrator has to
    /// compare both sides before the credential becomes active.
    pub comparison: u32,
}

impl AwaitOffer {
    /// Judges E2 (attacker-controlled).
    pub fn receive(&self, suite: &dyn Suite, e2: &[u8]) -> Result<(Offered, AwaitDone), EnrolError> {
        let e2 = Enrol2::decode(e2).map_err(|_| EnrolError::Malformed)?;
        let shared = self.ephemeral.agree(e2.share)?;
        let secrets = keys::Secrets::derive(suite, &self.psk, shared.expose(), &self.hash, e2.body)?;
        let plain = secrets.box_key(suite)?.open(suite, e2.body, e2.ciphertext).map_err(|error| match error {
            SuiteError::Rejected => EnrolError::NotAuthentic,
            other => EnrolError::Suite(other),
        })?;
        let details = EnrolBox::decode(&plain).map_err(|_| EnrolError::Malformed)?;
        let confirmation = secrets.confirmation(suite, e2.bytes)?;
        let offered = Offered {
            details,
            unique_key: secrets.unique_key(suite)?,
            management_key: secrets.management_key(suite)?,
            confirm: Enrol3 { id: self.id, tag: confirmation.terminal }.encode(),
            comparison: confirmation.comparison,
        };
        Ok((offered, AwaitDone { tag: confirmation.manager }))
    }
}

/// An enrolment whose E3 was sent. E3 may be sent again.
pub struct AwaitDone {
    tag: [u8; 32],
}

impl AwaitDone {
    /// Takes up again an enrolment whose E4 never came, from what
    /// [`Self::expected`] gave before the terminal was stopped.
    pub fn resume(expected: [u8; 32]) -> Self {
        Self { tag: expected }
    }

    /// What E4 will prove, to be stored beside E3. A secret until E4 has come.
    pub fn expected(&self) -> &[u8; 32] {
        &self.tag
    }

    /// Judges E4 (attacker-controlled).
    pub fn receive(&self, e4: &[u8]) -> Result<(), EnrolError> {
        let e4 = Enrol4::decode(e4).map_err(|_| EnrolError::Malformed)?;
        if bool::from(e4.tag.ct_eq(&self.tag)) { Ok(()) } else { Err(EnrolError::NotAuthentic) }
    }
}

impl fmt::Debug for AwaitDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AwaitDone(redacted)")
    }
}

impl fmt::Debug for Offered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Offered(redacted)")
    }
}

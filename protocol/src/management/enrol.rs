//! Enrolment as the management server sees it (section 8): [`Request`] is a
//! decoded E1, [`Request::verify`] needs the code's key, [`Verified::offer`]
//! makes E2, [`PendingEnrolment::confirm`] answers E3 with E4.

use std::fmt;

use subtle::ConstantTimeEq;

use crate::{
    Code,
    codec::Write,
    enrolment_code::EnrolmentId,
    kem::{self, KemError},
    message::{Enrol1, Enrol2, Enrol3, Enrol4, EnrolBox},
    names::Realm,
    registry::{KemId, SuiteId},
    schedule::{self, enrolment as keys},
    secret::Secret32,
    suite::{Suite, TAG_LEN},
};

/// Decodes E1 (attacker-controlled) and checks realm, suite and KEM.
pub fn receive<'a>(e1: &'a [u8], realm: &Realm, suites: &[SuiteId], kems: &[KemId]) -> Result<Request<'a>, Code> {
    let e1 = Enrol1::decode(e1).map_err(|_| Code::Malformed)?;
    if e1.realm != realm.as_str() || !suites.contains(&e1.suite) || !kems.contains(&e1.kem) {
        return Err(Code::Unsupported);
    }
    Ok(Request(e1))
}

/// A well-formed request to enrol.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a>(Enrol1<'a>);

impl<'a> Request<'a> {
    /// Which code it is about.
    pub fn id(&self) -> EnrolmentId {
        self.0.id
    }

    /// The suite the terminal wants.
    pub fn suite(&self) -> SuiteId {
        self.0.suite
    }

    /// Checks the MAC under the code's key; for an unknown code the caller
    /// hands in a dummy key, and `known` false, so that the time is the same.
    pub fn verify(self, suite: &dyn Suite, psk: &Secret32, known: bool) -> Result<Verified<'a>, Code> {
        let tag = keys::request_tag(suite, psk, self.0.body).map_err(|_| Code::Unavailable)?;
        if bool::from(tag.ct_eq(&self.0.tag)) & known { Ok(Verified(self.0)) } else { Err(Code::AuthFailed) }
    }
}

/// A request whose sender knows the enrolment code.
#[derive(Debug, Clone, Copy)]
pub struct Verified<'a>(Enrol1<'a>);

/// The keys of an enrolment that awaits its E3. To be stored, sealed, before E2 is sent.
#[derive(Clone)]
pub struct PendingEnrolment {
    /// The unique key.
    pub unique_key: Secret32,
    /// The management authentication key.
    pub management_key: Secret32,
    /// What E3 must prove.
    pub terminal_tag: [u8; 32],
    /// What E4 will say.
    pub manager_tag: [u8; 32],
    /// Below 1,000,000: what an administrator compares with the terminal, as
    /// six digits, where the realm holds the activation until then.
    pub comparison: u32,
}

impl Verified<'_> {
    /// Makes E2 and the keys. `nonce` and `kem_random` are fresh random bytes.
    pub fn offer(
        self,
        suite: &dyn Suite,
        psk: &Secret32,
        details: &EnrolBox,
        nonce: &[u8; 32],
        kem_random: &Secret32,
    ) -> Result<(Vec<u8>, PendingEnrolment), Code> {
        let (share, shared) = kem::respond(self.0.kem, self.0.share, kem_random).map_err(|error| match error {
            KemError::InvalidShare => Code::Malformed,
            KemError::Failed => Code::Unavailable,
        })?;
        self.offer_with(suite, psk, details, nonce, &share, shared.expose())
    }

    /// As [`Self::offer`], with share and shared secret made already: for test vectors.
    #[cfg_attr(not(feature = "vectors"), doc(hidden))]
    pub fn offer_with(
        self,
        suite: &dyn Suite,
        psk: &Secret32,
        details: &EnrolBox,
        nonce: &[u8; 32],
        share: &[u8],
        shared: &[u8],
    ) -> Result<(Vec<u8>, PendingEnrolment), Code> {
        let body = Enrol2::body(nonce, share);
        let failed = |_| Code::Unavailable;
        let hash = schedule::hash(suite, self.0.bytes).map_err(failed)?;
        let secrets = keys::Secrets::derive(suite, psk, shared, &hash, &body).map_err(failed)?;
        let plain = details.encode();
        let mut e2 = body.clone();
        e2.put_u16((plain.len() + TAG_LEN) as u16);
        secrets.box_key(suite).and_then(|key| key.seal_into(suite, &body, &plain, &mut e2)).map_err(failed)?;
        let confirmation = secrets.confirmation(suite, &e2).map_err(failed)?;
        let pending = PendingEnrolment {
            unique_key: secrets.unique_key(suite).map_err(failed)?,
            management_key: secrets.management_key(suite).map_err(failed)?,
            terminal_tag: confirmation.terminal,
            manager_tag: confirmation.manager,
            comparison: confirmation.comparison,
        };
        Ok((e2, pending))
    }
}

impl PendingEnrolment {
    /// Judges E3 (attacker-controlled) and gives E4. The same E3 gives the same E4.
    pub fn confirm(&self, e3: &Enrol3) -> Result<Vec<u8>, Code> {
        if bool::from(e3.tag.ct_eq(&self.terminal_tag)) {
            Ok(Enrol4 { tag: self.manager_tag }.encode())
        } else {
            Err(Code::AuthFailed)
        }
    }
}

impl fmt::Debug for PendingEnrolment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PendingEnrolment(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{aws_lc::AwsLc, enrolment_code::EnrolmentCode, terminal::enrol as terminal};

    #[test]
    fn both_sides_show_the_same_string_and_another_run_another_one() {
        let (code, realm) = (EnrolmentCode::new([7; 16]), "example".parse().unwrap());
        let details = EnrolBox {
            user_id: b"alice".to_vec(),
            epoch: 1,
            suite_floor: SuiteId::AES_256_GCM_SHA256,
            kem_floor: KemId::None,
            server_time_ms: 1,
        };
        let mut seen = Vec::new();
        for (id, nonce) in
            [(SuiteId::AES_256_GCM_SHA256, 1), (SuiteId::AES_256_GCM_SHA256, 2), (SuiteId::AES_256_GCM_SHA384, 1)]
        {
            let suite = AwsLc::suite(id).unwrap();
            let random = Secret32::new([3; 32]);
            let (e1, awaiting) =
                terminal::start(suite, id, &realm, &code, KemId::X25519, &[nonce; 32], &random).unwrap();
            let request = receive(&e1, &realm, &[id], &[KemId::X25519]).unwrap();
            let verified = request.verify(suite, &code.psk(), true).unwrap();
            let (e2, pending) = verified.offer(suite, &code.psk(), &details, &[nonce; 32], &random).unwrap();
            let (offered, _) = awaiting.receive(suite, &e2).unwrap();
            assert_eq!(offered.comparison, pending.comparison);
            assert!(pending.comparison < 1_000_000 && !seen.contains(&pending.comparison));
            seen.push(pending.comparison);
        }
    }
}

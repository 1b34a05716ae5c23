//! An enrolment: [`start`] → [`AwaitOffer::receive`] → (store the credential
//! durably) → [`confirmation`] → [`confirmed`].

use claviger_protocol::{
    KemId, Realm, Secret32, Suite, SuiteId,
    enrolment_code::EnrolmentCode,
    message::{Held, Refusal},
    terminal::enrol::{self, AwaitDone},
};
use data_encoding::HEXLOWER;
use zeroize::Zeroizing;

use super::{
    Request, Response,
    attempt::{MAX_OFFSET_MS, offset},
    realm::RealmInfo,
    user_id,
};
use crate::{
    credential::{Credential, NewCredential, Pending},
    error::{Error, Result},
    origin::Origin,
};

/// What to enrol with.
#[derive(Debug, Clone)]
pub struct Enrolment {
    /// The management server.
    pub server: Origin,
    /// The realm.
    pub realm: Realm,
    /// The code the user was given.
    pub code: EnrolmentCode,
    /// The suite to use.
    pub suite: SuiteId,
    /// The key agreement, of the enrolment and of later envelopes.
    pub kem: KemId,
    /// Certificates (PEM) to trust instead of the system's.
    pub ca: Option<String>,
    /// SHA-256 of the management server's SubjectPublicKeyInfo, to accept its
    /// certificate by that alone.
    pub spki: Option<[u8; 32]>,
    /// What the realm says of itself.
    pub info: RealmInfo,
}

/// Fresh random bytes for one enrolment.
pub struct Random {
    /// The nonce of E1.
    pub nonce: [u8; 32],
    /// Seed of the ephemeral key.
    pub kem: Secret32,
    /// Names the credential in the terminal's files.
    pub id: [u8; 16],
}

/// Makes E1.
pub fn start(enrolment: Enrolment, random: &Random) -> Result<(Request, AwaitOffer)> {
    let suite = super::suite(enrolment.suite)?;
    let Enrolment { realm, code, kem, .. } = &enrolment;
    let (e1, state) = enrol::start(suite, enrolment.suite, realm, code, *kem, &random.nonce, &random.kem)?;
    Ok((request(e1), AwaitOffer { enrolment, suite, state, id: HEXLOWER.encode(&random.id) }))
}

/// An enrolment whose E1 was sent.
pub struct AwaitOffer {
    enrolment: Enrolment,
    suite: &'static dyn Suite,
    state: enrol::AwaitOffer,
    id: String,
}

impl AwaitOffer {
    /// Judges the answer to E1, and makes the credential: to be stored durably
    /// before its [`confirmation`] is sent. `now_ms` is this machine's clock.
    pub fn receive(self, response: &Response, now_ms: u64) -> Result<Credential> {
        let Enrolment { server, realm, suite, kem, ca, spki, info, .. } = self.enrolment;
        let message = message(response, &server)?;
        let (offered, done) = self.state.receive(self.suite, message)?;
        let details = offered.details;
        if suite < details.suite_floor {
            return Err(Error::Invalid(format!(
                "the management server wants a stronger cipher suite; enrol again with `--suite {}`",
                details.suite_floor
            )));
        }
        if info.user_id_key.is_some() {
            user_id::check(&details.user_id)?;
        }
        let offset_ms = offset(details.server_time_ms, now_ms);
        let correct = (CLOCK_TOLERANCE_MS..=MAX_OFFSET_MS).contains(&offset_ms.unsigned_abs());
        Ok(Credential::new(NewCredential {
            id: self.id,
            server,
            realm,
            user_id: details.user_id,
            epoch: details.epoch,
            unique_key: offered.unique_key,
            management_key: offered.management_key,
            suite,
            kem: kem.max(details.kem_floor),
            suite_floor: details.suite_floor,
            kem_floor: details.kem_floor,
            clock_offset_ms: if correct { offset_ms } else { 0 },
            ca,
            spki,
            info,
            pending: Pending {
                confirm: Zeroizing::new(offered.confirm),
                expected: Secret32::new(*done.expected()),
                comparison: Some(offered.comparison),
            },
        }))
    }
}

/// E3 of a credential whose enrolment is not confirmed; may be sent again and again.
pub fn confirmation(credential: &Credential) -> Option<Request> {
    credential.pending.as_ref().map(|pending| request(pending.confirm.to_vec()))
}

/// Judges the answer to [`confirmation`]. On success the driver clears the
/// pending flag; a refusal here is not authentic and must delete nothing.
/// [`Error::Held`] when an administrator has to compare first.
pub fn confirmed(credential: &Credential, response: &Response) -> Result<()> {
    let Some(pending) = &credential.pending else { return Ok(()) };
    let message = message(response, &credential.server)?;
    if Held::decode(message).is_ok() {
        return Err(Error::Held { comparison: credential.comparison().unwrap_or_default() });
    }
    Ok(AwaitDone::resume(*pending.expected.expose()).receive(message)?)
}

/// Below this a difference is the network's as much as the clock's.
const CLOCK_TOLERANCE_MS: u64 = 30_000;

fn request(body: Vec<u8>) -> Request {
    Request::post("/idb/v1/enrol", body)
}

fn message<'a>(response: &'a Response, server: &Origin) -> Result<&'a [u8]> {
    let message = response.message(server.as_str())?;
    match Refusal::decode(message) {
        Ok(Refusal(code)) => Err(Error::Refused { origin: server.to_string(), code }),
        Err(_) => Ok(message),
    }
}

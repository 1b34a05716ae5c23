//! The service's side of a sign-on, in the order of section 5, "S":
//! [`receive`] (steps 1 to 4), [`Received::bound`] (step 5),
//! [`AwaitAnswer::receive`] (steps 8 and 9), [`Granted::reply`] (step 10).

use zeroize::Zeroizing;

use crate::{
    Code,
    codec::Write,
    kem,
    message::{Answer, Binding, Envelope, Header, KeyGrant, MessageType, reply_head},
    names::{Realm, ServiceId},
    registry::{KemId, SuiteId},
    schedule,
    secret::Secret32,
    suite::{Digest, Suite, SuiteError, TAG_LEN},
};

/// What a service accepts.
#[derive(Debug, Clone, Copy)]
pub struct Policy<'a> {
    /// Its own id.
    pub service: &'a ServiceId,
    /// Its realm, the one it has a management server for.
    pub realm: &'a Realm,
    /// Allowed suites.
    pub suites: &'a [SuiteId],
    /// Allowed KEMs.
    pub kems: &'a [KemId],
}

/// Steps 1 to 4: strict decoding, version, suite, KEM, service, realm.
/// `envelope` is attacker-controlled.
pub fn receive<'a>(envelope: &'a [u8], policy: &Policy<'_>) -> Result<Received<'a>, Code> {
    let envelope = Envelope::decode(envelope).map_err(|_| Code::Malformed)?;
    let header = &envelope.header;
    if header.kind != MessageType::Login {
        return Err(Code::Malformed);
    }
    if !is_supported(header, policy.suites, policy.kems) {
        return Err(Code::Unsupported);
    }
    if header.service != policy.service.as_str() {
        return Err(Code::WrongService);
    }
    if header.realm != policy.realm.as_str() {
        return Err(Code::Unsupported);
    }
    Ok(Received { envelope })
}

/// Whether this version, suite and KEM are served, and no unknown extension is critical.
pub(crate) fn is_supported(header: &Header<'_>, suites: &[SuiteId], kems: &[KemId]) -> bool {
    header.is_this_version()
        && suites.contains(&header.suite)
        && kems.contains(&header.kem)
        && !header.critical_extension
}

/// An envelope that this service may forward once its binding is checked.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    envelope: Envelope<'a>,
}

/// What the service knows of a binding: the proof that step 5 asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BindingCheck {
    /// There is none, and policy requires none.
    NotRequired,
    /// It is a challenge that this service gave out, less than 60 s ago, and has now spent.
    OwnChallenge,
    /// It is the exporter of the connection on which the envelope came.
    ThisConnection,
    /// It is none of these.
    Failed,
}

impl<'a> Received<'a> {
    /// The envelope's header; attacker-controlled.
    pub fn header(&self) -> &Header<'a> {
        &self.envelope.header
    }

    /// Step 5: takes the outcome of the binding check.
    pub fn bound(self, check: BindingCheck) -> Result<Bound<'a>, Code> {
        let holds = matches!(
            (self.envelope.header.binding, check),
            (Binding::None, BindingCheck::NotRequired)
                | (Binding::Challenge(_), BindingCheck::OwnChallenge)
                | (Binding::TlsExporter(_), BindingCheck::ThisConnection)
        );
        if holds { Ok(Bound(self)) } else { Err(Code::BindMismatch) }
    }
}

/// An envelope to be forwarded, unchanged, to the management server.
#[derive(Debug, Clone, Copy)]
pub struct Bound<'a>(Received<'a>);

impl<'a> Bound<'a> {
    /// The bytes to forward.
    pub fn forward(&self) -> &'a [u8] {
        self.0.envelope.bytes
    }

    /// Keeps what is needed to judge the answer.
    pub fn await_answer(&self, suite: &dyn Suite) -> Result<AwaitAnswer<'a>, SuiteError> {
        let envelope = &self.0.envelope;
        Ok(AwaitAnswer {
            envelope_hash: schedule::hash(suite, envelope.bytes)?,
            kem: envelope.header.kem,
            share: envelope.header.share,
        })
    }
}

/// A sign-on whose envelope is at the management server.
#[derive(Debug)]
pub struct AwaitAnswer<'a> {
    envelope_hash: Digest,
    kem: KemId,
    share: &'a [u8],
}

/// The management server's decision.
#[derive(Debug)]
pub enum Answered<'a, 'b> {
    /// Step 9: who signed on, from the management server alone.
    Granted(Granted<'a, 'b>),
    /// Refused, with the note to pass on (may be empty).
    Refused {
        /// What the service may know.
        code: Code,
        /// What only the terminal can read.
        note: &'b [u8],
    },
}

/// The answer is not one to this envelope: drop the connection; the terminal
/// gets [`Code::Unavailable`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the management server's answer does not belong to this envelope")]
pub struct AnswerMismatch;

impl<'a> AwaitAnswer<'a> {
    /// Steps 8 and 9.
    pub fn receive<'b>(self, answer: &'b [u8]) -> Result<Answered<'a, 'b>, AnswerMismatch> {
        let answer = Answer::decode(answer).map_err(|_| AnswerMismatch)?;
        if answer.envelope_hash != self.envelope_hash.as_slice() {
            return Err(AnswerMismatch);
        }
        Ok(match answer.grant {
            Some(grant) => Answered::Granted(Granted {
                session_password: grant.session_password,
                auth_id: grant.auth_id,
                subject: grant.subject,
                auth_time_ms: grant.auth_time_ms,
                max_session: grant.max_session,
                attributes: grant.attributes,
                note: answer.note,
                awaited: self,
            }),
            None => Answered::Refused { code: answer.code, note: answer.note },
        })
    }
}

/// A sign-on that the management server granted.
#[derive(Debug)]
pub struct Granted<'a, 'b> {
    /// Names this sign-on.
    pub auth_id: [u8; 16],
    /// The subject, as this service knows the user.
    pub subject: &'b str,
    /// When the user was authenticated, in milliseconds since 1970.
    pub auth_time_ms: u64,
    /// The longest session in seconds.
    pub max_session: u32,
    /// Released attributes: a JSON object.
    pub attributes: &'b [u8],
    session_password: Secret32,
    note: &'b [u8],
    awaited: AwaitAnswer<'a>,
}

/// Why a reply could not be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// The terminal's key share is not valid: [`Code::Malformed`].
    #[error("the terminal's key share is not valid")]
    Share,
    /// The key is empty or too long: a fault of the issuer.
    #[error("the issued key is empty or too long")]
    Key,
    /// The cipher library failed.
    #[error(transparent)]
    Suite(#[from] SuiteError),
}

impl Granted<'_, '_> {
    /// Step 10: seals the issued key for the terminal. `nonce` and `kem_random`
    /// are fresh random bytes.
    pub fn reply(
        self,
        suite: &dyn Suite,
        grant: &KeyGrant,
        nonce: &[u8; 32],
        kem_random: &Secret32,
    ) -> Result<Vec<u8>, ReplyError> {
        let (share, shared) =
            kem::respond(self.awaited.kem, self.awaited.share, kem_random).map_err(|_| ReplyError::Share)?;
        self.reply_with(suite, grant, nonce, &share, shared.expose())
    }

    /// As [`Self::reply`], with share and shared secret made already: for test vectors.
    #[cfg_attr(not(feature = "vectors"), doc(hidden))]
    pub fn reply_with(
        self,
        suite: &dyn Suite,
        grant: &KeyGrant,
        nonce: &[u8; 32],
        share: &[u8],
        shared: &[u8],
    ) -> Result<Vec<u8>, ReplyError> {
        let plain: Zeroizing<Vec<u8>> = grant.encode().map_err(|_| ReplyError::Key)?;
        let head = reply_head(Code::Ok, nonce, share, self.note);
        let transcript = schedule::transcript(suite, &self.awaited.envelope_hash, &head)?;
        let key = schedule::reply_key(suite, &self.session_password, shared, &transcript)?;
        let mut reply = head.clone();
        reply.put_u16((plain.len() + TAG_LEN) as u16);
        key.seal_into(suite, &head, &plain, &mut reply)?;
        Ok(reply)
    }
}

/// A reply without a key. `note` is the management server's, or empty.
pub fn refusal(code: Code, nonce: &[u8; 32], note: &[u8]) -> Vec<u8> {
    debug_assert!(code != Code::Ok);
    let mut reply = reply_head(code, nonce, &[], note);
    reply.put_u16(0);
    reply
}

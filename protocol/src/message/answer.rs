//! The management server's answer to a service (section 3.2).

use crate::{
    code::Code,
    codec::{Malformed, Reader, Result, Write},
    message::{MAGIC, MAX_NOTE},
    secret::Secret32,
};

/// The longest attributes in bytes.
pub const MAX_ATTRIBUTES: usize = 16_384;

/// What a service receives for a sign-on that was granted.
#[derive(Debug)]
pub struct Grant<'a> {
    /// The session password of the terminal.
    pub session_password: Secret32,
    /// Names this sign-on, for logs and revocation.
    pub auth_id: [u8; 16],
    /// Who signed on, as this service knows them: 1 to 255 bytes.
    pub subject: &'a str,
    /// When the user was authenticated, in milliseconds since 1970.
    pub auth_time_ms: u64,
    /// The longest session in seconds.
    pub max_session: u32,
    /// Released attributes: a JSON object.
    pub attributes: &'a [u8],
}

/// A decoded answer. The service trusts the peer for it (mutual TLS), and
/// still decodes it strictly.
#[derive(Debug)]
pub struct Answer<'a> {
    /// The status; [`Code::Ok`] exactly when there is a grant.
    pub code: Code,
    /// `H(E)` of the envelope that is answered: 32 or 48 bytes.
    pub envelope_hash: &'a [u8],
    /// What was granted.
    pub grant: Option<Grant<'a>>,
    /// The sealed note for the terminal; empty when the envelope did not authenticate.
    pub note: &'a [u8],
}

impl<'a> Answer<'a> {
    /// Decodes the whole of `bytes`.
    pub fn decode(bytes: &'a [u8]) -> Result<Self> {
        let mut r = Reader::new(bytes);
        r.expect(&MAGIC)?;
        r.expect(&[TYPE])?;
        let code = Code::from_wire(r.u8()?).ok_or(Malformed)?;
        let envelope_hash = r.v8(48)?;
        if !matches!(envelope_hash.len(), 32 | 48) {
            return Err(Malformed);
        }
        let grant = if code == Code::Ok {
            Some(Grant {
                session_password: Secret32::new(r.array()?),
                auth_id: r.array()?,
                subject: match std::str::from_utf8(r.v8(255)?) {
                    Ok(subject) if !subject.is_empty() => subject,
                    _ => return Err(Malformed),
                },
                auth_time_ms: r.u64()?,
                max_session: r.u32()?,
                attributes: r.v16(MAX_ATTRIBUTES)?,
            })
        } else {
            None
        };
        let note = r.v16(MAX_NOTE)?;
        r.end()?;
        if grant.is_some() && note.is_empty() {
            return Err(Malformed);
        }
        Ok(Self { code, envelope_hash, grant, note })
    }

    /// Encodes the answer. It may hold the session password: the caller wipes it.
    pub fn encode(&self) -> Vec<u8> {
        let extra = self.grant.as_ref().map_or(0, |g| 32 + 16 + 1 + g.subject.len() + 8 + 4 + 2 + g.attributes.len());
        let mut out = Vec::with_capacity(4 + 1 + 1 + 1 + self.envelope_hash.len() + extra + 2 + self.note.len());
        out.put(&MAGIC);
        out.put_u8(TYPE);
        out.put_u8(self.code.to_wire());
        out.put_v8(self.envelope_hash);
        if let Some(grant) = &self.grant {
            out.put(grant.session_password.expose());
            out.put(&grant.auth_id);
            out.put_v8(grant.subject.as_bytes());
            out.put_u64(grant.auth_time_ms);
            out.put_u32(grant.max_session);
            out.put_v16(grant.attributes);
        }
        out.put_v16(self.note);
        out
    }
}

const TYPE: u8 = 0x83;

#[cfg(test)]
mod tests {
    use super::*;

    fn granted() -> Vec<u8> {
        let grant = Grant {
            session_password: Secret32::new([1; 32]),
            auth_id: [2; 16],
            subject: "subject",
            auth_time_ms: 3,
            max_session: 4,
            attributes: b"{}",
        };
        Answer { code: Code::Ok, envelope_hash: &[5; 32], grant: Some(grant), note: &[6; 53] }.encode()
    }

    #[test]
    fn round_trip_and_strictness() {
        let refused = Answer { code: Code::Denied, envelope_hash: &[5; 48], grant: None, note: &[] }.encode();
        for bytes in [granted(), refused] {
            let answer = Answer::decode(&bytes).unwrap();
            assert_eq!(answer.encode(), bytes);
            for len in 0..bytes.len() {
                assert_eq!(Answer::decode(&bytes[..len]).unwrap_err(), Malformed);
            }
            assert_eq!(Answer::decode(&[bytes.as_slice(), &[0]].concat()).unwrap_err(), Malformed);
        }
    }

    #[test]
    fn a_grant_needs_a_note_and_a_refusal_has_no_grant() {
        let bytes = granted();
        let mut refused = bytes.clone();
        refused[5] = Code::Denied.to_wire();
        assert_eq!(Answer::decode(&refused).unwrap_err(), Malformed);
        let mut no_note = bytes[..bytes.len() - 55].to_vec();
        no_note.extend_from_slice(&[0, 0]);
        assert_eq!(Answer::decode(&no_note).unwrap_err(), Malformed);
    }
}

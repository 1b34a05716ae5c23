//! The values of an issuer as they cross.

use abi_stable::{
    StableAbi,
    std_types::{RNone, ROption, RSlice, RSome, RStr, RString, RVec},
};
use zeroize::Zeroize;

use super::{secret::SecretBuffer, time::Time};
use crate::{Identity, IssueRequest, IssuedKey, KeyKind, PluginError, Presented, Session, Verified};

/// An [`Identity`] on the way in.
#[repr(C)]
#[derive(StableAbi)]
pub struct IdentityRef<'a> {
    service: RStr<'a>,
    subject: RStr<'a>,
    auth_id: [u8; 16],
    auth_time: Time,
    attributes: RStr<'a>,
}

/// An [`Identity`] on the way out.
#[repr(C)]
#[derive(StableAbi)]
pub struct IdentityParts {
    service: RString,
    subject: RString,
    auth_id: [u8; 16],
    auth_time: Time,
    attributes: RString,
}

/// An [`IssueRequest`].
#[repr(C)]
#[derive(StableAbi)]
pub struct IssueParts<'a> {
    identity: IdentityRef<'a>,
    lifetime: Time,
    pending: Time,
}

/// An [`IssuedKey`].
#[repr(C)]
#[derive(StableAbi)]
pub struct IssuedParts {
    kind: u8,
    key_id: RVec<u8>,
    key: SecretBuffer,
    lifetime: Time,
}

/// A header of [`Presented`].
#[repr(C)]
#[derive(StableAbi)]
pub struct HeaderRef<'a> {
    name: RStr<'a>,
    value: RSlice<'a, u8>,
}

/// A [`Presented`].
#[repr(C)]
#[derive(StableAbi)]
pub struct PresentedParts<'a> {
    service: RStr<'a>,
    method: RStr<'a>,
    scheme: RStr<'a>,
    authority: RStr<'a>,
    target: RStr<'a>,
    headers: RSlice<'a, HeaderRef<'a>>,
}

/// A [`Verified`]: the session is there exactly when `outcome` says so.
#[repr(C)]
#[derive(StableAbi)]
pub struct VerifiedParts {
    outcome: u32,
    session: ROption<SessionParts>,
}

/// A [`Session`].
#[repr(C)]
#[derive(StableAbi)]
pub struct SessionParts {
    identity: IdentityParts,
    key_id: RVec<u8>,
    expires: Time,
    first_use: bool,
}

impl<'a> From<&'a IssueRequest> for IssueParts<'a> {
    fn from(request: &'a IssueRequest) -> Self {
        let identity = &request.identity;
        let identity = IdentityRef {
            service: identity.service.as_str().into(),
            subject: identity.subject.as_str().into(),
            auth_id: identity.auth_id,
            auth_time: identity.auth_time.into(),
            attributes: identity.attributes.as_str().into(),
        };
        Self { identity, lifetime: request.lifetime.into(), pending: request.pending.into() }
    }
}

impl From<IssueParts<'_>> for IssueRequest {
    fn from(parts: IssueParts<'_>) -> Self {
        let identity = parts.identity;
        let identity = Identity {
            service: identity.service.into(),
            subject: identity.subject.into(),
            auth_id: identity.auth_id,
            auth_time: identity.auth_time.into(),
            attributes: identity.attributes.into(),
        };
        Self { identity, lifetime: parts.lifetime.into(), pending: parts.pending.into() }
    }
}

impl From<IssuedKey> for IssuedParts {
    fn from(issued: IssuedKey) -> Self {
        Self {
            kind: issued.kind as u8,
            key_id: issued.key_id.into(),
            key: issued.key.into(),
            lifetime: issued.lifetime.into(),
        }
    }
}

impl TryFrom<IssuedParts> for IssuedKey {
    type Error = PluginError;

    fn try_from(parts: IssuedParts) -> Result<Self, PluginError> {
        let kind = KeyKind::from_wire(parts.kind)
            .ok_or_else(|| PluginError::Corrupt(format!("the plugin issued a key of unknown kind {}", parts.kind)))?;
        Ok(Self { kind, key_id: parts.key_id.into_vec(), key: parts.key.into(), lifetime: parts.lifetime.into() })
    }
}

impl<'a> From<&'a (String, Vec<u8>)> for HeaderRef<'a> {
    fn from((name, value): &'a (String, Vec<u8>)) -> Self {
        Self { name: name.as_str().into(), value: value.as_slice().into() }
    }
}

impl<'a> PresentedParts<'a> {
    /// `headers` are those of `presented`, which lie somewhere as long as the call lasts.
    pub(super) fn new(presented: &'a Presented, headers: &'a [HeaderRef<'a>]) -> Self {
        Self {
            service: presented.service.as_str().into(),
            method: presented.method.as_str().into(),
            scheme: presented.scheme.as_str().into(),
            authority: presented.authority.as_str().into(),
            target: presented.target.as_str().into(),
            headers: headers.into(),
        }
    }
}

/// The plugin's copy of a request head, wiped of the keys in its headers.
pub(super) struct WipedPresented(Presented);

impl WipedPresented {
    pub(super) fn get(&self) -> &Presented {
        &self.0
    }
}

impl From<PresentedParts<'_>> for WipedPresented {
    fn from(parts: PresentedParts<'_>) -> Self {
        Self(Presented {
            service: parts.service.into(),
            method: parts.method.into(),
            scheme: parts.scheme.into(),
            authority: parts.authority.into(),
            target: parts.target.into(),
            headers: parts.headers.iter().map(|header| (header.name.into(), header.value.to_vec())).collect(),
        })
    }
}

impl Drop for WipedPresented {
    fn drop(&mut self) {
        for (_, value) in &mut self.0.headers {
            value.zeroize();
        }
    }
}

impl From<Verified> for VerifiedParts {
    fn from(verified: Verified) -> Self {
        let (outcome, session) = match verified {
            Verified::Session(session) => (SESSION, RSome(session.into())),
            Verified::Absent => (ABSENT, RNone),
            Verified::Refused => (REFUSED, RNone),
        };
        Self { outcome, session }
    }
}

impl TryFrom<VerifiedParts> for Verified {
    type Error = PluginError;

    fn try_from(parts: VerifiedParts) -> Result<Self, PluginError> {
        match (parts.outcome, parts.session) {
            (SESSION, RSome(session)) => Ok(Self::Session(session.into())),
            (ABSENT, RNone) => Ok(Self::Absent),
            (REFUSED, RNone) => Ok(Self::Refused),
            (other, _) => Err(PluginError::Corrupt(format!("the plugin judged a key by unknown number {other}"))),
        }
    }
}

impl From<Session> for SessionParts {
    fn from(session: Session) -> Self {
        let identity = session.identity;
        let identity = IdentityParts {
            service: identity.service.into(),
            subject: identity.subject.into(),
            auth_id: identity.auth_id,
            auth_time: identity.auth_time.into(),
            attributes: identity.attributes.into(),
        };
        Self { identity, key_id: session.key_id.into(), expires: session.expires.into(), first_use: session.first_use }
    }
}

impl From<SessionParts> for Session {
    fn from(parts: SessionParts) -> Self {
        let identity = parts.identity;
        let identity = Identity {
            service: identity.service.into_string(),
            subject: identity.subject.into_string(),
            auth_id: identity.auth_id,
            auth_time: identity.auth_time.into(),
            attributes: identity.attributes.into_string(),
        };
        Self { identity, key_id: parts.key_id.into_vec(), expires: parts.expires.into(), first_use: parts.first_use }
    }
}

const SESSION: u32 = 1;
const ABSENT: u32 = 2;
const REFUSED: u32 = 3;

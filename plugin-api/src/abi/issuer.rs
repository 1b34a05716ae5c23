//! Issuers across the boundary.

use abi_stable::{
    StableAbi,
    prefix_type::PrefixTypeTrait,
    std_types::{RNone, ROption, RSlice, RSome, RStr, RString},
};
use async_trait::async_trait;

use super::{
    component::Lent,
    future::Answer,
    keys::{HeaderRef, IssueParts, IssuedParts, PresentedParts, VerifiedParts, WipedPresented},
    object::{Object, catch},
};
use crate::{IssueRequest, IssuedKey, KeyIssuer, KeyKind, PluginError, Presented, Verified, plugin::PollIn};

/// An issuer of a plugin. In the host it is a [`KeyIssuer`] again.
#[repr(C)]
#[derive(StableAbi)]
pub struct IssuerObject {
    object: Object,
    table: IssuerTableRef,
    /// The wire byte of [`KeyKind`].
    kind: u8,
}

/// The functions of an issuer. New ones are appended, and are optional for older plugins.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = IssuerTableRef, prefix_fields = IssuerTablePrefix)))]
pub struct IssuerTable {
    release: unsafe extern "C" fn(Object),
    issue: for<'a> unsafe extern "C" fn(Object, request: IssueParts<'a>) -> Answer<'a, IssuedParts>,
    verify: for<'a> unsafe extern "C" fn(Object, presented: PresentedParts<'a>) -> Answer<'a, VerifiedParts>,
    revoke: for<'a> unsafe extern "C" fn(Object, key_id: RSlice<'a, u8>) -> Answer<'a, bool>,
    published: for<'a> unsafe extern "C" fn(Object, unused: RStr<'a>) -> Answer<'a, ROption<RString>>,
    #[sabi(last_prefix_field)]
    health: for<'a> unsafe extern "C" fn(Object, unused: RStr<'a>) -> Answer<'a, ()>,
}

type Issuer = Lent<dyn KeyIssuer>;

impl IssuerObject {
    /// Lends `issuer` to another library; `None` when it panics on the question of its kind.
    pub(crate) fn new(issuer: Box<dyn KeyIssuer>, poll_in: Option<PollIn>) -> ROption<Self> {
        let Some(kind) = catch(|| issuer.kind() as u8) else {
            catch(|| drop(issuer));
            return RNone;
        };
        let table = IssuerTable { release, issue, verify, revoke, published, health }.leak_into_prefix();
        RSome(Self { object: Issuer::object(issuer.into(), poll_in), table, kind })
    }

    /// The wire byte of the kind, which this version may not know.
    #[must_use]
    pub fn kind_byte(&self) -> u8 {
        self.kind
    }
}

impl Drop for IssuerObject {
    fn drop(&mut self) {
        // SAFETY: made by `new` in the library that `table` belongs to; not used after this.
        unsafe { (self.table.release())(self.object) }
    }
}

#[async_trait]
impl KeyIssuer for IssuerObject {
    /// The host refuses an issuer of an unknown kind before it asks this.
    fn kind(&self) -> KeyKind {
        KeyKind::from_wire(self.kind).unwrap_or(KeyKind::Opaque)
    }

    async fn issue(&self, request: IssueRequest) -> Result<IssuedKey, PluginError> {
        // SAFETY: `object` is what `table` was made for; it and the arguments outlive the future, which
        // is awaited here while they are borrowed. So below.
        let answer = unsafe { (self.table.issue())(self.object, (&request).into()) };
        answer.await.into_result()?.try_into()
    }

    async fn verify(&self, presented: &Presented) -> Result<Verified, PluginError> {
        let headers: Vec<HeaderRef<'_>> = presented.headers.iter().map(Into::into).collect();
        // SAFETY: as in `issue`.
        let answer = unsafe { (self.table.verify())(self.object, PresentedParts::new(presented, &headers)) };
        answer.await.into_result()?.try_into()
    }

    async fn revoke(&self, key_id: &[u8]) -> Result<bool, PluginError> {
        // SAFETY: as in `issue`.
        let answer = unsafe { (self.table.revoke())(self.object, key_id.into()) };
        Ok(answer.await.into_result()?)
    }

    async fn published(&self) -> Result<Option<String>, PluginError> {
        // SAFETY: as in `issue`.
        let answer = unsafe { (self.table.published())(self.object, "".into()) };
        Ok(answer.await.into_result()?.into_option().map(RString::into_string))
    }

    async fn health(&self) -> Result<(), PluginError> {
        // SAFETY: as in `issue`.
        let answer = unsafe { (self.table.health())(self.object, "".into()) };
        Ok(answer.await.into_result()?)
    }
}

// SAFETY of all below: the caller passes the object of the `IssuerObject`
// whose table holds the function, and keeps it alive while the answer lives;
// `new` made it with `T = Issuer`.

unsafe extern "C" fn release(object: Object) {
    // SAFETY: see above.
    unsafe { object.free::<Issuer>() }
}

unsafe extern "C" fn issue<'a>(object: Object, request: IssueParts<'a>) -> Answer<'a, IssuedParts> {
    // SAFETY: see above.
    let issuer = unsafe { object.get::<Issuer>() };
    issuer.answer(async move { issuer.component.issue(request.into()).await }, Into::into)
}

unsafe extern "C" fn verify<'a>(object: Object, presented: PresentedParts<'a>) -> Answer<'a, VerifiedParts> {
    // SAFETY: see above.
    let issuer = unsafe { object.get::<Issuer>() };
    let call = async move {
        let presented = WipedPresented::from(presented);
        issuer.component.verify(presented.get()).await
    };
    issuer.answer(call, Into::into)
}

unsafe extern "C" fn revoke<'a>(object: Object, key_id: RSlice<'a, u8>) -> Answer<'a, bool> {
    // SAFETY: see above.
    let issuer = unsafe { object.get::<Issuer>() };
    issuer.answer(async move { issuer.component.revoke(key_id.as_slice()).await }, |known| known)
}

unsafe extern "C" fn published<'a>(object: Object, _unused: RStr<'a>) -> Answer<'a, ROption<RString>> {
    // SAFETY: see above.
    let issuer = unsafe { object.get::<Issuer>() };
    issuer.answer(async move { issuer.component.published().await }, |text| text.map(Into::into).into())
}

unsafe extern "C" fn health<'a>(object: Object, _unused: RStr<'a>) -> Answer<'a, ()> {
    // SAFETY: see above.
    let issuer = unsafe { object.get::<Issuer>() };
    issuer.answer(async move { issuer.component.health().await }, |()| ())
}

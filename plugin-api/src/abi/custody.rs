//! Key custody across the boundary.

use abi_stable::{
    StableAbi,
    prefix_type::PrefixTypeTrait,
    std_types::{ROption, RSlice, RStr, RString, RVec},
};
use async_trait::async_trait;

use super::{component::Lent, future::Answer, object::Object, secret::SecretBuffer};
use crate::{KeyCustody, KeyId, MacRequest, PluginError, SecretBytes, plugin::PollIn};

/// The key custody of a plugin. In the host it is a [`KeyCustody`] again.
#[repr(C)]
#[derive(StableAbi)]
pub struct CustodyObject {
    object: Object,
    table: CustodyTableRef,
}

/// A [`MacRequest`], borrowed.
#[repr(C)]
#[derive(StableAbi)]
pub struct MacRequestParts<'a> {
    key: KeyId,
    token: RSlice<'a, u8>,
    hash_len: usize,
    message: RSlice<'a, u8>,
}

/// The functions of key custody. New ones are appended, and are optional for older plugins.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = CustodyTableRef, prefix_fields = CustodyTablePrefix)))]
pub struct CustodyTable {
    release: unsafe extern "C" fn(Object),
    keep: for<'a> unsafe extern "C" fn(Object, id: &'a KeyId, key: RSlice<'a, u8>) -> Answer<'a, RVec<u8>>,
    mac: for<'a> unsafe extern "C" fn(
        Object,
        requests: RSlice<'a, MacRequestParts<'a>>,
    ) -> Answer<'a, RVec<ROption<SecretBuffer>>>,
    destroy: for<'a> unsafe extern "C" fn(Object, ids: RSlice<'a, KeyId>) -> Answer<'a, ()>,
    keys: for<'a> unsafe extern "C" fn(
        Object,
        after: ROption<KeyId>,
        limit: usize,
        unused: RStr<'a>,
    ) -> Answer<'a, RVec<KeyId>>,
    derive: for<'a> unsafe extern "C" fn(Object, context: RSlice<'a, u8>) -> Answer<'a, SecretBuffer>,
    initialise: for<'a> unsafe extern "C" fn(Object, unused: RStr<'a>) -> Answer<'a, RString>,
    status: for<'a> unsafe extern "C" fn(Object, unused: RStr<'a>) -> Answer<'a, RString>,
    #[sabi(last_prefix_field)]
    health: for<'a> unsafe extern "C" fn(Object, unused: RStr<'a>) -> Answer<'a, ()>,
}

type Custody = Lent<dyn KeyCustody>;

impl CustodyObject {
    /// Lends `custody` to another library.
    pub(crate) fn new(custody: Box<dyn KeyCustody>, poll_in: Option<PollIn>) -> Self {
        let table = CustodyTable { release, keep, mac, destroy, keys, derive, initialise, status, health };
        Self { object: Custody::object(custody.into(), poll_in), table: table.leak_into_prefix() }
    }
}

impl Drop for CustodyObject {
    fn drop(&mut self) {
        // SAFETY: made by `new` in the library that `table` belongs to; not used after this.
        unsafe { (self.table.release())(self.object) }
    }
}

#[async_trait]
impl KeyCustody for CustodyObject {
    async fn keep(&self, id: KeyId, key: SecretBytes) -> Result<Vec<u8>, PluginError> {
        // SAFETY: `object` is what `table` was made for; it and the arguments outlive the future, which
        // is awaited here while they are borrowed. So below.
        let answer = unsafe { (self.table.keep())(self.object, &id, key.expose().into()) };
        Ok(answer.await.into_result()?.into_vec())
    }

    async fn mac(&self, requests: &[MacRequest]) -> Result<Vec<Option<SecretBytes>>, PluginError> {
        let requests: Vec<MacRequestParts<'_>> = requests.iter().map(Into::into).collect();
        // SAFETY: as in `keep`.
        let answer = unsafe { (self.table.mac())(self.object, requests.as_slice().into()) };
        Ok(answer.await.into_result()?.into_iter().map(|mac| mac.into_option().map(Into::into)).collect())
    }

    async fn destroy(&self, ids: &[KeyId]) -> Result<(), PluginError> {
        // SAFETY: as in `keep`.
        let answer = unsafe { (self.table.destroy())(self.object, ids.into()) };
        Ok(answer.await.into_result()?)
    }

    async fn keys(&self, after: Option<KeyId>, limit: usize) -> Result<Vec<KeyId>, PluginError> {
        // SAFETY: as in `keep`.
        let answer = unsafe { (self.table.keys())(self.object, after.into(), limit, "".into()) };
        Ok(answer.await.into_result()?.into_vec())
    }

    async fn derive(&self, context: &[u8]) -> Result<SecretBytes, PluginError> {
        // SAFETY: as in `keep`.
        let answer = unsafe { (self.table.derive())(self.object, context.into()) };
        Ok(answer.await.into_result()?.into())
    }

    async fn initialise(&self) -> Result<String, PluginError> {
        // SAFETY: as in `keep`.
        let answer = unsafe { (self.table.initialise())(self.object, "".into()) };
        Ok(answer.await.into_result()?.into_string())
    }

    async fn status(&self) -> Result<String, PluginError> {
        // SAFETY: as in `keep`.
        let answer = unsafe { (self.table.status())(self.object, "".into()) };
        Ok(answer.await.into_result()?.into_string())
    }

    async fn health(&self) -> Result<(), PluginError> {
        // SAFETY: as in `keep`.
        let answer = unsafe { (self.table.health())(self.object, "".into()) };
        Ok(answer.await.into_result()?)
    }
}

impl<'a> From<&'a MacRequest> for MacRequestParts<'a> {
    fn from(request: &'a MacRequest) -> Self {
        Self {
            key: request.key,
            token: request.token.as_slice().into(),
            hash_len: request.hash_len,
            message: request.message.as_slice().into(),
        }
    }
}

impl From<&MacRequestParts<'_>> for MacRequest {
    fn from(parts: &MacRequestParts<'_>) -> Self {
        Self { key: parts.key, token: parts.token.to_vec(), hash_len: parts.hash_len, message: parts.message.to_vec() }
    }
}

// SAFETY of all below: the caller passes the object of the `CustodyObject`
// whose table holds the function, and keeps it alive while the answer lives;
// `new` made it with `T = Custody`.

unsafe extern "C" fn release(object: Object) {
    // SAFETY: see above.
    unsafe { object.free::<Custody>() }
}

unsafe extern "C" fn keep<'a>(object: Object, id: &'a KeyId, key: RSlice<'a, u8>) -> Answer<'a, RVec<u8>> {
    // SAFETY: see above.
    let custody = unsafe { object.get::<Custody>() };
    let call = async move { custody.component.keep(*id, SecretBytes::copy_from(key.as_slice())).await };
    custody.answer(call, Into::into)
}

unsafe extern "C" fn mac<'a>(
    object: Object,
    requests: RSlice<'a, MacRequestParts<'a>>,
) -> Answer<'a, RVec<ROption<SecretBuffer>>> {
    // SAFETY: see above.
    let custody = unsafe { object.get::<Custody>() };
    let call = async move {
        let requests: Vec<MacRequest> = requests.iter().map(Into::into).collect();
        custody.component.mac(&requests).await
    };
    custody.answer(call, |macs| macs.into_iter().map(|mac| mac.map(SecretBuffer::from).into()).collect())
}

unsafe extern "C" fn destroy<'a>(object: Object, ids: RSlice<'a, KeyId>) -> Answer<'a, ()> {
    // SAFETY: see above.
    let custody = unsafe { object.get::<Custody>() };
    custody.answer(async move { custody.component.destroy(ids.as_slice()).await }, |()| ())
}

unsafe extern "C" fn keys<'a>(
    object: Object,
    after: ROption<KeyId>,
    limit: usize,
    _unused: RStr<'a>,
) -> Answer<'a, RVec<KeyId>> {
    // SAFETY: see above.
    let custody = unsafe { object.get::<Custody>() };
    custody.answer(async move { custody.component.keys(after.into_option(), limit).await }, Into::into)
}

unsafe extern "C" fn derive<'a>(object: Object, context: RSlice<'a, u8>) -> Answer<'a, SecretBuffer> {
    // SAFETY: see above.
    let custody = unsafe { object.get::<Custody>() };
    custody.answer(async move { custody.component.derive(context.as_slice()).await }, Into::into)
}

unsafe extern "C" fn initialise<'a>(object: Object, _unused: RStr<'a>) -> Answer<'a, RString> {
    // SAFETY: see above.
    let custody = unsafe { object.get::<Custody>() };
    custody.answer(async move { custody.component.initialise().await }, Into::into)
}

unsafe extern "C" fn status<'a>(object: Object, _unused: RStr<'a>) -> Answer<'a, RString> {
    // SAFETY: see above.
    let custody = unsafe { object.get::<Custody>() };
    custody.answer(async move { custody.component.status().await }, Into::into)
}

unsafe extern "C" fn health<'a>(object: Object, _unused: RStr<'a>) -> Answer<'a, ()> {
    // SAFETY: see above.
    let custody = unsafe { object.get::<Custody>() };
    custody.answer(async move { custody.component.health().await }, |()| ())
}

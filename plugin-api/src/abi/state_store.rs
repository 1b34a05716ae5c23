//! State stores across the boundary, in both directions: a plugin may be one,
//! and the host lends one to plugins.

use std::{sync::Arc, time::Duration};

use abi_stable::{
    StableAbi,
    prefix_type::PrefixTypeTrait,
    std_types::{ROption, RSlice, RStr, RVec},
};
use async_trait::async_trait;

use super::{component::Lent, future::Answer, object::Object, time::Time};
use crate::{PluginError, StateStore, plugin::PollIn};

/// A state store of the other side. Here it is a [`StateStore`] again.
#[repr(C)]
#[derive(StableAbi)]
pub struct StateStoreObject {
    object: Object,
    table: StateStoreTableRef,
}

/// The functions of a state store. New ones are appended, and are optional for older plugins.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = StateStoreTableRef, prefix_fields = StateStoreTablePrefix)))]
pub struct StateStoreTable {
    release: unsafe extern "C" fn(Object),
    put_new:
        for<'a> unsafe extern "C" fn(Object, key: RStr<'a>, value: RSlice<'a, u8>, lifetime: Time) -> Answer<'a, bool>,
    get: for<'a> unsafe extern "C" fn(Object, key: RStr<'a>) -> Answer<'a, ROption<RVec<u8>>>,
    update: for<'a> unsafe extern "C" fn(
        Object,
        key: RStr<'a>,
        expected: RSlice<'a, u8>,
        value: RSlice<'a, u8>,
        lifetime: Time,
    ) -> Answer<'a, bool>,
    take: for<'a> unsafe extern "C" fn(Object, key: RStr<'a>) -> Answer<'a, ROption<RVec<u8>>>,
    #[sabi(last_prefix_field)]
    health: for<'a> unsafe extern "C" fn(Object, unused: RStr<'a>) -> Answer<'a, ()>,
}

type Store = Lent<dyn StateStore>;

impl StateStoreObject {
    /// Lends `store` to another library.
    pub(crate) fn new(store: Arc<dyn StateStore>, poll_in: Option<PollIn>) -> Self {
        let table = StateStoreTable { release, put_new, get, update, take, health }.leak_into_prefix();
        Self { object: Lent::object(store, poll_in), table }
    }
}

impl Drop for StateStoreObject {
    fn drop(&mut self) {
        // SAFETY: made by `new` in the library that `table` belongs to; not used after this.
        unsafe { (self.table.release())(self.object) }
    }
}

#[async_trait]
impl StateStore for StateStoreObject {
    async fn put_new(&self, key: &str, value: &[u8], lifetime: Duration) -> Result<bool, PluginError> {
        // SAFETY: `object` is what `table` was made for; it and the arguments outlive the future, which
        // is awaited here while they are borrowed. So below.
        let answer = unsafe { (self.table.put_new())(self.object, key.into(), value.into(), lifetime.into()) };
        Ok(answer.await.into_result()?)
    }

    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, PluginError> {
        // SAFETY: as in `put_new`.
        let answer = unsafe { (self.table.get())(self.object, key.into()) };
        Ok(answer.await.into_result()?.map(RVec::into_vec).into())
    }

    async fn update(&self, key: &str, expected: &[u8], value: &[u8], lifetime: Duration) -> Result<bool, PluginError> {
        // SAFETY: as in `put_new`.
        let answer =
            unsafe { (self.table.update())(self.object, key.into(), expected.into(), value.into(), lifetime.into()) };
        Ok(answer.await.into_result()?)
    }

    async fn take(&self, key: &str) -> Result<Option<Vec<u8>>, PluginError> {
        // SAFETY: as in `put_new`.
        let answer = unsafe { (self.table.take())(self.object, key.into()) };
        Ok(answer.await.into_result()?.map(RVec::into_vec).into())
    }

    async fn health(&self) -> Result<(), PluginError> {
        // SAFETY: as in `put_new`.
        let answer = unsafe { (self.table.health())(self.object, "".into()) };
        Ok(answer.await.into_result()?)
    }
}

// SAFETY of all below: the caller passes the object of the `StateStoreObject`
// whose table holds the function, and keeps it alive while the answer lives;
// `new` made it with `T = Store`.

unsafe extern "C" fn release(object: Object) {
    // SAFETY: see above.
    unsafe { object.free::<Store>() }
}

unsafe extern "C" fn put_new<'a>(
    object: Object,
    key: RStr<'a>,
    value: RSlice<'a, u8>,
    lifetime: Time,
) -> Answer<'a, bool> {
    // SAFETY: see above.
    let store = unsafe { object.get::<Store>() };
    store.answer(async move { store.component.put_new(key.as_str(), value.as_slice(), lifetime.into()).await }, |new| {
        new
    })
}

unsafe extern "C" fn get<'a>(object: Object, key: RStr<'a>) -> Answer<'a, ROption<RVec<u8>>> {
    // SAFETY: see above.
    let store = unsafe { object.get::<Store>() };
    store.answer(async move { store.component.get(key.as_str()).await }, value)
}

unsafe extern "C" fn update<'a>(
    object: Object,
    key: RStr<'a>,
    expected: RSlice<'a, u8>,
    value: RSlice<'a, u8>,
    lifetime: Time,
) -> Answer<'a, bool> {
    // SAFETY: see above.
    let store = unsafe { object.get::<Store>() };
    let call = async move {
        store.component.update(key.as_str(), expected.as_slice(), value.as_slice(), lifetime.into()).await
    };
    store.answer(call, |done| done)
}

unsafe extern "C" fn take<'a>(object: Object, key: RStr<'a>) -> Answer<'a, ROption<RVec<u8>>> {
    // SAFETY: see above.
    let store = unsafe { object.get::<Store>() };
    store.answer(async move { store.component.take(key.as_str()).await }, value)
}

unsafe extern "C" fn health<'a>(object: Object, _unused: RStr<'a>) -> Answer<'a, ()> {
    // SAFETY: see above.
    let store = unsafe { object.get::<Store>() };
    store.answer(async move { store.component.health().await }, |()| ())
}

fn value(value: Option<Vec<u8>>) -> ROption<RVec<u8>> {
    value.map(RVec::from).into()
}

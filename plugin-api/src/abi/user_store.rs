//! User stores across the boundary.

use abi_stable::{
    StableAbi,
    prefix_type::PrefixTypeTrait,
    std_types::{ROption, RSlice, RStr, RVec},
};
use async_trait::async_trait;

use super::{
    component::Lent,
    future::Answer,
    object::Object,
    records::{
        CounterPositionParts, CounterUseParts, PageParts, PutParts, RecordParts, ScanParts, VerdictCode, WrittenParts,
    },
};
use crate::{
    CounterPosition, CounterUse, Page, PluginError, Put, Record, Scan, UserStore, Verdict, Written, plugin::PollIn,
};

/// A user store of a plugin. In the host it is a [`UserStore`] again.
#[repr(C)]
#[derive(StableAbi)]
pub struct UserStoreObject {
    object: Object,
    table: UserStoreTableRef,
}

/// The functions of a user store. New ones are appended, and are optional for older plugins.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = UserStoreTableRef, prefix_fields = UserStoreTablePrefix)))]
pub struct UserStoreTable {
    release: unsafe extern "C" fn(Object),
    get: for<'a> unsafe extern "C" fn(Object, keys: RSlice<'a, RStr<'a>>) -> Answer<'a, RVec<ROption<RecordParts>>>,
    put: for<'a> unsafe extern "C" fn(Object, put: PutParts<'a>) -> Answer<'a, WrittenParts>,
    delete: for<'a> unsafe extern "C" fn(Object, key: RStr<'a>, expected: u64) -> Answer<'a, WrittenParts>,
    scan: for<'a> unsafe extern "C" fn(Object, scan: ScanParts<'a>) -> Answer<'a, PageParts>,
    list: for<'a> unsafe extern "C" fn(Object, after: ROption<RStr<'a>>, limit: usize) -> Answer<'a, RVec<RecordParts>>,
    consume: for<'a> unsafe extern "C" fn(Object, uses: RSlice<'a, CounterUseParts>) -> Answer<'a, RVec<VerdictCode>>,
    forget_counters: for<'a> unsafe extern "C" fn(Object, credential: &'a [u8; 16]) -> Answer<'a, ()>,
    counters: for<'a> unsafe extern "C" fn(
        Object,
        after: ROption<CounterPositionParts>,
        limit: usize,
        unused: RStr<'a>,
    ) -> Answer<'a, RVec<CounterUseParts>>,
    #[sabi(last_prefix_field)]
    health: for<'a> unsafe extern "C" fn(Object, unused: RStr<'a>) -> Answer<'a, ()>,
}

type Store = Lent<dyn UserStore>;

impl UserStoreObject {
    /// Lends `store` to another library.
    pub(crate) fn new(store: Box<dyn UserStore>, poll_in: Option<PollIn>) -> Self {
        let table =
            UserStoreTable { release, get, put, delete, scan, list, consume, forget_counters, counters, health }
                .leak_into_prefix();
        Self { object: Store::object(store.into(), poll_in), table }
    }
}

impl Drop for UserStoreObject {
    fn drop(&mut self) {
        // SAFETY: made by `new` in the library that `table` belongs to; not used after this.
        unsafe { (self.table.release())(self.object) }
    }
}

#[async_trait]
impl UserStore for UserStoreObject {
    async fn get(&self, keys: &[String]) -> Result<Vec<Option<Record>>, PluginError> {
        let keys: Vec<RStr<'_>> = keys.iter().map(|key| key.as_str().into()).collect();
        // SAFETY: `object` is what `table` was made for; it and the arguments outlive the future, which
        // is awaited here while they are borrowed. So below.
        let answer = unsafe { (self.table.get())(self.object, keys.as_slice().into()) };
        let records = answer.await.into_result()?;
        Ok(records.into_iter().map(|record| record.into_option().map(Into::into)).collect())
    }

    async fn put(&self, put: Put) -> Result<Written, PluginError> {
        let terms: Vec<_> = put.terms.iter().map(Into::into).collect();
        // SAFETY: as in `get`.
        let answer = unsafe { (self.table.put())(self.object, PutParts::new(&put, &terms)) };
        Ok(answer.await.into_result()?.into())
    }

    async fn delete(&self, key: &str, expected: u64) -> Result<Written, PluginError> {
        // SAFETY: as in `get`.
        let answer = unsafe { (self.table.delete())(self.object, key.into(), expected) };
        Ok(answer.await.into_result()?.into())
    }

    async fn scan(&self, scan: Scan) -> Result<Page, PluginError> {
        // SAFETY: as in `get`.
        let answer = unsafe { (self.table.scan())(self.object, (&scan).into()) };
        Ok(answer.await.into_result()?.into())
    }

    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<Record>, PluginError> {
        // SAFETY: as in `get`.
        let answer = unsafe { (self.table.list())(self.object, after.map(Into::into).into(), limit) };
        Ok(answer.await.into_result()?.into_iter().map(Into::into).collect())
    }

    async fn consume(&self, uses: &[CounterUse]) -> Result<Vec<Verdict>, PluginError> {
        let uses: Vec<CounterUseParts> = uses.iter().map(Into::into).collect();
        // SAFETY: as in `get`.
        let answer = unsafe { (self.table.consume())(self.object, uses.as_slice().into()) };
        answer.await.into_result()?.into_iter().map(Verdict::try_from).collect()
    }

    async fn forget_counters(&self, credential: [u8; 16]) -> Result<(), PluginError> {
        // SAFETY: as in `get`.
        let answer = unsafe { (self.table.forget_counters())(self.object, &credential) };
        Ok(answer.await.into_result()?)
    }

    async fn counters(&self, after: Option<CounterPosition>, limit: usize) -> Result<Vec<CounterUse>, PluginError> {
        // SAFETY: as in `get`.
        let answer = unsafe { (self.table.counters())(self.object, after.map(Into::into).into(), limit, "".into()) };
        Ok(answer.await.into_result()?.iter().map(Into::into).collect())
    }

    async fn health(&self) -> Result<(), PluginError> {
        // SAFETY: as in `get`.
        let answer = unsafe { (self.table.health())(self.object, "".into()) };
        Ok(answer.await.into_result()?)
    }
}

// SAFETY of all below: the caller passes the object of the `UserStoreObject`
// whose table holds the function, and keeps it alive while the answer lives;
// `new` made it with `T = Store`.

unsafe extern "C" fn release(object: Object) {
    // SAFETY: see above.
    unsafe { object.free::<Store>() }
}

unsafe extern "C" fn get<'a>(object: Object, keys: RSlice<'a, RStr<'a>>) -> Answer<'a, RVec<ROption<RecordParts>>> {
    // SAFETY: see above.
    let store = unsafe { object.get::<Store>() };
    let call = async move {
        let keys: Vec<String> = keys.iter().map(|key| key.as_str().to_owned()).collect();
        store.component.get(&keys).await
    };
    store.answer(call, |records| records.into_iter().map(|record| record.map(Into::into).into()).collect())
}

unsafe extern "C" fn put<'a>(object: Object, put: PutParts<'a>) -> Answer<'a, WrittenParts> {
    // SAFETY: see above.
    let store = unsafe { object.get::<Store>() };
    store.answer(async move { store.component.put(put.into()).await }, Into::into)
}

unsafe extern "C" fn delete<'a>(object: Object, key: RStr<'a>, expected: u64) -> Answer<'a, WrittenParts> {
    // SAFETY: see above.
    let store = unsafe { object.get::<Store>() };
    store.answer(async move { store.component.delete(key.as_str(), expected).await }, Into::into)
}

unsafe extern "C" fn scan<'a>(object: Object, scan: ScanParts<'a>) -> Answer<'a, PageParts> {
    // SAFETY: see above.
    let store = unsafe { object.get::<Store>() };
    store.answer(async move { store.component.scan(scan.into()).await }, Into::into)
}

unsafe extern "C" fn list<'a>(object: Object, after: ROption<RStr<'a>>, limit: usize) -> Answer<'a, RVec<RecordParts>> {
    // SAFETY: see above.
    let store = unsafe { object.get::<Store>() };
    let after = after.into_option();
    let call = async move { store.component.list(after.as_ref().map(RStr::as_str), limit).await };
    store.answer(call, |records| records.into_iter().map(Into::into).collect())
}

unsafe extern "C" fn consume<'a>(object: Object, uses: RSlice<'a, CounterUseParts>) -> Answer<'a, RVec<VerdictCode>> {
    // SAFETY: see above.
    let store = unsafe { object.get::<Store>() };
    let call = async move {
        let uses: Vec<CounterUse> = uses.iter().map(Into::into).collect();
        store.component.consume(&uses).await
    };
    store.answer(call, |verdicts| verdicts.into_iter().map(Into::into).collect())
}

unsafe extern "C" fn forget_counters<'a>(object: Object, credential: &'a [u8; 16]) -> Answer<'a, ()> {
    // SAFETY: see above.
    let store = unsafe { object.get::<Store>() };
    store.answer(async move { store.component.forget_counters(*credential).await }, |()| ())
}

unsafe extern "C" fn counters<'a>(
    object: Object,
    after: ROption<CounterPositionParts>,
    limit: usize,
    _unused: RStr<'a>,
) -> Answer<'a, RVec<CounterUseParts>> {
    // SAFETY: see above.
    let store = unsafe { object.get::<Store>() };
    let after = after.into_option().map(Into::into);
    let call = async move { store.component.counters(after, limit).await };
    store.answer(call, |rows| rows.iter().map(Into::into).collect())
}

unsafe extern "C" fn health<'a>(object: Object, _unused: RStr<'a>) -> Answer<'a, ()> {
    // SAFETY: see above.
    let store = unsafe { object.get::<Store>() };
    store.answer(async move { store.component.health().await }, |()| ())
}

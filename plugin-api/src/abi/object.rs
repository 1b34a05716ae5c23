//! Pointers that only the library which made them looks behind.

use std::{
    any::Any,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
};

use abi_stable::StableAbi;

/// A component of one library in the hands of another.
#[repr(transparent)]
#[derive(StableAbi, Clone, Copy)]
pub struct Object(*const ());

// SAFETY: every `Object` is made by `Object::new`, which takes `Send + Sync` values only.
unsafe impl Send for Object {}
// SAFETY: as above.
unsafe impl Sync for Object {}

impl Object {
    /// Moves `value` behind a pointer, until [`Self::free`].
    pub(super) fn new<T: Send + Sync>(value: T) -> Self {
        Self(Box::into_raw(Box::new(value)).cast_const().cast())
    }

    /// # Safety
    /// `self` was made by `new` with the same `T` in this library, and is not
    /// freed while `'a` lasts.
    pub(super) unsafe fn get<'a, T>(self) -> &'a T {
        // SAFETY: by the contract above the pointer is a live `T`, which nobody borrows mutably.
        unsafe { &*self.0.cast() }
    }

    /// Drops the value; a panic on the way ends here.
    ///
    /// # Safety
    /// As [`Self::get`], and the object is not used any more.
    pub(super) unsafe fn free<T>(self) {
        // SAFETY: by the contract above the pointer came from `Box::into_raw` and this is its last use.
        catch(|| drop(unsafe { Box::from_raw(self.0.cast_mut().cast::<T>()) }));
    }
}

/// Runs `call`; `None` when it panicked. The panic hook has reported it by then.
pub(super) fn catch<R>(call: impl FnOnce() -> R) -> Option<R> {
    catch_unwind(AssertUnwindSafe(call)).map_err(swallow).ok()
}

/// Drops what a panic carried, which may itself panic.
fn swallow(payload: Box<dyn Any + Send>) {
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        mem::forget(second);
    }
}

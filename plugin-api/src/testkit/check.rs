//! A suite as a list of named checks, for programs that report one by one.

use std::{fmt, future::Future};

use futures_util::future::LocalBoxFuture;

/// One check of a suite. `S` is what it is made on, such as `Arc<dyn UserStore>`.
#[derive(Clone, Copy)]
pub struct Check<S> {
    #[doc(hidden)]
    pub name: &'static str,
    #[doc(hidden)]
    pub run: for<'a> fn(&'a Make<'a, S>) -> LocalBoxFuture<'a, ()>,
}

/// What makes a fresh `S` each time.
#[doc(hidden)]
pub type Make<'a, S> = dyn Fn() -> LocalBoxFuture<'a, S> + 'a;

impl<S> Check<S> {
    /// Its name, such as `records.sizes_are_checked`: what holds where it passes.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Makes the check. Must be called on a tokio runtime with several threads;
    /// `make` gives a new, empty `S` each time.
    ///
    /// # Panics
    /// With what was expected, where it does not hold.
    pub async fn run<F: Future<Output = S>>(&self, make: &impl Fn() -> F) {
        let make = || -> LocalBoxFuture<'_, S> { Box::pin(make()) };
        (self.run)(&make).await;
    }
}

impl<S> fmt::Debug for Check<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Check").field(&self.name).finish()
    }
}

/// Makes one check after the other.
pub(super) async fn all<S, F: Future<Output = S>>(checks: &[Check<S>], make: &impl Fn() -> F) {
    for check in checks {
        check.run(make).await;
    }
}

/// Checks from the functions that make them: `name` takes a fresh `S`, `name(2)` two of them.
macro_rules! checks {
    ($group:literal, [$($name:ident $(($two:tt))?),+ $(,)?]) => {
        vec![$($crate::testkit::Check {
            name: concat!($group, ".", stringify!($name)),
            run: |make| Box::pin(async move { checks!(@ $name, make $(, $two)?).await }),
        }),+]
    };
    (@ $name:ident, $make:ident) => {
        $name($make().await)
    };
    (@ $name:ident, $make:ident, 2) => {
        $name($make().await, $make().await)
    };
}

pub(super) use checks;

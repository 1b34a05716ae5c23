//! A plugin that says it was built against another major version of the
//! interface. Nothing of it may run.

use claviger_plugin_api::{Context, InitError, Plugin, export_plugin};

export_plugin! {
    name: "other-major",
    provides: [cipher],
    init: start,
    api: "2.0.0",
}

fn start(_: Context) -> Result<Plugin, InitError> {
    Err(InitError::Failed("a plugin of another major version was started".into()))
}

/// What `dlopen` would run.
#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = {
    extern "C" fn constructor() {
        // SAFETY: the tests that load plugins read the environment on this thread only, afterwards.
        unsafe { std::env::set_var("CLAVIGER_TEST_OTHER_MAJOR_RAN", "1") }
    }
    constructor
};

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

/// What `dlopen` would run: it leaves a mark.
#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = {
    extern "C" fn constructor() {
        let mark = format!("claviger-other-major-ran-{}", std::process::id());
        let _ = std::fs::write(std::env::temp_dir().join(mark), b"");
    }
    constructor
};

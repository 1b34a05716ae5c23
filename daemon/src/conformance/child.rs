//! One check, in a process of its own. What came of it goes into a file, for
//! standard output belongs to the plugin.

use std::{
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::exit,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::process::{Signal, getpid, kill_process};
use serde::{Deserialize, Serialize};

use super::{
    Plan,
    calls::{CallRecorder, Calls},
    checks::{self, Delivered},
    instances::Instances,
};

/// What the parent writes to the child's standard input.
#[derive(Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) plan: Plan,
    /// Where files of the check may lie.
    pub(super) directory: PathBuf,
    /// Where the [`Verdict`] goes.
    pub(super) verdict: PathBuf,
}

/// What the child found.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Verdict {
    /// Why the check failed; `None` if it passed.
    pub(super) fault: Option<String>,
    pub(super) delivered: Delivered,
    pub(super) calls: Calls,
}

/// Makes the check of this name, as standard input says, and ends the process.
///
/// # Errors
/// When it was not started by `clavigerd plugin test`.
pub fn run_child(check: &str) -> io::Result<()> {
    let Order { plan, directory, verdict } = serde_json::from_reader(io::stdin().lock())?;
    let recorder = CallRecorder::default();
    metrics::set_global_recorder(recorder.clone()).map_err(io::Error::other)?;
    tracing_subscriber::fmt().with_ansi(false).without_time().with_env_filter("warn").with_writer(io::stderr).init();
    let first = first_panic();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build()?;
    let instances = Instances::new(&plan, &directory);
    let done = catch_unwind(AssertUnwindSafe(|| runtime.block_on(checks::run(check, &instances))));
    let fault = done.is_err().then(|| {
        let text = first.lock().unwrap_or_else(PoisonError::into_inner).take();
        text.unwrap_or_else(|| "it failed without a word".to_owned())
    });
    save(&verdict, &Verdict { fault, delivered: done.unwrap_or_default(), calls: recorder.calls() })?;
    // Threads of a plugin may never end, and libraries such as SoftHSM's free in their exit handlers what
    // those threads still use: the process ends without them.
    let _ = kill_process(getpid(), Signal::KILL);
    exit(0)
}

/// Where the first panic of this process is noted: of several, the others follow from it.
fn first_panic() -> Arc<Mutex<Option<String>>> {
    let first = Arc::new(Mutex::new(None));
    let noted = first.clone();
    std::panic::set_hook(Box::new(move |info| {
        let text = info.payload_as_str().unwrap_or("it panicked");
        noted.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| text.to_owned());
    }));
    first
}

fn save(path: &Path, verdict: &Verdict) -> io::Result<()> {
    fs::write(path, serde_json::to_vec(verdict)?)
}

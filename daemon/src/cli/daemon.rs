//! `run`, `check` and `status`, and how commands find the running daemon.

use std::{fs, io, path::Path, process::ExitCode, time::Duration};

use serde_json::json;

use super::{
    args::Common,
    failure::Failure,
    output::{Lines, Output},
};
use crate::{
    admin::{AdminClient, api::Status},
    app,
    config::{self, Config, DEFAULT_PATH, DEFAULT_SOCKET},
};

/// Runs the daemon until it ends.
pub(super) fn run(common: &Common) -> Result<(), Failure> {
    let config = load(common)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(Box::pin(app::run(config, configuration(common)))).map_err(Failure::failed);
    // A plugin that hangs in its start keeps a thread for ever; the daemon ends all the same.
    runtime.shutdown_timeout(Duration::from_secs(5));
    ended
}

/// Says whether the configuration is right.
pub(super) fn check(common: &Common, output: &Output) -> Result<(), Failure> {
    let config = load(common)?;
    let roles: Vec<_> = [(config.roles.management, "management"), (config.roles.service, "service")]
        .into_iter()
        .filter_map(|(on, name)| on.then_some(name))
        .collect();
    let answer = json!({ "ok": true, "realm": config.realm, "roles": roles });
    output.answer(&answer, |_, out| {
        out.line(format!("ok: realm {}, {}", config.realm, roles.join(" and ")));
    })
}

/// Shows how the daemon is.
pub(super) fn status(common: &Common, output: &Output) -> Result<ExitCode, Failure> {
    let status = block_on(async { client(common)?.status().await.map_err(Failure::from) })?;
    output.answer(&status, show)?;
    Ok(if status.readiness.ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The client for the daemon that `--socket`, or else the configuration, names.
/// Without either and without a configuration to be read, the usual place.
pub(super) fn client(common: &Common) -> Result<AdminClient, Failure> {
    if let Some(socket) = &common.socket {
        return Ok(AdminClient::new(socket));
    }
    let unreadable = |e: io::Error| matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied);
    if common.config.is_none() && fs::read_dir(DEFAULT_PATH).err().is_some_and(unreadable) {
        return Ok(AdminClient::new(DEFAULT_SOCKET));
    }
    Ok(AdminClient::new(load(common)?.admin.socket))
}

/// Runs a command's calls on this thread.
pub(super) fn block_on<T>(calls: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(calls)
}

/// The configuration that `--config` names.
pub(super) fn load(common: &Common) -> Result<Config, Failure> {
    Ok(config::load(configuration(common))?)
}

/// The file or directory of the configuration.
pub(super) fn configuration(common: &Common) -> &Path {
    common.config.as_deref().unwrap_or(Path::new(DEFAULT_PATH))
}

fn show(status: &Status, out: &mut Lines) {
    let readiness = &status.readiness;
    let state = match (readiness.draining, readiness.ready) {
        (true, _) => "draining",
        (false, true) => "ready",
        (false, false) => "not ready",
    };
    let uptime = status.uptime_seconds;
    out.fields([
        ("state", Some(state.to_owned())),
        ("realm", Some(status.realm.clone())),
        ("roles", Some(status.roles.join(", "))),
        ("version", Some(status.version.clone())),
        ("pid", Some(status.pid.to_string())),
        ("uptime", Some(format!("{}h{:02}m{:02}s", uptime / 3600, uptime / 60 % 60, uptime % 60))),
    ]);
    out.line("");
    let word = |ready| if ready { "ready" } else { "NOT READY" }.to_owned();
    out.table(
        ["COMPONENT", "STATE", "REASON"],
        readiness.components.iter().map(|c| [c.name.clone(), word(c.ready), c.reason.clone().unwrap_or_default()]),
    );
}

//! What is asked of the servers before the store is offered: the settings that
//! keep answers durable, and whether the data are there and laid out as expected.

use claviger_plugin_api::{InitError, PluginError};
use redis::Value;

use crate::{
    Configuration,
    fault::{one_line, unexpected},
    names::{Names, bytes},
    script::{Lane, Request},
    server::{Node, Server, at_start},
};

/// The layout of the data.
const LAYOUT: &str = "1";

/// Checks the servers and makes what is missing.
pub(crate) async fn prepare(server: &Server, names: &Names, configuration: &Configuration) -> Result<(), InitError> {
    let masters = server.masters().await.map_err(at_start)?;
    for node in &masters {
        // That it answers at all, with settings to check or not.
        node.ask(Lane::Durable, redis::cmd("PING"))
            .await
            .map_err(at_start)?
            .map_err(|error| InitError::Unavailable(format!("{}: {}", node.address(), one_line(&error.to_string()))))?;
        if configuration.user_store && configuration.check_settings {
            check(node).await?;
        }
    }
    if configuration.user_store { mark(server, names).await } else { Ok(()) }
}

/// The settings without which an answer is not durable, or a record can vanish.
const NEEDED: [(&str, &str, &str); 2] = [
    ("appendonly", "yes", "without it, a restart of the server loses users and counters"),
    ("maxmemory-policy", "noeviction", "with any other, a full server deletes users and counters"),
];

async fn check(node: &Node) -> Result<(), InitError> {
    for (name, needed, why) in NEEDED {
        let found = setting(node, name).await?;
        if found != needed {
            return Err(InitError::Configuration(format!(
                "the server {} has {name} {found}: {why}. Run `CONFIG SET {name} {needed}` and `CONFIG REWRITE` there, \
                 or set user_store = false to keep short-lived state only",
                node.address()
            )));
        }
    }
    match setting(node, "appendfsync").await?.as_str() {
        "always" => {}
        other => tracing::warn!(
            server = %node.address(),
            "appendfsync is {other}: a crash of the server's machine may take the last answers, counters included; \
             `CONFIG SET appendfsync always` keeps all of them"
        ),
    }
    Ok(())
}

async fn setting(node: &Node, name: &str) -> Result<String, InitError> {
    let mut command = redis::cmd("CONFIG");
    command.arg("GET").arg(name);
    match node.ask(Lane::Quick, command).await.map_err(at_start)? {
        // Name and value, in the older protocol.
        Ok(Value::Array(mut answer)) if answer.len() == 2 => {
            let value = answer.pop().and_then(bytes).and_then(|value| String::from_utf8(value).ok());
            value.ok_or_else(|| at_start(unexpected("CONFIG GET")))
        }
        Ok(_) => Err(at_start(unexpected("CONFIG GET"))),
        Err(error) => Err(InitError::Configuration(format!(
            "the server {} does not say its settings ({}). Permit it to the user (`ACL SETUSER ... +config|get`), or see to \
             `appendonly yes` and `maxmemory-policy noeviction` yourself and set check_settings = false",
            node.address(),
            one_line(&error.to_string()),
        ))),
    }
}

/// What stands in a shard's marker.
fn marker(names: &Names) -> String {
    format!("{LAYOUT} {}", names.shards())
}

/// Marks the shards at the first start; later, each must be as it was.
async fn mark(server: &Server, names: &Names) -> Result<(), InitError> {
    let own = marker(names);
    let stored = markers(server, names).await.map_err(at_start)?;
    stored.iter().flatten().try_for_each(|found| agree(found, &own))?;
    // The first is written last: while it is not there, the first start has not ended.
    match (stored.first(), stored.iter().position(Option::is_none)) {
        (_, None) => return Ok(()),
        (Some(Some(_)), Some(shard)) => return Err(InitError::Failed(lost(shard))),
        _ => {}
    }
    let set = |shard| Request::command("SET", &names.marker(shard), [own.as_bytes(), b"NX"]);
    server.call_all((1..names.shards()).map(set).collect()).await.map_err(at_start)?;
    server.call(set(0)).await.map_err(at_start)?;
    // Another daemon may have been there first.
    let stored = markers(server, names).await.map_err(at_start)?;
    stored.iter().flatten().try_for_each(|found| agree(found, &own))
}

fn agree(found: &str, own: &str) -> Result<(), InitError> {
    match found.split_once(' ') {
        _ if found == own => Ok(()),
        Some((LAYOUT, shards)) => Err(InitError::Configuration(format!(
            "shards: the data under this prefix were made with shards = {shards}"
        ))),
        _ => Err(InitError::Failed(
            "the data under this prefix were written by a newer version of this store or by another program; install \
             that version, or set a prefix of its own"
                .to_owned(),
        )),
    }
}

/// Whether all servers take writes (a full disk, too few replicas), and every
/// shard is there as the start has seen it. A server that was emptied must not
/// look like one in which nobody is enrolled.
pub(crate) async fn health(server: &Server, names: &Names) -> Result<(), PluginError> {
    let own = marker(names);
    let probes = server.one_for_each((0..names.shards()).map(|shard| names.probe(shard))).await?;
    let writes = probes.iter().map(|probe| Request::command("SET", probe, [&b"1"[..]]).durable());
    server.call_all(writes.collect()).await?;
    for (shard, found) in markers(server, names).await?.into_iter().enumerate() {
        if found.as_ref() != Some(&own) {
            return Err(PluginError::Unavailable(lost(shard)));
        }
    }
    Ok(())
}

fn lost(shard: usize) -> String {
    format!(
        "shard {shard} is not there: its server has lost its data. Restore them from a replica or a backup, or delete what is \
         left under this prefix to start anew"
    )
}

async fn markers(server: &Server, names: &Names) -> Result<Vec<Option<String>>, PluginError> {
    let reads = (0..names.shards()).map(|shard| Request::command("GET", &names.marker(shard), []));
    let found = server.call_all(reads.collect()).await?;
    Ok(found.into_iter().map(|one| Some(String::from_utf8_lossy(&bytes(one)?).into_owned())).collect())
}

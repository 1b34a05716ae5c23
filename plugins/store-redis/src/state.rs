//! The state store: values with a lifetime, each under a key and in a slot of its own.

use std::time::Duration;

use claviger_plugin_api::{PluginError, limits};
use redis::Value;

use crate::{
    fault::unexpected,
    names::{Names, bytes},
    script::{Lane, Request, UPDATE},
    server::Server,
};

/// The largest value in bytes.
const MAX_VALUE: usize = 32 * 1024;
/// The longest lifetime: a server counts milliseconds since 1970 in 63 bits.
const MAX_LIFETIME: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Stores a value where there is none.
pub(crate) async fn put_new(
    server: &Server,
    names: &Names,
    key: &str,
    value: &[u8],
    lifetime: Duration,
) -> Result<bool, PluginError> {
    check(key, value)?;
    let lifetime = milliseconds(lifetime);
    let request = Request::command("SET", &names.state(key), [value, b"NX", b"PX", lifetime.as_bytes()]);
    match server.call(request).await? {
        Value::Okay => Ok(true),
        Value::Nil => Ok(false),
        _ => Err(unexpected("SET")),
    }
}

/// The value.
pub(crate) async fn get(server: &Server, names: &Names, key: &str) -> Result<Option<Vec<u8>>, PluginError> {
    one(server, names, "GET", key).await
}

/// Deletes and returns the value.
pub(crate) async fn take(server: &Server, names: &Names, key: &str) -> Result<Option<Vec<u8>>, PluginError> {
    one(server, names, "GETDEL", key).await
}

/// Replaces a value that is the expected one.
pub(crate) async fn update(
    server: &Server,
    names: &Names,
    key: &str,
    expected: &[u8],
    value: &[u8],
    lifetime: Duration,
) -> Result<bool, PluginError> {
    check(key, value)?;
    let arguments = vec![expected.to_vec(), value.to_vec(), milliseconds(lifetime).into_bytes()];
    match server.call(Request::script(Lane::Quick, &UPDATE, vec![names.state(key)], arguments)).await? {
        Value::Int(done) => Ok(done == 1),
        _ => Err(unexpected("an update")),
    }
}

async fn one(server: &Server, names: &Names, command: &str, key: &str) -> Result<Option<Vec<u8>>, PluginError> {
    limits::key(key)?;
    match server.call(Request::command(command, &names.state(key), [])).await? {
        Value::Nil => Ok(None),
        answer => bytes(answer).map(Some).ok_or_else(|| unexpected(command)),
    }
}

fn check(key: &str, value: &[u8]) -> Result<(), PluginError> {
    limits::key(key)?;
    if value.len() > MAX_VALUE {
        return Err(PluginError::InvalidCall(format!("a value of {} bytes; at most {MAX_VALUE}", value.len())));
    }
    Ok(())
}

/// A lifetime of nothing is refused by the server: such a value ends at once.
fn milliseconds(lifetime: Duration) -> String {
    lifetime.min(MAX_LIFETIME).as_millis().max(1).to_string()
}

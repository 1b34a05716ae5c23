//! What can go wrong with a call, and what the host is told.

use claviger_plugin_api::PluginError;
use redis::ServerError;

/// Maps what a server refused. Whatever is not known to be damage or a lack of
/// room is for the host to try again.
pub(crate) fn refused(error: &ServerError) -> PluginError {
    let text = one_line(&format!("{} {}", error.code(), error.details().unwrap_or_default()));
    // Before version 7, the code of an error in a script is in its text only.
    if text.contains("OOM command not allowed") {
        PluginError::Full(format!("the server's maxmemory is used up: {text}"))
    } else if text.contains("WRONGTYPE") || text.contains("CORRUPT") {
        PluginError::Corrupt(text)
    } else {
        PluginError::Unavailable(text)
    }
}

/// An answer that this store's commands and scripts never get.
pub(crate) fn unexpected(what: &str) -> PluginError {
    PluginError::Unavailable(format!("the server's answer to {what} was not understood"))
}

/// An error of the client library with its causes, on one line.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let (mut text, mut source) = (error.to_string(), error.source());
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    one_line(&text)
}

/// Texts of a server may have many lines.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_the_server_become_the_right_errors() {
        type Case = (&'static str, &'static str, fn(&PluginError) -> bool);
        let table: [Case; 9] = [
            ("OOM", "command not allowed when used memory > 'maxmemory'. script: 1f, on @user_script:1.", is_full),
            ("ERR", "Error running script: @user_script:1: -OOM command not allowed when used memory", is_full),
            ("WRONGTYPE", "Operation against a key holding the wrong kind of value", is_corrupt),
            ("CORRUPT", "a record is too short", is_corrupt),
            ("MISCONF", "Errors writing to the AOF file: No space left on device", is_unavailable),
            ("LOADING", "Redis is loading the dataset in memory", is_unavailable),
            ("READONLY", "You can't write against a read only replica.", is_unavailable),
            ("CLUSTERDOWN", "The cluster is down", is_unavailable),
            ("NOREPLICAS", "Not enough good replicas to write.", is_unavailable),
        ];
        for (code, text, expected) in table {
            let error = redis::make_extension_error(code.to_owned(), Some(text.to_owned()));
            let errors = error.into_server_errors().unwrap();
            let told = refused(&errors[0].1);
            assert!(expected(&told), "{code} {text}: {told:?}");
        }
    }

    fn is_full(error: &PluginError) -> bool {
        matches!(error, PluginError::Full(_))
    }

    fn is_corrupt(error: &PluginError) -> bool {
        matches!(error, PluginError::Corrupt(_))
    }

    fn is_unavailable(error: &PluginError) -> bool {
        matches!(error, PluginError::Unavailable(_))
    }
}

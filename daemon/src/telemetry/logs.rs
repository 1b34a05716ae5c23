//! The daemon's log: one line an event on standard error.
//!
//! Secrets never reach it: their types have no `Display` and a redacted
//! `Debug`. Target `audit` carries what administrators change and is at info.

use std::io::{self, IsTerminal};

use tracing_subscriber::{
    Layer, Registry,
    filter::{ParseError, Targets},
    fmt,
    layer::SubscriberExt,
    util::{SubscriberInitExt, TryInitError},
};

use crate::config::{LogConfig, LogFormat};

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The level is neither a level nor a list of directives.
    #[error("log.level: {0}")]
    Level(#[from] ParseError),
    /// A log was set up before.
    #[error("the log cannot be set up: {0}")]
    Init(#[from] TryInitError),
}

/// Sets up the log of this process. Call it once.
///
/// # Errors
/// When the level does not parse (the configuration checks it), or on a second call.
pub fn init(config: &LogConfig) -> Result<(), LogError> {
    let terminal = io::stderr().is_terminal();
    let json = match config.format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let filter: Targets = config.level.parse()?;
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match json {
        true => json_layer(io::stderr).boxed(),
        false => fmt::layer().with_writer(io::stderr).with_ansi(terminal).boxed(),
    };
    tracing_subscriber::registry().with(layer.with_filter(filter)).try_init()?;
    Ok(())
}

/// `{"timestamp":..,"level":..,"target":..,"message":..,FIELDS..,"spans":[..]}`
fn json_layer<W>(writer: W) -> impl Layer<Registry> + Send + Sync
where
    W: for<'w> fmt::MakeWriter<'w> + Send + Sync + 'static,
{
    fmt::layer().json().flatten_event(true).with_current_span(false).with_writer(writer)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_json_line_is_one_flat_object() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let layer = json_layer(move || writer.clone()).with_filter("info,quiet=off".parse::<Targets>().unwrap());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::info!(target: "audit", uid = 7, "user added");
            tracing::debug!("not at this level");
            tracing::error!(target: "quiet", "not from this target");
        });
        let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&line["message"], &line["uid"], &line["target"]),
            (&"user added".into(), &7.into(), &"audit".into())
        );
    }
}

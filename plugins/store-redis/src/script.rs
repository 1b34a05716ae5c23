//! Commands and scripts on their way to a server.

use std::sync::LazyLock;

use redis::{Cmd, Pipeline};

use crate::names::Name;

/// A script of this store and its SHA-1, by which a server knows it.
pub(crate) struct Script {
    source: &'static str,
    hash: LazyLock<String>,
}

macro_rules! script {
    ($name:ident, $file:literal) => {
        pub(crate) static $name: Script = Script {
            source: include_str!($file),
            hash: LazyLock::new(|| redis::Script::new(include_str!($file)).get_hash().to_owned()),
        };
    };
}

script!(PUT, "scripts/put.lua");
script!(CONSUME, "scripts/consume.lua");
script!(FORGET, "scripts/forget.lua");
script!(UPDATE, "scripts/update.lua");

/// Which of the connections to a server a request takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lane {
    /// Reads, and what need not outlive a server.
    Quick,
    /// Writes of the user store, which may have to wait for replicas.
    Durable,
}

/// One command for one slot.
pub(crate) struct Request {
    pub(crate) slot: u16,
    pub(crate) lane: Lane,
    body: Body,
}

enum Body {
    Command(Cmd),
    Script { script: &'static Script, keys: Vec<Vec<u8>>, arguments: Vec<Vec<u8>> },
}

impl Request {
    /// A command on one key, with what follows the key.
    pub(crate) fn command<'a>(command: &str, key: &Name, arguments: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut built = redis::cmd(command);
        built.arg(&key.bytes);
        for argument in arguments {
            built.arg(argument);
        }
        Self { slot: key.slot, lane: Lane::Quick, body: Body::Command(built) }
    }

    /// The same where it counts only once it is durable.
    pub(crate) fn durable(self) -> Self {
        Self { lane: Lane::Durable, ..self }
    }

    /// A script on keys of one slot, of which there is at least one.
    pub(crate) fn script(lane: Lane, script: &'static Script, keys: Vec<Name>, arguments: Vec<Vec<u8>>) -> Self {
        let slot = keys.first().map_or(0, |key| key.slot);
        let keys = keys.into_iter().map(|key| key.bytes).collect();
        Self { slot, lane, body: Body::Script { script, keys, arguments } }
    }

    /// Adds it to a pipeline, a script with its source or by its hash.
    pub(crate) fn add_to(&self, pipeline: &mut Pipeline, with_source: bool) {
        match &self.body {
            Body::Command(command) => pipeline.add_command(command.clone()),
            Body::Script { script, keys, arguments } => {
                let mut command = if with_source { redis::cmd("EVAL") } else { redis::cmd("EVALSHA") };
                command.arg(if with_source { script.source } else { script.hash.as_str() }).arg(keys.len());
                for part in keys.iter().chain(arguments) {
                    command.arg(part);
                }
                pipeline.add_command(command)
            }
        };
    }
}

//! `clavigerd hsm`: makes a module for key custody ready, and shows it; with
//! its plugin loaded into this process.

use std::{sync::Arc, time::Duration};

use claviger_plugin_api::{KeyCustody, description::Component};
use serde_json::{Map, Value, json};

use super::{
    args::{Common, HsmCommand},
    daemon::load,
    failure::Failure,
    output::{Lines, Output},
};
use crate::{
    config::types::{Config, PluginConfig},
    plugin_host::{HostServices, PluginHost, inspect::inspect},
};

pub(super) fn hsm(command: &HsmCommand, common: &Common, output: &Output) -> Result<(), Failure> {
    let config = load(common)?;
    let (HsmCommand::Init { plugin } | HsmCommand::Status { plugin }) = command;
    let plugin = choose(&config, plugin.as_deref())?;
    let name = plugin.name.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(async {
        // Required, and with patience: nobody waits for a sign-on here.
        let plugin = PluginConfig { required: true, deadline: plugin.deadline.max(PATIENCE), ..plugin.clone() };
        let host = PluginHost::load(&[plugin], HostServices::default()).await.map_err(Failure::failed)?;
        let custody = host.custody(&name).ok_or_else(|| no_custody(format!("plugin {name} provides no custody")))?;
        ask(command, &custody).await
    });
    // A module that hangs keeps a thread for ever; this process ends all the same.
    runtime.shutdown_timeout(Duration::from_secs(5));
    match done? {
        Answer::Line(line) => output.answer(&json!({ "plugin": name, "done": line }), |_, out| out.line(line)),
        Answer::Status(mut status) => {
            status.insert("plugin".to_owned(), json!(name));
            output.answer(&status, show)
        }
    }
}

enum Answer {
    Line(String),
    Status(Map<String, Value>),
}

async fn ask(command: &HsmCommand, custody: &Arc<dyn KeyCustody>) -> Result<Answer, Failure> {
    match command {
        HsmCommand::Init { .. } => custody.initialise().await.map(Answer::Line).map_err(Failure::failed),
        HsmCommand::Status { .. } => {
            let status = custody.status().await.map_err(Failure::failed)?;
            let status = serde_json::from_str(&status);
            status
                .map(Answer::Status)
                .map_err(|e| Failure::failed(format!("the plugin's status is no JSON object: {e}")))
        }
    }
}

/// The plugin of that name, or the only one whose file says that it provides custody.
fn choose<'a>(config: &'a Config, name: Option<&str>) -> Result<&'a PluginConfig, Failure> {
    if let Some(name) = name {
        let found = config.plugins.iter().find(|plugin| plugin.name == name);
        return found.ok_or_else(|| no_custody(format!("no [[plugin]] is named {name}")));
    }
    let provides = |plugin: &&PluginConfig| {
        inspect(&plugin.path).is_ok_and(|found| found.description.provides.contains(&Component::Custody))
    };
    let found: Vec<&PluginConfig> = config.plugins.iter().filter(provides).collect();
    match found[..] {
        [plugin] => Ok(plugin),
        [] => Err(no_custody("no [[plugin]] of the configuration provides custody, as store-pkcs11 does".to_owned())),
        _ => {
            let names: Vec<&str> = found.iter().map(|plugin| plugin.name.as_str()).collect();
            Err(Failure::Usage(format!("name one with --plugin: {} provide custody", names.join(", "))))
        }
    }
}

fn no_custody(detail: String) -> Failure {
    Failure::Refused { word: "no-custody".to_owned(), detail }
}

/// What a plugin tells of its module is its own matter: each member is a line.
fn show(status: &Map<String, Value>, out: &mut Lines) {
    let width = status.keys().map(|key| key.chars().count()).max().unwrap_or(0);
    for (key, value) in status {
        let value = match value {
            Value::Null => continue,
            Value::String(text) => text.clone(),
            Value::Array(list) => list
                .iter()
                .map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned))
                .collect::<Vec<_>>()
                .join(", "),
            other => other.to_string(),
        };
        out.line(format!("{:width$}  {value}", key.replace('_', " ")));
    }
}

/// For one call.
const PATIENCE: Duration = Duration::from_secs(60);

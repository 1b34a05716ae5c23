//! `clavigerd plugin`

use serde_json::{Value, json};

use super::{
    args::{Common, PluginCommand},
    daemon::{block_on, client, configuration, load},
    failure::Failure,
    output::{Lines, Output},
    plugin_new, plugin_pin, plugin_test,
};
use crate::{
    admin::api::Version,
    config::types::PluginTrust,
    plugin_host::inspect::{PluginDescription, inspect_with},
};

pub(super) fn plugin(command: &PluginCommand, common: &Common, output: &Output) -> Result<(), Failure> {
    match command {
        PluginCommand::Inspect { file } => {
            let trust = trust(common)?;
            let plugin = inspect_with(file, &trust).map_err(|e| Failure::failed(format!("{}: {e}", file.display())))?;
            output.answer(&plugin, show)
        }
        PluginCommand::New(new) => plugin_new::plugin_new(new, output),
        PluginCommand::Test(test) => plugin_test::plugin_test(test, common, output),
        PluginCommand::List => {
            let client = client(common)?;
            let plugins = block_on(async { Ok(client.plugins().await?) })?;
            output.answer(&json!({ "plugins": plugins }), |_, out| list(&plugins, out))
        }
        PluginCommand::Pin { names, dry_run } => plugin_pin::pin(names, *dry_run, common, output),
        PluginCommand::Reload { name } => {
            let client = client(common)?;
            let done = block_on(async { Ok(client.reload_plugin(name).await?) })?;
            output.answer(&done, |done, out| {
                let version =
                    |of: &Version| Some(format!("{}, sha256 {}, signature {}", of.version, of.sha256, of.signature));
                out.fields([("before", version(&done.before)), ("now", version(&done.now))]);
                if !done.drained {
                    out.line("the version before ends when its last call does");
                }
            })
        }
    }
}

/// The keys of the configuration; none where there is no configuration and none was named.
fn trust(common: &Common) -> Result<PluginTrust, Failure> {
    if common.config.is_none() && !configuration(common).exists() {
        return Ok(PluginTrust::default());
    }
    Ok((*load(common)?.trust).clone())
}

fn show(plugin: &PluginDescription, out: &mut Lines) {
    let said = &plugin.description;
    let provides: Vec<String> = said.provides.iter().map(ToString::to_string).collect();
    out.fields([
        ("file", Some(plugin.path.display().to_string())),
        ("name", Some(said.name.clone())),
        ("version", Some(said.version.clone())),
        ("about", Some(said.description.clone())),
        ("provides", Some(provides.join(", "))),
        ("plugin API", Some(said.api.clone())),
        ("compiler", Some(said.rustc.clone())),
        ("size", Some(format!("{} bytes", plugin.size))),
        ("sha256", Some(plugin.sha256.clone())),
        ("signature", Some(plugin.signature.to_string())),
        ("signed comment", plugin.signature_comment.clone()),
        ("problem", plugin.problem.clone().or_else(|| plugin.signature.problem().map(str::to_owned))),
    ]);
}

fn list(plugins: &[Value], out: &mut Lines) {
    let text = |plugin: &Value, key: &str| plugin[key].as_str().unwrap_or_default().to_owned();
    let words = |plugin: &Value, key: &str, of: fn(&Value) -> Option<&str>| {
        let list = plugin[key].as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(of).collect::<Vec<_>>().join(",")
    };
    out.table(
        ["NAME", "STATE", "VERSION", "SHA256", "SIGNATURE", "FILE", "PROVIDES", "SUITES", "LIBRARY", "REASON"],
        plugins.iter().map(|plugin| {
            [
                text(plugin, "name"),
                text(plugin, "state"),
                text(plugin, "version"),
                text(plugin, "sha256").chars().take(SHORT).collect(),
                text(plugin, "signature"),
                file(&plugin["file"]),
                words(plugin, "provides", Value::as_str),
                words(plugin, "suites", |suite| suite["id"].as_str()),
                text(&plugin["suites"][0], "implementation"),
                text(plugin, "reason"),
            ]
        }),
    );
}

/// What a restart or a reload would find: `same`, or what is different.
fn file(file: &Value) -> String {
    let text = |key: &str| file[key].as_str().unwrap_or_default();
    match (file["differs"].as_bool(), file["problem"].as_str()) {
        (Some(_), Some(problem)) => format!("unusable: {problem}"),
        (Some(true), None) => {
            let sha256: String = text("sha256").chars().take(SHORT).collect();
            format!("differs: {} {sha256} {}", text("version"), text("signature"))
        }
        (Some(false), None) => "same".to_owned(),
        (None, _) => String::new(),
    }
}

/// Digits of a hash in a table: enough to compare two of them.
const SHORT: usize = 12;

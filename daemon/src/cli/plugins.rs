//! `clavigerd plugin`

use serde_json::{Value, json};

use super::{
    args::{Common, PluginCommand},
    daemon::{block_on, client},
    failure::Failure,
    output::{Lines, Output},
    plugin_new, plugin_test,
};
use crate::plugin_host::inspect::{PluginDescription, inspect};

pub(super) fn plugin(command: &PluginCommand, common: &Common, output: &Output) -> Result<(), Failure> {
    match command {
        PluginCommand::Inspect { file } => {
            let plugin = inspect(file).map_err(|e| Failure::failed(format!("{}: {e}", file.display())))?;
            output.answer(&plugin, show)
        }
        PluginCommand::New(new) => plugin_new::plugin_new(new, output),
        PluginCommand::Test(test) => plugin_test::plugin_test(test, common, output),
        PluginCommand::List => {
            let client = client(common)?;
            let plugins = block_on(async { Ok(client.plugins().await?) })?;
            output.answer(&json!({ "plugins": plugins }), |_, out| list(&plugins, out))
        }
    }
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
        ("problem", plugin.problem.clone()),
    ]);
}

fn list(plugins: &[Value], out: &mut Lines) {
    let text = |plugin: &Value, key: &str| plugin[key].as_str().unwrap_or_default().to_owned();
    let words = |plugin: &Value, key: &str, of: fn(&Value) -> Option<&str>| {
        let list = plugin[key].as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(of).collect::<Vec<_>>().join(",")
    };
    out.table(
        ["NAME", "STATE", "VERSION", "PROVIDES", "SUITES", "LIBRARY", "REASON"],
        plugins.iter().map(|plugin| {
            [
                text(plugin, "name"),
                text(plugin, "state"),
                text(plugin, "version"),
                words(plugin, "provides", Value::as_str),
                words(plugin, "suites", |suite| suite["id"].as_str()),
                text(&plugin["suites"][0], "implementation"),
                text(plugin, "reason"),
            ]
        }),
    );
}

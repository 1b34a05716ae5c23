//! `clavigerd plugin new`: a crate out of a template of `plugin-api/templates`.

use std::{
    fs, io,
    path::{Path, PathBuf, absolute},
};

use claviger_plugin_api::description::API_VERSION;
use serde::Serialize;

use super::{
    args::{NewPlugin, PluginKind},
    failure::Failure,
    output::{Lines, Output},
};

/// What was written.
#[derive(Serialize)]
struct Made {
    directory: PathBuf,
    /// Where `claviger-plugin-api` is taken from, as in `Cargo.toml`.
    api: String,
    files: Vec<&'static str>,
}

pub(super) fn plugin_new(new: &NewPlugin, output: &Output) -> Result<(), Failure> {
    let directory = new.path.clone().unwrap_or_else(|| PathBuf::from(&new.name));
    let api = dependency(new.api.as_deref())?;
    let template = template(new.kind);
    make_directory(&directory)?;
    for (name, text) in template {
        let path = directory.join(name);
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(&path, filled(text, &new.name, &api))?;
    }
    let files = template.iter().map(|(name, _)| *name).collect();
    output.answer(&Made { directory, api, files }, |made, out| show(made, new, out))
}

/// The placeholders are those of cargo-generate, which can use the templates too.
fn filled(text: &str, name: &str, api: &str) -> String {
    text.replace("{{project-name}}", name).replace("{{crate_name}}", &name.replace('-', "_")).replace("{{api}}", api)
}

/// Makes it where it is not there; one that holds anything is left alone.
fn make_directory(directory: &Path) -> Result<(), Failure> {
    fs::create_dir_all(directory).map_err(|e| Failure::failed(format!("{}: {e}", directory.display())))?;
    match fs::read_dir(directory)?.next() {
        None => Ok(()),
        Some(_) => {
            Err(Failure::failed(format!("{} is not empty; --path names another directory", directory.display())))
        }
    }
}

/// The members of an inline table of `Cargo.toml` that say where `claviger-plugin-api` is.
fn dependency(api: Option<&str>) -> Result<String, Failure> {
    let Some(api) = api else {
        let tree = Path::new(SOURCE_TREE);
        return match tree.join("Cargo.toml").is_file() {
            true => Ok(format!("path = {}", quoted(&fs::canonicalize(tree)?.to_string_lossy()))),
            false => Ok(format!("version = {}", quoted(API_VERSION))),
        };
    };
    if api.starts_with(|c: char| c.is_ascii_digit()) && !Path::new(api).exists() {
        return Ok(format!("version = {}", quoted(api)));
    }
    if api.contains("://") || api.starts_with("git@") {
        return Ok(format!("git = {}", quoted(api)));
    }
    let missing =
        |e: io::Error| Failure::failed(format!("--api {api}: {e}; name the directory of claviger-plugin-api"));
    fs::metadata(Path::new(api).join("Cargo.toml")).map_err(missing)?;
    Ok(format!("path = {}", quoted(&absolute(api)?.to_string_lossy())))
}

/// As a basic string of TOML, whose escapes are those of JSON.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn show(made: &Made, new: &NewPlugin, out: &mut Lines) {
    let directory = made.directory.display();
    out.line(format!("{directory} is a plugin crate of {} files, with tests that pass.", made.files.len()));
    if made.api.starts_with("version") {
        out.line(format!(
            "It is built against claviger-plugin-api ({}), which is not on crates.io: unless a registry of \
             yours has it,",
            made.api
        ));
        out.line("put its directory or Git repository into Cargo.toml, or begin again with --api.");
    } else {
        out.line(format!("It is built against claviger-plugin-api ({}).", made.api));
    }
    let settings = match new.kind {
        PluginKind::Store => " --config '{\"path\": \"{fresh}/users.journal\"}'",
        PluginKind::Cipher | PluginKind::Issuer => "",
    };
    out.line("");
    out.line("Now:");
    out.line(format!("  cd {directory}"));
    out.line("  cargo test");
    out.line("  cargo build");
    out.line(format!("  clavigerd plugin test target/debug/lib{}.so{settings}", new.name.replace('-', "_")));
}

/// Where this program was built.
const SOURCE_TREE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../plugin-api");

/// Files of a template: where they go, and what is in them.
type Template = &'static [(&'static str, &'static str)];

macro_rules! files {
    ($kind:literal: $($to:literal from $from:literal),+ $(,)?) => {
        &[$(($to, include_str!(concat!("../../../plugin-api/templates/", $kind, "/", $from)))),+]
    };
}

fn template(kind: PluginKind) -> Template {
    match kind {
        PluginKind::Cipher => files!["cipher":
            "Cargo.toml" from "Cargo.toml.liquid", "build.rs" from "build.rs", "README.md" from "README.md",
            "LICENSE" from "LICENSE", ".gitignore" from ".gitignore.liquid",
            "src/lib.rs" from "src/lib.rs", "src/tests.rs" from "src/tests.rs",
        ],
        PluginKind::Store => files!["store":
            "Cargo.toml" from "Cargo.toml.liquid", "build.rs" from "build.rs", "README.md" from "README.md",
            "LICENSE" from "LICENSE", ".gitignore" from ".gitignore.liquid",
            "src/lib.rs" from "src/lib.rs", "src/store.rs" from "src/store.rs", "src/state.rs" from "src/state.rs",
            "src/journal.rs" from "src/journal.rs", "src/tests.rs" from "src/tests.rs",
        ],
        PluginKind::Issuer => files!["issuer":
            "Cargo.toml" from "Cargo.toml.liquid", "build.rs" from "build.rs", "README.md" from "README.md",
            "LICENSE" from "LICENSE", ".gitignore" from ".gitignore.liquid",
            "src/lib.rs" from "src/lib.rs", "src/session.rs" from "src/session.rs", "src/tests.rs" from "src/tests.rs",
        ],
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const KINDS: [(PluginKind, &str); 3] =
        [(PluginKind::Cipher, "cipher"), (PluginKind::Store, "store"), (PluginKind::Issuer, "issuer")];

    #[test]
    fn every_file_of_a_template_is_written_and_no_placeholder_is_left() {
        for (kind, name) in KINDS {
            let root = Path::new(SOURCE_TREE).join("templates").join(name);
            let mut there = BTreeSet::new();
            for directory in [root.clone(), root.join("src")] {
                for entry in fs::read_dir(directory).unwrap() {
                    let path = entry.unwrap().path();
                    if path.is_file() {
                        let name = path.strip_prefix(&root).unwrap().to_str().unwrap();
                        there.insert(name.trim_end_matches(".liquid").to_owned());
                    }
                }
            }
            there.remove("cargo-generate.toml");
            let written: BTreeSet<String> = template(kind).iter().map(|(name, _)| (*name).to_owned()).collect();
            assert_eq!(written, there, "{name}");
            for (file, text) in template(kind) {
                let text = filled(text, "my-plugin", "path = \"/x\"");
                assert!(!text.contains("{{"), "{name}/{file}");
            }
        }
    }

    #[test]
    fn the_interface_is_a_path_a_repository_or_a_version() {
        let tree = fs::canonicalize(SOURCE_TREE).unwrap();
        let tree = tree.to_str().unwrap();
        for (api, expected) in [
            (None, format!("path = \"{tree}\"")),
            (Some(tree), format!("path = \"{tree}\"")),
            (Some("1.0.0"), "version = \"1.0.0\"".to_owned()),
            (Some("https://git.example/claviger.git"), "git = \"https://git.example/claviger.git\"".to_owned()),
        ] {
            assert_eq!(dependency(api).unwrap(), expected, "{api:?}");
        }
        assert!(dependency(Some("/nowhere/plugin-api")).is_err());
    }
}

//! `clavigerd plugin pin`: the hashes of the plugins' files, written into the
//! configuration where each plugin stands.

use std::{
    fs,
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

use serde::Serialize;
use tempfile::NamedTempFile;
use toml_edit::{DocumentMut, Table, value};

use super::{
    args::Common,
    daemon::{configuration, load},
    failure::Failure,
    output::Output,
};
use crate::{
    config::{self, types::PluginConfig},
    plugin_host::inspect::inspect_with,
};

/// What is written for one plugin.
#[derive(Debug, Serialize)]
struct Pin {
    plugin: String,
    /// The configuration file.
    file: PathBuf,
    path: PathBuf,
    before: Option<String>,
    sha256: String,
    changed: bool,
}

pub(super) fn pin(names: &[String], dry_run: bool, common: &Common, output: &Output) -> Result<(), Failure> {
    let config = load(common)?;
    if let Some(name) = names.iter().find(|name| !config.plugins.iter().any(|plugin| plugin.name == **name)) {
        return Err(Failure::failed(format!("no [[plugin]] is named {name}")));
    }
    let wanted = |plugin: &str| names.is_empty() || names.iter().any(|name| name == plugin);
    let mut pins = Vec::new();
    let mut texts = Vec::new();
    for file in config::files(configuration(common))? {
        let text = fs::read_to_string(&file).map_err(|error| at(&file, error))?;
        let mut document: DocumentMut = text.parse().map_err(|error| at(&file, error))?;
        let tables = document.get_mut("plugin").and_then(|item| item.as_array_of_tables_mut());
        for table in tables.into_iter().flat_map(|tables| tables.iter_mut()) {
            let name = table.get("name").and_then(|name| name.as_str()).unwrap_or_default().to_owned();
            // Where a variable renames a plugin there is no such plugin in the file, and it is left alone.
            let Some(plugin) = config.plugins.iter().find(|plugin| plugin.name == name && wanted(&name)) else {
                continue;
            };
            pins.push(pin_one(plugin, table, &file)?);
        }
        texts.push((file, text, document.to_string()));
    }
    if let Some(name) = names.iter().find(|name| !pins.iter().any(|pin| pin.plugin == **name)) {
        return Err(Failure::failed(format!(
            "{name} stands in no file: variables of the environment cannot be pinned"
        )));
    }
    if !dry_run {
        for (file, before, after) in texts.iter().filter(|(_, before, after)| before != after) {
            replace(file, before, after).map_err(|error| at(file, error))?;
        }
    }
    output.answer(&pins, |pins, out| {
        for pin in pins {
            out.line(format!("{} ({})", pin.plugin, pin.path.display()));
            let line = |sign: char, hash: &str| format!("{sign} {}: sha256 = \"{hash}\"", pin.file.display());
            match &pin.before {
                Some(before) if pin.changed => out.line(line('-', before)),
                _ => {}
            }
            out.line(line(if pin.changed { '+' } else { ' ' }, &pin.sha256));
        }
    })
}

/// Sets the hash in the plugin's table, behind `path` where there was none.
fn pin_one(plugin: &PluginConfig, table: &mut Table, file: &Path) -> Result<Pin, Failure> {
    let refused = |error: String| Failure::failed(format!("{} ({}): {error}", plugin.name, plugin.path.display()));
    let found = inspect_with(&plugin.path, &plugin.trust).map_err(|error| refused(error.to_string()))?;
    if let Some(problem) = found.problem {
        return Err(refused(problem));
    }
    let (before, changed) = set(table, &found.sha256);
    let (file, path) = (file.to_owned(), plugin.path.clone());
    Ok(Pin { plugin: plugin.name.clone(), file, path, before, sha256: found.sha256, changed })
}

/// Writes the hash into the table: the one before, and whether it is another one now.
fn set(table: &mut Table, sha256: &str) -> (Option<String>, bool) {
    let before = table.get("sha256").and_then(|item| item.as_str()).map(str::to_owned);
    let changed = !before.as_ref().is_some_and(|before| before.eq_ignore_ascii_case(sha256));
    if changed {
        match table.get_mut("sha256").and_then(|item| item.as_value_mut()) {
            // With the comment behind it.
            Some(old) => {
                let decor = old.decor().clone();
                *old = sha256.into();
                *old.decor_mut() = decor;
            }
            None => insert_behind_path(table, sha256),
        }
    }
    (before, changed)
}

/// A new key would stand at the end of the table, far from the file that it is of.
fn insert_behind_path(table: &mut Table, sha256: &str) {
    let keys: Vec<String> = table.iter().map(|(key, _)| key.to_owned()).collect();
    let behind = keys.iter().position(|key| key == "path").map_or(keys.len(), |at| at + 1);
    // Tables below (`[plugin.config]`) keep their place, which is not that in this list.
    let later: Vec<_> = keys[behind..].iter().filter_map(|key| table.remove_entry(key)).collect();
    table.insert("sha256", value(sha256));
    for (key, item) in later {
        table.insert_formatted(&key, item);
    }
}

/// Puts a whole new file, with the old one's owner and mode, into the place of the old one.
fn replace(file: &Path, before: &str, after: &str) -> std::io::Result<()> {
    // A link stays a link.
    let file = fs::canonicalize(file)?;
    let metadata = fs::metadata(&file)?;
    let directory = file.parent().unwrap_or(Path::new("/"));
    let mut new = NamedTempFile::new_in(directory)?;
    new.write_all(after.as_bytes())?;
    new.as_file().set_permissions(fs::Permissions::from_mode(metadata.mode() & 0o7777))?;
    let made = new.as_file().metadata()?;
    if (made.uid(), made.gid()) != (metadata.uid(), metadata.gid()) {
        fchown(new.as_file(), Some(metadata.uid()), Some(metadata.gid()))?;
    }
    new.as_file().sync_all()?;
    if fs::read_to_string(&file)? != before {
        return Err(std::io::Error::other("somebody else has changed it just now: try again"));
    }
    new.persist(&file)?;
    fs::File::open(directory)?.sync_all()
}

fn at(file: &Path, error: impl std::fmt::Display) -> Failure {
    Failure::failed(format!("{}: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_the_hash_changes() {
        let text = "# head\nroles = [ \"service\" ] # odd\n\n# first\n[[plugin]]\nname = 'a'\n  path  =  \"a.so\"   # where\n\
                    # how long\ndeadline = \"1s\"\n[plugin.config] # its own\nx=1\n\n[other]\ny = 2\n\n\
                    [[plugin]]\nsha256 = \"00\"   # pinned by hand\nname = \"b\"\npath = \"b.so\"\nconfig = { z = 3 }\n# tail\n";
        let hash = "ab".repeat(32);
        let mut document: DocumentMut = text.parse().unwrap();
        let mut told = Vec::new();
        for table in document.get_mut("plugin").unwrap().as_array_of_tables_mut().unwrap().iter_mut() {
            told.push(set(table, &hash));
        }
        assert_eq!(told, [(None, true), (Some("00".to_owned()), true)]);
        let expected = text
            .replace("# where\n", &format!("# where\nsha256 = \"{hash}\"\n"))
            .replace("sha256 = \"00\"", &format!("sha256 = \"{hash}\""));
        assert_eq!(document.to_string(), expected);
        for table in document.get_mut("plugin").unwrap().as_array_of_tables_mut().unwrap().iter_mut() {
            assert_eq!(set(table, &hash.to_uppercase()), (Some(hash.clone()), false));
        }
        assert_eq!(document.to_string(), expected);
    }

    #[test]
    fn the_new_file_has_the_mode_of_the_old_one_and_a_link_stays() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("c.toml"), directory.path().join("link.toml"));
        fs::write(&file, "a = 1").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("c.toml", &link).unwrap();
        replace(&link, "a = 1", "a = 2").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "a = 2");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        let error = replace(&file, "a = 1", "a = 3").unwrap_err().to_string();
        assert!(error.contains("somebody else") && fs::read_dir(&directory).unwrap().count() == 2, "{error}");
    }
}

//! The layers of a configuration: one for each file, one for the environment.
//!
//! A layer is handed to the `config` crate, which merges them, and to an
//! [`Index`], which remembers where each key of the merged result stands:
//! `config` itself knows no lines.

use std::{
    collections::HashMap,
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use config::{Map, Source, Value, ValueKind};
use toml_edit::{Document, Item, TableLike};

use super::problem::{Place, Problem, SourceText};

/// Prefix of the environment variables that override keys: `CLAVIGER__LOG__LEVEL`.
pub const ENVIRONMENT_PREFIX: &str = "CLAVIGER__";

/// Where the keys of the merged configuration stand.
#[derive(Debug, Default)]
pub(super) struct Index {
    entries: HashMap<String, Entry>,
}

/// Where one key stands.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: Place,
    /// The value, or the header of a table.
    pub(super) value: Place,
    /// Against what relative paths are resolved.
    pub(super) directory: Arc<Path>,
    /// Values of the environment are text, whatever they mean.
    pub(super) environment: bool,
}

impl Index {
    /// The entry of a path such as `plugin[0].name`, or else of the nearest table around it.
    pub(super) fn nearest(&self, path: &str) -> Option<&Entry> {
        let mut path = path;
        loop {
            if let Some(entry) = self.entries.get(path) {
                return Some(entry);
            }
            path = &path[..path.rfind(['.', '['])?];
        }
    }
}

/// Reads FILE, or all `*.toml` files of a directory in the order of their names.
pub(super) fn files(path: &Path) -> Result<Vec<PathBuf>, Problem> {
    let cannot = |e: io::Error| Problem::new(format!("cannot read {}: {e}", path.display()));
    let hint = "name a file or a directory with --config";
    if !fs::metadata(path).map_err(|e| cannot(e).help(hint))?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(cannot)? {
        let file = entry.map_err(cannot)?.path();
        if file.extension().is_some_and(|e| e == "toml") && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(Problem::new(format!("there is no *.toml file in {}", path.display())).help(hint));
    }
    Ok(files)
}

/// The top-level keys of one layer, ready to be merged.
#[derive(Debug, Clone, Default)]
pub(super) struct Layer {
    entries: Vec<(String, Value)>,
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        Ok(self.entries.iter().cloned().collect())
    }
}

/// Collects the layers, their index and what is wrong with their syntax.
#[derive(Debug, Default)]
pub(super) struct Layers {
    pub(super) layers: Vec<Layer>,
    pub(super) index: Index,
    pub(super) problems: Vec<Problem>,
    /// Whether a file could not be read or is not TOML, so that what is missing proves nothing.
    pub(super) unreadable: bool,
    /// How many `[[plugin]]` the files so far have: those of the next file follow them.
    plugins: usize,
}

impl Layers {
    /// Adds a file. Its `[[plugin]]` tables come after those of the files before it.
    pub(super) fn add_file(&mut self, path: &Path) {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) => {
                self.unreadable = true;
                return self.problems.push(Problem::new(format!("cannot read {}: {e}", path.display())));
            }
        };
        let directory: Arc<Path> = path.parent().unwrap_or(Path::new("")).into();
        let mut walk = Walk {
            number: self.layers.len(),
            source: Arc::new(SourceText { name: path.display().to_string(), text }),
            directory,
            index: &mut self.index,
            problems: &mut self.problems,
        };
        let mut layer = Layer::default();
        match Document::parse(walk.source.text.clone()) {
            Ok(document) => layer.entries = walk.top(&document, &mut self.plugins),
            Err(e) => {
                let place = walk.place(e.span().unwrap_or(0..0));
                let message = e.message().lines().collect::<Vec<_>>().join("; ");
                self.unreadable = true;
                self.problems.push(Problem::new(format!("not TOML: {message}")).at(Some(place)));
            }
        }
        self.layers.push(layer);
    }

    /// Adds the variables that start with [`ENVIRONMENT_PREFIX`]:
    /// `CLAVIGER__SERVICE__KEY_LIFETIME=10m` sets `service.key_lifetime`,
    /// `CLAVIGER__PLUGIN__0__DEADLINE=1s` that of the first plugin.
    pub(super) fn add_environment(&mut self, variables: impl IntoIterator<Item = (String, String)>) {
        let mut variables: Vec<_> =
            variables.into_iter().filter(|(name, _)| name.starts_with(ENVIRONMENT_PREFIX)).collect();
        variables.sort();
        let text: String =
            variables.iter().map(|(name, value)| format!("{name}={}\n", value.replace('\n', " "))).collect();
        let source = Arc::new(SourceText { name: "environment".to_owned(), text });
        let (number, mut start) = (self.layers.len(), 0);
        let mut layer = Layer::default();
        for (name, value) in variables {
            let mut path = String::new();
            for part in name[ENVIRONMENT_PREFIX.len()..].to_lowercase().split("__") {
                match part.parse::<usize>() {
                    Ok(at) => path.push_str(&format!("[{at}]")),
                    Err(_) if path.is_empty() => path.push_str(part),
                    Err(_) => path.push_str(&format!(".{part}")),
                }
            }
            let equals = start + name.len();
            let end = equals + 1 + value.len();
            let key = Place::new(number, &source, start..equals);
            let index_ok = !path.starts_with("plugin[")
                || path[7..].split(']').next().and_then(|n| n.parse::<usize>().ok()).is_some_and(|n| n < self.plugins);
            if index_ok {
                layer.entries.push((path.clone(), Value::new(None, value)));
                self.index.entries.insert(
                    path,
                    Entry {
                        key,
                        value: Place::new(number, &source, equals + 1..end),
                        directory: Path::new("").into(),
                        environment: true,
                    },
                );
            } else {
                let message = format!("there are {} plugins, counted from 0", self.plugins);
                self.problems.push(Problem::new(message).at(Some(key)));
            }
            start = end + 1;
        }
        self.layers.push(layer);
    }
}

/// Walks one parsed file: values for `config`, places for the index.
struct Walk<'a> {
    number: usize,
    source: Arc<SourceText>,
    directory: Arc<Path>,
    index: &'a mut Index,
    problems: &'a mut Vec<Problem>,
}

impl Walk<'_> {
    fn top(&mut self, document: &Document<String>, plugins: &mut usize) -> Vec<(String, Value)> {
        let mut entries = Vec::new();
        for (key, item) in document.as_table().iter() {
            let span = document.as_table().get_key_value(key).and_then(|(k, _)| k.span()).unwrap_or(0..0);
            if !key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') || key.is_empty() {
                let place = self.place(span);
                self.problems.push(Problem::new(format!("unknown key {key:?}")).at(Some(place)));
                continue;
            }
            match item.as_array_of_tables() {
                Some(tables) if key == "plugin" => {
                    self.enter("plugin", span.clone(), span.clone());
                    for table in tables {
                        let path = format!("plugin[{plugins}]");
                        self.enter(&path, table.span().unwrap_or(span.clone()), table.span().unwrap_or(span.clone()));
                        let value = self.table(&path, table);
                        entries.push((path, value));
                        *plugins += 1;
                    }
                }
                _ => {
                    let value = self.item(key, span, item);
                    entries.push((key.to_owned(), value));
                }
            }
        }
        entries
    }

    fn table(&mut self, path: &str, table: &dyn TableLike) -> Value {
        let mut map = Map::new();
        for (key, item) in table.iter() {
            let span = table.get_key_value(key).and_then(|(k, _)| k.span()).unwrap_or(0..0);
            let value = self.item(&format!("{path}.{key}"), span, item);
            map.insert(key.to_owned(), value);
        }
        Value::new(None, ValueKind::Table(map))
    }

    fn item(&mut self, path: &str, key: Range<usize>, item: &Item) -> Value {
        if let Some(table) = item.as_table_like() {
            // `[a.b]` and `a.b = 1` both name `a`: its own header, where there is one, is the better place.
            let header = item.as_table().filter(|t| !t.is_implicit()).and_then(toml_edit::Table::span);
            let whole = item.as_inline_table().and_then(toml_edit::InlineTable::span);
            let place = header.or(whole).unwrap_or(key.clone());
            self.enter(path, key, place);
            return self.table(path, table);
        }
        let span = item.span().unwrap_or(key.clone());
        self.enter(path, key, span.clone());
        if let Some(tables) = item.as_array_of_tables() {
            let values = tables.iter().enumerate().map(|(at, table)| {
                let path = format!("{path}[{at}]");
                let place = table.span().unwrap_or(span.clone());
                self.enter(&path, place.clone(), place);
                self.table(&path, table)
            });
            return Value::new(None, ValueKind::Array(values.collect()));
        }
        match item.as_value() {
            Some(value) => self.value(path, value),
            None => Value::new(None, ValueKind::Nil),
        }
    }

    fn value(&mut self, path: &str, value: &toml_edit::Value) -> Value {
        use toml_edit::Value as Toml;
        let kind = match value {
            Toml::String(v) => ValueKind::String(v.value().clone()),
            Toml::Integer(v) => ValueKind::I64(*v.value()),
            Toml::Float(v) => ValueKind::Float(*v.value()),
            Toml::Boolean(v) => ValueKind::Boolean(*v.value()),
            Toml::Datetime(v) => ValueKind::String(v.value().to_string()),
            Toml::InlineTable(table) => return self.table(path, table),
            Toml::Array(array) => ValueKind::Array(
                array
                    .iter()
                    .enumerate()
                    .map(|(at, element)| {
                        let path = format!("{path}[{at}]");
                        let span = element.span().unwrap_or(0..0);
                        self.enter(&path, span.clone(), span);
                        self.value(&path, element)
                    })
                    .collect(),
            ),
        };
        Value::new(None, kind)
    }

    fn enter(&mut self, path: &str, key: Range<usize>, value: Range<usize>) {
        let entry = Entry {
            key: self.place(key),
            value: self.place(value),
            directory: self.directory.clone(),
            environment: false,
        };
        self.index.entries.insert(path.to_owned(), entry);
    }

    fn place(&self, span: Range<usize>) -> Place {
        Place::new(self.number, &self.source, span)
    }
}

//! Reads tables key by key, and collects everything that is wrong on the way.
//!
//! A key that is wrong gives its default (or `None` where it has none), so
//! that reading goes on and all problems are reported at once; what was read
//! counts only if no problem was found. Keys that nobody asked for are unknown.

use std::{cell::RefCell, collections::BTreeSet, path::Path};

use config::{Map, Value, ValueKind};

use super::{
    layer::Index,
    problem::{Place, Problem},
};

/// Where problems go, and where things stand.
#[derive(Debug)]
pub(super) struct Context {
    index: Index,
    problems: RefCell<Vec<Problem>>,
}

impl Context {
    pub(super) fn new(index: Index, problems: Vec<Problem>) -> Self {
        Self { index, problems: RefCell::new(problems) }
    }

    pub(super) fn report(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    /// Where the value, or the header of the table, of `path` stands.
    pub(super) fn value_place(&self, path: &str) -> Option<Place> {
        self.index.nearest(path).map(|e| e.value.clone())
    }

    /// Where the key of `path` stands.
    pub(super) fn key_place(&self, path: &str) -> Option<Place> {
        self.index.nearest(path).map(|e| e.key.clone())
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }
}

/// A value with what its parser needs to know about it.
#[derive(Debug, Clone)]
pub(super) struct Node<'a> {
    pub(super) value: &'a Value,
    pub(super) path: String,
    pub(super) directory: Option<&'a Path>,
    pub(super) environment: bool,
}

/// Why a value was refused.
#[derive(Debug)]
pub(super) struct Wrong {
    /// The path of the value, or of an element of it.
    path: String,
    message: String,
    expected: String,
}

impl Node<'_> {
    /// A refusal of this value: what it is, and what was expected.
    pub(super) fn wrong(&self, found: impl std::fmt::Display, expected: impl Into<String>) -> Wrong {
        let message = format!("`{}` {found}", self.path);
        Wrong { path: self.path.clone(), message, expected: format!("expected {}", expected.into()) }
    }

    /// A refusal because of its type.
    pub(super) fn wrong_type(&self, expected: impl Into<String>) -> Wrong {
        let kind = match &self.value.kind {
            ValueKind::Nil => "nothing",
            ValueKind::Boolean(_) => "a boolean",
            ValueKind::I64(_) | ValueKind::I128(_) | ValueKind::U64(_) | ValueKind::U128(_) => "a whole number",
            ValueKind::Float(_) => "a number with a fraction",
            ValueKind::String(_) => "a string",
            ValueKind::Table(_) => "a table",
            ValueKind::Array(_) => "a list",
        };
        self.wrong(format_args!("is {kind}"), expected)
    }
}

/// A table that is being read.
pub(super) struct Table<'a> {
    context: &'a Context,
    path: String,
    entries: Option<&'a Map<String, Value>>,
    known: BTreeSet<&'static str>,
}

impl<'a> Table<'a> {
    /// Reads the whole configuration and reports the keys that `read` did not ask for.
    pub(super) fn root<T>(context: &'a Context, merged: &'a Value, read: impl FnOnce(&mut Self) -> T) -> T {
        let entries = match &merged.kind {
            ValueKind::Table(map) => Some(map),
            _ => None,
        };
        Self { context, path: String::new(), entries, known: BTreeSet::new() }.run(read)
    }

    /// The path of one of its keys.
    pub(super) fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Whether the key is there.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.is_some_and(|e| e.contains_key(key))
    }

    /// A key that must be there. `None` after a problem was reported.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        parse: impl FnOnce(&Node<'a>) -> Result<T, Wrong>,
    ) -> Option<T> {
        if !self.has(key) {
            self.known.insert(key);
            self.missing(key, expected);
        }
        self.optional(key, parse)
    }

    /// Reports that `key` is missing, at the header of this table.
    pub(super) fn missing(&self, key: &str, expected: &str) {
        let place = if self.path.is_empty() { None } else { self.context.value_place(&self.path) };
        let table = if self.path.is_empty() { String::new() } else { format!(" in {}", table_name(&self.path)) };
        let problem = Problem::new(format!("`{key}` is missing{table}")).expected(format!("expected {expected}"));
        self.context.report(problem.at(place));
    }

    /// A key with a default.
    pub(super) fn or<T>(
        &mut self,
        key: &'static str,
        default: T,
        parse: impl FnOnce(&Node<'a>) -> Result<T, Wrong>,
    ) -> T {
        self.optional(key, parse).unwrap_or(default)
    }

    /// A key that may be absent. `None` as well after a problem was reported.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&Node<'a>) -> Result<T, Wrong>,
    ) -> Option<T> {
        self.known.insert(key);
        let value = self.entries?.get(key)?;
        let path = self.path(key);
        let entry = self.context.index.nearest(&path);
        let node = Node {
            value,
            path,
            directory: entry.map(|e| &*e.directory),
            environment: entry.is_some_and(|e| e.environment),
        };
        parse(&node)
            .map_err(|wrong| {
                let place = self.context.value_place(&wrong.path);
                self.context.report(Problem::new(wrong.message).expected(wrong.expected).at(place));
            })
            .ok()
    }

    /// A table of which every key has a default: read as empty when it is absent.
    pub(super) fn section<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Table<'a>) -> T) -> T {
        let (path, entries) = (self.path(key), self.subtable(key));
        Table { context: self.context, path, entries, known: BTreeSet::new() }.run(read)
    }

    /// A table that may be absent.
    pub(super) fn optional_section<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Table<'a>) -> Option<T>,
    ) -> Option<T> {
        let (path, entries) = (self.path(key), self.subtable(key));
        entries?;
        Table { context: self.context, path, entries, known: BTreeSet::new() }.run(read)
    }

    /// A list of tables, `[[key]]`; those that are wrong are left out.
    pub(super) fn sections<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&mut Table<'a>) -> Option<T>,
    ) -> Vec<T> {
        self.known.insert(key);
        let path = self.path(key);
        let list = match self.entries.and_then(|e| e.get(key)).map(|v| &v.kind) {
            None => return Vec::new(),
            Some(ValueKind::Array(list)) => list,
            Some(_) => {
                self.not_a(&path, format!("`[[{path}]]` tables"));
                return Vec::new();
            }
        };
        let mut all = Vec::new();
        for (at, value) in list.iter().enumerate() {
            let path = format!("{path}[{at}]");
            let ValueKind::Table(entries) = &value.kind else {
                self.not_a(&path, "a table".to_owned());
                continue;
            };
            let table = Table { context: self.context, path, entries: Some(entries), known: BTreeSet::new() };
            all.extend(table.run(&mut read));
        }
        all
    }

    /// Reports `problem` at the value of `key`.
    pub(super) fn refuse(&self, key: &str, problem: Problem) {
        self.context.report(problem.at(self.context.value_place(&self.path(key))));
    }

    fn subtable(&mut self, key: &'static str) -> Option<&'a Map<String, Value>> {
        self.known.insert(key);
        match &self.entries?.get(key)?.kind {
            ValueKind::Table(map) => Some(map),
            _ => {
                let path = self.path(key);
                self.not_a(&path, format!("a table, `[{path}]`"));
                None
            }
        }
    }

    fn not_a(&self, path: &str, expected: String) {
        let problem = Problem::new(format!("`{path}` is not a table")).expected(format!("expected {expected}"));
        self.context.report(problem.at(self.context.value_place(path)));
    }

    fn run<T>(mut self, read: impl FnOnce(&mut Self) -> T) -> T {
        let result = read(&mut self);
        for key in self.entries.into_iter().flat_map(Map::keys).filter(|k| !self.known.contains(k.as_str())) {
            let table = if self.path.is_empty() { String::new() } else { format!(" in {}", table_name(&self.path)) };
            let problem = Problem::new(format!("unknown key `{key}`{table}")).help(match nearest(key, &self.known) {
                Some(known) => format!("did you mean `{known}`?"),
                None => format!("known here: {}", self.known.iter().copied().collect::<Vec<_>>().join(", ")),
            });
            self.context.report(problem.at(self.context.key_place(&self.path(key))));
        }
        result
    }
}

/// The known name that `name` is most probably a slip of.
pub(super) fn nearest<'k>(name: &str, known: impl IntoIterator<Item = &'k &'k str>) -> Option<&'k str> {
    known
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(&name.to_lowercase(), known), *known))
        .filter(|(distance, known)| *distance <= known.len().max(name.len()) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

fn table_name(path: &str) -> String {
    match path.strip_suffix(']').and_then(|p| p.split_once('[')) {
        Some((list, _)) => format!("[[{list}]]"),
        None => format!("[{path}]"),
    }
}

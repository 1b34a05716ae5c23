//! The table of expectations.

use std::{fmt, fs, path::Path};

use claviger_testkit::Result;
use serde::{Deserialize, Serialize};

use super::Tool;

/// Every variant of every model, with what must come of each query.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    spin: Vec<Check>,
    verifpal: Vec<Check>,
    proverif: Vec<Check>,
}

impl Table {
    pub(super) fn read(file: &Path) -> Result<Self> {
        let failed = |error: &dyn fmt::Display| format!("{}: {error}", file.display());
        let text = fs::read_to_string(file).map_err(|error| failed(&error))?;
        serde_json::from_str(&text).map_err(|error| failed(&error))
    }

    pub(super) fn of(&self, tool: Tool) -> &[Check] {
        match tool {
            Tool::Spin => &self.spin,
            Tool::Verifpal => &self.verifpal,
            Tool::Proverif => &self.proverif,
        }
    }
}

/// One variant of a model.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Check {
    /// The file's stem.
    pub(super) model: String,
    /// What the preprocessor is to define: `NAME` or `NAME=VALUE`.
    pub(super) with: Vec<String>,
    /// Verifpal: concurrent sessions.
    pub(super) sessions: Option<u8>,
    /// ProVerif: how long it took when the verdicts were recorded.
    pub(super) seconds: Option<f64>,
    /// What it teaches, in words.
    #[serde(rename = "shows")]
    _shows: String,
    /// In the model's order.
    pub(super) queries: Vec<(String, Verdict)>,
}

impl Check {
    /// Model and variant.
    pub(super) fn name(&self) -> String {
        let mut name = self.model.clone();
        for with in &self.with {
            name += " ";
            name += with;
        }
        if let Some(sessions) = self.sessions {
            name += &format!(" ({sessions} session{})", if sessions == 1 { "" } else { "s" });
        }
        name
    }

    #[cfg(test)]
    pub(super) fn example(queries: &[(&str, Verdict)]) -> Self {
        let queries = queries.iter().map(|(query, verdict)| ((*query).to_owned(), *verdict)).collect();
        let (model, with, _shows) = ("example".into(), Vec::new(), String::new());
        Self { model, with, sessions: None, seconds: None, _shows, queries }
    }
}

/// What a tool says of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// The property holds.
    Holds,
    /// The property does not hold, and the tool has an attack.
    Attack,
    /// An event can happen: the model is not vacuous.
    Reached,
    /// An event cannot happen.
    Unreachable,
    /// The tool cannot say.
    Undecided,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Holds => "holds",
            Self::Attack => "attack",
            Self::Reached => "reached",
            Self::Unreachable => "unreachable",
            Self::Undecided => "undecided",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::cargo::root;

    #[test]
    fn the_table_names_models_that_exist_and_no_variant_twice() {
        let models = root().join("tests/models");
        let table = Table::read(&models.join("expected.json")).unwrap();
        for (tool, extension) in [(Tool::Spin, "pml"), (Tool::Verifpal, "vp"), (Tool::Proverif, "pv")] {
            let mut seen = HashSet::new();
            assert!(!table.of(tool).is_empty());
            for check in table.of(tool) {
                let file = models.join(tool.name()).join(format!("{}.{extension}", check.model));
                let text = fs::read_to_string(&file).unwrap();
                assert!(seen.insert(check.name()), "{} is there twice", check.name());
                assert!(!check.queries.is_empty(), "{}", check.name());
                for with in &check.with {
                    let name = with.split('=').next().unwrap();
                    assert!(text.contains(name) || with == "PASSIVE" || with == "LATER_LEAK", "{name} in {file:?}");
                }
            }
        }
    }
}

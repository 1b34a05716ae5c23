//! The test vector format `idb1-vectors-1` (protocol, section 12) and its checker.
//!
//! [`check`] reproduces every intermediate and output of a vector twice over:
//! step by step with the key schedule, and by running the parties' states with
//! the vector's randomness. [`generate`] makes vectors of the same format.

mod enrol;
mod generate;
mod login;
mod rotate;

use std::{collections::BTreeMap, fmt};

pub use generate::generate;
use serde::{Deserialize, Serialize};

use crate::{
    kem::{self, SharedSecret, TerminalKey},
    registry::{KemId, SuiteId},
    secret::Secret32,
    suite::Suite,
};

/// A file of vectors.
#[derive(Debug, Serialize, Deserialize)]
pub struct VectorFile {
    /// `idb1-vectors-1`.
    pub format: String,
    /// The vectors.
    pub vectors: Vec<Vector>,
}

/// One vector: a run with fixed keys and randomness.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Vector {
    /// Its name.
    pub name: String,
    /// `login`, `rotate` or `enrol`.
    pub kind: String,
    /// Suite number, such as `0x0001`.
    pub suite: String,
    /// KEM number.
    pub kem: u8,
    /// What goes in.
    pub inputs: BTreeMap<String, serde_json::Value>,
    /// Values on the way.
    #[serde(default)]
    pub intermediate: BTreeMap<String, serde_json::Value>,
    /// What comes out.
    pub outputs: BTreeMap<String, serde_json::Value>,
    /// Lengths of messages in bytes.
    #[serde(default)]
    pub sizes: BTreeMap<String, usize>,
}

/// What became of one vector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// So many values were reproduced: all that the vector has.
    Reproduced(usize),
    /// It could not be tried, and why.
    Skipped(String),
    /// It was not reproduced: what differs.
    Failed(Vec<String>),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reproduced(values) => write!(f, "ok, {values} values"),
            Self::Skipped(why) => write!(f, "skipped: {why}"),
            Self::Failed(differences) => write!(f, "FAILED: {}", differences.join("; ")),
        }
    }
}

/// Reads a file of vectors.
pub fn parse(text: &str) -> Result<VectorFile> {
    let file: VectorFile = serde_json::from_str(text).map_err(|error| format!("not a vector file: {error}"))?;
    if file.format != "idb1-vectors-1" {
        return Err(format!("the format is `{}`; expected `idb1-vectors-1`", file.format));
    }
    Ok(file)
}

/// Checks one vector; `suite` finds the implementation to check.
pub fn check<'s>(vector: &Vector, suite: impl Fn(SuiteId) -> Option<&'s dyn Suite>) -> Outcome {
    let id: SuiteId = match vector.suite.parse() {
        Ok(id) => id,
        Err(error) => return Outcome::Failed(vec![error]),
    };
    let Some(kem) = KemId::from_wire(vector.kem) else {
        return Outcome::Failed(vec![format!("kem {} is not assigned", vector.kem)]);
    };
    let Some(suite) = suite(id) else {
        return Outcome::Skipped(format!("suite {id} is not offered"));
    };
    let Some(run) = runner(&vector.kind) else {
        return Outcome::Skipped(format!("kind `{}` is not implemented", vector.kind));
    };
    let mut checker = Checker { vector, reproduced: 0, differences: Vec::new(), recorded: None };
    if let Err(error) = run(&mut checker, suite, id, kem) {
        checker.differences.push(error);
    }
    checker.finish()
}

type Run = fn(&mut Checker<'_>, &dyn Suite, SuiteId, KemId) -> Result<()>;

fn runner(kind: &str) -> Option<Run> {
    Some(match kind {
        "login" => login::run,
        "enrol" => enrol::run,
        "rotate" => rotate::run,
        _ => return None,
    })
}

/// Compares what was computed with what the vector says, and notes what was
/// not compared.
struct Checker<'a> {
    vector: &'a Vector,
    reproduced: usize,
    differences: Vec<String>,
    /// Where a vector is being made: what was computed, instead of compared.
    recorded: Option<Recorded>,
}

#[derive(Default)]
struct Recorded {
    values: BTreeMap<String, Vec<u8>>,
    sizes: BTreeMap<String, usize>,
}

type Result<T> = std::result::Result<T, String>;

impl Checker<'_> {
    fn equal(&mut self, name: &str, computed: &[u8]) {
        if let Some(recorded) = &mut self.recorded {
            recorded.values.insert(name.to_owned(), computed.to_vec());
            return;
        }
        let expected = self.vector.intermediate.get(name).or_else(|| self.vector.outputs.get(name));
        let expected = expected.and_then(|value| value.as_str());
        match expected {
            Some(expected) if *expected == data_encoding::HEXLOWER.encode(computed) => self.reproduced += 1,
            Some(_) => self.differences.push(format!("{name} differs")),
            None => self.differences.push(format!("{name} is missing in the vector")),
        }
    }

    fn that(&mut self, what: &str, holds: bool) {
        if !holds {
            self.differences.push(what.to_owned());
        }
    }

    fn size(&mut self, name: &str, computed: usize) {
        if let Some(recorded) = &mut self.recorded {
            recorded.sizes.insert(name.to_owned(), computed);
            return;
        }
        if let Some(expected) = self.vector.sizes.get(name)
            && *expected != computed
        {
            self.differences.push(format!("size of {name}: {computed} instead of {expected} bytes"));
        }
    }

    fn finish(mut self) -> Outcome {
        let values = self.vector.intermediate.len() + self.vector.outputs.len();
        if self.differences.is_empty() && self.reproduced < values {
            self.differences.push(format!("only {} of {values} values were computed", self.reproduced));
        }
        if self.differences.is_empty() {
            Outcome::Reproduced(self.reproduced)
        } else {
            Outcome::Failed(self.differences)
        }
    }

    fn text(&self, name: &str) -> Result<&str> {
        let value = self.vector.inputs.get(name).and_then(|value| value.as_str());
        value.ok_or_else(|| format!("input {name} is missing"))
    }

    fn number(&self, name: &str) -> Result<u64> {
        let value = self.vector.inputs.get(name).and_then(serde_json::Value::as_u64);
        value.ok_or_else(|| format!("input {name} is missing or not a number"))
    }

    fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        data_encoding::HEXLOWER.decode(self.text(name)?.as_bytes()).map_err(|error| format!("input {name}: {error}"))
    }

    /// As [`Self::bytes`], where the input may be left out or empty.
    fn bytes_or_empty(&self, name: &str) -> Result<Vec<u8>> {
        if self.vector.inputs.contains_key(name) { self.bytes(name) } else { Ok(Vec::new()) }
    }

    /// What the vector says an intermediate or output is.
    fn expected(&self, name: &str) -> Result<Vec<u8>> {
        let value = self.vector.outputs.get(name).or_else(|| self.vector.intermediate.get(name));
        let value = value.and_then(|value| value.as_str()).ok_or_else(|| format!("{name} is missing"))?;
        data_encoding::HEXLOWER.decode(value.as_bytes()).map_err(|error| format!("{name}: {error}"))
    }

    fn array<const N: usize>(&self, name: &str) -> Result<[u8; N]> {
        let bytes = self.bytes(name)?;
        bytes.try_into().map_err(|_| format!("input {name} does not have {N} bytes"))
    }

    fn secret(&self, name: &str) -> Result<Secret32> {
        self.array(name).map(Secret32::new)
    }

    /// The peer's share and the shared secret. A share of the hybrid KEM is an
    /// input, since its randomness cannot be chosen.
    fn agree(
        &mut self,
        name: &str,
        kem: KemId,
        own: &TerminalKey,
        terminal_share: &[u8],
        peer_seed: &Secret32,
    ) -> Result<(Vec<u8>, SharedSecret)> {
        let share = match &self.recorded {
            Some(_) => kem::respond(kem, terminal_share, peer_seed).map_err(show)?.0,
            None => self.expected(name)?,
        };
        let secret = own.agree(&share).map_err(show)?;
        if kem != KemId::X25519MlKem768 {
            let (made, peer_secret) = kem::respond(kem, terminal_share, peer_seed).map_err(show)?;
            self.that("the peer's share differs", made == share);
            self.that("the shared secrets differ", peer_secret.expose() == secret.expose());
        }
        self.equal(name, &share);
        self.equal("ss", if kem == KemId::None { &[] } else { secret.expose() });
        Ok((share, secret))
    }

    /// A secret of a KEM: empty where there is none.
    fn kem_secret(&self, name: &str) -> Result<Secret32> {
        if self.text(name)?.is_empty() { Ok(Secret32::new([0; 32])) } else { self.secret(name) }
    }
}

fn show(error: impl fmt::Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws_lc::AwsLc;

    fn published() -> VectorFile {
        parse(include_str!("../tests/vectors/idb1.json")).unwrap()
    }

    #[test]
    fn the_projects_own_vectors_are_complete_and_reproduced() {
        let file = parse(include_str!("../tests/vectors/claviger.json")).unwrap();
        // Each suite with each KEM: sign-on and enrolment; rotation needs a KEM.
        assert_eq!(file.vectors.len(), 5 * (3 + 3 + 2));
        for vector in file.vectors {
            let outcome = check(&vector, built_in);
            assert!(matches!(outcome, Outcome::Reproduced(8..)), "{}: {outcome}", vector.name);
        }
    }

    #[test]
    fn what_is_generated_is_reproduced() {
        let file = generate(built_in).unwrap();
        for vector in file.vectors {
            let outcome = check(&vector, built_in);
            assert!(matches!(outcome, Outcome::Reproduced(8..)), "{}: {outcome}", vector.name);
        }
    }

    fn built_in(id: SuiteId) -> Option<&'static dyn Suite> {
        AwsLc::suite(id).map(|suite| suite as &dyn Suite)
    }

    #[test]
    fn published_vectors_are_reproduced() {
        for vector in published().vectors {
            let outcome = check(&vector, built_in);
            assert!(matches!(outcome, Outcome::Reproduced(8..)), "{}: {outcome}", vector.name);
        }
    }

    #[test]
    fn a_changed_value_is_noticed_wherever_it_stands() {
        for mut vector in published().vectors {
            let names: Vec<_> = vector.intermediate.keys().chain(vector.outputs.keys()).cloned().collect();
            for name in names {
                let values =
                    if vector.outputs.contains_key(&name) { &mut vector.outputs } else { &mut vector.intermediate };
                let value = values[&name].as_str().unwrap().to_owned();
                values.insert(name.clone(), format!("{value}00").into());
                let outcome = check(&vector, built_in);
                let values =
                    if vector.outputs.contains_key(&name) { &mut vector.outputs } else { &mut vector.intermediate };
                values.insert(name.clone(), value.into());
                assert!(matches!(outcome, Outcome::Failed(_)), "{}: {name}: {outcome}", vector.name);
            }
        }
    }
}

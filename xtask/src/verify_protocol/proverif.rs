//! ProVerif: an active attacker against any number of users, services and sessions.

use std::{
    env,
    path::{Path, PathBuf},
};

use claviger_testkit::Result;

use super::{
    Prover,
    command::{output, preprocess},
    table::{Check, Verdict},
};
use crate::packages::{self, MODELS};

pub(super) struct ProVerif {
    program: PathBuf,
    models: PathBuf,
    work: PathBuf,
}

impl ProVerif {
    /// The one that `PROVERIF` names, or one on the `PATH`. It is no package
    /// of Debian, so none is installed.
    pub(super) fn find(models: &Path, work: PathBuf) -> Result<Option<Self>> {
        let named = env::var_os("PROVERIF").map(PathBuf::from);
        if let Some(missing) = named.as_ref().filter(|program| !program.is_file()) {
            return Err(format!("PROVERIF is {}: no such file", missing.display()));
        }
        let path = env::var_os("PATH").unwrap_or_default();
        let on_path =
            || env::split_paths(&path).map(|directory| directory.join("proverif")).find(|file| file.is_file());
        let Some(program) = named.or_else(on_path) else { return Ok(None) };
        packages::ensure(MODELS)?;
        let program = program.canonicalize().map_err(|error| format!("{}: {error}", program.display()))?;
        Ok(Some(Self { program, models: models.to_owned(), work }))
    }
}

impl Prover for ProVerif {
    fn verdicts(&self, check: &Check) -> Result<Vec<Verdict>> {
        let model = preprocess(check, &self.models, "pv", &self.work)?.display().to_string();
        Ok(verdicts(&output(&self.program, &[&model], &self.work)?))
    }
}

/// Reads its `RESULT` lines. One that is put in parentheses comments on the
/// line before.
fn verdicts(output: &str) -> Vec<Verdict> {
    let results = output.lines().filter_map(|line| line.strip_prefix("RESULT ")).filter(|line| !line.starts_with('('));
    let verdict = |result: &str| {
        // A query without a conclusion asks whether an event can happen.
        let reachability = result.starts_with("not ");
        match () {
            () if result.ends_with(" is true.") && reachability => Verdict::Unreachable,
            () if result.ends_with(" is true.") => Verdict::Holds,
            () if result.ends_with(" is false.") && reachability => Verdict::Reached,
            () if result.ends_with(" is false.") => Verdict::Attack,
            () => Verdict::Undecided,
        }
    };
    results.map(verdict).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read() {
        let output = "\
-- Query attacker(Ku(u_1)) ==> event(CorruptU(u_1)) in process 1.
RESULT attacker(Ku(u_1)) ==> event(CorruptU(u_1)) is true.
RESULT inj-event(Maccept(u_1,s_1,n_2,sp_2)) ==> inj-event(Tstart(u_1,s_1,n_2,sp_2)) || event(CorruptU(u_1)) is false.
RESULT (even event(Maccept(u_1,s_1,n_2,sp_2)) ==> event(Tstart(u_1,s_1,n_2,sp_2)) || event(CorruptU(u_1)) is true.)
RESULT not event(Ssession(u_1,s_1,sak_1)) is false.
RESULT not event(Scommit1(u_1,s_1,n_2,sp_2,sak_1)) is true.
RESULT event(Tdone(u_1,k_1,a_1)) ==> event(Mpromote(u_1,k_1,a_1)) cannot be proved.
";
        let expected = [Verdict::Holds, Verdict::Attack, Verdict::Reached, Verdict::Unreachable, Verdict::Undecided];
        assert_eq!(verdicts(output), expected);
    }
}

//! `clavigerd store migrate`, `backup` and `restore`: on the stores
//! themselves, with the plugins loaded into this process.

use std::{
    cell::Cell,
    future::Future,
    io::{self, Write},
    path::Path,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{
    args::{Common, StoreCommand},
    daemon::{client, load},
    failure::Failure,
    output::{Lines, Output},
};
use crate::{
    admin::ClientError,
    clock,
    config::types::{Config, KekSource, ManagementConfig},
    management::kek::Recipients,
    transfer::{
        Error, Progress,
        backup::{self, Backup, Contents},
        copy::{self, Options, Report},
        stores,
    },
};

/// How a backup is restored.
#[derive(Debug, Clone, Copy)]
pub(super) struct Restore {
    pub(super) dry_run: bool,
    pub(super) keep_keys: bool,
}

pub(super) fn store(command: &StoreCommand, common: &Common, output: &Output) -> Result<(), Failure> {
    let StoreCommand::Migrate { from, to, dry_run, overwrite, online } = command;
    if from == to {
        return Err(Failure::Usage("--from and --to name the same plugin".to_owned()));
    }
    let config = load(common)?;
    let (started, meter) = (Instant::now(), Meter::new(output));
    let report = block_on(async {
        if !(*online || *dry_run) {
            refuse_running(common, "for a first pass while it serves there is --online").await?;
        }
        let (_host, [from, to]) = stores::open(&config, [from, to]).await?;
        let listener = |progress| meter.show(progress);
        let options = Options {
            dry_run: *dry_run,
            overwrite: *overwrite,
            verify: !online,
            advice: "empty it, or, where it holds an earlier copy of this realm, bring that up to date with --overwrite",
            clock: clock::system(),
            listener: &listener,
        };
        let copied = Box::pin(copy::migrate(&from, &to, &options)).await;
        meter.clear();
        Ok(copied?)
    })?;
    if *online && !dry_run {
        output.note("a first pass; stop the daemon and run this again with --overwrite and without --online");
    } else if !dry_run {
        output.note(&format!(
            "make {to} management.store before the daemon starts; never serve {from} again: counters used in one are \
             not known in the other"
        ));
    }
    answer(&report, *dry_run, started, json!({ "from": from, "to": to }), output)
}

pub(super) fn backup(
    file: &Path,
    store: Option<&str>,
    missing_keys_ok: bool,
    common: &Common,
    output: &Output,
) -> Result<(), Failure> {
    let config = load(common)?;
    let management = management(&config)?;
    let (started, meter) = (Instant::now(), Meter::new(output));
    let contents = block_on(async {
        let keks = recipients(&config, management).await?;
        may_encrypt(&keks, missing_keys_ok)?;
        let (_host, [store]) = stores::open(&config, [store.unwrap_or(&management.store)]).await?;
        let made_ms = clock::millis((clock::system())());
        let listener = |progress| meter.show(progress);
        let made = Box::pin(backup::backup(&store, &config.realm, &keks, file, made_ms, &listener)).await;
        meter.clear();
        Ok(made?)
    })?;
    if let Some(custody) = &management.custody {
        output.note(&format!(
            "unique keys in the custody of {custody} are not in the backup; the module has one of its own"
        ));
    }
    describe("written", file, &contents, started, output)
}

pub(super) fn verify(file: &Path, common: &Common, output: &Output) -> Result<(), Failure> {
    let config = load(common)?;
    let keks = block_on(recipients(&config, management(&config)?))?;
    let (started, meter) = (Instant::now(), Meter::new(output));
    let opened = Backup::open(file, &config.realm, &keks, true, &|progress| meter.show(progress));
    meter.clear();
    describe("whole", file, opened?.contents(), started, output)
}

pub(super) fn restore(
    file: &Path,
    store: Option<&str>,
    how: Restore,
    common: &Common,
    output: &Output,
) -> Result<(), Failure> {
    let config = load(common)?;
    let management = management(&config)?;
    let (started, meter) = (Instant::now(), Meter::new(output));
    let name = store.unwrap_or(&management.store);
    let (contents, report) = block_on(async {
        if !how.dry_run {
            refuse_running(common, "a daemon and a restore do not share a store").await?;
        }
        let keks = recipients(&config, management).await?;
        let listener = |progress| meter.show(progress);
        let opened =
            Backup::open(file, &config.realm, &keks, how.keep_keys, &listener).inspect_err(|_| meter.clear())?;
        let (_host, [store]) = stores::open(&config, [name]).await?;
        let options = Options {
            dry_run: how.dry_run,
            overwrite: false,
            verify: true,
            advice: "a backup goes into an empty store",
            clock: clock::system(),
            listener: &listener,
        };
        let restored = Box::pin(opened.restore(&store, &options)).await;
        meter.clear();
        Ok((opened.contents().clone(), restored?))
    })?;
    if !how.dry_run {
        let window = management.clock_window.as_secs();
        output.note(&format!(
            "what was used since {} is not known: start the daemon {window} s after the last sign-on at the earliest, \
             and see docs/operations.md, Backup and restore",
            clock::rfc3339(contents.made_ms)
        ));
        if how.keep_keys {
            output.note("keys that lay in a backup stay in use: `clavigerd user require-rotation` has them replaced");
        }
    }
    let made = clock::rfc3339(contents.made_ms);
    answer(&report, how.dry_run, started, json!({ "file": file, "made": made, "to": name }), output)
}

/// Refuses where a daemon with the management role answers at the configured
/// socket. One with another configuration cannot be seen from here.
async fn refuse_running(common: &Common, hint: &str) -> Result<(), Failure> {
    let client = client(common)?;
    let running = match client.status().await {
        Ok(status) => status.roles.iter().any(|role| role == "management"),
        Err(ClientError::Unreachable { source, .. }) => {
            !matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
        }
        // Somebody answers, if not to us.
        Err(_) => true,
    };
    let detail = format!("the daemon of this configuration runs: stop it first ({hint})");
    if running { Err(Failure::Refused { word: "running".to_owned(), detail }) } else { Ok(()) }
}

fn management(config: &Config) -> Result<&ManagementConfig, Failure> {
    config.management.as_ref().ok_or_else(|| {
        let detail = "the configuration has no role \"management\", and so neither a user store nor its key".to_owned();
        Failure::Refused { word: "no-management".to_owned(), detail }
    })
}

/// Refuses where a backup would not open with each of the configured keys, or,
/// if that is wanted, with none.
fn may_encrypt(keks: &Recipients, missing_keys_ok: bool) -> Result<(), Failure> {
    let missing: Vec<String> = keks
        .all()
        .iter()
        .filter_map(|one| one.kek.as_ref().err().map(|error| format!("{}: {error}", one.source)))
        .collect();
    let hint = match keks.at_hand().next() {
        None => "so nobody could ever open the backup; run it where they can be read",
        Some(_) if missing.is_empty() || missing_keys_ok => return Ok(()),
        Some(_) => "and would not open the backup; mend that, or add --missing-keys-ok",
    };
    let detail = format!("key-encryption keys are not at hand ({}), {hint}", missing.join("; "));
    Err(Failure::Refused { word: "no-key".to_owned(), detail })
}

/// The key-encryption keys of the configuration, and the plugins that derive
/// some of them.
async fn recipients(config: &Config, management: &ManagementConfig) -> Result<Recipients, Failure> {
    let modules = management.key_encryption_keys.iter().filter_map(|source| match source {
        KekSource::Custody(plugin) => Some(plugin.as_str()),
        KekSource::File(_) | KekSource::Credential(_) => None,
    });
    let host = stores::load(config, modules).await?;
    let recipients =
        Recipients::open(&management.key_encryption_keys, &config.realm, |plugin| host.custody(plugin)).await;
    for recipient in recipients.all() {
        if let Err(error) = &recipient.kek {
            eprintln!("warning: {}: {error}", recipient.source);
        }
    }
    Ok(recipients)
}

/// Runs a command's work on this thread. Plugins have threads of their own,
/// for which the process does not wait.
fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(work);
    runtime.shutdown_timeout(Duration::from_secs(5));
    done
}

fn answer(
    report: &Report,
    dry_run: bool,
    started: Instant,
    mut about: serde_json::Value,
    output: &Output,
) -> Result<(), Failure> {
    let seconds = started.elapsed().as_secs_f64();
    if let (Some(about), serde_json::Value::Object(report)) = (about.as_object_mut(), json!(report)) {
        about.extend(report);
        about.extend([("dry_run".to_owned(), json!(dry_run)), ("seconds".to_owned(), json!(seconds))]);
    }
    let word = if dry_run { "to write" } else { "written" };
    output.answer(&about, |_, out| {
        let counted = |all: u64, written: u64| Some(format!("{all}, {word}: {written}"));
        let deleted = if dry_run { "to delete" } else { "deleted" };
        out.fields([
            ("records", counted(report.records, report.records_written)),
            (deleted, (report.records_deleted > 0).then(|| report.records_deleted.to_string())),
            ("counters", counted(report.counters, report.counters_written)),
            ("bytes", Some(report.bytes.to_string())),
            ("verified", (!dry_run).then(|| if report.verified { "yes" } else { "no" }.to_owned())),
            ("seconds", Some(format!("{seconds:.1}"))),
        ]);
    })
}

fn describe(state: &str, file: &Path, contents: &Contents, started: Instant, output: &Output) -> Result<(), Failure> {
    let seconds = started.elapsed().as_secs_f64();
    let made = clock::rfc3339(contents.made_ms);
    let data = json!({
        "file": file,
        "state": state,
        "realm": contents.realm,
        "made": made,
        "records": contents.records,
        "counters": contents.counters,
        "bytes": contents.bytes,
        "seconds": seconds,
    });
    output.answer(&data, |_, out: &mut Lines| {
        out.fields([
            ("file", Some(file.display().to_string())),
            ("state", Some(state.to_owned())),
            ("realm", Some(contents.realm.clone())),
            ("made", Some(made)),
            ("records", Some(contents.records.to_string())),
            ("counters", Some(contents.counters.to_string())),
            ("bytes", Some(contents.bytes.to_string())),
            ("seconds", Some(format!("{seconds:.1}"))),
        ]);
    })
}

/// One line on standard error that changes, where somebody looks at it.
struct Meter {
    watched: bool,
    shown: Cell<Option<Instant>>,
}

impl Meter {
    fn new(output: &Output) -> Self {
        Self { watched: output.is_watched(), shown: Cell::new(None) }
    }

    fn show(&self, progress: Progress) {
        let now = Instant::now();
        if self.watched && self.shown.get().is_none_or(|shown| now - shown > Duration::from_millis(200)) {
            self.shown.set(Some(now));
            let Progress { step, records, counters } = progress;
            let _ = write!(io::stderr(), "\r\x1b[K{step}: {records} records, {counters} rows of counters");
        }
    }

    fn clear(&self) {
        if self.shown.take().is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Refused { word: error.word().to_owned(), detail: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::management::kek::Kek;

    #[test]
    fn a_backup_is_for_every_configured_key_and_never_for_none() {
        let all = Recipients::of([Kek::new(&[1; 32]), Kek::new(&[2; 32])]);
        let some = Recipients::of([Kek::new(&[1; 32])]).and_missing("/gone");
        let none = Recipients::of([]).and_missing("/gone");
        for (keks, missing_keys_ok, refused) in [
            (&all, false, None),
            (&all, true, None),
            (&some, false, Some("--missing-keys-ok")),
            (&some, true, None),
            (&none, false, Some("nobody")),
            (&none, true, Some("nobody")),
        ] {
            match (may_encrypt(keks, missing_keys_ok), refused) {
                (Ok(()), None) => {}
                (Err(Failure::Refused { word, detail }), Some(hint)) => {
                    assert!(word == "no-key" && detail.contains(hint) && detail.contains("/gone"), "{detail}");
                }
                (found, expected) => panic!("{keks:?} {missing_keys_ok}: {found:?}, not {expected:?}"),
            }
        }
    }
}

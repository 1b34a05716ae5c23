//! `clavigerd keys`

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal, Write},
    path::Path,
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::json;

use super::{
    args::{Common, KeysCommand},
    daemon::{block_on, client},
    failure::Failure,
    output::{Lines, Output},
};
use crate::{
    admin::{
        AdminClient,
        api::{DestroyKeys, GoOn, RotateKeys},
    },
    management::model::{DataKeyState, KeyRing, RewrapEnd, Rotated},
    pki,
};

pub(super) fn keys(command: &KeysCommand, common: &Common, output: &Output) -> Result<(), Failure> {
    match command {
        KeysCommand::Init { file } => init(file, output),
        KeysCommand::Status => {
            let status = block_on(status(&client(common)?, &mut Progress::new(common)))?;
            output.answer(&status, show)
        }
        KeysCommand::Rotate { drop, sole_daemon } => {
            let request = RotateKeys { drop: drop.clone(), sole_daemon: *sole_daemon };
            let client = client(common)?;
            output.answer(&block_on(async { Ok(client.rotate_keys(&request).await?) })?, rotated)
        }
        KeysCommand::Orphans { destroy, many } => {
            let found = block_on(orphans(&client(common)?, *destroy, *many, &mut Progress::new(common)))?;
            output.answer(&found, |found, out| {
                out.line(format!("{} keys in custody, {} of them named by no record", found.keys, found.orphans));
                match found.destroyed {
                    Some(count) => out.line(format!("{count} destroyed")),
                    None if found.orphans > 0 => out.line("`clavigerd keys orphans --destroy` destroys them"),
                    None => {}
                }
            })
        }
        KeysCommand::Rewrap { sole_daemon, page } => {
            let request = GoOn { sole_daemon: *sole_daemon, limit: usize::from(*page) };
            let done = block_on(rewrap(&client(common)?, request, &mut Progress::new(common)))?;
            output.answer(&done, rewrapped)?;
            match done.damaged.is_empty() {
                true => Ok(()),
                false => Err(Failure::Refused {
                    word: "damaged".to_owned(),
                    detail: "some secrets do not open, or records cannot be read; restore these records from a backup, or enrol their users anew"
                        .to_owned(),
                }),
            }
        }
    }
}

fn init(file: &Path, output: &Output) -> Result<(), Failure> {
    pki::keys::init(file)?;
    output.answer(&json!({ "key": file }), |_, out| {
        out.line(format!("{}: a new key-encryption key; keep a copy in a safe place", file.display()));
    })
}

/// The ring, and what is sealed under it.
#[derive(Debug, Serialize)]
struct Status {
    #[serde(flatten)]
    ring: KeyRing,
    /// Records that were read.
    records: u64,
    /// Sealed secrets in them, by data key.
    secrets: BTreeMap<String, u64>,
    /// Records that cannot be read.
    damaged: Vec<String>,
}

async fn status(client: &AdminClient, progress: &mut Progress) -> Result<Status, Failure> {
    let ring = client.key_ring().await?;
    let mut status = Status { ring, records: 0, secrets: BTreeMap::new(), damaged: Vec::new() };
    let mut after = None;
    loop {
        let page = client.count_secrets(after.as_deref()).await?;
        status.records += page.records;
        status.damaged.extend(page.damaged);
        for (id, count) in page.secrets {
            *status.secrets.entry(id).or_default() += count;
        }
        progress.say(|| format!("{} records", status.records));
        match page.next {
            // A cursor that does not move would have us ask for ever.
            Some(next) if after.as_ref() != Some(&next) => after = Some(next),
            _ => break,
        }
    }
    progress.end();
    Ok(status)
}

/// Keys in custody.
#[derive(Debug, Serialize)]
struct Orphans {
    keys: usize,
    orphans: usize,
    destroyed: Option<usize>,
}

/// A key that is being made is named by its record a moment later: what is
/// destroyed was found twice, with all requests ended in between.
async fn orphans(client: &AdminClient, destroy: bool, many: bool, progress: &mut Progress) -> Result<Orphans, Failure> {
    let first = client.orphaned_keys().await?;
    let mut found = Orphans { keys: first.keys, orphans: first.orphans.len(), destroyed: destroy.then_some(0) };
    if !destroy || first.orphans.is_empty() {
        return Ok(found);
    }
    let until = Instant::now() + BETWEEN_LOOKS;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        progress.say(|| format!("waiting {} s for requests in progress", left.as_secs() + 1));
        pause(1000).await;
    }
    progress.end();
    let mut destroyed = 0;
    for ids in first.orphans.chunks(1000) {
        // The daemon looks again itself.
        destroyed += client.destroy_orphaned_keys(&DestroyKeys { ids: ids.to_vec(), many }).await?.destroyed;
    }
    found.destroyed = Some(destroyed);
    Ok(found)
}

/// What `keys rewrap` has done, over all of its passes.
#[derive(Debug, Default, Serialize)]
struct Done {
    records: u64,
    secrets: u64,
    resealed: u64,
    damaged: Vec<String>,
    #[serde(flatten)]
    end: RewrapEnd,
}

/// Passes until one finds nothing to do and nothing to wait for.
async fn rewrap(client: &AdminClient, request: GoOn, progress: &mut Progress) -> Result<Done, Failure> {
    let mut resealed = 0;
    let mut passes = 0;
    loop {
        let now = client.rewrap(&request).await?;
        if let Some(ms) = now.begins_in_ms {
            progress.say(|| format!("waiting {} s until every daemon has read the new data key", ms.div_ceil(1000)));
            pause(ms.min(1000)).await;
            continue;
        }
        progress.say(|| format!("{} records, {} secrets sealed anew", now.records, resealed + now.resealed));
        let Some(end) = now.end else { continue };
        resealed += now.resealed;
        passes += 1;
        let soon = end.unused.iter().map(|key| key.in_ms).max().filter(|ms| *ms <= PATIENCE_MS);
        if passes < MAX_PASSES && !end.clean {
            continue;
        }
        if let Some(ms) = soon.filter(|_| passes < MAX_PASSES) {
            progress.say(|| format!("waiting {} s for requests in progress", ms.div_ceil(1000)));
            pause(ms).await;
            continue;
        }
        progress.end();
        let (records, secrets, damaged) = (now.records, now.secrets, now.damaged);
        return Ok(Done { records, secrets, resealed, damaged, end });
    }
}

async fn pause(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

fn show(status: &Status, out: &mut Lines) {
    recipients(&status.ring, out);
    out.line("");
    out.table(
        ["DATA KEY", "STATE", "MADE", "SEALS FROM", "SECRETS", "OPENED BY"],
        status.ring.data_keys.iter().map(|key| {
            [
                key.id.clone(),
                word(key.state).to_owned(),
                key.made.clone(),
                key.current_from.clone(),
                status.secrets.get(&key.id).copied().unwrap_or_default().to_string(),
                key.recipients.join(","),
            ]
        }),
    );
    let known = |id: &String| status.ring.data_keys.iter().any(|key| key.id == *id);
    for (id, count) in status.secrets.iter().filter(|(id, _)| !known(id)) {
        out.line(format!("{count} secrets under data key {id}, which is not in the ring: they cannot be opened"));
    }
    for record in &status.damaged {
        out.line(format!("record {record} cannot be read"));
    }
    out.line(format!("{} records", status.records));
}

fn recipients(ring: &KeyRing, out: &mut Lines) {
    out.table(
        ["KEY-ENCRYPTION KEY", "WHERE", "AT HAND", "OPENS", "PROBLEM"],
        ring.recipients.iter().map(|one| {
            let at_hand = one.source.is_some() && one.problem.is_none();
            [
                one.id.clone().unwrap_or_else(|| "?".to_owned()),
                one.source.clone().unwrap_or_else(|| "(not configured)".to_owned()),
                if at_hand { "yes" } else { "no" }.to_owned(),
                one.data_keys.join(","),
                one.problem.clone().unwrap_or_else(|| match one.damaged.is_empty() {
                    true => String::new(),
                    false => format!("damaged: {}; run `clavigerd keys rewrap`", one.damaged.join(",")),
                }),
            ]
        }),
    );
}

fn rotated(done: &Rotated, out: &mut Lines) {
    let made = done.ring.data_keys.iter().find(|key| key.id == done.data_key);
    let from = made.map(|key| key.current_from.clone()).unwrap_or_default();
    out.line(format!("data key {} seals from {from} on; next: clavigerd keys rewrap", done.data_key));
    for one in done.ring.recipients.iter().filter(|one| one.source.is_none()) {
        let id = one.id.clone().unwrap_or_default();
        out.line(format!("key-encryption key {id} is not configured: it does not open the new data key"));
    }
}

fn rewrapped(done: &Done, out: &mut Lines) {
    out.line(format!("{} records, {} secrets, {} sealed anew", done.records, done.secrets, done.resealed));
    for id in &done.end.dropped {
        out.line(format!("dropped data key {id}: nothing was sealed under it"));
    }
    for key in &done.end.unused {
        out.line(format!(
            "nothing is sealed under data key {}; `clavigerd keys rewrap` drops it from {} on",
            key.id, key.from
        ));
    }
    for id in &done.end.in_use {
        out.line(format!("data key {id} stays: something is sealed under it"));
    }
    for record in &done.damaged {
        out.line(format!("record {record} cannot be read, or a secret in it does not open"));
    }
}

fn word(state: DataKeyState) -> &'static str {
    match state {
        DataKeyState::Former => "former",
        DataKeyState::Current => "current",
        DataKeyState::Next => "next",
    }
}

/// How far it is, on standard error: on one line of a terminal, or a line now and then.
struct Progress {
    quiet: bool,
    terminal: bool,
    said: Option<Instant>,
}

impl Progress {
    fn new(common: &Common) -> Self {
        Self { quiet: common.json, terminal: io::stderr().is_terminal(), said: None }
    }

    fn say(&mut self, what: impl FnOnce() -> String) {
        let pause = if self.terminal { Duration::from_millis(100) } else { Duration::from_secs(5) };
        if self.quiet || self.said.is_some_and(|said| said.elapsed() < pause) {
            return;
        }
        self.said = Some(Instant::now());
        // Where standard error is gone nobody wants to know.
        let _ = match self.terminal {
            true => write!(io::stderr(), "\r\x1b[K{}", what()),
            false => writeln!(io::stderr(), "{}", what()),
        };
    }

    fn end(&self) {
        if self.terminal && self.said.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

/// A pass or two after the first have little to do. More mean that something seals under a former
/// data key without end.
const MAX_PASSES: u32 = 6;
/// Between two looks at keys that no record names.
const BETWEEN_LOOKS: Duration = Duration::from_secs(30);
/// How long it is worth waiting for a data key to go.
const PATIENCE_MS: u64 = 60_000;

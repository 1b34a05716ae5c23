//! The counters: which envelopes were seen. Their rows lie in chunks, each an
//! object that is made anew with every row until it is full.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    time::{SystemTime, UNIX_EPOCH},
};

use claviger_plugin_api::{
    COUNTER_RETENTION, CounterPosition, CounterUse, PluginError, Verdict,
    counter::{enters_new_block, too_old},
};
use cryptoki::object::ObjectHandle;

use crate::{
    chunk::{Chunk, Owner, ROWS, Row},
    fault::Fault,
    objects,
    store::{Retired, Shared, retire},
    worker::Desk,
};

/// The rows of the module, in memory.
#[derive(Default)]
pub(crate) struct Counters {
    owners: BTreeMap<Owner, Uses>,
    /// Objects that cannot be read, by the name of their owner.
    damaged: HashMap<String, Vec<ObjectHandle>>,
}

/// The uses of one credential and epoch.
#[derive(Default)]
struct Uses {
    rows: BTreeMap<u64, Row>,
    chunks: BTreeMap<u32, Held>,
}

/// A chunk in the module.
struct Held {
    version: u64,
    object: ObjectHandle,
    /// Versions that are over.
    old: Retired,
    counters: Vec<u64>,
}

/// What the name of a chunk's object begins with.
const NAME: &str = "counter:";
/// Chunks that one call prunes of a credential, at most: more than it can fill
/// in the meantime.
const PRUNE: usize = 4;
/// Seconds for which a row is kept. Times are cut to the second, which `<` makes up for.
const RETENTION: u64 = COUNTER_RETENTION.as_secs();

/// Judges the uses in order and records the fresh ones, an object for each
/// credential and epoch, or a few. A crash in between leaves some of them
/// recorded, which were not answered.
pub(crate) fn consume(
    desk: &Desk<'_>,
    shared: &Shared,
    uses: &[CounterUse],
    now: SystemTime,
) -> Result<Vec<Verdict>, Fault> {
    shared.load(desk)?;
    let now = seconds(now);
    let _alone = shared.only_all(uses.iter().map(|one| &one.credential[..]));
    let mut groups: BTreeMap<Owner, Vec<usize>> = BTreeMap::new();
    for (at, one) in uses.iter().enumerate() {
        groups.entry(Owner { credential: one.credential, epoch: one.epoch }).or_default().push(at);
    }
    let judged: Vec<(Owner, Vec<usize>, Judged)> = {
        let memory = shared.memory();
        let judge = |(owner, places): (Owner, Vec<usize>)| {
            let of_owner = places.iter().map(|at| &uses[*at]);
            let judged = memory.counters.of(&owner)?.map_or_else(Judge::default, Judge::new).all(of_owner, now);
            Ok((owner, places, judged))
        };
        groups.into_iter().map(judge).collect::<Result<_, PluginError>>()?
    };
    let mut verdicts = vec![Verdict::TooOld; uses.len()];
    let mut written = false;
    for (owner, places, judged) in judged {
        for (at, verdict) in places.into_iter().zip(judged.verdicts) {
            verdicts[at] = verdict;
        }
        // What has been written is not to be judged again.
        record(desk, shared, owner, judged.fresh.into_values().collect(), &mut written)
            .map_err(|fault| if written { fault.in_doubt() } else { fault })?;
        if judged.entered_block {
            prune(desk, shared, owner, now);
        }
    }
    Ok(verdicts)
}

/// Forgets every counter of a credential, in all its epochs.
pub(crate) fn forget(desk: &Desk<'_>, shared: &Shared, credential: &[u8; 16]) -> Result<(), Fault> {
    shared.load(desk)?;
    let _one = shared.only(credential);
    let (owners, damaged) = shared.memory().counters.all_of(credential);
    for (name, objects) in damaged {
        objects.into_iter().try_for_each(|object| desk.destroy(object))?;
        shared.memory_mut().counters.damaged.remove(&name);
    }
    for (owner, numbers) in owners {
        numbers.into_iter().try_for_each(|number| drop_chunk(desk, shared, owner, number))?;
        shared.memory_mut().counters.owners.remove(&owner);
    }
    Ok(())
}

impl Counters {
    /// Takes an object that was found; `name` follows the prefix in its label.
    /// `false` where it is none of these.
    pub(crate) fn found(&mut self, name: &str, value: &[u8], object: ObjectHandle) -> bool {
        if !name.starts_with(NAME) {
            return false;
        }
        match Chunk::decode(value) {
            Ok(chunk) if chunk.name() == name => self.insert(chunk, object),
            _ => {
                tracing::error!(name, "an object of counters is damaged");
                // `counter:CREDENTIAL:EPOCH:`, as `Owner::name` has it.
                let end = name.match_indices(':').nth(2).map_or(name.len(), |(at, _)| at + 1);
                self.damaged.entry(name[..end].to_owned()).or_default().push(object);
            }
        }
        true
    }

    /// Whatever is over, taken out.
    pub(crate) fn take_old(&mut self) -> Retired {
        let held = self.owners.values_mut().flat_map(|uses| uses.chunks.values_mut());
        held.flat_map(|held| std::mem::take(&mut held.old)).collect()
    }

    /// Up to `limit` rows behind a position, in order.
    pub(crate) fn list(&self, after: Option<CounterPosition>, limit: usize) -> Result<Vec<CounterUse>, PluginError> {
        if let Some(name) = self.damaged.keys().next() {
            return Err(corrupt(name));
        }
        let owner = after.map(|after| Owner { credential: after.credential, epoch: after.epoch });
        let begun = owner.and_then(|owner| self.owners.get(&owner).map(|uses| (owner, uses)));
        let behind = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.counter));
        let first = begun.into_iter().flat_map(|(owner, uses)| {
            uses.rows.range((behind, Bound::Unbounded)).map(move |(_, row)| counter_use(&owner, row))
        });
        let others = self.owners.range((owner.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded));
        let rest = others.flat_map(|(owner, uses)| uses.rows.values().map(move |row| counter_use(owner, row)));
        Ok(first.chain(rest).take(limit).collect())
    }

    fn of(&self, owner: &Owner) -> Result<Option<&Uses>, PluginError> {
        let name = if self.damaged.is_empty() { String::new() } else { owner.name() };
        if self.damaged.contains_key(&name) { Err(corrupt(&name)) } else { Ok(self.owners.get(owner)) }
    }

    /// The chunks of a credential, and its damaged objects.
    #[expect(clippy::type_complexity, reason = "two lists for one caller")]
    fn all_of(&self, credential: &[u8; 16]) -> (Vec<(Owner, Vec<u32>)>, Vec<(String, Vec<ObjectHandle>)>) {
        let owner = |epoch| Owner { credential: *credential, epoch };
        let owners = self.owners.range(owner(0)..=owner(u32::MAX));
        let owners = owners.map(|(owner, uses)| (*owner, uses.chunks.keys().copied().collect())).collect();
        let name = format!("{NAME}{}:", crate::record::hex(credential));
        let damaged = self.damaged.iter().filter(|(damaged, _)| damaged.starts_with(&name));
        (owners, damaged.map(|(name, objects)| (name.clone(), objects.clone())).collect())
    }

    /// Takes a chunk unless a higher version of it is there. Rows of a version
    /// are all in the next one.
    fn insert(&mut self, chunk: Chunk, object: ObjectHandle) {
        let uses = self.owners.entry(chunk.of).or_default();
        let mut old = Retired::new();
        if let Some(held) = uses.chunks.get_mut(&chunk.number) {
            if held.version >= chunk.version {
                held.old.push(object);
                return;
            }
            old = std::mem::take(&mut held.old);
            old.push(held.object);
        }
        let counters = chunk.rows.iter().map(|row| row.counter).collect();
        uses.rows.extend(chunk.rows.into_iter().map(|row| (row.counter, row)));
        uses.chunks.insert(chunk.number, Held { version: chunk.version, object, old, counters });
    }

    fn held(&mut self, owner: &Owner, number: u32) -> Option<&mut Held> {
        self.owners.get_mut(owner)?.chunks.get_mut(&number)
    }

    /// The chunk that takes the next rows, as it is now.
    fn open_chunk(&self, of: Owner) -> Chunk {
        let Some(uses) = self.owners.get(&of) else { return Chunk { of, number: 0, version: 0, rows: Vec::new() } };
        match uses.chunks.last_key_value() {
            Some((number, held)) if held.counters.len() < ROWS => {
                let rows = held.counters.iter().filter_map(|counter| uses.rows.get(counter).copied()).collect();
                Chunk { of, number: *number, version: held.version, rows }
            }
            last => {
                let number = last.map_or(0, |(number, _)| number.wrapping_add(1));
                Chunk { of, number, version: 0, rows: Vec::new() }
            }
        }
    }
}

/// Makes objects of fresh rows; `written` from the first one on.
fn record(
    desk: &Desk<'_>,
    shared: &Shared,
    owner: Owner,
    mut fresh: Vec<Row>,
    written: &mut bool,
) -> Result<(), Fault> {
    while !fresh.is_empty() {
        let mut chunk = shared.memory().counters.open_chunk(owner);
        let room = ROWS - chunk.rows.len();
        chunk.rows.extend(fresh.drain(..room.min(fresh.len())));
        chunk.version += 1;
        let object = objects::create_data(desk.session, &desk.module.names, &chunk.name(), chunk.encode())?;
        *written = true;
        let number = chunk.number;
        shared.memory_mut().counters.insert(chunk, object);
        let old = shared.memory_mut().counters.held(&owner, number).map(|held| std::mem::take(&mut held.old));
        let left = retire(desk, old.unwrap_or_default());
        if let (false, Some(held)) = (left.is_empty(), shared.memory_mut().counters.held(&owner, number)) {
            held.old = left;
        }
    }
    Ok(())
}

/// Destroys chunks of which every row is old and behind the window. What fails
/// here is tried again at the credential's next block.
fn prune(desk: &Desk<'_>, shared: &Shared, owner: Owner, now: u64) {
    let over: Vec<u32> = {
        let memory = shared.memory();
        let Some(uses) = memory.counters.owners.get(&owner) else { return };
        let Some(line) = uses.rows.last_key_value().and_then(|(max, _)| too_old(*max)) else { return };
        let is_over = |counter: &u64| {
            let young = |row: &Row| row.recorded >= now.saturating_sub(RETENTION);
            *counter <= line && !uses.rows.get(counter).is_some_and(young)
        };
        let over = uses.chunks.iter().filter(|(_, held)| held.counters.iter().all(is_over));
        over.map(|(number, _)| *number).take(PRUNE).collect()
    };
    for number in over {
        if let Err(fault) = drop_chunk(desk, shared, owner, number) {
            tracing::debug!(?fault, "counters could not be pruned; their next block tries again");
            return;
        }
    }
}

/// Destroys a chunk: what is over first, lest it came back.
fn drop_chunk(desk: &Desk<'_>, shared: &Shared, owner: Owner, number: u32) -> Result<(), Fault> {
    let doomed = shared.memory_mut().counters.held(&owner, number).map(|held| (held.old.clone(), held.object));
    let Some((old, object)) = doomed else { return Ok(()) };
    old.into_iter().chain([object]).try_for_each(|object| desk.destroy(object))?;
    let mut memory = shared.memory_mut();
    if let Some(uses) = memory.counters.owners.get_mut(&owner)
        && let Some(held) = uses.chunks.remove(&number)
    {
        for counter in held.counters {
            uses.rows.remove(&counter);
        }
    }
    Ok(())
}

/// Uses of one owner as they are judged, one after the other.
#[derive(Default)]
struct Judge<'a> {
    seen: Option<&'a Uses>,
    fresh: BTreeMap<u64, Row>,
    verdicts: Vec<Verdict>,
    /// Whether one of them was the first of its block, and pruning is due.
    entered_block: bool,
}

/// What became of them.
struct Judged {
    fresh: BTreeMap<u64, Row>,
    verdicts: Vec<Verdict>,
    entered_block: bool,
}

impl<'a> Judge<'a> {
    fn new(uses: &'a Uses) -> Self {
        Self { seen: Some(uses), ..Self::default() }
    }

    fn all<'b>(mut self, uses: impl Iterator<Item = &'b CounterUse>, now: u64) -> Judged {
        for one in uses {
            let verdict = self.judge(one);
            if verdict == Verdict::Fresh {
                // One that is post-dated comes into time later, and is kept from then on.
                let recorded = now.max(one.time_ms / 1000);
                let row = Row { counter: one.counter, nonce: one.nonce, recorded };
                self.fresh.insert(one.counter, row);
            }
            self.verdicts.push(verdict);
        }
        Judged { fresh: self.fresh, verdicts: self.verdicts, entered_block: self.entered_block }
    }

    fn judge(&mut self, one: &CounterUse) -> Verdict {
        let seen = self.seen.map(|uses| &uses.rows);
        // The row comes before the window: it outlives it.
        if let Some(row) = self.fresh.get(&one.counter).or_else(|| seen?.get(&one.counter)) {
            return if row.nonce == one.nonce { Verdict::SameNonce } else { Verdict::OtherNonce };
        }
        let highest = |rows: &BTreeMap<u64, Row>| rows.last_key_value().map(|(counter, _)| *counter);
        let Some(max) = highest(&self.fresh).max(seen.and_then(highest)) else { return Verdict::Fresh };
        if too_old(max).is_some_and(|line| one.counter <= line) {
            return Verdict::TooOld;
        }
        self.entered_block |= enters_new_block(one.counter, max);
        Verdict::Fresh
    }
}

/// A clock from before 1970 stands at it.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn counter_use(owner: &Owner, row: &Row) -> CounterUse {
    let Owner { credential, epoch } = *owner;
    let Row { counter, nonce, recorded } = *row;
    CounterUse { credential, epoch, counter, nonce, time_ms: recorded.saturating_mul(1000) }
}

fn corrupt(name: &str) -> PluginError {
    PluginError::Corrupt(format!("the objects {name}* in the token are damaged"))
}

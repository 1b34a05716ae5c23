//! Counters that no two envelopes share, over crashes and between processes.
//!
//! The management server suspends a credential when it sees a counter twice,
//! or one that is 64 behind the highest. So counters are given out in order to
//! all processes, under the credential's lock, without leaving gaps:
//!
//! - The credential's file says, durably, below which counter all may have
//!   been used: the end of a block, on disk before the block is begun.
//! - The lock's file says, without being synced, how far into the block they
//!   were used. It survives the death of a process. After a power cut it may
//!   be gone, which its boot id shows: then the block's rest is skipped.

use std::{fs, io, os::unix::fs::FileExt};

use crate::durable::Lock;

/// Counters per block: half of what the management server tolerates, so that
/// skipping a block's rest does not overtake an envelope under way.
pub(crate) const BLOCK: u64 = 32;

/// The counter to use next, and the durable mark to be written before it is used.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) counter: u64,
    /// `Some` when the credential's file must say so first.
    pub(crate) reserve: Option<u64>,
}

/// Decides on the next counter. `credential` names the enrolment, `reserved`
/// is the durable mark. Nothing is written.
pub(crate) fn take(lock: &Lock, credential: &str, reserved: u64) -> io::Result<Taken> {
    let boot = boot_id();
    let mut text = [0; LEN];
    let used = match lock.file().read_exact_at(&mut text, 0) {
        Ok(()) => parse(&text).filter(|state| state.credential == credential),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
        Err(error) => return Err(error),
    };
    Ok(decide(used.as_ref(), boot.as_deref(), reserved))
}

/// Notes that counters below `next` are used. To be called before the first use.
pub(crate) fn note(lock: &Lock, credential: &str, next: u64) -> io::Result<()> {
    let boot = boot_id().unwrap_or_default();
    let text = format!("{boot:36} {credential:32} {next:020}\n");
    lock.file().write_all_at(text.as_bytes(), 0)
}

const LEN: usize = 36 + 1 + 32 + 1 + 20 + 1;

struct State<'a> {
    boot: &'a str,
    credential: &'a str,
    next: u64,
}

fn parse(text: &[u8; LEN]) -> Option<State<'_>> {
    let mut parts = std::str::from_utf8(text).ok()?.strip_suffix('\n')?.split(' ');
    let state = State { boot: parts.next()?, credential: parts.next()?, next: parts.next()?.parse().ok()? };
    parts.next().is_none().then_some(state)
}

fn decide(used: Option<&State<'_>>, boot: Option<&str>, reserved: u64) -> Taken {
    let block = if boot.is_some() { BLOCK } else { 1 };
    let counter = match used {
        Some(state) if boot == Some(state.boot) && state.next.saturating_add(BLOCK) >= reserved => state.next,
        Some(state) => state.next.max(reserved),
        None => reserved,
    };
    Taken { counter, reserve: (counter >= reserved).then(|| counter.saturating_add(block)) }
}

/// Changes with every start of the machine; `None` where the system has none,
/// and then every counter is made durable by itself.
fn boot_id() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let id = id.trim();
    (id.len() == 36 && id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_counter_twice_and_no_gap_without_a_power_cut() {
        let state = |boot: &'static str, next| Some(State { boot, credential: "c", next });
        for (what, used, boot, reserved, counter, reserve) in [
            ("first of all", None, Some("b"), 1, 1, Some(33)),
            ("within a block", state("b", 7), Some("b"), 33, 7, None),
            ("last of a block", state("b", 32), Some("b"), 33, 32, None),
            ("block used up", state("b", 33), Some("b"), 33, 33, Some(65)),
            ("after a power cut", state("a", 7), Some("b"), 33, 33, Some(65)),
            ("the mark was lost", None, Some("b"), 33, 33, Some(65)),
            ("the file was restored from a backup", state("b", 90), Some("b"), 33, 90, Some(122)),
            ("the mark is from long ago", state("b", 7), Some("b"), 97, 97, Some(129)),
            ("no boot id", state("", 7), None, 33, 33, Some(34)),
        ] {
            assert_eq!(decide(used.as_ref(), boot, reserved), Taken { counter, reserve }, "{what}");
        }
    }

    #[test]
    fn the_note_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let lock = Lock::acquire(&directory.path().join("lock")).unwrap();
        let id = "00112233445566778899aabbccddeeff";
        assert_eq!(take(&lock, id, 1).unwrap().counter, 1);
        note(&lock, id, 12).unwrap();
        let expected = if boot_id().is_some() { 12 } else { 33 };
        assert_eq!(take(&lock, id, 33).unwrap().counter, expected);
        assert_eq!(take(&lock, "ffffffffffffffffffffffffffffffff", 33).unwrap().counter, 33);
    }
}

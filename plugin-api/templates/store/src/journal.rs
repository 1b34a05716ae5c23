//! The file: a line that names the format, then one frame for each commit.
//!
//! A frame is its length (4 bytes), a check sum (8 bytes) and a list of changes
//! in CBOR. Only the last frame can be incomplete: it is cut off when the file
//! is opened, for nobody was told that it was written. Anything else that does
//! not fit is damage, and then the store does not start.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use claviger_plugin_api::InitError;

use crate::state::{Change, State};

const FORMAT: &[u8] = b"claviger journal store 1\n";
const HEAD: usize = 12;
/// Changes of a frame of a journal that is written anew.
const FRAME: usize = 1000;

/// The open journal.
pub(crate) struct Journal {
    file: File,
    /// Locked until it is dropped. A file of its own, for the journal is replaced when it is written anew.
    _lock: File,
}

impl Journal {
    /// Opens or makes the file, and reads the state out of it.
    pub(crate) fn open(path: &Path, now_ms: u64) -> Result<(Self, State), InitError> {
        let away = |error: io::Error| InitError::Unavailable(format!("{}: {error}", path.display()));
        let lock = lock(path)?;
        let mut state = State::default();
        let file = match OpenOptions::new().read(true).append(true).open(path) {
            Ok(mut file) => {
                let mut bytes = Vec::new();
                file.read_to_end(&mut bytes).map_err(away)?;
                let (changes, good) = read(&bytes).map_err(|at| {
                    let path = path.display();
                    InitError::Failed(format!("{path} is damaged at byte {at}; restore it from a backup"))
                })?;
                if good < bytes.len() {
                    tracing::warn!(bytes = bytes.len() - good, "the last write of the journal was not finished");
                    file.set_len(good as u64).and_then(|()| file.sync_all()).map_err(away)?;
                }
                let count = changes.len();
                changes.into_iter().for_each(|change| state.apply(change));
                let shortest = state.shortest(now_ms);
                if count > 2 * shortest.len() + FRAME { make(path, &shortest).map_err(away)? } else { file }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => make(path, &[]).map_err(away)?,
            Err(error) => return Err(away(error)),
        };
        Ok((Self { file, _lock: lock }, state))
    }

    /// Writes changes durably. After an error nobody knows what is in the file.
    pub(crate) fn commit(&mut self, changes: &[Change]) -> io::Result<()> {
        self.file.write_all(&frame(changes)?)?;
        self.file.sync_data()
    }
}

/// Keeps a second daemon from the file.
fn lock(path: &Path) -> Result<File, InitError> {
    let path = beside(path, "lock");
    let lock = OpenOptions::new().create(true).append(true).open(&path);
    let lock = lock.map_err(|error| InitError::Unavailable(format!("{}: {error}", path.display())))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(_) => Err(InitError::Unavailable(format!("{} is locked: another process has the store", path.display()))),
    }
}

/// A new journal in place of an old one: after a crash there is one of the two, whole.
fn make(path: &Path, changes: &[Change]) -> io::Result<File> {
    let new = beside(path, "new");
    let mut file = File::create(&new)?;
    file.write_all(FORMAT)?;
    for changes in changes.chunks(FRAME) {
        file.write_all(&frame(changes)?)?;
    }
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()?;
    OpenOptions::new().append(true).open(path)
}

fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    name.into()
}

fn frame(changes: &[Change]) -> io::Result<Vec<u8>> {
    let body = minicbor::to_vec(changes).map_err(io::Error::other)?;
    let len = u32::try_from(body.len()).map_err(io::Error::other)?;
    Ok([&len.to_le_bytes()[..], &sum(&body).to_le_bytes(), &body].concat())
}

/// The changes of all whole frames, and where the last of them ends; or where the damage is.
fn read(bytes: &[u8]) -> Result<(Vec<Change>, usize), usize> {
    let (mut changes, mut at) = (Vec::new(), FORMAT.len());
    if !bytes.starts_with(FORMAT) {
        return Err(0);
    }
    while let Some((head, rest)) = bytes[at..].split_first_chunk::<HEAD>() {
        let [a, b, c, d, expected @ ..] = *head;
        let len = u32::from_le_bytes([a, b, c, d]) as usize;
        let Some(body) = rest.get(..len) else { break };
        if sum(body) != u64::from_le_bytes(expected) {
            // The last write may have left room that it did not fill.
            let unfinished = len == rest.len() || bytes[at..].iter().all(|byte| *byte == 0);
            return if unfinished { Ok((changes, at)) } else { Err(at) };
        }
        changes.extend(minicbor::decode::<Vec<Change>>(body).map_err(|_| at)?);
        at += HEAD + len;
    }
    Ok((changes, at))
}

/// FNV-1a: against what was not written to its end, not against anybody.
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

use std::io::BufReader;

use super::{
    chunks::{CHUNK, TAG},
    entry::RecordEntry,
    *,
};
use crate::management::kek::{Kek, Recipients};

fn kek(byte: u8) -> Recipients {
    Recipients::of([Kek::new(&[byte; 32])])
}

fn entry(number: u32, size: usize) -> Entry {
    Entry::Record(RecordEntry { key: format!("k{number:08}"), value: vec![number as u8; size], terms: Vec::new() })
}

fn write(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out, &kek(7), "example", 5).unwrap();
    entries.iter().for_each(|entry| writer.write(entry).unwrap());
    writer.finish().unwrap();
    out
}

/// Everything in a file, if all of it is as it was written.
fn read(bytes: &[u8], keks: &Recipients) -> Result<(Header, Vec<Entry>), FileError> {
    let mut reader = Reader::new(BufReader::new(bytes), keks)?;
    let mut entries = Vec::new();
    while let Some(entry) = reader.next()? {
        entries.push(entry);
    }
    Ok((reader.header().clone(), entries))
}

/// Where the chunks begin: behind the magic, the length and the header.
fn head(bytes: &[u8]) -> usize {
    let len = u32::from_be_bytes(bytes[18..22].try_into().unwrap());
    22 + len as usize
}

#[test]
fn what_was_written_is_read() {
    // Sizes around the chunk: entries that end just there, and that lie in three chunks.
    for sizes in [&[][..], &[0], &[1, 2, 3], &[CHUNK - 30], &[CHUNK], &[CHUNK * 3 / 2, 10, CHUNK], &[70_000; 10]] {
        let entries: Vec<Entry> = (0..).zip(sizes).map(|(number, size)| entry(number, *size)).collect();
        let bytes = write(&entries);
        let (header, found) = read(&bytes, &kek(7)).unwrap();
        assert_eq!((header.realm.as_str(), header.made_ms), ("example", 5));
        assert_eq!(found, entries, "{sizes:?}");
    }
    let fill = |exact: usize| {
        let base = write(&[entry(0, 1000)]);
        let overhead = base.len() - head(&base) - TAG - 1000;
        write(&[entry(0, exact - overhead)])
    };
    // The last chunk may be a whole one, and is never empty.
    let bytes = fill(CHUNK + 2); // a longer length in the encoding takes two bytes more
    assert!(read(&bytes, &kek(7)).is_ok());
    for exact in CHUNK - 3..CHUNK + 3 {
        let bytes = fill(exact);
        let (_, found) = read(&bytes, &kek(7)).unwrap();
        assert_eq!(found.len(), 1, "{exact}");
        assert_ne!((bytes.len() - head(&bytes)) % (CHUNK + TAG), TAG, "{exact}: an empty chunk");
    }
}

#[test]
fn nothing_of_a_record_can_be_read_in_a_file() {
    let secret = b"alice@example.org";
    let record = RecordEntry { key: "user/alice".into(), value: secret.to_vec(), terms: Vec::new() };
    let bytes = write(&[Entry::Record(record)]);
    for clear in [&secret[..], b"user/alice"] {
        assert!(!bytes.windows(clear.len()).any(|window| window == clear));
    }
    assert!(bytes.windows(7).any(|window| window == b"example"), "the realm stands in the header");
}

#[test]
fn nothing_is_written_that_nobody_could_open() {
    for keks in [Recipients::of([]), Recipients::of([]).and_missing("/gone")] {
        let mut out = Vec::new();
        let refused = Writer::new(&mut out, &keks, "example", 5).err().unwrap();
        assert!(matches!(refused, FileError::NoKey), "{refused}");
        assert!(out.is_empty());
    }
}

#[test]
fn every_changed_byte_is_refused() {
    let bytes = write(&[entry(0, 100), entry(1, 50)]);
    for at in 0..bytes.len() {
        for bit in [1, 0x80] {
            let mut bad = bytes.clone();
            bad[at] ^= bit;
            assert!(read(&bad, &kek(7)).is_err(), "byte {at} of {}", bytes.len());
        }
    }
    assert!(read(&bytes, &kek(7)).is_ok());
}

#[test]
fn every_byte_of_a_long_file_counts() {
    let bytes = write(&[entry(0, CHUNK), entry(1, CHUNK)]);
    let head = head(&bytes);
    let places = (0..3).flat_map(|chunk| {
        let start = head + chunk * (CHUNK + TAG);
        [start, start + 1, start + CHUNK / 2, start + CHUNK - 1, start + CHUNK, start + CHUNK + TAG - 1]
    });
    let mut tried = 0;
    for at in places.filter(|at| *at < bytes.len()) {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        assert!(matches!(read(&bad, &kek(7)), Err(FileError::Damaged(_))), "byte {at}");
        tried += 1;
    }
    assert!(tried > 12, "{tried}");
}

#[test]
fn a_file_that_ends_early_or_late_is_refused() {
    let short = write(&[entry(0, 100)]);
    for len in 0..short.len() {
        assert!(read(&short[..len], &kek(7)).is_err(), "{len} bytes");
    }
    let bytes = write(&[entry(0, 70_000), entry(1, 70_000), entry(2, 70_000)]);
    let head = head(&bytes);
    let boundaries: Vec<usize> = (1..).map(|n| head + n * (CHUNK + TAG)).take_while(|at| *at < bytes.len()).collect();
    assert!(boundaries.len() >= 3);
    for at in boundaries {
        for cut in [at - 1, at, at + 1] {
            assert!(matches!(read(&bytes[..cut], &kek(7)), Err(FileError::Damaged(_))), "cut at {cut}");
        }
    }
    for tail in [&b"\0"[..], &[0; TAG], &bytes[head..]] {
        assert!(read(&[&bytes, tail].concat(), &kek(7)).is_err(), "{} bytes more", tail.len());
    }
}

#[test]
fn chunks_stay_in_their_file_and_place() {
    let entries: Vec<Entry> = (0..4).map(|number| entry(number, CHUNK)).collect();
    let (one, two) = (write(&entries), write(&entries));
    assert_ne!(one, two, "each file has a key of its own");
    let chunks =
        |bytes: &[u8]| -> Vec<Vec<u8>> { bytes[head(bytes)..].chunks(CHUNK + TAG).map(<[u8]>::to_vec).collect() };
    let build = |chunks: &[Vec<u8>]| [&one[..head(&one)], &chunks.concat()].concat();
    let (own, others) = (chunks(&one), chunks(&two));
    assert!(own.len() == 5 && read(&build(&own), &kek(7)).is_ok());
    for at in 0..own.len() {
        let mut taken = own.clone();
        taken[at].clone_from(&others[at]);
        assert!(read(&build(&taken), &kek(7)).is_err(), "chunk {at} of another file");
        let mut dropped = own.clone();
        dropped.remove(at);
        assert!(read(&build(&dropped), &kek(7)).is_err(), "without chunk {at}");
        let mut twice = own.clone();
        twice.insert(at, own[at].clone());
        assert!(read(&build(&twice), &kek(7)).is_err(), "chunk {at} twice");
        if at > 0 {
            let mut swapped = own.clone();
            swapped.swap(at - 1, at);
            assert!(read(&build(&swapped), &kek(7)).is_err(), "chunk {at} and the one before");
        }
    }
    // And not under the header of another file.
    assert!(read(&[&two[..head(&two)], &own.concat()].concat(), &kek(7)).is_err());
}

#[test]
fn another_key_and_what_is_no_backup_are_named() {
    let bytes = write(&[entry(0, 10)]);
    assert!(matches!(read(&bytes, &kek(8)), Err(FileError::WrongKey(_))));
    assert!(matches!(read(b"", &kek(7)), Err(FileError::NoBackup)));
    assert!(matches!(read(b"SQLite format 3\0 and so on", &kek(7)), Err(FileError::NoBackup)));
    let later = [&b"claviger backup 2\n"[..], &bytes[18..]].concat();
    assert!(matches!(read(&later, &kek(7)), Err(FileError::Version)));
    // A header that claims to be large is not believed.
    let huge = [&bytes[..18], &u32::MAX.to_be_bytes(), &bytes[22..]].concat();
    assert!(matches!(read(&huge, &kek(7)), Err(FileError::Damaged(_))));
}

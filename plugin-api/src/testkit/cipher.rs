//! The suite of cipher suites: published vectors, and every primitive beside
//! the one of another library.

use std::{collections::HashSet, thread};

use aws_lc_rs::{aead, digest, hmac};

use crate::{CipherError, CipherSuite, SuiteInfo};

/// A check of a cipher suite: its name, and what panics where it does not hold.
pub type CipherCheck = (&'static str, fn(&dyn CipherSuite));

/// Checks a cipher suite against the contract of the trait, and its values
/// against published vectors and another library. An AEAD whose number is not
/// in the registry is compared with itself alone.
///
/// # Panics
/// With what was expected, where the suite does not keep the contract.
pub fn cipher(suite: &dyn CipherSuite) {
    for (_, check) in cipher_checks() {
        check(suite);
    }
}

/// The checks of [`cipher`] one by one.
pub fn cipher_checks() -> Vec<CipherCheck> {
    macro_rules! named {
        ($($name:ident),+ $(,)?) => { vec![$((concat!("cipher.", stringify!($name)), $name as fn(&dyn CipherSuite))),+] };
    }
    named![
        it_says_what_it_is,
        published_hashes_and_macs,
        published_ciphertexts,
        it_agrees_with_another_library,
        large_texts_are_sealed_and_opened,
        every_change_is_rejected_and_nothing_is_left,
        wrong_sizes_are_errors,
        texts_without_sense_are_rejected,
        many_threads_do_not_mix,
        random_bytes_are_random,
    ]
}

fn it_says_what_it_is(suite: &dyn CipherSuite) {
    let info = suite.info();
    assert_eq!(suite.info(), info, "the description does not change");
    assert!(info.id != 0, "a suite has a number");
    assert!(matches!(info.hash_len, 32 | 48), "a hash of {} bytes; 32 or 48", info.hash_len);
    let due = match info.id >> 8 {
        0 => 32,
        1 => 48,
        _ => info.hash_len,
    };
    assert_eq!(info.hash_len, due, "the hash length of suite {:#06x}", info.id);
    for text in [&info.name, &info.implementation] {
        let good = (1..=100).contains(&text.len()) && !text.chars().any(char::is_control);
        assert!(good, "name and implementation are for people: {text:?}");
    }
}

fn published_hashes_and_macs(suite: &dyn CipherSuite) {
    // FIPS 180-4, "abc"; RFC 4231, test case 2.
    let (hash, mac) = if suite.info().hash_len == 32 {
        (
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        )
    } else {
        (
            "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
            "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649",
        )
    };
    assert_eq!(hashed(suite, b"abc"), unhex(hash), "the hash of \"abc\"");
    assert_eq!(maced(suite, b"Jefe", b"what do ya want for nothing?"), unhex(mac), "RFC 4231, test case 2");
}

fn published_ciphertexts(suite: &dyn CipherSuite) {
    for Vector { source, key, nonce, aad, text, sealed } in vectors(suite.info().id) {
        assert_eq!(seal(suite, &key, &nonce, &aad, &text), sealed, "sealed as in {source}");
        assert_eq!(open(suite, &key, &nonce, &aad, &sealed), Ok(text), "opened as in {source}");
    }
}

struct Vector {
    source: &'static str,
    key: Vec<u8>,
    nonce: Vec<u8>,
    aad: Vec<u8>,
    text: Vec<u8>,
    sealed: Vec<u8>,
}

/// Published vectors of the AEAD with this number.
fn vectors(id: u16) -> Vec<Vector> {
    let vector = |source, key: &str, nonce: &str, aad: &str, text: &[u8], sealed: &str| Vector {
        source,
        key: unhex(key),
        nonce: unhex(nonce),
        aad: unhex(aad),
        text: text.to_vec(),
        sealed: unhex(sealed),
    };
    match id {
        0x0001 | 0x0101 => vec![vector(
            "the GCM specification (McGrew and Viega), test case 14",
            &"00".repeat(32),
            &"00".repeat(12),
            "",
            &[0; 16],
            "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919",
        )],
        0x0002 | 0x0102 => vec![vector(
            "RFC 8452, appendix C.2",
            "0100000000000000000000000000000000000000000000000000000000000000",
            "030000000000000000000000",
            "",
            &[1, 0, 0, 0, 0, 0, 0, 0],
            "c2ef328e5c71c83b843122130f7364b761e0b97427e3df28",
        )],
        0x0003 => vec![vector(
            "RFC 8439, section 2.8.2",
            "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f",
            "070000004041424344454647",
            "50515253c0c1c2c3c4c5c6c7",
            b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the \
              future, sunscreen would be it.",
            "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b1a71de0a9e\
             060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc3ff4def08e4b7a9de576\
             d26586cec64b61161ae10b594f09e26a7e902ecbd0600691",
        )],
        _ => Vec::new(),
    }
}

/// The AEAD of a number of the registry, in the library that suites are compared with.
fn reference(id: u16) -> Option<&'static aead::Algorithm> {
    Some(match id {
        0x0001 | 0x0101 => &aead::AES_256_GCM,
        0x0002 | 0x0102 => &aead::AES_256_GCM_SIV,
        0x0003 => &aead::CHACHA20_POLY1305,
        _ => return None,
    })
}

/// Lengths around the blocks of ciphers and hashes.
const LENGTHS: [usize; 22] =
    [0, 1, 11, 12, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 1000, 4096, 16 * 1024 + 1];

fn it_agrees_with_another_library(suite: &dyn CipherSuite) {
    let info = suite.info();
    let (hash, mac) = match info.hash_len {
        32 => (&digest::SHA256, hmac::HMAC_SHA256),
        _ => (&digest::SHA384, hmac::HMAC_SHA384),
    };
    for (number, len) in LENGTHS.into_iter().enumerate() {
        let data = noise(number, len);
        assert_eq!(hashed(suite, &data), digest::digest(hash, &data).as_ref(), "the hash of {len} bytes");
        for key_len in [0, 1, 32, 48, 64, 65, 127, 128, 129, 200] {
            let key = noise(key_len, key_len);
            let expected = hmac::sign(&hmac::Key::new(mac, &key), &data);
            assert_eq!(maced(suite, &key, &data), expected.as_ref(), "HMAC of {len} bytes, a key of {key_len}");
        }
    }
    for (number, len) in LENGTHS.into_iter().enumerate() {
        for aad_len in [0, 1, 16, 17, 300] {
            let (key, nonce) = (noise(number, 32), noise(aad_len, 12));
            let (text, aad) = (noise(number, len), noise(number + aad_len, aad_len));
            let sealed = seal(suite, &key, &nonce, &aad, &text);
            let what = format!("{len} bytes with {aad_len} of associated data");
            if let Some(aead) = reference(info.id) {
                let of_them = aead::LessSafeKey::new(aead::UnboundKey::new(aead, &key).expect("32 bytes"));
                let number = aead::Nonce::try_assume_unique_for_key(&nonce).expect("12 bytes");
                let mut expected = text.clone();
                of_them
                    .seal_in_place_append_tag(number, aead::Aad::from(&aad), &mut expected)
                    .expect("the other library seals");
                assert!(sealed == expected, "another library seals {what} otherwise");
            }
            assert!(open(suite, &key, &nonce, &aad, &sealed).as_ref() == Ok(&text), "{what} are opened again");
        }
    }
}

fn large_texts_are_sealed_and_opened(suite: &dyn CipherSuite) {
    let (key, nonce, text) = (noise(1, 32), noise(2, 12), noise(3, 1 << 20));
    let sealed = seal(suite, &key, &nonce, b"", &text);
    assert!(open(suite, &key, &nonce, b"", &sealed).as_ref() == Ok(&text), "a mebibyte comes back");
    assert!(open(suite, &key, &nonce, &text, &sealed) == Err(CipherError::Rejected), "other associated data");
    let sealed = seal(suite, &key, &nonce, &text, b"");
    assert_eq!(open(suite, &key, &nonce, &text, &sealed), Ok(vec![]), "a mebibyte of associated data");
}

fn every_change_is_rejected_and_nothing_is_left(suite: &dyn CipherSuite) {
    let (key, nonce, aad, text) = (noise(1, 32), noise(2, 12), noise(3, 9), noise(4, 40));
    let sealed = seal(suite, &key, &nonce, &aad, &text);
    let rejected = |key: &[u8], nonce: &[u8], aad: &[u8], sealed: &[u8], what: &str| {
        let mut out = vec![0xaa; sealed.len() - SuiteInfo::TAG_LEN];
        let answer = suite.open(key, nonce, aad, sealed, &mut out);
        assert_eq!(answer, Err(CipherError::Rejected), "{what} is rejected");
        let left = out.windows(4).any(|part| text.windows(4).any(|of_text| part == of_text));
        assert!(!left, "{what}: nothing of the plaintext is left in the buffer");
    };
    for (bytes, what) in [(&sealed, "ciphertext"), (&key, "key"), (&nonce, "nonce"), (&aad, "associated data")] {
        for at in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[at / 8] ^= 1 << (at % 8);
            let [mut a, mut b, mut c, mut d] = [&key, &nonce, &aad, &sealed];
            match what {
                "ciphertext" => d = &changed,
                "key" => a = &changed,
                "nonce" => b = &changed,
                _ => c = &changed,
            }
            rejected(a, b, c, d, &format!("a {what} with bit {at} changed"));
        }
    }
    for len in SuiteInfo::TAG_LEN..sealed.len() {
        rejected(&key, &nonce, &aad, &sealed[..len], &format!("a ciphertext cut to {len} bytes"));
    }
    rejected(&key, &nonce, &aad, &[&sealed[..], &[0]].concat(), "a ciphertext with a byte more");
    rejected(&key, &nonce, b"", &sealed, "a ciphertext without its associated data");
    assert_eq!(open(suite, &key, &nonce, &aad, &sealed), Ok(text), "and the right one is opened after that");
}

fn wrong_sizes_are_errors(suite: &dyn CipherSuite) {
    let len = suite.info().hash_len;
    let (key, nonce) = ([1; 32], [2; 12]);
    let bad = |answer: Result<(), CipherError>, what: &str| {
        assert_eq!(answer, Err(CipherError::BadSize), "{what}");
    };
    for wrong in [0, 1, len - 1, len + 1, 64, 1000] {
        bad(suite.hash(b"x", &mut vec![0; wrong]), &format!("a hash into {wrong} bytes"));
        bad(suite.mac(&key, b"x", &mut vec![0; wrong]), &format!("a MAC into {wrong} bytes"));
    }
    for wrong in [0, 3, 18, 20, 100] {
        bad(suite.seal(&key, &nonce, b"", b"abc", &mut vec![0; wrong]), &format!("3 bytes sealed into {wrong}"));
    }
    for wrong in [0, 1, 16, 31, 33, 64] {
        let key = vec![1; wrong];
        bad(suite.seal(&key, &nonce, b"", b"abc", &mut [0; 19]), &format!("sealed with a key of {wrong}"));
        bad(suite.open(&key, &nonce, b"", &[0; 19], &mut [0; 3]), &format!("opened with a key of {wrong}"));
    }
    for wrong in [0, 1, 8, 11, 13, 16, 24] {
        let nonce = vec![1; wrong];
        bad(suite.seal(&key, &nonce, b"", b"abc", &mut [0; 19]), &format!("sealed with a nonce of {wrong}"));
        bad(suite.open(&key, &nonce, b"", &[0; 19], &mut [0; 3]), &format!("opened with a nonce of {wrong}"));
    }
    for short in 0..SuiteInfo::TAG_LEN {
        bad(suite.open(&key, &nonce, b"", &vec![0; short], &mut []), &format!("a ciphertext of {short} bytes"));
    }
    for wrong in [0, 2, 4, 19] {
        bad(suite.open(&key, &nonce, b"", &[0; 19], &mut vec![0; wrong]), &format!("19 bytes opened into {wrong}"));
    }
}

fn texts_without_sense_are_rejected(suite: &dyn CipherSuite) {
    for (number, len) in LENGTHS.into_iter().enumerate() {
        let (key, nonce, sealed) = (noise(number, 32), noise(number, 12), noise(number, len + SuiteInfo::TAG_LEN));
        for sealed in [sealed.clone(), vec![0; sealed.len()], vec![0xff; sealed.len()]] {
            let answer = open(suite, &key, &nonce, b"", &sealed);
            assert_eq!(answer, Err(CipherError::Rejected), "{} bytes that nobody sealed", sealed.len());
        }
    }
}

fn many_threads_do_not_mix(suite: &dyn CipherSuite) {
    thread::scope(|scope| {
        for caller in 0..16_usize {
            scope.spawn(move || {
                for round in 0..100 {
                    let seed = caller * 1000 + round;
                    let (key, nonce, text) = (noise(seed, 32), noise(seed + 1, 12), noise(seed + 2, 50 + round));
                    let sealed = seal(suite, &key, &nonce, &nonce, &text);
                    let opened = open(suite, &key, &nonce, &nonce, &sealed);
                    assert!(opened == Ok(text), "what thread {caller} sealed is what it opens");
                    let (one, two) = (maced(suite, &key, &sealed), maced(suite, &key, &sealed));
                    assert_eq!(one, two, "a MAC of thread {caller}");
                }
            });
        }
    });
}

fn random_bytes_are_random(suite: &dyn CipherSuite) {
    let draw = |len: usize| {
        let mut out = vec![0; len];
        suite.random(&mut out).expect("random");
        out
    };
    assert!(draw(0).is_empty(), "no bytes are no error");
    // With 16 random bytes each, two alike would be the end of the world.
    let mut seen = HashSet::new();
    let drawn: Vec<Vec<u8>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| (0..500).map(|_| draw(16)).collect::<Vec<_>>())).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("it ends")).collect()
    });
    assert!(drawn.into_iter().all(|bytes| seen.insert(bytes)), "of 4,000 draws on 8 threads no two are alike");
    // Every length is filled to its end: of 40 draws none leaves the last byte at 0.
    for len in [1, 7, 31, 32, 33, 1000] {
        let last = (0..40).any(|_| draw(len)[len - 1] != 0);
        let first = (0..40).any(|_| draw(len)[0] != 0);
        assert!(first && last, "all of {len} bytes are drawn");
    }
    let bytes = draw(1 << 16);
    let ones: u32 = bytes.iter().map(|byte| byte.count_ones()).sum();
    // Half of 524,288 bits; more than 3,000 away from it is eight standard deviations.
    assert!(ones.abs_diff(1 << 18) < 3_000, "{ones} of 524288 bits are set");
    let mut counts = [0_u32; 256];
    bytes.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
    let square: f64 = counts.iter().map(|count| (f64::from(*count) - 256.0).powi(2) / 256.0).sum();
    // Chi-square with 255 degrees of freedom: 255 with a deviation of 23.
    assert!((100.0..500.0).contains(&square), "bytes are spread evenly: chi-square {square:.0}");
}

fn hashed(suite: &dyn CipherSuite, data: &[u8]) -> Vec<u8> {
    let mut out = vec![0; suite.info().hash_len];
    suite.hash(data, &mut out).expect("hash");
    out
}

fn maced(suite: &dyn CipherSuite, key: &[u8], data: &[u8]) -> Vec<u8> {
    let mut out = vec![0; suite.info().hash_len];
    suite.mac(key, data, &mut out).expect("mac");
    out
}

fn seal(suite: &dyn CipherSuite, key: &[u8], nonce: &[u8], aad: &[u8], text: &[u8]) -> Vec<u8> {
    let mut out = vec![0; text.len() + SuiteInfo::TAG_LEN];
    suite.seal(key, nonce, aad, text, &mut out).expect("seal");
    out
}

fn open(suite: &dyn CipherSuite, key: &[u8], nonce: &[u8], aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, CipherError> {
    let mut out = vec![0; sealed.len() - SuiteInfo::TAG_LEN];
    suite.open(key, nonce, aad, sealed, &mut out).map(|()| out)
}

/// Bytes that look like nothing in particular, the same each time.
fn noise(seed: usize, len: usize) -> Vec<u8> {
    let mut state = seed as u64 ^ 0x9e37_79b9_7f4a_7c15;
    let mut next = || {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as u8
    };
    (0..len).map(|_| next()).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex digits");
    (0..text.len()).step_by(2).map(digit).collect()
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use aws_lc_rs::rand;

    use super::*;

    /// What a suite does wrong.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Fault {
        None,
        HashOfLess,
        AnotherAead,
        NoAad,
        LeavesPlaintext,
        IgnoresTag,
        PanicsOnSizes,
        CutsRandom,
        CountsInsteadOfRandom,
    }

    struct Faulty(Fault);

    impl Faulty {
        fn key(&self, key: &[u8], nonce: &[u8]) -> Result<(aead::LessSafeKey, aead::Nonce), CipherError> {
            let other = self.0 == Fault::AnotherAead;
            let aead = if other { &aead::CHACHA20_POLY1305 } else { &aead::AES_256_GCM };
            let key = aead::UnboundKey::new(aead, key).map_err(|_| CipherError::BadSize)?;
            let nonce = aead::Nonce::try_assume_unique_for_key(nonce).map_err(|_| CipherError::BadSize)?;
            Ok((aead::LessSafeKey::new(key), nonce))
        }

        fn aad<'a>(&self, aad: &'a [u8]) -> aead::Aad<&'a [u8]> {
            aead::Aad::from(if self.0 == Fault::NoAad { &[] } else { aad })
        }
    }

    impl CipherSuite for Faulty {
        fn info(&self) -> SuiteInfo {
            SuiteInfo::new(0x0001, "AES-256-GCM/SHA-256", 32, "faulty")
        }

        fn hash(&self, data: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
            let less = self.0 == Fault::HashOfLess && data.len() > 1000;
            let hash = digest::digest(&digest::SHA256, if less { &data[1..] } else { data });
            if out.len() != 32 && self.0 != Fault::PanicsOnSizes {
                return Err(CipherError::BadSize);
            }
            out.copy_from_slice(hash.as_ref());
            Ok(())
        }

        fn mac(&self, key: &[u8], data: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
            let out: &mut [u8; 32] = out.try_into().map_err(|_| CipherError::BadSize)?;
            out.copy_from_slice(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data).as_ref());
            Ok(())
        }

        fn seal(&self, key: &[u8], nonce: &[u8], aad: &[u8], text: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
            let (key, nonce) = self.key(key, nonce)?;
            let (body, tag) = out.split_at_mut_checked(text.len()).ok_or(CipherError::BadSize)?;
            key.seal_out_of_place_scatter(nonce, self.aad(aad), text, body, &[], tag).map_err(|_| CipherError::BadSize)
        }

        fn open(&self, key: &[u8], nonce: &[u8], aad: &[u8], sealed: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
            let (body, tag) = sealed.split_last_chunk::<16>().ok_or(CipherError::BadSize)?;
            if body.len() != out.len() {
                return Err(CipherError::BadSize);
            }
            let (of_key, number) = self.key(key, nonce)?;
            let opened = of_key.open_separate_gather(number, self.aad(aad), body, tag, out);
            if opened.is_ok() {
                return Ok(());
            }
            out.fill(0);
            if matches!(self.0, Fault::LeavesPlaintext | Fault::IgnoresTag) {
                // Counter mode: sealing the ciphertext gives the plaintext.
                let mut both = vec![0; sealed.len()];
                self.seal(key, nonce, aad, body, &mut both)?;
                out.copy_from_slice(&both[..body.len()]);
            }
            if self.0 == Fault::IgnoresTag { Ok(()) } else { Err(CipherError::Rejected) }
        }

        fn random(&self, out: &mut [u8]) -> Result<(), CipherError> {
            let most = if self.0 == Fault::CutsRandom { out.len().min(32) } else { out.len() };
            match self.0 {
                Fault::CountsInsteadOfRandom => out.fill(0x5a),
                _ => rand::fill(&mut out[..most]).map_err(|_| CipherError::Failed)?,
            }
            Ok(())
        }
    }

    #[test]
    fn each_fault_is_found_by_the_check_for_it_and_a_good_suite_passes() {
        cipher(&Faulty(Fault::None));
        for (fault, found_by) in [
            (Fault::HashOfLess, "it_agrees_with_another_library"),
            (Fault::AnotherAead, "published_ciphertexts"),
            (Fault::NoAad, "every_change_is_rejected_and_nothing_is_left"),
            (Fault::LeavesPlaintext, "every_change_is_rejected_and_nothing_is_left"),
            (Fault::IgnoresTag, "texts_without_sense_are_rejected"),
            (Fault::PanicsOnSizes, "wrong_sizes_are_errors"),
            (Fault::CutsRandom, "random_bytes_are_random"),
            (Fault::CountsInsteadOfRandom, "random_bytes_are_random"),
        ] {
            let failed = |(_, check): &CipherCheck| catch_unwind(AssertUnwindSafe(|| check(&Faulty(fault)))).is_err();
            let names: Vec<&str> =
                cipher_checks().iter().filter(|check| failed(check)).map(|(name, _)| *name).collect();
            assert!(names.contains(&format!("cipher.{found_by}").as_str()), "{fault:?} was found by {names:?}");
        }
    }
}

//! The suites on the machine's OpenSSL. Published vectors by the hundred are in `tests/tests/ciphers`.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    fs::{self, File},
    hint::black_box,
    os::unix::fs::FileExt,
    path::Path,
    thread,
};

use claviger_cipher_openssl::{Configuration, Library, Provider, SUITES, Suite, suites};
use claviger_plugin_api::{CipherError, CipherSuite, InitError, SuiteInfo};

fn with(provider: Provider, openssl_conf: Option<&Path>) -> Result<&'static Library, InitError> {
    Library::open(&Configuration { provider, openssl_conf: openssl_conf.map(Path::to_owned) })
}

fn all() -> Vec<Suite> {
    suites(with(Provider::Default, None).unwrap()).unwrap()
}

fn suite(id: u16) -> Suite {
    all().into_iter().find(|suite| suite.info().id == id).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_suite_keeps_the_contract() {
    for suite in all() {
        claviger_plugin_api::testkit::cipher(&suite);
    }
}

#[test]
fn it_says_what_it_has() {
    let found: Vec<SuiteInfo> = all().iter().map(CipherSuite::info).collect();
    for id in [0x0001, 0x0003, 0x0101] {
        assert!(found.iter().any(|info| info.id == id), "{id:#06x}: {found:?}");
    }
    for info in found {
        let row = SUITES.iter().find(|row| row.id == info.id).unwrap();
        assert_eq!((info.name.as_str(), info.hash_len), (row.name, if row.id < 0x0100 { 32 } else { 48 }));
        let version = info.implementation.strip_prefix("OpenSSL ").unwrap().strip_suffix(", provider default").unwrap();
        assert!(version.starts_with('3') && version.split('.').count() == 3, "{version}");
    }
}

#[test]
fn the_published_hash_and_mac() {
    // FIPS 180-2, "abc"; RFC 4231, test case 2.
    for (id, hash, mac) in [
        (
            0x0001,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        ),
        (
            0x0101,
            "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
            "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649",
        ),
    ] {
        let suite = suite(id);
        let mut out = vec![0; suite.info().hash_len];
        suite.hash(b"abc", &mut out).unwrap();
        assert_eq!(hex(&out), hash);
        suite.mac(b"Jefe", b"what do ya want for nothing?", &mut out).unwrap();
        assert_eq!(hex(&out), mac);
    }
}

#[test]
fn every_changed_byte_is_rejected_and_nothing_is_left() {
    for suite in all() {
        let mut sealed = [0; 20];
        suite.seal(&[1; 32], &[2; 12], b"aad", b"text", &mut sealed).unwrap();
        for at in 0..sealed.len() {
            sealed[at] ^= 0x80;
            let mut out = [9; 4];
            let result = suite.open(&[1; 32], &[2; 12], b"aad", &sealed, &mut out);
            assert_eq!((result, out), (Err(CipherError::Rejected), [0; 4]), "{:?}: byte {at}", suite.info());
            sealed[at] ^= 0x80;
        }
        let mut out = [9; 4];
        assert_eq!(suite.open(&[1; 32], &[2; 12], b"aad", &sealed, &mut out), Ok(()));
        assert_eq!(&out, b"text");
    }
}

#[test]
fn wrong_sizes_are_errors_and_no_panics() {
    for suite in all() {
        let (key, nonce, len) = ([1; 32], [2; 12], suite.info().hash_len);
        for (case, result) in [
            ("hash, short", suite.hash(b"", &mut vec![0; len - 1])),
            ("hash, long", suite.hash(b"", &mut vec![0; len + 1])),
            ("mac, short", suite.mac(&key, b"", &mut vec![0; len - 1])),
            ("mac, long", suite.mac(&key, b"", &mut vec![0; len + 1])),
            ("seal, no room for the tag", suite.seal(&key, &nonce, b"", b"abc", &mut [0; 18])),
            ("seal, no room at all", suite.seal(&key, &nonce, b"", b"abc", &mut [0; 2])),
            ("seal, too much room", suite.seal(&key, &nonce, b"", b"abc", &mut [0; 20])),
            ("seal, short key", suite.seal(&key[1..], &nonce, b"", b"", &mut [0; 16])),
            ("seal, short nonce", suite.seal(&key, &nonce[1..], b"", b"", &mut [0; 16])),
            ("seal, no nonce", suite.seal(&key, &[], b"", b"", &mut [0; 16])),
            ("open, shorter than a tag", suite.open(&key, &nonce, b"", &[0; 15], &mut [])),
            ("open, empty", suite.open(&key, &nonce, b"", &[], &mut [])),
            ("open, other length", suite.open(&key, &nonce, b"", &[0; 17], &mut [0; 2])),
            ("open, long key", suite.open(&[0; 33], &nonce, b"", &[0; 17], &mut [0; 1])),
            ("open, long nonce", suite.open(&key, &[0; 13], b"", &[0; 17], &mut [0; 1])),
        ] {
            assert_eq!(result, Err(CipherError::BadSize), "{:?}: {case}", suite.info());
        }
    }
}

#[test]
fn threads_share_a_suite() {
    for suite in all() {
        let len = suite.info().hash_len;
        let mac = |key: &[u8]| {
            let mut out = vec![0; len];
            suite.mac(key, b"data", &mut out).unwrap();
            out
        };
        let alone: Vec<_> = (0..8).map(|at| mac(&[at; 32])).collect();
        thread::scope(|scope| {
            for (at, expected) in (0..).zip(&alone) {
                let (suite, mac) = (&suite, &mac);
                scope.spawn(move || {
                    let mut sealed = [0; 20];
                    suite.seal(&[at; 32], &[2; 12], b"", b"text", &mut sealed).unwrap();
                    for _ in 0..500 {
                        assert_eq!(mac(&[at; 32]), *expected);
                        assert_eq!(suite.open(&[at; 32], &[2; 12], b"", &sealed, &mut [0; 4]), Ok(()));
                    }
                });
            }
        });
    }
}

#[test]
fn random_fills_all_lengths() {
    let suite = suite(1);
    let (mut one, mut two) = ([0; 100], [0; 100]);
    suite.random(&mut one).unwrap();
    suite.random(&mut two).unwrap();
    assert!(one != two && one[84..] != [0; 16] && two[84..] != [0; 16]);
    assert_eq!(suite.random(&mut []), Ok(()));
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let read = |json| serde_json::from_value::<Configuration>(json);
    assert_eq!(read(serde_json::json!({})).unwrap().provider, Provider::Default);
    assert_eq!(read(serde_json::json!({ "provider": "fips" })).unwrap().provider, Provider::Fips);
    for wrong in [serde_json::json!({ "provider": "legacy" }), serde_json::json!({ "other": 1 })] {
        assert!(read(wrong.clone()).is_err(), "{wrong}");
    }
    for (provider, path) in [(Provider::Default, "/openssl.cnf"), (Provider::Fips, "openssl.cnf")] {
        let error = with(provider, Some(Path::new(path))).err().unwrap();
        assert!(matches!(&error, InitError::Configuration(text) if text.contains("openssl_conf")), "{error}");
    }
}

#[test]
fn a_missing_fips_provider_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("openssl.cnf");
    let missing = directory.path().join("fips.so").display().to_string();
    let conf = format!("openssl_conf = i\n[i]\nproviders = p\n[p]\nfips = f\n[f]\nmodule = {missing}\n");
    // Not activated, so that it is loaded when it is asked for.
    fs::write(&file, &conf).unwrap();
    let error = with(Provider::Fips, Some(&file)).err().unwrap().to_string();
    for part in ["unavailable: ", "FIPS provider", "Debian", "fipsinstall", "openssl_conf", &missing] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(!error.contains('\n'), "{error}");
    let error = with(Provider::Fips, Some(&directory.path().join("none.cnf"))).err().unwrap().to_string();
    assert!(error.contains("none.cnf cannot be loaded"), "{error}");
}

#[test]
#[ignore = "needs a FIPS provider: OPENSSL_CONF names a configuration that loads it"]
fn a_fips_provider_computes() {
    let library = with(Provider::Fips, None).unwrap();
    let implementation = library.implementation();
    assert!(
        implementation.starts_with("OpenSSL 3.") && implementation.contains(", provider fips 3."),
        "{implementation}"
    );
    let (fips, default) = (suites(library).unwrap(), all());
    let ids: Vec<u16> = fips.iter().map(|suite| suite.info().id).collect();
    assert_eq!(ids, [0x0001, 0x0101]);
    for suite in fips {
        let other = default.iter().find(|other| other.info().id == suite.info().id).unwrap();
        let mut sealed = [0; 20];
        suite.seal(&[1; 32], &[2; 12], b"aad", b"text", &mut sealed).unwrap();
        assert_eq!(other.open(&[1; 32], &[2; 12], b"aad", &sealed, &mut [0; 4]), Ok(()));
        assert_eq!(suite.open(&[1; 32], &[2; 12], b"", &sealed, &mut [0; 4]), Err(CipherError::Rejected));
        let len = suite.info().hash_len;
        let results = [&suite, other].map(|suite| {
            let mut out = vec![0; 2 * len];
            let (hash, mac) = out.split_at_mut(len);
            suite.hash(b"data", hash).unwrap();
            suite.mac(&[1; 32], b"data", mac).unwrap();
            out
        });
        assert_eq!(results[0], results[1]);
        suite.random(&mut [0; 32]).unwrap();
    }
}

#[test]
fn no_key_is_left_in_memory() {
    // Masked, so that looking for it does not find what is looked for.
    let masked: Vec<u8> = (0..32u8).map(|at| at.wrapping_mul(167) ^ 0xd1 ^ MASK).collect();
    let suites = all();
    let mut key: Vec<u8> = masked.iter().map(|byte| byte ^ MASK).collect();
    assert!(found(&masked, 0) > 0, "the search finds nothing");
    for suite in &suites {
        let (mut sealed, mut mac) = ([0; 20], vec![0; suite.info().hash_len]);
        suite.seal(&key, &[2; 12], b"aad", b"text", &mut sealed).unwrap();
        suite.open(&key, &[2; 12], b"aad", &sealed, &mut [0; 4]).unwrap();
        suite.open(&key, &[2; 12], b"", &sealed, &mut [0; 4]).unwrap_err();
        suite.mac(&key, b"data", &mut mac).unwrap();
    }
    key.fill(0);
    black_box(&key);
    // As it is, and as HMAC pads it.
    for pad in [0, 0x36, 0x5c] {
        assert_eq!(found(&masked, pad), 0, "pad {pad:#04x}");
    }
}

const MASK: u8 = 0xa7;

/// How often the key, each byte with `pad`, is in memory that this process can write.
fn found(masked: &[u8], pad: u8) -> usize {
    let memory = File::open("/proc/self/mem").unwrap();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let mut count = 0;
    for line in maps.lines().filter(|line| line.contains(" rw-p ") && !line.contains("/dev/")) {
        let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let (from, to) = (u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(to - from).unwrap().min(64 << 20)];
        let Ok(read) = memory.read_at(&mut bytes, from) else { continue };
        let is_key = |window: &[u8]| window.iter().zip(masked).all(|(byte, masked)| byte ^ pad ^ MASK == *masked);
        count += bytes[..read].windows(masked.len()).filter(|window| is_key(window)).count();
        // What was read is not to be found again.
        bytes.fill(0);
        black_box(&bytes);
    }
    count
}

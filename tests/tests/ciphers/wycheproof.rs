//! Project Wycheproof: AEADs, HMAC, and HKDF as the key schedule builds it.
//!
//! Each test counts what it tried, by kind, so that a filter that lets nothing through is noticed.

use claviger_protocol::{Suite, SuiteError, schedule};
use wycheproof::{TestResult, aead, hkdf, mac};

use crate::subjects;

const KEY_BITS: usize = 256;
const NONCE_BITS: usize = 96;
const TAG_BITS: usize = 128;

#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    valid: usize,
    invalid: usize,
    /// Sizes outside of the registry, which must be errors.
    other_size: usize,
}

#[tokio::test]
async fn aeads() {
    for subject in subjects::all().await {
        let (set, least) = match subject.id & 0xff {
            1 => (aead::TestName::AesGcm, Count { valid: 39, invalid: 27, other_size: 39 }),
            2 => (aead::TestName::AesGcmSiv, Count { valid: 69, invalid: 34, other_size: 0 }),
            3 => (aead::TestName::ChaCha20Poly1305, Count { valid: 256, invalid: 60, other_size: 9 }),
            other => panic!("no vectors for AEAD {other}"),
        };
        let mut count = Count::default();
        for group in aead::TestSet::load(set).unwrap().test_groups {
            for test in group.tests.iter().filter(|_| group.key_size == KEY_BITS) {
                let case = format!("{}, test {}: {}", subject.name, test.tc_id, test.comment);
                let fits = group.nonce_size == NONCE_BITS && group.tag_size == TAG_BITS;
                check_aead(&case, &*subject.suite, test, fits, &mut count);
            }
        }
        println!("{}: {count:?}", subject.name);
        let enough = count.valid >= least.valid && count.invalid >= least.invalid;
        assert!(enough && count.other_size >= least.other_size, "{}: too few: {count:?}", subject.name);
    }
}

fn check_aead(case: &str, suite: &dyn Suite, test: &aead::Test, fits: bool, count: &mut Count) {
    let expected = [&test.ct[..], &test.tag[..]].concat();
    let mut sealed = vec![0; test.pt.len() + TAG_BITS / 8];
    let mut opened = vec![0xaa; test.ct.len()];
    let seal = suite.seal(&test.key, &test.nonce, &test.aad, &test.pt, &mut sealed);
    let open = suite.open(&test.key, &test.nonce, &test.aad, &expected, &mut opened);
    if !fits {
        count.other_size += 1;
        assert_eq!((seal, open), (Err(SuiteError::Failed), Err(SuiteError::Failed)), "{case}");
        return;
    }
    assert_eq!(seal, Ok(()), "{case}");
    match test.result {
        TestResult::Valid => {
            count.valid += 1;
            assert_eq!(sealed, expected, "{case}");
            assert_eq!((open, opened), (Ok(()), test.pt.to_vec()), "{case}");
        }
        TestResult::Invalid => {
            count.invalid += 1;
            assert_ne!(sealed, expected, "{case}");
            assert_eq!((open, opened), (Err(SuiteError::Rejected), vec![0; test.ct.len()]), "{case}");
        }
        TestResult::Acceptable => panic!("{case}: acceptable"),
    }
}

#[tokio::test]
async fn hmac() {
    for subject in subjects::all().await {
        let set = if subject.id >> 8 == 0 { mac::TestName::HmacSha256 } else { mac::TestName::HmacSha384 };
        let mut count = Count::default();
        for group in mac::TestSet::load(set).unwrap().test_groups {
            for test in &group.tests {
                let case = format!("{}, test {}: {}", subject.name, test.tc_id, test.comment);
                let mac = schedule::mac(&*subject.suite, &test.key, &test.msg).unwrap();
                let mac = &mac.as_slice()[..group.tag_size / 8];
                match test.result {
                    TestResult::Valid => {
                        count.valid += 1;
                        assert_eq!(mac, &test.tag[..], "{case}");
                    }
                    TestResult::Invalid => {
                        count.invalid += 1;
                        assert_ne!(mac, &test.tag[..], "{case}");
                    }
                    TestResult::Acceptable => panic!("{case}: acceptable"),
                }
            }
        }
        println!("{}: {count:?}", subject.name);
        assert!(count.valid >= 66 && count.invalid >= 108, "{}: too few: {count:?}", subject.name);
    }
}

#[tokio::test]
async fn hkdf() {
    for subject in subjects::all().await {
        let set = if subject.id >> 8 == 0 { hkdf::TestName::HkdfSha256 } else { hkdf::TestName::HkdfSha384 };
        let mut count = Count::default();
        for group in hkdf::TestSet::load(set).unwrap().test_groups {
            for test in &group.tests {
                let case = format!("{}, test {}: {}", subject.name, test.tc_id, test.comment);
                let suite = &*subject.suite;
                let prk = schedule::mac(suite, &test.salt, &test.ikm).unwrap();
                let mut okm = vec![0; test.size];
                let (label, context) = test.info.split_at(test.info.len() / 2);
                let expanded = schedule::expand(suite, prk.as_slice(), label, context, &mut okm);
                match test.result {
                    TestResult::Valid => {
                        count.valid += 1;
                        assert_eq!((expanded, &okm[..]), (Ok(()), &test.okm[..]), "{case}");
                    }
                    TestResult::Invalid => {
                        count.invalid += 1;
                        assert_eq!(expanded, Err(SuiteError::Failed), "{case}");
                    }
                    TestResult::Acceptable => panic!("{case}: acceptable"),
                }
            }
        }
        println!("{}: {count:?}", subject.name);
        assert!(count.valid >= 80 && count.invalid >= 3, "{}: too few: {count:?}", subject.name);
    }
}

//! Project Wycheproof: X25519 and ML-KEM-768 in the protocol crate's key agreement.

use claviger_protocol::{
    Secret32,
    kem::{self, KemError, TerminalKey},
    registry::KemId,
};
use data_encoding::HEXLOWER;
use serde::Deserialize;
use wycheproof::{
    TestResult,
    xdh::{TestFlag, TestName, TestSet},
};

/// Any X25519 private key, where the test is about ML-KEM.
const PRIVATE: [u8; 32] = [7; 32];

fn x25519(private: [u8; 32]) -> (TerminalKey, Vec<u8>) {
    TerminalKey::generate(KemId::X25519, &Secret32::new(private)).unwrap()
}

#[test]
fn x25519_agrees() {
    let (mut valid, mut zero, mut acceptable) = (0, 0, 0);
    let (_, hybrid) = TerminalKey::generate(KemId::X25519MlKem768, &Secret32::new(PRIVATE)).unwrap();
    for test in TestSet::load(TestName::X25519).unwrap().test_groups.into_iter().flat_map(|group| group.tests) {
        let case = format!("test {}: {}", test.tc_id, test.comment);
        let private: [u8; 32] = test.private_key[..].try_into().unwrap();
        let agreed = x25519(private).0.agree(&test.public_key);
        // The same point in the terminal's share of the hybrid.
        let share = [&hybrid[..1184], &test.public_key].concat();
        let answered = kem::respond(KemId::X25519MlKem768, &share, &Secret32::new(private));
        let shared = Ok(test.shared_secret.to_vec());
        let agreed = agreed.map(|secret| secret.expose().to_vec());
        let answered = answered.map(|(_, secret)| secret.expose()[32..].to_vec());
        match test.result {
            TestResult::Valid => {
                valid += 1;
                assert_eq!((&agreed, &answered), (&shared, &shared), "{case}");
            }
            TestResult::Acceptable if test.flags.contains(&TestFlag::ZeroSharedSecret) => {
                zero += 1;
                assert_eq!((agreed, answered), (Err(KemError::InvalidShare), Err(KemError::InvalidShare)), "{case}");
            }
            // Points on the twist or not in canonical form: RFC 7748 takes them.
            TestResult::Acceptable => {
                acceptable += 1;
                assert_eq!((&agreed, &answered), (&shared, &shared), "{case}");
            }
            TestResult::Invalid => panic!("{case}: invalid"),
        }
    }
    println!("X25519: {valid} valid, {acceptable} acceptable, {zero} with a secret of zeros");
    assert!(valid >= 265 && acceptable >= 222 && zero >= 31, "too few");
}

#[derive(Deserialize)]
struct MlKem {
    #[serde(rename = "tcId")]
    id: u32,
    #[serde(default)]
    seed: String,
    #[serde(default)]
    ek: String,
    #[serde(default)]
    c: String,
    #[serde(default, rename = "K")]
    secret: String,
    result: String,
}

fn hex(text: &str) -> Vec<u8> {
    HEXLOWER.decode(text.as_bytes()).unwrap()
}

#[test]
fn ml_kem_768_makes_keys_and_decapsulates() {
    let tests: Vec<MlKem> = serde_json::from_str(include_str!("../../vectors/wycheproof/mlkem_768_test.json")).unwrap();
    let (_, public) = x25519([9; 32]);
    let (mut valid, mut bad_seed, mut bad_ciphertext) = (0, 0, 0);
    for test in tests {
        let key = TerminalKey::from_seed(KemId::X25519MlKem768, &Secret32::new(PRIVATE), &hex(&test.seed));
        let Ok((key, share)) = key else {
            bad_seed += 1;
            assert_eq!((test.result.as_str(), key.err()), ("invalid", Some(KemError::Failed)), "test {}", test.id);
            continue;
        };
        let agreed = key.agree(&[hex(&test.c), public.clone()].concat());
        match test.result.as_str() {
            "valid" => {
                valid += 1;
                assert_eq!(share[..1184], hex(&test.ek), "test {}", test.id);
                assert_eq!(agreed.unwrap().expose()[..32], hex(&test.secret), "test {}", test.id);
            }
            "invalid" => {
                bad_ciphertext += 1;
                assert_eq!(agreed.err(), Some(KemError::InvalidShare), "test {}", test.id);
            }
            other => panic!("test {}: {other}", test.id),
        }
    }
    println!("ML-KEM-768: {valid} valid, {bad_seed} with a bad seed, {bad_ciphertext} with a bad ciphertext");
    assert!(valid >= 153 && bad_seed >= 20 && bad_ciphertext >= 20, "too few");
}

#[test]
fn ml_kem_768_encapsulates_to_good_keys_only() {
    let tests: Vec<MlKem> =
        serde_json::from_str(include_str!("../../vectors/wycheproof/mlkem_768_encaps_test.json")).unwrap();
    let (_, public) = x25519([9; 32]);
    let (mut valid, mut invalid) = (0, 0);
    for test in tests {
        let share = [hex(&test.ek), public.clone()].concat();
        let answered = kem::respond(KemId::X25519MlKem768, &share, &Secret32::new(PRIVATE)).map(|_| ());
        match test.result.as_str() {
            "valid" => {
                valid += 1;
                assert_eq!(answered, Ok(()), "test {}", test.id);
            }
            "invalid" => {
                invalid += 1;
                assert_eq!(answered, Err(KemError::InvalidShare), "test {}", test.id);
            }
            other => panic!("test {}: {other}", test.id),
        }
    }
    println!("ML-KEM-768: {valid} good keys, {invalid} bad ones");
    assert!(valid >= 133 && invalid >= 132, "too few");
}

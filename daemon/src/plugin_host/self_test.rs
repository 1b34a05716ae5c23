//! What a cipher suite must show before it is used: its hash and MAC against
//! the daemon's own library, and that its AEAD opens what it sealed and
//! rejects what was changed.

use aws_lc_rs::{digest, hmac};
use claviger_plugin_api::{CipherError, CipherSuite, SuiteInfo};

/// The suite's description, or what is wrong with the suite.
pub(super) fn check(suite: &dyn CipherSuite) -> Result<SuiteInfo, String> {
    let info = suite.info();
    let id = info.id;
    if id == 0 || info.name.is_empty() {
        return Err("a suite without a number or a name".into());
    }
    let hash_len = match id >> 8 {
        0 => 32,
        1 => 48,
        _ => info.hash_len,
    };
    if info.hash_len != hash_len || !matches!(hash_len, 32 | 48) {
        return Err(format!("suite {id:#06x} with a hash of {} bytes", info.hash_len));
    }
    if suite.info() != info {
        return Err(format!("suite {id:#06x} with a description that changes"));
    }
    run(suite, hash_len).map_err(|fault| format!("suite {id:#06x}, which fails its self-test: {fault}"))?;
    Ok(info)
}

fn run(suite: &dyn CipherSuite, hash_len: usize) -> Result<(), String> {
    let (digest, hmac) =
        if hash_len == 32 { (&digest::SHA256, hmac::HMAC_SHA256) } else { (&digest::SHA384, hmac::HMAC_SHA384) };
    let mut out = vec![0; hash_len];
    suite.hash(TEXT, &mut out).map_err(|e| format!("hash: {e}"))?;
    if out != digest::digest(digest, TEXT).as_ref() {
        return Err("hash: wrong value".into());
    }
    suite.mac(&KEY, TEXT, &mut out).map_err(|e| format!("mac: {e}"))?;
    if out != hmac::sign(&hmac::Key::new(hmac, &KEY), TEXT).as_ref() {
        return Err("mac: wrong value".into());
    }

    let mut sealed = vec![0; TEXT.len() + SuiteInfo::TAG_LEN];
    suite.seal(&KEY, &NONCE, AAD, TEXT, &mut sealed).map_err(|e| format!("seal: {e}"))?;
    let mut opened = vec![0; TEXT.len()];
    suite.open(&KEY, &NONCE, AAD, &sealed, &mut opened).map_err(|e| format!("open: {e}"))?;
    if opened != TEXT || sealed.starts_with(TEXT) {
        return Err("open: wrong value".into());
    }
    for at in [0, sealed.len() - 1] {
        sealed[at] ^= 1;
        if suite.open(&KEY, &NONCE, AAD, &sealed, &mut opened) != Err(CipherError::Rejected) {
            return Err("open: a changed text is not rejected".into());
        }
        sealed[at] ^= 1;
    }
    if suite.open(&KEY, &NONCE, b"", &sealed, &mut opened) != Err(CipherError::Rejected) {
        return Err("open: changed associated data are not rejected".into());
    }

    let (mut one, mut two) = ([0; 32], [0; 32]);
    suite.random(&mut one).and_then(|()| suite.random(&mut two)).map_err(|e| format!("random: {e}"))?;
    if one == two || one == [0; 32] || two == [0; 32] {
        return Err("random: bytes that are not random".into());
    }
    Ok(())
}

const KEY: [u8; SuiteInfo::KEY_LEN] = [0x4b; SuiteInfo::KEY_LEN];
const NONCE: [u8; SuiteInfo::NONCE_LEN] = [0x6e; SuiteInfo::NONCE_LEN];
const AAD: &[u8] = b"claviger self-test";
const TEXT: &[u8] = b"the text that a suite is tried with before it is trusted";

//! A suite of algorithms of aws-lc-rs.

use aws_lc_rs::{aead, digest, hmac, rand};
use claviger_plugin_api::{CipherError, CipherSuite, SuiteInfo};

/// Which algorithms make a suite.
#[derive(Clone, Copy)]
pub struct Row {
    /// Number in the registry of the protocol, section 2.
    pub id: u16,
    /// Name for people.
    pub name: &'static str,
    /// The hash.
    pub digest: &'static digest::Algorithm,
    /// HMAC over the same hash.
    pub hmac: hmac::Algorithm,
    /// The AEAD: 32 bytes of key, 12 of nonce, 16 of tag.
    pub aead: &'static aead::Algorithm,
}

/// One suite. Stateless: each call sets its key up anew, as the protocol uses
/// each AEAD key for one message only.
pub struct Suite(Row);

impl Suite {
    /// The suite of a row.
    #[must_use]
    pub fn new(row: Row) -> Self {
        Self(row)
    }

    fn key(&self, key: &[u8], nonce: &[u8]) -> Result<(aead::LessSafeKey, aead::Nonce), CipherError> {
        let key = aead::UnboundKey::new(self.0.aead, key).map_err(|_| CipherError::BadSize)?;
        let nonce = aead::Nonce::try_assume_unique_for_key(nonce).map_err(|_| CipherError::BadSize)?;
        Ok((aead::LessSafeKey::new(key), nonce))
    }
}

impl CipherSuite for Suite {
    fn info(&self) -> SuiteInfo {
        SuiteInfo::new(self.0.id, self.0.name, self.0.digest.output_len(), IMPLEMENTATION)
    }

    fn hash(&self, data: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
        let digest = digest::digest(self.0.digest, data);
        copy(digest.as_ref(), out)
    }

    fn mac(&self, key: &[u8], data: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
        if out.len() != self.0.digest.output_len() {
            return Err(CipherError::BadSize);
        }
        let key = hmac::Key::new(self.0.hmac, key);
        hmac::sign_to_buffer(&key, data, out).map(|_| ()).map_err(|_| CipherError::Failed)
    }

    fn seal(&self, key: &[u8], nonce: &[u8], aad: &[u8], plaintext: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
        let (body, tag) = out.split_at_mut_checked(plaintext.len()).ok_or(CipherError::BadSize)?;
        if tag.len() != SuiteInfo::TAG_LEN {
            return Err(CipherError::BadSize);
        }
        let (key, nonce) = self.key(key, nonce)?;
        let aad = aead::Aad::from(aad);
        key.seal_out_of_place_scatter(nonce, aad, plaintext, body, &[], tag).map_err(|_| CipherError::Failed)
    }

    fn open(&self, key: &[u8], nonce: &[u8], aad: &[u8], ciphertext: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
        let (body, tag) = ciphertext.split_last_chunk::<{ SuiteInfo::TAG_LEN }>().ok_or(CipherError::BadSize)?;
        if out.len() != body.len() {
            return Err(CipherError::BadSize);
        }
        let (key, nonce) = self.key(key, nonce)?;
        key.open_separate_gather(nonce, aead::Aad::from(aad), body, tag, out).map_err(|_| {
            // Unauthenticated plaintext, so wiping it is about not using it, and not about a secret.
            out.fill(0);
            CipherError::Rejected
        })
    }

    fn random(&self, out: &mut [u8]) -> Result<(), CipherError> {
        rand::fill(out).map_err(|_| CipherError::Failed)
    }
}

fn copy(from: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
    if out.len() != from.len() {
        return Err(CipherError::BadSize);
    }
    out.copy_from_slice(from);
    Ok(())
}

const IMPLEMENTATION: &str = "aws-lc-rs 1";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SUITES;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
    }

    fn suite(id: u16) -> Suite {
        Suite::new(*SUITES.iter().find(|row| row.id == id).unwrap())
    }

    #[test]
    fn every_suite_keeps_the_contract() {
        for row in SUITES {
            claviger_plugin_api::testkit::cipher(&Suite::new(row));
        }
    }

    #[test]
    fn published_vectors() {
        let sunscreen = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the \
            future, sunscreen would be it.";
        let key: Vec<u8> = (0x80..0xa0).collect();
        for (id, key, nonce, aad, plaintext, sealed) in [
            // The GCM specification (McGrew and Viega), test case 14.
            (
                1,
                vec![0; 32],
                vec![0; 12],
                vec![],
                vec![0; 16],
                "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919",
            ),
            // RFC 8452, appendix C.2.
            (
                2,
                hex("0100000000000000000000000000000000000000000000000000000000000000"),
                hex("030000000000000000000000"),
                vec![],
                hex("0100000000000000"),
                "c2ef328e5c71c83b843122130f7364b761e0b97427e3df28",
            ),
            // RFC 8439, section 2.8.2.
            (
                3,
                key,
                hex("070000004041424344454647"),
                hex("50515253c0c1c2c3c4c5c6c7"),
                sunscreen.to_vec(),
                "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b1a71de0a9e\
                 060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc3ff4def08e4b7a9de576\
                 d26586cec64b61161ae10b594f09e26a7e902ecbd0600691",
            ),
        ] {
            let (suite, sealed) = (suite(id), hex(sealed));
            let mut out = vec![0; plaintext.len() + SuiteInfo::TAG_LEN];
            suite.seal(&key, &nonce, &aad, &plaintext, &mut out).unwrap();
            assert_eq!(out, sealed, "suite {id}");
            let mut out = vec![0; plaintext.len()];
            suite.open(&key, &nonce, &aad, &sealed, &mut out).unwrap();
            assert_eq!(out, plaintext, "suite {id}");
        }
    }

    #[test]
    fn the_published_hash_and_mac() {
        // FIPS 180-2, "abc"; RFC 4231, test case 2.
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let hmac_sha256 = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        let sha384 = "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7";
        let hmac_sha384 =
            "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649";
        for row in SUITES {
            let suite = Suite::new(row);
            let (hash, mac) = if row.id < 0x0100 { (sha256, hmac_sha256) } else { (sha384, hmac_sha384) };
            let mut out = vec![0; suite.info().hash_len];
            suite.hash(b"abc", &mut out).unwrap();
            assert_eq!(out, hex(hash), "{}", row.name);
            suite.mac(b"Jefe", b"what do ya want for nothing?", &mut out).unwrap();
            assert_eq!(out, hex(mac), "{}", row.name);
        }
    }

    #[test]
    fn every_changed_byte_is_rejected_and_nothing_is_left() {
        for row in SUITES {
            let suite = Suite::new(row);
            let mut sealed = [0; 20];
            suite.seal(&[1; 32], &[2; 12], b"aad", b"text", &mut sealed).unwrap();
            for at in 0..sealed.len() {
                sealed[at] ^= 0x80;
                let mut out = [9; 4];
                let result = suite.open(&[1; 32], &[2; 12], b"aad", &sealed, &mut out);
                assert_eq!((result, out), (Err(CipherError::Rejected), [0; 4]), "{}: byte {at}", row.name);
                sealed[at] ^= 0x80;
            }
        }
    }

    #[test]
    fn wrong_sizes_are_errors_and_no_panics() {
        let suite = suite(1);
        let (key, nonce) = ([1; 32], [2; 12]);
        for (case, result) in [
            ("hash, short", suite.hash(b"", &mut [0; 31])),
            ("mac, long", suite.mac(&key, b"", &mut [0; 33])),
            ("seal, no room for the tag", suite.seal(&key, &nonce, b"", b"abc", &mut [0; 18])),
            ("seal, no room at all", suite.seal(&key, &nonce, b"", b"abc", &mut [0; 2])),
            ("seal, too much room", suite.seal(&key, &nonce, b"", b"abc", &mut [0; 20])),
            ("seal, short key", suite.seal(&key[1..], &nonce, b"", b"", &mut [0; 16])),
            ("seal, short nonce", suite.seal(&key, &nonce[1..], b"", b"", &mut [0; 16])),
            ("open, shorter than a tag", suite.open(&key, &nonce, b"", &[0; 15], &mut [])),
            ("open, empty", suite.open(&key, &nonce, b"", &[], &mut [])),
            ("open, other length", suite.open(&key, &nonce, b"", &[0; 17], &mut [0; 2])),
            ("open, long key", suite.open(&[0; 33], &nonce, b"", &[0; 17], &mut [0; 1])),
        ] {
            assert_eq!(result, Err(CipherError::BadSize), "{case}");
        }
    }

    #[test]
    fn random_fills_all_lengths() {
        let mut out = [0; 64];
        suite(3).random(&mut out).unwrap();
        assert_ne!(out, [0; 64]);
        assert_eq!(suite(3).random(&mut []), Ok(()));
    }
}

//! A suite of algorithms of OpenSSL.

use std::ffi::CString;

use claviger_plugin_api::{CipherError, CipherSuite, InitError, SuiteInfo};
use openssl::{
    cipher::{Cipher, CipherRef},
    cipher_ctx::CipherCtx,
    error::ErrorStack,
    md::Md,
    md_ctx::MdCtx,
};

use crate::{
    Library,
    library::reason,
    sys::{self, Mac},
};

/// Which algorithms make a suite.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Number in the registry of the protocol, section 2.
    pub id: u16,
    /// Name for people.
    pub name: &'static str,
    /// OpenSSL's name of the hash; HMAC goes over the same.
    pub digest: &'static str,
    /// OpenSSL's name of the AEAD: 32 bytes of key, 12 of nonce, 16 of tag.
    pub aead: &'static str,
}

/// One suite. The algorithms are fetched once. Each call has a context of its own, since the protocol uses
/// each key for one message only, and freeing a context is what wipes its key.
pub struct Suite {
    row: Row,
    digest: Md,
    mac: Mac,
    aead: Cipher,
    library: &'static Library,
}

impl Suite {
    /// The suite of a row, `None` when the library lacks its AEAD.
    ///
    /// # Errors
    ///
    /// [`InitError::Failed`] when it has no SHA-2 or no HMAC over it.
    pub fn fetch(library: &'static Library, row: Row) -> Result<Option<Self>, InitError> {
        let properties = library.provider.properties();
        let Ok(aead) = Cipher::fetch(Some(&library.context), row.aead, Some(properties)) else {
            return Ok(None);
        };
        let failed = |error: ErrorStack| InitError::Failed(format!("{}: {}", row.digest, reason(&error)));
        let digest = Md::fetch(Some(&library.context), row.digest, Some(properties)).map_err(failed)?;
        let text = |text: &str| CString::new(text).map_err(|_| InitError::Failed(text.to_owned()));
        let mac = Mac::fetch(&library.context, &text(row.digest)?, &text(properties)?).map_err(failed)?;
        Ok(Some(Self { row, digest, mac, aead, library }))
    }

    /// Whether sizes are those of the registry, and what `EVP_CipherUpdate` can take.
    fn fits(&self, key: &[u8], nonce: &[u8], aad: &[u8], text: &[u8]) -> bool {
        key.len() == SuiteInfo::KEY_LEN
            && nonce.len() == SuiteInfo::NONCE_LEN
            && i32::try_from(aad.len().max(text.len())).is_ok()
    }
}

impl CipherSuite for Suite {
    fn info(&self) -> SuiteInfo {
        SuiteInfo::new(self.row.id, self.row.name, self.digest.size(), self.library.implementation())
    }

    fn hash(&self, data: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
        if out.len() != self.digest.size() {
            return Err(CipherError::BadSize);
        }
        let mut hash = || {
            let mut context = MdCtx::new()?;
            context.digest_init(&self.digest)?;
            context.digest_update(data)?;
            context.digest_final(out)
        };
        hash().map(|_| ()).map_err(|_: ErrorStack| CipherError::Failed)
    }

    fn mac(&self, key: &[u8], data: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
        if out.len() != self.digest.size() {
            return Err(CipherError::BadSize);
        }
        self.mac.sign(key, data, out).map_err(|_| CipherError::Failed)
    }

    fn seal(&self, key: &[u8], nonce: &[u8], aad: &[u8], plaintext: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
        let (body, tag) = out.split_at_mut_checked(plaintext.len()).ok_or(CipherError::BadSize)?;
        if tag.len() != SuiteInfo::TAG_LEN || !self.fits(key, nonce, aad, plaintext) {
            return Err(CipherError::BadSize);
        }
        seal(&self.aead, key, nonce, aad, plaintext, body, tag).map_err(|_| CipherError::Failed)
    }

    fn open(&self, key: &[u8], nonce: &[u8], aad: &[u8], ciphertext: &[u8], out: &mut [u8]) -> Result<(), CipherError> {
        let (body, tag) = ciphertext.split_last_chunk::<{ SuiteInfo::TAG_LEN }>().ok_or(CipherError::BadSize)?;
        if out.len() != body.len() || !self.fits(key, nonce, aad, body) {
            return Err(CipherError::BadSize);
        }
        open(&self.aead, key, nonce, aad, body, tag, out).inspect_err(|_| {
            // Unauthenticated plaintext, so wiping it is about not using it, and not about a secret.
            out.fill(0);
        })
    }

    fn random(&self, out: &mut [u8]) -> Result<(), CipherError> {
        sys::random(&self.library.context, out).map_err(|_| CipherError::Failed)
    }
}

fn seal(
    aead: &CipherRef,
    key: &[u8],
    nonce: &[u8],
    aad: &[u8],
    plaintext: &[u8],
    body: &mut [u8],
    tag: &mut [u8],
) -> Result<(), ErrorStack> {
    let mut context = CipherCtx::new()?;
    context.encrypt_init(Some(aead), Some(key), Some(nonce))?;
    update(&mut context, aad, plaintext, body)?;
    context.cipher_final(&mut [])?;
    context.tag(tag)
}

/// `Failed` for what fails before anything depends on the ciphertext, `Rejected` for the rest.
fn open(
    aead: &CipherRef,
    key: &[u8],
    nonce: &[u8],
    aad: &[u8],
    body: &[u8],
    tag: &[u8],
    out: &mut [u8],
) -> Result<(), CipherError> {
    let begin = || {
        let mut context = CipherCtx::new()?;
        context.decrypt_init(Some(aead), Some(key), Some(nonce))?;
        context.set_tag(tag)?;
        Ok(context)
    };
    let mut context = begin().map_err(|_: ErrorStack| CipherError::Failed)?;
    update(&mut context, aad, body, out)
        .and_then(|()| context.cipher_final(&mut []))
        .map(|_| ())
        .map_err(|_| CipherError::Rejected)
}

/// Associated data, then the text. AES-256-GCM-SIV wants the text in one piece, an empty one too.
fn update(context: &mut CipherCtx, aad: &[u8], text: &[u8], out: &mut [u8]) -> Result<(), ErrorStack> {
    if !aad.is_empty() {
        context.cipher_update(aad, None)?;
    }
    context.cipher_update(text, Some(out)).map(|_| ())
}

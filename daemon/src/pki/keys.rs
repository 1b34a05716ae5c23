//! Key-encryption keys: under one, the management role seals the secrets of its users.

use std::path::Path;

use aws_lc_rs::rand;
use data_encoding::HEXLOWER;
use zeroize::Zeroizing;

use super::{
    PkiError,
    files::{self, Overwrite},
};

/// Writes a new random key of 32 bytes to `path` as 64 hex digits and a
/// newline, with mode 0600.
///
/// # Errors
/// [`PkiError::Exists`] when there is a file: whoever replaces this key loses all users under it.
pub fn init(path: &Path) -> Result<(), PkiError> {
    let mut key = Zeroizing::new([0_u8; 32]);
    rand::fill(key.as_mut()).map_err(|_| PkiError::Random)?;
    let mut text = Zeroizing::new(vec![b'\n'; 65]);
    HEXLOWER.encode_mut(key.as_ref(), &mut text[..64]);
    files::write(path, &text, 0o600, Overwrite::Refuse("all users under that key would be lost; name another file"))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn a_key_is_private_random_and_never_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let (one, two) = (directory.path().join("one"), directory.path().join("two"));
        init(&one).unwrap();
        init(&two).unwrap();
        let text = fs::read_to_string(&one).unwrap();
        assert_eq!(HEXLOWER.decode(text.trim_end().as_bytes()).unwrap().len(), 32);
        assert_eq!(fs::metadata(&one).unwrap().permissions().mode() & 0o777, 0o600);
        assert_ne!(text, fs::read_to_string(&two).unwrap());
        assert!(matches!(init(&one), Err(PkiError::Exists { .. })));
        assert_eq!(text, fs::read_to_string(&one).unwrap());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "something was left behind");
    }
}

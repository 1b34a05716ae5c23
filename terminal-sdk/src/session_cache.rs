//! Keys kept on disk between runs of a program, in `NAME.sessions.json` beside the
//! credential.

use std::path::PathBuf;

use claviger_protocol::message::Scope;
use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    credential_file::CredentialFile,
    durable, encoding,
    error::{Error, Result},
    origin::Origin,
    session::SessionKey,
};

/// The sessions of one credential: a file with mode 0600, replaced as a whole.
/// What cannot be read of it is treated as absent: it costs one sign-on. The
/// methods block.
#[derive(Debug)]
pub struct SessionCache<'a> {
    file: &'a CredentialFile,
    path: PathBuf,
}

impl<'a> SessionCache<'a> {
    /// The cache of the credential in `file`.
    pub fn beside(file: &'a CredentialFile) -> Self {
        Self { file, path: file.path().with_extension("sessions.json") }
    }

    /// The key for an origin with this scope, if one lives.
    pub fn get(&self, origin: &Origin, scope: &Scope, now_ms: u64) -> Result<Option<SessionKey>> {
        let rows = self.rows(&self.file.load()?.id, now_ms)?;
        let wanted = rows.into_iter().find(|row| row.origin == *origin && row.share == names(scope));
        wanted.map(Row::into_key).transpose()
    }

    /// The keys that live.
    pub fn list(&self, now_ms: u64) -> Result<Vec<SessionKey>> {
        self.rows(&self.file.load()?.id, now_ms)?.into_iter().map(Row::into_key).collect()
    }

    /// Keeps a key in the place of the one for the same origin and scope.
    /// `credential` is the id of the one that signed on for it; the key is not
    /// kept where another has been enrolled since, perhaps another user's.
    pub fn put(&self, key: &SessionKey, scope: &Scope, credential: &str, now_ms: u64) -> Result<()> {
        let _lock = self.file.lock()?;
        if self.file.load()?.id != credential {
            return Ok(());
        }
        let mut sessions = self.rows(credential, now_ms)?;
        let share = names(scope);
        sessions.retain(|row| row.origin != key.origin || row.share != share);
        sessions.push(Row {
            service: key.service.clone(),
            origin: key.origin.clone(),
            share,
            kind: key.kind,
            key_id: BASE64URL_NOPAD.encode(&key.key_id),
            from_ms: key.from_ms,
            until_ms: key.until_ms,
            key: Zeroizing::new(key.expose().to_vec()),
        });
        // Large enough not to grow, which would leave copies behind.
        let size: usize = sessions.iter().map(|row| 1024 + 2 * row.key.len() + 8 * row.share.len()).sum();
        let mut bytes = Zeroizing::new(Vec::with_capacity(1024 + size));
        serde_json::to_writer_pretty(
            &mut *bytes,
            &Sessions { version: VERSION, credential: credential.to_owned(), sessions },
        )
        .map_err(|error| Error::Damaged { path: self.path.clone(), reason: error.to_string() })?;
        durable::write(&self.path, &bytes)
    }

    /// Forgets all keys, as a new enrolment does.
    pub fn clear(&self) -> Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::file("remove", &self.path)(error)),
            _ => Ok(()),
        }
    }

    fn rows(&self, credential: &str, now_ms: u64) -> Result<Vec<Row>> {
        let Some(bytes) = durable::read(&self.path)? else { return Ok(Vec::new()) };
        let Ok(Sessions { version: VERSION, credential: owner, mut sessions }) = serde_json::from_slice(&bytes) else {
            return Ok(Vec::new());
        };
        if owner != credential {
            return Ok(Vec::new());
        }
        sessions.retain(|row| row.clone().into_key().is_ok_and(|key| key.is_usable(now_ms)));
        Ok(sessions)
    }
}

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sessions {
    version: u32,
    /// Whose keys they are: [`crate::Credential::id`].
    credential: String,
    sessions: Vec<Row>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    service: String,
    #[serde(with = "encoding::text")]
    origin: Origin,
    share: Vec<String>,
    kind: u8,
    key_id: String,
    from_ms: u64,
    until_ms: u64,
    #[serde(with = "encoding::bytes")]
    key: Zeroizing<Vec<u8>>,
}

impl Row {
    fn into_key(self) -> Result<SessionKey> {
        let key_id = BASE64URL_NOPAD.decode(self.key_id.as_bytes()).unwrap_or_default();
        SessionKey::restore(self.service, self.origin, self.kind, key_id, (self.from_ms, self.until_ms), self.key)
    }
}

fn names(scope: &Scope) -> Vec<String> {
    scope.names().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::tests::sample;

    fn key(origin: &str, text: &str, until_ms: u64) -> SessionKey {
        let key = Zeroizing::new(text.as_bytes().to_vec());
        SessionKey::restore("shop".into(), origin.parse().unwrap(), 1, vec![7], (1000, until_ms), key).unwrap()
    }

    #[test]
    fn keys_are_kept_by_origin_and_scope_until_they_end() {
        let directory = tempfile::tempdir().unwrap();
        let file = CredentialFile::new(directory.path().join("credential.json"));
        file.install(sample(), false).unwrap();
        let cache = SessionCache::beside(&file);
        let (few, many) = (Scope::new(["user"]).unwrap(), Scope::new(["user", "email"]).unwrap());
        let id = sample().id;
        cache.put(&key("https://a", "one", 90_000), &few, &id, 1000).unwrap();
        cache.put(&key("https://a", "two", 50_000), &many, &id, 1000).unwrap();
        cache.put(&key("https://a", "three", 90_000), &few, &id, 1000).unwrap();
        let origin: Origin = "https://a".parse().unwrap();
        assert_eq!(cache.get(&origin, &few, 2000).unwrap().unwrap().expose(), b"three");
        assert_eq!(cache.get(&origin, &many, 2000).unwrap().unwrap().expose(), b"two");
        assert!(cache.get(&origin, &many, 60_000).unwrap().is_none());
        assert!(cache.get(&"https://b".parse().unwrap(), &few, 2000).unwrap().is_none());
        assert_eq!(cache.list(2000).unwrap().len(), 2);

        let mut other = sample();
        other.id = "f".repeat(32);
        file.install(other, true).unwrap();
        assert!(cache.list(2000).unwrap().is_empty(), "the keys are of another enrolment");
        cache.put(&key("https://a", "late", 90_000), &few, &id, 1000).unwrap();
        assert!(cache.list(2000).unwrap().is_empty(), "a key of the former enrolment came late");
        std::fs::write(&cache.path, b"{").unwrap();
        assert!(cache.list(2000).unwrap().is_empty(), "a damaged file costs a sign-on, no more");
        cache.clear().unwrap();
        cache.clear().unwrap();
    }
}

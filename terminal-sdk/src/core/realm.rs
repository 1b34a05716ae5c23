//! What a realm says of itself (section 14), over TLS with its management
//! server: what it offers, and whether user ids are private. Nobody seals it,
//! so nothing in use is weakened by it.

use claviger_protocol::{KemId, Realm, SuiteId};
use data_encoding::BASE64URL_NOPAD;
use serde::Deserialize;

use super::{Request, Response};
use crate::error::{Error, Result};

/// What a realm offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RealmInfo {
    /// Cipher suites that are known here, in the realm's order.
    pub suites: Vec<SuiteId>,
    /// Key agreements that are known here.
    pub kems: Vec<KemId>,
    /// The key to seal user ids to, where they are private.
    pub user_id_key: Option<[u8; 32]>,
}

/// Asks for it.
pub fn request() -> Request {
    Request::get("/idb/v1/realm")
}

/// Reads the answer, which must be about `realm`.
pub fn receive(response: &Response, realm: &Realm, server: &str) -> Result<RealmInfo> {
    let strange = || Error::NotProtocol { origin: server.to_owned(), status: response.status };
    if response.status != 200 {
        return Err(strange());
    }
    let document: Document = serde_json::from_slice(&response.body).map_err(|_| strange())?;
    if document.realm != realm.as_str() {
        return Err(Error::Invalid(format!(
            "{server} does not serve the realm {realm}; check `--server` and `--realm`"
        )));
    }
    let user_id_key = match (document.private_user_ids, document.hpke_public_key) {
        (false, _) => None,
        (true, Some(key)) => {
            let key = BASE64URL_NOPAD.decode(key.as_bytes()).ok().and_then(|key| key.try_into().ok());
            Some(key.ok_or_else(strange)?)
        }
        (true, None) => return Err(strange()),
    };
    Ok(RealmInfo {
        suites: document.suites.iter().filter_map(|suite| suite.parse().ok()).collect(),
        kems: document.kems.into_iter().filter_map(KemId::from_wire).collect(),
        user_id_key,
    })
}

impl RealmInfo {
    /// The suite of a new credential for which none is asked.
    pub fn default_suite(&self) -> SuiteId {
        let usual = SuiteId::AES_256_GCM_SHA256;
        if self.suites.contains(&usual) { usual } else { self.suites.first().copied().unwrap_or(usual) }
    }

    /// The key agreement of a new credential for which none is asked: against
    /// quantum computers where the realm offers it, never none.
    pub fn default_kem(&self) -> KemId {
        if self.kems.contains(&KemId::X25519MlKem768) { KemId::X25519MlKem768 } else { KemId::X25519 }
    }
}

#[derive(Deserialize)]
struct Document {
    realm: String,
    #[serde(default)]
    suites: Vec<String>,
    #[serde(default)]
    kems: Vec<u8>,
    #[serde(default)]
    private_user_ids: bool,
    hpke_public_key: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<RealmInfo> {
        let response = Response { status: 200, content_type: None, body: body.to_owned().into() };
        receive(&response, &"example".parse().unwrap(), "https://m")
    }

    #[test]
    fn what_a_realm_offers_decides_on_the_defaults() {
        use KemId::{X25519, X25519MlKem768};
        for (body, suite, kem) in [
            (r#"{"realm":"example","suites":["0x0003","0x0001"],"kems":[0,1,2]}"#, 1, X25519MlKem768),
            (r#"{"realm":"example","suites":["0x0101"],"kems":[0,1],"more":1}"#, 0x101, X25519),
            (r#"{"realm":"example","suites":["0x9999"],"kems":[0,9]}"#, 1, X25519),
            (r#"{"realm":"example"}"#, 1, X25519),
        ] {
            let info = read(body).unwrap();
            assert_eq!((info.default_suite(), info.default_kem()), (SuiteId(suite), kem), "{body}");
            assert_eq!(info.user_id_key, None);
        }
    }

    #[test]
    fn private_user_ids_need_their_key() {
        let key = BASE64URL_NOPAD.encode(&[7; 32]);
        let body = |key: &str| format!(r#"{{"realm":"example","private_user_ids":true,"hpke_public_key":{key}}}"#);
        assert_eq!(read(&body(&format!("\"{key}\""))).unwrap().user_id_key, Some([7; 32]));
        for key in ["null", "\"\"", "\"AAAA\"", "\"????\""] {
            assert!(matches!(read(&body(key)), Err(Error::NotProtocol { .. })), "{key}");
        }
        let other = read(r#"{"realm":"other"}"#).unwrap_err();
        assert!(other.to_string().contains("--realm"), "{other}");
        assert!(read("<html>").is_err());
    }
}

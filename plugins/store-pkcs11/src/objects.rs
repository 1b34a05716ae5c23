//! The objects of this plugin in the module, and how they are told apart.
//!
//! All are objects of the token and private. Keys carry the prefix in their
//! label, data in their application too:
//!
//! | what | class | label | id or value |
//! | --- | --- | --- | --- |
//! | master key | secret key | `PREFIX:master` | |
//! | canary | data | `PREFIX:canary` | an HMAC by the master key |
//! | unique key | secret key | `PREFIX:key` | the key's id |
//! | record, counters | data | `PREFIX:record:...`, `PREFIX:counter:...` | see `records`, `counters` |

use claviger_plugin_api::{KeyId, SecretBytes};
use cryptoki::{
    error::Error,
    mechanism::Mechanism,
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::Session,
    types::Ulong,
};
use zeroize::Zeroize;

use crate::fault::{Fault, is_gone};

/// Bytes of a unique key, of the master key, and of what is derived from it.
pub(crate) const KEY_LEN: usize = 32;

/// Bytes of a unique key as an object. Modules refuse a key that is shorter than
/// the hash of the HMAC. HMAC itself fills a key with zeros to the block of its
/// hash (64 bytes, or 128), so that zeros up to there change nothing.
const OBJECT_LEN: usize = 48;

/// The labels of one prefix.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    prefix: String,
}

impl Names {
    pub(crate) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    pub(crate) fn master(&self) -> Vec<Attribute> {
        self.secret("master")
    }

    pub(crate) fn keys(&self) -> Vec<Attribute> {
        self.secret("key")
    }

    pub(crate) fn key(&self, id: &KeyId) -> Vec<Attribute> {
        let mut template = self.keys();
        template.push(Attribute::Id(id.to_vec()));
        template
    }

    pub(crate) fn canary(&self) -> Vec<Attribute> {
        self.data("canary")
    }

    /// One object of data. `name` follows the prefix in its label.
    pub(crate) fn data(&self, name: &str) -> Vec<Attribute> {
        let mut template = self.all_data();
        template.push(Attribute::Label(self.label(name)));
        template
    }

    /// All objects of data.
    pub(crate) fn all_data(&self) -> Vec<Attribute> {
        vec![
            Attribute::Class(ObjectClass::DATA),
            Attribute::Token(true),
            Attribute::Application(self.prefix.clone().into_bytes()),
        ]
    }

    /// What follows the prefix in a label.
    pub(crate) fn name_in<'a>(&self, label: &'a [u8]) -> Option<&'a str> {
        str::from_utf8(label).ok()?.strip_prefix(&self.prefix)?.strip_prefix(':')
    }

    fn secret(&self, name: &str) -> Vec<Attribute> {
        vec![
            Attribute::Class(ObjectClass::SECRET_KEY),
            // A crash may leave half an object, which is none of the token's.
            Attribute::Token(true),
            Attribute::Label(self.label(name)),
        ]
    }

    fn label(&self, name: &str) -> Vec<u8> {
        format!("{}:{name}", self.prefix).into_bytes()
    }
}

/// What makes a key one that never leaves the module.
fn guarded() -> [Attribute; 5] {
    [
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
    ]
}

/// All objects that match.
pub(crate) fn find(session: &Session, template: &[Attribute]) -> Result<Vec<ObjectHandle>, Fault> {
    Ok(session.find_objects(template)?)
}

/// Makes the master key in the module.
pub(crate) fn generate_master(session: &Session, names: &Names) -> Result<ObjectHandle, Fault> {
    let mut template = names.master();
    template.extend(guarded());
    template.push(Attribute::ValueLen(Ulong::new(KEY_LEN as u64)));
    session.generate_key(&Mechanism::GenericSecretKeyGen, &template).map_err(Fault::of_write)
}

/// Takes a unique key into the module.
pub(crate) fn create_key(session: &Session, names: &Names, id: &KeyId, key: &[u8]) -> Result<ObjectHandle, Fault> {
    let mut template = names.key(id);
    template.extend(guarded());
    let mut value = Vec::with_capacity(OBJECT_LEN);
    value.extend_from_slice(key);
    value.resize(OBJECT_LEN, 0);
    template.push(Attribute::Value(value));
    let created = session.create_object(&template);
    if let Some(Attribute::Value(copy)) = template.last_mut() {
        copy.zeroize();
    }
    created.map_err(Fault::of_write)
}

/// Makes an object of data under a name.
pub(crate) fn create_data(session: &Session, names: &Names, name: &str, value: Vec<u8>) -> Result<ObjectHandle, Fault> {
    let mut template = names.data(name);
    template.push(Attribute::Private(true));
    template.push(Attribute::Value(value));
    session.create_object(&template).map_err(Fault::of_write)
}

/// Destroys an object; `false` where the module knows no such object.
pub(crate) fn destroy(session: &Session, object: ObjectHandle) -> Result<bool, Fault> {
    match session.destroy_object(object) {
        Ok(()) => Ok(true),
        Err(error) if is_gone(&error) => Ok(false),
        Err(error) => Err(Fault::of_write(error)),
    }
}

/// The id of a key; `None` where it has none, or was destroyed since it was found.
pub(crate) fn id_of(session: &Session, key: ObjectHandle) -> Result<Option<KeyId>, Fault> {
    told_id(session.get_attributes(key, &[AttributeType::Id]))
}

fn told_id(told: Result<Vec<Attribute>, Error>) -> Result<Option<KeyId>, Fault> {
    let told = match told {
        Err(error) if is_gone(&error) => return Ok(None),
        told => told?,
    };
    // What the module does not tell is left out of its answer.
    Ok(told.into_iter().find_map(|attribute| match attribute {
        Attribute::Id(id) => KeyId::try_from(id).ok(),
        _ => None,
    }))
}

/// Label and value of an object of data, empty where it has none.
pub(crate) fn data_of(session: &Session, object: ObjectHandle) -> Result<(Vec<u8>, Vec<u8>), Fault> {
    let (mut label, mut value) = (Vec::new(), Vec::new());
    for attribute in session.get_attributes(object, &[AttributeType::Label, AttributeType::Value])? {
        match attribute {
            Attribute::Label(told) => label = told,
            Attribute::Value(told) => value = told,
            _ => {}
        }
    }
    Ok((label, value))
}

/// An HMAC inside the module. `hash_len` is 32 or 48.
pub(crate) fn mac(session: &Session, key: ObjectHandle, hash_len: usize, message: &[u8]) -> Result<SecretBytes, Fault> {
    let mechanism = if hash_len == 48 { Mechanism::Sha384Hmac } else { Mechanism::Sha256Hmac };
    let mut answer = session.sign(&mechanism, key, message)?;
    let mac = SecretBytes::copy_from(&answer);
    answer.zeroize();
    if mac.expose().len() == hash_len {
        Ok(mac)
    } else {
        Err(Fault::Lost(format!("the module gave an HMAC of {} bytes instead of {hash_len}", mac.expose().len())))
    }
}

#[cfg(test)]
mod tests {
    use cryptoki::{context::Function, error::RvError};

    use super::*;

    #[test]
    fn a_key_that_somebody_else_has_destroyed_is_skipped_and_no_trouble() {
        let failed = |value| told_id(Err(Error::Pkcs11(value, Function::GetAttributeValue)));
        assert!(matches!(failed(RvError::ObjectHandleInvalid), Ok(None)));
        assert!(matches!(failed(RvError::KeyHandleInvalid), Ok(None)));
        assert!(matches!(failed(RvError::UserNotLoggedIn), Err(Fault::Module(_))));
        assert!(matches!(told_id(Ok(vec![Attribute::Id(vec![3; 16])])), Ok(Some(id)) if id == [3; 16]));
        assert!(matches!(told_id(Ok(vec![Attribute::Id(vec![3; 4])])), Ok(None)), "none of this plugin's");
    }
}

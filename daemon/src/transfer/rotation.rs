//! Keys that lay in a backup are to be replaced (protocol, section 7): who has
//! the file and the key-encryption key has them too.

use claviger_plugin_api::Record;

use super::Error;
use crate::management::record::{CredentialRecord, EnrolmentRecord, Stored, UserRecord, user_key};

/// Has the keys in a record, if it has any, rotated after the terminal's next
/// sign-on. Does nothing else, so the same record becomes the same each time.
pub(super) fn require(record: &mut Record) -> Result<(), Error> {
    if record.key.starts_with(&user_key("")) {
        change(record, |user: &mut UserRecord| user.credential.as_mut())
    } else if record.key.starts_with(ENROLMENTS) {
        change(record, |enrolment: &mut EnrolmentRecord| enrolment.offer.as_mut().map(|offer| &mut offer.credential))
    } else {
        Ok(())
    }
}

fn change<T: Stored>(
    record: &mut Record,
    credential: impl FnOnce(&mut T) -> Option<&mut CredentialRecord>,
) -> Result<(), Error> {
    let mut value = T::from_bytes(&record.value).map_err(|_| Error::Record(record.key.clone()))?;
    if let Some(credential) = credential(&mut value) {
        credential.rotate_required = true;
        // Its first use takes the demand back: then the keys' age makes it again.
        if let Some(pending) = &mut credential.pending {
            pending.made_ms = 0;
        }
        record.value = value.to_bytes();
    }
    Ok(())
}

/// What [`enrolment_key`] begins with.
const ENROLMENTS: &str = "enrolment/";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::management::record::{OfferRecord, PendingKeys, SealedKeys, enrolment_key};

    fn sealed(byte: u8) -> SealedKeys {
        SealedKeys { sealed: vec![byte; 92], custody: None }
    }

    fn credential() -> CredentialRecord {
        CredentialRecord {
            id: [1; 16],
            epoch: 2,
            hash_len: 32,
            suite_floor: 1,
            kem_floor: 0,
            keys: sealed(3),
            enrolled_ms: 4,
            cloned: false,
            keys_made_ms: 4,
            rotate_required: false,
            pending: None,
        }
    }

    fn stored<T: Stored>(key: String, value: &T) -> Record {
        Record { key, version: 1, value: value.to_bytes(), terms: value.terms() }
    }

    #[test]
    fn every_credential_is_to_be_rotated_also_after_its_pending_keys() {
        let pending = PendingKeys { epoch: 3, keys: sealed(9), made_ms: 5 };
        let mut user = UserRecord {
            id: "alice".into(),
            suspended: None,
            name: None,
            email: None,
            groups: vec![],
            created_ms: 1,
            credential: Some(CredentialRecord { pending: Some(pending.clone()), ..credential() }),
            enrolment: None,
        };
        let mut record = stored(user_key("alice"), &user);
        require(&mut record).unwrap();
        let changed = UserRecord::from_bytes(&record.value).unwrap().credential.unwrap();
        assert!(changed.rotate_required);
        assert_eq!(changed.pending, Some(PendingKeys { made_ms: 0, ..pending }));
        assert_eq!((changed.keys, changed.epoch, changed.keys_made_ms), (sealed(3), 2, 4));
        // The same again changes nothing.
        let once = record.clone();
        require(&mut record).unwrap();
        assert_eq!(record, once);

        user.credential = None;
        let mut record = stored(user_key("alice"), &user);
        let before = record.clone();
        require(&mut record).unwrap();
        assert_eq!(record, before, "a user without keys");
    }

    #[test]
    fn offered_keys_are_to_be_rotated_and_other_records_stay() {
        let offer = OfferRecord { credential: credential(), tags: vec![7], comparison: 1 };
        let enrolment = EnrolmentRecord {
            user: "alice".into(),
            expires_ms: 1,
            bad_macs: 0,
            psk: None,
            offer: Some(offer),
            held: false,
            confirmed: false,
        };
        let key = enrolment_key(&[1; 8]);
        assert!(key.starts_with(ENROLMENTS));
        let mut record = stored(key, &enrolment);
        require(&mut record).unwrap();
        assert!(EnrolmentRecord::from_bytes(&record.value).unwrap().offer.unwrap().credential.rotate_required);

        let mut other =
            Record { key: "credential/0011".into(), version: 1, value: b"alice".to_vec(), terms: Vec::new() };
        let before = other.clone();
        require(&mut other).unwrap();
        assert_eq!(other, before);
        other.key = user_key("alice");
        assert!(matches!(require(&mut other), Err(Error::Record(key)) if key == "user/alice"));
    }
}

//! What the management role keeps in a user store: records in CBOR with
//! numbered fields, so that a later version can add some.

use claviger_plugin_api::{IndexTerm, KeyId};
use claviger_protocol::{KemId, Secret32, SuiteId};
use minicbor::{Decode, Encode};
use zeroize::Zeroizing;

use super::{
    keyring::Keyring,
    realm_keys::CredentialNumber,
    sealing::{Place, Seal, Unsealable, same_secret},
};

/// A user.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct UserRecord {
    /// User id.
    #[n(0)]
    pub id: String,
    /// Why an administrator keeps it out; `None` when none does.
    #[n(1)]
    pub suspended: Option<Suspension>,
    /// Full name.
    #[n(2)]
    pub name: Option<String>,
    /// Mail address.
    #[n(3)]
    pub email: Option<String>,
    /// Groups.
    #[n(4)]
    pub groups: Vec<String>,
    /// Milliseconds since 1970.
    #[n(5)]
    pub created_ms: u64,
    /// The credential of its terminal, once enrolled.
    #[n(6)]
    pub credential: Option<CredentialRecord>,
    /// The enrolment code that waits to be used.
    #[n(7)]
    pub enrolment: Option<EnrolmentRef>,
}

impl UserRecord {
    /// Whether it may not sign on: suspended, or its credential was seen twice.
    pub fn is_kept_out(&self) -> bool {
        self.suspended.is_some() || self.is_cloned()
    }

    /// Whether two live copies of its credential were seen.
    pub fn is_cloned(&self) -> bool {
        self.credential.as_ref().is_some_and(|credential| credential.cloned)
    }
}

/// A suspension by an administrator.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Suspension {
    /// Shown to administrators.
    #[n(0)]
    pub reason: Option<String>,
}

/// A credential: the keys of one terminal.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct CredentialRecord {
    /// Names its counters in the store; random for each enrolment.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub id: [u8; 16],
    /// Current epoch.
    #[n(1)]
    pub epoch: u32,
    /// Bytes of the hash its keys live in.
    #[n(2)]
    pub hash_len: u8,
    /// The least suite it may use.
    #[n(3)]
    pub suite_floor: u16,
    /// The least KEM it may use.
    #[n(4)]
    pub kem_floor: u8,
    /// Its current keys.
    #[n(5)]
    pub keys: SealedKeys,
    /// Milliseconds since 1970.
    #[n(6)]
    pub enrolled_ms: u64,
    /// Two live copies of it were seen: it stays out, whatever administrators
    /// do with the user, until a new enrolment takes its place.
    #[n(7)]
    #[cbor(default)]
    pub cloned: bool,
    /// When its current keys were made, milliseconds since 1970.
    #[n(8)]
    #[cbor(default)]
    pub keys_made_ms: u64,
    /// An administrator wants its keys rotated, whatever their age.
    #[n(9)]
    #[cbor(default)]
    pub rotate_required: bool,
    /// Keys of the next epoch, until their first use.
    #[n(10)]
    pub pending: Option<PendingKeys>,
}

/// Keys that were handed out by a rotation and not used yet.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct PendingKeys {
    /// The epoch they will be of.
    #[n(0)]
    pub epoch: u32,
    /// The keys.
    #[n(1)]
    pub keys: SealedKeys,
    /// Milliseconds since 1970.
    #[n(2)]
    pub made_ms: u64,
}

/// The keys of one epoch as they lie in a record. See [`Keys`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SealedKeys {
    /// Unique key, or the id of the one in custody ‖ management authentication
    /// key, sealed. Empty once they were erased.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub sealed: Vec<u8>,
    /// The unique key's place in custody; `None` when it is in `sealed`.
    #[n(1)]
    pub custody: Option<CustodyKey>,
}

/// A unique key in custody.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct CustodyKey {
    /// Names it in the module.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub id: KeyId,
    /// What the module gave for it; sealed by the module.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub token: Vec<u8>,
}

impl SealedKeys {
    /// Where they belong.
    pub(super) fn place<'a>(&self, realm: &'a str, user: &'a str, epoch: u32) -> Place<'a> {
        let kind = if self.custody.is_some() { "credential keys in custody" } else { "credential keys" };
        Place { realm, kind, owner: user, epoch }
    }

    /// Takes the keys out of the record: another one holds them from now on.
    pub fn erase(&mut self) {
        self.sealed.clear();
        self.custody = None;
    }

    /// Whether they were taken out.
    pub fn is_erased(&self) -> bool {
        self.sealed.is_empty()
    }

    /// Whether these are those keys, be they sealed anew meanwhile.
    pub fn are(&self, others: &Self) -> bool {
        self.custody == others.custody && same_secret(&self.sealed, &others.sealed)
    }
}

impl PendingKeys {
    /// Whether these are those keys, be they sealed anew meanwhile.
    fn are(&self, others: &Self) -> bool {
        self.epoch == others.epoch && self.keys.are(&others.keys)
    }
}

/// Points from a user to its enrolment code.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct EnrolmentRef {
    /// `eid`.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub id: [u8; 8],
    /// When the code ends, milliseconds since 1970.
    #[n(1)]
    pub expires_ms: u64,
}

/// An enrolment under way.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct EnrolmentRecord {
    /// Whom it enrols.
    #[n(0)]
    pub user: String,
    /// When the code ends, milliseconds since 1970.
    #[n(1)]
    pub expires_ms: u64,
    /// Requests whose MAC was wrong.
    #[n(2)]
    pub bad_macs: u32,
    /// The code's key, sealed; `None` once the code is burnt.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub psk: Option<Vec<u8>>,
    /// What was offered last and waits for its E3.
    #[n(4)]
    pub offer: Option<OfferRecord>,
    /// The terminal has stored the offered keys and waits for an administrator.
    #[n(5)]
    #[cbor(default)]
    pub held: bool,
    /// An administrator has compared the digits of the offer.
    #[n(6)]
    #[cbor(default)]
    pub confirmed: bool,
}

/// An offered credential.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct OfferRecord {
    /// The credential, as it will stand in the user's record.
    #[n(0)]
    pub credential: CredentialRecord,
    /// What E3 must prove ‖ what E4 will say, sealed.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub tags: Vec<u8>,
    /// The six digits that user and administrator compare.
    #[n(2)]
    #[cbor(default)]
    pub comparison: u32,
}

/// A registered service.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct ServiceRecord {
    /// Service id.
    #[n(0)]
    pub id: String,
    /// Its https origins.
    #[n(1)]
    pub origins: Vec<String>,
    /// Attributes it may receive.
    #[n(2)]
    pub release: Vec<String>,
    /// Groups that may use it; empty for everybody.
    #[n(3)]
    pub allow_groups: Vec<String>,
    /// SHA-256 of its certificate's public key.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub key_pin: Option<Vec<u8>>,
}

impl ServiceRecord {
    /// Whether its groups let a user in (step 11, beside the user's own state).
    pub fn admits(&self, user: &UserRecord) -> bool {
        self.allow_groups.is_empty() || user.groups.iter().any(|group| self.allow_groups.contains(group))
    }
}

/// A record type: how it is stored.
pub trait Stored: Sized + Encode<()> + for<'b> Decode<'b, ()> {
    /// The index in which it is listed, if any.
    const INDEX: Option<&'static str>;

    /// Its value in that index.
    fn index_value(&self) -> String;

    /// Index terms to store it with.
    fn terms(&self) -> Vec<IndexTerm> {
        let term = |name: &str| IndexTerm { name: name.to_owned(), value: self.index_value() };
        Self::INDEX.map(term).into_iter().collect()
    }

    /// The record's bytes.
    fn to_bytes(&self) -> Vec<u8> {
        #[expect(clippy::expect_used, reason = "writing to a Vec cannot fail, and the types always encode")]
        let bytes = minicbor::to_vec(self).expect("records encode");
        bytes
    }

    /// From stored bytes.
    fn from_bytes(bytes: &[u8]) -> Result<Self, minicbor::decode::Error> {
        minicbor::decode(bytes)
    }
}

impl Stored for UserRecord {
    const INDEX: Option<&'static str> = Some("user");

    fn index_value(&self) -> String {
        self.id.clone()
    }
}

impl Stored for ServiceRecord {
    const INDEX: Option<&'static str> = Some("service");

    fn index_value(&self) -> String {
        self.id.clone()
    }
}

impl Stored for EnrolmentRecord {
    const INDEX: Option<&'static str> = Some("enrolment");

    /// In the order of their ends, for those that are over to be swept.
    fn index_value(&self) -> String {
        format!("{:020} {}", self.expires_ms, self.user)
    }
}

/// Record key of a user.
pub fn user_key(id: &str) -> String {
    format!("user/{id}")
}

/// Record key of a service.
pub fn service_key(id: &str) -> String {
    format!("service/{id}")
}

/// Record key under which a credential's number leads to its user's id.
pub fn credential_key(number: &CredentialNumber) -> String {
    format!("credential/{}", data_encoding::HEXLOWER.encode(number))
}

/// Record key of an enrolment.
pub fn enrolment_key(id: &[u8; 8]) -> String {
    format!("enrolment/{}", data_encoding::HEXLOWER.encode(id))
}

/// The unique key of a credential, or where it is.
#[derive(Debug, Clone)]
pub enum UniqueKey {
    /// At hand.
    Held(Secret32),
    /// In a module that does not give it out.
    InCustody(CustodyKey),
}

/// The keys of a credential, opened.
#[derive(Debug, Clone)]
pub struct Keys {
    /// The unique key.
    pub unique: UniqueKey,
    /// The management authentication key.
    pub management: Secret32,
}

impl Keys {
    /// Seals them for a credential's record. The id of a unique key in custody
    /// is sealed with the management authentication key: one record's key
    /// cannot be made another's.
    pub fn seal(&self, key: &impl Seal, realm: &str, user: &str, epoch: u32) -> Result<SealedKeys, Unsealable> {
        let (unique, custody) = match &self.unique {
            UniqueKey::Held(key) => (key.expose().as_slice(), None),
            UniqueKey::InCustody(key) => (key.id.as_slice(), Some(key.clone())),
        };
        let both = Zeroizing::new([unique, self.management.expose()].concat());
        let mut keys = SealedKeys { sealed: Vec::new(), custody };
        keys.sealed = key.seal(keys.place(realm, user, epoch), &both)?;
        Ok(keys)
    }

    /// Opens a credential's keys: its pending ones when `epoch` is theirs, and
    /// its current ones otherwise.
    pub fn open(
        keyring: &Keyring,
        realm: &str,
        user: &str,
        record: &CredentialRecord,
        epoch: u32,
    ) -> Result<Self, Unsealable> {
        let (epoch, keys) = match &record.pending {
            Some(pending) if pending.epoch == epoch => (epoch, &pending.keys),
            _ => (record.epoch, &record.keys),
        };
        let both = keyring.open(keys.place(realm, user, epoch), &keys.sealed)?;
        let length = if keys.custody.is_some() { size_of::<KeyId>() } else { 32 };
        let (unique, management) = both.split_at_checked(length).ok_or(Unsealable)?;
        let unique = match &keys.custody {
            None => UniqueKey::Held(Secret32::from_slice(unique).ok_or(Unsealable)?),
            Some(key) if key.id == unique => UniqueKey::InCustody(key.clone()),
            Some(_) => return Err(Unsealable),
        };
        Ok(Self { unique, management: Secret32::from_slice(management).ok_or(Unsealable)? })
    }
}

impl CredentialRecord {
    /// The part of its id that handles carry.
    pub fn number(&self) -> CredentialNumber {
        let mut number = CredentialNumber::default();
        number.copy_from_slice(&self.id[..8]);
        number
    }

    /// Its unique keys in custody, those that are pending too.
    pub fn keys_in_custody(&self) -> Vec<KeyId> {
        let pending = self.pending.as_ref().and_then(|pending| pending.keys.custody.as_ref());
        self.keys.custody.iter().chain(pending).map(|key| key.id).collect()
    }

    /// Whether it has keys of that epoch.
    pub fn has_epoch(&self, epoch: u32) -> bool {
        self.epoch == epoch || self.is_pending(epoch)
    }

    /// Whether the keys of that epoch are still to be used for the first time.
    pub fn is_pending(&self, epoch: u32) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.epoch == epoch)
    }

    /// Makes `used` the current keys, and forgets the former. `false`, and
    /// nothing is changed, when they are not the pending ones any more: a
    /// newer rotation has replaced them, or another use has promoted them.
    pub fn promote(&mut self, used: &PendingKeys) -> bool {
        let Some(pending) = self.pending.take_if(|pending| pending.are(used)) else { return false };
        self.epoch = pending.epoch;
        self.keys = pending.keys;
        self.keys_made_ms = pending.made_ms;
        self.rotate_required = false;
        true
    }

    /// What it demands at least.
    pub fn floor(&self) -> claviger_protocol::management::login::Floor {
        claviger_protocol::management::login::Floor {
            hash_len: usize::from(self.hash_len),
            suite: SuiteId(self.suite_floor),
            kem: KemId::from_wire(self.kem_floor).unwrap_or(KemId::X25519MlKem768),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::management::testing::MemoryStore;

    #[test]
    fn records_round_trip() {
        let user = UserRecord {
            id: "alice".into(),
            suspended: Some(Suspension { reason: Some("left".into()) }),
            name: None,
            email: Some("alice@example.org".into()),
            groups: vec!["staff".into()],
            created_ms: 1,
            credential: Some(CredentialRecord {
                id: [1; 16],
                epoch: 2,
                hash_len: 32,
                suite_floor: 1,
                kem_floor: 0,
                keys: SealedKeys { sealed: vec![3; 92], custody: None },
                enrolled_ms: 4,
                cloned: true,
                keys_made_ms: 4,
                rotate_required: true,
                pending: Some(PendingKeys {
                    epoch: 3,
                    keys: SealedKeys {
                        sealed: vec![4; 64],
                        custody: Some(CustodyKey { id: [7; 16], token: vec![8; 3] }),
                    },
                    made_ms: 5,
                }),
            }),
            enrolment: Some(EnrolmentRef { id: [5; 8], expires_ms: 6 }),
        };
        assert_eq!(UserRecord::from_bytes(&user.to_bytes()).unwrap(), user);
        let service = ServiceRecord {
            id: "shop.example".into(),
            origins: vec![],
            release: vec!["user".into()],
            allow_groups: vec![],
            key_pin: None,
        };
        assert_eq!(ServiceRecord::from_bytes(&service.to_bytes()).unwrap(), service);
        assert!(UserRecord::from_bytes(b"rubbish").is_err());
    }

    fn credential(keys: SealedKeys, epoch: u32) -> CredentialRecord {
        CredentialRecord {
            id: [1; 16],
            epoch,
            hash_len: 32,
            suite_floor: 1,
            kem_floor: 0,
            keys,
            enrolled_ms: 0,
            cloned: false,
            keys_made_ms: 0,
            rotate_required: false,
            pending: None,
        }
    }

    #[tokio::test]
    async fn keys_of_another_user_do_not_open() {
        let keyring = Keyring::on(MemoryStore::new()).await;
        let in_custody = CustodyKey { id: [9; 16], token: b"token".to_vec() };
        for unique in [UniqueKey::Held(Secret32::new([1; 32])), UniqueKey::InCustody(in_custody)] {
            let keys = Keys { unique, management: Secret32::new([2; 32]) };
            let record = |user: &str, epoch| credential(keys.seal(&*keyring, "example", user, 1).unwrap(), epoch);
            assert!(Keys::open(&keyring, "example", "alice", &record("alice", 1), 1).is_ok());
            assert!(Keys::open(&keyring, "example", "alice", &record("bob", 1), 1).is_err());
            assert!(Keys::open(&keyring, "example", "alice", &record("alice", 2), 2).is_err());
        }
    }

    #[tokio::test]
    async fn a_record_cannot_be_given_another_key_in_custody() {
        let keyring = Keyring::on(MemoryStore::new()).await;
        let key = |id: u8| CustodyKey { id: [id; 16], token: vec![id] };
        let keys = Keys { unique: UniqueKey::InCustody(key(1)), management: Secret32::new([2; 32]) };
        let good = credential(keys.seal(&*keyring, "example", "alice", 1).unwrap(), 1);
        let opened = Keys::open(&keyring, "example", "alice", &good, 1).unwrap();
        assert!(matches!(opened.unique, UniqueKey::InCustody(found) if found == key(1)));
        assert_eq!(good.keys_in_custody(), [[1; 16]]);
        for custody in [Some(key(2)), None] {
            let mut bad = good.clone();
            bad.keys.custody = custody;
            assert!(Keys::open(&keyring, "example", "alice", &bad, 1).is_err());
        }
    }
}

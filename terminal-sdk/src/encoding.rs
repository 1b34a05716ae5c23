//! How values are written into the JSON files of a terminal.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use serde::{
    Deserializer, Serializer,
    de::{Error as _, Visitor},
};
use zeroize::Zeroizing;

/// Bytes as base64url. The intermediate text is wiped, since most of it is secret.
pub(crate) mod bytes {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(BASE64URL_NOPAD.encode(bytes)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Zeroizing<Vec<u8>>, D::Error> {
        deserializer.deserialize_str(Base64)
    }

    struct Base64;

    impl Visitor<'_> for Base64 {
        type Value = Zeroizing<Vec<u8>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("base64url without padding")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
            // The message must not repeat the text.
            BASE64URL_NOPAD
                .decode(text.as_bytes())
                .map(Zeroizing::new)
                .map_err(|_| E::custom("a value is not base64url without padding"))
        }
    }
}

/// A [`claviger_protocol::Secret32`] as base64url.
pub(crate) mod secret {
    use claviger_protocol::Secret32;

    use super::*;

    pub(crate) fn serialize<S: Serializer>(secret: &Secret32, serializer: S) -> Result<S::Ok, S::Error> {
        bytes::serialize(secret.expose(), serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret32, D::Error> {
        let bytes = bytes::deserialize(deserializer)?;
        Secret32::from_slice(&bytes).ok_or_else(|| D::Error::custom("a key has not 32 bytes"))
    }
}

/// Bytes of a fixed length, which need not be there, as base64url.
pub(crate) mod optional_array {
    use super::*;

    pub(crate) fn serialize<const N: usize, S: Serializer>(
        array: &Option<[u8; N]>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match array {
            Some(array) => bytes::serialize(array, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, const N: usize, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<[u8; N]>, D::Error> {
        let bytes = bytes::deserialize(deserializer)?;
        let array = bytes[..].try_into().map_err(|_| D::Error::custom(format!("a value has not {N} bytes")))?;
        Ok(Some(array))
    }
}

/// A value by its `Display` and `FromStr`.
pub(crate) mod text {
    use std::{fmt::Display, str::FromStr};

    use serde::Deserialize;

    use super::*;

    pub(crate) fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(crate) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A KEM by its number.
pub(crate) mod kem {
    use claviger_protocol::KemId;
    use serde::Deserialize;

    use super::*;

    pub(crate) fn serialize<S: Serializer>(kem: &KemId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(kem.to_wire())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<KemId, D::Error> {
        let number = u8::deserialize(deserializer)?;
        KemId::from_wire(number).ok_or_else(|| D::Error::custom(format!("{number} is not a key agreement")))
    }
}

//! The enrolment code that a user types once (protocol, section 8).

use std::fmt;

use aws_lc_rs::{digest, hmac};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::secret::Secret32;

/// 128 random bits, shown as three groups of nine digits of Crockford's base
/// 32, the last of them a check digit.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct EnrolmentCode([u8; 16]);

/// Why a text is not an enrolment code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// Not 27 digits.
    #[error("an enrolment code has 27 digits in three groups, such as T7ZRGMM5G-0Q0Q46JPD-M48EQ594V")]
    Length,
    /// A character that is no digit of Crockford's base 32.
    #[error("`{0}` does not occur in an enrolment code")]
    Character(char),
    /// The check digit is wrong: a digit was mistyped.
    #[error("the enrolment code has a typing error")]
    Check,
}

/// Public name of an enrolment: says which code a message belongs to, and nothing of the code.
pub type EnrolmentId = [u8; 8];

impl EnrolmentCode {
    /// A code from 16 fresh random bytes.
    pub fn new(random: [u8; 16]) -> Self {
        Self(random)
    }

    /// Reads what a user typed: hyphens and spaces are ignored, case does not
    /// matter, `O` is 0 and `I` and `L` are 1.
    pub fn parse(text: &str) -> Result<Self, CodeError> {
        let mut bits: u128 = 0;
        let mut digits = 0;
        let mut last = 0;
        for c in text.chars().filter(|c| !matches!(c, '-' | ' ')) {
            let value = match c.to_ascii_uppercase() {
                'O' => 0,
                'I' | 'L' => 1,
                upper => ALPHABET.iter().position(|d| char::from(*d) == upper).ok_or(CodeError::Character(c))?,
            } as u8;
            match digits {
                0..25 => bits = bits << 5 | u128::from(value),
                // The 26th digit has the last three bits, then two zero bits.
                25 if value & 3 != 0 => return Err(CodeError::Check),
                25 => bits = bits << 3 | u128::from(value >> 2),
                26 => last = value,
                _ => return Err(CodeError::Length),
            }
            digits += 1;
        }
        if digits != 27 {
            return Err(CodeError::Length);
        }
        let code = Self(bits.to_be_bytes());
        if code.check_digit() == last { Ok(code) } else { Err(CodeError::Check) }
    }

    /// The code as it is shown. A secret until it is used: show it once.
    pub fn expose(&self) -> String {
        let bits = u128::from_be_bytes(self.0);
        let mut text = String::with_capacity(29);
        for digit in 0..27 {
            if digit == 9 || digit == 18 {
                text.push('-');
            }
            let value = match digit {
                0..25 => (bits >> (123 - 5 * digit)) as u8 & 31,
                25 => (bits as u8 & 7) << 2,
                _ => self.check_digit(),
            };
            text.push(char::from(ALPHABET[usize::from(value)]));
        }
        text
    }

    /// `eid`: the public name under which the management server finds it.
    pub fn id(&self) -> EnrolmentId {
        let mut id = [0; 8];
        id.copy_from_slice(&self.derive(b"IDB1 eid\0").as_ref()[..8]);
        id
    }

    /// `psk`: the key that both sides share until the enrolment is done.
    pub fn psk(&self) -> Secret32 {
        let mut psk = Secret32::new([0; 32]);
        psk.expose_mut().copy_from_slice(self.derive(b"IDB1 psk\0").as_ref());
        psk
    }

    fn derive(&self, label: &[u8]) -> hmac::Tag {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &self.0), label)
    }

    fn check_digit(&self) -> u8 {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"IDB1 code\0");
        context.update(&self.0);
        context.finish().as_ref()[0] & 31
    }
}

impl fmt::Debug for EnrolmentCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EnrolmentCode(redacted)")
    }
}

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_published_code() {
        let bytes = data_encoding::HEXLOWER.decode(b"d1ff885285802e0b90d2b368443ae549").unwrap();
        let code = EnrolmentCode::new(bytes.try_into().unwrap());
        assert_eq!(code.expose(), "T7ZRGMM5G-0Q0Q46JPD-M48EQ594V");
        assert_eq!(data_encoding::HEXLOWER.encode(&code.id()), "e3250a7c0fed0303");
        let typed = EnrolmentCode::parse("t7zrgmm5g oqOq46jpd-m48eq594v").unwrap();
        assert_eq!(typed.id(), code.id());
    }

    #[test]
    fn typing_errors_are_named() {
        assert_eq!(EnrolmentCode::parse("").unwrap_err(), CodeError::Length);
        assert_eq!(EnrolmentCode::parse("T7ZRGMM5G-0Q0Q46JPD-M48EQ594").unwrap_err(), CodeError::Length);
        assert_eq!(EnrolmentCode::parse("T7ZRGMM5G-0Q0Q46JPD-M48EQ594VV").unwrap_err(), CodeError::Length);
        assert_eq!(EnrolmentCode::parse("U7ZRGMM5G-0Q0Q46JPD-M48EQ594V").unwrap_err(), CodeError::Character('U'));
        assert_eq!(EnrolmentCode::parse("T7ZRGMM5G-0Q0Q46JPD-M48EQ594W").unwrap_err(), CodeError::Check);
    }

    proptest! {
        #[test]
        fn shown_and_read_back(bytes: [u8; 16]) {
            let code = EnrolmentCode::new(bytes);
            prop_assert_eq!(EnrolmentCode::parse(&code.expose()).unwrap().0, bytes);
        }
    }
}

//! What a plugin file says about itself without being run: a JSON text in an
//! ELF section of its own.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The ELF section that holds the description.
pub const SECTION: &str = ".claviger.plugin";

/// The version of this interface, as text.
pub const API_VERSION: &str = env!("CARGO_PKG_VERSION");

/// The compiler that built this copy of the interface, and so the plugin.
#[doc(hidden)]
pub const RUSTC: &str = env!("CLAVIGER_RUSTC");

/// What a plugin says of itself. Read from the file, so not to be trusted
/// before the file's hash was compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// The plugin's own name; the configuration may load it under another.
    pub name: String,
    /// The plugin's version.
    pub version: String,
    /// One line for people.
    pub description: String,
    /// The interface version it was built against, `MAJOR.MINOR.PATCH`.
    pub api: String,
    /// The kinds of component that its `init` may deliver.
    pub provides: Vec<Component>,
    /// The compiler that built it.
    pub rustc: String,
}

/// A kind of component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Component {
    /// [`crate::CipherSuite`]
    Cipher,
    /// [`crate::UserStore`]
    UserStore,
    /// [`crate::StateStore`]
    StateStore,
    /// [`crate::KeyIssuer`]
    Issuer,
    /// [`crate::KeyCustody`]
    Custody,
    /// A kind that this version does not know. The host ignores it.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cipher => "cipher",
            Self::UserStore => "user_store",
            Self::StateStore => "state_store",
            Self::Issuer => "issuer",
            Self::Custody => "custody",
            Self::Unknown => "unknown",
        })
    }
}

/// The same at compile time, for the export macro.
#[doc(hidden)]
#[derive(Clone, Copy)]
pub struct Parts {
    pub name: &'static str,
    pub version: &'static str,
    pub description: &'static str,
    pub api: &'static str,
    pub provides: &'static [&'static str],
}

impl Parts {
    /// Bytes of the JSON text.
    #[must_use]
    pub const fn json_len(&self) -> usize {
        self.write(Json { bytes: [0; 0], len: 0 }).len
    }

    /// The JSON text, of exactly [`Self::json_len`] bytes.
    #[must_use]
    pub const fn json<const N: usize>(&self) -> [u8; N] {
        self.write(Json { bytes: [0; N], len: 0 }).bytes
    }

    const fn write<const N: usize>(&self, mut json: Json<N>) -> Json<N> {
        json = json.raw("{\"name\":").text(self.name);
        json = json.raw(",\"version\":").text(self.version);
        json = json.raw(",\"description\":").text(self.description);
        json = json.raw(",\"api\":").text(self.api);
        json = json.raw(",\"provides\":[");
        let mut i = 0;
        while i < self.provides.len() {
            json = json.raw(if i == 0 { "" } else { "," }).text(self.provides[i]);
            i += 1;
        }
        json.raw("],\"rustc\":").text(RUSTC).raw("}")
    }
}

/// A writer that works at compile time; what does not fit is only counted.
struct Json<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Json<N> {
    const fn raw(mut self, text: &str) -> Self {
        let text = text.as_bytes();
        let mut i = 0;
        while i < text.len() {
            self = self.push(text[i]);
            i += 1;
        }
        self
    }

    const fn text(mut self, text: &str) -> Self {
        self = self.push(b'"');
        let text = text.as_bytes();
        let mut i = 0;
        while i < text.len() {
            self = match text[i] {
                b'"' | b'\\' => self.push(b'\\').push(text[i]),
                0..0x20 => self.push(b' '),
                byte => self.push(byte),
            };
            i += 1;
        }
        self.push(b'"')
    }

    const fn push(mut self, byte: u8) -> Self {
        if self.len < N {
            self.bytes[self.len] = byte;
        }
        self.len += 1;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTS: Parts = Parts {
        name: "x",
        version: "1.2.3",
        description: "says \"hello\" \\ and\na new line, in français",
        api: API_VERSION,
        provides: &["cipher", "issuer", "a kind of tomorrow"],
    };
    static TEXT: [u8; PARTS.json_len()] = PARTS.json();

    #[test]
    fn the_text_made_at_compile_time_is_json() {
        let read: Description = serde_json::from_slice(&TEXT).unwrap();
        assert_eq!(read.name, "x");
        assert_eq!(read.description, "says \"hello\" \\ and a new line, in français");
        assert_eq!(read.provides, [Component::Cipher, Component::Issuer, Component::Unknown]);
        assert!(read.rustc.starts_with("rustc "), "{}", read.rustc);
    }
}

//! The terminal's own table: which service is at which origin, by the user's
//! word or by the management server's directory.

use claviger_protocol::ServiceId;
use serde::{Deserialize, Serialize};

use crate::{
    encoding,
    error::{Error, Result},
    origin::Origin,
};

/// One row of the terminal's own table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// The service id.
    #[serde(with = "encoding::text")]
    pub id: ServiceId,
    /// Where it is.
    #[serde(with = "encoding::text")]
    pub origin: Origin,
    /// Certificates (PEM) to trust for it, instead of the credential's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// What its envelopes are bound to from the start.
    #[serde(default, skip_serializing_if = "Bind::is_none")]
    pub bind: Bind,
    /// Who says so.
    #[serde(default, skip_serializing_if = "Source::is_hand")]
    pub source: Source,
    /// Its name for people, from the directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Service {
    /// A service that the user names, with nothing special about it.
    pub fn new(id: ServiceId, origin: Origin) -> Self {
        Self { id, origin, ca: None, bind: Bind::None, source: Source::Hand, name: None }
    }
}

/// What the envelopes for a service are bound to (protocol, section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bind {
    /// Nothing; where the service demands a binding, a challenge and then the
    /// TLS connection are tried.
    #[default]
    None,
    /// A challenge of the service.
    Challenge,
    /// The TLS connection (RFC 9266): nobody can pass the envelope on.
    TlsExporter,
}

impl Bind {
    fn is_none(&self) -> bool {
        *self == Self::None
    }
}

/// Where a row of the table comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The user added it. It stays until the user removes it.
    #[default]
    Hand,
    /// The management server's sealed directory; replaced by each refresh.
    Directory,
}

impl Source {
    /// `hand` or `directory`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hand => "hand",
            Self::Directory => "directory",
        }
    }

    fn is_hand(&self) -> bool {
        *self == Self::Hand
    }
}

/// The row that `target` names: an origin (`https://…`), or a service id, of
/// which the first origin is taken, those of the user before those of the directory.
pub(crate) fn find<'a>(table: &'a [Service], target: &str) -> Result<&'a Service> {
    let found = if target.contains("://") {
        let origin: Origin = target.parse()?;
        table.iter().find(|service| service.origin == origin)
    } else {
        table.iter().filter(|service| service.id.as_str() == target).min_by_key(|service| service.source)
    };
    found.ok_or_else(|| Error::UnknownService(target.to_owned()))
}

/// Adds a row of the user's. An origin belongs to one service only; a row of
/// the directory gives way.
pub(crate) fn add(table: &mut Vec<Service>, service: Service) -> Result<()> {
    match table.iter_mut().find(|known| known.origin == service.origin) {
        Some(known) if known.id == service.id || known.source == Source::Directory => *known = service,
        Some(known) => {
            return Err(Error::Invalid(format!(
                "{} belongs to {} already; remove it first with `claviger services remove {}`",
                known.origin, known.id, known.origin
            )));
        }
        None => table.push(service),
    }
    Ok(())
}

/// Takes an origin out of the table.
pub(crate) fn remove(table: &mut Vec<Service>, origin: &Origin) -> Result<Service> {
    let at = table.iter().position(|service| service.origin == *origin);
    at.map(|at| table.remove(at)).ok_or_else(|| Error::UnknownService(origin.to_string()))
}

/// Replaces what was learnt from the directory before. Rows of the user stay,
/// and win where both name an origin; of two services at one origin, which the
/// directory should not name, the first is taken.
pub(crate) fn learn(table: &mut Vec<Service>, listed: Vec<Service>) {
    table.retain(|service| service.source == Source::Hand);
    for service in listed {
        if !table.iter().any(|known| known.origin == service.origin) {
            table.push(Service { source: Source::Directory, ..service });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(id: &str, origin: &str) -> Service {
        Service::new(id.parse().unwrap(), origin.parse().unwrap())
    }

    #[test]
    fn the_table_finds_by_origin_and_by_id() {
        let mut table = Vec::new();
        add(&mut table, service("shop", "https://shop.example")).unwrap();
        add(&mut table, service("shop", "https://shop.example:444")).unwrap();
        add(&mut table, service("shop", "https://shop.example")).unwrap();
        assert_eq!(table.len(), 2);
        assert_eq!(find(&table, "shop").unwrap().origin.as_str(), "https://shop.example");
        assert_eq!(find(&table, "https://SHOP.example:444/").unwrap().origin.as_str(), "https://shop.example:444");
        assert!(matches!(find(&table, "https://evil.example"), Err(Error::UnknownService(_))));
        assert!(add(&mut table, service("evil", "https://shop.example")).is_err());
        remove(&mut table, &"https://shop.example".parse().unwrap()).unwrap();
        assert!(remove(&mut table, &"https://shop.example".parse().unwrap()).is_err());
    }

    #[test]
    fn the_directory_replaces_its_own_rows_and_the_user_wins() {
        let mut table = vec![service("mine", "https://a")];
        learn(&mut table, vec![service("theirs", "https://a"), service("b", "https://b"), service("c", "https://b")]);
        let rows: Vec<_> = table.iter().map(|s| (s.id.as_str(), s.origin.as_str(), s.source)).collect();
        assert_eq!(rows, [("mine", "https://a", Source::Hand), ("b", "https://b", Source::Directory)]);
        // The user may contradict the directory, and is preferred by name too.
        add(&mut table, service("other", "https://b")).unwrap();
        learn(&mut table, vec![service("b", "https://b"), service("other", "https://d"), service("e", "https://e")]);
        add(&mut table, service("e", "https://e2")).unwrap();
        assert_eq!(find(&table, "https://b").unwrap().id.as_str(), "other");
        assert_eq!(find(&table, "other").unwrap().origin.as_str(), "https://b");
        assert_eq!(find(&table, "e").unwrap().origin.as_str(), "https://e2");
        learn(&mut table, vec![]);
        assert!(table.iter().all(|service| service.source == Source::Hand));
        assert_eq!(table.len(), 3);
    }
}

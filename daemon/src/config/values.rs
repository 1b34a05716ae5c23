//! Parsers of single values: each says what it found and what it expects.

use std::{
    net::SocketAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use config::{Value, ValueKind};
use data_encoding::HEXLOWER_PERMISSIVE;
use http::Uri;

use super::{
    reader::{Node, Wrong},
    types::{KekSource, TrustedKey},
};
use crate::plugin_host::is_public_key;

/// A string that is not empty.
pub(super) fn text(node: &Node<'_>) -> Result<String, Wrong> {
    match &node.value.kind {
        ValueKind::String(text) if text.is_empty() => Err(node.wrong("is empty", "a string")),
        ValueKind::String(text) => Ok(text.clone()),
        _ => Err(node.wrong_type("a string")),
    }
}

/// A realm or service id: at most `max` bytes of `[a-z0-9.-]`.
pub(super) fn label(max: usize) -> impl Fn(&Node<'_>) -> Result<String, Wrong> {
    move |node| word(node, max, |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b), "a-z 0-9 . -")
}

/// A plugin's name.
pub(super) fn name(node: &Node<'_>) -> Result<String, Wrong> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b);
    word(node, 64, allowed, "a-z 0-9 . _ -")
}

fn word(node: &Node<'_>, max: usize, allowed: impl Fn(u8) -> bool, letters: &str) -> Result<String, Wrong> {
    let expected = format!("1 to {max} of {letters}");
    let word = text(node)?;
    if word.len() > max {
        return Err(node.wrong(format_args!("has {} bytes", word.len()), expected));
    }
    if !word.bytes().all(allowed) {
        return Err(node.wrong(format_args!("holds a character that is not allowed: {word:?}"), expected));
    }
    Ok(word)
}

/// A path; a relative one starts at the directory of the file it stands in.
pub(super) fn path(node: &Node<'_>) -> Result<PathBuf, Wrong> {
    let path = text(node)?;
    Ok(node.directory.unwrap_or(Path::new("")).join(path))
}

/// `true` or `false`.
pub(super) fn boolean(node: &Node<'_>) -> Result<bool, Wrong> {
    match &node.value.kind {
        ValueKind::Boolean(value) => Ok(*value),
        ValueKind::String(text) if node.environment => {
            text.parse().map_err(|_| node.wrong(format_args!("is {text:?}"), "true or false"))
        }
        _ => Err(node.wrong_type("true or false")),
    }
}

/// A whole number in a range.
pub(super) fn integer(range: RangeInclusive<u32>) -> impl Fn(&Node<'_>) -> Result<u32, Wrong> {
    move |node| {
        let expected = || format!("a whole number from {} to {}", range.start(), range.end());
        let number = match &node.value.kind {
            ValueKind::I64(number) => *number,
            ValueKind::String(text) if node.environment => {
                text.parse().map_err(|_| node.wrong(format_args!("is {text:?}"), expected()))?
            }
            _ => return Err(node.wrong_type(expected())),
        };
        u32::try_from(number)
            .ok()
            .filter(|n| range.contains(n))
            .ok_or_else(|| node.wrong(format_args!("is out of range: {number}"), expected()))
    }
}

/// A duration such as `"500ms"` or `"1h30m"` in a range, of whole seconds when the range starts with one.
pub(super) fn duration(range: RangeInclusive<Duration>) -> impl Fn(&Node<'_>) -> Result<Duration, Wrong> {
    move |node| {
        let expected =
            || format!("a duration from {} to {}, such as \"20s\"", show(*range.start()), show(*range.end()));
        let ValueKind::String(text) = &node.value.kind else { return Err(node.wrong_type(expected())) };
        let value =
            parse_duration(text).ok_or_else(|| node.wrong(format_args!("is not a duration: {text:?}"), expected()))?;
        if !range.contains(&value) {
            return Err(node.wrong(format_args!("is out of range: {text:?}"), expected()));
        }
        if range.start().subsec_nanos() == 0 && value.subsec_nanos() != 0 {
            return Err(node.wrong(format_args!("is not of whole seconds: {text:?}"), expected()));
        }
        Ok(value)
    }
}

/// Parses `500ms`, `20s`, `5m`, `24h`, `7d` and sums of them such as `1h30m`.
/// `None` for anything else, for a number without a unit, and for what overflows.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let milliseconds = match &rest[..unit] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        rest = &rest[unit..];
        sum = sum.checked_add(Duration::from_millis(number.checked_mul(milliseconds)?))?;
    }
    (!text.is_empty()).then_some(sum)
}

/// The shortest way to write a duration that [`parse_duration`] reads.
fn show(duration: Duration) -> String {
    let ms = duration.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    match units.iter().find(|(size, _)| ms.is_multiple_of(*size)) {
        _ if ms == 0 => "0s".to_owned(),
        Some((size, unit)) => format!("{}{unit}", ms / size),
        None => format!("{ms}ms"),
    }
}

/// `ADDRESS:PORT`.
pub(super) fn socket(node: &Node<'_>) -> Result<SocketAddr, Wrong> {
    let expected = "an address and a port such as \"127.0.0.1:8443\" or \"[::]:8443\"";
    let ValueKind::String(text) = &node.value.kind else { return Err(node.wrong_type(expected)) };
    text.parse().map_err(|_| node.wrong(format_args!("is not an address to listen on: {text:?}"), expected))
}

/// `ADDRESS:PORT` or `"off"`.
pub(super) fn socket_or_off(node: &Node<'_>) -> Result<Option<SocketAddr>, Wrong> {
    match &node.value.kind {
        ValueKind::String(text) if text == "off" => Ok(None),
        _ => socket(node).map(Some),
    }
}

/// Where a key-encryption key lies: a path, `credential:NAME` or `custody:PLUGIN`.
pub(super) fn kek_source(node: &Node<'_>) -> Result<KekSource, Wrong> {
    let text = text(node)?;
    match text.split_once(':') {
        Some(("credential", name)) if !matches!(name, "" | "." | "..") && !name.contains('/') => {
            Ok(KekSource::Credential(name.to_owned()))
        }
        Some(("credential", _)) => Err(node.wrong(format_args!("is {text:?}"), "the name of a credential without `/`")),
        Some(("custody", plugin)) => Ok(KekSource::Custody(plugin.to_owned())),
        _ => path(node).map(KekSource::File),
    }
}

/// A SHA-256 in hex.
pub(super) fn sha256(node: &Node<'_>) -> Result<[u8; 32], Wrong> {
    let expected = "64 hex digits, as sha256sum prints them";
    let text = text(node)?;
    let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| node.wrong(format_args!("is not a SHA-256: {text:?}"), expected))
}

/// A minisign public key, or the path of its file.
pub(super) fn trusted_key(node: &Node<'_>) -> Result<TrustedKey, Wrong> {
    let text = text(node)?;
    if is_public_key(&text) {
        return Ok(TrustedKey::Key(text));
    }
    // The first bytes of every key; nobody names a file like that.
    if text.starts_with("RW") && text.len() >= 40 {
        let expected = "the 56 characters of a minisign public key, or the path of its file";
        return Err(node.wrong(format_args!("is not a minisign public key: {text:?}"), expected));
    }
    path(node).map(TrustedKey::File)
}

/// `SCHEME://HOST[:PORT]` without user, path or query.
pub(super) fn origin(scheme: &'static str) -> impl Fn(&Node<'_>) -> Result<Uri, Wrong> + Copy {
    move |node| {
        let expected = format!("{scheme}://HOST[:PORT]");
        let text = text(node)?;
        let wrong = |why: &str| node.wrong(format_args!("{why}: {text:?}"), expected.as_str());
        let uri: Uri = text.parse().map_err(|_| wrong("is not a URL"))?;
        let host = uri.host().unwrap_or_default();
        if uri.scheme_str() != Some(scheme) || host.is_empty() {
            return Err(wrong(&format!("is not a URL of {scheme}")));
        }
        if uri.query().is_some() || !matches!(uri.path(), "" | "/") || text.contains('@') || text.contains('#') {
            return Err(wrong("holds more than a host and a port"));
        }
        Ok(uri)
    }
}

/// One of a few words.
pub(super) fn choice<T: Copy>(choices: &'static [(&'static str, T)]) -> impl Fn(&Node<'_>) -> Result<T, Wrong> {
    move |node| {
        let words: Vec<_> = choices.iter().map(|(word, _)| format!("{word:?}")).collect();
        let expected = format!("one of {}", words.join(", "));
        let ValueKind::String(text) = &node.value.kind else { return Err(node.wrong_type(expected)) };
        let found = choices.iter().find(|(word, _)| word == text).map(|(_, value)| *value);
        found.ok_or_else(|| node.wrong(format_args!("is {text:?}"), expected))
    }
}

/// A list whose elements are all read by `parse`; in the environment, words between commas.
pub(super) fn list<T>(parse: impl Fn(&Node<'_>) -> Result<T, Wrong>) -> impl Fn(&Node<'_>) -> Result<Vec<T>, Wrong> {
    move |node| {
        let element = |value: &Value, path: String| {
            parse(&Node { value, path, directory: node.directory, environment: node.environment })
        };
        match &node.value.kind {
            ValueKind::Array(values) => {
                values.iter().enumerate().map(|(at, value)| element(value, format!("{}[{at}]", node.path))).collect()
            }
            ValueKind::String(text) if node.environment => text
                .split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty())
                .map(|part| element(&Value::new(None, part), node.path.clone()))
                .collect(),
            _ => Err(node.wrong_type("a list")),
        }
    }
}

/// One value as it is, or a list of them as in [`set`].
pub(super) fn one_or_more<T: PartialEq>(
    parse: impl Fn(&Node<'_>) -> Result<T, Wrong> + Copy,
) -> impl Fn(&Node<'_>) -> Result<Vec<T>, Wrong> {
    move |node| match &node.value.kind {
        ValueKind::Array(_) => set(parse)(node),
        ValueKind::String(text) if node.environment && text.contains(',') => set(parse)(node),
        _ => parse(node).map(|value| vec![value]),
    }
}

/// A list with at least one element and none twice.
pub(super) fn set<T: PartialEq>(
    parse: impl Fn(&Node<'_>) -> Result<T, Wrong>,
) -> impl Fn(&Node<'_>) -> Result<Vec<T>, Wrong> {
    let list = list(parse);
    move |node| {
        let values = list(node)?;
        if values.is_empty() {
            return Err(node.wrong("is empty", "at least one element"));
        }
        match (1..values.len()).any(|at| values[..at].contains(&values[at])) {
            true => Err(node.wrong("names something twice", "each element once")),
            false => Ok(values),
        }
    }
}

/// A cipher suite of the protocol's registry, `"0x0001"`.
pub(super) fn suite(node: &Node<'_>) -> Result<u16, Wrong> {
    let expected = "a cipher suite: \"0x0001\", \"0x0002\", \"0x0003\", \"0x0101\" or \"0x0102\"";
    let id = match &node.value.kind {
        ValueKind::String(text) => text.strip_prefix("0x").and_then(|hex| u16::from_str_radix(hex, 16).ok()),
        ValueKind::I64(number) => u16::try_from(*number).ok(),
        _ => return Err(node.wrong_type(expected)),
    };
    id.filter(|id| SUITES.contains(id)).ok_or_else(|| node.wrong("is not a known suite", expected))
}

/// A key exchange of the protocol's registry, 0 to 2.
pub(super) fn kem(node: &Node<'_>) -> Result<u8, Wrong> {
    integer(0..=2)(node).map(|kem| kem as u8)
}

/// The protocol's registry of suites.
const SUITES: [u16; 5] = [0x0001, 0x0002, 0x0003, 0x0101, 0x0102];

/// A free table, as JSON.
pub(super) fn json(node: &Node<'_>) -> Result<serde_json::Value, Wrong> {
    match &node.value.kind {
        ValueKind::Table(_) => to_json(node, node.value),
        _ => Err(node.wrong_type("a table")),
    }
}

fn to_json(node: &Node<'_>, value: &Value) -> Result<serde_json::Value, Wrong> {
    use serde_json::Value as Json;
    Ok(match &value.kind {
        ValueKind::Nil => Json::Null,
        ValueKind::Boolean(value) => Json::Bool(*value),
        ValueKind::I64(number) => Json::from(*number),
        ValueKind::U64(number) => Json::from(*number),
        ValueKind::I128(_) | ValueKind::U128(_) => return Err(node.wrong("holds too large a number", "64 bits")),
        ValueKind::Float(number) => {
            Json::from(serde_json::Number::from_f64(*number).ok_or_else(|| node.wrong("holds inf or nan", "a number"))?)
        }
        ValueKind::String(text) => Json::String(text.clone()),
        ValueKind::Array(list) => Json::Array(list.iter().map(|v| to_json(node, v)).collect::<Result<_, _>>()?),
        ValueKind::Table(table) => {
            Json::Object(table.iter().map(|(k, v)| Ok((k.clone(), to_json(node, v)?))).collect::<Result<_, _>>()?)
        }
    })
}

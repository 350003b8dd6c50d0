//! One setting as it was written, and the readings that options give it.
//!
//! Text is read as the option needs it, because the environment and flags know only text.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use tracing_subscriber::EnvFilter;

use super::{ErrorMode, LogFormat, Secret};
use crate::channels::{Pattern, ProxyName, RecoveryMode, SlowConsumer};

/// The longest that anything may be remembered: ten years, and always a whole number of seconds.
const LIFETIME_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A value of TOML, JSON or YAML. Not `Debug`: it may be a secret.
pub(super) enum Value {
    Nothing,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Value>),
    Table(Vec<(String, Value)>),
}

impl Value {
    /// Whether a Centrifugo option with this value asks for nothing.
    pub(super) fn is_off(&self) -> bool {
        match self {
            Self::Nothing | Self::Bool(false) | Self::Integer(0) => true,
            Self::Text(text) => {
                matches!(text.as_str(), "" | "false" | "0" | "0s" | "memory" | "default")
            }
            Self::List(items) => items.is_empty(),
            Self::Table(entries) => {
                let named = |wanted| entries.iter().find(|(name, _)| name == wanted);
                match (named("enabled"), named("disabled")) {
                    (Some((_, enabled)), _) => enabled.is_off(),
                    (None, Some((_, disabled))) => !disabled.is_off(),
                    (None, None) => entries.iter().all(|(_, value)| value.is_off()),
                }
            }
            Self::Bool(true) | Self::Integer(_) | Self::Float(_) => false,
        }
    }

    /// Calls `found` with the texts, numbers and switches of a section and all within, each with
    /// its path.
    pub(super) fn each_text(&self, path: &str, found: &mut impl FnMut(&str, String)) {
        match self {
            Self::Table(entries) => {
                for (name, value) in entries {
                    value.each_text(&format!("{path}.{name}"), found);
                }
            }
            Self::Text(text) => found(path, text.clone()),
            Self::Bool(on) => found(path, on.to_string()),
            Self::Integer(number) => found(path, number.to_string()),
            Self::Nothing | Self::Float(_) | Self::List(_) => {}
        }
    }

    /// Whether it is a duration of zero.
    fn is_no_time(&self) -> bool {
        match self {
            Self::Integer(number) => *number == 0,
            Self::Text(text) => go_duration(text.trim()) == Some(Duration::ZERO),
            _ => false,
        }
    }

    fn integer(&self) -> Option<i128> {
        match self {
            Self::Integer(number) => Some(*number),
            Self::Text(text) => text.trim().parse().ok(),
            _ => None,
        }
    }

    fn expected(&self, what: &str) -> String {
        let found = match self {
            Self::Nothing => "nothing".into(),
            Self::Bool(value) => value.to_string(),
            Self::Integer(number) => number.to_string(),
            Self::Float(number) => number.to_string(),
            Self::Text(text) => format!("{:?}", text.chars().take(60).collect::<String>()),
            Self::List(_) => "a list".into(),
            Self::Table(_) => "a section".into(),
        };
        format!("expected {what}, found {found}")
    }
}

/// `true` or `false`.
pub(super) fn switch(value: Value) -> Result<bool, String> {
    match &value {
        Value::Bool(on) => Ok(*on),
        Value::Text(text) => match text.trim().to_ascii_lowercase().as_str() {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(value.expected("true or false")),
        },
        _ => Err(value.expected("true or false")),
    }
}

/// A whole number within a range.
pub(super) fn number<T>(value: Value, range: RangeInclusive<T>) -> Result<T, String>
where
    T: TryFrom<i128> + PartialOrd + std::fmt::Display,
{
    match value.integer().and_then(|number| T::try_from(number).ok()) {
        Some(number) if range.contains(&number) => Ok(number),
        _ => {
            let (low, high) = (range.start(), range.end());
            Err(value.expected(&format!("a whole number from {low} to {high}")))
        }
    }
}

/// A power of two within a range.
pub(super) fn power_of_two(value: Value, range: RangeInclusive<u16>) -> Result<u16, String> {
    let what = format!("a power of two from {} to {}", range.start(), range.end());
    match value.integer().and_then(|number| u16::try_from(number).ok()) {
        Some(number) if number.is_power_of_two() && range.contains(&number) => Ok(number),
        _ => Err(value.expected(&what)),
    }
}

/// Zero, or a whole number of seconds up to ten years.
pub(super) fn lifetime(value: Value) -> Result<Duration, String> {
    let read = match &value {
        Value::Text(text) => go_duration(text.trim()),
        Value::Integer(0) => Some(Duration::ZERO),
        _ => None,
    };
    read.filter(|read| *read <= LIFETIME_MAX && read.subsec_nanos() == 0).ok_or_else(|| {
        value.expected("whole seconds with their unit, such as \"300s\" or \"720h\", or \"0s\"")
    })
}

/// A duration from 1 ms to a day, written with its unit; zero is allowed too.
pub(super) fn pause(value: Value) -> Result<Duration, String> {
    if value.is_no_time() { Ok(Duration::ZERO) } else { duration(value) }
}

/// A duration as `read` has it, where zero is the default: in Centrifugo an option without a value.
pub(super) fn zero_is(
    default: Duration,
    read: fn(Value) -> Result<Duration, String>,
) -> impl Fn(Value) -> Result<Duration, String> {
    move |value| if value.is_no_time() { Ok(default) } else { read(value) }
}

/// A duration from 1 ms to a day, written with its unit; a negative one switches off, and is zero.
pub(super) fn unless_negative(value: Value) -> Result<Duration, String> {
    let off = match &value {
        Value::Integer(number) => *number == -1,
        Value::Text(text) => {
            let positive = text.trim().strip_prefix('-').and_then(go_duration);
            text.trim() == "-1" || positive.is_some_and(|duration| !duration.is_zero())
        }
        _ => false,
    };
    if off { Ok(Duration::ZERO) } else { duration(value) }
}

/// A duration from 1 ms to a day, written with its unit.
pub(super) fn duration(value: Value) -> Result<Duration, String> {
    const RANGE: RangeInclusive<Duration> =
        Duration::from_millis(1)..=Duration::from_secs(24 * 60 * 60);
    let read = match &value {
        Value::Text(text) => go_duration(text.trim()),
        _ => None,
    };
    read.filter(|duration| RANGE.contains(duration)).ok_or_else(|| {
        value.expected("a duration from 1ms to 24h with its unit, such as \"25s\" or \"300ms\"")
    })
}

/// A duration in the notation of Go, as Centrifugo reads it: "1h30m", "1.5s", "300ms".
fn go_duration(mut text: &str) -> Option<Duration> {
    let mut seconds = 0.0;
    if text == "0" {
        return Some(Duration::ZERO);
    }
    if text.is_empty() {
        return None;
    }
    while !text.is_empty() {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let amount: f64 = text[..end].parse().ok()?;
        let rest = &text[end..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        seconds += amount
            * match &rest[..end] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        text = &rest[end..];
    }
    Duration::try_from_secs_f64(seconds).ok()
}

/// A text; the empty one stands for none.
pub(super) fn text(value: Value) -> Result<Option<String>, String> {
    match value {
        Value::Text(text) => Ok(Some(text).filter(|text| !text.is_empty())),
        other => Err(other.expected("a text in quotes")),
    }
}

/// The path of an endpoint: as requests spell it, without a query. Slashes at its end mean nothing.
pub(super) fn path(value: Value) -> Result<String, String> {
    if let Value::Text(text) = &value {
        let path = text.trim_end_matches('/');
        let ok = |byte: u8| byte.is_ascii_graphic() && !b"?#".contains(&byte);
        if path.starts_with('/') && path.bytes().all(ok) {
            return Ok(path.to_owned());
        }
    }
    Err(value.expected("a path such as \"/devices\""))
}

/// A URL of HTTP; the empty text stands for none.
pub(super) fn url(value: Value) -> Result<Option<String>, String> {
    match value {
        Value::Text(text) if text.is_empty() => Ok(None),
        Value::Text(text) if text.starts_with("http://") || text.starts_with("https://") => {
            Ok(Some(text))
        }
        other => Err(other.expected("a URL that begins with http:// or https://")),
    }
}

/// The endpoint of a proxy; the empty text stands for none.
pub(super) fn endpoint(value: Value) -> Result<Option<String>, String> {
    match &value {
        Value::Text(text) if text.starts_with("grpc://") || text.starts_with("unix:") => {
            Err("is a GRPC endpoint of Centrifugo; tiderace calls the backend by HTTP alone".into())
        }
        Value::Text(text) if text.is_empty() || names_a_host(text) => url(value),
        _ => Err(value.expected("a URL that begins with http:// or https:// and names a host")),
    }
}

/// Whether a URL of HTTP goes on behind its scheme.
fn names_a_host(url: &str) -> bool {
    let host = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    host.is_some_and(|host| host.starts_with(|c: char| c.is_alphanumeric() || c == '['))
}

/// A text that need not be there, as it stands.
pub(super) fn plain(value: Value) -> Result<String, String> {
    Ok(text(value)?.unwrap_or_default())
}

/// A regular expression; the empty text stands for none.
pub(super) fn pattern(value: Value) -> Result<Option<Pattern>, String> {
    let Some(text) = text(value)? else { return Ok(None) };
    let compiled = Pattern::new(&text);
    compiled.map(Some).map_err(|error| format!("{text:?} is no regular expression: {error}"))
}

/// A public key in PEM (RFC 7468); the empty text stands for none.
pub(super) fn public_key(value: Value) -> Result<Option<String>, String> {
    let text = text(value)?;
    match &text {
        Some(pem) if !pem.trim_start().starts_with("-----BEGIN ") => {
            Err("expected a public key in PEM, which begins with -----BEGIN".into())
        }
        _ => Ok(text),
    }
}

/// The name of a claim; the empty text stands for the usual one.
pub(super) fn claim(value: Value) -> Result<Option<String>, String> {
    match text(value)? {
        Some(name) if !name.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'_') => {
            Err(Value::Text(name).expected("a name of letters and _"))
        }
        name => Ok(name),
    }
}

/// A name as namespaces and proxies have them, by Centrifugo's rule.
pub(super) fn name(value: Value) -> Result<String, String> {
    let ok = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    match value {
        Value::Text(text) if text.len() >= 2 && text.bytes().all(ok) => Ok(text),
        other => Err(other.expected("a name of two or more letters, digits, -, _ and .")),
    }
}

/// The name of a proxy; the empty text stands for the proxy of the event's own section.
pub(super) fn proxy_name(value: Value) -> Result<ProxyName, String> {
    match text(value)? {
        Some(text) => name(Value::Text(text)).map(ProxyName),
        None => Ok(ProxyName::default()),
    }
}

/// Names of HTTP headers, in lower case: a list, or one text with blanks or commas between them.
pub(super) fn header_names(value: Value) -> Result<Vec<String>, String> {
    let items = match value {
        Value::Text(text) => text
            .split([' ', ','])
            .filter(|part| !part.is_empty())
            .map(|part| Value::Text(part.into()))
            .collect(),
        Value::List(items) => items,
        other => return Err(other.expected("a list of names of HTTP headers")),
    };
    items.into_iter().map(header_name).collect()
}

/// The name of an HTTP header (RFC 9110 section 5.1), in lower case.
fn header_name(value: Value) -> Result<String, String> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    match value {
        Value::Text(text) if !text.is_empty() && text.bytes().all(token) => {
            Ok(text.to_ascii_lowercase())
        }
        other => Err(other.expected("the name of an HTTP header")),
    }
}

/// The name of an HTTP header, in lower case; the empty text stands for none.
pub(super) fn header(value: Value) -> Result<Option<String>, String> {
    text(value)?.map(|text| header_name(Value::Text(text))).transpose()
}

/// HTTP headers and their values, which may be secrets: a section, or one text of JSON.
pub(super) fn headers(value: Value) -> Result<BTreeMap<String, Secret>, String> {
    let what = "a section of HTTP headers with a text each";
    let value = match value {
        Value::Text(json) => serde_json::from_str(&json).map_err(|_| format!("expected {what}"))?,
        other => other,
    };
    let Value::Table(entries) = value else { return Err(format!("expected {what}")) };
    let mut headers = BTreeMap::new();
    for (name, value) in entries {
        let name = header_name(Value::Text(name))?;
        let Value::Text(text) = value else { return Err(format!("{name}: expected a text")) };
        if text.bytes().any(|byte| byte != b'\t' && !matches!(byte, b' '..=b'~')) {
            return Err(format!("{name}: a header has characters of ASCII alone, and no controls"));
        }
        if headers.insert(name.clone(), Secret::new(text)).is_some() {
            return Err(format!("{name}: is set twice"));
        }
    }
    Ok(headers)
}

/// `stream` or `cache`; the empty text stands for the first.
pub(super) fn recovery_mode(value: Value) -> Result<RecoveryMode, String> {
    match &value {
        Value::Text(text) if text.is_empty() || text == "stream" => Ok(RecoveryMode::Stream),
        Value::Text(text) if text == "cache" => Ok(RecoveryMode::Cache),
        _ => Err(value.expected("\"stream\" or \"cache\"")),
    }
}

/// What happens to a subscriber that is slow.
pub(super) fn slow_consumer(value: Value) -> Result<SlowConsumer, String> {
    match &value {
        Value::Text(text) if text == "disconnect" => Ok(SlowConsumer::Disconnect),
        Value::Text(text) if text == "drop_oldest" => Ok(SlowConsumer::DropOldest),
        Value::Text(text) if text == "latest" => Ok(SlowConsumer::Latest),
        _ => Err(value.expected("\"disconnect\", \"drop_oldest\" or \"latest\"")),
    }
}

/// How errors of the HTTP API are told; the empty text stands for the usual way.
pub(super) fn error_mode(value: Value) -> Result<ErrorMode, String> {
    match &value {
        Value::Text(text) if text.is_empty() => Ok(ErrorMode::Body),
        Value::Text(text) if text == "transport" => Ok(ErrorMode::Transport),
        _ => Err(value.expected("\"\" or \"transport\"")),
    }
}

/// A secret; the empty one stands for none. The message never shows what was found.
pub(super) fn secret(value: Value) -> Result<Option<Secret>, String> {
    match value {
        Value::Text(text) => Ok(Some(text).filter(|text| !text.is_empty()).map(Secret::new)),
        _ => Err("expected a text in quotes".into()),
    }
}

/// An IP address or `localhost`; the empty text stands for all IPv4 interfaces.
pub(super) fn address(value: Value) -> Result<IpAddr, String> {
    let what = "an IP address or \"localhost\"";
    match &value {
        Value::Text(text) => match text.trim() {
            "" => Ok(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            "localhost" => Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            other => other.parse().map_err(|_| value.expected(what)),
        },
        _ => Err(value.expected(what)),
    }
}

/// Patterns of origins: a list, or one text with blanks or commas between them.
pub(super) fn origins(value: Value) -> Result<Vec<String>, String> {
    match value {
        Value::Text(text) => text
            .split([' ', ',', '\t', '\n'])
            .filter(|part| !part.is_empty())
            .map(|part| origin(Value::Text(part.into())))
            .collect(),
        Value::List(items) => items.into_iter().map(origin).collect(),
        other => Err(other.expected("a list of origins")),
    }
}

/// A pattern that some `Origin` header can match: such a header has a scheme and no path.
fn origin(value: Value) -> Result<String, String> {
    if let Value::Text(text) = &value {
        let after_scheme = text.split_once("://").map(|(_, rest)| rest);
        let matchable = match after_scheme {
            Some(host) => !host.is_empty() && !host.contains('/'),
            None => text.contains('*'),
        };
        if matchable {
            return Ok(text.to_ascii_lowercase());
        }
    }
    Err(value.expected("origins such as \"https://example.com\", without a path, or \"*\""))
}

/// A level or the directives of a filter. A bare word must be a level: the filter itself would
/// take a misspelt level for the name of a target.
pub(super) fn level(value: Value) -> Result<String, String> {
    const LEVELS: [&str; 7] = ["none", "off", "trace", "debug", "info", "warn", "error"];
    let what = "none, trace, debug, info, warn, error, or directives such as \
                \"info,tiderace::shard=debug\"";
    let Value::Text(text) = &value else { return Err(value.expected(what)) };
    let directives = text.trim().to_ascii_lowercase();
    let known = directives.split(',').all(|directive| {
        let level = directive.rsplit('=').next().unwrap_or(directive);
        LEVELS.contains(&level)
    });
    let directives = if directives == "none" { "off".into() } else { directives };
    if !known || EnvFilter::try_new(&directives).is_err() {
        return Err(value.expected(what));
    }
    Ok(directives)
}

/// `text` or `json`.
pub(super) fn log_format(value: Value) -> Result<LogFormat, String> {
    match &value {
        Value::Text(text) if text == "text" => Ok(LogFormat::Text),
        Value::Text(text) if text == "json" => Ok(LogFormat::Json),
        _ => Err(value.expected("\"text\" or \"json\"")),
    }
}

/// A visitor that hands the value to a function, whose `Err` becomes an error of the parser, which
/// stands at the value at that moment and knows the line.
pub(super) struct Read<F>(pub(super) F);

impl<F: FnOnce(Value) -> Result<(), ()>> Read<F> {
    fn take<E: de::Error>(self, value: Value) -> Result<(), E> {
        (self.0)(value).map_err(|()| E::custom("refused"))
    }
}

impl<'de, F: FnOnce(Value) -> Result<(), ()>> Visitor<'de> for Read<F> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<(), E> {
        self.take(Value::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        self.take(Value::Integer(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        self.take(Value::Integer(value.into()))
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<(), E> {
        self.take(Value::Integer(value))
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<(), E> {
        self.take(Value::Float(value as f64))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<(), E> {
        self.take(Value::Float(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<(), E> {
        self.take(Value::Text(value.into()))
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.take(Value::Nothing)
    }

    fn visit_none<E: de::Error>(self) -> Result<(), E> {
        self.take(Value::Nothing)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        self.take(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let mut table = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            table.push(entry);
        }
        self.take(Value::Table(table))
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut read = Value::Nothing;
        from.deserialize_any(Read(|value| {
            read = value;
            Ok(())
        }))?;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Value {
        Value::Text(text.into())
    }

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, millis) in
            [("25s", 25_000), ("300ms", 300), ("1h30m", 5_400_000), ("1.5s", 1_500)]
        {
            assert_eq!(duration(of(text)), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "25", "s", "-1s", "1x", "25h", "1ns", "1..2s", "9e9s"] {
            assert!(duration(of(text)).is_err(), "{text}");
        }
        assert!(duration(Value::Integer(25)).unwrap_err().contains("with its unit"));
    }

    #[test]
    fn negative_durations_may_switch_off() {
        for text in ["-1s", "-1ns", "-1"] {
            assert_eq!(unless_negative(of(text)), Ok(Duration::ZERO), "{text}");
        }
        assert_eq!(unless_negative(Value::Integer(-1)), Ok(Duration::ZERO));
        assert_eq!(unless_negative(of("2s")), Ok(Duration::from_secs(2)));
        for text in ["0s", "-0s", "-s", "-", "--1s"] {
            assert!(unless_negative(of(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_keep_their_range() {
        assert_eq!(number(Value::Integer(7), 1..=7_usize), Ok(7));
        assert_eq!(number(of(" 7 "), 1..=7_usize), Ok(7));
        assert_eq!(
            number(Value::Integer(8), 1..=7_usize),
            Err("expected a whole number from 1 to 7, found 8".into())
        );
        assert!(number(Value::Integer(-1), 0..=7_usize).is_err());
        assert!(number(Value::Float(1.5), 0..=7_usize).is_err());
        assert_eq!(power_of_two(Value::Integer(256), 1..=32_768), Ok(256));
        assert!(power_of_two(Value::Integer(300), 1..=32_768).is_err());
    }

    #[test]
    fn origins_that_no_browser_sends_are_refused() {
        assert_eq!(
            origins(of("https://A.example:8000,http://*.b.example *")),
            Ok(vec!["https://a.example:8000".into(), "http://*.b.example".into(), "*".into()])
        );
        for pattern in ["example.com", "https://example.com/", "https://"] {
            assert!(origins(Value::List(vec![of(pattern)])).is_err(), "{pattern}");
        }
    }

    #[test]
    fn a_misspelt_level_is_not_taken_for_a_target() {
        assert_eq!(level(of("none")), Ok("off".into()));
        assert_eq!(
            level(of("info,tiderace::shard=debug")),
            Ok("info,tiderace::shard=debug".into())
        );
        assert!(level(of("inof")).is_err());
        assert!(level(of("")).is_err());
    }

    #[test]
    fn paths_and_urls_are_as_requests_need_them() {
        assert_eq!(path(of("/a/b")), Ok("/a/b".into()));
        assert_eq!(path(of("/a/b/")), Ok("/a/b".into()));
        for wrong in ["", "/", "a", "/a?b", "/a b"] {
            assert!(path(of(wrong)).is_err(), "{wrong}");
        }
        assert_eq!(url(of("")), Ok(None));
        assert_eq!(url(of("https://b.example/x")), Ok(Some("https://b.example/x".into())));
        assert!(url(of("b.example")).is_err());
    }

    #[test]
    fn lifetimes_are_whole_seconds_or_none() {
        for (text, seconds) in [("0s", 0), ("0", 0), ("300s", 300), ("720h", 2_592_000)] {
            assert_eq!(lifetime(of(text)), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["300ms", "1.5s", "", "87601h", "300"] {
            assert!(lifetime(of(text)).is_err(), "{text}");
        }
        assert_eq!(pause(of("0s")), Ok(Duration::ZERO));
        let default = Duration::from_secs(7);
        for zero in [of("0s"), of("0"), of("0h0m"), Value::Integer(0)] {
            assert_eq!(zero_is(default, duration)(zero), Ok(default));
        }
        assert_eq!(zero_is(default, unless_negative)(of("-1s")), Ok(Duration::ZERO));
        assert_eq!(zero_is(default, duration)(of("2s")), Ok(Duration::from_secs(2)));
        assert!(zero_is(default, duration)(of("-1s")).is_err());
        assert_eq!(pause(of("40s")), Ok(Duration::from_secs(40)));
        assert!(pause(of("25h")).is_err());
    }

    #[test]
    fn endpoints_are_http() {
        let good = "https://b.example/x";
        assert_eq!(endpoint(of(good)), Ok(Some(good.into())));
        assert!(endpoint(of("grpc://b.example:1")).unwrap_err().contains("HTTP alone"));
        for wrong in ["b.example", "http://", "https:///x", "ftp://b.example"] {
            assert!(endpoint(of(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_and_headers_are_checked() {
        assert_eq!(name(of("a.b-C_1")), Ok("a.b-C_1".into()));
        for wrong in ["", "a", "a b", "a:b", "\u{e9}\u{e9}"] {
            assert!(name(of(wrong)).is_err(), "{wrong}");
        }
        assert_eq!(header_names(of("Cookie, X-A")), Ok(vec!["cookie".into(), "x-a".into()]));
        assert!(header_names(Value::List(vec![of("a b")])).is_err());
        let read = headers(of(r#"{"Authorization": "k"}"#)).unwrap();
        assert_eq!(read["authorization"].expose(), "k");
        for wrong in [r#"{"a": 1}"#, "[]", r#"{"a b": ""}"#, r#"{"a": "\n"}"#, r#"{"a":"","A":""}"#]
        {
            assert!(headers(of(wrong)).is_err(), "{wrong}");
        }
        assert_eq!(claim(of("user_id")), Ok(Some("user_id".into())));
        assert!(claim(of("user.id")).is_err());
    }

    #[test]
    fn a_switched_off_section_asks_for_nothing() {
        let entry = |name: &str, value| (name.to_owned(), value);
        let off = vec![entry("enabled", Value::Bool(false)), entry("password", of("p"))];
        assert!(Value::Table(off).is_off());
        assert!(Value::Table(vec![entry("disabled", Value::Bool(true))]).is_off());
        assert!(!Value::Table(vec![entry("password", of("p"))]).is_off());
        assert!(Value::Table(vec![entry("type", of("memory"))]).is_off());
    }

    #[test]
    fn a_secret_is_not_shown_by_its_error() {
        let message = secret(Value::Integer(8_675_309)).unwrap_err();
        assert!(!message.contains("8675309"), "{message}");
        assert_eq!(secret(of("")), Ok(None));
    }
}

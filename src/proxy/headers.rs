//! Which of a client's headers the backend is shown, and which of two with one name wins.
//!
//! Headers of the connection's HTTP request (*transport* headers) and headers that a client sends
//! inside its connect command (*emulated* ones, because browsers cannot set others) have a list of
//! allowed names each; nothing else is forwarded. A transport header hides an emulated one of its
//! name, for something between client and server may have set it; both hide a static one.

use crate::limits::HTTP_HEAD_BYTES_MAX;

/// Names that say how the message itself is framed or encoded; to forward them would break it.
const REFUSED: &[&str] = &[
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What is always said of the body, whoever says otherwise.
const CONTENT_TYPE: &str = "content-type";

/// The names that may be forwarded, in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderRules {
    transport: Vec<Box<str>>,
    emulated: Vec<Box<str>>,
}

/// What is kept of a client's headers, names in lower case.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers {
    transport: Vec<(Box<str>, Box<[u8]>)>,
    emulated: Vec<(Box<str>, Box<[u8]>)>,
}

/// The number alone: a cookie is in no log.
impl std::fmt::Debug for Headers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Headers({} and {} emulated)", self.transport.len(), self.emulated.len())
    }
}

impl HeaderRules {
    /// From the options `http_headers` and `emulated_headers`; case is of no matter.
    ///
    /// # Errors
    /// The name that cannot be forwarded, and why.
    pub fn new<T: AsRef<str>>(transport: &[T], emulated: &[T]) -> Result<Self, String> {
        let lower = |names: &[T]| {
            let names = names.iter().map(|name| check_name(name.as_ref()));
            names.collect::<Result<Vec<_>, _>>()
        };
        Ok(Self { transport: lower(transport)?, emulated: lower(emulated)? })
    }

    /// What any of `all` allows: what a connection must keep when each proxy has rules of its own.
    pub fn union<'a>(all: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut union = Self::default();
        for rules in all {
            union.transport.extend(rules.transport.iter().cloned());
            union.emulated.extend(rules.emulated.iter().cloned());
        }
        for names in [&mut union.transport, &mut union.emulated] {
            names.sort();
            names.dedup();
        }
        union
    }

    /// Keeps what is allowed of the connection's request; headers may repeat.
    pub fn keep<'h>(&self, transport: impl IntoIterator<Item = (&'h str, &'h [u8])>) -> Headers {
        let mut kept = Headers::default();
        if self.transport.is_empty() {
            return kept;
        }
        for (name, value) in transport {
            let name = name.to_ascii_lowercase().into_boxed_str();
            if self.transport.contains(&name) {
                kept.transport.push((name, value.into()));
            }
        }
        kept
    }
}

impl Headers {
    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.transport.is_empty() && self.emulated.is_empty()
    }

    /// Keeps what `rules` allow of emulated headers. Of several that differ in case alone the first
    /// counts.
    ///
    /// # Errors
    /// What is wrong with them, in words for the client: a value that no header can have, or more
    /// than [`HTTP_HEAD_BYTES_MAX`] in all.
    pub fn emulate<'h>(
        &mut self,
        rules: &HeaderRules,
        emulated: impl IntoIterator<Item = (&'h str, &'h str)>,
    ) -> Result<(), &'static str> {
        let mut bytes = 0;
        for (name, value) in emulated {
            let name = name.to_ascii_lowercase().into_boxed_str();
            if !rules.emulated.contains(&name) || self.emulated.iter().any(|(has, _)| *has == name)
            {
                continue;
            }
            if value.bytes().any(|byte| byte != b'\t' && byte.is_ascii_control()) {
                return Err("a header's value holds a control character");
            }
            bytes += name.len() + value.len();
            if bytes > HTTP_HEAD_BYTES_MAX {
                return Err("the headers are too long");
            }
            self.emulated.push((name, value.as_bytes().into()));
        }
        Ok(())
    }

    /// What `rules` let through: no name stands there as a transport and as an emulated header.
    pub fn forwarded<'a>(
        &'a self,
        rules: &'a HeaderRules,
    ) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        let transport = || self.transport.iter().filter(|(name, _)| rules.transport.contains(name));
        let emulated = self.emulated.iter().filter(move |(name, _)| {
            rules.emulated.contains(name) && !transport().any(|(hides, _)| hides == name)
        });
        let all = transport().chain(emulated);
        all.filter(|(name, _)| &**name != CONTENT_TYPE).map(|(name, value)| (&**name, &**value))
    }
}

/// A name in lower case, if a header of that name may be set on a call.
///
/// # Errors
/// Why not.
pub fn check_name(name: &str) -> Result<Box<str>, String> {
    let lower = name.to_ascii_lowercase();
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if lower.is_empty() || !lower.bytes().all(is_token) {
        return Err(format!("{name:?} is no name of a header"));
    }
    if REFUSED.contains(&lower.as_str()) {
        return Err(format!("{name} belongs to the connection and cannot be set on another"));
    }
    Ok(lower.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(transport: &[&str], emulated: &[&str]) -> HeaderRules {
        HeaderRules::new(transport, emulated).unwrap()
    }

    fn keep(
        rules: &HeaderRules,
        transport: &[(&str, &[u8])],
        emulated: &[(&str, &str)],
    ) -> Result<Headers, &'static str> {
        let mut kept = rules.keep(transport.iter().copied());
        kept.emulate(rules, emulated.iter().copied()).map(|()| kept)
    }

    fn shown(headers: &Headers, rules: &HeaderRules) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        headers.forwarded(rules).map(|(name, value)| (name.to_owned(), text(value))).collect()
    }

    #[test]
    fn only_what_is_allowed_is_forwarded() {
        let both = rules(&["Cookie", "X-Real-Ip"], &["authorization"]);
        let transport: &[(&str, &[u8])] =
            &[("COOKIE", b"a=1"), ("Authorization", b"no"), ("cookie", b"b=2"), ("Accept", b"*/*")];
        let emulated = [("Authorization", "yes"), ("X-Real-Ip", "forged")];
        let kept = keep(&both, transport, &emulated).unwrap();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let cookies = [pair("cookie", "a=1"), pair("cookie", "b=2")];
        let all = [cookies.as_slice(), &[pair("authorization", "yes")]].concat();
        assert_eq!(shown(&kept, &both), all);
        assert_eq!(shown(&kept, &rules(&["cookie"], &[])), cookies, "each proxy has its own rules");
        assert_eq!(shown(&kept, &HeaderRules::default()), []);
        assert_eq!(format!("{kept:?}"), "Headers(2 and 1 emulated)");
    }

    #[test]
    fn a_transport_header_hides_an_emulated_one() {
        let both = rules(&["authorization"], &["authorization"]);
        let real: &[(&str, &[u8])] = &[("authorization", b"real")];
        let said = [("Authorization", "said"), ("AUTHORIZATION", "again")];
        let values = |kept: Headers, rules: &HeaderRules| {
            shown(&kept, rules).into_iter().map(|(_, value)| value).collect::<Vec<_>>()
        };
        assert_eq!(values(keep(&both, real, &said).unwrap(), &both), ["real"]);
        assert_eq!(values(keep(&both, &[], &said).unwrap(), &both), ["said"]);
        let emulated = rules(&[], &["authorization"]);
        let kept = keep(&both, real, &said).unwrap();
        assert_eq!(values(kept, &emulated), ["said"], "hidden only by what is forwarded");
    }

    #[test]
    fn the_type_of_the_body_is_not_the_clients_to_say() {
        let rules = rules(&["content-type"], &[]);
        let real: &[(&str, &[u8])] = &[("content-type", b"text/html")];
        assert_eq!(shown(&rules.keep(real.iter().copied()), &rules), []);
    }

    #[test]
    fn emulated_headers_cannot_split_a_request_and_are_bounded() {
        let rules = rules(&[], &["a", "b"]);
        assert!(keep(&rules, &[], &[("a", "x\r\nb: y")]).is_err());
        assert!(keep(&rules, &[], &[("other", "x\r\n")]).is_ok(), "what is not kept does no harm");
        let fits = "x".repeat(HTTP_HEAD_BYTES_MAX - 2);
        assert!(keep(&rules, &[], &[("a", fits.as_str()), ("b", "")]).is_ok());
        assert!(keep(&rules, &[], &[("a", fits.as_str()), ("b", "y")]).is_err());
    }

    #[test]
    fn names_that_would_break_the_call_are_refused() {
        for name in ["", "a b", "a:", "é", "Content-Length", "HOST", "transfer-encoding"] {
            assert!(HeaderRules::new(&[name], &[]).is_err(), "{name}");
            assert!(HeaderRules::new(&[], &[name]).is_err(), "{name}");
        }
    }

    #[test]
    fn a_connection_keeps_what_any_proxy_shows() {
        let union = HeaderRules::union([&rules(&["b", "a"], &["c"]), &rules(&["a"], &["d"])]);
        assert_eq!(union, rules(&["a", "b"], &["c", "d"]));
    }
}

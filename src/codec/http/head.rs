//! The head of a request: where it ends, whether it is sound, how its body is framed.

use super::{Limits, Rejection, Request};
use crate::limits::HTTP_HEADERS_MAX;

/// How the end of the body is known (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug)]
pub(super) enum Framing {
    /// By its length in bytes; zero without a Content-Length.
    Length(usize),
    /// By the chunked coding.
    Chunked,
}

/// Finds the empty line that ends a head. Sees every byte once.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HeadScan {
    seen_bytes: usize,
    /// Bytes of the line that the last input ended in.
    line_bytes: usize,
    /// Whether the last of them is a carriage return.
    after_cr: bool,
    /// Whether a line with something on it came; empty ones in front of it do not count.
    has_request_line: bool,
}

impl HeadScan {
    /// Goes on with `input`, which follows what was seen before; how many of its bytes belong to
    /// the head, if the head ends in it.
    pub(super) fn find_end(
        &mut self,
        input: &[u8],
        head_bytes_max: usize,
    ) -> Result<Option<usize>, Rejection> {
        // Another protocol, TLS for one, is better refused than waited for.
        if self.seen_bytes == 0
            && input.first().is_some_and(|&byte| !byte.is_ascii_graphic() && byte != b'\r')
        {
            return Err(Rejection::new(400, "not an HTTP request"));
        }
        let window = &input[..input.len().min(head_bytes_max.saturating_sub(self.seen_bytes))];
        let mut at = 0;
        while let Some(before) = window[at..].iter().position(|&byte| byte == b'\n') {
            let line = &window[at..at + before];
            if !line.last().map_or(self.after_cr, |&byte| byte == b'\r') {
                return Err(Rejection::new(400, "line that does not end in CRLF"));
            }
            let is_empty = self.line_bytes + line.len() == 1;
            (self.line_bytes, self.after_cr) = (0, false);
            at += before + 1;
            if is_empty && self.has_request_line {
                return Ok(Some(at));
            }
            self.has_request_line |= !is_empty;
        }
        let rest = &window[at..];
        self.line_bytes += rest.len();
        self.after_cr = rest.last().map_or(self.after_cr, |&byte| byte == b'\r');
        self.seen_bytes += window.len();
        if self.seen_bytes < head_bytes_max {
            return Ok(None);
        }
        Err(if self.has_request_line {
            Rejection::new(431, "request header fields too large")
        } else {
            Rejection::new(414, "request target too long")
        })
    }
}

/// What the head says, and where in it the parts of the request line lie.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    head_bytes: usize,
    /// Empty lines in front of the request line.
    blank_bytes: usize,
    method_bytes: usize,
    target_bytes: usize,
    version: u8,
    keep_alive: bool,
    /// Whether the peer waits for `100 Continue`; never without a body.
    pub(super) expects_continue: bool,
    pub(super) framing: Framing,
}

/// The fields that decide about framing and connection.
#[derive(Default)]
struct Fields<'a> {
    content_length: Option<&'a [u8]>,
    transfer_encoding: Option<&'a [u8]>,
    host: Option<&'a [u8]>,
    expect: Option<&'a [u8]>,
    close: bool,
    keep_alive: bool,
}

impl Head {
    /// Parses a whole head, the empty line included.
    pub(super) fn parse(bytes: &[u8], limits: &Limits) -> Result<Self, Rejection> {
        let mut headers = [httparse::EMPTY_HEADER; HTTP_HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        let malformed = Rejection::new(400, "malformed request line");
        match request.parse(bytes) {
            Ok(httparse::Status::Complete(head_bytes)) if head_bytes == bytes.len() => {}
            Ok(_) => return Err(malformed),
            Err(error) => return Err(rejection(error, bytes)),
        }
        let (Some(method), Some(target), Some(version)) =
            (request.method, request.path, request.version)
        else {
            return Err(malformed);
        };
        check_target(method, target)?;
        let fields = Fields::collect(request.headers)?;
        match fields.host {
            Some(host) if !is_host(host) => {
                return Err(Rejection::new(400, "malformed Host header"));
            }
            None if version == 1 => return Err(Rejection::new(400, "missing Host header")),
            _ => {}
        }
        let framing = fields.framing(version, limits)?;
        let has_body = !matches!(framing, Framing::Length(0));
        let expects_continue = match fields.expect {
            Some(value) if version == 1 => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Rejection::new(417, "unknown expectation"));
                }
                has_body
            }
            _ => false,
        };
        let blank_bytes =
            bytes.iter().position(|&byte| byte != b'\r' && byte != b'\n').unwrap_or_default();
        Ok(Self {
            head_bytes: bytes.len(),
            blank_bytes,
            method_bytes: method.len(),
            target_bytes: target.len(),
            version,
            keep_alive: !fields.close && (version == 1 || fields.keep_alive),
            expects_continue,
            framing,
        })
    }

    /// The request made of `bytes`: the head that this was parsed from, and the body.
    pub(super) fn request<'a>(&self, bytes: &'a [u8]) -> Request<'a> {
        let (head, body) = bytes.split_at(self.head_bytes);
        let (method, rest) = head[self.blank_bytes..].split_at(self.method_bytes);
        let (target, rest) = rest[1..].split_at(self.target_bytes);
        let (authority, path, query) = split_target(ascii(target));
        Request {
            method: ascii(method),
            path,
            query,
            version: self.version,
            keep_alive: self.keep_alive,
            body,
            authority,
            fields: &rest[" HTTP/1.1\r\n".len()..],
        }
    }
}

impl<'a> Fields<'a> {
    fn collect(headers: &[httparse::Header<'a>]) -> Result<Self, Rejection> {
        let mut fields = Self::default();
        for header in headers {
            let name = header.name;
            if name.eq_ignore_ascii_case("content-length") {
                // Equal repetitions may be merged; nobody honest sends them.
                set_once(&mut fields.content_length, header.value, "repeated Content-Length")?;
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                let message = "repeated Transfer-Encoding";
                set_once(&mut fields.transfer_encoding, header.value, message)?;
            } else if name.eq_ignore_ascii_case("host") {
                set_once(&mut fields.host, header.value, "repeated Host header")?;
            } else if name.eq_ignore_ascii_case("expect") {
                set_once(&mut fields.expect, header.value, "repeated Expect header")?;
            } else if name.eq_ignore_ascii_case("connection") {
                fields.close |= has_token(header.value, "close");
                fields.keep_alive |= has_token(header.value, "keep-alive");
            }
        }
        Ok(fields)
    }

    fn framing(&self, version: u8, limits: &Limits) -> Result<Framing, Rejection> {
        match (self.transfer_encoding, self.content_length) {
            (Some(_), Some(_)) => {
                Err(Rejection::new(400, "Content-Length together with Transfer-Encoding"))
            }
            (Some(_), None) if version == 0 => {
                Err(Rejection::new(400, "Transfer-Encoding in HTTP/1.0"))
            }
            (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
            (Some(_), None) => Err(Rejection::new(501, "transfer coding other than chunked")),
            (None, None) => Ok(Framing::Length(0)),
            (None, Some(length)) => {
                if length.is_empty() || !length.iter().all(u8::is_ascii_digit) {
                    return Err(Rejection::new(400, "malformed Content-Length"));
                }
                // A number that overflows is too large as well.
                let length = str::from_utf8(length).ok().and_then(|digits| digits.parse().ok());
                match length {
                    Some(length) if length <= limits.body_bytes_max => Ok(Framing::Length(length)),
                    _ => Err(Rejection::new(413, "request body too large")),
                }
            }
        }
    }
}

fn set_once<'a>(
    field: &mut Option<&'a [u8]>,
    value: &'a [u8],
    message: &'static str,
) -> Result<(), Rejection> {
    if field.replace(value).is_some() {
        return Err(Rejection::new(400, message));
    }
    Ok(())
}

fn rejection(error: httparse::Error, bytes: &[u8]) -> Rejection {
    match error {
        httparse::Error::TooManyHeaders => Rejection::new(431, "too many header fields"),
        httparse::Error::Version if names_http_version(bytes) => {
            Rejection::new(505, "HTTP version other than 1.0 and 1.1")
        }
        httparse::Error::HeaderName | httparse::Error::HeaderValue => {
            Rejection::new(400, "malformed header field")
        }
        _ => Rejection::new(400, "malformed request line"),
    }
}

/// Whether the request line ends in a well-formed version, whichever.
fn names_http_version(bytes: &[u8]) -> bool {
    let line = bytes.trim_ascii_start().split(|&byte| byte == b'\r').next().unwrap_or_default();
    let version = line.rsplit(|&byte| byte == b' ').next().unwrap_or_default();
    matches!(version.strip_prefix(b"HTTP/"), Some([major, b'.', minor])
        if major.is_ascii_digit() && minor.is_ascii_digit())
}

/// RFC 9112 section 3.2: a path, an absolute URI, or `*` for OPTIONS.
fn check_target(method: &str, target: &str) -> Result<(), Rejection> {
    if method == "CONNECT" {
        return Err(Rejection::new(501, "this server is no proxy"));
    }
    let (authority, path, _) = split_target(target);
    let is_path = path.starts_with('/') || (target == "*" && method == "OPTIONS");
    let names_host = authority.is_none_or(|host| !host.is_empty() && is_host(host.as_bytes()));
    if !is_path || !names_host || !target.is_ascii() || target.contains('#') {
        return Err(Rejection::new(400, "malformed request target"));
    }
    Ok(())
}

/// Authority, path and query of a target.
fn split_target(target: &str) -> (Option<&str>, &str, Option<&str>) {
    let absolute = target.split_once("://").filter(|(scheme, _)| {
        ["http", "https", "ws", "wss"].iter().any(|known| known.eq_ignore_ascii_case(scheme))
    });
    let (authority, rest) = match absolute {
        Some((_, rest)) => {
            let (authority, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
            (Some(authority), rest)
        }
        None => (None, target),
    };
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (rest, None),
    };
    let path = if path.is_empty() && authority.is_some() { "/" } else { path };
    (authority, path, query)
}

/// Whether the bytes can be a host with a port (RFC 3986 sections 3.2.2 and 3.2.3), or nothing.
fn is_host(value: &[u8]) -> bool {
    value.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(byte))
}

/// Whether a comma-separated list names `token`, any case.
pub(super) fn has_token(list: &[u8], token: &str) -> bool {
    list.split(|&byte| byte == b',')
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// Whether the bytes are a token (RFC 9110 section 5.6.2).
pub(in crate::codec) fn is_token(bytes: &[u8]) -> bool {
    let is_tchar = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !bytes.is_empty() && bytes.iter().all(is_tchar)
}

/// Whether the bytes hold no control character but tabs.
pub(super) fn is_text(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == b'\t' || !byte.is_ascii_control())
}

/// Whether a line, with its CRLF, is a header field.
pub(super) fn is_field_line(line: &[u8]) -> bool {
    let line = line.strip_suffix(b"\r\n").unwrap_or(line);
    let colon = line.iter().position(|&byte| byte == b':');
    colon.is_some_and(|colon| is_token(&line[..colon]) && is_text(&line[colon..]))
}

/// Text that was checked when the head was parsed: httparse for the method, `check_target`.
fn ascii(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).expect("a parsed head has an ASCII request line")
}

//! Requests of HTTP/1.1 (RFC 9112), read strictly, and the responses to them.

mod body;
pub(super) mod head;
mod parameter;
pub(super) mod response;

pub use parameter::{decode, parameter};
pub use response::{reason_phrase, write_continue, write_rejection, write_response};

use super::take_front;
use body::Body;
use head::{Framing, Head, HeadScan};
use std::mem;

/// What one request may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the request line and the header block; apart from that, of the chunk extensions and
    /// trailer fields of a chunked body.
    pub head_bytes_max: usize,
    /// Bytes of the decoded body.
    pub body_bytes_max: usize,
}

/// Why a request is refused. The connection closes after it: what follows cannot be told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The status code of the response.
    pub status: u16,
    /// What was wrong, in the terms of the sender.
    pub message: &'static str,
}

impl Rejection {
    /// A refusal with `status`, 400 to 599.
    pub const fn new(status: u16, message: &'static str) -> Self {
        Self { status, message }
    }
}

/// What a feed of the reader found.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// The peer waits for `100 Continue` before it sends the body; see [`write_continue`].
    Continue,
    /// A request, complete with its body.
    Request(Request<'a>),
}

/// A complete request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The method, in the sender's case.
    pub method: &'a str,
    /// The path of the target, percent-encoded as it came: begins with `/`, or is `*`.
    pub path: &'a str,
    /// What follows the first `?` of the target.
    pub query: Option<&'a str>,
    /// The minor version: 1 of HTTP/1.1, 0 of HTTP/1.0.
    pub version: u8,
    /// Whether the peer wants to send another request on this connection.
    pub keep_alive: bool,
    /// The body, chunks joined.
    pub body: &'a [u8],
    /// The authority of a target in absolute form.
    authority: Option<&'a str>,
    /// The lines of the header block, each with its CRLF; httparse has checked them.
    fields: &'a [u8],
}

impl<'a> Request<'a> {
    /// The value of the first header field of this name, any case, without surrounding blanks.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers_named(name).next()
    }

    /// The values of all header fields of this name, any case, in their order.
    pub fn headers_named(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.fields.split(|&byte| byte == b'\n').filter_map(move |line| {
            let (field, value) = line.split_at_checked(name.len())?;
            let value = value.strip_prefix(b":")?;
            field.eq_ignore_ascii_case(name.as_bytes()).then(|| value.trim_ascii())
        })
    }

    /// All header fields in their order: names as they came, values without surrounding blanks.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        self.fields.split(|&byte| byte == b'\n').filter_map(|line| {
            let colon = line.iter().position(|&byte| byte == b':')?;
            let name = str::from_utf8(&line[..colon]).ok()?;
            Some((name, line[colon + 1..].trim_ascii()))
        })
    }

    /// Whether a header of comma-separated tokens names `token`, any case, in any of its lines.
    pub fn header_has_token(&self, name: &str, token: &str) -> bool {
        self.headers_named(name).any(|value| head::has_token(value, token))
    }

    /// The host the request is for: of a target in absolute form, else of the Host header
    /// (RFC 9112 section 3.2.2).
    pub fn host(&self) -> Option<&'a str> {
        self.authority.or_else(|| str::from_utf8(self.header("host")?).ok())
    }
}

/// The reading side of one connection, up to a request that upgrades it.
///
/// An idle reader is one pointer. A request that is incomplete is collected in a box, which grows
/// with what arrives, never with what is announced, and which the next feed frees.
#[derive(Debug, Default)]
pub struct Reader {
    partial: Option<Box<Partial>>,
}

/// A request that is incomplete, or that the last feed delivered.
#[derive(Debug)]
struct Partial {
    /// The head, then what there is of the decoded body.
    bytes: Vec<u8>,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Head(HeadScan),
    Body(Head, Body),
    Done(Head),
}

/// What one pass over the input ended with.
enum Step {
    Starved,
    Continue,
    Complete,
}

impl Reader {
    /// A reader at the start of a connection.
    pub const fn new() -> Self {
        Self { partial: None }
    }

    /// Takes bytes from the front of `input` and returns the next event, or `None` when the input
    /// is used up. To be called until it returns `None`, also to free the last request.
    ///
    /// Never takes a byte behind the request it returns: pipelined requests, or frames behind an
    /// upgrade, stay in `input`. A whole request in one input, unless chunked, borrows it. Any
    /// other is collected, at a cost linear in its bytes however they are cut, and lives until the
    /// next call.
    ///
    /// # Errors
    /// 400 for what RFC 9112 forbids or leaves ambiguous, 413 for a body above the limit before any
    /// of it is kept, 414 and 431 for a request line or head above the limit, 417, 501 and 505 for
    /// expectations, transfer codings and versions that are not served. Requests in front of the
    /// offending one are delivered first. The stream cannot be read any further.
    pub fn feed<'a, 'i: 'a>(
        &'a mut self,
        input: &mut &'i mut [u8],
        limits: &Limits,
    ) -> Result<Option<Event<'a>>, Rejection> {
        if matches!(self.partial.as_deref(), Some(Partial { phase: Phase::Done(_), .. })) {
            self.partial = None;
        }
        if self.partial.is_none() {
            // Old clients end a body with a CRLF of its own (RFC 9112 section 2.2).
            while input.starts_with(b"\r\n") {
                take_front(input, 2);
            }
            let mut scan = HeadScan::default();
            if let Some(head_bytes) = scan.find_end(input, limits.head_bytes_max)? {
                let head = Head::parse(&input[..head_bytes], limits)?;
                if let Framing::Length(body_bytes) = head.framing
                    && body_bytes <= input.len() - head_bytes
                {
                    let request = take_front(input, head_bytes + body_bytes);
                    return Ok(Some(Event::Request(head.request(request))));
                }
                let bytes = take_front(input, head_bytes).to_vec();
                let phase = Phase::Body(head, Body::new(head.framing));
                self.partial = Some(Box::new(Partial { bytes, phase }));
            } else if input.is_empty() {
                return Ok(None);
            } else {
                let bytes = mem::take(input).to_vec();
                self.partial = Some(Box::new(Partial { bytes, phase: Phase::Head(scan) }));
            }
        }
        let Some(partial) = self.partial.as_deref_mut() else { return Ok(None) };
        match partial.step(input, limits) {
            Ok(Step::Starved) => Ok(None),
            Ok(Step::Continue) => Ok(Some(Event::Continue)),
            Ok(Step::Complete) => {
                Ok(self.partial.as_deref().and_then(Partial::request).map(Event::Request))
            }
            Err(rejection) => {
                self.partial = None;
                Err(rejection)
            }
        }
    }

    /// Bytes of memory that the peer pins by a request that is incomplete, capacity included.
    pub fn buffered_bytes(&self) -> usize {
        self.partial.as_deref().map_or(0, |partial| {
            let line_bytes = match &partial.phase {
                Phase::Body(_, body) => body.buffered_bytes(),
                Phase::Head(_) | Phase::Done(_) => 0,
            };
            size_of::<Partial>() + partial.bytes.capacity() + line_bytes
        })
    }
}

impl Partial {
    fn step(&mut self, input: &mut &mut [u8], limits: &Limits) -> Result<Step, Rejection> {
        if let Phase::Head(scan) = &mut self.phase {
            let end = scan.find_end(input, limits.head_bytes_max)?;
            let taken = take_front(input, end.unwrap_or(input.len()));
            self.bytes.extend_from_slice(taken);
            if end.is_none() {
                return Ok(Step::Starved);
            }
            let head = Head::parse(&self.bytes, limits)?;
            self.phase = Phase::Body(head, Body::new(head.framing));
        }
        let Phase::Body(head, body) = &mut self.phase else { return Ok(Step::Starved) };
        // Whoever has begun the body does not wait (RFC 9110 section 10.1.1).
        if mem::take(&mut head.expects_continue) && input.is_empty() {
            return Ok(Step::Continue);
        }
        if !body.take(&mut self.bytes, input, limits)? {
            return Ok(Step::Starved);
        }
        self.phase = Phase::Done(*head);
        Ok(Step::Complete)
    }

    fn request(&self) -> Option<Request<'_>> {
        match &self.phase {
            Phase::Done(head) => Some(head.request(&self.bytes)),
            Phase::Head(_) | Phase::Body(..) => None,
        }
    }
}

//! Server-sent events from bytes that arrive in any pieces, with a bound on their size.
//!
//! PURE. Lines end in LF, CRLF or CR. Only the fields `event` and `data` mean something: `id`, `retry`
//! and unknown ones are ignored, and so are lines that are not UTF-8. Several `data` lines are joined
//! by line feeds; an event without any is dropped.

use std::error::Error;
use std::{fmt, mem};

/// Bytes of one event (its name, its data and the line that is being read) unless told otherwise. A wake
/// carries a URL and a token, which are some kilobytes.
pub const EVENT_BYTES_MAX: usize = 64 << 10;

/// A dispatched event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The last `event` field; empty without one.
    pub name: String,
    /// The `data` fields.
    pub data: String,
}

/// What shows that the server lives. A lone `id` or `retry` line does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A line that begins with a colon.
    Comment,
    /// An event with data.
    Event(Event),
}

/// The server sent a line or an event above the bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge {
    /// The bound.
    pub event_bytes_max: usize,
}

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server sent an event of more than {} bytes", self.event_bytes_max)
    }
}

impl Error for TooLarge {}

/// The parser of one stream.
#[derive(Debug)]
pub struct Parser {
    event_bytes_max: usize,
    line: Vec<u8>,
    /// Whether the last line ended in CR, so that a line feed next belongs to that end.
    after_cr: bool,
    name: String,
    /// `None` before the first `data` line, which may be empty.
    data: Option<String>,
}

impl Parser {
    /// A parser at the beginning of a stream.
    pub fn new(event_bytes_max: usize) -> Self {
        Self { event_bytes_max, line: Vec::new(), after_cr: false, name: String::new(), data: None }
    }

    /// Reads on to the next sign of life. `None`: the input is used up.
    ///
    /// # Errors
    ///
    /// An event above the bound ends the stream: the parser is of no use after it.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Item>, TooLarge> {
        loop {
            if self.after_cr && !input.is_empty() {
                self.after_cr = false;
                *input = input.strip_prefix(b"\n").unwrap_or(input);
            }
            let end = input.iter().position(|&byte| matches!(byte, b'\n' | b'\r'));
            let taken = &input[..end.unwrap_or(input.len())];
            let held = self.name.len() + self.data.as_ref().map_or(0, String::len);
            if held + self.line.len() + taken.len() > self.event_bytes_max {
                return Err(TooLarge { event_bytes_max: self.event_bytes_max });
            }
            self.line.extend_from_slice(taken);
            let Some(end) = end else {
                *input = &[];
                return Ok(None);
            };
            self.after_cr = input[end] == b'\r';
            *input = &input[end + 1..];
            if let Some(item) = self.end_line() {
                return Ok(Some(item));
            }
        }
    }

    /// The stream ended in order: what was begun counts if its last line was terminated.
    pub fn end(mut self) -> Option<Event> {
        if self.line.is_empty() { self.dispatch() } else { None }
    }

    fn end_line(&mut self) -> Option<Item> {
        let line = mem::take(&mut self.line);
        if line.is_empty() {
            return self.dispatch().map(Item::Event);
        }
        let line = str::from_utf8(&line).ok()?;
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => return Some(Item::Comment),
            "event" => value.clone_into(&mut self.name),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            _ => {}
        }
        None
    }

    fn dispatch(&mut self) -> Option<Event> {
        let name = mem::take(&mut self.name);
        self.data.take().map(|data| Event { name, data })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All that `pieces` say, the end of the stream included.
    fn parse(pieces: &[&[u8]], event_bytes_max: usize) -> (Vec<Item>, Option<TooLarge>) {
        let mut parser = Parser::new(event_bytes_max);
        let mut items = Vec::new();
        for mut input in pieces.iter().copied() {
            loop {
                match parser.next(&mut input) {
                    Ok(Some(item)) => items.push(item),
                    Ok(None) => break,
                    Err(error) => return (items, Some(error)),
                }
            }
        }
        items.extend(parser.end().map(Item::Event));
        (items, None)
    }

    fn items(text: &[u8]) -> Vec<Item> {
        parse(&[text], EVENT_BYTES_MAX).0
    }

    fn event(name: &str, data: &str) -> Item {
        Item::Event(Event { name: name.into(), data: data.into() })
    }

    #[test]
    fn events_end_in_any_line_end() {
        for text in ["event: a\ndata: b\n\n", "event:a\r\ndata:b\r\n\r\n", "event: a\rdata: b\r\r"]
        {
            assert_eq!(items(text.as_bytes()), [event("a", "b")], "{text:?}");
        }
    }

    #[test]
    fn data_lines_are_joined_and_one_blank_is_taken_off() {
        assert_eq!(items(b"data: a\ndata:  b\ndata\ndata:c\n\n"), [event("", "a\n b\n\nc")]);
    }

    #[test]
    fn an_event_without_data_is_dropped_with_its_name() {
        assert_eq!(items(b"event: a\n\ndata: b\n\n"), [event("", "b")]);
        assert_eq!(items(b"data:\n\n"), [event("", "")], "empty data is data");
    }

    #[test]
    fn the_last_name_counts_and_other_fields_do_not() {
        assert_eq!(
            items(b"event: a\nevent: b\nid: 1\nretry: 5\nnew: x\ndata: c\n\n"),
            [event("b", "c")]
        );
        assert_eq!(items(b"id: 1\n\nretry: 1\n\n"), []);
    }

    #[test]
    fn comments_are_life() {
        assert_eq!(items(b":\n: keep-alive\n\n"), [Item::Comment, Item::Comment]);
        assert_eq!(
            items(b"data: a\n:\ndata: b\n\n"),
            [Item::Comment, event("", "a\nb")],
            "a comment inside an event"
        );
    }

    #[test]
    fn lines_that_are_not_utf_8_are_dropped() {
        assert_eq!(items(b"data: a\ndata: \xff\n:\xff\n\n"), [event("", "a")]);
    }

    #[test]
    fn at_the_end_an_event_counts_if_its_last_line_is_terminated() {
        assert_eq!(items(b"data: a\n"), [event("", "a")]);
        assert_eq!(items(b"data: a\r"), [event("", "a")]);
        assert_eq!(items(b"data: a"), []);
        assert_eq!(items(b"data: a\ndata: b"), []);
        assert_eq!(items(b"event: a\n"), []);
    }

    #[test]
    fn the_bound_counts_what_is_held_and_the_line_being_read() {
        let too_large = |text: &[u8]| parse(&[text], 10).1.is_some();
        assert!(!too_large(b"data:12345\n\n"));
        assert!(too_large(b"data:123456"));
        assert!(too_large(b"data:12\ndata:1234"), "2 held, 9 of the line");
        assert!(!too_large(b"data:12\ndata:123\n\ndata:12345"));
        assert!(too_large(b"event:abc\ndata:123"), "3 held, 8 of the line");
        assert!(too_large(b":1234567890"));
        assert!(!too_large(b":\n:\n:\n:\n:\n:\n:\n"));
    }

    proptest! {
        #[test]
        fn how_the_bytes_are_split_changes_nothing(
            parts in prop::collection::vec(
                prop::sample::select(vec![
                    &b"data: x"[..], b"event: wake", b"id: 1", b": c", b"\n", b"\r", b"\r\n",
                    b"\n\n", b"d", b"a:", b" ", b"\xe2\x82", b"\xac", b"\xff",
                ]),
                0..40,
            ),
            cuts in prop::collection::vec(0_usize..200, 0..20),
            event_bytes_max in 5_usize..60,
        ) {
            let text = parts.concat();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> =
                cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            prop_assert_eq!(parse(&pieces, event_bytes_max), parse(&[&text], event_bytes_max));
        }
    }
}

//! What each transport puts around encoded messages on the wire.
//!
//! Messages are those of the bidirectional Centrifuge protocol, of one line each; transports that
//! are unidirectional carry the pushes among them bare, without what makes a push a reply
//! (centrifugal.dev `docs/transports/uni_client_protocol.md`).

use super::{
    chunked::{CHUNK_HEADER_BYTES_MAX, close_chunk, write_chunk},
    sse,
    websocket::{Opcode, SERVER_HEADER_BYTES_MAX, put_header, write_frame},
};

/// How the messages of a connection travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Transport {
    /// WebSocket. What is sent together is one text message, a line each.
    Websocket,
    /// WebSocket that the client is silent on: bare pushes, a text message each.
    UniWebsocket,
    /// Server-sent events in a response, what the client says in requests of their own.
    Sse,
    /// Server-sent events of bare pushes.
    UniSse,
    /// Lines in a response, what the client says in requests of their own.
    HttpStream,
    /// Lines of bare pushes.
    UniHttpStream,
    /// The payloads of one channel as server-sent events; everything else is a sign of life.
    Events,
    /// An embedder's WebSocket: the payloads of publications, a message each.
    Plain,
}

/// Room for the header of what is sent together.
const HEADER_BYTES: usize = SERVER_HEADER_BYTES_MAX;
const _: () = assert!(HEADER_BYTES >= CHUNK_HEADER_BYTES_MAX);

const PUSH: &[u8] = b"{\"push\":";

impl Transport {
    /// What operators and backends call it, as in Centrifugo where that has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Websocket => "websocket",
            Self::UniWebsocket => "uni_websocket",
            Self::Sse => "sse",
            Self::UniSse => "uni_sse",
            Self::HttpStream => "http_stream",
            Self::UniHttpStream => "uni_http_stream",
            Self::Events => "events",
            Self::Plain => "plain_websocket",
        }
    }

    /// Whether the client says nothing but who it is.
    pub const fn is_unidirectional(self) -> bool {
        matches!(self, Self::UniWebsocket | Self::UniSse | Self::UniHttpStream | Self::Events)
    }

    /// Whether what the client says comes in requests of their own.
    pub const fn is_emulated(self) -> bool {
        matches!(self, Self::Sse | Self::HttpStream)
    }

    /// Whether it is an HTTP response that does not end by itself.
    pub const fn is_stream(self) -> bool {
        !matches!(self, Self::Websocket | Self::UniWebsocket | Self::Plain)
    }

    /// Whether the response is an event stream.
    pub const fn is_event_stream(self) -> bool {
        matches!(self, Self::Sse | Self::UniSse | Self::Events)
    }

    /// Whether a WebSocket frame that holds one message is what it carries.
    pub const fn carries_frames(self) -> bool {
        matches!(self, Self::Websocket | Self::Plain)
    }

    /// Appends one message of a session.
    pub fn write(self, out: &mut Vec<u8>, message: &[u8]) {
        let message = self.carried(message);
        match self {
            Self::Websocket | Self::UniWebsocket | Self::Plain => {
                write_frame(out, Opcode::Text, message);
            }
            Self::Events => out.extend_from_slice(sse::COMMENT),
            Self::Sse | Self::UniSse => {
                let bytes = sse::data_bytes(message);
                write_chunk(out, bytes, |out| sse::put_data(out, message));
            }
            Self::HttpStream | Self::UniHttpStream => {
                write_chunk(out, message.len() + 1, |out| put_line(out, message));
            }
        }
    }

    /// Begins what is sent together, of about `capacity` bytes: leaves room for its header.
    pub fn begin(self, capacity: usize) -> Vec<u8> {
        let mut run = Vec::with_capacity(capacity + HEADER_BYTES + 2);
        if !matches!(self, Self::UniWebsocket | Self::Plain) {
            run.resize(HEADER_BYTES, 0);
        }
        run
    }

    /// Adds a message to a run that [`begin`](Self::begin) began. Payloads are added by
    /// [`put_event`](Self::put_event) to events, and as whole frames to plain WebSockets.
    pub fn put(self, run: &mut Vec<u8>, message: &[u8]) {
        let message = self.carried(message);
        match self {
            Self::Websocket => {
                if run.len() > HEADER_BYTES {
                    run.push(b'\n');
                }
                run.extend_from_slice(message);
            }
            Self::UniWebsocket => write_frame(run, Opcode::Text, message),
            Self::Sse | Self::UniSse => sse::put_data(run, message),
            Self::HttpStream | Self::UniHttpStream => put_line(run, message),
            Self::Events | Self::Plain => unreachable!("payloads are no messages"),
        }
    }

    /// Adds a payload to a run of events, with its position in the stream, if it has one:
    /// `id: epoch:offset`.
    pub fn put_event(run: &mut Vec<u8>, position: Option<(&str, u64)>, payload: &[u8]) {
        if let Some((epoch, offset)) = position {
            run.extend_from_slice(format!("id: {epoch}:{offset}\n").as_bytes());
        }
        sse::put_data(run, payload);
    }

    /// Ends a run; returns the index at which it starts.
    pub fn finish(self, run: &mut Vec<u8>) -> usize {
        match self {
            Self::Websocket => put_header(run, HEADER_BYTES, Opcode::Text),
            Self::UniWebsocket | Self::Plain => 0,
            _ => close_chunk(run, HEADER_BYTES),
        }
    }

    /// The part of a message that travels.
    fn carried(self, message: &[u8]) -> &[u8] {
        if !self.is_unidirectional() {
            return message;
        }
        let push = message.strip_prefix(PUSH).and_then(|rest| rest.strip_suffix(b"}"));
        push.unwrap_or(message)
    }
}

fn put_line(out: &mut Vec<u8>, message: &[u8]) {
    out.extend_from_slice(message);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: &[u8] = br#"{"push":{"channel":"c","pub":{"data":{}}}}"#;
    const BARE: &str = r#"{"channel":"c","pub":{"data":{}}}"#;
    const ALL: [Transport; 6] = [
        Transport::Websocket,
        Transport::UniWebsocket,
        Transport::Sse,
        Transport::UniSse,
        Transport::HttpStream,
        Transport::UniHttpStream,
    ];

    fn written(transport: Transport, message: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        transport.write(&mut out, message);
        out
    }

    fn run(transport: Transport, messages: &[&[u8]]) -> Vec<u8> {
        let mut run = transport.begin(0);
        messages.iter().for_each(|message| transport.put(&mut run, message));
        let from = transport.finish(&mut run);
        run.split_off(from)
    }

    fn chunk(content: &str) -> String {
        format!("{:x}\r\n{content}\r\n", content.len())
    }

    #[test]
    fn a_message_alone_is_the_same_as_a_run_of_one() {
        for transport in ALL {
            for message in [MESSAGE, b"{}", &[b'x'; 70_000]] {
                assert_eq!(written(transport, message), run(transport, &[message]));
            }
        }
    }

    #[test]
    fn each_transport_has_its_own_wire() {
        let message = str::from_utf8(MESSAGE).unwrap();
        let text = |transport| String::from_utf8(run(transport, &[MESSAGE, b"{}"])).unwrap();
        let sse = |message: &str| chunk(&format!("data: {message}\n\ndata: {{}}\n\n"));
        assert_eq!(text(Transport::Sse), sse(message));
        assert_eq!(text(Transport::UniSse), sse(BARE));
        assert_eq!(text(Transport::HttpStream), chunk(&format!("{message}\n{{}}\n")));
        assert_eq!(text(Transport::UniHttpStream), chunk(&format!("{BARE}\n{{}}\n")));
        let websocket = run(Transport::Websocket, &[MESSAGE, b"{}"]);
        assert_eq!(websocket[..2], [0x81, MESSAGE.len() as u8 + 3]);
        assert_eq!(websocket[2..], [MESSAGE, b"\n{}"].concat());
        let unidirectional = run(Transport::UniWebsocket, &[MESSAGE, b"{}"]);
        let wanted = [&[0x81, BARE.len() as u8], BARE.as_bytes(), b"\x81\x02{}"].concat();
        assert_eq!(unidirectional, wanted);
    }

    #[test]
    fn payloads_are_events_of_their_lines_behind_their_position() {
        let event = |position, payload: &[u8]| {
            let mut run = Transport::Events.begin(0);
            Transport::put_event(&mut run, position, payload);
            let from = Transport::Events.finish(&mut run);
            String::from_utf8(run.split_off(from)).unwrap()
        };
        assert_eq!(event(None, b"{}"), chunk("data: {}\n\n"));
        assert_eq!(event(Some(("e", 7)), b"1"), chunk("id: e:7\ndata: 1\n\n"));
        assert_eq!(event(None, b"a\nb\r\nc"), chunk("data: a\ndata: b\ndata: c\n\n"));
        assert_eq!(event(None, b"a\rb"), chunk("data: a\ndata: b\n\n"), "no line begins inside");
        assert_eq!(written(Transport::Events, b"{}"), sse::COMMENT);
    }
}

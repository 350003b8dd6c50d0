//! The codec against independent encoders, arbitrary cuts of the stream, and hostile bytes.

use proptest::prelude::*;
use tiderace::codec::{handshake, http, websocket};
use tiderace::codes::CloseReason;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};
use tungstenite::protocol::frame::{Frame, FrameHeader};

/// Cuts `stream` at `cuts`, which are taken modulo its length.
fn pieces(stream: &[u8], cuts: &[usize]) -> Vec<Vec<u8>> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (stream.len() + 1)).collect();
    cuts.push(stream.len());
    cuts.sort_unstable();
    let starts = std::iter::once(0).chain(cuts.iter().copied()).collect::<Vec<_>>();
    starts.iter().zip(&cuts).map(|(&from, &to)| stream[from..to].to_vec()).collect()
}

fn bytewise(stream: &[u8]) -> Vec<Vec<u8>> {
    stream.iter().map(|&byte| vec![byte]).collect()
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(any::<usize>(), 0..12)
}

mod websocket_frames {
    use super::*;
    use websocket::{Message, Opcode, Reader};

    const MESSAGE_BYTES_MAX: usize = 1 << 20;
    /// The box itself, and the least that a vector allocates.
    const CONSTANT_BYTES: usize = 512;

    #[derive(Clone, Debug, PartialEq)]
    enum Owned {
        Text(String),
        Binary(Vec<u8>),
        Ping(Vec<u8>),
        Pong(Vec<u8>),
        Close(Option<(u16, String)>),
    }

    impl From<Message<'_>> for Owned {
        fn from(message: Message<'_>) -> Self {
            match message {
                Message::Text(text) => Self::Text(text.into()),
                Message::Binary(bytes) => Self::Binary(bytes.into()),
                Message::Ping(bytes) => Self::Ping(bytes.into()),
                Message::Pong(bytes) => Self::Pong(bytes.into()),
                Message::Close(close) => Self::Close(close.map(|(code, text)| (code, text.into()))),
            }
        }
    }

    /// Feeds the pieces; what came out, and the reason if it ended with one.
    fn read(pieces: Vec<Vec<u8>>, message_bytes_max: usize) -> (Vec<Owned>, Option<CloseReason>) {
        let mut reader = Reader::new();
        let mut messages = Vec::new();
        let mut fed_bytes = 0;
        for mut piece in pieces {
            fed_bytes += piece.len();
            let mut input = piece.as_mut_slice();
            loop {
                match reader.feed(&mut input, message_bytes_max) {
                    Ok(Some(message)) => messages.push(message.into()),
                    Ok(None) => break,
                    Err(reason) => {
                        assert_eq!(reader.buffered_bytes(), 0);
                        return (messages, Some(reason));
                    }
                }
            }
            assert!(input.is_empty(), "`None` means that the input is used up");
            assert!(reader.buffered_bytes() <= 2 * fed_bytes + CONSTANT_BYTES);
        }
        (messages, None)
    }

    /// A client's frame, written by tungstenite.
    fn frame(opcode: OpCode, is_final: bool, mask: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let header = FrameHeader { is_final, opcode, mask: Some(mask), ..FrameHeader::default() };
        let mut out = Vec::new();
        let frame = Frame::from_payload(header, payload.to_vec().into());
        frame.format(&mut out).expect("a vector takes everything");
        out
    }

    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    const TEXT: OpCode = OpCode::Data(Data::Text);
    const BINARY: OpCode = OpCode::Data(Data::Binary);
    const CONTINUATION: OpCode = OpCode::Data(Data::Continue);
    const CLOSE: OpCode = OpCode::Control(Control::Close);
    const PING: OpCode = OpCode::Control(Control::Ping);
    const PONG: OpCode = OpCode::Control(Control::Pong);

    #[derive(Clone, Debug)]
    struct Sent {
        message: Owned,
        fragment_cuts: Vec<usize>,
        /// Payload of a ping behind each fragment but the last.
        ping: Option<Vec<u8>>,
        mask: [u8; 4],
    }

    fn sent() -> impl Strategy<Value = Sent> {
        let control = || prop::collection::vec(any::<u8>(), 0..=125);
        let message = prop_oneof![
            3 => any::<String>().prop_map(Owned::Text),
            3 => prop::collection::vec(any::<u8>(), 0..400).prop_map(Owned::Binary),
            1 => control().prop_map(Owned::Ping),
            1 => control().prop_map(Owned::Pong),
            1 => prop::option::of((3000..5000_u16, "[a-zé]{0,40}")).prop_map(Owned::Close),
        ];
        let fragment_cuts = prop::collection::vec(any::<usize>(), 0..4);
        (message, fragment_cuts, prop::option::of(control()), any::<[u8; 4]>()).prop_map(
            |(message, fragment_cuts, ping, mask)| Sent { message, fragment_cuts, ping, mask },
        )
    }

    /// The stream of a client, and what a server should read from it.
    fn encode(sent: &[Sent]) -> (Vec<u8>, Vec<Owned>) {
        let (mut stream, mut expected) = (Vec::new(), Vec::new());
        for Sent { message, fragment_cuts, ping, mask } in sent {
            let (opcode, payload) = match message {
                Owned::Text(text) => (TEXT, text.clone().into_bytes()),
                Owned::Binary(bytes) => (BINARY, bytes.clone()),
                Owned::Ping(bytes) => (PING, bytes.clone()),
                Owned::Pong(bytes) => (PONG, bytes.clone()),
                Owned::Close(None) => (CLOSE, Vec::new()),
                Owned::Close(Some((code, reason))) => {
                    (CLOSE, [&code.to_be_bytes(), reason.as_bytes()].concat())
                }
            };
            let is_control = matches!(opcode, OpCode::Control(_));
            let fragments = pieces(&payload, if is_control { &[] } else { fragment_cuts });
            for (index, fragment) in fragments.iter().enumerate() {
                let is_final = index + 1 == fragments.len();
                let opcode = if index == 0 { opcode } else { CONTINUATION };
                stream.extend(frame(opcode, is_final, *mask, fragment));
                if let (false, Some(ping)) = (is_final, ping) {
                    stream.extend(frame(PING, true, *mask, ping));
                    expected.push(Owned::Ping(ping.clone()));
                }
            }
            expected.push(message.clone());
        }
        (stream, expected)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn any_cut_gives_what_was_sent(
            sent in prop::collection::vec(sent(), 1..6),
            cuts in cuts(),
        ) {
            let (stream, expected) = encode(&sent);
            for pieces in [vec![stream.clone()], pieces(&stream, &cuts), bytewise(&stream)] {
                prop_assert_eq!(read(pieces, MESSAGE_BYTES_MAX), (expected.clone(), None));
            }
        }

        #[test]
        fn damaged_streams_end_alike_however_they_are_cut(
            sent in prop::collection::vec(sent(), 1..5),
            damage in prop::collection::vec((any::<usize>(), any::<u8>()), 1..4),
            cuts in cuts(),
            message_bytes_max in 0..300_usize,
        ) {
            let (mut stream, _) = encode(&sent);
            for (at, byte) in damage {
                let at = at % stream.len();
                stream[at] ^= byte;
            }
            let whole = read(vec![stream.clone()], message_bytes_max);
            let cut = read(pieces(&stream, &cuts), message_bytes_max);
            // Text fails as soon as it is known to be wrong: in pieces, before its frame is whole.
            if cut.1.is_none() || whole.1.is_some() {
                prop_assert_eq!(cut, whole);
            } else {
                prop_assert_eq!(cut.1.map(|reason| reason.code), Some(1007));
                prop_assert_eq!(cut.0, whole.0);
            }
        }

        #[test]
        fn noise_is_survived(noise in prop::collection::vec(any::<u8>(), 0..600), cuts in cuts()) {
            let whole = read(vec![noise.clone()], 256);
            prop_assert!(read(pieces(&noise, &cuts), 256).0.starts_with(&whole.0));
        }

        #[test]
        fn text_is_taken_exactly_if_it_is_utf8(
            parts in prop::collection::vec(prop_oneof![
                any::<char>().prop_map(|char| char.to_string().into_bytes()),
                any::<char>().prop_map(|char| {
                    let mut bytes = char.to_string().into_bytes();
                    bytes.pop();
                    bytes
                }),
                prop::collection::vec(0x7f..=0xff_u8, 1..4),
            ], 0..4),
            fragment_cuts in prop::collection::vec(any::<usize>(), 0..4),
        ) {
            let payload = parts.concat();
            let fragments = pieces(&payload, &fragment_cuts);
            let last = fragments.len() - 1;
            let stream: Vec<u8> = fragments.iter().enumerate().flat_map(|(index, fragment)| {
                let opcode = if index == 0 { TEXT } else { CONTINUATION };
                frame(opcode, index == last, MASK, fragment)
            }).collect();
            let expected = match String::from_utf8(payload) {
                Ok(text) => (vec![Owned::Text(text)], None),
                Err(_) => (vec![], Some(CloseReason::INVALID_PAYLOAD)),
            };
            for pieces in [bytewise(&stream), vec![stream]] {
                prop_assert_eq!(read(pieces, MESSAGE_BYTES_MAX), expected.clone());
            }
        }
    }

    #[test]
    fn payloads_of_every_form_of_length_survive() {
        for length in [0, 1, 7, 8, 9, 125, 126, 127, 65_535, 65_536, 100_003] {
            let payload: Vec<u8> = (0..length).map(|index| index as u8).collect();
            let stream = frame(BINARY, true, MASK, &payload);
            let expected = (vec![Owned::Binary(payload)], None);
            assert_eq!(read(vec![stream.clone()], length), expected);
            assert_eq!(read(pieces(&stream, &[3, 11, 1000, 1013]), length), expected);
        }
    }

    #[test]
    fn broken_frames_close_with_the_code_of_the_rfc() {
        let masked = |first: u8, second: u8, rest: &[u8]| [&[first, second], rest].concat();
        let close = |payload: &[u8]| frame(CLOSE, true, MASK, payload);
        let long = |length: u64| masked(0x82, 0xff, &length.to_be_bytes());
        let cases: Vec<(&str, u16, Vec<u8>)> = vec![
            ("unmasked", 1002, masked(0x82, 0x01, b"x")),
            ("RSV1", 1002, masked(0xc2, 0x80, &MASK)),
            ("RSV2", 1002, masked(0xa2, 0x80, &MASK)),
            ("RSV3", 1002, masked(0x92, 0x80, &MASK)),
            ("RSV1 on a ping", 1002, masked(0xc9, 0x80, &MASK)),
            ("data opcode 3", 1002, masked(0x83, 0x80, &MASK)),
            ("data opcode 7", 1002, masked(0x87, 0x80, &MASK)),
            ("control opcode 11", 1002, masked(0x8b, 0x80, &MASK)),
            ("control opcode 15", 1002, masked(0x8f, 0x80, &MASK)),
            ("fragmented ping", 1002, frame(PING, false, MASK, b"")),
            ("fragmented close", 1002, frame(CLOSE, false, MASK, b"")),
            ("ping of 126", 1002, frame(PING, true, MASK, &[0; 126])),
            ("close of 126", 1002, frame(CLOSE, true, MASK, &[0; 126])),
            ("continuation of nothing", 1002, frame(CONTINUATION, true, MASK, b"x")),
            (
                "text within a message",
                1002,
                [frame(BINARY, false, MASK, b"x"), frame(TEXT, true, MASK, b"y")].concat(),
            ),
            ("125 in 16 bits", 1002, masked(0x82, 0xfe, &[0, 125])),
            ("65535 in 64 bits", 1002, long(65_535)),
            ("top bit of the length", 1002, long(1 << 63)),
            ("longest length", 1009, long((1 << 63) - 1)),
            ("one byte above the limit", 1009, long(MESSAGE_BYTES_MAX as u64 + 1)),
            ("text that is not UTF-8", 1007, frame(TEXT, true, MASK, b"\xc0\x80")),
            ("text that ends in a code point", 1007, frame(TEXT, true, MASK, b"\xe2\x82")),
            ("surrogate", 1007, frame(TEXT, true, MASK, b"\xed\xa0\x80")),
            ("close of one byte", 1002, close(b"\x03")),
            ("close reason that is not UTF-8", 1007, close(b"\x03\xe8\xff")),
        ];
        let ping = frame(PING, true, MASK, b"first");
        for (name, code, bytes) in cases {
            let stream = [ping.clone(), bytes].concat();
            for pieces in [bytewise(&stream), vec![stream]] {
                let (messages, reason) = read(pieces, MESSAGE_BYTES_MAX);
                assert_eq!(reason.map(|reason| reason.code), Some(code), "{name}");
                assert_eq!(messages.first(), Some(&Owned::Ping(b"first".to_vec())), "{name}");
            }
        }
    }

    #[test]
    fn close_codes_are_those_that_may_travel() {
        for code in (0..6_000).chain([u16::MAX]) {
            // tungstenite does not know 1014, which came to the registry later.
            let is_allowed = code == 1014 || (code > 0 && CloseCode::from(code).is_allowed());
            let expected = if is_allowed {
                (vec![Owned::Close(Some((code, String::new())))], None)
            } else {
                (vec![], Some(CloseReason::PROTOCOL_ERROR))
            };
            let stream = frame(CLOSE, true, MASK, &code.to_be_bytes());
            assert_eq!(read(vec![stream], 0), expected, "{code}");
        }
    }

    #[test]
    fn wrong_text_fails_before_its_frame_is_whole() {
        let mut stream = frame(TEXT, true, MASK, b"valid, then \xf4\x90 and so on");
        stream.truncate(6 + 14);
        assert_eq!(read(vec![stream], 100), (vec![], Some(CloseReason::INVALID_PAYLOAD)));
    }

    #[test]
    fn tiny_fragments_pin_no_more_than_their_payload() {
        const FRAGMENTS: usize = 131_000;
        for payload in [&b""[..], b"x"] {
            let mut stream = frame(TEXT, false, MASK, payload);
            for _ in 0..FRAGMENTS {
                stream.extend_from_slice(&frame(CONTINUATION, false, MASK, payload));
            }
            let mut reader = Reader::new();
            let mut input = stream.as_mut_slice();
            assert_eq!(reader.feed(&mut input, MESSAGE_BYTES_MAX), Ok(None));
            let payload_bytes = payload.len() * (FRAGMENTS + 1);
            assert!(reader.buffered_bytes() <= 2 * payload_bytes + CONSTANT_BYTES);
        }
    }

    #[test]
    fn an_announced_length_allocates_nothing_and_fragments_share_one_limit() {
        let mut reader = Reader::new();
        let mut header = frame(BINARY, true, MASK, &[0; 100_000]);
        header.truncate(14);
        assert_eq!(reader.feed(&mut header.as_mut_slice(), 100_000), Ok(None));
        assert!(reader.buffered_bytes() <= CONSTANT_BYTES);

        let fragments = [
            frame(BINARY, false, MASK, &[0; 60]),
            frame(PING, true, MASK, &[0; 125]),
            frame(CONTINUATION, true, MASK, &[0; 40]),
        ]
        .concat();
        assert_eq!(read(vec![fragments.clone()], 100).1, None);
        assert_eq!(read(vec![fragments], 99).1, Some(CloseReason::MESSAGE_TOO_BIG));
    }

    #[test]
    fn an_idle_reader_is_small() {
        assert!(size_of::<Reader>() <= 16);
        let mut reader = Reader::new();
        let mut stream = frame(TEXT, true, MASK, b"hello");
        let (front, back) = stream.split_at_mut(8);
        let (mut front, mut back) = (front, back);
        assert_eq!(reader.feed(&mut front, 100), Ok(None));
        assert!(reader.buffered_bytes() > 0);
        assert_eq!(reader.feed(&mut back, 100), Ok(Some(Message::Text("hello"))));
        assert_eq!(reader.feed(&mut back, 100), Ok(None));
        assert_eq!(reader.buffered_bytes(), 0);
    }

    #[test]
    fn what_we_write_is_read_by_tungstenite() {
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            let payload = vec![7; length];
            let mut appended = Vec::new();
            websocket::write_frame(&mut appended, Opcode::Text, &payload);
            let mut cursor = std::io::Cursor::new(&appended);
            let (header, bytes) = FrameHeader::parse(&mut cursor).unwrap().unwrap();
            assert!(header.is_final && header.mask.is_none() && header.opcode == TEXT);
            assert_eq!(bytes, length as u64);
            assert_eq!(&appended[cursor.position() as usize..], &payload);

            let room = websocket::SERVER_HEADER_BYTES_MAX + 3;
            let mut buffer = [vec![0; room], payload].concat();
            let start = websocket::put_header(&mut buffer, room, Opcode::Text);
            assert_eq!(&buffer[start..], &appended);
        }
        let mut close = Vec::new();
        websocket::write_close(&mut close, 3008, "slow");
        assert_eq!(close, b"\x88\x06\x0b\xc0slow");
        close.clear();
        const LONG: &str = "€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€€";
        websocket::write_close(&mut close, 4000, LONG);
        assert_eq!(close.len(), 2 + 2 + 123);
        assert!(std::str::from_utf8(&close[4..]).is_ok());
    }
}

mod http_requests {
    use super::*;
    use http::{Event, Limits, Reader, Rejection, Request};

    const LIMITS: Limits = Limits { head_bytes_max: 16 << 10, body_bytes_max: 64 << 10 };
    const CONSTANT_BYTES: usize = 512;

    #[derive(Clone, Debug, PartialEq)]
    struct Owned {
        method: String,
        path: String,
        query: Option<String>,
        keep_alive: bool,
        label: Vec<u8>,
        body: Vec<u8>,
    }

    impl From<Request<'_>> for Owned {
        fn from(request: Request<'_>) -> Self {
            Self {
                method: request.method.into(),
                path: request.path.into(),
                query: request.query.map(Into::into),
                keep_alive: request.keep_alive,
                label: request.header("x-label").unwrap_or_default().into(),
                body: request.body.into(),
            }
        }
    }

    fn read(pieces: Vec<Vec<u8>>, limits: &Limits) -> (Vec<Owned>, Option<Rejection>) {
        let mut reader = Reader::new();
        let mut requests = Vec::new();
        let mut fed_bytes = 0;
        for mut piece in pieces {
            fed_bytes += piece.len();
            let mut input = piece.as_mut_slice();
            loop {
                match reader.feed(&mut input, limits) {
                    Ok(Some(Event::Request(request))) => requests.push(request.into()),
                    Ok(Some(Event::Continue)) => {}
                    Ok(None) => break,
                    Err(rejection) => {
                        assert_eq!(reader.buffered_bytes(), 0);
                        return (requests, Some(rejection));
                    }
                }
            }
            assert!(input.is_empty(), "`None` means that the input is used up");
            assert!(reader.buffered_bytes() <= 2 * fed_bytes + CONSTANT_BYTES);
        }
        (requests, None)
    }

    fn status(stream: &[u8], limits: &Limits) -> u16 {
        let whole = read(vec![stream.to_vec()], limits).1.map_or(0, |rejection| rejection.status);
        let cut = read(bytewise(stream), limits).1.map_or(0, |rejection| rejection.status);
        assert_eq!(whole, cut, "cuts change the answer to {:?}", String::from_utf8_lossy(stream));
        whole
    }

    #[derive(Clone, Debug)]
    enum Coding {
        None,
        Counted,
        Chunked(Vec<usize>),
    }

    fn sent() -> impl Strategy<Value = (Vec<u8>, Owned)> {
        let coding = prop_oneof![
            Just(Coding::None),
            Just(Coding::Counted),
            prop::collection::vec(any::<usize>(), 0..5).prop_map(Coding::Chunked),
        ];
        let target = ("(/[a-z0-9%._~-]{0,12}){1,3}", prop::option::of("[a-z0-9=&?/%]{0,20}"));
        let fields = ("[!-~]([ -~\u{e4}]{0,30}[!-~])?", any::<bool>(), any::<bool>());
        let body = prop::collection::vec(any::<u8>(), 0..300);
        ("[A-Z]{3,7}", target, fields, body, coding).prop_map(
            |(method, (path, query), (label, keep_alive, expects), body, coding)| {
                let mut head = format!("{method} {path}");
                if let Some(query) = &query {
                    head += &format!("?{query}");
                }
                head += &format!(" HTTP/1.1\r\nhost: a:1\r\nX-Label:  {label} \r\n");
                if expects {
                    head += "Expect: 100-Continue\r\n";
                }
                if !keep_alive {
                    head += "Connection: x, Close\r\n";
                }
                let mut stream = head.into_bytes();
                let body = match coding {
                    Coding::None => {
                        stream.extend(b"\r\n");
                        Vec::new()
                    }
                    Coding::Counted => {
                        stream.extend(format!("Content-Length: {}\r\n\r\n", body.len()).bytes());
                        stream.extend(&body);
                        body
                    }
                    Coding::Chunked(cuts) => {
                        stream.extend(b"Transfer-Encoding: Chunked\r\n\r\n");
                        for chunk in pieces(&body, &cuts).iter().filter(|chunk| !chunk.is_empty()) {
                            stream.extend(format!("{:x};ext=\"1\"\r\n", chunk.len()).bytes());
                            stream.extend(chunk);
                            stream.extend(b"\r\n");
                        }
                        stream.extend(b"0\r\nTrailer: x\r\n\r\n");
                        body
                    }
                };
                let label = label.into_bytes();
                (stream, Owned { method, path, query, keep_alive, label, body })
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn any_cut_gives_what_was_sent(
            sent in prop::collection::vec(sent(), 1..4),
            cuts in cuts(),
        ) {
            prop_assume!(sent.iter().all(|(_, request)| request.method != "CONNECT"));
            let (streams, expected): (Vec<_>, Vec<_>) = sent.into_iter().unzip();
            let stream = streams.concat();
            for pieces in [vec![stream.clone()], pieces(&stream, &cuts), bytewise(&stream)] {
                prop_assert_eq!(read(pieces, &LIMITS), (expected.clone(), None));
            }
        }

        #[test]
        fn damaged_streams_end_alike_however_they_are_cut(
            sent in prop::collection::vec(sent(), 1..4),
            damage in prop::collection::vec((any::<usize>(), any::<u8>()), 1..4),
            cuts in cuts(),
        ) {
            let mut stream: Vec<u8> = sent.into_iter().flat_map(|(stream, _)| stream).collect();
            for (at, byte) in damage {
                let at = at % stream.len();
                stream[at] ^= byte;
            }
            let limits = Limits { head_bytes_max: 256, body_bytes_max: 256 };
            let (requests, rejection) = read(vec![stream.clone()], &limits);
            let status = rejection.map(|rejection| rejection.status);
            for pieces in [pieces(&stream, &cuts), bytewise(&stream)] {
                let cut = read(pieces, &limits);
                prop_assert_eq!(cut.1.map(|rejection| rejection.status), status);
                prop_assert_eq!(&cut.0, &requests);
            }
        }

        #[test]
        fn noise_is_survived(noise in prop::collection::vec(any::<u8>(), 0..600), cuts in cuts()) {
            let whole = read(vec![noise.clone()], &LIMITS);
            prop_assert_eq!(read(pieces(&noise, &cuts), &LIMITS).0, whole.0);
        }
    }

    #[test]
    fn ambiguous_or_malformed_requests_are_refused() {
        let get = |fields: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let chunked = |body: &str| get("Transfer-Encoding: chunked\r\n") + body;
        let line = |line: &str| format!("{line}\r\nHost: a\r\n\r\n");
        let cases: Vec<(u16, String)> = vec![
            (400, get("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n")),
            (400, get("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n")),
            (400, get("Content-Length: 5\r\nContent-Length: 6\r\n")),
            (400, get("Content-Length: 5\r\nContent-Length: 5\r\n")),
            (400, get("Content-Length: 5, 5\r\n")),
            (400, get("Content-Length: 5, 6\r\n")),
            (400, get("Content-Length: +5\r\n")),
            (400, get("Content-Length: -5\r\n")),
            (400, get("Content-Length: 0x5\r\n")),
            (400, get("Content-Length: 5 5\r\n")),
            (400, get("Content-Length:\r\n")),
            (413, get("Content-Length: 65537\r\n")),
            (413, get("Content-Length: 99999999999999999999999\r\n")),
            (501, get("Transfer-Encoding: gzip\r\n")),
            (501, get("Transfer-Encoding: gzip, chunked\r\n")),
            (501, get("Transfer-Encoding: xchunked\r\n")),
            (501, get("Transfer-Encoding: identity\r\n")),
            (400, get("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n")),
            (400, get("Transfer-Encoding : chunked\r\n")),
            (400, get(" X: folded\r\n")),
            (400, get("A: b\r\n\tfolded\r\n")),
            (400, get("A\r\n")),
            (400, get(": b\r\n")),
            (400, get("A: b\0c\r\n")),
            (400, get("A: b\rc\r\n")),
            (400, get("A: b\n")),
            (400, get("Host: b\r\n")),
            (400, get("Expect: 100-continue\r\nExpect: x\r\n")),
            (417, get("Expect: 200-ok\r\n")),
            (400, "GET / HTTP/1.1\r\n\r\n".into()),
            (400, "GET / HTTP/1.1\r\nHost: a/b@c\r\n\r\n".into()),
            (400, "GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".into()),
            (400, "GET / HTTP/1.1\nHost: a\n\n".into()),
            (400, "GET / HTTP/1.1\r\nHost: a\n\r\n".into()),
            (400, line("GET  / HTTP/1.1")),
            (400, line("GET / HTTP/1.1 ")),
            (400, line("GET /")),
            (400, line("GET a HTTP/1.1")),
            (400, line("GET * HTTP/1.1")),
            (400, line("GET http:///a HTTP/1.1")),
            (400, line("GET http://u@a/ HTTP/1.1")),
            (400, line("GET ftp://a/ HTTP/1.1")),
            (400, line("GET /a#b HTTP/1.1")),
            (400, line("GET /ä HTTP/1.1")),
            (400, line("G(T / HTTP/1.1")),
            (400, line("GET / HTTX/1.1")),
            (505, line("GET / HTTP/2.0")),
            (505, line("PRI * HTTP/2.0")),
            (501, line("CONNECT a:1 HTTP/1.1")),
            (400, "\u{16}\u{3}\u{1}".into()),
            (400, chunked("\r\n\r\n")),
            (400, chunked("x\r\n")),
            (400, chunked("0x5\r\nhello\r\n0\r\n\r\n")),
            (400, chunked("+5\r\nhello\r\n0\r\n\r\n")),
            (400, chunked(" 5\r\nhello\r\n0\r\n\r\n")),
            (400, chunked("5 \r\nhello\r\n0\r\n\r\n")),
            (400, chunked("5\nhello\r\n0\r\n\r\n")),
            (400, chunked("5;a\nb\r\nhello\r\n0\r\n\r\n")),
            (400, chunked("5;a\rb\r\nhello\r\n0\r\n\r\n")),
            (400, chunked("5\r\nhelloXX0\r\n\r\n")),
            (400, chunked("5\r\nhello0\r\n\r\n")),
            (400, chunked("5\r\nhello\n0\r\n\r\n")),
            (400, chunked("00000000000000005\r\nhello\r\n0\r\n\r\n")),
            (400, chunked("0\r\nno field\r\n\r\n")),
            (400, chunked("0\r\n a: b\r\n\r\n")),
            (413, chunked("10001\r\n")),
            (413, chunked("ffffffffffffffff\r\n")),
            (413, chunked(&format!("fffe\r\n{}\r\n3\r\n", "x".repeat(0xfffe)))),
            (0, chunked("0000000000000005\r\nhello\r\n0\r\n\r\n")),
            (0, get("Content-Length: 00\r\n")),
            (0, line("OPTIONS * HTTP/1.1")),
            (0, "\r\n\r\nGET / HTTP/1.0\r\n\r\n".into()),
        ];
        for (expected, stream) in cases {
            assert_eq!(status(stream.as_bytes(), &LIMITS), expected, "{stream:?}");
        }
    }

    #[test]
    fn floods_are_bounded() {
        let head = |fields: String| format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let chunked = head("Transfer-Encoding: chunked\r\n".into());
        let bare_bytes = head(String::new()).len();
        let fill = |bytes: usize| format!("A: {}\r\n", "x".repeat(bytes - 5));
        let cases = [
            (0, head("A: b\r\n".repeat(63))),
            (431, head("A: b\r\n".repeat(64))),
            (431, head("A: b\r\n".repeat(2_000))),
            (0, head(fill(LIMITS.head_bytes_max - bare_bytes))),
            (431, head(fill(LIMITS.head_bytes_max - bare_bytes + 1))),
            (414, format!("GET /{} HTTP/1.1\r\n", "x".repeat(LIMITS.head_bytes_max))),
            (414, "\r\n".repeat(LIMITS.head_bytes_max)),
            (400, format!("{chunked}5;{}", "x".repeat(17 << 10))),
            (400, chunked.clone() + &format!("1;{}\r\nx\r\n", "y".repeat(100)).repeat(200)),
            (0, chunked.clone() + &"1;y\r\nx\r\n".repeat(200)),
            (400, format!("{chunked}0\r\n{}", fill(1_000).repeat(20))),
        ];
        for (expected, stream) in cases {
            let shown: String = stream.chars().take(60).collect();
            let blank = stream.starts_with('\r');
            // Empty lines that come whole, between requests, are dropped at once.
            if blank {
                let pieces = vec![b"\r".to_vec(), stream.as_bytes()[1..].to_vec()];
                assert_eq!(read(pieces, &LIMITS).1.map(|it| it.status), Some(expected));
            } else {
                assert_eq!(status(stream.as_bytes(), &LIMITS), expected, "{shown:?}");
            }
        }
    }

    #[test]
    fn an_announced_body_allocates_nothing() {
        let mut reader = Reader::new();
        let mut head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 65536\r\n\r\nx".to_vec();
        assert!(reader.feed(&mut head.as_mut_slice(), &LIMITS).unwrap().is_none());
        assert!(reader.buffered_bytes() <= 2 * head.len() + CONSTANT_BYTES);
        assert!(size_of::<Reader>() <= 16);
    }

    #[test]
    fn who_waits_is_told_to_continue_once() {
        for coding in ["Content-Length: 2", "Transfer-Encoding: chunked"] {
            let head =
                format!("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n{coding}\r\n\r\n");
            let body = if coding.ends_with('2') { "hi" } else { "2\r\nhi\r\n0\r\n\r\n" };
            let mut reader = Reader::new();
            let mut bytes = head.clone().into_bytes();
            let mut input = bytes.as_mut_slice();
            assert!(matches!(reader.feed(&mut input, &LIMITS), Ok(Some(Event::Continue))));
            assert!(matches!(reader.feed(&mut input, &LIMITS), Ok(None)));
            let mut bytes = body.as_bytes().to_vec();
            let mut input = bytes.as_mut_slice();
            match reader.feed(&mut input, &LIMITS) {
                Ok(Some(Event::Request(request))) => assert_eq!(request.body, b"hi"),
                other => panic!("{other:?}"),
            }
            // The body is there already: nobody waits.
            let mut bytes = (head + body).into_bytes();
            let event = Reader::new()
                .feed(&mut bytes.as_mut_slice(), &LIMITS)
                .map(|it| matches!(it, Some(Event::Request(_))));
            assert_eq!(event, Ok(true));
        }
    }

    #[test]
    fn keep_alive_follows_version_and_tokens() {
        for (version, field, expected) in [
            (1, "", true),
            (1, "Connection: upgrade ,\tCLOSE\r\n", false),
            (1, "Connection: keep-alive\r\nConnection: close\r\n", false),
            (1, "Connection: closed\r\n", true),
            (0, "", false),
            (0, "Connection: Keep-Alive\r\n", true),
            (0, "Connection: keep-alive, close\r\n", false),
        ] {
            let stream = format!("GET / HTTP/1.{version}\r\nHost: a\r\n{field}\r\n");
            let (requests, _) = read(vec![stream.into_bytes()], &LIMITS);
            assert_eq!(requests[0].keep_alive, expected, "1.{version} {field:?}");
        }
    }

    #[test]
    fn targets_are_split() {
        for (target, host, path, query) in [
            ("/a/b?c?d=/", "h", "/a/b", Some("c?d=/")),
            ("/a?", "h", "/a", Some("")),
            ("//a", "h", "//a", None),
            ("/a://b/c", "h", "/a://b/c", None),
            ("http://x:80/a?b", "x:80", "/a", Some("b")),
            ("WSS://[::1]", "[::1]", "/", None),
            ("https://x?b", "x", "/", Some("b")),
        ] {
            let mut bytes = format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n").into_bytes();
            let mut reader = Reader::new();
            match reader.feed(&mut bytes.as_mut_slice(), &LIMITS) {
                Ok(Some(Event::Request(request))) => {
                    let found = (request.host(), request.path, request.query);
                    assert_eq!(found, (Some(host), path, query), "{target}");
                }
                other => panic!("{target}: {other:?}"),
            }
        }
    }

    #[test]
    fn responses_are_framed_and_cannot_be_split() {
        let written = |status, extra: &[(&str, &str)], body: &[u8]| {
            let mut out = Vec::new();
            http::write_response(&mut out, status, "text/plain", extra, body, true);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            written(200, &[("X", "a\r\nY: b")], b"hello"),
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\
             Connection: keep-alive\r\nX: a  Y: b\r\n\r\nhello"
        );
        assert_eq!(
            written(204, &[], b"hello"),
            "HTTP/1.1 204 No Content\r\nConnection: keep-alive\r\n\r\n"
        );
        let mut out = Vec::new();
        http::write_rejection(&mut out, &Rejection::new(426, "no \"12\""));
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("HTTP/1.1 426 Upgrade Required\r\n"));
        assert!(text.contains("\r\nConnection: close\r\n"));
        assert!(text.contains("\r\nSec-WebSocket-Version: 13\r\n"));
        assert!(text.ends_with("\r\n\r\n{\"error\":{\"code\":426,\"message\":\"no \\\"12\\\"\"}}"));
    }
}

mod handshakes {
    use super::*;
    use http::{Event, Limits, Reader};

    const LIMITS: Limits = Limits { head_bytes_max: 64 << 10, body_bytes_max: 1 << 10 };
    const SOUND: [(&str, &str); 5] = [
        ("Host", "a"),
        ("Upgrade", "h2c, WebSocket"),
        ("Connection", "keep-alive, UPGRADE"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn stream(line: &str, fields: &[(&str, &str)]) -> Vec<u8> {
        let fields = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
        format!("{line}\r\n{}\r\n", fields.collect::<String>()).into_bytes()
    }

    /// 101 with the protocols offered, 0 for an ordinary request, or the status of the refusal.
    fn outcome(line: &str, fields: &[(&str, &str)], body: &[u8]) -> (u16, Vec<String>) {
        let mut bytes = [&stream(line, fields), body].concat();
        let mut reader = Reader::new();
        match reader.feed(&mut bytes.as_mut_slice(), &LIMITS) {
            Ok(Some(Event::Request(request))) => match handshake::upgrade(&request) {
                Ok(Some(upgrade)) => {
                    (101, upgrade.protocols.into_iter().map(str::to_owned).collect())
                }
                Ok(None) => (0, vec![]),
                Err(rejection) => (rejection.status, vec![]),
            },
            other => panic!("{other:?}"),
        }
    }

    const GET: &str = "GET /chat HTTP/1.1";

    #[test]
    fn the_grammar_is_strict() {
        let with = |name, value| [&SOUND[..], &[(name, value)]].concat();
        let without = |name| -> Vec<(&str, &str)> {
            SOUND.into_iter().filter(|(field, _)| *field != name).collect()
        };
        let instead = |name, value| [without(name), vec![(name, value)]].concat();
        let key = "Sec-WebSocket-Key";
        let version = "Sec-WebSocket-Version";
        let cases = [
            (101, GET, SOUND.to_vec()),
            (101, "GET http://a/chat HTTP/1.1", SOUND.to_vec()),
            (101, GET, with("Content-Length", "0")),
            (405, "POST /chat HTTP/1.1", SOUND.to_vec()),
            (400, "GET /chat HTTP/1.0", SOUND.to_vec()),
            (0, GET, vec![("Host", "a")]),
            (0, GET, vec![("Host", "a"), ("Connection", "Upgrade"), ("Upgrade", "h2c")]),
            (400, GET, without("Upgrade")),
            (400, GET, without("Connection")),
            (400, GET, instead("Connection", "upgraded")),
            (400, GET, without(key)),
            (400, GET, with(key, "dGhlIHNhbXBsZSBub25jZQ==")),
            (400, GET, instead(key, "")),
            (400, GET, instead(key, "dGhlIHNhbXBsZSBub25jZQ=")),
            (400, GET, instead(key, "dGhlIHNhbXBsZSBub25jZQ===")),
            (400, GET, instead(key, "dGhlIHNhbXBsZSBub25jZQAA")),
            (400, GET, instead(key, "dGhlIHNhbXBsZSBub25j-Q==")),
            (400, GET, without(version)),
            (400, GET, with(version, "13")),
            (400, GET, with(version, "8")),
            (400, GET, instead(version, "13, 8")),
            (426, GET, instead(version, "8")),
            (426, GET, instead(version, "14")),
            (400, GET, with("Sec-WebSocket-Protocol", "a b")),
            (400, GET, with("Sec-WebSocket-Protocol", "a\u{e4}")),
        ];
        for (expected, line, fields) in cases {
            assert_eq!(outcome(line, &fields, b"").0, expected, "{line} {fields:?}");
        }
        assert_eq!(outcome(GET, &with("Content-Length", "2"), b"hi").0, 400);
        assert_eq!(outcome(GET, &with("Transfer-Encoding", "chunked"), b"0\r\n\r\n").0, 400);
    }

    #[test]
    fn protocols_are_a_bounded_list() {
        let offer = |lists: &[&str]| {
            let lists = lists.iter().map(|list| ("Sec-WebSocket-Protocol", *list));
            outcome(GET, &SOUND.into_iter().chain(lists).collect::<Vec<_>>(), b"")
        };
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(offer(&["a,b , c", ",d"]), (101, names(&["a", "b", "c", "d"])));
        assert_eq!(offer(&[&["p"; 16].join(",")]).0, 101);
        assert_eq!(offer(&[&["p"; 17].join(",")]).0, 400);
        assert_eq!(offer(&[&format!("a,{}b", " ".repeat(32 << 10))]), (101, names(&["a", "b"])));
        assert_eq!(offer(&[&format!("a{}b", " ".repeat(32 << 10))]).0, 400);
        assert_eq!(offer(&[&",".repeat(32 << 10)]), (101, vec![]));
        assert_eq!(offer(&[&"\u{e4}".repeat(16 << 10)]).0, 400);
    }

    #[test]
    fn the_answer_takes_offered_protocols_only_and_frames_may_follow() {
        let fields = [&SOUND[..], &[("Sec-WebSocket-Protocol", "a, b")]].concat();
        let mut bytes = [&stream(GET, &fields), &b"\x81\x82\0\0\0\0hi\x81"[..]].concat();
        let mut input = bytes.as_mut_slice();
        let mut reader = Reader::new();
        match reader.feed(&mut input, &LIMITS) {
            Ok(Some(Event::Request(request))) => {
                let upgrade = handshake::upgrade(&request).unwrap().unwrap();
                for (protocol, line) in
                    [(Some("b"), "Sec-WebSocket-Protocol: b\r\n"), (Some("c"), ""), (None, "")]
                {
                    let mut out = Vec::new();
                    handshake::write_switching_protocols(&mut out, &upgrade, protocol);
                    let expected = format!(
                        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                         Connection: Upgrade\r\n\
                         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n{line}\r\n"
                    );
                    assert_eq!(String::from_utf8(out).unwrap(), expected);
                }
            }
            other => panic!("{other:?}"),
        }
        let mut frames = websocket::Reader::new();
        assert_eq!(frames.feed(&mut input, 10), Ok(Some(websocket::Message::Text("hi"))));
        assert_eq!(frames.feed(&mut input, 10), Ok(None));
        assert!(frames.buffered_bytes() > 0, "a partial frame behind the request is kept");
    }
}

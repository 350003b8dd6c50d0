//! Bytes on the wire as a client makes and reads them, written without the server's codec.

use tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Control, Data, OpCode},
};

use super::random::Random;

/// The head of an upgrade to WebSocket.
pub fn upgrade(path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: sim\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    .into_bytes()
}

/// A masked text message, in one frame or several.
pub fn text(message: &str, random: &mut Random) -> Vec<u8> {
    let bytes = message.as_bytes();
    if bytes.len() < 2 || !random.chance(10) {
        return frame(OpCode::Data(Data::Text), true, bytes, random);
    }
    let cut = random.between(1, bytes.len() - 1);
    let mut out = frame(OpCode::Data(Data::Text), false, &bytes[..cut], random);
    out.extend(frame(OpCode::Data(Data::Continue), true, &bytes[cut..], random));
    out
}

pub fn ping(random: &mut Random) -> Vec<u8> {
    frame(OpCode::Control(Control::Ping), true, b"?", random)
}

pub fn close(random: &mut Random) -> Vec<u8> {
    frame(OpCode::Control(Control::Close), true, &1000u16.to_be_bytes(), random)
}

fn frame(opcode: OpCode, is_final: bool, payload: &[u8], random: &mut Random) -> Vec<u8> {
    let mask = (random.next() as u32).to_be_bytes();
    let header =
        FrameHeader { is_final, rsv1: false, rsv2: false, rsv3: false, opcode, mask: Some(mask) };
    let mut out = Vec::new();
    header.format(payload.len() as u64, &mut out).expect("memory takes everything");
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    out
}

/// What a server says on a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// An HTTP response.
    Response {
        status: u16,
        body: Vec<u8>,
    },
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Pong,
    Close(u16),
}

/// Reads what a server says: responses, and frames after a 101.
#[derive(Default)]
pub struct Reader {
    bytes: Vec<u8>,
    upgraded: bool,
    closed: bool,
}

impl Reader {
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether nothing is there of a message that is not complete.
    pub fn is_between_messages(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn next(&mut self) -> Option<Said> {
        if self.closed {
            assert!(self.bytes.is_empty(), "bytes behind the close frame");
            return None;
        }
        if self.upgraded { self.frame() } else { self.response() }
    }

    fn response(&mut self) -> Option<Said> {
        let end = self.bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let head = std::str::from_utf8(&self.bytes[..end]).expect("a head is text");
        let status = head.strip_prefix("HTTP/1.1 ").expect("a status line")[..3].parse().unwrap();
        let length = head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .map_or(0, |(_, value)| value.parse().unwrap());
        if self.bytes.len() < end + length {
            return None;
        }
        let body = self.bytes[end..end + length].to_vec();
        self.bytes.drain(..end + length);
        self.upgraded = status == 101;
        Some(Said::Response { status, body })
    }

    fn frame(&mut self) -> Option<Said> {
        let mut cursor = std::io::Cursor::new(&self.bytes[..]);
        let (header, length) = FrameHeader::parse(&mut cursor).expect("a frame header")?;
        let from = cursor.position() as usize;
        let to = from + length as usize;
        if self.bytes.len() < to {
            return None;
        }
        assert!(header.is_final && header.mask.is_none(), "servers send whole, plain frames");
        let payload = self.bytes[from..to].to_vec();
        self.bytes.drain(..to);
        Some(match header.opcode {
            OpCode::Data(Data::Text) => Said::Text(payload),
            OpCode::Data(Data::Binary) => Said::Binary(payload),
            OpCode::Control(Control::Pong) => Said::Pong,
            OpCode::Control(Control::Close) => {
                self.closed = true;
                Said::Close(u16::from_be_bytes([payload[0], payload[1]]))
            }
            other => panic!("a server sent {other:?}"),
        })
    }
}

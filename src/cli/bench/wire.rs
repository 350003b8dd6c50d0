//! WebSocket frames as a client of load sees them (RFC 6455 section 5): a scanner in, a masked
//! writer out.

/// Opcodes (RFC 6455 section 5.2).
pub(super) const CONTINUATION: u8 = 0;
pub(super) const TEXT: u8 = 1;
pub(super) const BINARY: u8 = 2;
pub(super) const CLOSE: u8 = 8;
pub(super) const PING: u8 = 9;
pub(super) const PONG: u8 = 10;

/// Payload bytes of the largest message that is accepted from a server.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;

/// What a server did wrong on the wire.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WireError {
    /// A reserved bit is set although no extension was negotiated.
    ReservedBits,
    /// A server must not mask (section 5.1).
    Masked,
    /// A frame or message beyond [`MESSAGE_BYTES_MAX`].
    TooLong,
    /// A continuation without a beginning, or a beginning inside a fragmented message.
    Fragmentation,
    /// A control frame that is long or fragmented, or an unknown opcode.
    Control,
}

impl std::fmt::Display for WireError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::ReservedBits => "the server set a reserved bit of a WebSocket frame",
            Self::Masked => "the server masked a WebSocket frame",
            Self::TooLong => "the server sent a WebSocket message above 64 MiB",
            Self::Fragmentation => "the server broke the rules of WebSocket fragmentation",
            Self::Control => "the server sent a broken WebSocket control frame",
        })
    }
}

/// Splits a byte stream into WebSocket messages, whatever the boundaries of the reads.
///
/// Messages that lie whole in the given bytes are handed out without a copy; only the incomplete
/// frame at the end of a read is kept, and only fragmented messages are joined.
#[derive(Default)]
pub(super) struct Scanner {
    /// The beginning of one incomplete frame.
    carry: Vec<u8>,
    /// Payload and opcode of a message whose last fragment has not come.
    partial: Option<(u8, Vec<u8>)>,
}

/// The first bytes of a frame, understood: where its payload lies and what it is.
struct Header {
    first: u8,
    payload_at: usize,
    end: usize,
}

/// `None` as long as the header is incomplete.
#[inline]
fn header(bytes: &[u8]) -> Result<Option<Header>, WireError> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    let (payload_at, len) = match *second {
        len @ 0..=125 => (2, usize::from(len)),
        126 => match rest.first_chunk::<2>() {
            Some(len) => (4, usize::from(u16::from_be_bytes(*len))),
            None => return Ok(None),
        },
        127 => match rest.first_chunk::<8>() {
            Some(len) => {
                (10, usize::try_from(u64::from_be_bytes(*len)).map_err(|_| WireError::TooLong)?)
            }
            None => return Ok(None),
        },
        MASKED.. => return Err(WireError::Masked),
    };
    if first & RESERVED != 0 {
        return Err(WireError::ReservedBits);
    }
    if len > MESSAGE_BYTES_MAX {
        return Err(WireError::TooLong);
    }
    Ok(Some(Header { first: *first, payload_at, end: payload_at + len }))
}

impl Scanner {
    /// Takes the next bytes of the stream; `on(opcode, payload)` gets every message that they
    /// complete.
    ///
    /// An error of `on` ends the scan; the scanner is of no use after any error.
    #[inline]
    pub(super) fn feed<E: From<WireError>>(
        &mut self,
        mut bytes: &[u8],
        mut on: impl FnMut(u8, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        while !self.carry.is_empty() {
            let Some(frame) = header(&self.carry)? else {
                // A header has at most 10 bytes; one at a time is cheap and never reads beyond it.
                let Some((first, rest)) = bytes.split_first() else { return Ok(()) };
                self.carry.push(*first);
                bytes = rest;
                continue;
            };
            let missing = frame.end - self.carry.len();
            let (now, later) = bytes.split_at(missing.min(bytes.len()));
            self.carry.extend_from_slice(now);
            bytes = later;
            if now.len() < missing {
                return Ok(());
            }
            let carry = std::mem::take(&mut self.carry);
            self.frame(frame.first, &carry[frame.payload_at..], &mut on)?;
            // The allocation is worth keeping for small frames, not the payload of one large
            // message.
            if carry.capacity() <= 4_096 {
                self.carry = carry;
                self.carry.clear();
            }
        }
        while let Some(frame) = header(bytes)? {
            if bytes.len() < frame.end {
                break;
            }
            let (whole, rest) = bytes.split_at(frame.end);
            let payload = &whole[frame.payload_at..];
            if matches!(frame.first, TEXT_WHOLE | BINARY_WHOLE) && self.partial.is_none() {
                on(frame.first & 0x0f, payload)?;
            } else {
                self.frame(frame.first, payload, &mut on)?;
            }
            bytes = rest;
        }
        self.carry.extend_from_slice(bytes);
        Ok(())
    }

    /// One frame off the fast path.
    #[cold]
    fn frame<E: From<WireError>>(
        &mut self,
        first: u8,
        payload: &[u8],
        on: &mut impl FnMut(u8, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let fin = first & FIN != 0;
        match first & 0x0f {
            opcode @ (TEXT | BINARY) => {
                if self.partial.is_some() {
                    return Err(WireError::Fragmentation.into());
                }
                if fin {
                    return on(opcode, payload);
                }
                self.partial = Some((opcode, payload.to_vec()));
            }
            CONTINUATION => {
                let Some((opcode, mut message)) = self.partial.take() else {
                    return Err(WireError::Fragmentation.into());
                };
                if message.len() + payload.len() > MESSAGE_BYTES_MAX {
                    return Err(WireError::TooLong.into());
                }
                message.extend_from_slice(payload);
                if fin {
                    return on(opcode, &message);
                }
                self.partial = Some((opcode, message));
            }
            opcode @ (CLOSE | PING | PONG) if fin && payload.len() <= 125 => {
                return on(opcode, payload);
            }
            _ => return Err(WireError::Control.into()),
        }
        Ok(())
    }
}

const TEXT_WHOLE: u8 = FIN | TEXT;
const BINARY_WHOLE: u8 = FIN | BINARY;

/// Appends one whole frame as a client must send it: masked with `mask` (section 5.3).
pub(super) fn write_masked(out: &mut Vec<u8>, opcode: u8, mask: [u8; 4], payload: &[u8]) {
    out.push(FIN | opcode);
    match payload.len() {
        len @ 0..=125 => out.push(MASKED | len as u8),
        len @ 126..=0xffff => {
            out.push(MASKED | 126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.push(MASKED | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&mask);
    let start = out.len();
    out.extend_from_slice(payload);
    let word = u64::from_ne_bytes([
        mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3],
    ]);
    let (words, rest) = out[start..].as_chunks_mut::<8>();
    for chunk in words {
        *chunk = (u64::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
    }
    // The rest starts at a multiple of eight, so the mask starts anew.
    for (byte, key) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use tungstenite::protocol::frame::coding::{Data, OpCode};
    use tungstenite::protocol::frame::{Frame, FrameHeader};

    use super::*;

    fn server_frame(opcode: OpCode, fin: bool, payload: &[u8]) -> Vec<u8> {
        let frame = Frame::message(payload.to_vec(), opcode, fin);
        let mut bytes = Vec::new();
        frame.format(&mut bytes).unwrap();
        bytes
    }

    fn scan(chunks: &[&[u8]]) -> Result<Vec<(u8, Vec<u8>)>, WireError> {
        let mut scanner = Scanner::default();
        let mut seen = Vec::new();
        for chunk in chunks {
            scanner.feed(chunk, |opcode, payload| {
                seen.push((opcode, payload.to_vec()));
                Ok::<(), WireError>(())
            })?;
        }
        Ok(seen)
    }

    #[test]
    fn every_split_gives_the_same_messages() {
        let mut stream = Vec::new();
        let mut expected = Vec::new();
        for len in [0, 1, 16, 125, 126, 300] {
            let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
            stream.extend(server_frame(OpCode::Data(Data::Binary), true, &payload));
            expected.push((BINARY, payload));
        }
        stream.extend(server_frame(OpCode::Data(Data::Text), false, b"ab"));
        stream.extend([FIN | PING, 1, b'!']);
        stream.extend(server_frame(OpCode::Data(Data::Continue), false, b""));
        stream.extend(server_frame(OpCode::Data(Data::Continue), true, b"cd"));
        expected.push((PING, b"!".to_vec()));
        expected.push((TEXT, b"abcd".to_vec()));
        for first in 0..=stream.len() {
            for second in [first, (first + 1).min(stream.len()), stream.len()] {
                let chunks = [&stream[..first], &stream[first..second], &stream[second..]];
                assert_eq!(scan(&chunks).as_ref(), Ok(&expected), "split at {first}, {second}");
            }
        }
        let bytewise: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(scan(&bytewise), Ok(expected));
    }

    #[test]
    fn a_long_frame_is_carried_over_many_reads() {
        let payload = vec![7u8; 200_000];
        let stream = server_frame(OpCode::Data(Data::Binary), true, &payload);
        let chunks: Vec<&[u8]> = stream.chunks(65_536).collect();
        assert_eq!(scan(&chunks), Ok(vec![(BINARY, payload)]));
    }

    #[test]
    fn what_a_server_must_not_send_is_an_error() {
        let cases: [(&[u8], WireError); 6] = [
            (&[FIN | TEXT, MASKED | 1, 0, 0, 0, 0, 0], WireError::Masked),
            (&[FIN | 0x40 | TEXT, 0], WireError::ReservedBits),
            (&[FIN | CONTINUATION, 0], WireError::Fragmentation),
            (&[TEXT, 0, FIN | TEXT, 0], WireError::Fragmentation),
            (&[PING, 0], WireError::Control),
            (&[FIN | BINARY, 127, 1, 0, 0, 0, 0, 0, 0, 0], WireError::TooLong),
        ];
        for (bytes, error) in cases {
            assert_eq!(scan(&[bytes]), Err(error));
        }
    }

    #[test]
    fn masked_frames_are_read_back_by_tungstenite() {
        for len in [0, 1, 7, 8, 9, 125, 126, 1_000, 65_535, 65_536] {
            let payload: Vec<u8> = (0..len).map(|i| (i * 31) as u8).collect();
            let mut bytes = Vec::new();
            let mask = [0x12, 0x34, 0x56, 0x78];
            write_masked(&mut bytes, TEXT, mask, &payload);
            let mut cursor = Cursor::new(&bytes);
            let (header, length) = FrameHeader::parse(&mut cursor).unwrap().unwrap();
            assert_eq!(length, len as u64);
            assert!(header.is_final);
            assert_eq!(header.opcode, OpCode::Data(Data::Text));
            assert_eq!(header.mask, Some(mask));
            let at = cursor.position() as usize;
            let unmasked: Vec<u8> =
                bytes[at..].iter().enumerate().map(|(i, b)| b ^ mask[i % 4]).collect();
            assert_eq!(unmasked, payload);
        }
    }
}

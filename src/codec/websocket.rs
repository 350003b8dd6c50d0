//! WebSocket frames of RFC 6455: masked ones in, unmasked ones out.

use super::take_front;
use crate::codes::CloseReason;

/// Bytes of the longest header of an unmasked frame (RFC 6455 section 5.2).
pub const SERVER_HEADER_BYTES_MAX: usize = 10;

/// Bytes of the longest header of a masked frame.
const CLIENT_HEADER_BYTES_MAX: usize = SERVER_HEADER_BYTES_MAX + 4;

/// Bytes of the longest payload of a control frame (RFC 6455 section 5.5).
const CONTROL_BYTES_MAX: usize = 125;

/// What a frame carries (RFC 6455 section 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// The next fragment of a message.
    Continuation = 0,
    /// A text message or its first fragment.
    Text = 1,
    /// A binary message or its first fragment.
    Binary = 2,
    /// The closing handshake.
    Close = 8,
    /// Asks for a pong.
    Ping = 9,
    /// Answers a ping, or says unasked that the sender lives.
    Pong = 10,
}

impl Opcode {
    const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::Continuation),
            1 => Some(Self::Text),
            2 => Some(Self::Binary),
            8 => Some(Self::Close),
            9 => Some(Self::Ping),
            10 => Some(Self::Pong),
            _ => None,
        }
    }

    const fn is_control(self) -> bool {
        self as u8 >= 8
    }
}

/// A complete message or control frame of the peer, unmasked and checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A text message; all of it is UTF-8.
    Text(&'a str),
    /// A binary message.
    Binary(&'a [u8]),
    /// A ping with its payload, at most 125 bytes, to be answered by a pong with the same.
    Ping(&'a [u8]),
    /// A pong with its payload, at most 125 bytes.
    Pong(&'a [u8]),
    /// The peer closes, with a code that RFC 6455 section 7.4 lets it send, or with none.
    Close(Option<(u16, &'a str)>),
}

/// The server's reading side of one connection.
///
/// An idle reader is one pointer. A frame or message that is incomplete is collected in a box,
/// which the feed after its delivery frees. The box holds payload only, nothing per fragment, so
/// that a peer pins at most twice the bytes it sent and a constant.
#[derive(Debug, Default)]
pub struct Reader {
    partial: Option<Box<Partial>>,
}

/// A frame whose header is known.
#[derive(Debug)]
struct Frame {
    is_final: bool,
    opcode: Opcode,
    /// The mask, turned so that it begins with the key of the next payload byte.
    mask: [u8; 4],
    /// Payload bytes that have not been taken from the input.
    missing: usize,
}

/// What a peer has begun and not ended.
#[derive(Debug, Default)]
struct Partial {
    /// The front of a header that is cut off by the end of the input.
    header: [u8; CLIENT_HEADER_BYTES_MAX],
    header_bytes: usize,
    /// The frame whose payload is cut off by the end of the input.
    frame: Option<Frame>,
    /// Text or Binary while a message is open: fragments of it, or the rest of its frame, follow.
    open: Option<Opcode>,
    /// Payload of the open message, or of the one that the last feed delivered.
    message: Vec<u8>,
    /// Bytes at the front of `message` known to be UTF-8, if it is a text.
    utf8_bytes: usize,
    /// Payload of a control frame that came in pieces; apart, for it may sit between fragments.
    control: Vec<u8>,
}

/// What one pass over the input ended with.
enum Step<'i> {
    /// The input is used up.
    Starved,
    /// A message that lies in the input.
    Direct(Message<'i>),
    /// A checked message in the box: in `control` for a control frame, else in `message`.
    Collected(Opcode),
}

impl Reader {
    /// A reader at the start of the stream of frames.
    pub const fn new() -> Self {
        Self { partial: None }
    }

    /// Takes bytes from the front of `input` and returns the next complete message, or `None` when
    /// the input is used up. To be called until it returns `None`, also to free the last message.
    ///
    /// A whole message in one frame is unmasked in place and borrows the input. Any other message
    /// is collected, and lives until the next call. `message_bytes_max` bounds the payload of a
    /// message, however many frames it has; it is checked when a frame announces its length.
    ///
    /// # Errors
    /// The reason to close with: 1002 for a broken frame or close code, 1007 for text or a close
    /// reason that is not UTF-8, 1009 for a message above `message_bytes_max`. Messages in front of
    /// the offending frame are delivered first. The stream cannot be read any further.
    pub fn feed<'a, 'i: 'a>(
        &'a mut self,
        input: &mut &'i mut [u8],
        message_bytes_max: usize,
    ) -> Result<Option<Message<'a>>, CloseReason> {
        match self.partial.as_deref_mut() {
            Some(partial) if partial.is_idle() => self.partial = None,
            Some(partial) if partial.frame.is_none() => partial.control.clear(),
            _ => {}
        }
        match self.step(input, message_bytes_max) {
            Ok(Step::Starved) => Ok(None),
            Ok(Step::Direct(message)) => Ok(Some(message)),
            Ok(Step::Collected(opcode)) => {
                let partial = self.partial.get_or_insert_default();
                let payload = if opcode.is_control() { &partial.control } else { &partial.message };
                message(opcode, payload).map(Some)
            }
            Err(reason) => {
                self.partial = None;
                Err(reason)
            }
        }
    }

    /// Bytes of memory that the peer pins by what it has not completed, capacity included.
    pub fn buffered_bytes(&self) -> usize {
        self.partial.as_deref().map_or(0, |partial| {
            size_of::<Partial>() + partial.message.capacity() + partial.control.capacity()
        })
    }

    fn step<'i>(
        &mut self,
        input: &mut &'i mut [u8],
        message_bytes_max: usize,
    ) -> Result<Step<'i>, CloseReason> {
        loop {
            let begun = self.partial.as_deref_mut().and_then(|partial| partial.frame.take());
            let frame = match begun {
                Some(frame) => frame,
                None => {
                    let Some(frame) = self.next_frame(input, message_bytes_max)? else {
                        return Ok(Step::Starved);
                    };
                    if frame.is_whole_message() && frame.missing <= input.len() {
                        let payload = take_front(input, frame.missing);
                        unmask(payload, frame.mask);
                        return message(frame.opcode, payload).map(Step::Direct);
                    }
                    frame
                }
            };
            let partial = self.partial.get_or_insert_default();
            if let Some(opcode) = partial.collect(frame, input)? {
                partial.check(opcode)?;
                return Ok(Step::Collected(opcode));
            }
            if partial.frame.is_some() {
                return Ok(Step::Starved);
            }
        }
    }

    /// Takes a frame's header off the input, or all of the input if the header does not end there.
    fn next_frame(
        &mut self,
        input: &mut &mut [u8],
        message_bytes_max: usize,
    ) -> Result<Option<Frame>, CloseReason> {
        let (open, room) = match self.partial.as_deref() {
            Some(partial) => (partial.open.is_some(), partial.room(message_bytes_max)),
            None => (false, message_bytes_max),
        };
        let cut_off = match self.partial.as_deref_mut() {
            Some(partial) if partial.header_bytes > 0 => partial,
            _ => {
                if let Some((frame, header_bytes)) = parse_header(input, open, room)? {
                    take_front(input, header_bytes);
                    return Ok(Some(frame));
                }
                if input.is_empty() {
                    return Ok(None);
                }
                self.partial.get_or_insert_default()
            }
        };
        let had_bytes = cut_off.header_bytes;
        let taken = input.len().min(CLIENT_HEADER_BYTES_MAX - had_bytes);
        cut_off.header[had_bytes..had_bytes + taken].copy_from_slice(&input[..taken]);
        let header = &cut_off.header[..had_bytes + taken];
        if let Some((frame, header_bytes)) = parse_header(header, open, room)? {
            take_front(input, header_bytes - had_bytes);
            cut_off.header_bytes = 0;
            return Ok(Some(frame));
        }
        take_front(input, taken);
        cut_off.header_bytes += taken;
        Ok(None)
    }
}

impl Frame {
    fn is_whole_message(&self) -> bool {
        self.is_final && self.opcode != Opcode::Continuation
    }
}

impl Partial {
    /// Nothing is incomplete: what the buffers hold was delivered.
    fn is_idle(&self) -> bool {
        self.header_bytes == 0 && self.frame.is_none() && self.open.is_none()
    }

    /// Payload bytes that the next data frame may have.
    fn room(&self, message_bytes_max: usize) -> usize {
        let open_bytes = if self.open.is_some() { self.message.len() } else { 0 };
        message_bytes_max.saturating_sub(open_bytes)
    }

    /// Takes the payload of `frame` that is there; keeps the frame if it lacks some. Returns the
    /// opcode of the message that this completes.
    fn collect(
        &mut self,
        mut frame: Frame,
        input: &mut &mut [u8],
    ) -> Result<Option<Opcode>, CloseReason> {
        let taken = frame.missing.min(input.len());
        let payload = take_front(input, taken);
        unmask(payload, frame.mask);
        frame.mask.rotate_left(taken % 4);
        frame.missing -= taken;
        if frame.opcode.is_control() {
            self.control.extend_from_slice(payload);
        } else {
            if frame.opcode != Opcode::Continuation {
                self.open = Some(frame.opcode);
            }
            self.message.extend_from_slice(payload);
            if self.open == Some(Opcode::Text) {
                self.check_utf8()?;
            }
        }
        if frame.missing > 0 {
            self.frame = Some(frame);
            return Ok(None);
        }
        if frame.opcode.is_control() {
            return Ok(Some(frame.opcode));
        }
        Ok(if frame.is_final { self.open.take() } else { None })
    }

    /// Checks what only the end of a message shows.
    fn check(&self, ended: Opcode) -> Result<(), CloseReason> {
        match ended {
            Opcode::Text if self.utf8_bytes < self.message.len() => {
                Err(CloseReason::INVALID_PAYLOAD)
            }
            Opcode::Close => close_message(&self.control).map(drop),
            _ => Ok(()),
        }
    }

    /// Looks at what came since the last check; a code point may be cut off by the end.
    fn check_utf8(&mut self) -> Result<(), CloseReason> {
        match str::from_utf8(&self.message[self.utf8_bytes..]) {
            Ok(text) => self.utf8_bytes += text.len(),
            Err(error) if error.error_len().is_none() => self.utf8_bytes += error.valid_up_to(),
            Err(_) => return Err(CloseReason::INVALID_PAYLOAD),
        }
        Ok(())
    }
}

/// Reads a masked frame's header and its length in bytes, or `None` if `bytes` end within it.
/// `open`: a fragmented message waits for its next fragment. `room`: bytes a data frame may have.
fn parse_header(
    bytes: &[u8],
    open: bool,
    room: usize,
) -> Result<Option<(Frame, usize)>, CloseReason> {
    let Some(&first) = bytes.first() else { return Ok(None) };
    let is_final = first & 0x80 != 0;
    let opcode = match Opcode::from_bits(first & 0x0f) {
        Some(opcode) if first & 0x70 == 0 => opcode,
        _ => return Err(CloseReason::PROTOCOL_ERROR),
    };
    let in_sequence = match opcode {
        Opcode::Continuation => open,
        Opcode::Text | Opcode::Binary => !open,
        Opcode::Close | Opcode::Ping | Opcode::Pong => is_final,
    };
    if !in_sequence {
        return Err(CloseReason::PROTOCOL_ERROR);
    }
    let Some(&second) = bytes.get(1) else { return Ok(None) };
    let short = second & 0x7f;
    let is_masked = second & 0x80 != 0;
    if !is_masked || (opcode.is_control() && usize::from(short) > CONTROL_BYTES_MAX) {
        return Err(CloseReason::PROTOCOL_ERROR);
    }
    let rest = &bytes[2..];
    let (length, length_min, length_bytes) = match short {
        126 => match rest.first_chunk() {
            Some(&long) => (u64::from(u16::from_be_bytes(long)), 126, 2),
            None => return Ok(None),
        },
        127 => match rest.first_chunk() {
            Some(&long) => (u64::from_be_bytes(long), 1 << 16, 8),
            None => return Ok(None),
        },
        short => (u64::from(short), 0, 0),
    };
    if length < length_min || length > i64::MAX as u64 {
        return Err(CloseReason::PROTOCOL_ERROR);
    }
    let missing = match usize::try_from(length) {
        Ok(missing) if opcode.is_control() || missing <= room => missing,
        _ => return Err(CloseReason::MESSAGE_TOO_BIG),
    };
    let Some(&mask) = rest[length_bytes..].first_chunk() else { return Ok(None) };
    Ok(Some((Frame { is_final, opcode, mask, missing }, 2 + length_bytes + mask.len())))
}

/// Unmasks `payload`, whose first byte goes with the first of `mask` (RFC 6455 section 5.3).
fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let key = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, tail) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ key).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip(key.to_ne_bytes()) {
        *byte ^= key;
    }
}

/// Gives a complete payload its meaning.
fn message(opcode: Opcode, payload: &[u8]) -> Result<Message<'_>, CloseReason> {
    match opcode {
        Opcode::Text => {
            str::from_utf8(payload).map(Message::Text).or(Err(CloseReason::INVALID_PAYLOAD))
        }
        Opcode::Binary => Ok(Message::Binary(payload)),
        Opcode::Ping => Ok(Message::Ping(payload)),
        Opcode::Pong => Ok(Message::Pong(payload)),
        Opcode::Close => close_message(payload),
        // No message begins with one: `parse_header` knows whether a message is open.
        Opcode::Continuation => Err(CloseReason::PROTOCOL_ERROR),
    }
}

fn close_message(payload: &[u8]) -> Result<Message<'_>, CloseReason> {
    let Some((&code, reason)) = payload.split_first_chunk() else {
        return if payload.is_empty() {
            Ok(Message::Close(None))
        } else {
            Err(CloseReason::PROTOCOL_ERROR)
        };
    };
    let code = u16::from_be_bytes(code);
    // RFC 6455 section 7.4 and the IANA registry: 1004-1006 and 1015 never travel.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(CloseReason::PROTOCOL_ERROR);
    }
    let reason = str::from_utf8(reason).or(Err(CloseReason::INVALID_PAYLOAD))?;
    Ok(Message::Close(Some((code, reason))))
}

/// The header of an unmasked final frame, at the end of the array, and its length in bytes.
fn header(opcode: Opcode, payload_bytes: usize) -> ([u8; SERVER_HEADER_BYTES_MAX], usize) {
    let mut header = [0; SERVER_HEADER_BYTES_MAX];
    let (short, header_bytes) = match payload_bytes {
        0..=125 => (payload_bytes as u8, 2),
        126..=0xffff => (126, 4),
        _ => (127, 10),
    };
    // The length sits right before the payload; a shorter form keeps its last bytes only.
    header[2..].copy_from_slice(&(payload_bytes as u64).to_be_bytes());
    let start = SERVER_HEADER_BYTES_MAX - header_bytes;
    header[start] = 0x80 | opcode as u8;
    header[start + 1] = short;
    (header, header_bytes)
}

/// Writes the header of an unmasked final frame so that it ends where the payload begins.
///
/// `buffer[payload_start..]` is the payload. Returns the index at which the frame starts.
///
/// # Panics
/// If there are fewer than [`SERVER_HEADER_BYTES_MAX`] bytes before `payload_start`.
pub fn put_header(buffer: &mut [u8], payload_start: usize, opcode: Opcode) -> usize {
    assert!(payload_start >= SERVER_HEADER_BYTES_MAX, "no room for the header of a frame");
    let (header, header_bytes) = header(opcode, buffer.len() - payload_start);
    let start = payload_start - header_bytes;
    buffer[start..payload_start].copy_from_slice(&header[SERVER_HEADER_BYTES_MAX - header_bytes..]);
    start
}

/// Appends a whole unmasked frame to `out`.
pub fn write_frame(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    let (header, header_bytes) = header(opcode, payload.len());
    out.reserve(header_bytes + payload.len());
    out.extend_from_slice(&header[SERVER_HEADER_BYTES_MAX - header_bytes..]);
    out.extend_from_slice(payload);
}

/// Appends a close frame to `out`; a reason longer than a control frame is cut.
pub fn write_close(out: &mut Vec<u8>, code: u16, reason: &str) {
    let text_bytes = reason.floor_char_boundary(CONTROL_BYTES_MAX - 2);
    let mut payload = Vec::with_capacity(2 + text_bytes);
    payload.extend_from_slice(&code.to_be_bytes());
    payload.extend_from_slice(&reason.as_bytes()[..text_bytes]);
    write_frame(out, Opcode::Close, &payload);
}

//! Bytes on the wire and the values they stand for: HTTP/1.1, WebSocket frames, server-sent events, chunks.
//!
//! PURE. A reader is fed what a receive brought, hands out one value per call that borrows those
//! bytes where it can, and keeps a box of its own only while something is incomplete.

pub mod chunked;
pub mod handshake;
pub mod http;
pub mod json;
pub mod sse;
pub mod transport;
pub mod websocket;

use std::mem;

/// Cuts the first `bytes` off `input` for as long as the input itself lives.
fn take_front<'i>(input: &mut &'i mut [u8], bytes: usize) -> &'i mut [u8] {
    let (front, rest) = mem::take(input).split_at_mut(bytes);
    *input = rest;
    front
}

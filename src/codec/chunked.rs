//! The chunked coding of a response that does not end by itself (RFC 9112 section 7.1).

use std::io::Write;

/// Bytes of the longest header of a chunk: eight hexadecimal digits and CRLF.
pub const CHUNK_HEADER_BYTES_MAX: usize = 10;

/// The chunk that ends a response; what was cut off has none.
pub const END: &[u8] = b"0\r\n\r\n";

/// Appends one chunk that `write` fills with `bytes` bytes, one at least.
pub fn write_chunk(out: &mut Vec<u8>, bytes: usize, write: impl FnOnce(&mut Vec<u8>)) {
    out.reserve(bytes + CHUNK_HEADER_BYTES_MAX + 2);
    // Writing to a vector does not fail.
    let _ = write!(out, "{bytes:x}\r\n");
    let before = out.len();
    write(out);
    debug_assert_eq!(out.len() - before, bytes, "a chunk has the size that it announces");
    out.extend_from_slice(b"\r\n");
}

/// Makes `buffer[start..]` one chunk: its header ends where the content begins. Returns the index at
/// which the chunk starts.
///
/// # Panics
/// If there are fewer than [`CHUNK_HEADER_BYTES_MAX`] bytes before `start`.
pub fn close_chunk(buffer: &mut Vec<u8>, start: usize) -> usize {
    let header = format!("{:x}\r\n", buffer.len() - start);
    let from = start.checked_sub(header.len()).expect("there is room for the header of a chunk");
    buffer[from..start].copy_from_slice(header.as_bytes());
    buffer.extend_from_slice(b"\r\n");
    from
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_make_the_same_chunk() {
        for content in ["x".to_owned(), "y".repeat(0x1234)] {
            let mut written = b"before".to_vec();
            write_chunk(&mut written, content.len(), |out| out.extend(content.as_bytes()));
            let mut closed = vec![0; CHUNK_HEADER_BYTES_MAX];
            closed.extend(content.as_bytes());
            let from = close_chunk(&mut closed, CHUNK_HEADER_BYTES_MAX);
            assert_eq!(written[6..], closed[from..]);
            assert_eq!(written[6..], *format!("{:x}\r\n{content}\r\n", content.len()).as_bytes());
        }
    }
}

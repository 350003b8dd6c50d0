//! The time stamp in a payload: when the message was meant to be sent, as text that is valid inside
//! a JSON string.

/// Bytes of a stamp: nanoseconds of the generator's clock as lower-case hexadecimal digits.
pub(super) const STAMP_BYTES: usize = 16;

/// Writes `ns`, all sixteen digits.
pub(super) fn encode(ns: u64) -> [u8; STAMP_BYTES] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    std::array::from_fn(|i| DIGITS[(ns >> (60 - 4 * i)) as usize & 0xf])
}

/// Reads the stamp that `bytes` begin with; `None` if there is none.
pub(super) fn decode(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk::<STAMP_BYTES>()?.iter().try_fold(0u64, |ns, byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => return None,
        };
        Some(ns << 4 | u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for ns in [0, 1, 15, 16, 0x0123_4567_89ab_cdef, 120_000_000_000, u64::MAX] {
            let text = encode(ns);
            assert!(text.iter().all(u8::is_ascii_alphanumeric));
            assert_eq!(decode(&text), Some(ns));
            assert_eq!(decode(&[&text[..], b"xxxx"].concat()), Some(ns));
        }
    }

    #[test]
    fn anything_else_is_no_stamp() {
        assert_eq!(decode(b""), None);
        assert_eq!(decode(b"0123456789abcde"), None);
        assert_eq!(decode(b"0123456789abcdeF"), None);
        assert_eq!(decode(b"hello, world, hi"), None);
    }
}

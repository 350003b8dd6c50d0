//! JSON that is passed on and not understood: one value, on one line.

use bytes::Bytes;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// For a field whose JSON `null` is a value and not an absence.
///
/// # Errors
/// What is there is no JSON.
pub fn present<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Copies valid JSON so that it takes one line.
///
/// Replies and pushes are separated by newlines, and lines of server-sent events by carriage
/// returns too. Neither can stand inside a JSON string, so a space in its place changes nothing.
pub fn one_line(json: &RawValue) -> Bytes {
    let json = json.get().as_bytes();
    if !json.iter().any(|&byte| byte == b'\n' || byte == b'\r') {
        return Bytes::copy_from_slice(json);
    }
    json.iter().map(|&byte| if byte == b'\n' || byte == b'\r' { b' ' } else { byte }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newlines_between_tokens_become_spaces() {
        let json: Box<RawValue> = serde_json::from_str("{\n\"a\\n\":\r\n[1,\n2]}").unwrap();
        assert_eq!(&one_line(&json)[..], b"{ \"a\\n\":  [1, 2]}");
        let json: Box<RawValue> = serde_json::from_str("[1, 2]").unwrap();
        assert_eq!(&one_line(&json)[..], b"[1, 2]");
    }
}

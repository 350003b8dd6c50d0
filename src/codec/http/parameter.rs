//! Parameters of a query, and percent-encoded text (WHATWG URL, section 5; RFC 3986 section 2.1).

/// The first parameter of this name, decoded as forms are: `+` is a blank.
///
/// # Errors
/// What is wrong with it, in the terms of the sender.
pub fn parameter(query: Option<&str>, name: &str) -> Result<Option<String>, &'static str> {
    let mut pairs = query.unwrap_or_default().split('&');
    let value = pairs.find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    let Some(value) = value else { return Ok(None) };
    decode(&value.replace('+', " ")).map(Some).ok_or("a parameter is not percent-encoded UTF-8")
}

/// Text without its percent-encoding; `None` when that is broken or not of UTF-8.
pub fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        rest = behind;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let (digits, behind) = rest.split_at_checked(2)?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        bytes.push(u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?);
        rest = behind;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let query = Some("a=1&bc=x%22%C3%A9+%2B&b=&b=2");
        assert_eq!(parameter(query, "a"), Ok(Some("1".into())));
        assert_eq!(parameter(query, "bc"), Ok(Some("x\"\u{e9} +".into())));
        assert_eq!(parameter(query, "b"), Ok(Some(String::new())), "the first one counts");
        assert_eq!((parameter(query, "c"), parameter(None, "a")), (Ok(None), Ok(None)));
        for broken in ["a=%", "a=%2", "a=%+1", "a=%zz", "a=%ff"] {
            assert!(parameter(Some(broken), "a").is_err(), "{broken}");
        }
    }
}

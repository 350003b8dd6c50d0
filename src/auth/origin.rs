//! Whether a browser's page may connect, by the `Origin` header (RFC 6454).

/// Whether a request with this `Origin` is allowed: none at all (not a browser), the server's own
/// host, or one that a pattern matches. In a pattern `*` stands for any characters; patterns are
/// compared with the whole origin, `scheme://host[:port]`, in lower case.
pub fn is_allowed(origin: Option<&[u8]>, host: Option<&str>, patterns: &[String]) -> bool {
    let Some(origin) = origin else { return true };
    let Ok(origin) = std::str::from_utf8(origin) else { return false };
    let origin = origin.to_ascii_lowercase();
    if patterns.iter().any(|pattern| matches(pattern, &origin)) {
        return true;
    }
    let of_origin = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    matches!((host, of_origin), (Some(own), Some(of_origin)) if own.eq_ignore_ascii_case(of_origin))
}

fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(origin: &str, patterns: &[&str]) -> bool {
        let patterns: Vec<String> = patterns.iter().map(ToString::to_string).collect();
        is_allowed(Some(origin.as_bytes()), Some("rt.example.com"), &patterns)
    }

    #[test]
    fn no_origin_passes_and_the_own_host_does() {
        assert!(is_allowed(None, Some("rt.example.com"), &[]));
        assert!(allowed("https://RT.example.com", &[]));
        assert!(!allowed("https://rt.example.com:8443", &[]), "another port is another origin");
        assert!(!allowed("https://example.com", &[]));
        assert!(!allowed("null", &[]));
    }

    #[test]
    fn patterns_match_whole_origins() {
        let patterns = ["https://*.example.com", "http://localhost:*"];
        assert!(allowed("https://a.example.com", &patterns));
        assert!(allowed("http://localhost:3000", &patterns));
        assert!(!allowed("https://example.com.evil.org", &patterns));
        assert!(!allowed("https://a.example.com.evil.org", &patterns));
        assert!(!allowed("http://a.example.com", &patterns), "the scheme counts");
        assert!(!allowed("https://evilexample.com", &patterns));
        assert!(allowed("https://any.org", &["*"]));
        assert!(!allowed("https://ab", &["https://ab*b"]), "parts do not overlap");
    }
}

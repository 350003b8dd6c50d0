//! Whether a request carries the key of the API.

use crate::auth::keys_match;

/// Whether a request carries the API key: as `X-API-Key`, as `Authorization: apikey K`, or as
/// `api_key` of the query.
///
/// As in Centrifugo an `X-API-Key` hides the `Authorization`, and the query counts beside both. It
/// is compared as it stands: a key of letters, digits, `-`, `.`, `_` and `~` needs no escapes. An
/// empty key authorizes nobody.
pub fn authorized(
    key: &str,
    x_api_key: Option<&[u8]>,
    authorization: Option<&[u8]>,
    query: Option<&str>,
) -> bool {
    let by_header = match (x_api_key.filter(|given| !given.is_empty()), authorization) {
        (Some(given), _) => keys_match(key, given),
        (None, Some(given)) => api_key(given).is_some_and(|given| keys_match(key, given)),
        (None, None) => false,
    };
    let mut pairs = query.unwrap_or_default().split('&');
    by_header
        || pairs
            .find_map(|pair| pair.strip_prefix("api_key="))
            .is_some_and(|given| keys_match(key, given.as_bytes()))
}

/// The key of `apikey K`.
fn api_key(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, given) = authorization.trim_ascii().split_at_checked("apikey".len())?;
    (scheme.eq_ignore_ascii_case(b"apikey") && given.first()?.is_ascii_whitespace())
        .then(|| given.trim_ascii_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_taken_from_three_places() {
        let key = "k-1";
        let ok = |x: Option<&str>, auth: Option<&str>, query: Option<&str>| {
            authorized(key, x.map(str::as_bytes), auth.map(str::as_bytes), query)
        };
        assert!(ok(Some("k-1"), None, None));
        assert!(ok(Some("k-1"), Some("apikey wrong"), Some("api_key=wrong")));
        assert!(ok(None, Some("apikey k-1"), None));
        assert!(ok(Some(""), Some("ApiKey  k-1"), None));
        assert!(ok(None, None, Some("api_key=k-1")));
        assert!(ok(Some("wrong"), None, Some("a=b&api_key=k-1")));

        assert!(!ok(None, None, None));
        assert!(!ok(Some("k-2"), None, None));
        assert!(!ok(Some("wrong"), Some("apikey k-1"), None));
        for auth in ["", "apikey", "apikey ", "apikeyk-1", "Bearer k-1", "k-1", "apikey k-1 x"] {
            assert!(!ok(None, Some(auth), None), "{auth}");
        }
        for query in ["", "api_key", "api_key=", "xapi_key=k-1", "api_key=k-2&api_key=k-1"] {
            assert!(!ok(None, None, Some(query)), "{query}");
        }
        for none in [None, Some(&b""[..])] {
            assert!(!authorized("", none, Some(b"apikey "), Some("api_key=")));
        }
    }
}

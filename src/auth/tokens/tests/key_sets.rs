//! Keys by their ids: rotation, keys that are not there, and sets that hold more than we use.

use jsonwebtoken::{
    Algorithm::{self, *},
    jwk::Jwk,
};
use proptest::prelude::*;
use serde_json::json;

use super::{
    super::*,
    NOW, SECRET,
    algorithms::{ALL, private},
    is_invalid, sign_with,
};

/// The public half of the key with which tests sign, as a provider publishes it.
fn jwk(algorithm: Algorithm, id: &str) -> Value {
    let mut jwk = Jwk::from_encoding_key(&private(algorithm), algorithm).unwrap();
    jwk.common.key_id = Some(id.to_owned());
    serde_json::to_value(jwk).unwrap()
}

fn with(mut jwk: Value, name: &str, value: Value) -> Value {
    jwk[name] = value;
    jwk
}

fn without(mut jwk: Value, name: &str) -> Value {
    jwk.as_object_mut().unwrap().remove(name);
    jwk
}

fn parse(keys: &[Value]) -> Result<KeySet, String> {
    KeySet::parse(json!({"keys": keys}).to_string().as_bytes())
}

fn by_key_set() -> Tokens {
    // The secret is there to be ignored.
    let options =
        TokenOptions { key_set: true, hmac_secret_key: SECRET.into(), ..TokenOptions::default() };
    Tokens::with(options).unwrap()
}

fn tokens(keys: &[Value]) -> Tokens {
    let tokens = by_key_set();
    tokens.set_keys(Arc::new(parse(keys).unwrap()), NOW);
    tokens
}

fn token(algorithm: Algorithm, id: &str) -> String {
    sign_with(algorithm, &private(algorithm), Some(id), &json!({"sub": "42"}))
}

#[test]
fn a_key_verifies_the_tokens_that_name_it() {
    let public = ALL.into_iter().filter(|algorithm| !format!("{algorithm:?}").starts_with('H'));
    let public: Vec<Algorithm> = public.collect();
    let keys: Vec<Value> = public.iter().map(|of| jwk(*of, &format!("k-{of:?}"))).collect();
    let tokens = tokens(&keys);
    for of in public {
        let id = format!("k-{of:?}");
        assert!(tokens.verify_connection(&token(of, &id), NOW).is_ok(), "{of:?}");
        // A key that names its algorithm is for that one alone.
        for other in [RS256, PS256, ES256, ES384, EdDSA].into_iter().filter(|other| *other != of) {
            assert!(
                is_invalid(tokens.verify_connection(&token(other, &id), NOW)),
                "{other:?} {id}"
            );
        }
    }
}

#[test]
fn a_key_without_an_algorithm_is_for_all_of_its_kind() {
    let tokens = tokens(&[
        without(jwk(RS256, "rsa"), "alg"),
        without(jwk(ES384, "ec"), "alg"),
        without(jwk(EdDSA, "ed"), "alg"),
    ]);
    for (algorithm, id, valid) in [
        (RS256, "rsa", true),
        (PS512, "rsa", true),
        (ES384, "ec", true),
        (ES256, "ec", false),
        (EdDSA, "ed", true),
        (EdDSA, "rsa", false),
        (HS256, "rsa", false),
    ] {
        let result = tokens.verify_connection(&token(algorithm, id), NOW);
        assert_eq!(result.is_ok(), valid, "{algorithm:?} {id}");
    }
}

#[test]
fn one_id_may_have_keys_of_several_kinds() {
    let tokens = tokens(&[jwk(RS256, "k"), jwk(ES256, "k")]);
    for algorithm in [RS256, ES256] {
        assert!(tokens.verify_connection(&token(algorithm, "k"), NOW).is_ok());
    }
}

#[test]
fn with_a_key_set_other_keys_do_not_count() {
    let tokens = tokens(&[jwk(ES256, "k")]);
    for id in [None, Some(""), Some("k")] {
        let key = private(HS256);
        let forged = sign_with(HS256, &key, id, &json!({"sub": "42"}));
        assert!(is_invalid(tokens.verify_connection(&forged, NOW)), "{id:?}");
    }
    let unnamed = sign_with(ES256, &private(ES256), None, &json!({"sub": "42"}));
    assert!(is_invalid(tokens.verify_connection(&unnamed, NOW)));
}

#[test]
fn an_unknown_key_may_come_with_a_newer_set() {
    let tokens = by_key_set();
    let new = token(ES256, "new");
    assert_eq!(tokens.verify_connection(&new, NOW).unwrap_err(), TokenError::UnknownKey);

    tokens.set_keys(Arc::new(parse(&[jwk(RS256, "old")]).unwrap()), NOW);
    for (now, unknown) in [
        (NOW, false),
        (NOW - 9, false),
        (NOW + KEY_SET_FETCH_PAUSE_S - 1, false),
        (NOW + KEY_SET_FETCH_PAUSE_S, true),
    ] {
        let error = tokens.verify_connection(&new, now).unwrap_err();
        assert_eq!(error == TokenError::UnknownKey, unknown, "{now}: {error}");
    }

    tokens.set_keys(Arc::new(parse(&[jwk(RS256, "old"), jwk(ES256, "new")]).unwrap()), NOW);
    assert!(tokens.verify_connection(&new, NOW).is_ok());
    assert!(tokens.verify_connection(&token(RS256, "old"), NOW).is_ok());

    tokens.set_keys(Arc::new(parse(&[jwk(ES256, "new")]).unwrap()), NOW);
    assert!(is_invalid(tokens.verify_connection(&token(RS256, "old"), NOW)));
}

#[test]
fn a_set_is_ignored_where_none_was_asked_for() {
    let tokens = Tokens::new(SECRET, None, None);
    tokens.set_keys(Arc::new(parse(&[jwk(ES256, "k")]).unwrap()), NOW);
    assert!(is_invalid(tokens.verify_connection(&token(ES256, "k"), NOW)));
    assert!(tokens.verify_connection(&token(HS256, "k"), NOW).is_ok());
}

#[test]
fn keys_for_other_purposes_are_left_out() {
    let short = |length| data_encoding::BASE64URL_NOPAD.encode(&vec![1; length]);
    let ids = |keys: &[Value]| -> Vec<String> {
        parse(keys).unwrap().key_ids().map(str::to_owned).collect()
    };
    for usable in [
        with(jwk(RS256, "x"), "use", json!("sig")),
        with(jwk(RS256, "x"), "key_ops", json!(["verify"])),
        with(jwk(RS256, "x"), "e", json!("AAAAAAEAAQ")),
        with(jwk(RS256, "x"), "x5c", json!(["MII"])),
    ] {
        assert_eq!(ids(std::slice::from_ref(&usable)), ["x"], "{usable}");
    }
    for other in [
        with(jwk(RS256, "x"), "use", json!("enc")),
        with(jwk(RS256, "x"), "key_ops", json!(["encrypt"])),
        with(jwk(RS256, "x"), "alg", json!("RSA-OAEP")),
        with(jwk(RS256, "x"), "alg", json!("ES256")),
        with(jwk(RS256, "x"), "alg", json!("HS256")),
        with(jwk(RS256, "x"), "n", json!("AQAB")),
        with(jwk(RS256, "x"), "e", json!(short(9))),
        with(jwk(RS256, "x"), "kty", json!("PQC")),
        with(jwk(ES256, "x"), "crv", json!("P-521")),
        with(without(jwk(ES256, "x"), "alg"), "crv", json!("P-384")),
        with(jwk(ES256, "x"), "y", json!(short(32))),
        with(jwk(ES256, "x"), "y", json!("")),
        with(jwk(EdDSA, "x"), "crv", json!("X25519")),
        with(jwk(EdDSA, "x"), "crv", json!("P-256")),
        with(jwk(EdDSA, "x"), "x", json!(short(31))),
        with(jwk(EdDSA, "x"), "x", json!(short(33))),
        with(jwk(EdDSA, "x"), "x", json!("")),
        with(jwk(HS256, "x"), "k", json!("c2VjcmV0")),
        without(jwk(RS256, "x"), "kid"),
        json!({"kid": "x"}),
        json!(null),
    ] {
        assert_eq!(ids(&[other.clone(), jwk(RS256, "good")]), ["good"], "{other}");
    }
}

#[test]
fn what_is_no_usable_set_is_refused() {
    let many: Vec<Value> = (0..=crate::limits::KEY_SET_KEYS_MAX).map(|_| json!({})).collect();
    for (text, said) in [
        ("", "no key set"),
        ("<html>", "no key set"),
        ("[]", "no key set"),
        ("{}", "no key set"),
        (r#"{"keys":{}}"#, "no key set"),
        (r#"{"keys":[]}"#, "none of its keys"),
        (r#"{"keys":[{"kty":"oct","kid":"k","k":"c2VjcmV0"}]}"#, "none of its keys"),
        (&json!({"keys": many}).to_string(), "more than"),
    ] {
        let error = KeySet::parse(text.as_bytes()).unwrap_err();
        assert!(error.contains(said), "{text}: {error}");
    }
}

proptest! {
    #[test]
    fn random_keys_never_panic(
        kind in "RSA|EC|OKP|oct",
        curve in "P-256|P-384|P-521|Ed25519|X25519",
        numbers in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..520), 4),
        signature in prop::collection::vec(any::<u8>(), 0..520),
    ) {
        let [n, e, x, y] = [0, 1, 2, 3].map(|i: usize| data_encoding::BASE64URL_NOPAD.encode(&numbers[i]));
        let key = json!({"kty": kind, "kid": "k", "crv": curve, "n": n, "e": e, "x": x, "y": y, "k": x});
        // 32 bytes are often an Ed25519 key, odd numbers with a small exponent an RSA key.
        let short = with(key.clone(), "x", json!(data_encoding::BASE64URL_NOPAD.encode(&[7; 32])));
        let usual = with(key.clone(), "e", json!("AQAB"));
        for key in [key, short, usual] {
            let Ok(set) = parse(&[key]) else { continue };
            let tokens = by_key_set();
            tokens.set_keys(Arc::new(set), NOW);
            for algorithm in ALL {
                let token = token(HS256, "k");
                let payload = token.split('.').nth(1).unwrap();
                let header = json!({"alg": format!("{algorithm:?}"), "kid": "k"}).to_string();
                let header = data_encoding::BASE64URL_NOPAD.encode(header.as_bytes());
                let signature = data_encoding::BASE64URL_NOPAD.encode(&signature);
                let token = format!("{header}.{payload}.{signature}");
                prop_assert!(is_invalid(tokens.verify_connection(&token, NOW)));
            }
        }
    }

    #[test]
    fn random_documents_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(KeySet::parse(&bytes).is_err());
    }
}

//! Every algorithm with every kind of key: a signature holds with its own and with nothing else.

use jsonwebtoken::Algorithm::{self, *};

use super::{super::*, NOW, SECRET, is_invalid, sign_with};
use jsonwebtoken::EncodingKey;
use serde_json::json;

const RSA: &str = include_str!("../../../../tests/keys/rsa.pem");
const RSA_PUBLIC: &str = include_str!("../../../../tests/keys/rsa.pub.pem");
const RSA_PUBLIC_PKCS1: &str = include_str!("../../../../tests/keys/rsa-pkcs1.pub.pem");
const RSA_1024_PUBLIC: &str = include_str!("../../../../tests/keys/rsa-1024.pub.pem");
const P256: &str = include_str!("../../../../tests/keys/p256.pem");
const P256_PUBLIC: &str = include_str!("../../../../tests/keys/p256.pub.pem");
const P384: &str = include_str!("../../../../tests/keys/p384.pem");
const P384_PUBLIC: &str = include_str!("../../../../tests/keys/p384.pub.pem");
const P521_PUBLIC: &str = include_str!("../../../../tests/keys/p521.pub.pem");
const ED25519: &str = include_str!("../../../../tests/keys/ed25519.pem");
const ED25519_PUBLIC: &str = include_str!("../../../../tests/keys/ed25519.pub.pem");
const X25519_PUBLIC: &str = include_str!("../../../../tests/keys/x25519.pub.pem");

pub(super) const ALL: [Algorithm; 12] =
    [HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA];

/// The key with which tests sign.
pub(super) fn private(algorithm: Algorithm) -> EncodingKey {
    match algorithm {
        HS256 | HS384 | HS512 => EncodingKey::from_secret(SECRET.as_bytes()),
        ES256 => EncodingKey::from_ec_pem(P256.as_bytes()).unwrap(),
        ES384 => EncodingKey::from_ec_pem(P384.as_bytes()).unwrap(),
        EdDSA => EncodingKey::from_ed_pem(ED25519.as_bytes()).unwrap(),
        _ => EncodingKey::from_rsa_pem(RSA.as_bytes()).unwrap(),
    }
}

/// Each kind of key alone, and the algorithms that are its own.
fn kinds() -> [(TokenOptions, &'static [Algorithm]); 5] {
    let none = TokenOptions::default;
    let list = |pem: &str| vec![pem.to_owned()];
    [
        (TokenOptions { hmac_secret_key: SECRET.into(), ..none() }, &[HS256, HS384, HS512]),
        (
            TokenOptions { rsa_public_keys: list(RSA_PUBLIC), ..none() },
            &[RS256, RS384, RS512, PS256, PS384, PS512],
        ),
        (TokenOptions { ecdsa_public_keys: list(P256_PUBLIC), ..none() }, &[ES256]),
        (TokenOptions { ecdsa_public_keys: list(P384_PUBLIC), ..none() }, &[ES384]),
        (TokenOptions { ed25519_public_keys: list(ED25519_PUBLIC), ..none() }, &[EdDSA]),
    ]
}

fn all_keys() -> TokenOptions {
    TokenOptions {
        hmac_secret_key: SECRET.into(),
        rsa_public_keys: vec![RSA_PUBLIC.to_owned()],
        ecdsa_public_keys: vec![P256_PUBLIC.to_owned(), P384_PUBLIC.to_owned()],
        ed25519_public_keys: vec![ED25519_PUBLIC.to_owned()],
        ..TokenOptions::default()
    }
}

#[test]
fn every_algorithm_needs_its_own_kind_of_key() {
    let all = Tokens::with(all_keys()).unwrap();
    let kinds = kinds().map(|(options, own)| (Tokens::with(options).unwrap(), own));
    for algorithm in ALL {
        let token = sign_with(algorithm, &private(algorithm), None, &json!({"sub": "42"}));
        assert_eq!(all.verify_connection(&token, NOW).unwrap().user, "42", "{algorithm:?}");
        for (tokens, own) in &kinds {
            let result = tokens.verify_connection(&token, NOW);
            assert_eq!(result.is_ok(), own.contains(&algorithm), "{algorithm:?} with {own:?}");
        }
        let subscription = json!({"sub": "42", "channel": "news"});
        let token = sign_with(algorithm, &private(algorithm), None, &subscription);
        assert_eq!(all.verify_subscription(&token, NOW).unwrap().channel, "news");
    }
}

#[test]
fn changed_signatures_and_claims_are_refused() {
    let tokens = Tokens::with(all_keys()).unwrap();
    for algorithm in ALL {
        let token = sign_with(algorithm, &private(algorithm), None, &json!({"sub": "42"}));
        let other = sign_with(algorithm, &private(algorithm), None, &json!({"sub": "43"}));
        let (message, signature) = token.rsplit_once('.').unwrap();
        let (other_message, _) = other.rsplit_once('.').unwrap();
        assert!(is_invalid(tokens.verify_connection(&format!("{other_message}.{signature}"), NOW)));
        for changed in ["", "AA", &signature[4..], &format!("AAAA{}", &signature[4..])] {
            let token = format!("{message}.{changed}");
            assert!(is_invalid(tokens.verify_connection(&token, NOW)), "{algorithm:?} {changed}");
        }
    }
}

#[test]
fn a_public_key_is_never_a_secret() {
    // What an attacker has: the public key, in every form in which somebody might take it.
    let der = data_encoding::BASE64.decode(
        RSA_PUBLIC.lines().filter(|line| !line.starts_with('-')).collect::<String>().as_bytes(),
    );
    let forms = [
        RSA_PUBLIC.as_bytes().to_vec(),
        RSA_PUBLIC.trim_end().as_bytes().to_vec(),
        RSA_PUBLIC_PKCS1.as_bytes().to_vec(),
        der.unwrap(),
        ED25519_PUBLIC.as_bytes().to_vec(),
        P256_PUBLIC.as_bytes().to_vec(),
        Vec::new(),
    ];
    let without_secret = TokenOptions { hmac_secret_key: String::new(), ..all_keys() };
    for tokens in [all_keys(), without_secret].map(|options| Tokens::with(options).unwrap()) {
        for form in &forms {
            for algorithm in [HS256, HS384, HS512] {
                let key = EncodingKey::from_secret(form);
                let token = sign_with(algorithm, &key, None, &json!({"sub": "root"}));
                assert!(is_invalid(tokens.verify_connection(&token, NOW)));
            }
        }
    }
}

#[test]
fn the_algorithm_is_not_the_tokens_to_choose() {
    let tokens = Tokens::with(all_keys()).unwrap();
    for from in ALL {
        let token = sign_with(from, &private(from), None, &json!({"sub": "42"}));
        let (_, rest) = token.split_once('.').unwrap();
        let names = ALL.map(|algorithm| format!("{algorithm:?}"));
        let others = ["none", "None", "", "ES512", "HS1", "RSA-OAEP"].map(str::to_owned);
        for name in names.iter().chain(&others).filter(|name| **name != format!("{from:?}")) {
            let header = json!({"alg": name}).to_string();
            let header = data_encoding::BASE64URL_NOPAD.encode(header.as_bytes());
            let result = tokens.verify_connection(&format!("{header}.{rest}"), NOW);
            assert!(is_invalid(result), "{from:?} as {name}");
        }
    }
}

#[test]
fn signatures_of_another_implementation_hold() {
    let tokens = Tokens::with(all_keys()).unwrap();
    for token in [
        include_str!("../../../../tests/keys/openssl-RS256.jwt"),
        include_str!("../../../../tests/keys/openssl-PS384.jwt"),
    ] {
        assert_eq!(tokens.verify_connection(token.trim_end(), NOW).unwrap().user, "42");
    }
    let pkcs1 = TokenOptions { rsa_public_keys: vec![RSA_PUBLIC_PKCS1.into()], ..all_keys() };
    let token = include_str!("../../../../tests/keys/openssl-RS256.jwt").trim_end();
    assert!(Tokens::with(pkcs1).unwrap().verify_connection(token, NOW).is_ok());
}

#[test]
fn the_examples_of_the_standards_hold() {
    for (jwk, token, claims) in [
        (
            // RFC 7515 appendix A.3.
            json!({"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
                "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}),
            "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFt\
             cGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5d\
             jxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
            "{\"iss\":\"joe\",\r\n \"exp\":1300819380,\r\n \"http://example.com/is_root\":true}",
        ),
        (
            // RFC 8037 appendix A.4.
            json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}),
            "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-0\
             9PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
            "Example of Ed25519 signing",
        ),
    ] {
        let key = Key::jwk(&serde_json::from_value(jwk).unwrap()).unwrap();
        let signed = SignedToken::parse(token).unwrap().claims([&key]).unwrap();
        assert_eq!(String::from_utf8(signed).unwrap(), claims);
    }
}

#[test]
fn keys_of_the_wrong_kind_are_named_and_not_shown() {
    let broken = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";
    type Set = fn(&mut TokenOptions, Vec<String>);
    let rsa: Set = |options, keys| options.rsa_public_keys = keys;
    let ecdsa: Set = |options, keys| options.ecdsa_public_keys = keys;
    let ed25519: Set = |options, keys| options.ed25519_public_keys = keys;
    for (name, set, wrong) in [
        (
            "rsa_public_key",
            rsa,
            [RSA, RSA_1024_PUBLIC, P256_PUBLIC, ED25519_PUBLIC, broken, "secret", ""],
        ),
        (
            "ecdsa_public_key",
            ecdsa,
            [P256, P521_PUBLIC, RSA_PUBLIC, ED25519_PUBLIC, broken, "secret", ""],
        ),
        (
            "ed25519_public_key",
            ed25519,
            [ED25519, X25519_PUBLIC, RSA_PUBLIC, P256_PUBLIC, broken, "secret", ""],
        ),
    ] {
        for key in wrong {
            let mut options = TokenOptions::default();
            set(&mut options, vec![key.to_owned()]);
            let Err(error) = Tokens::with(options) else { panic!("{name} took {key}") };
            assert!(error.starts_with(&format!("{name}: ")), "{error}");
            let shown = key.lines().nth(1).is_some_and(|line| error.contains(line));
            assert!(!shown && !error.contains("secret"), "{error}");
        }
    }
}

//! A JSON Web Token as it came: signed bytes (RFC 7515, compact form), their header, their claims.

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde::{Deserialize, Serialize, de::IgnoredAny};

use super::keys::Key;

/// A token whose signature has not been verified: it yields its claims only against a key, or to
/// who says in the name of the call that nothing is verified.
pub(super) struct SignedToken<'a> {
    pub(super) algorithm: Algorithm,
    /// The key's name (`kid`), empty if there is none.
    pub(super) key_id: String,
    message: &'a str,
    payload: &'a str,
    signature: &'a str,
}

#[derive(Deserialize)]
struct TokenHeader {
    alg: String,
    kid: Option<String>,
    crit: Option<IgnoredAny>,
}

impl<'a> SignedToken<'a> {
    /// Takes the token apart.
    ///
    /// # Errors
    /// Why it is none that any key could verify, without the token.
    pub(super) fn parse(token: &'a str) -> Result<Self, String> {
        let parts = token.rsplit_once('.').and_then(|(message, signature)| {
            message.split_once('.').map(|(header, payload)| (message, header, payload, signature))
        });
        let Some((message, header, payload, signature)) = parts else {
            return Err("it has not the form of a JSON Web Token".to_owned());
        };
        let header = BASE64URL_NOPAD.decode(header.as_bytes());
        let header = header.map_err(|_| "its header is not base64url")?;
        let header: TokenHeader = serde_json::from_slice(&header)
            .map_err(|error| format!("its header is wrong: {error}"))?;
        if header.crit.is_some() {
            // RFC 7515 section 4.1.11: what must be understood and is not makes a token invalid.
            return Err("it wants extensions that are not supported (crit)".to_owned());
        }
        let algorithm = header.alg.parse().map_err(|_| "its algorithm is not supported")?;
        let key_id = header.kid.unwrap_or_default();
        Ok(Self { algorithm, key_id, message, payload, signature })
    }

    /// The claims, if one of `keys` has signed them; `Err` says what is wrong.
    pub(super) fn claims<'k>(
        &self,
        keys: impl IntoIterator<Item = &'k Key>,
    ) -> Result<Vec<u8>, String> {
        let mut fits = false;
        for key in keys {
            if key.verifies(self.algorithm, self.message.as_bytes(), self.signature) {
                return self.unverified_claims();
            }
            fits |= key.is_for(self.algorithm);
        }
        Err(match fits {
            true => "its signature is wrong".to_owned(),
            false => format!("no key is configured for its algorithm, {:?}", self.algorithm),
        })
    }

    /// The claims that anybody may have written.
    pub(super) fn unverified_claims(&self) -> Result<Vec<u8>, String> {
        let claims = BASE64URL_NOPAD.decode(self.payload.as_bytes());
        claims.map_err(|_| "its claims are not base64url".to_owned())
    }
}

/// What a token says of itself, verified or not.
#[derive(Debug)]
pub struct Unverified {
    /// Its algorithm, such as `HS256`.
    pub algorithm: String,
    /// The name of its key (`kid`), empty if there is none.
    pub key_id: String,
    /// Its claims, as they stand there.
    pub claims: Vec<u8>,
}

/// Looks into a token without verifying it, for people who want to know why it is refused.
///
/// # Errors
/// Why it is none that any key could verify.
pub fn inspect(token: &str) -> Result<Unverified, String> {
    let token = SignedToken::parse(token)?;
    let algorithm = format!("{:?}", token.algorithm);
    Ok(Unverified { algorithm, claims: token.unverified_claims()?, key_id: token.key_id })
}

/// Signs claims, which are an object, with HS256 (RFC 7518 section 3.2).
pub fn sign(hmac_secret_key: &str, claims: &impl Serialize) -> String {
    let key = EncodingKey::from_secret(hmac_secret_key.as_bytes());
    encode(&Header::new(Algorithm::HS256), claims, &key)
        .expect("HMAC signs any bytes, and claims have string keys")
}

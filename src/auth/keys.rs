//! One key that verifies signatures, with the algorithms that it may be used for.

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, crypto,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse, RSAKeyParameters},
};

/// Bytes of an RSA modulus: 2,048 bits are the least that RFC 7518 section 3.3 allows, 4,096 the
/// most that our arithmetic takes.
const RSA_MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=512;

/// Bytes of an RSA exponent; the usual one, 65,537, has three.
const RSA_EXPONENT_BYTES_MAX: usize = 4;

/// Bytes of an Ed25519 public key (RFC 8032 section 5.1.5).
const ED25519_KEY_BYTES: usize = 32;

/// A key and what it verifies. Which algorithms those are follows from the key alone, so that no
/// token can have a public key taken for a secret.
pub(super) struct Key {
    key: DecodingKey,
    algorithms: Vec<Algorithm>,
}

impl Key {
    /// A secret for HS256, HS384 and HS512. An empty one is none: everybody could sign with it.
    pub(super) fn hmac(secret: &str) -> Option<Self> {
        let key = DecodingKey::from_secret(secret.as_bytes());
        (!secret.is_empty()).then(|| Self::of_family(key))
    }

    /// An RSA public key in PEM, for RS256, RS384, RS512, PS256, PS384 and PS512.
    pub(super) fn rsa_pem(pem: &str) -> Result<Self, String> {
        let wrong = "expected an RSA public key in PEM (-----BEGIN PUBLIC KEY-----)";
        let key = DecodingKey::from_rsa_pem(pem.as_bytes()).map_err(|_| wrong)?;
        // As the parts of a key set's key: so both are looked at in one place.
        match Jwk::from_decoding_key(&key, None).map_err(|_| wrong)?.algorithm {
            AlgorithmParameters::RSA(parts) => rsa(&parts),
            _ => Err(wrong.to_owned()),
        }
    }

    /// An ECDSA public key in PEM: of P-256 for ES256, of P-384 for ES384.
    pub(super) fn ecdsa_pem(pem: &str) -> Result<Self, String> {
        let wrong = "expected an ECDSA public key of P-256 or P-384 in PEM";
        let key = DecodingKey::from_ec_pem(pem.as_bytes()).map_err(|_| wrong)?;
        ecdsa(key).ok_or_else(|| wrong.to_owned())
    }

    /// An Ed25519 public key in PEM, for EdDSA.
    pub(super) fn ed25519_pem(pem: &str) -> Result<Self, String> {
        let wrong = "expected an Ed25519 public key in PEM";
        let key = DecodingKey::from_ed_pem(pem.as_bytes()).map_err(|_| wrong)?;
        ed25519(key).ok_or_else(|| wrong.to_owned())
    }

    /// A public key of a key set (RFC 7517); `None` for keys that verify no token: of unknown
    /// kinds, broken, for encryption, and secrets, which a published set cannot hold.
    pub(super) fn jwk(jwk: &Jwk) -> Option<Self> {
        let common = &jwk.common;
        let for_signatures = common
            .public_key_use
            .as_ref()
            .is_none_or(|of| *of == PublicKeyUse::Signature)
            && common.key_operations.as_ref().is_none_or(|of| of.contains(&KeyOperations::Verify));
        if !for_signatures {
            return None;
        }
        let mut key = match &jwk.algorithm {
            AlgorithmParameters::RSA(parts) => rsa(parts).ok()?,
            AlgorithmParameters::EllipticCurve(of) => {
                let key = ecdsa(DecodingKey::from_ec_components(&of.x, &of.y).ok()?)?;
                let of_curve = match of.curve {
                    EllipticCurve::P256 => Algorithm::ES256,
                    EllipticCurve::P384 => Algorithm::ES384,
                    _ => return None,
                };
                key.is_for(of_curve).then_some(key)?
            }
            AlgorithmParameters::OctetKeyPair(of) if of.curve == EllipticCurve::Ed25519 => {
                ed25519(DecodingKey::from_ed_components(&of.x).ok()?)?
            }
            _ => return None,
        };
        if let Some(named) = common.key_algorithm {
            let named = Algorithm::try_from(named).ok()?;
            key.algorithms.retain(|algorithm| *algorithm == named);
        }
        (!key.algorithms.is_empty()).then_some(key)
    }

    /// Whether it is for this algorithm.
    pub(super) fn is_for(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }

    /// Whether `signature`, in base64url, is this key's signature of `message`.
    pub(super) fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &str) -> bool {
        self.is_for(algorithm)
            && crypto::verify(signature, message, &self.key, algorithm).unwrap_or(false)
    }

    fn of_family(key: DecodingKey) -> Self {
        let algorithms = key.family().algorithms().to_vec();
        Self { key, algorithms }
    }
}

fn rsa(parts: &RSAKeyParameters) -> Result<Key, String> {
    let wrong = "the numbers of the RSA key are not base64url";
    let key = DecodingKey::from_rsa_components(&parts.n, &parts.e).map_err(|_| wrong)?;
    let DecodingKeyKind::RsaModulusExponent { n, e } = key.kind() else {
        return Err(wrong.to_owned());
    };
    let bytes = |number: &[u8]| number.iter().skip_while(|byte| **byte == 0).count();
    if !RSA_MODULUS_BYTES.contains(&bytes(n)) {
        return Err(format!("an RSA key has 2048 to 4096 bits, not {}", 8 * bytes(n)));
    }
    if bytes(e) > RSA_EXPONENT_BYTES_MAX {
        return Err("the exponent of the RSA key is too large".to_owned());
    }
    Ok(Key::of_family(key))
}

fn ecdsa(key: DecodingKey) -> Option<Key> {
    debug_assert_eq!(key.family(), AlgorithmFamily::Ec);
    // A key is on one curve, and the curve has one algorithm; the others refuse the key.
    let mut key = Key::of_family(key);
    let Key { key: point, algorithms } = &mut key;
    algorithms.retain(|algorithm| crypto::verify("", b"", point, *algorithm).is_ok());
    (!algorithms.is_empty()).then_some(key)
}

fn ed25519(key: DecodingKey) -> Option<Key> {
    // `jsonwebtoken` takes the first 32 bytes without looking how many there are.
    if key.try_get_as_bytes().ok()?.len() != ED25519_KEY_BYTES {
        return None;
    }
    crypto::verify("", b"", &key, Algorithm::EdDSA).ok()?;
    Some(Key::of_family(key))
}

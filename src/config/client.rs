//! `client`: what client connections may do and cost, and whose tokens are good.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::Secret;
use super::proxy::OptionalProxy;
use super::section::section;
use super::value::{
    claim, duration, header, number, origins, pattern, pause, plain, public_key, secret, switch,
    text, unless_negative, url, zero_is,
};
use crate::channels::Pattern;

section! {
    /// `client`: what client connections may do and cost.
    Client {
        /// No tokens, and every operation on every channel but private ones. For development.
        insecure: bool = false, switch;
        /// Tokens are believed without a look at their signature. For development.
        insecure_skip_token_signature_verify: bool = false, switch;
        /// Who has no token is the anonymous user, whose id is empty.
        allow_anonymous_connect_without_token: bool = false, switch;
        /// A connection token must name a user.
        disallow_anonymous_connection_tokens: bool = false, switch;
        /// A header of the connection's request that names the user, in place of a token. What
        /// stands before this server must set it, or remove it.
        user_id_http_header: Option<String> = None, header;
        /// Patterns that the Origin header of a browser may match; * stands for any characters.
        /// Without any, only the server's own origin is allowed.
        allowed_origins: Vec<String> = Vec::new(), origins;
        /// Pause between pings, above `pong_timeout`; "-1s" sends none, and "0s" is the default.
        ping_interval: Duration = Duration::from_secs(25),
            zero_is(Duration::from_secs(25), unless_negative);
        /// Time to answer a ping; "-1s" asks for no answer, and "0s" is the default.
        pong_timeout: Duration = Duration::from_secs(8),
            zero_is(Duration::from_secs(8), unless_negative);
        /// Time to send the connect command; "0s" is the default.
        stale_close_delay: Duration = Duration::from_secs(10),
            zero_is(Duration::from_secs(10), duration);
        /// How long after its expiry a connection may still be refreshed.
        expired_close_delay: Duration = Duration::from_secs(25), pause;
        /// How long after its expiry a subscription may still be refreshed.
        expired_sub_close_delay: Duration = Duration::from_secs(25), pause;
        /// Without effect: a positioned subscription is checked with every publication.
        channel_position_check_delay: Duration = Duration::from_secs(40), duration;
        /// Subscriptions of one connection.
        channel_limit: usize = 128, |v| number(v, 1..=65_536);
        /// Bytes that may be queued for one connection.
        queue_max_size: usize = 1 << 20, |v| number(v, 1024..=1 << 30);
        /// Connections of this process; 0 is as many as there are file descriptors.
        connection_limit: Option<NonZeroUsize> = None,
            |v| number(v, 0..=1 << 24).map(NonZeroUsize::new);
        /// Connections of one user; 0 is without a limit. Anonymous users are not counted.
        user_connection_limit: Option<NonZeroUsize> = None,
            |v| number(v, 0..=1 << 24).map(NonZeroUsize::new);
        /// Publications that one history request may return.
        history_max_publication_limit: usize = 300, |v| number(v, 1..=1 << 20);
        /// Publications that one subscribe may recover; who missed more recovers nothing.
        recovery_max_publication_limit: usize = 300, |v| number(v, 1..=1 << 20);
    }
    sections {
        /// How connection tokens are verified, and subscription tokens too unless
        /// `subscription_token` is enabled.
        token: Token;
        /// How subscription tokens are verified.
        subscription_token: SubscriptionToken;
        /// A channel of each user's own.
        subscribe_to_user_personal_channel: PersonalChannel;
        /// What the backend decides about connections.
        proxy: ClientProxies;
    }
}

impl Client {
    /// How subscription tokens are verified.
    pub fn subscription_token(&self) -> &Token {
        let own = &self.subscription_token;
        if own.enabled { &own.token } else { &self.token }
    }
}

section! {
    /// `client.token`, and `client.subscription_token`: how tokens are verified.
    Token {
        /// The key of HS256, HS384 and HS512 tokens.
        hmac_secret_key: Option<Secret> = None, secret;
        /// The key before that one, while tokens that it signed are about.
        hmac_previous_secret_key: Option<Secret> = None, secret;
        /// Until when the previous key is good, in seconds since the Unix epoch; 0 is for ever.
        hmac_previous_secret_key_valid_until: u64 = 0, |v| number(v, 0..=1 << 40);
        /// The key of RS256, RS384, RS512, PS256, PS384 and PS512 tokens, in PEM.
        rsa_public_key: Option<String> = None, public_key;
        /// The key of ES256 and ES384 tokens, in PEM.
        ecdsa_public_key: Option<String> = None, public_key;
        /// The key of EdDSA tokens, an Ed25519 key in PEM. tiderace's own.
        ed25519_public_key: Option<String> = None, public_key;
        /// The URL of a JSON Web Key Set (RFC 7517). Its keys alone count then, each by its `kid`:
        /// RSA (RS256 to RS512, PS256 to PS512), P-256 (ES256), P-384 (ES384) and Ed25519 (EdDSA).
        jwks_public_endpoint: Option<String> = None, url;
        /// Tokens must name it in `aud`.
        audience: Option<String> = None, text;
        /// One of the audiences in `aud` must match it.
        audience_regex: Option<Pattern> = None, pattern;
        /// Tokens must name it in `iss`.
        issuer: Option<String> = None, text;
        /// `iss` must match it.
        issuer_regex: Option<Pattern> = None, pattern;
        /// The claim that names the user; empty is `sub`.
        user_id_claim: Option<String> = None, claim;
    }
}

impl Token {
    /// Whether there is any key, so that some token can be valid.
    pub fn has_key(&self) -> bool {
        self.hmac_secret_key.is_some()
            || self.rsa_public_key.is_some()
            || self.ecdsa_public_key.is_some()
            || self.ed25519_public_key.is_some()
            || self.jwks_public_endpoint.is_some()
    }
}

section! {
    /// `client.subscription_token`: how subscription tokens are verified.
    SubscriptionToken {
        /// They are verified by what stands here, rather than as connection tokens are.
        enabled: bool = false, switch;
    }
    flat {
        /// How.
        token: Token;
    }
}

section! {
    /// `client.subscribe_to_user_personal_channel`: a channel of each user's own.
    PersonalChannel {
        /// Every connection of a user is subscribed to the user's channel by the server.
        enabled: bool = false, switch;
        /// The namespace of these channels; empty is none.
        personal_channel_namespace: String = String::new(), plain;
        /// A new connection of a user closes the others with 3504. Needs presence in these
        /// channels.
        single_connection: bool = false, switch;
    }
}

section! {
    /// `client.proxy`: what the backend decides about connections.
    ClientProxies {
    }
    sections {
        /// Who connects without a token.
        connect: OptionalProxy;
        /// Whether an expired connection goes on, in place of a token.
        refresh: OptionalProxy;
    }
}

//! What verifies tokens, and who fetches the keys for it.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use super::Error;
use crate::{
    auth::{TokenOptions, Tokens},
    channels::Pattern,
    config::{Client, Fault, Secret, Token},
    core::Process,
    jwks::{Endpoint, Fetcher},
    protocol::{KeyUse, centrifuge::Policy},
    shard::Threads,
};

/// What verifies tokens; `None` where no token can be valid.
pub(super) struct Verifiers {
    pub(super) connections: Option<Tokens>,
    /// Those of subscriptions, where they have keys of their own.
    pub(super) subscriptions: Option<Tokens>,
}

/// What `client.token` and `client.subscription_token` say.
///
/// # Errors
/// The option that cannot be used, such as a key.
pub(super) fn verifiers(client: &Client) -> Result<Verifiers, Fault> {
    let skips = client.insecure_skip_token_signature_verify;
    let read = |token: &Token, section: &str| {
        let mut options = token_options(token);
        options.insecure_skip_signature = skips;
        Tokens::with(options).map_err(|error| match error.split_once(": ") {
            Some((name, message)) => Fault::new(format!("{section}.{name}"), message),
            None => Fault::new(section, error),
        })
    };
    let connections = (client.token.has_key() || skips)
        .then(|| read(&client.token, "client.token"))
        .transpose()?;
    let own = &client.subscription_token;
    let subscriptions =
        own.enabled.then(|| read(&own.token, "client.subscription_token")).transpose()?;
    Ok(Verifiers { connections, subscriptions })
}

/// `client.token`, or `client.subscription_token`, in the words of [`crate::auth`].
pub(crate) fn token_options(token: &Token) -> TokenOptions {
    let secret =
        |key: &Option<Secret>| key.as_ref().map_or_else(String::new, |key| key.expose().to_owned());
    let pattern = |pattern: &Option<Pattern>| pattern.as_ref().map(|p| p.as_str().to_owned());
    TokenOptions {
        hmac_secret_key: secret(&token.hmac_secret_key),
        hmac_previous_secret_key: secret(&token.hmac_previous_secret_key),
        hmac_previous_secret_key_valid_until_unix_s: token.hmac_previous_secret_key_valid_until,
        rsa_public_keys: token.rsa_public_key.iter().cloned().collect(),
        ecdsa_public_keys: token.ecdsa_public_key.iter().cloned().collect(),
        ed25519_public_keys: token.ed25519_public_key.iter().cloned().collect(),
        key_set: token.jwks_public_endpoint.is_some(),
        audience: token.audience.clone(),
        audience_regex: pattern(&token.audience_regex),
        issuer: token.issuer.clone(),
        issuer_regex: pattern(&token.issuer_regex),
        user_id_claim: token.user_id_claim.clone(),
        insecure_skip_signature: false,
    }
}

/// Where the key sets are, for connections and for subscriptions with keys of their own.
pub(super) fn key_sets(client: &Client) -> [Option<String>; 2] {
    let own = &client.subscription_token;
    let of_subscriptions = own.token.jwks_public_endpoint.clone().filter(|_| own.enabled);
    [client.token.jwks_public_endpoint.clone(), of_subscriptions]
}

/// Starts fetching.
pub(super) fn fetch(
    [connections, subscriptions]: [Option<String>; 2],
    process: &Arc<Process>,
    threads: &mut Threads,
) -> Result<(), Error> {
    let start = |url: Option<String>, of: KeyUse| {
        let process = Arc::clone(process);
        let fetcher = url.map(|url| {
            Fetcher::start(Endpoint::new(url), move |keys| {
                if let Some(tokens) = verifier(&process.settings.policy, of) {
                    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                    tokens.set_keys(keys, now.as_secs());
                }
            })
        });
        let refuse = |error| Error::Tokens(format!("no thread to fetch the key set: {error}"));
        fetcher.transpose().map_err(refuse)
    };
    threads.connection_keys = start(connections, KeyUse::Connections)?;
    threads.subscription_keys = start(subscriptions, KeyUse::Subscriptions)?;
    Ok(())
}

fn verifier(policy: &Policy, of: KeyUse) -> Option<&Tokens> {
    match of {
        KeyUse::Connections => policy.tokens.as_ref(),
        KeyUse::Subscriptions => policy.subscription_tokens.as_ref(),
    }
}

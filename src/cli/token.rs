//! `tiderace token`: makes tokens for trying things out, and says what is wrong with one.

use std::{
    collections::BTreeMap,
    error::Error,
    fmt::Write,
    io::Read,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, SystemTime},
};

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};

use super::serve::SecretArgument;
use crate::{
    auth::{TokenError, TokenOptions, Tokens, Unverified, inspect, sign},
    config::{self, Config},
    jwks,
    server::token_options,
};

/// Bytes of a token on standard input.
const TOKEN_BYTES_MAX: u64 = 1 << 20;

/// Make and check tokens.
///
/// Keys, audience and issuer are those of the server: of --config and of the environment, such as
/// TIDERACE_CLIENT_TOKEN_HMAC_SECRET_KEY.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Connection(Connection),
    Subscription(Subscription),
    Check(Check),
}

/// Where the keys are.
#[derive(Debug, Default, Args)]
struct Keys {
    /// Configuration file of the server: .toml, .json, .yaml or .yml
    #[arg(short, long, value_name = "FILE", env = "TIDERACE_CONFIG")]
    config: Option<PathBuf>,

    /// HMAC secret. Others on this machine can see it; prefer
    /// TIDERACE_CLIENT_TOKEN_HMAC_SECRET_KEY
    #[arg(long, value_name = "SECRET")]
    secret: Option<SecretArgument>,
}

/// Who gets a token, and for how long.
#[derive(Debug, Args)]
struct Holder {
    /// The user; "" is anonymous
    #[arg(short, long, value_name = "USER")]
    user: String,

    /// How long it is valid: 90s, 15m, 12h or 7d; 0 is for ever
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = seconds)]
    ttl: u64,

    /// What others see of the user
    #[arg(long, value_name = "JSON", value_parser = json)]
    info: Option<Box<RawValue>>,

    #[command(flatten)]
    keys: Keys,
}

/// Print a connection token, signed with HS256.
#[derive(Debug, Args)]
struct Connection {
    #[command(flatten)]
    holder: Holder,

    /// What only the backend sees of the connection
    #[arg(long, value_name = "JSON", value_parser = json)]
    meta: Option<Box<RawValue>>,

    /// Channels to which the server subscribes the connection
    #[arg(long, value_name = "CHANNEL,..", value_delimiter = ',')]
    channels: Vec<String>,
}

/// Print a subscription token, signed with HS256.
#[derive(Debug, Args)]
struct Subscription {
    #[command(flatten)]
    holder: Holder,

    /// The channel
    #[arg(long, value_name = "CHANNEL")]
    channel: String,

    /// The id of the connection that alone may use it
    #[arg(long, value_name = "ID")]
    client: Option<String>,
}

/// Say whether the server takes a token, what it says, and what is wrong with it.
///
/// The exit code is 0 for a valid token and 1 for any other.
#[derive(Debug, Args)]
struct Check {
    /// The token; - reads it from standard input
    #[arg(value_name = "TOKEN", allow_hyphen_values = true)]
    token: String,

    /// Verify with the keys of the key set at this URL
    #[arg(long, value_name = "URL")]
    jwks: Option<String>,

    #[command(flatten)]
    keys: Keys,
}

/// Runs the command; a failure is told on stderr.
pub(super) fn run(arguments: Arguments) -> ExitCode {
    let now_unix_s =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let made = match arguments.command {
        Command::Connection(arguments) => connection(&arguments, now_unix_s),
        Command::Subscription(arguments) => subscription(&arguments, now_unix_s),
        Command::Check(arguments) => check(arguments, now_unix_s),
    };
    match made {
        Ok((text, code)) => {
            println!("{text}");
            code
        }
        Err(error) => {
            eprintln!("tiderace: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What is printed, and the exit code.
type Outcome = Result<(String, ExitCode), Box<dyn Error>>;

impl Keys {
    /// What verifies connection tokens, or subscription tokens; and where its key set is.
    fn options(&self, kind: Kind) -> Result<(TokenOptions, Option<String>), Box<dyn Error>> {
        let loaded =
            config::load(Config::default(), self.config.as_deref(), std::env::vars_os(), &[])?;
        let client = &loaded.config.client;
        let token = match kind {
            Kind::Connection => &client.token,
            Kind::Subscription => client.subscription_token(),
        };
        let mut options = token_options(token);
        if let Some(secret) = &self.secret {
            options.hmac_secret_key = secret.0.expose().to_owned();
            options.key_set = false;
        }
        let url = token.jwks_public_endpoint.clone().filter(|_| self.secret.is_none());
        Ok((options, url))
    }
}

/// What a token is for.
#[derive(Clone, Copy)]
enum Kind {
    Connection,
    Subscription,
}

fn connection(arguments: &Connection, now_unix_s: u64) -> Outcome {
    let (options, _) = arguments.holder.keys.options(Kind::Connection)?;
    let mut claims = NewClaims::of(&arguments.holder, &options, now_unix_s);
    claims.add("meta", arguments.meta.as_ref());
    claims.add("channels", Some(&arguments.channels).filter(|channels| !channels.is_empty()));
    claims.sign(&options)
}

fn subscription(arguments: &Subscription, now_unix_s: u64) -> Outcome {
    if arguments.channel.is_empty() {
        return Err("a subscription token needs a channel".into());
    }
    let (options, _) = arguments.holder.keys.options(Kind::Subscription)?;
    let mut claims = NewClaims::of(&arguments.holder, &options, now_unix_s);
    claims.add("channel", Some(&arguments.channel));
    claims.add("client", arguments.client.as_ref());
    claims.sign(&options)
}

/// The claims of a token that is made.
struct NewClaims(BTreeMap<String, Box<RawValue>>);

impl NewClaims {
    fn of(holder: &Holder, options: &TokenOptions, now_unix_s: u64) -> Self {
        let mut claims = Self(BTreeMap::new());
        claims.add(options.user_id_claim.as_deref().unwrap_or("sub"), Some(&holder.user));
        claims.add("iat", Some(now_unix_s));
        claims.add("exp", Some(now_unix_s.saturating_add(holder.ttl)).filter(|_| holder.ttl != 0));
        claims.add("info", holder.info.as_ref());
        // What the server wants to see.
        claims.add("aud", options.audience.as_ref());
        claims.add("iss", options.issuer.as_ref());
        claims
    }

    fn add(&mut self, name: &str, value: Option<impl Serialize>) {
        if let Some(value) = value {
            let value = to_raw_value(&value).expect("texts, numbers and JSON are JSON");
            self.0.insert(name.to_owned(), value);
        }
    }

    fn sign(self, options: &TokenOptions) -> Outcome {
        if options.hmac_secret_key.is_empty() {
            return Err(
                "there is no HMAC secret to sign with: name the server's --config, or set \
                        TIDERACE_CLIENT_TOKEN_HMAC_SECRET_KEY"
                    .into(),
            );
        }
        Ok((sign(&options.hmac_secret_key, &self.0), ExitCode::SUCCESS))
    }
}

fn check(arguments: Check, now_unix_s: u64) -> Outcome {
    let mut token = arguments.token;
    if token == "-" {
        token.clear();
        std::io::stdin().lock().take(TOKEN_BYTES_MAX).read_to_string(&mut token)?;
    }
    let token = token.trim();
    let kind = if channel_of(token).is_empty() { Kind::Connection } else { Kind::Subscription };
    let (mut options, url) = arguments.keys.options(kind)?;
    let url = arguments.jwks.or(url);
    options.key_set = url.is_some();
    let tokens = Tokens::with(options)?;
    if let Some(url) = url {
        let keys = jwks::fetch(&jwks::Endpoint::new(url.as_str()))
            .map_err(|error| format!("could not fetch the key set {url}: {error}"))?;
        tokens.set_keys(Arc::new(keys), now_unix_s);
    }
    let (text, valid) = describe(token, &tokens, now_unix_s);
    Ok((text, if valid { ExitCode::SUCCESS } else { ExitCode::FAILURE }))
}

/// The channel that makes a token a subscription token; empty: it is none.
fn channel_of(token: &str) -> String {
    let claims = inspect(token).map(|unverified| unverified.claims).unwrap_or_default();
    let claims: Value = serde_json::from_slice(&claims).unwrap_or_default();
    claims["channel"].as_str().unwrap_or_default().to_owned()
}

/// What there is to say of a token, and whether it is valid.
fn describe(token: &str, tokens: &Tokens, now_unix_s: u64) -> (String, bool) {
    let unverified = match inspect(token) {
        Ok(unverified) => unverified,
        Err(why) => return (format!("not valid: {why}"), false),
    };
    let claims: Value = serde_json::from_slice(&unverified.claims).unwrap_or_default();
    let channel = claims["channel"].as_str().unwrap_or_default();
    let Unverified { algorithm, key_id, .. } = &unverified;
    let kind = if channel.is_empty() { "connection" } else { "subscription" };
    let mut text = format!("{kind} token, {algorithm}");
    if !key_id.is_empty() {
        let _ = write!(text, ", key {key_id:?}");
    }
    let _ = write!(text, "\nclaims: {}\n", String::from_utf8_lossy(&unverified.claims));
    let verified = if channel.is_empty() {
        tokens
            .verify_connection(token, now_unix_s)
            .map(|claims| (format!("for {}", named(&claims.user)), claims.expire_at_unix_s))
    } else {
        tokens.verify_subscription(token, now_unix_s).map(|claims| {
            let who = format!("for {} in channel {:?}", named(&claims.user), claims.channel);
            (who, claims.terms.expire_at_unix_s)
        })
    };
    let valid = verified.is_ok();
    let _ = match verified {
        Ok((who, 0)) => write!(text, "valid: {who}, and never expires"),
        Ok((who, at)) => {
            write!(text, "valid: {who}, and expires {}", moment(at as f64, now_unix_s))
        }
        Err(TokenError::Expired) => {
            let early = claims["nbf"].as_f64().filter(|nbf| *nbf > now_unix_s as f64);
            let (what, at) = match early {
                Some(nbf) => ("it holds only from nbf on,", nbf),
                None => ("it expired (exp)", claims["exp"].as_f64().unwrap_or_default()),
            };
            write!(text, "not valid: {what} {}", moment(at, now_unix_s))
        }
        Err(TokenError::Invalid(why)) => write!(text, "not valid: {why}"),
        Err(TokenError::UnknownKey) => write!(text, "not valid: its key is not in the key set"),
    };
    (text, valid)
}

fn named(user: &str) -> String {
    if user.is_empty() { "the anonymous user".to_owned() } else { format!("user {user:?}") }
}

/// A moment as seen from now.
fn moment(at_unix_s: f64, now_unix_s: u64) -> String {
    let left_s = at_unix_s - now_unix_s as f64;
    let length =
        Duration::try_from_secs_f64(left_s.abs().ceil()).unwrap_or(Duration::MAX).as_secs();
    let length = match length {
        0..120 => format!("{length}s"),
        120..7_200 => format!("{}m", length / 60),
        7_200..172_800 => format!("{}h", length / 3_600),
        _ => format!("{} days", length / 86_400),
    };
    if left_s < 0.0 { format!("{length} ago") } else { format!("in {length}") }
}

/// A length of time in seconds: `90s`, `15m`, `12h`, `7d`, `0`.
fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || "expected a time with its unit, such as 90s, 15m, 12h or 7d, or 0".to_owned();
    if text == "0" {
        return Ok(0);
    }
    let unit = text.chars().last().ok_or_else(wrong)?;
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let amount: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    amount.checked_mul(factor).filter(|seconds| *seconds != 0).ok_or_else(wrong)
}

fn json(text: &str) -> Result<Box<RawValue>, String> {
    serde_json::from_str(text).map_err(|error| format!("it is no JSON: {error}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_700_000_000;

    fn said(claims: &Value) -> (String, bool) {
        describe(&sign("key", claims), &Tokens::new("key", None, None), NOW)
    }

    #[test]
    fn kind_claims_and_verdict_are_said() {
        for (claims, text, valid) in [
            (
                json!({"sub": "42"}),
                "connection token, HS256\nclaims: {\"sub\":\"42\"}\n\
                 valid: for user \"42\", and never expires",
                true,
            ),
            (
                json!({"exp": NOW + 3600}),
                "connection token, HS256\nclaims: {\"exp\":1700003600}\n\
                 valid: for the anonymous user, and expires in 60m",
                true,
            ),
            (
                json!({"sub": "42", "channel": "news"}),
                "subscription token, HS256\nclaims: {\"sub\":\"42\",\"channel\":\"news\"}\n\
                 valid: for user \"42\" in channel \"news\", and never expires",
                true,
            ),
            (
                json!({"exp": NOW - 7}),
                "connection token, HS256\nclaims: {\"exp\":1699999993}\n\
                 not valid: it expired (exp) 7s ago",
                false,
            ),
            (
                json!({"nbf": NOW + 90}),
                "connection token, HS256\nclaims: {\"nbf\":1700000090}\n\
                 not valid: it holds only from nbf on, in 90s",
                false,
            ),
        ] {
            assert_eq!(said(&claims), (text.to_owned(), valid));
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let tokens = Tokens::new("other", None, None);
        let (text, valid) = describe(&sign("key", &json!({"sub": "42"})), &tokens, NOW);
        assert!(!valid && text.ends_with("not valid: its signature is wrong"), "{text}");
        let (text, valid) = describe("nonsense", &tokens, NOW);
        assert!(!valid && text.starts_with("not valid: it has not the form"), "{text}");
        let (text, valid) = said(&json!([1]));
        assert!(!valid && text.contains("not valid: its claims are wrong"), "{text}");
    }

    #[test]
    fn times_are_read_with_their_unit() {
        for (text, read) in [("0", 0), ("90s", 90), ("15m", 900), ("12h", 43_200), ("7d", 604_800)]
        {
            assert_eq!(seconds(text), Ok(read));
        }
        for text in ["", "s", "7", "-1s", "1.5h", "0s", "7é", "99999999999999999999s", "1w"] {
            assert!(seconds(text).is_err(), "{text}");
        }
        assert!(seconds(&format!("{}d", u64::MAX)).is_err());
    }

    #[test]
    fn moments_are_seen_from_now() {
        for (at, text) in [
            (NOW as f64, "in 0s"),
            (NOW as f64 - 119.0, "119s ago"),
            (NOW as f64 + 7_199.0, "in 119m"),
            (NOW as f64 + 7_200.0, "in 2h"),
            (NOW as f64 - 172_800.0, "2 days ago"),
            (-1e300, "213503982334601 days ago"),
        ] {
            assert_eq!(moment(at, NOW), text);
        }
    }
}

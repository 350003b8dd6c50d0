//! `tiderace serve`: from flags, environment and file to a running server, or to what is missing.

use std::error::Error;
use std::ffi::OsString;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::Args;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::logging;
use crate::config::{self, Config, Flag, Loaded, Secret};
use crate::server::{self, Server};

/// Run the server.
///
/// Every option of the configuration file can also be set by an environment variable:
/// `client.ping_interval` is TIDERACE_CLIENT_PING_INTERVAL, or CENTRIFUGO_CLIENT_PING_INTERVAL. Flags win
/// over the environment, the environment over the file.
#[derive(Debug, Default, Args)]
pub(super) struct Arguments {
    /// Configuration file: .toml, .json, .yaml or .yml
    #[arg(short, long, value_name = "FILE", env = "TIDERACE_CONFIG")]
    config: Option<PathBuf>,

    /// Address and port: 127.0.0.1:8000, [::1]:8000, localhost:8000, :8000 or 8000; port 0 lets
    /// the system choose
    #[arg(short, long, value_name = "ADDRESS")]
    listen: Option<String>,

    /// Shards to start; 0 is one per CPU
    #[arg(long, value_name = "N")]
    shards: Option<String>,

    /// What is logged: none, error, warn, info, debug, trace, or directives for modules
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,

    /// Key of the HTTP API. Others on this machine can see it; prefer TIDERACE_HTTP_API_KEY
    #[arg(long, value_name = "KEY")]
    api_key: Option<SecretArgument>,

    /// HMAC secret of connection tokens. Others on this machine can see it; prefer
    /// TIDERACE_CLIENT_TOKEN_HMAC_SECRET_KEY
    #[arg(long, value_name = "SECRET")]
    token_secret: Option<SecretArgument>,

    /// For development: no tokens, every client may do everything, a page at /, a generated API
    /// key, and reachable from this machine only
    #[arg(long)]
    dev: bool,
}

/// An argument that debug output does not show.
#[derive(Clone)]
pub(super) struct SecretArgument(pub(super) Secret);

impl std::fmt::Debug for SecretArgument {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl From<String> for SecretArgument {
    fn from(text: String) -> Self {
        Self(Secret::new(text))
    }
}

/// Runs the server until it is told to end.
pub(super) fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let dev = arguments.dev;
    let Loaded { config, warnings } = prepare(&arguments, std::env::vars_os())?;
    let _flush_at_end = logging::start(&config.log);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let dev_key = config.http_api.key.clone().filter(|_| dev);
    start(config, dev, move |address| println!("{}", announcement(address, dev_key.as_ref())))
}

fn start(
    config: Config,
    dev: bool,
    on_listening: impl FnOnce(SocketAddr),
) -> Result<(), Box<dyn Error>> {
    let has_device_table = config.watch.enabled && config.watch.token.table_file.is_some();
    let mut builder = Server::builder(config);
    if dev {
        builder = builder.page(include_str!("../api/page.html"));
    }
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let server = builder.start()?;
    on_listening(server.address());
    let handle = server.handle();
    for signal in signals.forever() {
        if signal != SIGHUP {
            break;
        }
        if !has_device_table {
            tracing::warn!("SIGHUP changes nothing: the configuration is read at the start alone");
            continue;
        }
        match handle.reload_devices() {
            Ok(()) => tracing::info!("the table of devices was read anew"),
            Err(error) => tracing::error!("the table of devices stays as it was: {error}"),
        }
    }
    // The first signal ends the server in order; a second one ends the process at once.
    std::thread::spawn(move || {
        if signals.forever().any(|signal| signal != SIGHUP) {
            std::process::exit(130);
        }
    });
    tracing::info!("shutting down");
    server.shutdown();
    Ok(())
}

/// What stdout says once the server listens. The first line is read by programs.
fn announcement(address: SocketAddr, dev_key: Option<&Secret>) -> String {
    let mut text = format!("listening on http://{address}");
    if let Some(key) = dev_key {
        let key = key.expose();
        text.push_str(&format!(
            "\n\ndevelopment mode: every client may do everything; open http://{address}/\n\
             API key: {key}\n\n\
             curl http://{address}/api/publish -H 'X-API-Key: {key}' \\\n  \
             -d '{{\"channel\":\"demo\",\"data\":{{\"text\":\"hello\"}}}}'"
        ));
    }
    text
}

/// The configuration that these arguments and variables ask for, fit to start with.
fn prepare(
    arguments: &Arguments,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Loaded, Box<dyn Error>> {
    let mut defaults = Config::default();
    if arguments.dev {
        defaults.http_server.address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        defaults.client.insecure = true;
        defaults.sse.enabled = true;
        defaults.http_stream.enabled = true;
        defaults.uni_websocket.enabled = true;
        defaults.uni_sse.enabled = true;
        defaults.uni_http_stream.enabled = true;
        defaults.events.enabled = true;
    }
    let (flags, file) = (arguments.flags(), arguments.config.as_deref());
    let mut loaded = config::load_for(defaults, file, environment, &flags, server::check)?;
    let missing = missing_access(&loaded.config);
    if arguments.dev {
        let address = loaded.config.http_server.address;
        if !address.is_loopback() {
            return Err(format!(
                "--dev lets every client do everything, so it listens on this machine only, not \
                 on {address}; use 127.0.0.1 or leave --dev out"
            )
            .into());
        }
        if loaded.config.http_api.key.is_none() {
            loaded.config.http_api.key = Some(random_key()?);
        }
    } else {
        match missing.as_slice() {
            [] => {}
            [one] => loaded.warnings.push(one.effect.into()),
            several => {
                let file = file.map(|file| format!("{}: ", file.display())).unwrap_or_default();
                return Err(format!("{file}{}", explain(several)).into());
            }
        }
        loaded.warnings.extend(open_doors(&loaded.config));
    }
    Ok(loaded)
}

/// The configuration that a server with this file and no flags would start with.
pub(super) fn prepare_file(
    file: &Path,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Loaded, Box<dyn Error>> {
    let config = Some(file.to_owned());
    prepare(&Arguments { config, ..Arguments::default() }, environment)
}

/// Says which switches let in whoever comes.
fn open_doors(config: &Config) -> Vec<String> {
    let (client, api) = (&config.client, &config.http_api);
    [
        (client.insecure, "client.insecure: whoever connects may do everything, without a token"),
        (
            client.insecure_skip_token_signature_verify,
            "client.insecure_skip_token_signature_verify: whoever connects is whom it says it is, \
             because no token's signature is looked at",
        ),
        (
            api.insecure && !api.disabled,
            "http_api.insecure: whoever reaches the HTTP API may do everything, without a key",
        ),
    ]
    .into_iter()
    .filter(|(is_open, _)| *is_open)
    .map(|(_, what)| what.to_owned())
    .collect()
}

impl Arguments {
    /// The options set by flags.
    fn flags(&self) -> Vec<Flag> {
        let mut flags = Vec::new();
        let mut add = |name, path, value: &str| {
            flags.push(Flag { name, path, value: value.into() });
        };
        if let Some(listen) = &self.listen {
            let (address, port) = listen.rsplit_once(':').unwrap_or(("", listen));
            let address = address.trim_start_matches('[').trim_end_matches(']');
            if !address.is_empty() {
                add("--listen", "http_server.address", address);
            }
            add("--listen", "http_server.port", port);
        }
        if let Some(shards) = &self.shards {
            add("--shards", "shards", shards);
        }
        if let Some(level) = &self.log_level {
            add("--log-level", "log.level", level);
        }
        if let Some(key) = &self.api_key {
            add("--api-key", "http_api.key", key.0.expose());
        }
        if let Some(secret) = &self.token_secret {
            add("--token-secret", "client.token.hmac_secret_key", secret.0.expose());
        }
        flags
    }
}

/// A side from which nobody could use the server.
struct Missing {
    effect: &'static str,
    remedy: &'static str,
}

/// Whether clients or the backend are locked out.
fn missing_access(config: &Config) -> Vec<Missing> {
    let client = &config.client;
    let mut missing = Vec::new();
    let asked = client.proxy.connect.enabled || client.user_id_http_header.is_some();
    if !client.token.has_key()
        && !asked
        && !client.allow_anonymous_connect_without_token
        && !client.insecure
        && !client.insecure_skip_token_signature_verify
    {
        missing.push(Missing {
            effect: "no client can connect: client.token.hmac_secret_key is not set",
            remedy: "  client.token.hmac_secret_key, with which your backend signs tokens:\n    \
                     export TIDERACE_CLIENT_TOKEN_HMAC_SECRET_KEY=$(openssl rand -hex 32)\n    \
                     (or let everyone connect: \
                     client.allow_anonymous_connect_without_token = true)\n",
        });
    }
    let api = &config.http_api;
    if api.key.is_none() && !api.insecure && !api.disabled {
        missing.push(Missing {
            effect: "the HTTP API refuses every request: http_api.key is not set",
            remedy: "  http_api.key, which your backend sends along:\n    \
                     export TIDERACE_HTTP_API_KEY=$(openssl rand -hex 32)\n",
        });
    }
    missing
}

fn explain(missing: &[Missing]) -> String {
    let mut text = String::from("nobody could use this server. Set, in a file or like this:\n");
    for one in missing {
        text.push_str(one.remedy);
    }
    text.push_str("Or try it out on this machine: tiderace serve --dev");
    text
}

/// 32 random bytes as hexadecimal digits.
fn random_key() -> Result<Secret, Box<dyn Error>> {
    let mut bytes = [0_u8; 32];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    if filled != bytes.len() {
        return Err("the system gave too few random bytes".into());
    }
    let mut key = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(key, "{byte:02x}")?;
    }
    Ok(Secret::new(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepare_with(arguments: Arguments, environment: &[(&str, &str)]) -> Result<Loaded, String> {
        let environment = environment.iter().map(|(name, value)| (name.into(), value.into()));
        prepare(&arguments, environment).map_err(|error| error.to_string())
    }

    fn listen(listen: &str, dev: bool) -> Result<String, String> {
        let arguments = Arguments {
            listen: Some(listen.into()),
            api_key: Some(SecretArgument::from(String::from("k"))),
            dev,
            ..Arguments::default()
        };
        prepare_with(arguments, &[]).map(|loaded| loaded.config.http_server.listen().to_string())
    }

    #[test]
    fn without_any_secret_it_says_what_to_set() {
        let text = prepare_with(Arguments::default(), &[]).unwrap_err();
        for part in [
            "client.token.hmac_secret_key",
            "TIDERACE_CLIENT_TOKEN_HMAC_SECRET_KEY=$(openssl rand -hex 32)",
            "http_api.key",
            "TIDERACE_HTTP_API_KEY=$(openssl rand -hex 32)",
            "--dev",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn with_one_secret_it_starts_and_warns_of_the_other() {
        let key = [("TIDERACE_HTTP_API_KEY", "k")];
        let warnings = prepare_with(Arguments::default(), &key).unwrap().warnings;
        assert!(warnings[0].contains("client.token.hmac_secret_key"), "{warnings:?}");

        let both = [key[0], ("TIDERACE_CLIENT_TOKEN_HMAC_SECRET_KEY", "s")];
        assert!(prepare_with(Arguments::default(), &both).unwrap().warnings.is_empty());
    }

    #[test]
    fn switches_that_let_everybody_in_are_warned_about() {
        for (variable, path) in [
            ("TIDERACE_CLIENT_INSECURE", "client.insecure: "),
            (
                "TIDERACE_CLIENT_INSECURE_SKIP_TOKEN_SIGNATURE_VERIFY",
                "client.insecure_skip_token_signature_verify: ",
            ),
            ("TIDERACE_HTTP_API_INSECURE", "http_api.insecure: "),
        ] {
            let secrets =
                [("TIDERACE_HTTP_API_KEY", "k"), ("TIDERACE_CLIENT_TOKEN_HMAC_SECRET_KEY", "s")];
            let warnings = |on: &str| {
                let environment = [secrets[0], secrets[1], (variable, on)];
                prepare_with(Arguments::default(), &environment).unwrap().warnings
            };
            let [warning] = &warnings("true")[..] else { panic!("{variable}") };
            assert!(warning.starts_with(path), "{warning}");
            assert!(warnings("false").is_empty());
        }
        // In development mode that is what was asked for, and what stdout says.
        let dev = Arguments { dev: true, ..Arguments::default() };
        assert!(prepare_with(dev, &[]).unwrap().warnings.is_empty());
    }

    #[test]
    fn dev_is_open_on_this_machine_only() {
        let config =
            prepare_with(Arguments { dev: true, ..Arguments::default() }, &[]).unwrap().config;
        assert!(config.client.insecure);
        assert_eq!(config.http_server.listen().to_string(), "127.0.0.1:8000");
        assert_eq!(config.http_api.key.unwrap().expose().len(), 64);

        assert_eq!(listen("[::1]:0", true).unwrap(), "[::1]:0");
        assert!(listen("0.0.0.0:8000", true).unwrap_err().contains("--dev"));
        let environment = [("TIDERACE_HTTP_SERVER_ADDRESS", "0.0.0.0")];
        let arguments = Arguments { dev: true, ..Arguments::default() };
        assert!(prepare_with(arguments, &environment).is_err());
    }

    #[test]
    fn dev_keeps_a_given_key_and_makes_a_new_one_each_time() {
        let arguments = || Arguments { dev: true, ..Arguments::default() };
        let key = |environment: &[(&str, &str)]| {
            let config = prepare_with(arguments(), environment).unwrap().config;
            config.http_api.key.unwrap().expose().to_owned()
        };
        assert_eq!(key(&[("TIDERACE_HTTP_API_KEY", "given")]), "given");
        assert_ne!(key(&[]), key(&[]));
    }

    #[test]
    fn the_key_is_announced_in_dev_only() {
        let address = "127.0.0.1:8000".parse().unwrap();
        assert_eq!(announcement(address, None), "listening on http://127.0.0.1:8000");
        let text = announcement(address, Some(&Secret::new("k")));
        assert!(text.starts_with("listening on http://127.0.0.1:8000\n"), "{text}");
        assert!(text.contains("-H 'X-API-Key: k'"), "{text}");
        assert!(text.ends_with(r#"-d '{"channel":"demo","data":{"text":"hello"}}'"#), "{text}");
    }

    #[test]
    fn listen_takes_the_usual_forms() {
        for (text, expected) in [
            ("127.0.0.1:9", "127.0.0.1:9"),
            ("localhost:9", "127.0.0.1:9"),
            ("[::1]:9", "[::1]:9"),
            (":9", "0.0.0.0:9"),
            ("9", "0.0.0.0:9"),
        ] {
            assert_eq!(listen(text, false).as_deref(), Ok(expected), "{text}");
        }
        let error = listen("example.com:80", false).unwrap_err();
        assert!(error.starts_with("--listen: expected an IP address"), "{error}");
        assert!(listen("127.0.0.1", false).is_err());
    }

    #[test]
    fn secrets_given_as_flags_are_not_in_debug_output() {
        let secret = Some(SecretArgument::from(String::from("tide-7f3a")));
        let arguments =
            Arguments { api_key: secret.clone(), token_secret: secret, ..Arguments::default() };
        assert!(!format!("{arguments:?}").contains("7f3a"));
        let loaded = prepare_with(arguments, &[]).unwrap();
        assert_eq!(loaded.config.http_api.key.as_ref().unwrap().expose(), "tide-7f3a");
        assert!(!format!("{loaded:?}").contains("7f3a"));
    }
}

//! From file, environment and flags to a [`Config`], or to the sentence that says what is wrong.
//!
//! The formats' own parsers drive one visitor that knows the path of every option, so an error
//! carries the line at which the parser stands. Crates that merge sources first (`config`, for
//! one) have lost that line by the time a value proves wrong.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::io::Read as _;
use std::path::Path;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_saphyr::MessageFormatter;

use super::Config;
use super::centrifugo::{self, Loss};
use super::error::{ConfigError, Place};
use super::keys::{KEYS, Key, environment_name};
use super::value::{Read, Value};
use super::watch;

/// Bytes of a configuration file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A configuration, and what its writer should know.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Settings that have no effect, one sentence each.
    pub warnings: Vec<String>,
}

/// An option that was set by a flag.
pub struct Flag {
    /// The flag, such as `--shards`, for messages.
    pub name: &'static str,
    /// The path of the option, such as `shards`.
    pub path: &'static str,
    /// The value, read as that of an environment variable.
    pub value: String,
}

/// Reads every source; later ones win: `defaults`, `file`, `environment`, `flags`.
///
/// The format of the file follows from its extension: `toml`, `json`, `yaml` or `yml`. Of the
/// environment, names that begin with `TIDERACE_` are looked at, `TIDERACE_CONFIG` excepted.
/// An unknown key of the file is an error, because it is most likely misspelt; an unknown variable
/// is a warning, because others may share the prefix. An option that Centrifugo has and tiderace
/// does not is a warning, or an error if its loss would open something that the file closes.
pub fn load(
    defaults: Config,
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    flags: &[Flag],
) -> Result<Loaded, ConfigError> {
    let mut loader = Loader { config: defaults, warnings: Vec::new(), failure: None };
    if let Some(path) = file {
        loader.read_file(path)?;
    }
    loader.read_environment(environment)?;
    for flag in flags {
        let refuse = |message| ConfigError { place: Place::Flag(flag.name), key: None, message };
        let key = KEYS
            .iter()
            .find(|key| key.path == flag.path)
            .ok_or_else(|| refuse(format!("there is no option {}", flag.path)))?;
        (key.set)(&mut loader.config, Value::Text(flag.value.clone())).map_err(refuse)?;
    }
    let Loader { config, mut warnings, .. } = loader;
    if config.client.pong_timeout >= config.client.ping_interval {
        return Err(ConfigError {
            place: Place::Together,
            key: Some("client.pong_timeout".into()),
            message: format!(
                "{:?} must be below client.ping_interval, which is {:?}",
                config.client.pong_timeout, config.client.ping_interval
            ),
        });
    }
    warnings.extend(watch::check(&config.watch)?);
    Ok(Loaded { config, warnings })
}

/// What has been read so far.
struct Loader {
    config: Config,
    warnings: Vec<String>,
    /// The key and sentence behind an error that travels through a parser, which adds the line.
    failure: Option<(String, String)>,
}

impl Loader {
    fn read_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let refuse = |position, key, message| ConfigError {
            place: Place::File { path: path.to_owned(), position },
            key,
            message,
        };
        let mut text = String::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text))
            .map_err(|error| refuse(None, None, format!("cannot be read: {error}")))?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(refuse(None, None, format!("is larger than {FILE_BYTES_MAX} bytes")));
        }
        let parsed = match path.extension().and_then(|extension| extension.to_str()) {
            Some("toml") => self.read_toml(&text),
            Some("json") => self.read_json(&text),
            Some("yaml" | "yml") => self.read_yaml(&text),
            _ => Err((None, "must be named .toml, .json, .yaml or .yml".into())),
        };
        parsed.map_err(|(position, syntax)| match self.failure.take() {
            Some((key, message)) => refuse(position, Some(key), message),
            None => refuse(position, None, syntax),
        })
    }

    fn read_toml(&mut self, text: &str) -> Result<(), Fault> {
        let fault = |error: toml::de::Error| {
            let position = error.span().map(|span| position(text, span.start));
            (position, error.message().to_owned())
        };
        let document = toml::Deserializer::parse(text).map_err(fault)?;
        Entry::root(self).deserialize(document).map_err(fault)
    }

    fn read_json(&mut self, text: &str) -> Result<(), Fault> {
        let fault = |error: serde_json::Error| {
            let position = (error.line() > 0).then_some((error.line(), error.column()));
            let text = error.to_string();
            let message = text.split(" at line ").next().unwrap_or_default().to_owned();
            (position, message)
        };
        let mut document = serde_json::Deserializer::from_str(text);
        Entry::root(self).deserialize(&mut document).map_err(fault)?;
        document.end().map_err(fault)
    }

    fn read_yaml(&mut self, text: &str) -> Result<(), Fault> {
        // An error that quotes its surroundings could show a secret.
        let options = serde_saphyr::options! { with_snippet: false };
        serde_saphyr::with_deserializer_from_str_with_options(text, options, |document| {
            Entry::root(self).deserialize(document)
        })
        .map_err(|error| {
            let position = error
                .location()
                .and_then(|at| Some((at.line().try_into().ok()?, at.column().try_into().ok()?)))
                .filter(|&(line, _): &(usize, usize)| line > 0);
            let formatter = serde_saphyr::UserMessageFormatter;
            (position, formatter.format_message(&error).into_owned())
        })
    }

    fn read_environment(
        &mut self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<(), ConfigError> {
        let mut variables: Vec<_> = environment
            .into_iter()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .filter(|(name, _)| name.starts_with("TIDERACE_") && name != "TIDERACE_CONFIG")
            .collect();
        variables.sort();
        for (name, value) in variables {
            let refuse = |message| ConfigError {
                place: Place::Environment(name.clone()),
                key: None,
                message,
            };
            let value = value.into_string().map_err(|_| refuse("is not UTF-8".into()))?;
            if value.is_empty() {
                self.warnings.push(format!("environment variable {name} is empty and ignored"));
            } else if let Some(key) = KEYS.iter().find(|key| key.environment_name() == name) {
                (key.set)(&mut self.config, Value::Text(value)).map_err(refuse)?;
            } else if let Some(loss) = environment_loss(&name) {
                self.miss(&name, &Value::Text(value), loss).map_err(refuse)?;
            } else {
                let names = KEYS.iter().map(Key::environment_name);
                let hint = did_you_mean(&name, names);
                self.warnings.push(format!("environment variable {name} is not an option{hint}"));
            }
        }
        Ok(())
    }

    /// Takes note of an option that only Centrifugo has.
    fn miss(&mut self, name: &str, value: &Value, loss: Loss) -> Result<(), String> {
        if value.is_off() {
            return Ok(());
        }
        match loss {
            Loss::Feature => {
                self.warnings.push(format!("{name} is an option of Centrifugo: ignored"));
                Ok(())
            }
            Loss::Protection => Err("is an option of Centrifugo that tiderace lacks, and without \
                 it less would be protected than is asked for; remove it to go on without"
                .into()),
        }
    }

    /// Keeps the sentence for the error that the parser is about to locate.
    fn judge(&mut self, path: String, verdict: Result<(), String>) -> Result<(), ()> {
        verdict.map_err(|message| self.failure = Some((path, message)))
    }
}

/// A parser's position, line then column, and its message.
type Fault = (Option<(usize, usize)>, String);

/// Line and column of a byte of a text, from 1.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

fn environment_loss(name: &str) -> Option<Loss> {
    let mut covering: Vec<_> = centrifugo::paths()
        .filter(|path| {
            name.strip_prefix(&environment_name(path))
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
        })
        .collect();
    covering.sort_by_key(|path| path.len());
    covering.last().and_then(|path| centrifugo::loss(path))
}

/// ` (did you mean ...?)` with the name that is nearest, or nothing if none is near.
fn did_you_mean(name: &str, known: impl Iterator<Item = String>) -> String {
    known
        .map(|candidate| (strsim::damerau_levenshtein(name, &candidate), candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .map_or_else(String::new, |(_, candidate)| format!(" (did you mean {candidate}?)"))
}

/// Names that may follow `path`, of tiderace and of Centrifugo.
fn children(path: &str) -> BTreeSet<String> {
    let options = KEYS.iter().map(|key| key.path);
    options
        .chain(centrifugo::paths())
        .filter_map(|option| match path {
            "" => Some(option),
            _ => option.strip_prefix(path)?.strip_prefix('.'),
        })
        .filter_map(|rest| rest.split('.').next())
        .map(str::to_owned)
        .collect()
}

/// What stands at a path of the file: an option, a section, or a mistake. "" is the whole file.
struct Entry<'a> {
    loader: &'a mut Loader,
    path: String,
    /// Whether the file has this path for the second time.
    repeated: bool,
}

impl<'a> Entry<'a> {
    fn root(loader: &'a mut Loader) -> Self {
        Entry { loader, path: String::new(), repeated: false }
    }

    /// An option with its value, or a mistake.
    fn settle(self, value: Value) -> Result<(), ()> {
        let Entry { loader, path, repeated } = self;
        let verdict = if repeated {
            Err("is set twice".into())
        } else if let Some(key) = KEYS.iter().find(|key| key.path == path) {
            (key.set)(&mut loader.config, value)
        } else if let Some(loss) = centrifugo::loss(&path) {
            loader.miss(&path, &value, loss)
        } else {
            let (parent, name) = path.rsplit_once('.').unwrap_or(("", &path));
            let hint = did_you_mean(name, children(parent).into_iter());
            Err(format!("there is no such option{hint}"))
        };
        loader.judge(path, verdict)
    }
}

impl<'de> DeserializeSeed<'de> for Entry<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        if !self.repeated && !children(&self.path).is_empty() {
            return from.deserialize_any(self);
        }
        from.deserialize_any(Read(|value| self.settle(value)))
    }
}

impl<'de> Visitor<'de> for Entry<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => f.write_str("options"),
            path => write!(f, "a section {path} with options"),
        }
    }

    /// An empty section of YAML.
    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let mut seen = BTreeSet::new();
        while let Some(name) = entries.next_key::<String>()? {
            let path = match self.path.as_str() {
                "" => name,
                parent => format!("{parent}.{name}"),
            };
            let repeated = !seen.insert(path.clone());
            entries.next_value_seed(Entry { loader: self.loader, path, repeated })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use super::*;

    /// Loads a file of this name and content, and these variables.
    fn load_text(
        name: &str,
        text: &str,
        environment: &[(&str, &str)],
        flags: &[Flag],
    ) -> Result<Loaded, String> {
        let unique = std::thread::current().name().unwrap_or("test").replace("::", "-");
        let directory = std::env::temp_dir().join(format!("{}-{unique}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join(name);
        std::fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
        let loaded = load(
            Config::default(),
            Some(&path),
            environment.iter().map(|(name, value)| (name.into(), value.into())),
            flags,
        );
        std::fs::remove_dir_all(&directory).unwrap();
        loaded.map_err(|error| error.to_string().replace(&format!("{}/", directory.display()), ""))
    }

    fn load_environment(environment: &[(&str, &str)]) -> Result<Loaded, String> {
        let environment = environment.iter().map(|(name, value)| (name.into(), value.into()));
        load(Config::default(), None, environment, &[]).map_err(|error| error.to_string())
    }

    /// A value that every option of some kind takes and that is not its default.
    fn sample(path: &str) -> &'static str {
        match path {
            "http_server.address" => "127.0.0.1",
            "client.allowed_origins" => "https://example.com",
            "health.enabled" => "false",
            "client.pong_timeout" => "7s",
            "engine.receive_buffers" => "512",
            "log.level" => "debug",
            "log.format" => "json",
            "watch.base_path" | "watch.device_info_path" => "/devices",
            "watch.token.proxy_endpoint" => "http://127.0.0.1:1/device",
            "watch.lease_ttl" | "watch.device_wait_for_viewer" => "200s",
            "watch.token.proxy_timeout" => "7s",
            "watch.token.hmac_secret_key" | "watch.token.table_file" => "text",
            _ if path.ends_with("_interval")
                || path.ends_with("_delay")
                || path.ends_with(".timeout") =>
            {
                "31s"
            }
            _ if path.ends_with("_size") || path.ends_with("_bytes") => "2048",
            _ if path.ends_with("_limit")
                || path.ends_with("port")
                || path.ends_with("max_length")
                || path == "shards" =>
            {
                "200"
            }
            _ if path.starts_with("client.token.") || path == "http_api.key" => "text",
            _ => "true",
        }
    }

    #[test]
    fn every_option_can_be_set_by_its_environment_variable() {
        for key in KEYS {
            let name = key.environment_name();
            let mut environment = vec![(&*name, sample(key.path))];
            // It cannot be set alone.
            if key.path == "watch.enabled" {
                environment.push(("TIDERACE_WATCH_TOKEN_TABLE_FILE", "text"));
            }
            let loaded = load_environment(&environment).unwrap();
            assert_ne!(loaded.config, Config::default(), "{name}");
            assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        }
    }

    #[test]
    fn the_table_of_keys_has_every_field_of_the_config() {
        let mut path: Vec<String> = Vec::new();
        let mut fields = BTreeSet::new();
        for line in format!("{:#?}", Config::default()).lines().skip(1) {
            let Some((name, value)) = line.split_once(": ") else { continue };
            path.truncate((line.len() - line.trim_start().len()) / 4 - 1);
            path.push(name.trim().into());
            if !value.ends_with('{') {
                fields.insert(path.join("."));
            }
        }
        let keys: BTreeSet<String> = KEYS.iter().map(|key| key.path.to_owned()).collect();
        assert_eq!(fields, keys);
    }

    #[test]
    fn the_three_formats_say_the_same() {
        let toml = "shards = 2\n[client]\nping_interval = \"3s\"\npong_timeout = \"1s\"\n\
                    allowed_origins = [\"https://a.example\"]\n[client.token]\n\
                    hmac_secret_key = \"k\"\n";
        let json = r#"{"shards":2,"client":{"ping_interval":"3s","pong_timeout":"1s",
                    "allowed_origins":["https://a.example"],"token":{"hmac_secret_key":"k"}}}"#;
        let yaml = "shards: 2\nclient:\n  ping_interval: 3s\n  pong_timeout: 1s\n  \
                    allowed_origins: [https://a.example]\n  token:\n    hmac_secret_key: k\n";
        let from_toml = load_text("c.toml", toml, &[], &[]).unwrap();
        assert_eq!(from_toml.config.client.ping_interval, Duration::from_secs(3));
        assert_eq!(from_toml.config.client.token.hmac_secret_key.as_ref().unwrap().expose(), "k");
        assert_eq!(from_toml, load_text("c.json", json, &[], &[]).unwrap());
        assert_eq!(from_toml, load_text("c.yaml", yaml, &[], &[]).unwrap());
    }

    #[test]
    fn flags_win_over_environment_over_file_over_default() {
        let environment = [("TIDERACE_HTTP_SERVER_PORT", "9002"), ("TIDERACE_SHARDS", "3")];
        let flags = [Flag { name: "--shards", path: "shards", value: "4".into() }];
        let text = "shards = 2\n[http_server]\nport = 9001\naddress = \"127.0.0.1\"\n";
        let config = load_text("c.toml", text, &environment, &flags).unwrap().config;
        assert_eq!(config.http_server.listen().to_string(), "127.0.0.1:9002");
        assert_eq!(config.shards.unwrap().get(), 4);
        assert_eq!(config.client.channel_limit, 128);
    }

    #[test]
    fn errors_name_file_line_and_field() {
        for (name, text, start, end) in [
            (
                "c.toml",
                "[client]\nping_interval = 25\n",
                "c.toml:2:17: client.ping_interval: expected a duration",
                "found 25",
            ),
            (
                "c.json",
                "{\n \"client\": {\n  \"ping_interval\": 25\n }\n}",
                "c.json:3:",
                "found 25",
            ),
            ("c.yaml", "client:\n  ping_interval: 25\n", "c.yaml:2:18: client.ping_interval", "25"),
            (
                "c.toml",
                "[client]\nchanel_limit = 1\n",
                "c.toml:2:16: client.chanel_limit: there is no such option",
                "(did you mean channel_limit?)",
            ),
            (
                "c.json",
                "{\n\"clinet\": {}}",
                "c.json:2:",
                "clinet: there is no such option (did you mean client?)",
            ),
            ("c.yaml", "\nclinet: {}\n", "c.yaml:2:", "(did you mean client?)"),
            ("c.json", "{\"shards\": 1,\n\"shards\": 2}", "c.json:2:", "shards: is set twice"),
            ("c.toml", "a = ", "c.toml:1:5: ", ""),
            ("c.json", "{", "c.json:1:1: ", ""),
            ("c.yaml", "a: [", "c.yaml:", ""),
            ("c.ini", "", "c.ini: must be named", ""),
            ("c.toml", "client = 1\n", "c.toml:1:10: ", ""),
        ] {
            let error = load_text(name, text, &[], &[]).unwrap_err();
            assert!(error.starts_with(start), "{error}");
            assert!(error.ends_with(end), "{error}");
        }
    }

    #[test]
    fn errors_never_show_a_secret() {
        for (name, text) in [
            ("c.toml", "[http_api]\nkey = 8675309\n"),
            ("c.toml", "[http_api]\nkey = \"8675309\n"),
            ("c.json", "{\"http_api\": {\"key\": [8675309]}}"),
            ("c.json", "{\"http_api\": {\"key\": \"8675309}}"),
            ("c.yaml", "http_api:\n  key: 8675309\n"),
            ("c.yaml", "http_api:\n  key: \"8675309\n"),
        ] {
            let error = load_text(name, text, &[], &[]).unwrap_err();
            assert!(!error.contains("8675309"), "{error}");
        }
    }

    #[test]
    fn options_of_centrifugo_warn_unless_their_loss_opens_something() {
        let text = "[admin]\nenabled = true\n[client]\nexpired_close_delay = \"5s\"\n\
                    [http_server.tls]\nenabled = false\n[engine]\ntype = \"memory\"\n";
        let warnings = load_text("c.toml", text, &[], &[]).unwrap().warnings;
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].starts_with("admin is an option of Centrifugo"));
        assert!(warnings[1].starts_with("client.expired_close_delay "));

        let text = "http_server:\n  tls:\n    enabled: true\n";
        let error = load_text("c.yaml", text, &[], &[]).unwrap_err();
        assert!(error.starts_with("c.yaml:3:14: http_server.tls.enabled: "), "{error}");

        let warnings = load_environment(&[("TIDERACE_ADMIN_ENABLED", "true")]).unwrap().warnings;
        assert_eq!(warnings, ["TIDERACE_ADMIN_ENABLED is an option of Centrifugo: ignored"]);
        assert!(load_environment(&[("TIDERACE_HTTP_SERVER_TLS_ENABLED", "true")]).is_err());
    }

    #[test]
    fn unknown_variables_are_warned_about() {
        let loaded = load_environment(&[
            ("TIDERACE_CLIENT_TOKEN_HMAC_SECRET", "k"),
            ("TIDERACE_HTTP_API_KEY", ""),
            ("TIDERACE_CONFIG", "c.toml"),
            ("PATH", "/bin"),
        ])
        .unwrap();
        assert_eq!(loaded.config, Config::default());
        assert_eq!(
            loaded.warnings,
            [
                "environment variable TIDERACE_CLIENT_TOKEN_HMAC_SECRET is not an option \
                 (did you mean TIDERACE_CLIENT_TOKEN_HMAC_SECRET_KEY?)",
                "environment variable TIDERACE_HTTP_API_KEY is empty and ignored",
            ]
        );
    }

    #[test]
    fn a_wrong_variable_and_a_wrong_pair_are_named() {
        let error = load_environment(&[("TIDERACE_SHARDS", "many")]).unwrap_err();
        assert_eq!(
            error,
            "environment variable TIDERACE_SHARDS: expected a whole number from 0 to 256, \
             found \"many\""
        );
        let error = load_environment(&[("TIDERACE_CLIENT_PONG_TIMEOUT", "25s")]).unwrap_err();
        assert!(error.contains("client.ping_interval"), "{error}");
    }

    #[test]
    fn a_file_that_is_too_large_is_refused() {
        let text = "#".repeat(FILE_BYTES_MAX as usize + 1);
        let error = load_text("c.toml", &text, &[], &[]).unwrap_err();
        assert!(error.ends_with("is larger than 1048576 bytes"), "{error}");
    }
}

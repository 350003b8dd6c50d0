//! From file, environment and flags to a [`Config`], or to the sentence that says what is wrong.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::Config;
use super::centrifugo::{self, Loss};
use super::check::{self, Fault};
use super::error::{ConfigError, Place};
use super::parse::{Format, Parse, ParseFault, did_you_mean};
use super::section::{Child, Entry, Kind, Section};
use super::value::Value;

/// Bytes of a configuration file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What the names of variables begin with: Centrifugo's, and ours.
const PREFIXES: [&str; 2] = ["CENTRIFUGO_", "TIDERACE_"];

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
/// environment, names that begin with `CENTRIFUGO_` are looked at, and after them those that begin
/// with `TIDERACE_`, `TIDERACE_CONFIG` excepted; a list of sections is one variable with JSON, and
/// replaces that of the file, and each option of an element that has a name is a variable too.
/// An unknown key of the file is an error, because it is most likely misspelt; an unknown variable
/// is a warning, because others may share the prefix. An option that Centrifugo has and tiderace
/// does not is a warning, or an error if its loss would open something that the file closes, or if
/// it says that several nodes share their channels.
///
/// # Errors
/// What is wrong, with its option and where that was set: also if it is right alone and wrong
/// together with others.
pub fn load(
    defaults: Config,
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    flags: &[Flag],
) -> Result<Loaded, ConfigError> {
    load_for(defaults, file, environment, flags, |_| Ok(()))
}

/// The same for somebody who has to be able to use the configuration, and knows better whether
/// that is so.
pub(crate) fn load_for(
    defaults: Config,
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    flags: &[Flag],
    is_usable: impl FnOnce(&Config) -> Result<(), Fault>,
) -> Result<Loaded, ConfigError> {
    let mut config = defaults;
    let mut parse = Parse::default();
    let file = file.map(File::read).transpose()?;
    if let Some(file) = &file {
        parse.file(file.format, &file.text, &mut config).map_err(|fault| file.refuse(fault))?;
    }
    let mut places = BTreeMap::new();
    read_environment(environment, &mut config, &mut parse, &mut places)?;
    for flag in flags {
        let refuse = |message| ConfigError { place: Place::Flag(flag.name), key: None, message };
        let Some(Child::Option(set)) = child(&mut config, flag.path) else {
            return Err(refuse(format!("there is no option {}", flag.path)));
        };
        set(Value::Text(flag.value.clone())).map_err(refuse)?;
        places.insert(flag.path.to_owned(), Place::Flag(flag.name));
    }
    let mut warnings = parse.warnings;
    let one_node = centrifugo::shared(&parse.stores).map_or(Ok(()), Err);
    let together = one_node.and_then(|()| check::check(&config)).and_then(|warnings| {
        is_usable(&config)?;
        Ok(warnings)
    });
    warnings.extend(together.map_err(|fault| locate(fault, &places, file.as_ref()))?);
    Ok(Loaded { config, warnings })
}

/// A file that was read.
struct File {
    path: PathBuf,
    format: Format,
    text: String,
}

impl File {
    fn read(path: &Path) -> Result<Self, ConfigError> {
        let place = Place::File { path: path.to_owned(), position: None };
        let refuse = |message| ConfigError { place: place.clone(), key: None, message };
        let mut text = String::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text))
            .map_err(|error| refuse(format!("cannot be read: {error}")))?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(refuse(format!("is larger than {FILE_BYTES_MAX} bytes")));
        }
        let format = match path.extension().and_then(|extension| extension.to_str()) {
            Some("toml") => Format::Toml,
            Some("json") => Format::Json,
            Some("yaml" | "yml") => Format::Yaml,
            _ => return Err(refuse("must be named .toml, .json, .yaml or .yml".into())),
        };
        Ok(Self { path: path.to_owned(), format, text })
    }

    fn refuse(&self, fault: ParseFault) -> ConfigError {
        let ParseFault { position, key, message } = fault;
        ConfigError { place: Place::File { path: self.path.clone(), position }, key, message }
    }
}

/// Says where the option to blame was set last: `places` knows those of environment and flags.
fn locate(fault: Fault, places: &BTreeMap<String, Place>, file: Option<&File>) -> ConfigError {
    let mut blamed = Some(&fault);
    while let Some(Fault { key, message, otherwise }) = blamed {
        let covers = |path: &str| {
            key.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('['))
        };
        if let Some((_, place)) = places.iter().find(|(path, _)| covers(path)) {
            let (key, message) = (Some(key.clone()), message.clone());
            return ConfigError { place: place.clone(), key, message };
        }
        if let Some(file) = file
            && let Some(fault) = blamed
            && let Err(found) =
                Parse::seeking(fault).file(file.format, &file.text, &mut Config::default())
        {
            return file.refuse(found);
        }
        blamed = otherwise.as_deref();
    }
    let Fault { key, message, .. } = fault;
    ConfigError { place: Place::Together, key: Some(key), message }
}

fn read_environment(
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    config: &mut Config,
    parse: &mut Parse<'_>,
    places: &mut BTreeMap<String, Place>,
) -> Result<(), ConfigError> {
    let mut variables: Vec<_> = environment
        .into_iter()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
        .filter(|(name, _)| name != "TIDERACE_CONFIG")
        .collect();
    // By their prefix first, so that ours win.
    variables.sort();
    let known = environment_names(config);
    for (name, value) in variables {
        let own_name = match name.strip_prefix("CENTRIFUGO_") {
            Some(rest) => format!("TIDERACE_{rest}"),
            None => name.clone(),
        };
        let place = Place::Environment(name.clone());
        let refuse = |message| ConfigError { place: place.clone(), key: None, message };
        let value = value.into_string().map_err(|_| refuse("is not UTF-8".into()))?;
        if value.is_empty() {
            parse.warnings.push(format!("environment variable {name} is empty and ignored"));
        } else if let Some(path) = known.get(&own_name) {
            match child(config, path) {
                Some(Child::Option(set)) => set(Value::Text(value)).map_err(refuse)?,
                Some(Child::List(list)) => parse.list(path, &value, list).map_err(|fault| {
                    ConfigError { place: place.clone(), key: fault.key, message: fault.message }
                })?,
                Some(Child::Section(_)) | None => unreachable!("options and lists have variables"),
            }
            places.insert(path.clone(), place);
        } else if let Some((element, element_path, option)) = element_option(config, &own_name) {
            let path = format!("{element_path}.{option}");
            match child(element, &option) {
                Some(Child::Option(set)) => set(Value::Text(value)).map_err(refuse)?,
                Some(Child::List(list)) => parse.list(&path, &value, list).map_err(|fault| {
                    ConfigError { place: place.clone(), key: fault.key, message: fault.message }
                })?,
                Some(Child::Section(_)) | None => unreachable!("options and lists have variables"),
            }
            places.insert(path, place);
        } else if let Some((path, loss)) = environment_loss(&own_name) {
            parse.miss(&name, &path, &Value::Text(value), loss).map_err(refuse)?;
            places.insert(path, place);
        } else {
            let hint = did_you_mean(&own_name, known.keys().cloned());
            parse.warnings.push(format!("environment variable {name} is not an option{hint}"));
        }
    }
    Ok(())
}

/// The variable of every option and list of a section, with its path.
fn environment_names(section: &dyn Section) -> BTreeMap<String, String> {
    fn add(parent: &str, entries: Vec<Entry>, names: &mut BTreeMap<String, String>) {
        for entry in entries {
            let path = match parent {
                "" => entry.name.to_owned(),
                parent => format!("{parent}.{}", entry.name),
            };
            match entry.kind {
                Kind::Section(entries) => add(&path, entries, names),
                Kind::Option(_) | Kind::List(_) => {
                    names.insert(environment_name(&path), path);
                }
            }
        }
    }
    let mut names = BTreeMap::new();
    add("", section.entries(), &mut names);
    names
}

/// Lists whose elements have variables of their own, with the element's name in theirs.
const NAMED: [&str; 3] = ["channel.namespaces", "rpc.namespaces", "proxies"];

/// An option of an element, by a variable such as `TIDERACE_CHANNEL_NAMESPACES_CHAT_PRESENCE`: the
/// element, its path, and the option's path within it.
fn element_option<'a>(
    config: &'a mut Config,
    variable: &str,
) -> Option<(&'a mut dyn Section, String, String)> {
    let path = NAMED.into_iter().find(|path| {
        let rest = variable.strip_prefix(&environment_name(path));
        rest.is_some_and(|rest| rest.starts_with('_'))
    })?;
    let rest = variable.get(environment_name(path).len() + 1..)?;
    let Some(Child::List(list)) = child(config, path) else { return None };
    let mut index = 0;
    let option = loop {
        let element = list.element(index)?;
        let name = element.entries().into_iter().find(|entry| entry.name == "name");
        if let Some(Entry { kind: Kind::Option(Value::Text(name)), .. }) = name
            && let name = name.replace(['.', '-'], "_").to_ascii_uppercase()
            && let Some(option) = rest.strip_prefix(&name).and_then(|rest| rest.strip_prefix('_'))
            && let Some(option) = environment_names(element).remove(&environment_name(option))
        {
            break option;
        }
        index += 1;
    };
    Some((list.element(index)?, format!("{path}[{index}]"), option))
}

/// The environment variable of a path, such as `TIDERACE_CLIENT_PING_INTERVAL`.
fn environment_name(path: &str) -> String {
    format!("TIDERACE_{}", path.replace('.', "_").to_ascii_uppercase())
}

/// The path of an option that only Centrifugo has, by its variable, and what is lost with it.
/// Deep within what is listed, where names may have underscores, the path is not exact.
fn environment_loss(name: &str) -> Option<(String, Loss)> {
    let covering = centrifugo::listed().filter_map(|(path, loss)| {
        let rest = name.strip_prefix(&environment_name(&path))?;
        (rest.is_empty() || rest.starts_with('_')).then_some((path, rest, loss))
    });
    let (path, rest, loss) = covering.max_by_key(|(path, ..)| path.len())?;
    Some((format!("{path}{}", rest.to_ascii_lowercase().replacen('_', ".", 1)), loss))
}

/// What stands at a path.
fn child<'a>(section: &'a mut dyn Section, path: &str) -> Option<Child<'a>> {
    match path.split_once('.') {
        None => section.child(path),
        Some((name, rest)) => match section.child(name)? {
            Child::Section(section) => child(section, rest),
            Child::Option(_) | Child::List(_) => None,
        },
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

    /// A value that an option with this default takes and that is another one.
    fn sample(path: &str, default: &Value) -> String {
        let name = path.rsplit('.').next().unwrap_or(path);
        match (name, default) {
            ("address", _) => "127.0.0.1",
            ("allowed_origins", _) => "https://example.com",
            ("pong_timeout", _) => "7s",
            ("ping_interval", _) => "31s",
            ("heartbeat_interval", _) => "31s",
            ("receive_buffers", _) => "512",
            ("level", _) => "debug",
            ("format", _) => "json",
            ("error_mode", _) => "transport",
            ("force_recovery_mode", _) => "cache",
            ("slow_consumer", _) => "latest",
            ("static_headers", _) => r#"{"X-A": "b"}"#,
            ("namespaces" | "proxies", _) => {
                r#"[{"name": "mine", "endpoint": "http://b.example"}]"#
            }
            ("status_to_code_transforms", _) => {
                r#"[{"status_code": 404, "to_error": {"code": 404}}]"#
            }
            ("rsa_public_key" | "ecdsa_public_key" | "ed25519_public_key", _) => {
                "-----BEGIN PUBLIC KEY-----"
            }
            (_, Value::Bool(on)) => return (!on).to_string(),
            (_, Value::Integer(default)) if *default >= 1024 => "2048",
            (_, Value::Integer(_)) => "200",
            (_, Value::List(_)) => "x-a",
            (_, Value::Text(text)) if text.starts_with('/') => "/other",
            (_, Value::Text(text)) if text.ends_with(['s', 'h']) && text.len() < 6 => "200s",
            _ if name.ends_with("endpoint") => "http://127.0.0.1:1/x",
            _ => "text",
        }
        .into()
    }

    /// What else must be set for an option to be usable.
    fn companions(path: &str) -> &'static [(&'static str, &'static str)] {
        match path {
            "watch.enabled" => &[("TIDERACE_WATCH_TOKEN_TABLE_FILE", "text")],
            "client.proxy.connect.enabled" => {
                &[("TIDERACE_CLIENT_PROXY_CONNECT_ENDPOINT", "http://b.example")]
            }
            "client.proxy.refresh.enabled" => {
                &[("TIDERACE_CLIENT_PROXY_REFRESH_ENDPOINT", "http://b.example")]
            }
            "rpc.without_namespace.proxy_enabled" => {
                &[("TIDERACE_RPC_PROXY_ENDPOINT", "http://b.example")]
            }
            "channel.without_namespace.subscribe_proxy_enabled" => {
                &[("TIDERACE_CHANNEL_PROXY_SUBSCRIBE_ENDPOINT", "http://b.example")]
            }
            "channel.without_namespace.publish_proxy_enabled" => {
                &[("TIDERACE_CHANNEL_PROXY_PUBLISH_ENDPOINT", "http://b.example")]
            }
            "channel.without_namespace.sub_refresh_proxy_enabled" => {
                &[("TIDERACE_CHANNEL_PROXY_SUB_REFRESH_ENDPOINT", "http://b.example")]
            }
            "channel.without_namespace.state_proxy_enabled" => {
                &[("TIDERACE_CHANNEL_PROXY_STATE_ENDPOINT", "http://b.example")]
            }
            "channel.without_namespace.force_recovery"
            | "channel.without_namespace.history_ttl"
            | "channel.without_namespace.history_size" => &[
                ("TIDERACE_CHANNEL_WITHOUT_NAMESPACE_HISTORY_SIZE", "200"),
                ("TIDERACE_CHANNEL_WITHOUT_NAMESPACE_HISTORY_TTL", "200s"),
            ],
            _ if path.ends_with("proxy_name") => {
                &[("TIDERACE_PROXIES", r#"[{"name":"text","endpoint":"http://b.example"}]"#)]
            }
            _ => &[],
        }
    }

    /// Every option and list by its path, with its default.
    fn all_options() -> Vec<(String, Value)> {
        fn add(parent: &str, entries: Vec<Entry>, all: &mut Vec<(String, Value)>) {
            for entry in entries {
                let path = format!("{parent}{}", entry.name);
                match entry.kind {
                    Kind::Option(value) => all.push((path, value)),
                    Kind::List(_) => all.push((path, Value::List(Vec::new()))),
                    Kind::Section(entries) => add(&format!("{path}."), entries, all),
                }
            }
        }
        let mut all = Vec::new();
        add("", Config::default().entries(), &mut all);
        all
    }

    #[test]
    fn every_option_can_be_set_by_its_environment_variable() {
        let all = all_options();
        assert!(all.len() > 100, "{}", all.len());
        for (path, default) in all {
            let name = environment_name(&path);
            let value = match (&*path, default) {
                ("rpc.namespaces", _) => String::from(r#"[{"name": "mine"}]"#),
                ("channel.namespaces", _) => {
                    String::from(r#"[{"name": "mine", "presence": true}]"#)
                }
                (path, default) => sample(path, &default),
            };
            let mut environment = companions(&path).to_vec();
            environment.retain(|(companion, _)| *companion != name);
            environment.push((&name, &value));
            let others = load_environment(&environment[..environment.len() - 1]);
            // Some cannot be set at all without the others.
            let without = others.map_or_else(|_| Config::default(), |loaded| loaded.config);
            let loaded = load_environment(&environment).unwrap_or_else(|error| panic!("{error}"));
            assert_ne!(loaded.config, without, "{name}");
        }
    }

    #[test]
    fn no_two_paths_have_the_same_variable() {
        assert_eq!(environment_names(&Config::default()).len(), all_options().len());
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
    fn errors_within_namespaces_name_them() {
        for (name, text, start, end) in [
            (
                "c.toml",
                "[[channel.namespaces]]\nname = \"aa\"\n[[channel.namespaces]]\nname = \"bb\"\n\
                 history_size = -1\n",
                "c.toml:5:16: channel.namespaces[1].history_size: ",
                "found -1",
            ),
            (
                "c.json",
                "{\"channel\": {\"namespaces\": [\n{\"name\": \"aa\",\n\"presense\": true}]}}",
                "c.json:3:",
                "channel.namespaces[0].presense: there is no such option (did you mean presence?)",
            ),
            (
                "c.yaml",
                "channel:\n  namespaces:\n  - name: aa\n    channel_regex: 'a('\n",
                "c.yaml:4:20: channel.namespaces[0].channel_regex: ",
                "unclosed group",
            ),
            (
                "c.yaml",
                "channel:\n  namespaces:\n  - name: 'a:'\n",
                "c.yaml:3:11: channel.namespaces[0].name: ",
                "found \"a:\"",
            ),
            ("c.toml", "[channel]\nnamespaces = 3\n", "c.toml:2:14: channel.namespaces: ", ""),
            ("c.toml", "proxies = [1]\n", "c.toml:1:12: proxies[0]: ", ""),
        ] {
            let error = load_text(name, text, &[], &[]).unwrap_err();
            assert!(error.starts_with(start), "{error}");
            assert!(error.ends_with(end), "{error}");
        }
    }

    #[test]
    fn what_does_not_fit_together_is_found_where_it_stands() {
        for (name, text, start) in [
            (
                "c.toml",
                "[client]\npong_timeout = \"30s\"\n",
                "c.toml:2:16: client.pong_timeout: 30s must be below",
            ),
            (
                "c.json",
                "{\"channel\": {\"namespaces\": [\n{\"name\": \"aa\",\n\"force_recovery\": true}]}}",
                "c.json:3:",
            ),
            (
                "c.yaml",
                "channel:\n  namespaces:\n  - name: aa\n    presence: true\n    history_size: 1\n",
                "c.yaml:5:19: channel.namespaces[0].history_size: needs history_ttl",
            ),
            (
                "c.yaml",
                "channel:\n  namespaces:\n  - name: aa\n  - name: aa\n",
                "c.yaml:4:11: channel.namespaces[1].name: \"aa\" is used twice",
            ),
            (
                "c.toml",
                "[[channel.namespaces]]\nname = \"aa\"\n[[channel.namespaces]]\npresence = true\n",
                "c.toml:3:1: channel.namespaces[1]: has no name",
            ),
            (
                "c.toml",
                "[watch]\nenabled = true\n[watch.token]\n",
                "c.toml:3:1: watch.token: watch.enabled needs exactly one",
            ),
            // What is not in the file cannot be pointed at, and the other is.
            (
                "c.toml",
                "[client]\nping_interval = \"5s\"\n",
                "c.toml:2:17: client.ping_interval: 5s must be above client.pong_timeout, which is",
            ),
            (
                "c.toml",
                "[handlers]\nping_interval = \"24h\"\n",
                "c.toml:2:17: handlers.ping_interval: 86400s must be below handlers.silence",
            ),
            (
                "c.yaml",
                "uni_sse:\n  enabled: true\n  handler_prefix: /health\n",
                "c.yaml:3:19: uni_sse.handler_prefix: /health is the path of health too",
            ),
            (
                "c.toml",
                "[watch]\nenabled = true\n",
                "c.toml:2:11: watch.enabled: needs in watch.token exactly one of",
            ),
            (
                "c.toml",
                "[watch]\nenabled = true\nheartbeat_interval = \"1m\"\n[watch.token]\n\
                 table_file = \"x\"\n",
                "c.toml:3:22: watch.heartbeat_interval: 60s must be at most a third of",
            ),
            (
                "c.toml",
                "[client.token]\naudience = \"a\"\naudience_regex = \"b\"\n",
                "c.toml:3:18: client.token.audience_regex: stands beside client.token.audience: set",
            ),
            (
                "c.json",
                "{\"client\": {\"insecure\": true, \"subscription_token\": {\"issuer\": \"a\",\n\
                 \"issuer_regex\": \"b\"}}}",
                "c.json:2:",
            ),
        ] {
            let error = load_text(name, text, &[], &[]).unwrap_err();
            assert!(error.starts_with(start), "{error}");
        }
        let environment = [("TIDERACE_CLIENT_PONG_TIMEOUT", "40s")];
        let text = "[client]\npong_timeout = \"3s\"\n";
        let error = load_text("c.toml", text, &environment, &[]).unwrap_err();
        let start = "environment variable TIDERACE_CLIENT_PONG_TIMEOUT: client.pong_timeout: 40s";
        assert!(error.starts_with(start), "{error}");
        let environment = [("TIDERACE_CLIENT_PING_INTERVAL", "5s")];
        let error = load_text("c.toml", "", &environment, &[]).unwrap_err();
        let start = "environment variable TIDERACE_CLIENT_PING_INTERVAL: client.ping_interval: 5s";
        assert!(error.starts_with(start), "{error}");
    }

    #[test]
    fn namespaces_of_the_environment_replace_those_of_the_file() {
        let text = "[[channel.namespaces]]\nname = \"aa\"\n[[channel.namespaces]]\nname = \"bb\"\n";
        let json = r#"[{"name": "cc", "history_size": 1, "history_ttl": "5s"}]"#;
        let environment = [("TIDERACE_CHANNEL_NAMESPACES", json)];
        let config = load_text("c.toml", text, &environment, &[]).unwrap().config;
        let [only] = &config.channel.namespaces[..] else { panic!("{:?}", config.channel) };
        assert_eq!((&*only.name, only.options.history_size), ("cc", 1));
        for (json, end) in [
            ("[{\"name\": \"cc\", \"history_size\": 1}]", "there is no history"),
            ("[{\"name\": \"cc\", \"presence\": 1}]", "expected true or false, found 1"),
            ("cc", "expected value"),
        ] {
            let error = load_environment(&[("TIDERACE_CHANNEL_NAMESPACES", json)]).unwrap_err();
            assert!(
                error.starts_with("environment variable TIDERACE_CHANNEL_NAMESPACES: "),
                "{error}"
            );
            assert!(error.ends_with(end), "{error}");
        }
    }

    #[test]
    fn options_of_elements_are_variables_with_their_names() {
        let text = "[[channel.namespaces]]\nname = \"chat\"\nallow_publish_for_client = true\n\
                    [[channel.namespaces]]\nname = \"chat.room-1\"\n\
                    [[proxies]]\nname = \"mine\"\nendpoint = \"http://b.example\"\n";
        let environment = [
            ("CENTRIFUGO_CHANNEL_NAMESPACES_CHAT_ALLOW_PUBLISH_FOR_CLIENT", "false"),
            ("TIDERACE_CHANNEL_NAMESPACES_CHAT_ROOM_1_PRESENCE", "true"),
            ("CENTRIFUGO_PROXIES_MINE_HTTP_STATIC_HEADERS", r#"{"a": "b"}"#),
            (
                "TIDERACE_PROXIES_MINE_HTTP_STATUS_TO_CODE_TRANSFORMS",
                r#"[{"status_code": 404, "to_error": {"code": 404}}]"#,
            ),
        ];
        let loaded = load_text("c.toml", text, &environment, &[]).unwrap();
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        let [chat, room] = &loaded.config.channel.namespaces[..] else { panic!("{loaded:?}") };
        assert!(!chat.options.allow_publish_for_client && !chat.options.presence);
        assert!(room.options.presence);
        let http = &loaded.config.proxies[0].proxy.http;
        assert_eq!(http.static_headers["a"].expose(), "b");
        assert_eq!(http.status_to_code_transforms.len(), 1);
        for (name, value, message) in [
            ("TIDERACE_CHANNEL_NAMESPACES_CHAT_HISTORY_SIZE", "x", "expected a whole number"),
            ("TIDERACE_CHANNEL_NAMESPACES_CHAT_HISTORY_SIZE", "5", "channel.namespaces[0].history"),
        ] {
            let error = load_text("c.toml", text, &[(name, value)], &[]).unwrap_err();
            assert!(error.starts_with(&format!("environment variable {name}: ")), "{error}");
            assert!(error.contains(message), "{error}");
        }
        let unknown = [("TIDERACE_CHANNEL_NAMESPACES_OTHER_PRESENCE", "true")];
        let warnings = load_text("c.toml", text, &unknown, &[]).unwrap().warnings;
        assert_eq!(warnings.len(), 1, "{warnings:?}");
    }

    #[test]
    fn nothing_leaves_the_default() {
        let json = r#"{"client": {"ping_interval": null, "allowed_origins": null, "token": null},
                    "channel": {"namespaces": null}, "proxies": []}"#;
        let yaml = "client:\n  ping_interval:\n  token:\nchannel:\n  namespaces:\n";
        for (name, text) in [("c.json", json), ("c.yaml", yaml)] {
            let loaded = load_text(name, text, &[], &[]).unwrap();
            assert_eq!(loaded, Loaded { config: Config::default(), warnings: vec![] }, "{name}");
        }
    }

    /// Centrifugo fills what is zero with the default of the option (`internal/config/envconfig`).
    #[test]
    fn no_time_is_the_default_time() {
        let text = "[client]\nping_interval = \"0s\"\npong_timeout = \"0s\"\nstale_close_delay = 0\n\
                    [rpc.proxy]\ntimeout = \"0s\"\n";
        let loaded = load_text("c.toml", text, &[], &[]).unwrap();
        assert_eq!(loaded, Loaded { config: Config::default(), warnings: vec![] });
        let error = load_text("c.toml", "[shutdown]\ntimeout = \"0s\"\n", &[], &[]).unwrap_err();
        assert!(error.contains("shutdown.timeout"), "others have no meaning for zero: {error}");
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
            ("c.toml", "http_api = \"8675309\"\n"),
            ("c.toml", "[client.proxy.connect.http.static_headers]\nAuthorization = 8675309\n"),
        ] {
            let error = load_text(name, text, &[], &[]).unwrap_err();
            assert!(!error.contains("8675309"), "{error}");
        }
    }

    #[test]
    fn options_of_centrifugo_warn_unless_their_loss_opens_something() {
        let text = "[admin]\nenabled = true\n[client]\nconcurrency = 5\n[debug]\nenabled = false\n\
                    [http_server.tls]\nenabled = false\n[engine]\ntype = \"memory\"\n";
        let warnings = load_text("c.toml", text, &[], &[]).unwrap().warnings;
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].starts_with("admin is an option of Centrifugo"));
        assert!(warnings[1].starts_with("client.concurrency "));

        let text = "license = \"k\"\n[user_status]\nenabled = true\n\
                    [client.rate_limit.client_command]\nenabled = true\n\
                    [[channel.namespaces]]\nname = \"ab\"\nsubscribe_cel = \"true\"\n";
        let warnings = load_text("c.toml", text, &[], &[]).unwrap().warnings;
        assert_eq!(warnings.len(), 4, "those of Centrifugo PRO too: {warnings:?}");
        let text = format!("{text}subscribe_call = \"true\"\n");
        let error = load_text("c.toml", &text, &[], &[]).unwrap_err();
        assert!(error.starts_with("c.toml:9:18: channel.namespaces[0].subscribe_call"), "{error}");

        let text = "http_server:\n  tls:\n    enabled: true\n";
        let error = load_text("c.yaml", text, &[], &[]).unwrap_err();
        assert!(error.starts_with("c.yaml:3:5: http_server.tls: "), "{error}");

        let warnings = load_environment(&[("TIDERACE_ADMIN_ENABLED", "true")]).unwrap().warnings;
        assert_eq!(warnings, ["TIDERACE_ADMIN_ENABLED is an option of Centrifugo: ignored"]);
        assert!(load_environment(&[("TIDERACE_HTTP_SERVER_TLS_ENABLED", "true")]).is_err());
    }

    #[test]
    fn what_several_nodes_share_is_no_option() {
        for (name, text, start) in [
            ("c.toml", "[engine]\ntype = \"redis\"\n", "c.toml:2:8: engine.type: \"redis\" is"),
            (
                "c.yaml",
                "engine:\n  redis:\n    address: r:6379\n  type: redis\n",
                "c.yaml:4:9: engine.type: \"redis\" is a store that several nodes share, and",
            ),
            ("c.toml", "[engine]\ntype = \"nats\"\n", "c.toml:2:8: engine.type: \"nats\" is"),
            (
                "c.toml",
                "[broker]\nenabled = true\ntype = \"nats\"\n",
                "c.toml:3:8: broker.type: \"nats\" is a store that several nodes share",
            ),
            (
                "c.json",
                "{\"presence_manager\": {\"enabled\": true,\n\"type\": \"redis\",\n\"redis\": {}}}",
                "c.json:2:",
            ),
            ("c.yaml", "broker: {enabled: true, type: redisnats}\n", "c.yaml:1:31: broker.type: "),
            ("c.toml", "[[brokers]]\nname = \"a\"\ntype = \"redis\"\n", "c.toml:1:1: brokers: is"),
        ] {
            let error = load_text(name, text, &[], &[]).unwrap_err();
            assert!(error.starts_with(start), "{error}");
            assert!(error.contains("tiderace is a single node"), "{error}");
        }
        for alone in [
            "[engine]\ntype = \"memory\"\n",
            "[broker]\nenabled = false\ntype = \"redis\"\n[presence_manager]\ntype = \"redis\"\n",
            "[broker]\nenabled = true\n[presence_manager]\nenabled = true\ntype = \"memory\"\n",
        ] {
            let loaded = load_text("c.toml", alone, &[], &[]).unwrap();
            assert_eq!(loaded, Loaded { config: Config::default(), warnings: vec![] });
        }
        let redis = [("CENTRIFUGO_ENGINE_TYPE", "redis")];
        let error = load_environment(&redis).unwrap_err();
        let start = "environment variable CENTRIFUGO_ENGINE_TYPE: engine.type: \"redis\" is";
        assert!(error.starts_with(start), "{error}");
        // Of several sources the last one counts, here as everywhere.
        let text = "[broker]\nenabled = true\n";
        let nats = [("TIDERACE_BROKER_TYPE", "nats")];
        let error = load_text("c.toml", text, &nats, &[]).unwrap_err();
        assert!(error.starts_with("environment variable TIDERACE_BROKER_TYPE: broker.type: "));
        let off = [nats[0], ("TIDERACE_BROKER_ENABLED", "false")];
        assert_eq!(load_text("c.toml", text, &off, &[]).unwrap().warnings, [""; 0]);
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
    fn variables_of_centrifugo_count_unless_ours_are_there() {
        let loaded = load_environment(&[
            ("TIDERACE_SHARDS", "3"),
            ("TIDERACE_HTTP_API_KEY", "ours"),
            ("CENTRIFUGO_HTTP_API_KEY", "theirs"),
            ("CENTRIFUGO_CLIENT_ALLOWED_ORIGINS", "https://a.example https://b.example"),
            ("CENTRIFUGO_ADMIN_PASSWORD", "p"),
            ("CENTRIFUGO_CHANNEL_NAMESPACES_CHAT_PRESENCE", "true"),
        ])
        .unwrap();
        let config = loaded.config;
        assert_eq!(config.http_api.key.unwrap().expose(), "ours");
        assert_eq!(config.client.allowed_origins, ["https://a.example", "https://b.example"]);
        assert_eq!(
            loaded.warnings,
            [
                "CENTRIFUGO_ADMIN_PASSWORD is an option of Centrifugo: ignored",
                "environment variable CENTRIFUGO_CHANNEL_NAMESPACES_CHAT_PRESENCE is not an option",
            ]
        );
        for (name, value) in [("CENTRIFUGO_SHARDS", "x"), ("CENTRIFUGO_HTTP_SERVER_TLS", "x")] {
            let error = load_environment(&[(name, value)]).unwrap_err();
            assert!(error.starts_with(&format!("environment variable {name}: ")), "{error}");
        }
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

//! Every option with its default and what it means, as a file that could be started with.

use super::Config;
use super::parse::Format;
use super::section::{Entry, Kind, Section};
use super::value::Value;

/// The file that says what holds without one. JSON has no comments, so there the options speak for
/// themselves; in TOML and YAML each has a line of documentation above it.
pub fn defaults(format: Format) -> String {
    let entries = Config::default().entries();
    let mut text = String::new();
    match format {
        Format::Toml => toml("", &entries, &mut text),
        Format::Yaml => yaml(0, "", &entries, &mut text),
        Format::Json => {
            let json = serde_json::to_string_pretty(&json_section(&entries));
            text = json.expect("its keys are texts") + "\n";
        }
    }
    text
}

fn toml(path: &str, entries: &[Entry], text: &mut String) {
    for entry in entries {
        match &entry.kind {
            Kind::Option(value) => {
                text.push_str(&format!("# {}\n{} = {}\n", entry.doc, entry.name, inline(value)));
            }
            Kind::List(elements) => {
                text.push_str(&format!("# {} Each has:\n", entry.doc));
                element_comments("", "", elements, text);
                text.push_str(&format!("{} = []\n", entry.name));
            }
            Kind::Section(entries) => {
                let path = match path {
                    "" => entry.name.to_owned(),
                    parent => format!("{parent}.{}", entry.name),
                };
                text.push_str(&format!("\n# {}\n[{path}]\n", entry.doc));
                toml(&path, entries, text);
            }
        }
    }
}

fn yaml(depth: usize, indent: &str, entries: &[Entry], text: &mut String) {
    for entry in entries {
        match &entry.kind {
            Kind::Option(value) => text.push_str(&format!(
                "{indent}# {}\n{indent}{}: {}\n",
                entry.doc,
                entry.name,
                json_value(value)
            )),
            Kind::List(elements) => {
                text.push_str(&format!("{indent}# {} Each has:\n", entry.doc));
                element_comments(indent, "", elements, text);
                text.push_str(&format!("{indent}{}: []\n", entry.name));
            }
            Kind::Section(entries) => {
                let gap = if depth == 0 { "\n" } else { "" };
                text.push_str(&format!("{gap}{indent}# {}\n{indent}{}:\n", entry.doc, entry.name));
                yaml(depth + 1, &format!("{indent}  "), entries, text);
            }
        }
    }
}

/// What an element of a list may have, as comments.
fn element_comments(indent: &str, path: &str, entries: &[Entry], text: &mut String) {
    for entry in entries {
        let name = format!("{path}{}", entry.name);
        match &entry.kind {
            Kind::Option(value) => {
                let value = json_value(value);
                text.push_str(&format!("{indent}#   {name} ({value}): {}\n", entry.doc));
            }
            Kind::List(entries) | Kind::Section(entries) => {
                element_comments(indent, &format!("{name}."), entries, text);
            }
        }
    }
}

/// A value of TOML. Its texts and lists are those of JSON; the only tables are empty.
fn inline(value: &Value) -> String {
    json_value(value).to_string()
}

fn json_section(entries: &[Entry]) -> serde_json::Value {
    let entries = entries.iter().map(|entry| {
        let value = match &entry.kind {
            Kind::Option(value) => json_value(value),
            Kind::List(_) => serde_json::Value::Array(Vec::new()),
            Kind::Section(entries) => json_section(entries),
        };
        (entry.name.to_owned(), value)
    });
    serde_json::Value::Object(entries.collect())
}

fn json_value(value: &Value) -> serde_json::Value {
    match value {
        Value::Nothing => serde_json::Value::Null,
        Value::Bool(on) => (*on).into(),
        Value::Integer(number) => {
            i64::try_from(*number).expect("no default is larger than 64 bits").into()
        }
        Value::Float(number) => (*number).into(),
        Value::Text(text) => text.as_str().into(),
        Value::List(items) => items.iter().map(json_value).collect(),
        Value::Table(entries) => {
            let entries = entries.iter().map(|(name, value)| (name.clone(), json_value(value)));
            serde_json::Value::Object(entries.collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse::Parse;

    const FORMATS: [Format; 3] = [Format::Toml, Format::Json, Format::Yaml];

    #[test]
    fn the_defaults_read_as_the_defaults() {
        for format in FORMATS {
            let mut config = Config { shards: std::num::NonZeroUsize::new(9), ..Config::default() };
            config.channel.history_meta_ttl = std::time::Duration::from_secs(1);
            config.rpc.ping.enabled = true;
            let read = Parse::default().file(format, &defaults(format), &mut config);
            let fault = read.map_err(|fault| (fault.position, fault.key, fault.message)).err();
            assert_eq!(fault, None, "{format:?}");
            assert_eq!(config, Config::default(), "{format:?}");
        }
    }

    #[test]
    fn every_option_has_a_line_of_documentation() {
        fn all(entries: &[Entry]) {
            for entry in entries {
                assert!(entry.doc.ends_with('.') && !entry.doc.contains('\n'), "{}", entry.name);
                if let Kind::List(entries) | Kind::Section(entries) = &entry.kind {
                    all(entries);
                }
            }
        }
        all(&Config::default().entries());
        let toml = defaults(Format::Toml);
        assert!(
            toml.contains("# Subscriptions of one connection.\nchannel_limit = 128\n"),
            "{toml}"
        );
        assert!(toml.contains("#   history_size (0): Publications kept"), "{toml}");
        let yaml = defaults(Format::Yaml);
        assert!(
            yaml.contains("  # Time for connections to close.\n  timeout: \"30s\"\n"),
            "{yaml}"
        );
    }
}

//! The three formats of files, each driving one visitor that walks the sections.
//!
//! The visitor knows the path of every option, and an error that it raises carries the line at
//! which the parser stands. Crates that merge sources first (`config`, for one) have lost that line
//! by the time a value proves wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::MessageFormatter;

use super::centrifugo::{self, Loss, SINGLE};
use super::check::Fault;
use super::section::{Child, List, Section};
use super::value::{Read, Value};

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// TOML.
    Toml,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// Line and column, from 1.
pub(super) type Position = (usize, usize);

/// What a text could not be read for.
pub(super) struct ParseFault {
    pub(super) position: Option<Position>,
    /// The option to blame; an error of syntax has none.
    pub(super) key: Option<String>,
    pub(super) message: String,
}

/// What is known while a text is read.
#[derive(Default)]
pub(super) struct Parse<'a> {
    /// What has no effect, one sentence each.
    pub(super) warnings: Vec<String>,
    /// Where Centrifugo would keep channels and presence: values by their paths.
    pub(super) stores: BTreeMap<String, String>,
    /// A fault that is known already and looked for: it is raised where its option stands.
    sought: Option<&'a Fault>,
    /// The fault behind an error that travels through a parser, which adds the line.
    failure: Option<Fault>,
}

impl<'a> Parse<'a> {
    /// Raises `fault` where its option stands, if it does.
    pub(super) fn seeking(fault: &'a Fault) -> Self {
        Self { sought: Some(fault), ..Self::default() }
    }

    /// Reads a file into a section.
    pub(super) fn file(
        &mut self,
        format: Format,
        text: &str,
        section: &mut dyn Section,
    ) -> Result<(), ParseFault> {
        let at = At { parse: self, path: String::new(), what: What::Section(section) };
        let parsed = match format {
            Format::Toml => toml(text, at),
            Format::Json => json(text, at),
            Format::Yaml => yaml(text, at),
        };
        parsed.map_err(|syntax| self.explain(syntax))
    }

    /// Reads a list that is one text of JSON.
    pub(super) fn list(
        &mut self,
        path: &str,
        text: &str,
        list: &mut dyn List,
    ) -> Result<(), ParseFault> {
        let at = At { parse: self, path: path.to_owned(), what: What::List(list) };
        json(text, at).map_err(|syntax| self.explain(syntax))
    }

    /// Takes note of an option that only Centrifugo has, at `path`; `name` is what it is called
    /// where it was set.
    pub(super) fn miss(
        &mut self,
        name: &str,
        path: &str,
        value: &Value,
        loss: Loss,
    ) -> Result<(), String> {
        match loss {
            // Also one that was set before and is switched off now.
            Loss::Store => {
                value.each_text(path, &mut |path, text| {
                    self.stores.insert(path.to_owned(), text);
                });
                Ok(())
            }
            _ if value.is_off() => Ok(()),
            Loss::Nothing => Ok(()),
            Loss::Nodes => Err(format!("is for several nodes of Centrifugo, and {SINGLE}")),
            Loss::Feature => {
                self.warnings.push(format!("{name} is an option of Centrifugo: ignored"));
                Ok(())
            }
            Loss::Protection => Err("is an option of Centrifugo that tiderace lacks, and without \
                 it less would be protected than is asked for; remove it to go on without"
                .into()),
        }
    }

    /// What the parser's error means.
    fn explain(&mut self, (position, syntax): Syntax) -> ParseFault {
        match self.failure.take() {
            Some(Fault { key, message, .. }) => ParseFault { position, key: Some(key), message },
            None => ParseFault { position, key: None, message: syntax },
        }
    }

    /// Keeps the fault that the parser is about to locate.
    fn judge(&mut self, key: String, verdict: Result<(), String>) -> Result<(), ()> {
        verdict.map_err(|message| self.failure = Some(Fault::new(key, message)))
    }

    /// Whether the fault that is looked for is one of something within `path`.
    fn seeks_within(&self, path: &str) -> bool {
        let within = |fault: &Fault| fault.key.strip_prefix(path).map(|rest| rest.starts_with('.'));
        self.sought.and_then(within).unwrap_or(false)
    }

    /// The sentence of the fault that is looked for, if it is one of this option.
    fn sought_at(&self, path: &str) -> Result<(), String> {
        match self.sought {
            Some(fault) if fault.key == path => Err(fault.message.clone()),
            _ => Ok(()),
        }
    }
}

/// A parser's position and message.
type Syntax = (Option<Position>, String);

fn toml(text: &str, at: At<'_, '_>) -> Result<(), Syntax> {
    let fault = |error: toml::de::Error| {
        let position = error.span().map(|span| position(text, span.start));
        (position, error.message().to_owned())
    };
    let document = toml::Deserializer::parse(text).map_err(fault)?;
    at.deserialize(document).map_err(fault)
}

fn json(text: &str, at: At<'_, '_>) -> Result<(), Syntax> {
    let fault = |error: serde_json::Error| {
        let position = (error.line() > 0).then_some((error.line(), error.column()));
        let text = error.to_string();
        let message = text.split(" at line ").next().unwrap_or_default().to_owned();
        (position, message)
    };
    let mut document = serde_json::Deserializer::from_str(text);
    at.deserialize(&mut document).map_err(fault)?;
    document.end().map_err(fault)
}

fn yaml(text: &str, at: At<'_, '_>) -> Result<(), Syntax> {
    // An error that quotes its surroundings could show a secret.
    let options = serde_saphyr::options! { with_snippet: false };
    let mut at = Some(at);
    serde_saphyr::with_deserializer_from_str_with_options(text, options, |document| {
        match at.take() {
            Some(at) => at.deserialize(document),
            None => Err(de::Error::custom("a second document")),
        }
    })
    .map_err(|error| {
        let position = error
            .location()
            .and_then(|at| Some((at.line().try_into().ok()?, at.column().try_into().ok()?)))
            .filter(|&(line, _): &Position| line > 0);
        let formatter = serde_saphyr::UserMessageFormatter;
        (position, formatter.format_message(&error).into_owned())
    })
}

/// Line and column of a byte of a text.
fn position(text: &str, offset: usize) -> Position {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// ` (did you mean ...?)` with the name that is nearest, or nothing if none is near.
pub(super) fn did_you_mean(name: &str, known: impl Iterator<Item = String>) -> String {
    known
        .map(|candidate| (strsim::damerau_levenshtein(name, &candidate), candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .map_or_else(String::new, |(_, candidate)| format!(" (did you mean {candidate}?)"))
}

/// A place of the text, and what is to be filled there. The path of the whole file is "".
struct At<'a, 'p> {
    parse: &'a mut Parse<'p>,
    path: String,
    what: What<'a>,
}

/// What is to be filled.
enum What<'a> {
    Option(Box<dyn FnOnce(Value) -> Result<(), String> + 'a>),
    Section(&'a mut dyn Section),
    List(&'a mut dyn List),
    /// Nothing: the name is not ours. What may be meant by it follows.
    Unknown(String),
    /// Nothing: the name stands here for the second time.
    Repeated,
}

impl At<'_, '_> {
    /// An option with its value, or a mistake.
    fn settle(self, value: Value) -> Result<(), ()> {
        let At { parse, path, what } = self;
        let verdict = parse.sought_at(&path).and_then(|()| match what {
            // An empty value of YAML, or the null of JSON, asks for nothing.
            What::Option(_) if matches!(value, Value::Nothing) => Ok(()),
            What::Option(set) => set(value),
            What::Repeated => Err("is set twice".into()),
            What::Section(_) => Err("expected a section with options".into()),
            What::List(_) => Err("expected a list of sections".into()),
            What::Unknown(hint) => match centrifugo::loss(&path) {
                Some(loss) => parse.miss(&path, &path, &value, loss),
                None => Err(format!("there is no such option{hint}")),
            },
        });
        parse.judge(path, verdict)
    }

    fn wrong<E: de::Error>(self, value: Value) -> Result<(), E> {
        self.settle(value).map_err(|()| E::custom("refused"))
    }

    /// Raises the fault that is looked for, if it is one of this section or list.
    fn begin<E: de::Error>(&mut self) -> Result<(), E> {
        let verdict = self.parse.sought_at(&self.path);
        self.parse.judge(self.path.clone(), verdict).map_err(|()| E::custom("refused"))
    }
}

impl<'de> DeserializeSeed<'de> for At<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        match self.what {
            What::Section(_) | What::List(_) => from.deserialize_any(self),
            What::Unknown(_) if self.parse.seeks_within(&self.path) => from.deserialize_any(self),
            _ => from.deserialize_any(Read(|value| self.settle(value))),
        }
    }
}

/// Sections and lists, and what is looked into although it is not ours.
impl<'de> Visitor<'de> for At<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a section or a list")
    }

    /// An empty section of YAML.
    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<(), E> {
        self.wrong(Value::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        self.wrong(Value::Integer(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        self.wrong(Value::Integer(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<(), E> {
        self.wrong(Value::Float(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<(), E> {
        self.wrong(Value::Text(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        self.begin()?;
        let What::List(list) = self.what else { return self.wrong(Value::List(Vec::new())) };
        list.clear();
        let mut index = 0;
        loop {
            let item = At {
                parse: self.parse,
                path: format!("{}[{index}]", self.path),
                what: What::Section(list.push()),
            };
            if items.next_element_seed(item)?.is_none() {
                // Only now it is known that there is no element to fill the last one.
                list.pop();
                return Ok(());
            }
            index += 1;
        }
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut entries: A) -> Result<(), A::Error> {
        self.begin()?;
        let mut section = match self.what {
            What::Section(section) => Some(section),
            What::Unknown(_) => None,
            _ => return self.wrong(Value::Table(Vec::new())),
        };
        let mut seen = BTreeSet::new();
        while let Some(name) = entries.next_key::<String>()? {
            let path = match self.path.as_str() {
                "" => name.clone(),
                parent => format!("{parent}.{name}"),
            };
            let what = if seen.contains(&name) {
                What::Repeated
            } else if let Some(section) = &mut section {
                let known = section.entries().into_iter().map(|entry| entry.name.to_owned());
                let hint = did_you_mean(&name, known.chain(centrifugo::children(&self.path)));
                match section.child(&name) {
                    Some(Child::Option(set)) => What::Option(set),
                    Some(Child::Section(section)) => What::Section(section),
                    Some(Child::List(list)) => What::List(list),
                    None => What::Unknown(hint),
                }
            } else {
                What::Unknown(String::new())
            };
            seen.insert(name);
            entries.next_value_seed(At { parse: self.parse, path, what })?;
        }
        Ok(())
    }
}

//! Requests of several calls at once: `{"commands":[{"publish":{..}},..],"parallel":true}`.

use std::fmt;

use serde::{
    Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::{
    call::Call,
    parse::{Method, Request},
};
use crate::{limits::BATCH_COMMANDS_MAX, protocol::ErrorCode};

/// What Centrifugo's API answers to a command that has no method of its own.
pub(super) const NOT_FOUND: ErrorCode =
    ErrorCode { message: "not found", ..ErrorCode::METHOD_NOT_FOUND };

/// Reads a whole batch. Its commands are checked one by one as they are read, so that what waits is
/// calls and no more than their bound.
pub(super) struct Batch {
    pub(super) channel_bytes_max: usize,
}

impl<'de> DeserializeSeed<'de> for Batch {
    type Value = Result<Call, ErrorCode>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Batch {
    type Value = Result<Call, ErrorCode>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        let Self { channel_bytes_max } = self;
        let (mut commands, mut parallel) = (None, None);
        while let Some(field) = fields.next_key::<String>()? {
            match &*field {
                "commands" if commands.is_some() => {
                    return Err(A::Error::duplicate_field("commands"));
                }
                "commands" => {
                    commands = Some(fields.next_value_seed(Commands { channel_bytes_max })?);
                }
                "parallel" => parallel = fields.next_value::<Option<bool>>()?,
                _ => drop(fields.next_value::<IgnoredAny>()?),
            }
        }
        let (commands, parallel) = (commands.unwrap_or_default(), parallel.unwrap_or_default());
        Ok(Ok(Call::Batch { commands, parallel }))
    }
}

struct Commands {
    channel_bytes_max: usize,
}

impl<'de> DeserializeSeed<'de> for Commands {
    type Value = Vec<Result<Call, ErrorCode>>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Commands {
    type Value = Vec<Result<Call, ErrorCode>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of commands")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let Self { channel_bytes_max } = self;
        let mut commands = Vec::new();
        while let Some(command) = items.next_element_seed(Command { channel_bytes_max })? {
            if commands.len() == BATCH_COMMANDS_MAX {
                let text = format!("a batch has at most {BATCH_COMMANDS_MAX} commands");
                return Err(A::Error::custom(text));
            }
            commands.push(command);
        }
        Ok(commands)
    }
}

/// One command: an object with its method as a field, and fields that nobody knows.
struct Command {
    channel_bytes_max: usize,
}

impl<'de> DeserializeSeed<'de> for Command {
    type Value = Result<Call, ErrorCode>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Command {
    type Value = Result<Call, ErrorCode>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a command such as {\"publish\":{}}")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        let Self { channel_bytes_max } = self;
        let mut call = None;
        while let Some(field) = fields.next_key::<String>()? {
            let Some(method) = Method::named(&field) else {
                fields.next_value::<IgnoredAny>()?;
                continue;
            };
            if call.is_some() {
                return Err(A::Error::custom("a command has one method"));
            }
            call = Some(fields.next_value_seed(Request { method, channel_bytes_max })?);
        }
        Ok(call.unwrap_or(Err(NOT_FOUND)))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        api::{ApiError, ErrorMode, parse},
        hub::ChannelPattern,
        protocol::{Payload, PublicationExtra},
    };

    fn batch(body: &str) -> Result<(Vec<Result<Call, ErrorCode>>, bool), ApiError> {
        match parse(ErrorMode::Body, "POST", "batch", body.as_bytes(), 10)? {
            Call::Batch { commands, parallel } => Ok((commands, parallel)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_command_is_a_call_or_an_error_of_its_own() {
        let body = r#"{"commands":[
            {"publish":{"channel":"a","data":{}}},
            {"publish":{"channel":"","data":{}}},
            {"future":{"x":1},"channels":{"pattern":"a*"}},
            {"info":{}},
            {"rpc":{"method":"m"}},
            {"batch":{"commands":[]}},
            {}
        ],"future":[1],"parallel":true}"#;
        let (commands, parallel) = batch(body).unwrap();
        let commands: Vec<_> = commands.into_iter().map(|c| c.map_err(|e| e.code)).collect();
        assert!(parallel);
        assert_eq!(
            commands,
            [
                Ok(Call::Publish {
                    channel: "a".into(),
                    data: Bytes::from_static(b"{}"),
                    payload: Payload::Json,
                    extra: PublicationExtra::default(),
                }),
                Err(107),
                Ok(Call::Channels { pattern: ChannelPattern::new("a*").ok() }),
                Ok(Call::Info),
                Err(108),
                Err(104),
                Err(104),
            ]
        );
        for body in ["{}", r#"{"commands":[],"parallel":false}"#, r#"{"parallel":null}"#] {
            assert_eq!(batch(body).unwrap(), (Vec::new(), false), "{body}");
        }
    }

    #[test]
    fn what_is_no_batch_is_refused_whole() {
        for body in [
            "",
            "[]",
            r#"{"commands":{}}"#,
            r#"{"commands":[7]}"#,
            r#"{"commands":[["publish"]]}"#,
            r#"{"commands":[{"publish":["a",1]}]}"#,
            r#"{"commands":[{"publish":{"channel":7}}]}"#,
            r#"{"commands":[{"info":{},"channels":{}}]}"#,
            r#"{"commands":[],"commands":[]}"#,
            r#"{"commands":[{"info":{}}"#,
            r#"{"commands":[]} x"#,
        ] {
            assert_eq!(batch(body).unwrap_err().status, 400, "{body}");
        }
    }

    #[test]
    fn a_batch_is_bounded() {
        let of = |count: usize| format!(r#"{{"commands":[{}]}}"#, vec!["{}"; count].join(","));
        assert_eq!(batch(&of(BATCH_COMMANDS_MAX)).unwrap().0.len(), BATCH_COMMANDS_MAX);
        let error = batch(&of(BATCH_COMMANDS_MAX + 1)).unwrap_err();
        assert_eq!(error.status, 400);
        let text = String::from_utf8(error.body).unwrap();
        assert!(text.contains("at most 10000 commands"), "{text}");
    }
}

//! The API before its methods had paths, `POST /api`: `{"method":"publish","params":{..}}`.
//!
//! Centrifugo v6 has it still, and official libraries such as gocent use it (centrifugo
//! `internal/api/handler_legacy.go`). Commands follow each other in the body, with whatever blanks
//! between them; they are executed as a batch, and answered by a line each.

use std::borrow::Cow;

use serde::{Deserialize, de::DeserializeSeed};
use serde_json::value::RawValue;

use super::{
    batch::NOT_FOUND,
    call::Call,
    parse::{Method, Request},
    shapes::{ApiError, transport_error},
};
use crate::{limits::BATCH_COMMANDS_MAX, protocol::ErrorCode};

/// Methods by the number that may stand for their name. Number 13 was never used, 14 was another's.
const BY_NUMBER: [Method; 13] = [
    Method::Publish,
    Method::Broadcast,
    Method::Unsubscribe,
    Method::Disconnect,
    Method::Presence,
    Method::PresenceStats,
    Method::History,
    Method::HistoryRemove,
    Method::Channels,
    Method::Info,
    Method::Rpc,
    Method::Subscribe,
    Method::Refresh,
];

#[derive(Deserialize)]
struct Command<'a> {
    #[serde(borrow, default)]
    method: MethodName<'a>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum MethodName<'a> {
    Number(u32),
    Text(#[serde(borrow)] Cow<'a, str>),
}

impl Default for MethodName<'_> {
    fn default() -> Self {
        Self::Number(0)
    }
}

impl MethodName<'_> {
    /// `None`: there is no such method, which only a name tells in time to refuse the request.
    fn method(&self) -> Result<Option<Method>, ApiError> {
        match self {
            Self::Number(number) => Ok(BY_NUMBER.get(*number as usize).copied()),
            Self::Text(name) => match Method::named(&name.to_ascii_lowercase()) {
                Some(method) => Ok(Some(method)),
                None => Err(transport_error(400, "a command has a method that does not exist")),
            },
        }
    }
}

/// Reads all commands of a body as a batch.
///
/// # Errors
/// The whole response where the body is no sequence of commands; what is wrong with the parameters
/// of one is its answer.
pub(super) fn parse(body: &[u8], channel_bytes_max: usize) -> Result<Call, ApiError> {
    let body = std::str::from_utf8(body)
        .map_err(|error| transport_error(400, &format!("the body is not UTF-8: {error}")))?;
    let mut commands = Vec::new();
    for command in serde_json::Deserializer::from_str(body).into_iter::<&RawValue>() {
        let invalid = |error: serde_json::Error| {
            transport_error(400, &format!("the body is not a valid request: {error}"))
        };
        let text = command.map_err(invalid)?.get();
        if !text.starts_with('{') {
            return Err(transport_error(400, "a command is not a JSON object"));
        }
        if commands.len() == BATCH_COMMANDS_MAX {
            let text = format!("a request has at most {BATCH_COMMANDS_MAX} commands");
            return Err(transport_error(400, &text));
        }
        let Command { method, params } = serde_json::from_str(text).map_err(invalid)?;
        commands.push(match method.method()? {
            None => Err(NOT_FOUND),
            Some(method) => call(method, params, channel_bytes_max),
        });
    }
    if commands.is_empty() {
        return Err(transport_error(400, "the body has no command"));
    }
    Ok(Call::Batch { commands, parallel: false })
}

fn call(
    method: Method,
    params: Option<&RawValue>,
    channel_bytes_max: usize,
) -> Result<Call, ErrorCode> {
    let params = params.map_or("{}", RawValue::get);
    let request = Request { method, channel_bytes_max };
    let read = request.deserialize(&mut serde_json::Deserializer::from_str(params));
    read.unwrap_or(Err(ErrorCode::BAD_REQUEST))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{ErrorMode, Reply, response},
        protocol::StreamPosition,
    };

    fn commands(body: &str) -> Vec<Result<Call, u16>> {
        let Ok(Call::Batch { commands, parallel: false }) = parse(body.as_bytes(), 10) else {
            panic!("{body}");
        };
        commands.into_iter().map(|call| call.map_err(|error| error.code)).collect()
    }

    #[test]
    fn commands_are_those_of_the_methods_with_paths() {
        let publish = || {
            let body = br#"{"channel":"c","data":{}}"#;
            crate::api::parse(ErrorMode::Body, "POST", "publish", body, 10).unwrap()
        };
        let body = concat!(
            r#"{"method":"publish","params":{"channel":"c","data":{}}}"#,
            "\n",
            r#"{"id":7,"method":"PUBLISH","params":{"channel":"c","data":{}}}"#,
            r#"{"params":{"channel":"c","data":{}}} {"method":9}"#,
            r#"{"method":"presence","params":{"channel":""}} {"method":99}"#,
            r#"{"method":"presence","params":{"channel":7}} {"method":"info"}"#,
        );
        assert_eq!(
            commands(body),
            [
                Ok(publish()),
                Ok(publish()),
                Ok(publish()),
                Ok(Call::Info),
                Err(107),
                Err(104),
                Err(107),
                Ok(Call::Info),
            ]
        );
    }

    #[test]
    fn what_is_no_sequence_of_commands_is_refused_whole() {
        for body in ["", " \n", "{", "[]", "7", r#"{"method":"nothing"}"#, r#"{"method":[]}"#] {
            assert_eq!(parse(body.as_bytes(), 10).unwrap_err().status, 400, "{body}");
        }
        assert_eq!(parse(b"{\"method\":\"\xff\"}", 10).unwrap_err().status, 400);
        let many = r#"{"method":"info"}"#.repeat(BATCH_COMMANDS_MAX + 1);
        assert_eq!(parse(many.as_bytes(), 10).unwrap_err().status, 400);
    }

    #[test]
    fn each_command_is_answered_by_a_line() {
        let position = StreamPosition { offset: 1, epoch: "e".into() };
        let replies = vec![
            Ok(Reply::Publish(position)),
            Err(ErrorCode::UNKNOWN_CHANNEL),
            Ok(Reply::Unsubscribe),
        ];
        let (status, body) = response(ErrorMode::Lines, &Ok(Reply::Batch(replies)));
        assert_eq!(status, 200);
        assert_eq!(
            String::from_utf8(body).unwrap(),
            concat!(
                r#"{"result":{"offset":1,"epoch":"e"}}"#,
                "\n",
                r#"{"error":{"code":102,"message":"unknown channel"}}"#,
                "\n",
                r#"{"result":{}}"#,
            )
        );
    }
}

//! The Centrifuge client protocol in JSON, as far as load needs it: commands out, lines in without
//! a JSON tree.

use serde_json::json;

use super::stamp;

/// What one line of a server's message is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// A push; in these runs a publication.
    Push(&'a [u8]),
    /// The server's ping, `{}`.
    Ping,
    /// The reply to a command.
    Reply(&'a [u8]),
}

/// Splits a message into its lines, classified by their first bytes.
///
/// A newline never stands inside a JSON string, so the newlines alone delimit the objects.
#[inline]
pub(super) fn lines(message: &[u8], mut on: impl FnMut(Line<'_>)) {
    let mut start = 0;
    for end in memchr::memchr_iter(b'\n', message).chain(std::iter::once(message.len())) {
        let line = &message[start..end];
        start = end + 1;
        if line.starts_with(b"{\"push\"") {
            on(Line::Push(line));
        } else if line == b"{}" {
            on(Line::Ping);
        } else if !line.is_empty() {
            on(Line::Reply(line));
        }
    }
}

/// The error that a reply carries, if it is one: its text for a report.
pub(super) fn reply_error(reply: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Reply {
        error: Option<Failure>,
    }
    #[derive(serde::Deserialize)]
    struct Failure {
        code: u32,
        #[serde(default)]
        message: String,
    }
    // Successful replies are the many: only what may hold an error is parsed.
    memchr::memmem::find(reply, b"\"error\"")?;
    match serde_json::from_slice::<Reply>(reply) {
        Ok(Reply { error: Some(error) }) => {
            Some(format!("the server answered error {}: {}", error.code, error.message))
        }
        Ok(_) => None,
        Err(error) => Some(format!("the server sent a reply that is no JSON object: {error}")),
    }
}

/// Whether a connect reply asks for an answer to pings.
pub(super) fn wants_pong(reply: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(reply)
        .is_ok_and(|reply| reply["connect"]["pong"] == true)
}

/// Connect and, if there is a channel, subscribe, in one message as centrifuge-js sends them.
pub(super) fn greeting(token: Option<&str>, channel: Option<&str>) -> Vec<u8> {
    let connect = match token {
        Some(token) => json!({"id": 1, "connect": {"token": token}}),
        None => json!({"id": 1, "connect": {}}),
    };
    let mut message = connect.to_string();
    if let Some(channel) = channel {
        message.push('\n');
        message.push_str(&json!({"id": 2, "subscribe": {"channel": channel}}).to_string());
    }
    message.into_bytes()
}

/// Appends a subscribe command.
pub(super) fn subscribe(channel: &str, id: u32, out: &mut Vec<u8>) {
    out.extend(json!({"id": id, "subscribe": {"channel": channel}}).to_string().as_bytes());
}

/// Appends an unsubscribe command.
pub(super) fn unsubscribe(channel: &str, id: u32, out: &mut Vec<u8>) {
    out.extend(json!({"id": id, "unsubscribe": {"channel": channel}}).to_string().as_bytes());
}

/// Publish commands to any channel; those of one channel alone are patched in place
/// ([`Message`](super::protocol::Message)).
pub(super) struct Publish<'a> {
    rest: &'a str,
    id: u32,
}

impl<'a> Publish<'a> {
    /// Payloads are a time stamp and `rest`, which JSON does not escape.
    pub(super) fn new(rest: &'a str) -> Self {
        Self { rest, id: 1 << 20 }
    }

    /// Appends the next command, meant to be sent at `intended`.
    pub(super) fn write(&mut self, channel: &str, intended: u64, out: &mut Vec<u8>) {
        self.id += 1;
        let channel = serde_json::Value::from(channel);
        let head = format!(r#"{{"id":{},"publish":{{"channel":{channel},"data":""#, self.id);
        out.extend(head.as_bytes());
        out.extend(stamp::encode(intended));
        out.extend(self.rest.as_bytes());
        out.extend(br#""}}"#);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(message: &[u8]) -> (usize, usize, usize) {
        let mut counts = (0, 0, 0);
        lines(message, |line| match line {
            Line::Push(_) => counts.0 += 1,
            Line::Ping => counts.1 += 1,
            Line::Reply(_) => counts.2 += 1,
        });
        counts
    }

    #[test]
    fn each_line_of_a_message_counts_once() {
        let push = br#"{"push":{"channel":"bench","pub":{"data":"x","offset":1}}}"#;
        let many = [&push[..], push, push].join(&b'\n');
        assert_eq!(count(&many), (3, 0, 0));
        let mixed = [&b"{\"id\":7,\"publish\":{}}"[..], push, b"{}", push, b""].join(&b'\n');
        assert_eq!(count(&mixed), (2, 1, 1));
        assert_eq!(count(b""), (0, 0, 0));
        assert_eq!(count(b"{}"), (0, 1, 0));
    }

    #[test]
    fn a_push_inside_a_payload_is_no_publication() {
        let push = br#"{"push":{"channel":"c","pub":{"data":"\n{\"push\"}"}}}"#;
        assert_eq!(count(push), (1, 0, 0));
    }

    #[test]
    fn errors_are_told_from_results() {
        assert_eq!(reply_error(br#"{"id":1,"publish":{}}"#), None);
        assert_eq!(reply_error(br#"{"id":1,"rpc":{"data":{"error":1}}}"#), None);
        let denied = br#"{"id":2,"error":{"code":103,"message":"permission denied"}}"#;
        assert_eq!(
            reply_error(denied).as_deref(),
            Some("the server answered error 103: permission denied")
        );
        assert!(reply_error(b"\"error\"").is_some());
    }

    #[test]
    fn the_greeting_is_two_lines() {
        let text = String::from_utf8(greeting(Some("t"), Some("a\"b"))).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], r#"{"id":1,"connect":{"token":"t"}}"#);
        assert_eq!(lines[1], r#"{"id":2,"subscribe":{"channel":"a\"b"}}"#);
        assert_eq!(greeting(None, None), br#"{"id":1,"connect":{}}"#);
    }

    #[test]
    fn commands_are_json() {
        let mut text = Vec::new();
        subscribe("a\"b", 7, &mut text);
        text.push(b'\n');
        unsubscribe("c", 8, &mut text);
        text.push(b'\n');
        Publish::new("xx").write("a\"b", 255, &mut text);
        let commands: Vec<serde_json::Value> = text
            .split(|byte| *byte == b'\n')
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect();
        assert_eq!(commands[0], json!({"id": 7, "subscribe": {"channel": "a\"b"}}));
        assert_eq!(commands[1], json!({"id": 8, "unsubscribe": {"channel": "c"}}));
        let publish = json!({"channel": "a\"b", "data": "00000000000000ffxx"});
        assert_eq!(commands[2]["publish"], publish);
    }

    #[test]
    fn the_connect_reply_decides_about_pongs() {
        assert!(wants_pong(br#"{"id":1,"connect":{"client":"x","ping":25,"pong":true}}"#));
        assert!(!wants_pong(br#"{"id":1,"connect":{"client":"x","ping":25}}"#));
        assert!(!wants_pong(b"nonsense"));
    }
}

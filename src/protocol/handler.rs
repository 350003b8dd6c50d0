//! An embedder's own protocol on plain WebSocket connections.

use std::fmt;

use bytes::Bytes;
use serde::{Serialize, Serializer};

use crate::{
    close::CloseReason,
    codec::websocket::Message,
    protocol::{Answer, Audience, Effect, Name, Outgoing, Payload, Request},
};

/// What an embedder does with one connection. Runs on the connection's shard and must not wait;
/// work that takes longer goes elsewhere and answers through the server's handle.
///
/// One value per connection, made by the factory that was given with the route, which sees the
/// request first and may refuse it. The server makes the close handshake, answers pings, sends its
/// own (`handlers.ping_interval`), and closes whoever is silent for `handlers.silence_timeout`.
pub trait Handler {
    /// The subprotocol that it speaks, of those that the client offered; asked once, before the 101.
    /// One that was not offered is not named (RFC 6455 section 4.1).
    fn subprotocol(&self) -> Option<&str> {
        None
    }

    /// The handshake is done.
    fn opened(&mut self, connection: &mut Context<'_>) {
        let _ = connection;
    }

    /// The peer sent a text or binary message, whole and, if text, valid UTF-8.
    fn message(&mut self, message: Message<'_>, connection: &mut Context<'_>);

    /// The answer to what was asked of [`Context`], by the number it returned.
    ///
    /// `Subscribed` comes before the channel's first publication is sent. What is asked in here
    /// and answered at once (a refusal, an unsubscribe) is answered in the next turn.
    fn answered(&mut self, command: u32, answer: Answer, connection: &mut Context<'_>) {
        let _ = (command, answer, connection);
    }

    /// The connection is over, with the close code that either side gave: 1000 where the peer's close
    /// frame has none, 1006 where neither said anything (RFC 6455 section 7.1.5). Called exactly once,
    /// whatever the end was; what the connection asked for and was not answered by then never is. It
    /// has left its channels and its user.
    fn closed(&mut self, code: u16) {
        let _ = code;
    }
}

/// What a [`Handler`] may do with its connection and the hub.
pub struct Context<'a> {
    effects: &'a mut Vec<Effect>,
    connection: ConnectionRef,
    commands: &'a mut u32,
    standing: Standing<'a>,
}

/// What the core knows of the connection.
#[derive(Clone, Copy)]
pub(crate) struct Standing<'a> {
    pub(crate) user: Option<&'a Name>,
    /// Channels with a granted subscription.
    pub(crate) channels: &'a dyn Fn() -> Vec<Name>,
}

/// A connection of this process, to be named from anywhere; it may be gone.
///
/// Displayed, and in JSON, it is `shard-slot-generation`, such as `1-17-0`: no other connection of
/// the process has the same at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionRef {
    pub(crate) shard: u16,
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

impl ConnectionRef {
    /// The shard that has the connection.
    pub fn shard(self) -> u16 {
        self.shard
    }
}

impl fmt::Display for ConnectionRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shard, slot, generation } = self;
        write!(f, "{shard}-{slot}-{generation}")
    }
}

impl Serialize for ConnectionRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("connection", &self.connection).finish_non_exhaustive()
    }
}

impl<'a> Context<'a> {
    pub(crate) fn new(
        effects: &'a mut Vec<Effect>,
        connection: ConnectionRef,
        commands: &'a mut u32,
        standing: Standing<'a>,
    ) -> Self {
        Self { effects, connection, commands, standing }
    }

    /// The connection's name, to be kept for an answer later.
    pub fn connection(&self) -> ConnectionRef {
        self.connection
    }

    /// The user that [`Context::set_user`] set before this call, unless it was refused.
    pub fn user(&self) -> Option<&'a Name> {
        self.standing.user
    }

    /// The channels that the connection is in, sorted by name: those whose subscription was granted
    /// before this call and has not ended.
    pub fn channels(&self) -> Vec<Name> {
        let mut channels = (self.standing.channels)();
        channels.sort_unstable();
        channels
    }

    /// Sends a text message.
    pub fn send_text(&mut self, text: &str) {
        self.effects.push(Effect::Reply(text.as_bytes().to_vec()));
    }

    /// Sends a binary message.
    pub fn send_binary(&mut self, bytes: &[u8]) {
        self.effects.push(Effect::Binary(bytes.to_vec()));
    }

    /// Sends a value as JSON, in a text message.
    ///
    /// # Errors
    /// When it cannot be JSON, such as a map whose keys are no strings; nothing is sent then.
    pub fn send_json(&mut self, value: &impl Serialize) -> Result<(), serde_json::Error> {
        self.effects.push(Effect::Reply(serde_json::to_vec(value)?));
        Ok(())
    }

    /// Says to whom the connection belongs: `None`, and the empty user, is nobody. The user before
    /// loses it first. Answered by [`Answer::UserSet`], or by `Failed(LIMIT_EXCEEDED)` where the user
    /// has `client.user_connection_limit` connections already: then it belongs to nobody.
    pub fn set_user(&mut self, user: Option<&str>) -> u32 {
        let user = user.filter(|user| !user.is_empty()).map(Name::from);
        self.request(Request::SetUser { user })
    }

    /// Asks for every publication to a channel, each as a message of its own.
    pub fn subscribe(&mut self, channel: &str) -> u32 {
        self.request(Request::Subscribe { channel: Name::from(channel), options: Box::default() })
    }

    /// Ends what [`Context::subscribe`] began.
    pub fn unsubscribe(&mut self, channel: &str) -> u32 {
        self.request(Request::Unsubscribe { channel: Name::from(channel) })
    }

    /// Publishes to a channel. Centrifuge clients get `Json` as it is, `Text` as a JSON string and
    /// `Binary` as a JSON string in base64.
    pub fn publish(&mut self, channel: &str, payload: Payload, data: &[u8]) -> u32 {
        self.request(Request::Publish {
            channel: Name::from(channel),
            data: Bytes::copy_from_slice(data),
            payload,
            info: None,
            subscribers_only: false,
            extra: None,
        })
    }

    /// As [`Context::publish`], to all in the channel but this connection. A history keeps it for
    /// everybody.
    pub fn publish_to_others(&mut self, channel: &str, payload: Payload, data: &[u8]) -> u32 {
        let data = Bytes::copy_from_slice(data);
        self.request(Request::PublishToOthers { channel: Name::from(channel), data, payload })
    }

    /// Sends a message to many connections; the answer, [`Answer::Delivered`], says how many it
    /// reached. Does not wait, unlike the same of the server's handle, which would stop the shard.
    pub fn send_to(&mut self, audience: Audience, outgoing: Outgoing) -> u32 {
        self.request(Request::Send { audience, outgoing })
    }

    /// Closes the connection. Nothing that is asked after it happens.
    pub fn close(&mut self, reason: CloseReason) {
        self.effects.push(Effect::Close(reason));
    }

    fn request(&mut self, request: Request) -> u32 {
        *self.commands = self.commands.wrapping_add(1);
        let command = *self.commands;
        self.effects.push(Effect::Request { command, request });
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_has_a_name_for_logs() {
        let connection = ConnectionRef { shard: 1, slot: 17, generation: 3 };
        assert_eq!(connection.to_string(), "1-17-3");
        assert_eq!(serde_json::to_string(&connection).expect("a text"), r#""1-17-3""#);
    }

    #[test]
    fn what_cannot_be_json_sends_nothing() {
        let (mut effects, mut commands) = (Vec::new(), 0);
        let connection = ConnectionRef { shard: 0, slot: 0, generation: 0 };
        let standing = Standing { user: None, channels: &Vec::new };
        let mut context = Context::new(&mut effects, connection, &mut commands, standing);
        let no_json = std::collections::BTreeMap::from([((1, 2), 3)]);
        assert!(context.send_json(&no_json).is_err());
        context.send_json(&["a"]).expect("a list is JSON");
        assert!(matches!(&effects[..], [Effect::Reply(text)] if text == br#"["a"]"#));
    }
}

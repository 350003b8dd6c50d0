//! An embedder's own protocol on plain WebSocket connections.

use crate::{
    close::CloseReason,
    codec::websocket::Message,
    protocol::{Answer, Effect, Name, Payload, Request},
};

use bytes::Bytes;

/// What an embedder does with one connection. Runs on the connection's shard and must not wait;
/// work that takes longer goes elsewhere and answers through the server's handle.
///
/// One value per connection, made by the factory that was given with the route. Pings are
/// answered and the close handshake is made by the server.
pub trait Handler {
    /// The handshake is done.
    fn opened(&mut self, connection: &mut Context<'_>) {
        let _ = connection;
    }

    /// The peer sent a text or binary message, whole and, if text, valid UTF-8.
    fn message(&mut self, message: Message<'_>, connection: &mut Context<'_>);

    /// The answer to a subscribe, unsubscribe or publish of [`Context`], by the number it returned.
    ///
    /// `Subscribed` comes before the channel's first publication is sent. What is asked in here
    /// and answered at once (a refusal, an unsubscribe) is answered in the next turn.
    fn answered(&mut self, command: u32, answer: Answer, connection: &mut Context<'_>) {
        let _ = (command, answer, connection);
    }

    /// The connection is over, with the close code that either side gave. Called exactly once.
    fn closed(&mut self, code: u16) {
        let _ = code;
    }
}

/// What a [`Handler`] may do with its connection and the hub.
#[derive(Debug)]
pub struct Context<'a> {
    effects: &'a mut Vec<Effect>,
    connection: ConnectionRef,
    commands: &'a mut u32,
}

/// A connection of this process, to be named from anywhere; it may be gone.
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

impl<'a> Context<'a> {
    pub(crate) fn new(
        effects: &'a mut Vec<Effect>,
        connection: ConnectionRef,
        commands: &'a mut u32,
    ) -> Self {
        Self { effects, connection, commands }
    }

    /// The connection's name, to be kept for an answer later.
    pub fn connection(&self) -> ConnectionRef {
        self.connection
    }

    /// Sends a text message.
    pub fn send_text(&mut self, text: &str) {
        self.effects.push(Effect::Reply(text.as_bytes().to_vec()));
    }

    /// Sends a binary message.
    pub fn send_binary(&mut self, bytes: &[u8]) {
        self.effects.push(Effect::Binary(bytes.to_vec()));
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

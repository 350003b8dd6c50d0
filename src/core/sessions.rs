//! From bytes of a peer to effects of its session.

use super::{Connection, Core, Session, plain::Plain, requests::connection_ref};
use crate::{
    codec::websocket::{Message, Opcode, write_frame},
    codes::CloseReason,
    hub::ConnRef,
    protocol::{
        Effect, Now, centrifuge,
        handler::{Context, Standing},
    },
};

/// What one look at the input brought.
enum Step {
    /// The input is used up.
    Starved,
    /// A message was handled; its effects wait.
    Handled,
    /// Answer a ping.
    Pong(Vec<u8>),
    /// End with this reason.
    Close(CloseReason),
    /// The peer ends, and is answered with its own code.
    ClosedByPeer(CloseReason),
    /// The connection speaks HTTP.
    Http,
    /// Nothing is expected.
    Unexpected,
}

impl Core {
    /// Feeds input to the connection's session, message by message: the effects of one are
    /// executed, and answered by homes on this shard, before the next is read; a close ends it.
    pub(super) fn read(&mut self, now: Now, conn: ConnRef, bytes: &mut [u8]) {
        let mut input = bytes;
        let mut effects = std::mem::take(&mut self.effects);
        while let Some(connection) = self.slots.get(conn) {
            if !connection.is_open() {
                self.discard(now, conn, input.len());
                break;
            }
            let step = self.step(now, conn, &mut input, &mut effects);
            match step {
                Step::Starved => break,
                Step::Handled => {
                    self.counters.messages_received += 1;
                    self.run(now, conn, &mut effects);
                    self.settle(now);
                }
                Step::Pong(payload) => {
                    self.queue(conn, |out| write_frame(out, Opcode::Pong, &payload));
                }
                Step::Close(reason) => self.close(now, conn, reason),
                Step::ClosedByPeer(reason) => self.closed_by_peer(now, conn, reason),
                Step::Unexpected => {
                    self.unexpected_input(now, conn, input.len());
                    break;
                }
                Step::Http => {
                    if !self.read_http(now, conn, &mut input) {
                        break;
                    }
                }
            }
        }
        effects.clear();
        self.effects = effects;
    }

    fn step(
        &mut self,
        now: Now,
        conn: ConnRef,
        input: &mut &mut [u8],
        effects: &mut Vec<Effect>,
    ) -> Step {
        let settings = &self.process.settings;
        let max = settings.message_bytes_max;
        let Connection { session, first_subscription, .. } = self.slots.at(conn.slot);
        match session {
            Session::Http(_) => Step::Http,
            Session::Watch(_) | Session::Stream { .. } if input.is_empty() => Step::Starved,
            Session::Watch(_) | Session::Stream { .. } => Step::Unexpected,
            Session::Closing { .. } | Session::None => Step::Starved,
            Session::Centrifuge { reader, session } => match reader
                .feed(input, settings.endpoints.message_bytes_max(session.is_unidirectional()))
            {
                Ok(Some(Message::Text(text))) => {
                    heard(session, now, &settings.policy, text, effects);
                    Step::Handled
                }
                // Some clients send their JSON as binary messages; the reference server takes both.
                Ok(Some(Message::Binary(bytes))) => match std::str::from_utf8(bytes) {
                    Ok(text) => {
                        heard(session, now, &settings.policy, text, effects);
                        Step::Handled
                    }
                    Err(_) => Step::Close(CloseReason::BAD_REQUEST),
                },
                other => control(other),
            },
            Session::Handler { reader, plain } => {
                if !input.is_empty() {
                    plain.liveness.heard(now, &settings.keepalive);
                }
                match reader.feed(input, max) {
                    Ok(Some(message @ (Message::Text(_) | Message::Binary(_)))) => {
                        let connection = connection_ref(self.shard, conn);
                        let Plain { handler, commands, user, .. } = plain;
                        let channels = || self.local.channels_of(*first_subscription);
                        let standing = Standing { user: user.as_ref(), channels: &channels };
                        let mut context = Context::new(effects, connection, commands, standing);
                        handler.message(message, &mut context);
                        Step::Handled
                    }
                    other => control(other),
                }
            }
        }
    }

    /// Executes what a session decided, in order.
    pub(super) fn run(&mut self, now: Now, conn: ConnRef, effects: &mut Vec<Effect>) {
        for effect in effects.drain(..) {
            match effect {
                Effect::Reply(text) => self.queue_message(conn, &text),
                Effect::Binary(bytes) => {
                    self.queue(conn, |out| write_frame(out, Opcode::Binary, &bytes));
                }
                Effect::Request { command, request } => self.request(now, conn, command, request),
                Effect::Ask { command, ask } => self.ask(now, conn, command, *ask),
                Effect::KeysWanted(of) => self.asks.want_keys(of),
                Effect::Disconnect { code, reason } => {
                    let told = CloseReason { code, reason: "" };
                    self.close_saying(now, conn, told, &reason);
                }
                Effect::Expire { channel } => self.subscription_expired(now, conn, &channel),
                Effect::Renewed { channel } => self.renew(conn, channel.as_deref()),
                Effect::Close(reason) => self.close(now, conn, reason),
            }
            if self.slots.get(conn).is_none_or(|connection| !connection.is_open()) {
                return;
            }
        }
    }
}

fn heard(
    session: &mut centrifuge::Session,
    now: Now,
    policy: &centrifuge::Policy,
    text: &str,
    effects: &mut Vec<Effect>,
) {
    if session.is_unidirectional() {
        session.connect_request(now, policy, text, effects);
    } else {
        session.received(now, policy, text, effects);
    }
}

/// What every WebSocket session does with everything but messages of data.
fn control(read: Result<Option<Message<'_>>, CloseReason>) -> Step {
    match read {
        Ok(None) => Step::Starved,
        Ok(Some(Message::Ping(payload))) => Step::Pong(payload.to_vec()),
        Ok(Some(Message::Close(code))) => {
            let code = code.map_or(CloseReason::NORMAL.code, |(code, _)| code);
            Step::ClosedByPeer(CloseReason { code, reason: "" })
        }
        Ok(Some(_)) => Step::Handled,
        Err(reason) => Step::Close(reason),
    }
}

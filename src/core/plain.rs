//! An embedder's connection: its handler, its user, and whether its peer is still there.

use super::{Core, Session, requests::connection_ref};
use crate::{
    codec::websocket::{Opcode, Reader, write_frame},
    codes::CloseReason,
    hub::{ConnRef, ReplyTo, ToHome},
    mutations::{self, Mutation},
    protocol::{
        Answer, Due, ErrorCode, Liveness, Name, Now,
        handler::{Context, Handler, Standing},
    },
};
use rand_chacha::rand_core::Rng;

/// What an embedder's connection has beyond what every connection has.
pub(super) struct Plain {
    pub(super) handler: Box<dyn Handler>,
    /// The number of its last command.
    pub(super) commands: u32,
    pub(super) liveness: Liveness,
    /// Whom it belongs to; that user's home knows it, or will unless it refuses.
    pub(super) user: Option<Name>,
    /// The command that made it belong to the user, until the home has answered.
    joining: Option<u32>,
}

impl Core {
    /// The handshake is answered: the handler has its connection.
    pub(super) fn open_handler(&mut self, now: Now, conn: ConnRef, mut handler: Box<dyn Handler>) {
        let (mut effects, mut commands) = (Vec::new(), 0);
        let connection = connection_ref(self.shard, conn);
        let standing = Standing { user: None, channels: &Vec::new };
        handler.opened(&mut Context::new(&mut effects, connection, &mut commands, standing));
        let liveness = Liveness::new(now, self.random.next_u32(), &self.process.settings.keepalive);
        self.wheel.set(conn.slot, liveness.deadline_ms());
        let plain = Plain { handler, commands, liveness, user: None, joining: None };
        self.slots.at(conn.slot).session = Session::Handler { reader: Reader::new(), plain };
        self.run(now, conn, &mut effects);
    }

    /// A handler's connection may be silent for too long, or be owed a ping.
    ///
    /// Who is taken for gone is closed with 1011: RFC 6455 has no code for it, 1006 must not be sent
    /// and 1000 and 1001 would say that all went as it should. Most servers that say anything say
    /// 1011, and clients connect again after it.
    pub(super) fn liveness_due(&mut self, now: Now, conn: ConnRef) {
        let keepalive = self.process.settings.keepalive;
        let Session::Handler { plain, .. } = &mut self.slots.at(conn.slot).session else { return };
        match plain.liveness.due(now, &keepalive) {
            Due::Nothing => {}
            Due::Ping => self.queue(conn, |out| write_frame(out, Opcode::Ping, b"")),
            Due::Gone => self.close(now, conn, CloseReason::SILENT),
        }
    }

    /// Gives a handler's connection to another user, or to nobody.
    pub(super) fn set_user(&mut self, now: Now, conn: ConnRef, reply: ReplyTo, user: Option<Name>) {
        let ReplyTo::Command { place, command, .. } = reply else {
            unreachable!("handlers ask by command")
        };
        let connection = self.slots.at(conn.slot);
        let Session::Handler { plain, .. } = &mut connection.session else { return };
        if plain.user == user && plain.joining.is_none() {
            self.answer(now, conn, place, command, Answer::UserSet);
            return;
        }
        plain.joining = user.is_some().then_some(command);
        connection.registered = user.is_some();
        let before = std::mem::replace(&mut plain.user, user.clone());
        if let Some(before) = before.filter(|_| !mutations::is_on(Mutation::KeepsFormerUser)) {
            let home = self.home_of(&before);
            self.to_home(home, ToHome::UserLeave { user: before, conn });
        }
        match user {
            Some(user) => self.to_home(self.home_of(&user), ToHome::UserJoin { user, conn, reply }),
            None => self.answer(now, conn, place, command, Answer::UserSet),
        }
    }

    /// The home of the user that `command` set has answered. Where it refused, the connection belongs
    /// to nobody; one that belongs to another user by now has left this one already.
    pub(super) fn user_answered(
        &mut self,
        conn: ConnRef,
        command: u32,
        outcome: Result<(), ErrorCode>,
    ) {
        let Some(connection) = self.slots.get(conn) else { return };
        let Session::Handler { plain, .. } = &mut connection.session else { return };
        if plain.joining != Some(command) {
            return;
        }
        plain.joining = None;
        if outcome.is_err()
            && let Some(user) = plain.user.take()
        {
            connection.registered = false;
            self.to_home(self.home_of(&user), ToHome::UserLeave { user, conn });
        }
    }

    /// Whether a connection is an embedder's.
    pub(super) fn is_handlers(&mut self, conn: ConnRef) -> bool {
        let connection = self.slots.get(conn);
        connection.is_some_and(|connection| matches!(connection.session, Session::Handler { .. }))
    }

    /// Tells a handler what became of its request, at the place in the connection's order where that
    /// happened.
    pub(super) fn tell_handler(&mut self, now: Now, conn: ConnRef, command: u32, answer: Answer) {
        let Some(connection) = self.slots.get(conn) else { return };
        let first = connection.first_subscription;
        let Session::Handler { plain, .. } = &mut connection.session else { return };
        let Plain { handler, commands, user, .. } = plain;
        let mut effects = Vec::new();
        let name = connection_ref(self.shard, conn);
        let channels = || self.local.channels_of(first);
        let standing = Standing { user: user.as_ref(), channels: &channels };
        handler.answered(
            command,
            answer,
            &mut Context::new(&mut effects, name, commands, standing),
        );
        self.telling_handler = true;
        self.run(now, conn, &mut effects);
        self.telling_handler = false;
    }

    /// Gives the answers to what handlers asked while they were told an answer: one that repeats what
    /// is refused at once keeps its shard busy, but not from working.
    pub(super) fn tell_handlers(&mut self, now: Now) {
        for _ in 0..self.handler_answers.len() {
            let Some((conn, command, answer)) = self.handler_answers.pop_front() else { return };
            self.tell_handler(now, conn, command, answer);
            self.settle(now);
        }
    }
}

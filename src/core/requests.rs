//! What sessions ask of the core, and the answers on their way back into the queue.

use super::{Core, Session};
use crate::{
    codec::websocket::{Opcode, write_frame},
    hub::{ConnRef, Format, HomeAnswer, Publication, ReplyTo, SubRef, ToHome},
    hub::{NO_SUBSCRIPTIONS, Pending},
    limits::COMMANDS_IN_FLIGHT_MAX,
    mutations::{self, Mutation},
    protocol::{
        Answer, ErrorCode, Name, Now, Request,
        handler::{ConnectionRef, Context},
    },
};

/// The place of an answer that goes to a handler and not into the queue.
const NO_PLACE: u32 = u32::MAX;

impl Core {
    /// Executes one request. Its answer has its place in the queue before this returns.
    pub(super) fn request(&mut self, now: Now, conn: ConnRef, command: u32, request: Request) {
        let Some(connection) = self.slots.get(conn) else { return };
        let ending = match &request {
            Request::Unsubscribe { channel } => {
                self.local.find(connection.first_subscription, channel)
            }
            _ => None,
        };
        // What this turn brought to the channel so far stands before the answer that ends it.
        if let Some(open) = ending.and_then(|sub| self.local.open_of(sub)) {
            self.seal(open);
        }
        let connection = self.slots.at(conn.slot);
        let place = match connection.session {
            Session::Centrifuge { .. } => connection.writer.reserve(),
            _ => NO_PLACE,
        };
        let in_flight = connection.writer.unfilled() as usize;
        let refusal = match &request {
            _ if in_flight > COMMANDS_IN_FLIGHT_MAX => Some(ErrorCode::TOO_MANY_REQUESTS),
            Request::Publish { channel, .. } => self.publish_refusal(channel),
            _ => None,
        };
        if let Some(error) = refusal {
            self.answer(now, conn, place, command, Answer::Failed(error));
            return;
        }
        let reply = ReplyTo::Command { conn, place, command };
        match request {
            Request::Connect { user } => {
                if user.is_empty() {
                    self.answer(now, conn, place, command, Answer::Connected);
                    return;
                }
                self.slots.at(conn.slot).registered = true;
                self.to_home(self.home_of(&user), ToHome::UserJoin { user, conn, reply });
            }
            Request::Subscribe { channel } => self.subscribe(now, conn, place, command, &channel),
            Request::Unsubscribe { .. } => {
                if let Some(sub) = ending {
                    let pending = self.local.pending(sub);
                    self.leave(conn, sub);
                    // Its grant will find nobody: the attempt was active for no publication.
                    if let Some(Pending { command, place }) = pending {
                        self.answer(now, conn, place, command, Answer::Subscribed);
                    }
                }
                self.answer(now, conn, place, command, Answer::Unsubscribed);
            }
            Request::Publish { channel, data, payload, info, subscribers_only } => {
                let first = self.slots.at(conn.slot).first_subscription;
                // A pending subscription counts: its join stands before this on the same link.
                if subscribers_only && self.local.find(first, &channel).is_none() {
                    let denied = Answer::Failed(ErrorCode::PERMISSION_DENIED);
                    self.answer(now, conn, place, command, denied);
                    return;
                }
                let home = self.home_of(&channel);
                let publication = Box::new(Publication { channel, data, payload, info });
                self.to_home(home, ToHome::Publish { publication, reply });
            }
        }
    }

    /// Why a publication cannot be taken now.
    pub(super) fn publish_refusal(&mut self, channel: &str) -> Option<ErrorCode> {
        let full = self.congestion.is_full(self.home_of(channel));
        if full || self.drain.has_begun() {
            self.counters.publications_refused += 1;
            return Some(ErrorCode::TOO_MANY_REQUESTS);
        }
        None
    }

    fn subscribe(&mut self, now: Now, conn: ConnRef, place: u32, command: u32, channel: &Name) {
        let subscriptions_max = self.process.settings.subscriptions_max;
        let connection = self.slots.at(conn.slot);
        let first = &mut connection.first_subscription;
        let error = if *first != NO_SUBSCRIPTIONS && self.local.find(*first, channel).is_some() {
            Some(ErrorCode::ALREADY_SUBSCRIBED)
        } else if connection.subscriptions as usize >= subscriptions_max {
            Some(ErrorCode::LIMIT_EXCEEDED)
        } else {
            None
        };
        if let Some(error) = error {
            self.answer(now, conn, place, command, Answer::Failed(error));
            return;
        }
        connection.subscriptions += 1;
        let format = match connection.session {
            Session::Handler { .. } => Format::Plain,
            _ => Format::Centrifuge,
        };
        let pending = Pending { command, place };
        let (sub, local, channel) = self.local.join(conn.slot, first, channel, format, pending);
        self.to_home(self.home_of(&channel), ToHome::Join { sub, channel, local, format });
        if mutations::is_on(Mutation::ActivatesAtRequest) {
            self.granted(now, sub);
        }
    }

    /// The home's grant: the subscription is active from here on, which is where its reply stands.
    pub(super) fn granted(&mut self, now: Now, sub: SubRef) {
        let Some(sub) = self.local.granted(sub) else { return };
        if let Some(open) = self.local.open_of(sub)
            && !mutations::is_on(Mutation::SkipsSealAtGrant)
        {
            self.seal(open);
        }
        let active = self.local.activate(sub);
        let generation = self.slots.at(active.slot).generation;
        let conn = ConnRef { slot: active.slot, generation };
        let Pending { command, place } = active.pending;
        self.answer(now, conn, place, command, Answer::Subscribed);
    }

    /// A home's answer to a command.
    pub(super) fn answer_command(
        &mut self,
        now: Now,
        conn: ConnRef,
        place: u32,
        command: u32,
        answer: &HomeAnswer,
    ) {
        let answer = match answer {
            HomeAnswer::Registered => Answer::Connected,
            HomeAnswer::Published => Answer::Published,
            HomeAnswer::Failed(error) => Answer::Failed(*error),
            HomeAnswer::Counts(_) => unreachable!("counts are gathered"),
        };
        if let Answer::Failed(_) = answer {
            self.counters.publications_refused += 1;
        }
        self.answer(now, conn, place, command, answer);
    }

    fn answer(&mut self, now: Now, conn: ConnRef, place: u32, command: u32, answer: Answer) {
        let Some(connection) = self.slots.get(conn).filter(|c| c.is_open()) else { return };
        match &mut connection.session {
            Session::Centrifuge { session, .. } => {
                let text = session.answered(now, &self.process.settings.policy, command, answer);
                let mut framed = Vec::with_capacity(text.len() + 4);
                write_frame(&mut framed, Opcode::Text, &text);
                if answer == Answer::Connected {
                    connection.connected = true;
                    self.clients += 1;
                    self.anonymous_clients += u64::from(!connection.registered);
                    self.wheel.set(conn.slot, session.deadline_ms());
                }
                self.fill(conn, place, framed);
            }
            Session::Handler { .. } if self.telling_handler => {
                self.handler_answers.push_back((conn, command, answer));
            }
            Session::Handler { .. } => self.tell_handler(now, conn, command, answer),
            Session::Http(_) | Session::Watch(_) | Session::Closing { .. } | Session::None => {}
        }
    }

    /// Tells a handler what became of its request, at the place in the connection's order where that
    /// happened.
    fn tell_handler(&mut self, now: Now, conn: ConnRef, command: u32, answer: Answer) {
        let Some(connection) = self.slots.get(conn) else { return };
        let Session::Handler { handler, commands, .. } = &mut connection.session else { return };
        let mut effects = Vec::new();
        let name = connection_ref(self.shard, conn);
        handler.answered(command, answer, &mut Context::new(&mut effects, name, commands));
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

    /// Queues bytes of this connection alone, or closes it if too many wait already.
    pub(super) fn queue(&mut self, conn: ConnRef, write: impl FnOnce(&mut Vec<u8>)) {
        if self.has_room(conn) {
            self.slots.at(conn.slot).writer.push_own(write);
            self.mark(conn.slot);
        }
    }

    /// Puts an answer into its place, or closes the connection if too many bytes wait already.
    pub(super) fn fill(&mut self, conn: ConnRef, place: u32, answer: Vec<u8>) {
        if self.has_room(conn) {
            self.slots.at(conn.slot).writer.fill(place, answer);
            self.mark(conn.slot);
        }
    }

    /// Whether an open connection may be queued something; one that may not will be closed.
    fn has_room(&mut self, conn: ConnRef) -> bool {
        let Some(connection) = self.slots.get(conn).filter(|c| c.is_open() && !c.slow) else {
            return false;
        };
        let room = connection.writer.queued_bytes() <= self.process.settings.queue_bytes_max;
        if !room {
            connection.slow = true;
            self.slow.push(conn);
        }
        room
    }

    /// A connection's deadline has come.
    pub(super) fn due(&mut self, now: Now, conn: ConnRef) {
        let Some(connection) = self.slots.get(conn) else { return };
        if !connection.is_open() {
            self.abort(conn);
            self.progress(conn);
            return;
        }
        match &mut connection.session {
            Session::Centrifuge { session, .. } => {
                let mut effects = Vec::new();
                session.due(now, &self.process.settings.policy, &mut effects);
                self.run(now, conn, &mut effects);
            }
            Session::Http(_) => self.request_timed_out(now, conn),
            Session::Watch(_) => self.watch_due(now, conn),
            Session::Handler { .. } | Session::Closing { .. } | Session::None => {}
        }
    }
}

/// The name of a connection for those who are not on its shard.
pub(super) fn connection_ref(shard: u16, conn: ConnRef) -> ConnectionRef {
    ConnectionRef { shard, slot: conn.slot, generation: conn.generation }
}

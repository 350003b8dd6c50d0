//! What sessions ask of the core, and the answers on their way back into the queue.

use super::{Core, Session, direct::Sender, gathers::Asker, streams::events_at_begin};
use crate::{
    api::{Call, Disconnect, Target},
    codes::CloseReason,
    frame::Range,
    hub::{ConnRef, HomeAnswer, Pending, Publication, Read, ReplyTo, ToHome},
    limits::COMMANDS_IN_FLIGHT_MAX,
    mutations::{self, Mutation},
    protocol::{
        Answer, ErrorCode, Name, Now, Outgoing, Request, Subscribed, centrifuge,
        handler::ConnectionRef,
    },
};

/// The place of an answer that goes to a handler and not into the queue.
pub(super) const NO_PLACE: u32 = u32::MAX;

impl Core {
    /// Executes one request. Its answer has its place in the queue before this returns.
    pub(super) fn request(&mut self, now: Now, conn: ConnRef, command: u32, request: Request) {
        if let Request::Unsubscribe { channel } = &request {
            self.withdraw(now, conn, Some(channel));
        }
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
            Session::Centrifuge { .. } | Session::Stream { .. } => connection.writer.reserve(),
            _ => NO_PLACE,
        };
        let in_flight = connection.writer.unfilled() as usize + self.asks.of(conn.slot);
        let refusal = match &request {
            _ if in_flight > COMMANDS_IN_FLIGHT_MAX => Some(ErrorCode::TOO_MANY_REQUESTS),
            Request::Publish { channel, .. } | Request::PublishToOthers { channel, .. } => {
                self.publish_refusal(channel)
            }
            _ => None,
        };
        if let Some(error) = refusal {
            if mutations::is_on(Mutation::ForgetsExpiry) {
                self.forget_expiry(conn, &request);
            }
            self.answer(now, conn, place, command, Answer::Failed(error));
            return;
        }
        let reply = ReplyTo::Command { conn, place, command };
        match request {
            Request::Connect { user, subscriptions } => {
                self.connect(now, conn, reply, user, subscriptions);
            }
            Request::Subscribe { channel, options } => {
                self.subscribe(now, conn, Pending { command, place }, &channel, *options, None);
            }
            Request::Prolong { channel, expire_at_unix_s, info } => {
                let sub = self.prolonged(conn, &channel);
                let answer = match sub {
                    Some(_) => Answer::Prolonged { channel, expire_at_unix_s, info },
                    // centrifuge answers so who is not subscribed.
                    None => Answer::Failed(ErrorCode::PERMISSION_DENIED),
                };
                self.answer(now, conn, place, command, answer);
                if let Some(sub) = sub {
                    self.renew_one(conn, sub);
                }
            }
            Request::Unsubscribe { channel } => {
                self.subscriptions.forget_lost(conn, &channel);
                if let Some(sub) = ending {
                    // An attempt that is not granted yet was active for no publication.
                    self.end(now, conn, sub, Answer::Subscribed(None));
                }
                self.answer(now, conn, place, command, Answer::Unsubscribed);
            }
            Request::Publish { channel, data, payload, info, subscribers_only, extra } => {
                let first = self.slots.at(conn.slot).first_subscription;
                // A pending subscription counts: its join stands before this on the same link.
                if subscribers_only && self.local.find(first, &channel).is_none() {
                    let denied = Answer::Failed(ErrorCode::PERMISSION_DENIED);
                    self.answer(now, conn, place, command, denied);
                    return;
                }
                let home = self.home_of(&channel);
                let publication = Box::new(Publication { channel, data, payload, info, extra });
                self.to_home(home, ToHome::Publish { publication, reply });
            }
            Request::SetUser { user } => self.set_user(now, conn, reply, user),
            Request::PublishToOthers { channel, data, payload } => {
                let outgoing = Outgoing { payload, data, except: None };
                self.publish_to_others((conn, command), channel, outgoing);
            }
            Request::Send { audience, outgoing } => {
                self.send_to(now, Sender::Handler { conn, command }, audience, outgoing);
            }
            Request::Read { channel, query, subscribers_only } => {
                let first = self.slots.at(conn.slot).first_subscription;
                if subscribers_only && self.local.find(first, &channel).is_none() {
                    let denied = Answer::Failed(ErrorCode::PERMISSION_DENIED);
                    self.answer(now, conn, place, command, denied);
                    return;
                }
                let home = self.home_of(&channel);
                self.to_home(home, ToHome::Read(Box::new(Read { channel, query, reply })));
            }
        }
    }

    /// A mistake: what its client asked to end, and did not, is taken for ended.
    fn forget_expiry(&mut self, conn: ConnRef, request: &Request) {
        let session = self.slots.at(conn.slot).session.centrifuge();
        if let (Request::Unsubscribe { channel }, Some(session)) = (request, session) {
            session.forget(channel);
        }
    }

    /// The subscription of a client that is in a channel: until it is granted, nobody but the grant
    /// says until when it lives.
    fn prolonged(&mut self, conn: ConnRef, channel: &str) -> Option<u32> {
        let first = self.slots.at(conn.slot).first_subscription;
        let sub = self.local.find(first, channel)?;
        let is_on = mutations::is_on(Mutation::ProlongsPending);
        (self.local.is_active(sub) || is_on).then_some(sub)
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

    /// A home's answer to a command.
    pub(super) fn answer_command(
        &mut self,
        now: Now,
        conn: ConnRef,
        place: u32,
        command: u32,
        answer: HomeAnswer,
    ) {
        let answer = match answer {
            HomeAnswer::Registered if self.is_handlers(conn) => {
                self.user_answered(conn, command, Ok(()));
                Answer::UserSet
            }
            HomeAnswer::Registered => return self.registered(now, conn),
            HomeAnswer::Failed(error) if self.connects_by(conn, command) => {
                return self.connect_failed(now, conn, error);
            }
            HomeAnswer::Published(_) => Answer::Published,
            HomeAnswer::Presence(present) => Answer::Presence(present),
            HomeAnswer::PresenceStats { clients, users } => {
                Answer::PresenceStats { clients, users }
            }
            HomeAnswer::History(history) => Answer::History(history),
            HomeAnswer::Failed(error) => {
                self.user_answered(conn, command, Err(error));
                Answer::Failed(error)
            }
            HomeAnswer::Distributed(_)
            | HomeAnswer::Delivered(_)
            | HomeAnswer::Counts(_)
            | HomeAnswer::Connections(_)
            | HomeAnswer::Channels { .. }
            | HomeAnswer::Done
            | HomeAnswer::Described(_) => unreachable!("these are gathered"),
        };
        if answer == Answer::Failed(ErrorCode::TOO_MANY_REQUESTS) {
            self.counters.publications_refused += 1;
        }
        self.answer(now, conn, place, command, answer);
    }

    pub(super) fn answer(
        &mut self,
        now: Now,
        conn: ConnRef,
        place: u32,
        command: u32,
        answer: Answer,
    ) {
        // Long answers to who is about to be closed are not even encoded.
        let open = self.slots.get(conn).filter(|c| c.is_open() && !c.slow);
        let Some(connection) = open else { return };
        let transport = connection.session.transport();
        match &mut connection.session {
            Session::Centrifuge { session, .. } | Session::Stream { session, .. } => {
                let policy = &self.process.settings.policy;
                let text = match answer {
                    Answer::Connected(active) => {
                        self.connected(now, conn, place, command, active);
                        return;
                    }
                    Answer::Failed(error) if session.is_unidirectional() => {
                        self.close(now, conn, centrifuge::disconnect_of(error));
                        return;
                    }
                    answer => session.answered(now, policy, command, answer),
                };
                self.wheel.set(conn.slot, session.deadline_ms());
                let mut framed = Vec::with_capacity(text.len() + 16);
                transport.write(&mut framed, &text);
                self.fill(conn, place, framed);
            }
            Session::Handler { .. } if self.telling_handler => {
                self.handler_answers.push_back((conn, command, answer));
            }
            Session::Handler { .. } => self.tell_handler(now, conn, command, answer),
            Session::Http(_) | Session::Watch(_) | Session::Closing { .. } | Session::None => {}
        }
    }

    /// The connect command is answered: the client is there, and in these channels.
    fn connected(
        &mut self,
        now: Now,
        conn: ConnRef,
        place: u32,
        command: u32,
        active: Vec<Subscribed>,
    ) {
        let id = self.session_id(conn);
        let connection = self.slots.at(conn.slot);
        let transport = connection.session.transport();
        let Some(session) = connection.session.centrifuge() else { return };
        let policy = &self.process.settings.policy;
        let begin = active.first().and_then(|subscribed| subscribed.begin.clone());
        let text = session.connected(now, policy, command, &id, active);
        self.wheel.set(conn.slot, session.deadline_ms());
        connection.connected = true;
        self.clients += 1;
        self.anonymous_clients += u64::from(!connection.registered);
        let answer = match connection.session.take_head() {
            Some(mut head) => {
                head.extend_from_slice(&events_at_begin(begin.as_ref()));
                head
            }
            None => {
                let mut framed = Vec::with_capacity(text.len() + 16);
                transport.write(&mut framed, &text);
                framed
            }
        };
        self.fill(conn, place, answer);
        self.renew(conn, None);
        if self.process.settings.single_connection {
            self.close_others(now, conn);
        }
    }

    /// Closes the user's other connections. Of two that come at the same instant both may go, as in
    /// Centrifugo.
    fn close_others(&mut self, now: Now, conn: ConnRef) {
        let connection = self.slots.at(conn.slot);
        let registered = connection.registered;
        let Some(session) = connection.session.centrifuge().filter(|_| registered) else { return };
        let target = Target { user: Name::clone(session.user()), client: None, session: None };
        let whitelist = [Name::from(session.client_id())].into();
        let CloseReason { code, reason } = CloseReason::CONNECTION_LIMIT;
        let disconnect = Some(Disconnect { code, reason: reason.into() });
        self.call(now, Asker::Nobody, Call::Disconnect { target, whitelist, disconnect });
    }

    /// Queues a message of a session, as its transport carries it.
    pub(super) fn queue_message(&mut self, conn: ConnRef, text: &[u8]) {
        let Some(connection) = self.slots.get(conn) else { return };
        let transport = connection.session.transport();
        self.queue(conn, |out| transport.write(out, text));
    }

    /// Queues bytes of this connection alone, or closes it if too many wait already.
    pub(super) fn queue(&mut self, conn: ConnRef, write: impl FnOnce(&mut Vec<u8>)) {
        if self.has_room(conn) {
            self.slots.at(conn.slot).writer.push_own(write);
            self.mark(conn.slot);
        }
    }

    /// Queues bytes that others get too, or closes the connection if too many wait already; returns
    /// whether they are queued.
    pub(super) fn queue_shared(&mut self, conn: ConnRef, range: Range) -> bool {
        let room = self.has_room(conn);
        if room {
            self.slots.at(conn.slot).writer.push_shared(range);
            self.mark(conn.slot);
        }
        room
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
            Session::Centrifuge { session, .. } | Session::Stream { session, .. } => {
                let mut effects = Vec::new();
                session.due(now, &self.process.settings.policy, &mut effects);
                self.run(now, conn, &mut effects);
            }
            Session::Http(_) => self.request_timed_out(now, conn),
            Session::Watch(_) => self.watch_due(now, conn),
            Session::Handler { .. } => self.liveness_due(now, conn),
            Session::Closing { .. } | Session::None => {}
        }
    }
}

/// The name of a connection for those who are not on its shard.
pub(super) fn connection_ref(shard: u16, conn: ConnRef) -> ConnectionRef {
    ConnectionRef { shard, slot: conn.slot, generation: conn.generation }
}

//! Subscriptions of this shard's connections: asked for, granted, refused, told of gaps, ended.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::{Core, overrun::tagged, requests::NO_PLACE};
use crate::{
    codes::CloseReason,
    hub::{
        ConnRef, HashKey, HomeAnswer, Join, ListKey, LocalId, NO_SUBSCRIPTIONS, Pending, ReplyTo,
        ShardId, SubRef, ToHome,
    },
    limits::bound,
    mutations::{self, Mutation},
    protocol::{
        Answer, Begin, ErrorCode, MemberInfo, Name, Now, Recovered, SubscribeOptions, Subscribed,
        centrifuge::{Unsubscribed, publication_push},
    },
};

/// Connections told of a gap in one flush: who recovers comes back at once.
const TOLD_PER_FLUSH: usize = bound(256, 1);

/// What is remembered of subscriptions that have more than publications, and of connects that wait
/// for several homes.
#[derive(Debug)]
pub(super) struct Subscriptions {
    /// By place in the local hub's table.
    states: HashMap<u32, State, HashKey>,
    /// By slot.
    connecting: HashMap<u32, Connecting, HashKey>,
    /// Who has lost its position in which channel and is to be told; it has left the channel already.
    /// Once each: who comes back and loses it again is told once.
    lost: BTreeSet<(ConnRef, Name)>,
    /// Of these who has come back before it was told, and is not granted yet.
    returning: BTreeSet<(ConnRef, Name)>,
}

/// One subscription with more than publications.
#[derive(Debug)]
struct State {
    server_side: bool,
    position: bool,
    /// Who it is, as its home was told last.
    member: Option<Arc<MemberInfo>>,
    /// Until the grant.
    asked: Option<Box<Asked>>,
}

#[derive(Debug)]
struct Asked {
    options: SubscribeOptions,
    /// A backend waits for the grant.
    confirm: Option<(ShardId, ReplyTo)>,
}

/// A connect command whose user and subscriptions are on their way.
#[derive(Debug)]
struct Connecting {
    command: u32,
    place: u32,
    missing: usize,
    active: Vec<Subscribed>,
}

impl Subscriptions {
    pub(super) fn new(key: HashKey) -> Self {
        Self {
            states: HashMap::with_hasher(key),
            connecting: HashMap::with_hasher(key),
            lost: BTreeSet::new(),
            returning: BTreeSet::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.states.is_empty()
            && self.connecting.is_empty()
            && self.lost.is_empty()
            && self.returning.is_empty()
    }

    /// Whether somebody is still to be told of a gap.
    pub(super) fn owes(&self) -> bool {
        !self.lost.is_empty()
    }

    /// The connection leaves the channel by its own will: told of a gap, its client would come back.
    pub(super) fn forget_lost(&mut self, conn: ConnRef, channel: &str) {
        if !self.lost.is_empty() || !self.returning.is_empty() {
            let known = (conn, Name::from(channel));
            self.lost.remove(&known);
            self.returning.remove(&known);
        }
    }

    /// A backend ends subscriptions of the connection, to one channel or to all: of which gaps it is
    /// not to be told any more, for then its client would come back.
    pub(super) fn take_lost(&mut self, conn: ConnRef, channel: Option<&str>) -> Vec<Name> {
        let is_meant = |(of, name): &(ConnRef, Name)| {
            *of == conn && !name.is_empty() && channel.is_none_or(|one| **name == *one)
        };
        self.returning.retain(|returning| !is_meant(returning));
        self.lost.extract_if(.., is_meant).map(|(_, name)| name).collect()
    }

    /// Who had lost its position and came back is granted.
    fn returned(&mut self, conn: ConnRef, channel: &Name) {
        if !self.returning.is_empty() {
            self.returning.remove(&(conn, Name::clone(channel)));
        }
    }

    /// Who had lost its position and came back is not granted: it is told of the gap after all.
    fn comes_to_nothing(&mut self, conn: ConnRef, channel: &Name) {
        if !self.returning.is_empty() {
            self.lost.extend(self.returning.take(&(conn, Name::clone(channel))));
        }
    }

    /// The connection is closing: its connect will not be answered.
    pub(super) fn forget_connect(&mut self, slot: u32) {
        self.connecting.remove(&slot);
    }

    /// Whether the client of a subscription recovers what it misses.
    pub(super) fn has_position(&self, sub: u32) -> bool {
        self.states.get(&sub).is_some_and(|state| state.position)
    }

    /// Whether a subscription is the server's own doing.
    pub(super) fn is_server_side(&self, sub: u32) -> bool {
        self.states.get(&sub).is_some_and(|state| state.server_side)
    }
}

impl Core {
    /// Registers a connection at its user's home and subscribes it to channels, all at once.
    pub(super) fn connect(
        &mut self,
        now: Now,
        conn: ConnRef,
        reply: ReplyTo,
        user: Name,
        subscriptions: Vec<(Name, Box<SubscribeOptions>)>,
    ) {
        let ReplyTo::Command { place, command, .. } = reply else {
            unreachable!("sessions ask by command")
        };
        let missing = usize::from(!user.is_empty()) + subscriptions.len();
        if missing == 0 {
            self.answer(now, conn, place, command, Answer::Connected(Vec::new()));
            return;
        }
        let connecting = Connecting { command, place, missing, active: Vec::new() };
        self.subscriptions.connecting.insert(conn.slot, connecting);
        if !user.is_empty() {
            self.slots.at(conn.slot).registered = true;
            self.to_home(self.home_of(&user), ToHome::UserJoin { user, conn, reply });
            if mutations::is_on(Mutation::ConnectsBeforeHome) {
                self.registered(now, conn);
            }
        }
        for (channel, options) in subscriptions {
            if !self.is_connecting(conn) {
                return;
            }
            let pending = Pending { command, place: NO_PLACE };
            self.subscribe(now, conn, pending, &channel, *options, None);
        }
    }

    /// Whether the connection's connect command waits for homes.
    pub(super) fn is_connecting(&self, conn: ConnRef) -> bool {
        self.subscriptions.connecting.contains_key(&conn.slot)
    }

    /// Whether this command is the connect command that waits for homes.
    pub(super) fn connects_by(&self, conn: ConnRef, command: u32) -> bool {
        let connecting = self.subscriptions.connecting.get(&conn.slot);
        connecting.is_some_and(|connecting| connecting.command == command)
    }

    /// The user's home knows the connection.
    pub(super) fn registered(&mut self, now: Now, conn: ConnRef) {
        if self.slots.get(conn).is_some_and(|connection| connection.is_open()) {
            self.connect_progress(now, conn, None);
        }
    }

    fn connect_progress(&mut self, now: Now, conn: ConnRef, active: Option<Subscribed>) {
        let Some(connecting) = self.subscriptions.connecting.get_mut(&conn.slot) else { return };
        connecting.active.extend(active);
        connecting.missing -= 1;
        if connecting.missing > 0 {
            return;
        }
        if let Some(Connecting { command, place, mut active, .. }) =
            self.subscriptions.connecting.remove(&conn.slot)
        {
            // Grants come in the order of their homes' links: the reply has one that can be relied on.
            active.sort_by(|one, other| one.channel.cmp(&other.channel));
            self.answer(now, conn, place, command, Answer::Connected(active));
        }
    }

    /// A home refused the connection or one of its first subscriptions: it is not connected.
    pub(super) fn connect_failed(&mut self, now: Now, conn: ConnRef, error: ErrorCode) {
        if self.slots.get(conn).is_none() {
            return;
        }
        let Some(connecting) = self.subscriptions.connecting.remove(&conn.slot) else { return };
        if error == ErrorCode::LIMIT_EXCEEDED {
            self.close(now, conn, CloseReason::CONNECTION_LIMIT);
            return;
        }
        self.leave_all(conn);
        self.answer(now, conn, connecting.place, connecting.command, Answer::Failed(error));
    }

    /// Asks a channel's home for a subscription.
    pub(super) fn subscribe(
        &mut self,
        now: Now,
        conn: ConnRef,
        pending: Pending,
        channel: &Name,
        options: SubscribeOptions,
        confirm: Option<(ShardId, ReplyTo)>,
    ) {
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
            self.not_subscribed(now, conn, pending, options.server_side, confirm, error);
            return;
        }
        connection.subscriptions += 1;
        let mut key = ListKey::new(connection.session.transport());
        key.join_leave = options.push_join_leave;
        let policy = &self.process.settings.policy;
        if let Some(options) = policy.channels.options(channel) {
            key.slow_consumer = options.slow_consumer;
        }
        let format = key.format;
        let (sub, local, channel) = self.local.join(conn.slot, first, channel, key, pending);
        let (wants, recover) = (options.wants, options.recover.clone());
        let member = options.member.clone();
        if !options.is_plain() || options.reject_unrecovered || confirm.is_some() {
            let state = State {
                server_side: options.server_side,
                position: wants.position || wants.recovery,
                member: member.clone(),
                asked: Some(Box::new(Asked { options, confirm })),
            };
            self.subscriptions.states.insert(sub.index, state);
        }
        let home = self.home_of(&channel);
        let join = Join { sub, channel, local, format, wants, recover, member };
        self.to_home(home, ToHome::Join(Box::new(join)));
        if mutations::is_on(Mutation::ActivatesAtRequest) {
            self.granted(now, sub, None);
        }
    }

    /// A subscription will not be.
    fn not_subscribed(
        &mut self,
        now: Now,
        conn: ConnRef,
        Pending { command, place }: Pending,
        server_side: bool,
        confirm: Option<(ShardId, ReplyTo)>,
        error: ErrorCode,
    ) {
        if let Some((shard, reply)) = confirm {
            self.confirm(shard, reply, Err(error));
        } else if self.is_connecting(conn) && server_side {
            match error {
                ErrorCode::LIMIT_EXCEEDED => self.close(now, conn, CloseReason::CHANNEL_LIMIT),
                error => self.connect_failed(now, conn, error),
            }
        } else {
            self.answer(now, conn, place, command, Answer::Failed(error));
        }
    }

    /// Tells a backend on another shard, or on this one, what became of its order.
    pub(super) fn confirm(&mut self, to: ShardId, reply: ReplyTo, result: Result<(), ErrorCode>) {
        self.reply(to, reply, result.map_or_else(HomeAnswer::Failed, |()| HomeAnswer::Done));
    }

    /// The home's grant: the subscription is active from here on, which is where its reply stands.
    pub(super) fn granted(&mut self, now: Now, sub: SubRef, begin: Option<Box<Begin>>) {
        let Some(sub) = self.local.granted(sub) else { return };
        if let Some(open) = self.local.open_of(sub)
            && !mutations::is_on(Mutation::SkipsSealAtGrant)
        {
            self.seal(open);
        }
        let asked = self.subscriptions.states.get_mut(&sub).and_then(|state| state.asked.take());
        let active = self.local.activate(sub);
        let conn = ConnRef { slot: active.slot, generation: self.slots.at(active.slot).generation };
        let Pending { command, place } = active.pending;
        let lost = begin.as_ref().is_some_and(|begin| begin.recovered == Recovered::Not);
        let rejects = asked.as_ref().is_some_and(|asked| asked.options.reject_unrecovered);
        if !(lost && rejects) {
            self.subscriptions.returned(conn, &self.local.name_of(sub));
        }
        let Some(Asked { options, confirm }) = asked.map(|asked| *asked) else {
            self.answer(now, conn, place, command, Answer::Subscribed(None));
            return;
        };
        if lost && rejects {
            self.leave(conn, sub);
            let failed = Answer::Failed(ErrorCode::UNRECOVERABLE_POSITION);
            self.answer(now, conn, place, command, failed);
            return;
        }
        if !options.server_side && begin.is_none() && options.member.is_none() {
            self.subscriptions.states.remove(&sub);
        }
        let channel = self.local.name_of(sub);
        let server_side = options.server_side;
        let subscribed = Subscribed { channel, options, begin: begin.map(|begin| *begin) };
        if !server_side {
            self.answer(now, conn, place, command, Answer::Subscribed(Some(Box::new(subscribed))));
            self.renew_one(conn, sub);
        } else if self.is_connecting(conn) && confirm.is_none() {
            // Now, and not with the answer: its client may have left it by then, and come back.
            let policy = &self.process.settings.policy;
            if let Some(session) = self.slots.at(conn.slot).session.centrifuge() {
                session.entered(now, policy, &subscribed);
            }
            self.connect_progress(now, conn, Some(subscribed));
        } else {
            self.tell(now, conn, |session, policy, now| {
                session.subscribed(now, policy, &subscribed)
            });
            self.push_recovered(conn, &subscribed);
            self.renew_one(conn, sub);
            if let Some((shard, reply)) = confirm {
                self.confirm(shard, reply, Ok(()));
            }
        }
    }

    /// What a subscription by the server recovered: a subscribe push has no place for it, so it follows
    /// as any publication would.
    fn push_recovered(&mut self, conn: ConnRef, subscribed: &Subscribed) {
        let Some(Begin { recovered: Recovered::All(missed), .. }) = &subscribed.begin else {
            return;
        };
        for publication in missed {
            self.queue_message(conn, &publication_push(&subscribed.channel, publication));
        }
    }

    /// The home's refusal.
    pub(super) fn refused(&mut self, now: Now, sub: SubRef, error: ErrorCode) {
        let Some(sub) = self.local.granted(sub) else { return };
        let Some(pending) = self.local.pending(sub) else { return };
        let slot = self.local.slot_of(sub);
        let conn = ConnRef { slot, generation: self.slots.at(slot).generation };
        let state = self.subscriptions.states.get_mut(&sub);
        let (server_side, asked) =
            state.map_or((false, None), |state| (state.server_side, state.asked.take()));
        self.leave(conn, sub);
        let confirm = asked.and_then(|asked| asked.confirm);
        self.not_subscribed(now, conn, pending, server_side, confirm, error);
    }

    /// Publications of a channel were left out: who has a position there leaves at once, so that it
    /// gets nothing from behind the gap, and is told in a later flush.
    pub(super) fn gap(&mut self, local: LocalId) {
        let Some(channel) = self.local.channel_of(local) else { return };
        let members = self.local.all_members(channel);
        for member in members {
            let sub = member.sub();
            if self.subscriptions.has_position(sub) {
                let generation = self.slots.at(member.slot).generation;
                self.lose(ConnRef { slot: member.slot, generation }, sub);
            } else if self.counters.publications_missed == 0
                || !mutations::is_on(Mutation::FreezesMissed)
            {
                self.counters.publications_missed += 1;
            }
        }
    }

    /// Subscribers that a gap is not told to, to be checked by tests.
    pub fn without_position(&self, local: LocalId) -> usize {
        let members = self.local.channel_of(local).map(|channel| self.local.all_members(channel));
        let members = members.unwrap_or_default();
        members.iter().filter(|member| !self.subscriptions.has_position(member.sub())).count()
    }

    /// A subscription's position is lost.
    pub(super) fn lose(&mut self, conn: ConnRef, sub: u32) {
        let channel = self.local.name_of(sub);
        self.counters.positions_lost += 1;
        if mutations::is_on(Mutation::DeliversBehindGap) {
            self.subscriptions.lost.insert((conn, channel));
            return;
        }
        if self.subscriptions.is_server_side(sub) {
            // Its client cannot subscribe again by itself: it connects again.
            self.leave(conn, sub);
            self.subscriptions.lost.insert((conn, Name::default()));
            return;
        }
        self.leave(conn, sub);
        self.subscriptions.lost.insert((conn, channel));
    }

    /// Tells some of those who have lost their position.
    pub(super) fn tell_lost(&mut self, now: Now) {
        for _ in 0..TOLD_PER_FLUSH {
            let Some((conn, channel)) = self.subscriptions.lost.pop_first() else { break };
            if channel.is_empty() {
                self.close(now, conn, CloseReason::INSUFFICIENT_STATE);
                continue;
            }
            let Some(connection) = self.slots.get(conn) else { continue };
            if let Some(sub) = self.local.find(connection.first_subscription, &channel) {
                // It has subscribed again meanwhile, and got what it missed; or it waits for that, and
                // is told when that comes to nothing.
                if self.local.pending(sub).is_some() {
                    self.subscriptions.returning.insert((conn, channel));
                }
                continue;
            }
            self.tell(now, conn, |session, _, _| {
                session.unsubscribed(&channel, Unsubscribed::INSUFFICIENT_STATE)
            });
        }
        self.settle(now);
    }

    /// Tells homes what others see of a connection now, in a channel or in all.
    pub(super) fn renew(&mut self, conn: ConnRef, channel: Option<&str>) {
        let first = self.slots.at(conn.slot).first_subscription;
        if let Some(channel) = channel {
            if let Some(sub) = self.local.find(first, channel) {
                self.renew_one(conn, sub);
            }
            return;
        }
        for sub in Vec::from_iter(self.local.subscriptions_of(first)) {
            self.renew_one(conn, sub);
        }
    }

    /// Tells a subscription's home what others see of it now, where that is something else. Of what
    /// its client has not been told yet the session does not know all: it is looked at then.
    pub(super) fn renew_one(&mut self, conn: ConnRef, sub: u32) {
        if self.is_connecting(conn) {
            return;
        }
        let Some(state) = self.subscriptions.states.get_mut(&sub) else { return };
        let Some(known) = state.member.as_mut().filter(|_| state.asked.is_none()) else { return };
        let Some(connection) = self.slots.get(conn).filter(|c| c.is_open()) else { return };
        let Some(session) = connection.session.centrifuge() else { return };
        let channel = self.local.name_of(sub);
        let member = session.member_of(&channel);
        if *known == member {
            return;
        }
        *known = Arc::clone(&member);
        let sub = self.local.ref_of(sub);
        self.to_home(self.home_of(&channel), ToHome::Renew { channel, sub, member });
    }

    /// A subscription, which is active since its grant says when it expires, was not refreshed in time.
    pub(super) fn subscription_expired(&mut self, now: Now, conn: ConnRef, channel: &Name) {
        let first = self.slots.at(conn.slot).first_subscription;
        let Some(sub) = self.local.find(first, channel) else { return };
        if mutations::is_on(Mutation::KeepsExpired) {
            return;
        }
        if self.subscriptions.is_server_side(sub) {
            self.close(now, conn, CloseReason::SUBSCRIPTION_EXPIRED);
            return;
        }
        self.leave(conn, sub);
        self.tell(now, conn, |session, _, _| session.unsubscribed(channel, Unsubscribed::EXPIRED));
    }

    /// Sends a connection what its session says of something that it did not ask for.
    pub(super) fn tell(
        &mut self,
        now: Now,
        conn: ConnRef,
        say: impl FnOnce(
            &mut crate::protocol::centrifuge::Session,
            &crate::protocol::centrifuge::Policy,
            Now,
        ) -> Vec<u8>,
    ) {
        let Some(connection) = self.slots.get(conn).filter(|c| c.is_open()) else { return };
        let Some(session) = connection.session.centrifuge() else { return };
        let text = say(session, &self.process.settings.policy, now);
        self.wheel.set(conn.slot, session.deadline_ms());
        self.queue_message(conn, &text);
    }

    /// Ends a subscription, pending or active, because somebody wants that; whether it was active.
    /// The grant of a pending one will find nobody: who waits for it is answered, or goes on.
    pub(super) fn end(&mut self, now: Now, conn: ConnRef, sub: u32, answer: Answer) -> bool {
        let pending = self.local.pending(sub);
        let state = self.subscriptions.states.get(&sub);
        let server_side = state.is_some_and(|state| state.server_side);
        let asked = state.and_then(|state| state.asked.as_ref());
        let of_connect = server_side && asked.is_some_and(|asked| asked.confirm.is_none());
        self.leave(conn, sub);
        match pending {
            None => return true,
            Some(_) if of_connect && mutations::is_on(Mutation::WaitsForEnded) => {}
            Some(_) if of_connect => self.connect_progress(now, conn, None),
            Some(_) if server_side => {}
            Some(Pending { command, place }) => self.answer(now, conn, place, command, answer),
        }
        false
    }

    pub(super) fn leave_all(&mut self, conn: ConnRef) {
        loop {
            let first = self.slots.at(conn.slot).first_subscription;
            if first == NO_SUBSCRIPTIONS {
                return;
            }
            self.leave(conn, first);
        }
    }

    /// Ends one subscription, pending or active.
    pub(super) fn leave(&mut self, conn: ConnRef, sub: u32) {
        if let Some(open) = self.local.open_of(sub) {
            self.seal(open);
        }
        let state = self.subscriptions.states.remove(&sub);
        // What a client with a position gets of a channel has no holes, also when its next
        // subscription, which may have holes, begins behind it.
        if state.as_ref().is_some_and(|state| state.position) {
            let left = self.local.id_of_its(sub);
            self.slots.at(conn.slot).writer.keep_tagged(|tag| tagged(tag) == left);
        }
        let asked = state.and_then(|state| state.asked);
        let connection = self.slots.at(conn.slot);
        connection.subscriptions -= 1;
        let (channel, sub, key) = self.local.leave(&mut connection.first_subscription, sub);
        if let Some(session) = connection.session.centrifuge() {
            session.forget(&channel);
        }
        self.subscriptions.comes_to_nothing(conn, &channel);
        let format = key.format;
        self.to_home(self.home_of(&channel), ToHome::Leave { channel, sub, format });
        if let Some((shard, reply)) = asked.and_then(|asked| asked.confirm) {
            self.confirm(shard, reply, Ok(()));
        }
    }
}

//! What backends want of single connections of this shard, and lists of its channels.

use std::sync::Arc;

use super::{Core, Session, requests::NO_PLACE};
use crate::{
    codec::transport::Transport,
    codes::CloseReason,
    hub::{ChannelPattern, ConnRef, FromHome, Group, HomeAnswer, Pending, ReplyTo, ShardId},
    limits::{CONNECTIONS_PER_ANSWER_MAX, bound},
    protocol::{Act, Answer, Described, ErrorCode, Name, Now, Order, centrifuge::Unsubscribed},
};

/// Places of a table that one turn looks at for a list.
const PLACES_PER_TURN: usize = bound(1_024, 3);

/// A list that is being made, a stretch of a table each turn.
#[derive(Debug)]
pub(super) struct Listing {
    to: ShardId,
    reply: ReplyTo,
    from: usize,
    what: Listed,
}

#[derive(Debug)]
enum Listed {
    Channels { pattern: Option<Arc<ChannelPattern>> },
    Anonymous { found: Vec<(ShardId, ConnRef)> },
}

impl Core {
    /// Does with a connection what a backend wants, and tells the shard that asked.
    pub(super) fn obey(
        &mut self,
        now: Now,
        from: ShardId,
        conn: ConnRef,
        order: &Order,
        reply: ReplyTo,
    ) {
        if !self.is_meant(conn, order) {
            self.reply(from, reply, HomeAnswer::Done);
            return;
        }
        match &order.act {
            Act::Disconnect { code, reason } => {
                let told = CloseReason { code: *code, reason: "" };
                self.close_saying(now, conn, told, reason);
            }
            Act::Unsubscribe { channel } => self.end_subscriptions(now, conn, channel),
            Act::Subscribe { channel, terms, recover } => {
                let connection = self.slots.at(conn.slot);
                let is_event_stream = connection.session.transport() == Transport::Events;
                let Some(session) = connection.session.centrifuge() else { return };
                let policy = &self.process.settings.policy;
                let (terms, recover) = ((**terms).clone(), recover.clone());
                let Some(options) = session.server_terms(policy, channel, recover, terms) else {
                    let failed = HomeAnswer::Failed(ErrorCode::UNKNOWN_CHANNEL);
                    self.reply(from, reply, failed);
                    return;
                };
                if now.is_past(options.expire_at_unix_s) {
                    self.reply(from, reply, HomeAnswer::Failed(ErrorCode::EXPIRED));
                    return;
                }
                let first = connection.first_subscription;
                // An event stream is about its own channel alone.
                if !is_event_stream && self.local.find(first, channel).is_none() {
                    // The grant confirms it.
                    let pending = Pending { command: 0, place: NO_PLACE };
                    self.subscribe(now, conn, pending, channel, options, Some((from, reply)));
                    return;
                }
            }
            Act::Refresh { expired, expire_at_unix_s, .. }
                if *expired || now.is_past(*expire_at_unix_s) =>
            {
                self.close(now, conn, CloseReason::CONNECTION_EXPIRED);
            }
            Act::Refresh { expire_at_unix_s, info, .. } => {
                let (at, info) = (*expire_at_unix_s, info.clone());
                self.tell(now, conn, |session, policy, now| {
                    session.refreshed(now, policy, at, info)
                });
                self.renew(conn, None);
            }
            Act::Describe => {
                let described = self.describe(conn);
                self.reply(from, reply, HomeAnswer::Described(described.map(Box::new)));
                return;
            }
        }
        self.reply(from, reply, HomeAnswer::Done);
    }

    fn is_meant(&mut self, conn: ConnRef, order: &Order) -> bool {
        let Some(connection) = self.slots.get(conn).filter(|c| c.is_open()) else { return false };
        if let Session::Handler { .. } = connection.session {
            // It has neither id, and the rest of what can be ordered is Centrifuge's.
            return order.client.is_none()
                && order.session.is_none()
                && matches!(order.act, Act::Disconnect { .. });
        }
        let Some(session) = connection.session.centrifuge() else { return false };
        let client = session.client_id();
        order.client.as_ref().is_none_or(|only| **only == *client)
            && !order.except.contains(&*client)
            && order.session.as_ref().is_none_or(|only| **only == self.session_id(conn))
    }

    /// Ends a subscription by the backend's will, all where `channel` is empty; the client is told.
    /// A subscribe about which the backend was asked is refused: once the order is carried out,
    /// nothing that was read before makes it a subscriber (centrifuge `client.go`, `unsubscribe`,
    /// waits for the same).
    fn end_subscriptions(&mut self, now: Now, conn: ConnRef, channel: &Name) {
        let one = Some(&**channel).filter(|channel| !channel.is_empty());
        self.withdraw(now, conn, one);
        let first = self.slots.at(conn.slot).first_subscription;
        for channel in self.subscriptions.take_lost(conn, one) {
            if self.local.find(first, &channel).is_none() {
                self.tell(now, conn, |session, _, _| {
                    session.unsubscribed(&channel, Unsubscribed::SERVER)
                });
            }
        }
        let ending = match one {
            Some(channel) => Vec::from_iter(self.local.find(first, channel)),
            None => Vec::from_iter(self.local.subscriptions_of(first)),
        };
        for sub in ending {
            let channel = self.local.name_of(sub);
            // Of what was not active yet the client has not heard; its own command is refused.
            let refused = Answer::Failed(ErrorCode::PERMISSION_DENIED);
            if self.end(now, conn, sub, refused) {
                self.tell(now, conn, |session, _, _| {
                    session.unsubscribed(&channel, Unsubscribed::SERVER)
                });
            }
        }
    }

    fn describe(&mut self, conn: ConnRef) -> Option<Described> {
        let connection = self.slots.get(conn)?;
        let first = connection.first_subscription;
        let transport = connection.session.transport().name();
        let session = connection.session.centrifuge()?;
        let mut described = session.described(transport);
        let subscriptions = self.local.subscriptions_of(first);
        described.channels.extend(subscriptions.map(|sub| self.local.name_of(sub)));
        described.channels.sort_unstable();
        Some(described)
    }

    /// Answers the shard that asked; it may be this one.
    pub(super) fn reply(&mut self, to: ShardId, reply: ReplyTo, answer: HomeAnswer) {
        self.home_out.push((to, FromHome::Answer { reply, answer }));
        self.send_from_home();
    }

    /// Begins a list of the channels of this home.
    pub(super) fn list_channels(
        &mut self,
        to: ShardId,
        pattern: Option<Arc<ChannelPattern>>,
        reply: ReplyTo,
    ) {
        self.listings.push_back(Listing { to, reply, from: 0, what: Listed::Channels { pattern } });
    }

    /// Lists connections of this shard, or begins to. Those of a channel are looked through at once, as
    /// they are for each of its publications.
    pub(super) fn list_connections(&mut self, to: ShardId, of: Group, reply: ReplyTo) {
        let connections = match of {
            Group::Anonymous => {
                let what = Listed::Anonymous { found: Vec::new() };
                self.listings.push_back(Listing { to, reply, from: 0, what });
                return;
            }
            Group::User(user) => self.home.connections_of(&user).to_vec(),
            Group::Channel(channel) => {
                let members = self.local.known(&channel).map(|known| self.local.all_members(known));
                let members = members.into_iter().flatten().take(CONNECTIONS_PER_ANSWER_MAX + 1);
                members
                    .map(|member| {
                        let (slot, shard) = (member.slot, self.shard);
                        (shard, ConnRef { slot, generation: self.slots.at(slot).generation })
                    })
                    .collect()
            }
        };
        self.reply(to, reply, HomeAnswer::Connections(connections));
    }

    /// Goes on with a list, a bounded number of places.
    pub(super) fn list_some(&mut self, now: Now) {
        let Some(Listing { to, reply, from, what }) = self.listings.pop_front() else { return };
        match what {
            Listed::Channels { pattern } => {
                let mut found = Vec::new();
                let matches =
                    |name: &str| pattern.as_ref().is_none_or(|pattern| pattern.matches(name));
                let next = self.home.list(from, PLACES_PER_TURN, matches, &mut found);
                let more = next.is_some();
                if !found.is_empty() || !more {
                    self.reply(to, reply, HomeAnswer::Channels { found, more });
                }
                if let Some(from) = next {
                    let what = Listed::Channels { pattern };
                    self.listings.push_back(Listing { to, reply, from, what });
                }
            }
            Listed::Anonymous { mut found } => {
                let end = self.slots.end() as usize;
                let next = end.min(from + PLACES_PER_TURN);
                for slot in from as u32..next as u32 {
                    let connection = self.slots.at(slot);
                    let conn = ConnRef { slot, generation: connection.generation };
                    let nobody = connection.user().is_some_and(|user| user.is_empty());
                    if connection.connected && nobody {
                        found.push((self.shard, conn));
                    }
                }
                if next < end {
                    let what = Listed::Anonymous { found };
                    self.listings.push_back(Listing { to, reply, from: next, what });
                } else {
                    self.reply(to, reply, HomeAnswer::Connections(found));
                }
            }
        }
        self.settle(now);
    }

    /// Whether a list is being made.
    pub(super) fn lists(&self) -> bool {
        !self.listings.is_empty()
    }
}

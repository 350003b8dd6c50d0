//! What backends want of single connections of this shard, and lists of its channels.

use std::sync::Arc;

use super::{Core, requests::NO_PLACE};
use crate::{
    close::{self, CloseReason},
    hub::{
        ChannelPattern, ConnRef, FromHome, HomeAnswer, NO_SUBSCRIPTIONS, Pending, ReplyTo, ShardId,
    },
    protocol::{Act, Answer, Described, ErrorCode, Name, Now, Order, centrifuge::Unsubscribed},
};

/// Places of the home's table that one turn looks at for a list.
const PLACES_PER_TURN: usize = 1_024;

/// A list of channels that is being made.
#[derive(Debug)]
pub(super) struct Listing {
    to: ShardId,
    reply: ReplyTo,
    pattern: Arc<ChannelPattern>,
    from: usize,
    found: Vec<(Name, u32)>,
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
                self.close_saying(now, conn, told, Some(reason));
            }
            Act::Unsubscribe { channel } => self.end_subscriptions(now, conn, channel),
            Act::Subscribe { channel, terms, recover } => {
                let connection = self.slots.at(conn.slot);
                let Some(session) = connection.session.centrifuge() else { return };
                let policy = &self.process.settings.policy;
                let (terms, recover) = ((**terms).clone(), recover.clone());
                let Some(options) = session.server_terms(policy, channel, recover, terms) else {
                    let failed = HomeAnswer::Failed(ErrorCode::UNKNOWN_CHANNEL);
                    self.reply(from, reply, failed);
                    return;
                };
                let first = connection.first_subscription;
                if self.local.find(first, channel).is_none() {
                    // The grant confirms it.
                    let pending = Pending { command: 0, place: NO_PLACE };
                    self.subscribe(now, conn, pending, channel, options, Some((from, reply)));
                    return;
                }
            }
            Act::Refresh { expired, .. } if *expired => {
                self.close(now, conn, close::CONNECTION_EXPIRED);
            }
            Act::Refresh { expire_at_unix_s, info, .. } => {
                let (at, info) = (*expire_at_unix_s, info.clone());
                self.tell(now, conn, |session, policy, now| {
                    session.refreshed(now, policy, at, info)
                });
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
        let Some(session) = connection.session.centrifuge() else { return false };
        let client = session.client_id();
        order.client.as_ref().is_none_or(|only| *only == client)
            && !order.except.contains(&client)
            && order.session.as_ref().is_none_or(|only| *only == self.session_id(conn))
    }

    /// Ends a subscription by the backend's will, all where `channel` is empty; the client is told.
    fn end_subscriptions(&mut self, now: Now, conn: ConnRef, channel: &Name) {
        let mut ending = Vec::new();
        let first = self.slots.at(conn.slot).first_subscription;
        if channel.is_empty() {
            let mut next = (first != NO_SUBSCRIPTIONS).then_some(first);
            while let Some(sub) = next {
                ending.push(sub);
                next = self.local.next_of(sub);
            }
        } else {
            ending.extend(self.local.find(first, channel));
        }
        for sub in ending {
            let channel = self.local.name_of(sub);
            // One that was not active yet is refused.
            if !self.end_pending(now, conn, sub, Answer::Failed(ErrorCode::PERMISSION_DENIED)) {
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
        let mut next = (first != NO_SUBSCRIPTIONS).then_some(first);
        while let Some(sub) = next {
            described.channels.push(self.local.name_of(sub));
            next = self.local.next_of(sub);
        }
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
        pattern: Arc<ChannelPattern>,
        reply: ReplyTo,
    ) {
        self.listings.push_back(Listing { to, reply, pattern, from: 0, found: Vec::new() });
    }

    /// Goes on with a list, a bounded number of places.
    pub(super) fn list_some(&mut self, now: Now) {
        let Some(mut listing) = self.listings.pop_front() else { return };
        let Listing { from, pattern, found, .. } = &mut listing;
        let next = self.home.list(*from, PLACES_PER_TURN, |name| pattern.matches(name), found);
        match next {
            Some(next) => {
                listing.from = next;
                self.listings.push_back(listing);
            }
            None => self.reply(listing.to, listing.reply, HomeAnswer::Channels(listing.found)),
        }
        self.settle(now);
    }

    /// Whether a list is being made.
    pub(super) fn lists_channels(&self) -> bool {
        !self.listings.is_empty()
    }
}

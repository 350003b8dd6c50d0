//! What this shard's connections have asked the backend, until it answers or they are gone.

use std::collections::{BTreeMap, btree_map::Entry};

use super::Core;
use crate::{
    hub::ConnRef,
    limits::{BACKEND_CALLS_IN_FLIGHT_MAX, COMMANDS_IN_FLIGHT_MAX},
    protocol::{
        ErrorCode, KeyUse, Name, Now,
        centrifuge::{About, Ask},
    },
    proxy::{
        BackendAnswer, BackendCall, Failure, ProxyId, answers::Refusal, notices::Occupancy,
        routes::ChannelEvent,
    },
};

/// A call for the threads that ask the backend. Ends in [`OutsideCall::Answered`].
///
/// [`OutsideCall::Answered`]: super::OutsideCall::Answered
#[derive(Debug)]
pub struct Question {
    /// Comes back with the answer.
    pub id: u64,
    /// Who is asked.
    pub proxy: ProxyId,
    /// What.
    pub call: BackendCall,
}

/// A channel that got its first, or lost its last subscriber, where somebody wants to know.
#[derive(Debug)]
pub struct Notice {
    /// Who.
    pub proxy: ProxyId,
    /// Which channel.
    pub channel: Name,
    /// What it is now.
    pub state: Occupancy,
}

/// A question without an answer.
#[derive(Debug)]
struct Open {
    generation: u32,
    proxy: ProxyId,
    command: u32,
    about: About,
}

/// The table of questions, of each proxy bounded by [`BACKEND_CALLS_IN_FLIGHT_MAX`].
#[derive(Debug, Default)]
pub(super) struct Asks {
    /// By slot and number, so that those of one connection stand together.
    open: BTreeMap<u64, Open>,
    /// How many of them each proxy has; who has none is not in it.
    of_proxies: BTreeMap<ProxyId, usize>,
    next: u32,
    /// For the shell to hand over.
    outgoing: Vec<Question>,
    /// Keys that a token asks for and nobody knows, by use.
    keys_wanted: [bool; 2],
}

/// The numbers of all questions of a slot.
fn of_slot(slot: u32) -> std::ops::RangeInclusive<u64> {
    let first = u64::from(slot) << 32;
    first..=first | u64::from(u32::MAX)
}

impl Asks {
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.outgoing.is_empty()
    }

    /// Questions of a connection.
    pub(super) fn of(&self, slot: u32) -> usize {
        self.open.range(of_slot(slot)).count()
    }

    /// The connection is closing: answers to it will find nobody.
    pub(super) fn forget(&mut self, slot: u32) {
        let ids: Vec<u64> = self.open.range(of_slot(slot)).map(|(id, _)| *id).collect();
        for id in ids {
            self.take(id);
        }
    }

    /// Whether a proxy has so many questions that it gets no more.
    fn is_full(&self, proxy: ProxyId) -> bool {
        self.of_proxies.get(&proxy).is_some_and(|open| *open >= BACKEND_CALLS_IN_FLIGHT_MAX)
    }

    /// Puts a question into the table, and returns its number.
    fn put(&mut self, slot: u32, open: Open) -> u64 {
        self.next = self.next.wrapping_add(1);
        let id = u64::from(slot) << 32 | u64::from(self.next);
        *self.of_proxies.entry(open.proxy).or_default() += 1;
        self.open.insert(id, open);
        id
    }

    /// Takes a question out of the table, if it is there.
    fn take(&mut self, id: u64) -> Option<Open> {
        let taken = self.open.remove(&id)?;
        if let Entry::Occupied(mut count) = self.of_proxies.entry(taken.proxy) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        Some(taken)
    }

    pub(super) fn want_keys(&mut self, of: KeyUse) {
        self.keys_wanted[of as usize] = true;
    }
}

impl Core {
    /// Has the backend asked for a connection, unless too much is asked already.
    pub(super) fn ask(&mut self, now: Now, conn: ConnRef, command: u32, ask: Ask) {
        let Some(connection) = self.slots.get(conn) else { return };
        let Ask { proxy, mut call, about } = ask;
        let in_flight = connection.writer.unfilled() as usize + self.asks.of(conn.slot);
        if in_flight >= COMMANDS_IN_FLIGHT_MAX || self.asks.is_full(proxy) {
            self.answered_of(now, conn, command, about, BackendAnswer::Failed(Failure::Busy));
            return;
        }
        call.set_transport(connection.session.transport().name());
        let open = Open { generation: conn.generation, proxy, command, about };
        let id = self.asks.put(conn.slot, open);
        self.asks.outgoing.push(Question { id, proxy, call });
    }

    /// The backend's answer has come, or that there is none.
    pub(super) fn backend_answered(&mut self, now: Now, id: u64, answer: BackendAnswer) {
        let Some(Open { generation, command, about, .. }) = self.asks.take(id) else { return };
        let conn = ConnRef { slot: (id >> 32) as u32, generation };
        self.answered_of(now, conn, command, about, answer);
    }

    fn answered_of(
        &mut self,
        now: Now,
        conn: ConnRef,
        command: u32,
        about: About,
        answer: BackendAnswer,
    ) {
        let Some(connection) = self.slots.get(conn).filter(|c| c.is_open()) else { return };
        let Some(session) = connection.session.centrifuge() else { return };
        let policy = &self.process.settings.policy;
        let mut effects = Vec::new();
        session.backend_answered(now, policy, command, about, answer, &mut effects);
        connection.session.narrow(&policy.channels, &mut effects);
        self.run(now, conn, &mut effects);
        if let Some(connection) = self.slots.get(conn).filter(|c| c.is_open()) {
            self.wheel.set(conn.slot, connection.deadline_ms());
        }
    }

    /// The client is not to be in a channel about which the backend was asked, or in any of them:
    /// by its own wish, or the backend's.
    pub(super) fn withdraw(&mut self, now: Now, conn: ConnRef, channel: Option<&str>) {
        let asks = self.asks.open.range(of_slot(conn.slot));
        let ids: Vec<u64> = asks
            .filter(|(_, open)| open.about.is_subscribe_to(channel))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            let ErrorCode { code, message, temporary } = ErrorCode::PERMISSION_DENIED;
            let message = message.to_owned();
            let refusal = Refusal::Error { code, message, temporary };
            self.backend_answered(now, id, BackendAnswer::Refused(refusal));
        }
    }

    /// Hands over what is asked; what is not taken is answered at once.
    pub(super) fn flush_asks(&mut self, now: Now, shell: &mut impl super::Shell) {
        for question in std::mem::take(&mut self.asks.outgoing) {
            let id = question.id;
            if !shell.ask(question) {
                self.backend_answered(now, id, BackendAnswer::Failed(Failure::Busy));
            }
        }
        for of in [KeyUse::Connections, KeyUse::Subscriptions] {
            if std::mem::take(&mut self.asks.keys_wanted[of as usize]) {
                shell.fetch_keys(of);
            }
        }
        self.settle(now);
    }

    /// Tells who wants to know of channels that became occupied or vacated.
    pub(super) fn flush_notices(&mut self, shell: &mut impl super::Shell) {
        for notice in self.home.take_notices() {
            let policy = &self.process.settings.policy;
            if let Some(proxy) = policy.asked_about(ChannelEvent::State, &notice.channel) {
                let state = if notice.occupied { Occupancy::Occupied } else { Occupancy::Vacated };
                shell.notify(Notice { proxy, channel: notice.channel, state });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RPC: ProxyId = ProxyId(0);
    const CONNECT: ProxyId = ProxyId(1);

    fn open(proxy: ProxyId) -> Open {
        Open { generation: 0, proxy, command: 1, about: About::Rpc }
    }

    #[test]
    fn a_proxy_that_hangs_takes_no_place_from_another() {
        let mut asks = Asks::default();
        let mut ids = Vec::new();
        while !asks.is_full(RPC) {
            ids.push(asks.put(ids.len() as u32 % 16, open(RPC)));
        }
        assert_eq!(ids.len(), BACKEND_CALLS_IN_FLIGHT_MAX);
        assert!(!asks.is_full(CONNECT));
        let connect = asks.put(16, open(CONNECT));
        assert_eq!(asks.take(connect).map(|open| open.proxy), Some(CONNECT));

        assert!(asks.take(ids[1]).is_some(), "an answer makes room");
        assert!(asks.take(ids[1]).is_none(), "once");
        assert!(!asks.is_full(RPC));
        asks.put(1, open(RPC));
        assert!(asks.is_full(RPC));

        asks.forget(0);
        assert_eq!((asks.of(0), asks.of(1)), (0, 256));
        assert!(!asks.is_full(RPC), "so does a client that is gone");
        (1..16).for_each(|slot| asks.forget(slot));
        assert!(asks.is_empty() && asks.of_proxies.is_empty());
    }
}

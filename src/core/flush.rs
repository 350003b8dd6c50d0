//! The end of a turn: what was decided goes out, links first, sends in chunks.

use super::{Core, LinkMessage, Lookup, Notice, OutsideAnswer, Phase, Question};
use crate::{
    auth::Verdict,
    frame::Segment,
    hub::{ConnRef, ShardId},
    limits::bound,
    protocol::{KeyUse, Now},
};

/// Sends of one flush; after them the shell looks at ring and links before it goes on.
const SENDS_PER_FLUSH: usize = bound(256, 3);

/// Which directions of a socket a shutdown ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// We send no more: FIN.
    Write,
    /// Nothing any more, in either direction.
    Both,
}

/// What the kernel is asked to do with a connection; each ends in one input of the core.
#[derive(Clone, Copy, Debug)]
pub(super) enum Operation {
    Receive,
    Shutdown(How),
    Release,
}

/// What carries out the core's decisions: the ring and the links, or a simulation of them.
pub trait Shell {
    /// Arms the one receive of a connection. Ends in [`Core::read_ended`].
    fn receive(&mut self, conn: ConnRef);
    /// Sends bytes of a segment. Ends in [`Core::sent`].
    fn send(&mut self, conn: ConnRef, segment: Segment, from: u32, to: u32);
    /// Shuts a connection down. Ends in [`Core::shut_down`].
    fn shutdown(&mut self, conn: ConnRef, how: How);
    /// Closes a connection's descriptor. Ends in [`Core::released`].
    fn release(&mut self, conn: ConnRef);
    /// Puts a message on the link to another shard, or gives it back when the link is full.
    ///
    /// # Errors
    /// The message, when there is no room.
    fn push(&mut self, to: ShardId, message: LinkMessage) -> Result<(), LinkMessage>;
    /// Everything for the links of this flush has been pushed: wake who sleeps.
    fn links_flushed(&mut self);
    /// Has the backend asked about a device token. Ends in [`Core::outside`]; false when too many
    /// wait already.
    fn look_up(&mut self, lookup: Lookup) -> bool;
    /// Has the backend asked. Ends in [`Core::outside`]; false when too many wait already.
    fn ask(&mut self, question: Question) -> bool;
    /// Tells the backend about a channel; at any time, but in order.
    fn notify(&mut self, notice: Notice);
    /// Has keys fetched, because a token names one that is not known.
    fn fetch_keys(&mut self, of: KeyUse);
    /// Answers a thread that is no shard.
    fn answer(&mut self, id: u64, answer: OutsideAnswer);
}

/// What is left after a flush.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flush {
    /// More could go out now: flush again after a look at ring and links.
    pub more: bool,
    /// A link was full: try again soon, nobody will say when it has room.
    pub link_full: bool,
    /// When [`Core::tick`] should be called, in monotonic milliseconds.
    pub deadline_ms: Option<u64>,
}

impl Core {
    /// Carries out what the turn decided.
    pub fn flush(&mut self, now: Now, shell: &mut impl Shell) -> Flush {
        self.tell_handlers(now);
        self.calls_share(now);
        let mut link_full = self.flush_links(shell);
        self.ask_backend(now, shell);
        self.flush_asks(now, shell);
        self.flush_notices(shell);
        self.tell_lost(now);
        self.list_some(now);
        self.walk_some(now);
        self.seal_all();
        self.settle(now);
        self.close_some(now);
        link_full |= self.flush_links(shell);
        for (conn, operation) in self.operations.drain(..) {
            match operation {
                Operation::Receive => shell.receive(conn),
                Operation::Shutdown(how) => shell.shutdown(conn, how),
                Operation::Release => shell.release(conn),
            }
        }
        for (id, answer) in self.outside_answers.drain(..) {
            shell.answer(id, answer);
        }
        self.flush_sends(shell);
        Flush {
            more: !self.later.is_empty()
                || self.gathers.waits()
                || !self.handler_answers.is_empty()
                || !self.dirty.is_empty()
                || !self.operations.is_empty()
                || self.subscriptions.owes()
                || self.lists()
                || self.directs.walks()
                || self.is_closing_all(),
            link_full,
            deadline_ms: self
                .wheel
                .next_ms()
                .into_iter()
                .chain(self.leases.next_ms())
                .chain(self.home.next_ms())
                .min(),
        }
    }

    fn ask_backend(&mut self, now: Now, shell: &mut impl Shell) {
        for lookup in std::mem::take(&mut self.watch.asked) {
            let id = lookup.id;
            if !shell.look_up(lookup) {
                self.verified(now, id, Verdict::Unavailable);
            }
        }
    }

    fn flush_links(&mut self, shell: &mut impl Shell) -> bool {
        let mut full = false;
        let mut pushed = false;
        for to in 0..self.process.shards {
            if self.backlogs[to].is_empty() {
                continue;
            }
            pushed = true;
            let to = to as ShardId;
            let backlog = &mut self.backlogs[usize::from(to)];
            if !backlog.drain(to, |to, message| shell.push(to, message)) {
                full = true;
                self.counters.link_waits += 1;
            }
            self.congestion.set(to, backlog.is_full());
        }
        if pushed {
            shell.links_flushed();
        }
        full
    }

    fn flush_sends(&mut self, shell: &mut impl Shell) {
        for _ in 0..SENDS_PER_FLUSH {
            let Some(slot) = self.dirty.pop_front() else { break };
            let connection = self.slots.at(slot);
            connection.dirty = false;
            if matches!(connection.phase, Phase::Free | Phase::Aborting | Phase::Releasing) {
                continue;
            }
            if let Some(send) = connection.writer.next_send(&mut self.joined) {
                connection.operations += 1;
                self.counters.sends += 1;
                let conn = ConnRef { slot, generation: connection.generation };
                shell.send(conn, send.segment, send.from, send.to);
            }
        }
        if self.dirty.is_empty() {
            self.joined.clear();
        }
    }

    /// Puts a connection into the list of the flush.
    pub(super) fn mark(&mut self, slot: u32) {
        let connection = self.slots.at(slot);
        if !connection.dirty {
            connection.dirty = true;
            self.dirty.push_back(slot);
        }
    }

    pub(super) fn arm_receive(&mut self, conn: ConnRef) {
        let connection = self.slots.at(conn.slot);
        debug_assert!(!connection.receiving, "at most one receive per socket");
        connection.receiving = true;
        self.begin(conn, Operation::Receive);
    }

    pub(super) fn begin(&mut self, conn: ConnRef, operation: Operation) {
        self.slots.at(conn.slot).operations += 1;
        self.operations.push((conn, operation));
    }
}

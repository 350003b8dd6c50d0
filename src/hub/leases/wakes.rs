//! The wakes of one device: held, sent, confirmed; and how soon one is repeated.

use std::sync::Arc;

use super::{Caller, WakeOrder, WakeStatus};
use crate::{
    hub::ShardId,
    limits::{WAKE_REPEAT_MS, WAKE_REPEAT_MS_MAX, WAKE_REPORTED_MS, WAKES_PER_DEVICE_MAX},
    protocol::watch::{LeaseId, WakeEvent},
};

/// Who waits for the status of a wake.
pub(super) type Asker = (ShardId, Caller);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// For the next stream.
    Held,
    /// On the stream of this lease, which has not ended.
    Sent(LeaseId),
    /// The device ended the stream of this lease on it; reported until the time.
    Confirmed(LeaseId, u64),
}

#[derive(Debug)]
struct Wake {
    event: Arc<WakeEvent>,
    state: State,
    /// Not sent any more from here on.
    until_ms: u64,
    /// Not sent again before.
    not_before_ms: u64,
    sends: u32,
    /// Told when the stream's shard has queued it, or could not.
    asker: Option<Asker>,
}

impl Wake {
    fn hold(&mut self, now_ms: u64) -> bool {
        self.state = State::Held;
        self.until_ms > now_ms
    }
}

/// What became of the wake on a stream that ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Resolved {
    Confirmed,
    Held,
    Expired,
}

/// In the order in which they were asked for.
#[derive(Debug, Default)]
pub(super) struct Wakes(Vec<Wake>);

impl Wakes {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// How far the wake of this session is, if there is one.
    pub(super) fn status(&self, session: &str) -> Option<WakeStatus> {
        let named = |wake: &&Wake| wake.event.session.as_deref() == Some(session);
        self.0.iter().find(named).map(|wake| match wake.state {
            State::Held => WakeStatus::Pending,
            State::Sent(_) => WakeStatus::Sent,
            State::Confirmed(..) => WakeStatus::Confirmed,
        })
    }

    /// Takes an order; false when the device has too many.
    pub(super) fn push(&mut self, now_ms: u64, order: WakeOrder, asker: Asker) -> bool {
        if self.0.len() >= WAKES_PER_DEVICE_MAX {
            return false;
        }
        self.0.push(Wake {
            event: Arc::new(order.event),
            state: State::Held,
            until_ms: now_ms.saturating_add(order.ttl_ms),
            not_before_ms: now_ms,
            sends: 0,
            asker: Some(asker),
        });
        true
    }

    /// The next wake to be sent on the stream of `lease`, which counts as sent from here on.
    /// Orders of this instant count even without any time to live.
    pub(super) fn send(&mut self, now_ms: u64, lease: LeaseId) -> Option<Arc<WakeEvent>> {
        let due = |wake: &&mut Wake| {
            wake.state == State::Held && wake.not_before_ms <= now_ms && wake.until_ms >= now_ms
        };
        let wake = self.0.iter_mut().find(due)?;
        let pause_ms = WAKE_REPEAT_MS << wake.sends.min(16);
        wake.not_before_ms = now_ms + pause_ms.min(WAKE_REPEAT_MS_MAX);
        wake.sends += 1;
        wake.state = State::Sent(lease);
        Some(Arc::clone(&wake.event))
    }

    /// Who waits to hear that the wake on the stream of `lease` is queued.
    pub(super) fn queued(&mut self, lease: LeaseId) -> Option<Asker> {
        self.on_stream(lease)?.asker.take()
    }

    /// The stream of `lease` ended; `taken` says that the device ended it because of the wake.
    pub(super) fn stream_ended(
        &mut self,
        now_ms: u64,
        lease: LeaseId,
        taken: bool,
    ) -> Option<(Resolved, Option<Asker>)> {
        let wake = self.on_stream(lease)?;
        let asker = wake.asker.take();
        if taken {
            let until_ms = wake.until_ms.max(now_ms + WAKE_REPORTED_MS);
            wake.state = State::Confirmed(lease, until_ms);
            return Some((Resolved::Confirmed, asker));
        }
        let resolved = if wake.hold(now_ms) { Resolved::Held } else { Resolved::Expired };
        Some((resolved, asker))
    }

    /// A device that comes back with the lease of a wake did not take that wake: who does, forgets
    /// the lease. Returns whether one is to be sent again.
    pub(super) fn came_back(&mut self, now_ms: u64, lease: LeaseId) -> bool {
        let confirmed =
            |wake: &&mut Wake| matches!(wake.state, State::Confirmed(l, _) if l == lease);
        self.0.iter_mut().find(confirmed).is_some_and(|wake| wake.hold(now_ms))
    }

    /// Whoever waits with an order that was not sent at once, and whether it is held.
    pub(super) fn not_sent(&mut self, now_ms: u64) -> Option<(Asker, WakeStatus)> {
        let last = self.0.last_mut().filter(|wake| wake.state == State::Held)?;
        let asker = last.asker.take()?;
        if last.until_ms > now_ms {
            return Some((asker, WakeStatus::Pending));
        }
        self.0.pop();
        Some((asker, WakeStatus::NoWatcher))
    }

    /// Forgets what is over; returns how many were never confirmed.
    pub(super) fn expire(&mut self, now_ms: u64) -> u64 {
        let mut expired = 0;
        self.0.retain(|wake| match wake.state {
            State::Held if wake.until_ms <= now_ms => {
                expired += 1;
                false
            }
            State::Confirmed(_, until_ms) => until_ms > now_ms,
            State::Held | State::Sent(_) => true,
        });
        expired
    }

    /// When the next one is over, or may be sent if `sendable`.
    pub(super) fn next_ms(&self, sendable: bool) -> u64 {
        let next = |wake: &Wake| match wake.state {
            State::Held if sendable => wake.not_before_ms.min(wake.until_ms),
            State::Held => wake.until_ms,
            State::Sent(_) => u64::MAX,
            State::Confirmed(_, until_ms) => until_ms,
        };
        self.0.iter().map(next).min().unwrap_or(u64::MAX)
    }

    fn on_stream(&mut self, lease: LeaseId) -> Option<&mut Wake> {
        self.0.iter_mut().find(|wake| wake.state == State::Sent(lease))
    }
}

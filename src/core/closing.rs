//! The end of a connection: begun once, with a code, and over when the kernel holds nothing of it.
//!
//! Leave all channels; let out what the peer may still have; close frame; FIN; discard what
//! comes; at the deadline shut down both directions; at zero operations release the slot.

use super::{Connection, Core, Phase, Session, flush::How, flush::Operation};
use crate::{
    codes::CloseReason,
    hub::{ConnRef, ToHome},
    limits::CLOSE_TIMEOUT_MS,
    mutations::{self, Mutation},
    protocol::Now,
};

/// Bytes read and thrown away while waiting for the peer's FIN.
const DISCARDED_BYTES_MAX: u32 = 256 << 10;

/// Who wants a connection to end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Server,
    /// Its peer, with a close frame, a FIN or a reset; the code may be the peer's own.
    Peer,
}

impl Core {
    /// Begins the end of an open connection; the first reason counts, later ones do nothing.
    pub(super) fn close(&mut self, now: Now, conn: ConnRef, reason: CloseReason) {
        self.finish(now, conn, reason, None, By::Server);
    }

    /// As [`Core::close`], with a text of the backend's own.
    pub(super) fn close_saying(
        &mut self,
        now: Now,
        conn: ConnRef,
        reason: CloseReason,
        text: &str,
    ) {
        self.finish(now, conn, reason, Some(text), By::Server);
    }

    /// As [`Core::close`], for a connection that its peer has ended.
    pub(super) fn closed_by_peer(&mut self, now: Now, conn: ConnRef, reason: CloseReason) {
        self.finish(now, conn, reason, None, By::Peer);
    }

    fn finish(&mut self, now: Now, conn: ConnRef, reason: CloseReason, text: Option<&str>, by: By) {
        let Some(connection) = self.slots.get(conn) else { return };
        if !connection.is_open() {
            return;
        }
        // Something was not queued: whatever else ends it, what is behind that must not go out.
        let slow = connection.slow;
        let reason = if slow { CloseReason::SLOW } else { reason };
        let told = connection.terms(reason);
        self.subscriptions.forget_connect(conn.slot);
        self.asks.forget(conn.slot);
        self.leave_all(conn);
        let connection = self.slots.at(conn.slot);
        let text = text.filter(|_| !slow).unwrap_or(told.reason);
        let farewell = connection.farewell(told, text);
        connection.phase = Phase::Flushing;
        let connected = std::mem::take(&mut connection.connected);
        let registered = std::mem::take(&mut connection.registered);
        let user = connection.user().filter(|_| registered).cloned();
        let deadline_ms = now.monotonic_ms + CLOSE_TIMEOUT_MS;
        let closing = Session::Closing { deadline_ms };
        let session = std::mem::replace(&mut connection.session, closing);
        // A slow consumer does not get what it did not read; others get what was answered. Where
        // answers carry their command's number also what stands behind one that will not come.
        if slow {
            self.counters.slow_consumers_closed += 1;
            self.counters.slow_consumer_bytes_dropped += connection.writer.drop_waiting() as u64;
        } else if connected {
            connection.writer.drop_places();
        } else {
            connection.writer.drop_unanswered();
        }
        if let Some(farewell) = farewell {
            if !farewell.is_empty() {
                connection.writer.push_own(|out| out.extend_from_slice(&farewell));
            }
            // No peer makes it look as if the server had decided something: a code counts by itself
            // only where that is so, and then there are no more of them than reasons.
            if by == By::Peer && !slow {
                self.counters.connections_closed_by_peer += 1;
            } else {
                *self.closed.entry(told.code).or_default() += 1;
            }
            tracing::debug!(
                shard = self.shard,
                slot = conn.slot,
                code = told.code,
                reason = told.reason,
                "closing"
            );
        }
        if connected {
            self.clients -= 1;
            self.anonymous_clients -= u64::from(user.is_none());
        }
        if let Some(user) = user {
            self.to_home(self.home_of(&user), ToHome::UserLeave { user, conn });
        }
        match session {
            Session::Handler { mut plain, .. } => {
                plain.handler.closed(Connection::code_for_handler(reason, told));
            }
            Session::Watch(watch) => self.watch_over(watch),
            _ => {}
        }
        self.wheel.set(conn.slot, deadline_ms);
        self.mark(conn.slot);
        self.progress(conn);
    }

    /// Goes on with a close as far as it can.
    pub(super) fn progress(&mut self, conn: ConnRef) {
        let Some(connection) = self.slots.get(conn) else { return };
        let unused = connection.operations == 0 || mutations::is_on(Mutation::FreesSlotAtClose);
        match connection.phase {
            Phase::Flushing if connection.writer.is_idle() && !connection.input_ended => {
                connection.phase = Phase::HalfClosed;
                self.begin(conn, Operation::Shutdown(How::Write));
            }
            // The peer is through as well: closing the descriptor says all that FIN would.
            Phase::Flushing if connection.writer.is_idle() && unused => self.release(conn),
            Phase::HalfClosed if connection.input_ended && unused => self.release(conn),
            Phase::Aborting if unused => self.release(conn),
            _ => {}
        }
    }

    fn release(&mut self, conn: ConnRef) {
        self.slots.at(conn.slot).phase = Phase::Releasing;
        self.wheel.clear(conn.slot);
        self.begin(conn, Operation::Release);
    }

    /// Shuts both directions of a closing connection, so that the kernel gives everything back.
    pub(super) fn abort(&mut self, conn: ConnRef) {
        let Some(connection) = self.slots.get(conn) else { return };
        debug_assert!(!connection.is_open());
        connection.writer.drop_all();
        if matches!(connection.phase, Phase::Flushing | Phase::HalfClosed) {
            connection.phase = Phase::Aborting;
            self.begin(conn, Operation::Shutdown(How::Both));
        }
    }

    /// Throws away what the peer sends of which nothing is read any more, within a bound. An answer
    /// that is there goes out first, or who sends too much would not be told so; until then the
    /// connection's deadline is the bound.
    pub(super) fn discard(&mut self, now: Now, conn: ConnRef, bytes: usize) {
        let connection = self.slots.at(conn.slot);
        connection.discarded_bytes = connection.discarded_bytes.saturating_add(bytes as u32);
        let writer = &connection.writer;
        let answered = writer.unfilled() == 0 && !writer.is_idle();
        if connection.discarded_bytes > DISCARDED_BYTES_MAX && !answered {
            self.close(now, conn, CloseReason::BAD_REQUEST);
            self.abort(conn);
        }
    }

    /// The peer sent FIN: HTTP answers what it has read, streams end at once.
    pub(super) fn peer_finished(&mut self, now: Now, conn: ConnRef) {
        let connection = self.slots.at(conn.slot);
        if let Session::Watch(watch) = &mut connection.session {
            watch.finished_by_device(connection.writer.is_idle());
        }
        match &mut connection.session {
            Session::Http(http) if connection.writer.unfilled() > 0 => http.last = true,
            _ => self.closed_by_peer(now, conn, CloseReason::CONNECTION_CLOSED),
        }
    }
}

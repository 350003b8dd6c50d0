//! One connection: its life from accept to the last completion, and the slot that it lives in.

use super::{plain::Plain, streams::Stream, watch::Watch, writer::Writer};
use crate::{
    codec::{http, transport::Transport, websocket},
    codes::CloseReason,
    hub::{ConnRef, NO_SUBSCRIPTIONS},
    limits::{GENERATION_FIRST, bound},
    mutations::{self, Mutation},
    protocol::{Name, centrifuge},
};

/// How far a connection's life is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The slot has no tenant.
    Free,
    /// Its session reads and writes.
    Open,
    /// Closing has begun: what is in the queue still goes out, input is discarded.
    Flushing,
    /// We have said FIN and wait for the peer's, or the deadline.
    HalfClosed,
    /// Both directions are shut; the kernel gives back what it holds.
    Aborting,
    /// The kernel holds nothing; the descriptor is being closed.
    Releasing,
}

/// What reads the peer's bytes.
pub(super) enum Session {
    /// The slot is free.
    None,
    /// Nothing reads any more; closing must be over at the deadline.
    Closing { deadline_ms: u64 },
    /// HTTP requests, until one of them upgrades.
    Http(Http),
    /// The Centrifuge protocol over WebSocket.
    Centrifuge { reader: websocket::Reader, session: centrifuge::Session },
    /// The Centrifuge protocol in a response that does not end by itself.
    Stream { stream: Box<Stream>, session: centrifuge::Session },
    /// A device's watch request, or its stream.
    Watch(Watch),
    /// An embedder's handler over WebSocket.
    Handler { reader: websocket::Reader, plain: Plain },
}

impl Session {
    /// How its messages travel.
    pub(super) fn transport(&self) -> Transport {
        match self {
            Self::Stream { stream, .. } => stream.transport,
            Self::Centrifuge { session, .. } if session.is_unidirectional() => {
                Transport::UniWebsocket
            }
            Self::Centrifuge { .. } => Transport::Websocket,
            _ => Transport::Plain,
        }
    }
}

impl Session {
    /// Its session of the Centrifuge protocol, on whatever transport.
    pub(super) fn centrifuge(&mut self) -> Option<&mut centrifuge::Session> {
        match self {
            Self::Centrifuge { session, .. } | Self::Stream { session, .. } => Some(session),
            _ => None,
        }
    }
}

/// HTTP before or instead of an upgrade.
pub(super) struct Http {
    pub(super) reader: http::Reader,
    /// When the request that is being read, or the next one, must be complete.
    pub(super) deadline_ms: u64,
    /// The connection is above the limit and will be told so.
    pub(super) refused: bool,
    /// A device's agent uses it: in a drain it is told so, not cut off.
    pub(super) device: bool,
    /// No further request is read: the connection ends when the last answer is out.
    pub(super) last: bool,
}

/// The state of one slot.
pub(super) struct Connection {
    pub(super) session: Session,
    pub(super) writer: Writer,
    pub(super) generation: u32,
    pub(super) first_subscription: u32,
    pub(super) subscriptions: u32,
    /// Bytes read and thrown away while closing.
    pub(super) discarded_bytes: u32,
    pub(super) phase: Phase,
    /// Operations that the kernel has not completed; the slot is freed at 0, not before.
    pub(super) operations: u8,
    /// A receive is with the kernel; at most one ever is.
    pub(super) receiving: bool,
    /// The peer will send no more.
    pub(super) input_ended: bool,
    /// Something may be sendable: the slot stands in the list of the flush.
    pub(super) dirty: bool,
    /// Its queue was over the bound; it is closed before anything else is queued.
    pub(super) slow: bool,
    /// Subscriptions that lost their position and are about to be ended for it.
    pub(super) overruns: u16,
    /// Has a place of the connection limit; without one it is only told so.
    pub(super) admitted: bool,
    /// Told that it is connected: counts as a client.
    pub(super) connected: bool,
    /// Its user's home knows it, or will.
    pub(super) registered: bool,
}

const _: () = assert!(size_of::<Connection>() <= 192, "an idle connection costs this much");

impl Connection {
    fn free() -> Self {
        Self {
            session: Session::None,
            writer: Writer::default(),
            generation: GENERATION_FIRST,
            first_subscription: NO_SUBSCRIPTIONS,
            subscriptions: 0,
            discarded_bytes: 0,
            phase: Phase::Free,
            operations: 0,
            receiving: false,
            input_ended: false,
            dirty: false,
            slow: false,
            overruns: 0,
            admitted: false,
            connected: false,
            registered: false,
        }
    }

    /// The user, empty for an anonymous one.
    pub(super) fn user(&self) -> Option<&Name> {
        match &self.session {
            Session::Centrifuge { session, .. } | Session::Stream { session, .. } => {
                Some(session.user())
            }
            Session::Handler { plain, .. } => plain.user.as_ref(),
            _ => None,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// When the session wants to be looked at next.
    pub(super) fn deadline_ms(&self) -> u64 {
        match &self.session {
            Session::Http(http) => http.deadline_ms,
            Session::Centrifuge { session, .. } | Session::Stream { session, .. } => {
                session.deadline_ms()
            }
            Session::Watch(watch) => watch.deadline_ms(),
            Session::Closing { deadline_ms } => *deadline_ms,
            Session::Handler { plain, .. } => plain.liveness.deadline_ms(),
            Session::None => u64::MAX,
        }
    }

    /// What the peer is told for `reason`, in the terms of its protocol.
    pub(super) fn terms(&self, reason: CloseReason) -> CloseReason {
        match (&self.session, reason) {
            (Session::Handler { .. }, CloseReason::SHUTDOWN) => CloseReason::GOING_AWAY,
            (Session::Handler { .. }, CloseReason::SLOW) => CloseReason::TRY_AGAIN_LATER,
            (Session::Handler { .. }, CloseReason::INTERNAL_SERVER_ERROR) => CloseReason::INTERNAL,
            (Session::Handler { .. }, CloseReason::CONNECTION_CLOSED) => CloseReason::NORMAL,
            _ => reason,
        }
    }

    /// The code that an embedder's handler is told, where its peer is told `told` for `reason`.
    pub(super) fn code_for_handler(reason: CloseReason, told: CloseReason) -> u16 {
        match reason {
            CloseReason::CONNECTION_CLOSED => CloseReason::ABNORMAL_CODE,
            _ => told.code,
        }
    }
}

const SLOTS_PER_PAGE: usize = bound(256, 4);

/// The table of connections. Slots come in pages and never move; free ones are reused last first.
pub(super) struct Slots {
    pages: Vec<Box<[Connection]>>,
    free: Vec<u32>,
    used: usize,
}

impl Slots {
    pub(super) fn new() -> Self {
        Self { pages: Vec::new(), free: Vec::new(), used: 0 }
    }

    /// Takes a free slot; its tenant is new, its generation as the last release left it.
    pub(super) fn take(&mut self) -> ConnRef {
        if self.free.is_empty() {
            let first = (self.pages.len() * SLOTS_PER_PAGE) as u32;
            self.pages.push((0..SLOTS_PER_PAGE).map(|_| Connection::free()).collect());
            self.free.extend((first..first + SLOTS_PER_PAGE as u32).rev());
        }
        let slot = self.free.pop().expect("a page was just added");
        self.used += 1;
        let connection = self.at(slot);
        debug_assert_eq!(connection.phase, Phase::Free);
        connection.phase = Phase::Open;
        ConnRef { slot, generation: connection.generation }
    }

    /// Gives a slot back and raises its generation, so that nothing late finds the next tenant.
    pub(super) fn release(&mut self, slot: u32) {
        let connection = self.at(slot);
        debug_assert_eq!(connection.operations, 0);
        let mut generation = connection.generation.wrapping_add(1);
        if mutations::is_on(Mutation::NarrowsGenerations) {
            generation %= 4;
        }
        *connection = Connection { generation, ..Connection::free() };
        self.free.push(slot);
        self.used -= 1;
    }

    pub(super) fn at(&mut self, slot: u32) -> &mut Connection {
        &mut self.pages[slot as usize / SLOTS_PER_PAGE][slot as usize % SLOTS_PER_PAGE]
    }

    /// The tenant that `conn` names, unless it is gone.
    pub(super) fn get(&mut self, conn: ConnRef) -> Option<&mut Connection> {
        let page = self.pages.get_mut(conn.slot as usize / SLOTS_PER_PAGE)?;
        let connection = &mut page[conn.slot as usize % SLOTS_PER_PAGE];
        let known = connection.generation == conn.generation
            || mutations::is_on(Mutation::SkipsConnectionGeneration);
        (connection.phase != Phase::Free && known).then_some(connection)
    }

    /// Slots in use.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// One past the highest slot that was ever used.
    pub(super) fn end(&self) -> u32 {
        (self.pages.len() * SLOTS_PER_PAGE) as u32
    }
}

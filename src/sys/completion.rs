//! What a ring reports.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::user_data::Key;

/// A new connection that belongs to no slot yet; dropping it closes it.
#[derive(Debug)]
#[must_use]
pub struct Accepted {
    pub(super) socket: OwnedFd,
}

impl Accepted {
    /// The peer's address.
    ///
    /// # Errors
    /// `ENOTCONN` if the peer is gone already.
    pub fn peer(&self) -> io::Result<SocketAddr> {
        let address = rustix::net::getpeername(&self.socket)?;
        address.map(SocketAddr::try_from).ok_or(io::ErrorKind::NotConnected)?.map_err(Into::into)
    }
}

/// Bytes that arrived, still in their receive buffer. Return it with
/// [`super::ring::Ring::give_back`] within the turn; one that is dropped instead is lost to the
/// ring (a leak, nothing worse).
#[derive(Debug)]
#[must_use]
pub struct Received {
    pub(super) buffer: u16,
    pub(super) bytes: u32,
}

/// Why a receive ended. It is no longer armed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadEnd {
    /// The peer will send no more.
    Eof,
    /// All receive buffers were in use: give some back, then arm again. Nothing was lost.
    NoBuffers,
    /// [`super::ring::Ring::cancel_receive`] did it.
    Cancelled,
    /// The connection is broken.
    Error(Errno),
}

/// What the kernel reports.
#[derive(Debug)]
pub enum Completion {
    /// A connection arrived: [`super::ring::Ring::adopt`] or [`super::ring::Ring::reject`] it.
    Accepted(Accepted),
    /// Accepting ended: `ECANCELED` after [`super::ring::Ring::stop_accept`]; `EMFILE`, `ENFILE`,
    /// `ENOBUFS`, `ENOMEM`: arm again when something was freed; anything else concerns one
    /// connection: arm again.
    AcceptEnded(io::Error),
    /// Bytes arrived. Without `more` the receive has ended and wants to be armed again.
    Received {
        /// Whose.
        key: Key,
        /// The bytes; at least one.
        data: Received,
        /// Whether the receive is still armed.
        more: bool,
    },
    /// The receive has ended without bytes.
    ReceiveEnded {
        /// Whose.
        key: Key,
        /// Why.
        why: ReadEnd,
    },
    /// The send of this slot is done; the slot may send again.
    Sent {
        /// Whose.
        key: Key,
        /// Bytes sent, possibly fewer than asked for, or what went wrong.
        result: Result<u32, Errno>,
    },
    /// A [`super::ring::Ring::shutdown`] is done, or was needless because the connection is gone.
    ShutDown {
        /// Whose.
        key: Key,
    },
    /// A [`super::ring::Ring::close`] is done: the slot can adopt another socket.
    Closed {
        /// Whose.
        key: Key,
    },
    /// A [`super::ring::Ring::cancel_receive`] is done. The receive itself reports its end
    /// separately, before or after this.
    CancelDone {
        /// Whose.
        key: Key,
    },
    /// Another ring woke this one.
    Woken,
    /// The doorbell rang, at least once.
    Doorbell,
    /// A [`super::ring::Ring::wake`] reached nobody; the other ring is gone.
    WakeFailed(Errno),
}

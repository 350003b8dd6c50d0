//! How a thread that is no shard wakes a shard: an eventfd that the shard's ring watches.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

/// A handle that any thread may clone and ring. The shard sees
/// [`super::ring::Completion::Doorbell`].
#[derive(Clone, Debug)]
pub struct Doorbell(Arc<OwnedFd>);

impl Doorbell {
    /// A doorbell that nobody listens to yet; a ring before that is noticed when the shard starts
    /// to listen.
    ///
    /// # Errors
    /// The process has no file descriptor left.
    pub fn new() -> io::Result<Doorbell> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Doorbell(Arc::new(event)))
    }

    /// Wakes the shard. Costs one system call, so ask the shard's [`crate::shard::sleep::Sleeper`]
    /// first.
    pub fn ring(&self) {
        // The count is never read: the ring's poll is edge-triggered, every write is an edge. The
        // write could fail only at 2^64 - 1 rings.
        let written = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
        debug_assert!(written.is_ok(), "{written:?}");
    }

    pub(super) fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

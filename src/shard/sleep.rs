//! The handshake between a shard that goes to sleep and those who bring it work.
//!
//! Queues have only acquire and release order, which does not forbid that a sender reads "it does
//! not sleep" while the receiver reads "the queue is empty". So both sides put a full fence between
//! their write and their read: one of the two always sees the other. `tests/loom.rs` tries all
//! orders.
//!
//! Receiver: [`Sleeper::announce`], look at every source once more, then wait or
//! [`Sleeper::cancel`]; after waiting [`Sleeper::awake`]. Sender: push everything, then
//! [`Sleeper::claim_wake`], and wake if it says so.

use super::sync::{AtomicBool, Ordering, fence};

/// Whether one shard sleeps. Shared by the shard and everyone who brings it work.
#[derive(Debug)]
pub struct Sleeper {
    sleeping: AtomicBool,
}

impl Sleeper {
    /// A shard that is awake.
    #[must_use]
    pub fn new() -> Sleeper {
        Sleeper { sleeping: AtomicBool::new(false) }
    }

    /// The receiver is about to sleep. After this it must look at every source once more: what came
    /// before may have woken nobody, what comes later will wake it.
    pub fn announce(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The receiver found work after all. A wake may be on its way; it does no harm.
    pub fn cancel(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// Whether a sender has claimed to wake the receiver, which has not seen it yet.
    pub fn is_claimed(&self) -> bool {
        !self.sleeping.load(Ordering::Relaxed)
    }

    /// The receiver has waited, whatever ended it. `true`: no sender claimed to wake it, so what is
    /// there now came at this very moment, or a wake was lost.
    pub fn awake(&self) -> bool {
        self.sleeping.swap(false, Ordering::Relaxed)
    }

    /// Asked by a sender after it pushed all that it has for this shard: `true` means that this
    /// sender, and no other, must wake it.
    #[must_use]
    pub fn claim_wake(&self) -> bool {
        fence(Ordering::SeqCst);
        // The read alone first: while the receiver is awake its senders do not fight for the cache
        // line. Then an exchange that writes only if it wins: a late sender must not undo the next
        // announcement.
        let (relaxed, sleeping) = (Ordering::Relaxed, &self.sleeping);
        sleeping.load(relaxed) && sleeping.compare_exchange(true, false, relaxed, relaxed).is_ok()
    }
}

impl Default for Sleeper {
    fn default() -> Self {
        Self::new()
    }
}

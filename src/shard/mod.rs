//! The shell of one core: moves bytes between ring, links and core, decides nothing.

pub mod links;
pub mod sleep;

/// The atomics of the sleep handshake under one name, so that the loom test can run the same text on its own.
mod sync {
    pub(super) use std::sync::atomic::{AtomicBool, Ordering, fence};
}

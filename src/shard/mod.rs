//! The shell of one core: moves bytes between ring, links and core, decides nothing.

pub mod links;
mod ports;
pub mod sleep;
mod threads;
mod turn;

pub use ports::{Command, Mailbox, Refused};
pub use threads::Threads;
pub use turn::{Start, run};

/// The atomics of the sleep handshake under one name, so that the loom test can run the same text
/// on its own.
mod sync {
    pub(super) use std::sync::atomic::{AtomicBool, Ordering, fence};
}

//! The client of the watch protocol: a device that sleeps until somebody wants it.
//!
//! A device keeps one stream of server-sent events open. The server grants it a lease, which the
//! device keeps alive by heartbeats; when somebody wants the device, the server sends one **wake** with
//! the session to join. This module keeps the stream and the lease through network cuts and restarts
//! of either side, and returns the wakes.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use tiderace::watch::{Client, Stopped};
//!
//! let mut client = Client::builder("https://devices.example", "the device's token")
//!     .on_status(|status| println!("{status}"))
//!     .build()?;
//! let stopped = loop {
//!     match client.next_wake().await {
//!         Ok(wake) => println!("join {}", wake.url),
//!         Err(stopped) => break stopped,
//!     }
//! };
//! assert_eq!(stopped, Stopped::Unauthorized, "nobody else cancelled it");
//! # Ok(())
//! # }
//! ```
//!
//! # Any executor
//!
//! The client's sockets, timers and waits belong to a thread of its own, and to a second one that
//! sends the heartbeats while a stream is open. The future of [`Client::next_wake`] waits on a channel
//! that needs no reactor and no timer, so it runs under tokio, under glommio, under a hand-written
//! `block_on`; and [`Client::next_wake_blocking`] needs none at all. A client for one executor's
//! sockets would be bound to it, and one that is generic over sockets and timers would leave the
//! guarantees below to whoever fills them in. Two mostly sleeping threads per device are cheap where
//! this client runs: on the device. (Whoever simulates thousands of devices wants another client.)
//!
//! What blocks, blocks in one place (`signal`): a `poll` on the socket, on the signals that may end the
//! wait, and on its deadline. That is why this is not built on a blocking HTTP client (ureq 3 was looked
//! at): those limit single reads or whole bodies, and beforehand, while here the limit is the time since
//! the last comment or event and is learnt from the stream; and to take a connect or a read back from
//! another thread, one has to replace their transport anyway. What is left is `httparse` and two framings.
//!
//! # What is promised
//!
//! - The retry policy is [`policy::Policy`], a table without I/O. Neither jitter nor a floor under
//!   its immediate retries is on by itself: see [`Builder::jitter`] and [`Builder::spacing`].
//! - Heartbeats have ended, their thread joined, before a wake is returned or the server is asked
//!   again.
//! - Cancelling ([`CancelHandle::cancel`], or dropping the client) pre-empts every wait: name
//!   resolution, connecting, TLS, reading, writing, sleeping.
//! - The first complete answer 401 is the end ([`Stopped::Unauthorized`]), to whichever request.
//! - What the server sends is bounded: head and trailers of a response 16 KiB, bodies 64 KiB, events
//!   [`sse::EVENT_BYTES_MAX`] unless told otherwise.
//! - Redirections are not followed: the token is for the server that was named.

mod client;
mod connection;
mod endpoint;
pub mod heartbeat;
mod messages;
pub mod policy;
mod response;
mod signal;
pub mod sse;
mod stream;
mod worker;

use std::error::Error;
use std::fmt;
use std::time::Duration;

pub use client::{BuildError, Builder, CancelHandle, Client};
pub use endpoint::{BASE_DEFAULT, PROTOCOL_VERSION};
pub use messages::{DeviceInfo, Wake};

/// Why a client returns no more wakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// The server answered 401: it does not know this token, and asking again does not help.
    Unauthorized,
    /// Its owner wanted that.
    Cancelled,
    /// The client's thread panicked, most likely in one of the owner's callbacks.
    Panicked,
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unauthorized => "the server does not accept the device's token (401)",
            Self::Cancelled => "cancelled",
            Self::Panicked => "the watch client's thread panicked",
        })
    }
}

impl Error for Stopped {}

/// What a client is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It has no lease, and asks or waits for one.
    Connecting,
    /// It has a lease; or it lost the stream a moment ago and resumes it without delay.
    Connected,
    /// It was cancelled or refused, and closes what is open.
    ShuttingDown,
    /// Nothing of it is left.
    Shutdown,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::ShuttingDown => "shutting down",
            Self::Shutdown => "shutdown",
        })
    }
}

/// An attempt that failed or a stream that ended, before the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Why, for people.
    pub reason: String,
    /// How long until the next attempt.
    pub after: Duration,
}

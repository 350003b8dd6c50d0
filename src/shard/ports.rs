//! How threads that are no shard reach a shard: a bounded mailbox and a doorbell.

use std::{fmt, sync::Arc};

use crossbeam_channel::{Sender, TrySendError};

use super::sleep::Sleeper;
use crate::{
    core::{OutsideAnswer, OutsideCall},
    protocol::ErrorCode,
    sys::doorbell::Doorbell,
};

/// What a thread that is no shard tells one.
#[derive(Debug)]
pub enum Command {
    /// Do this; the answer, if there is one, goes to `reply`.
    Call {
        /// What.
        call: OutsideCall,
        /// Who waits, if anybody does.
        reply: Option<Sender<OutsideAnswer>>,
    },
    /// Accept no more connections and refuse publishes; told when that is so.
    Refuse(Sender<()>),
    /// Let what was acknowledged arrive; told when nothing is between the shards.
    Quiet(Sender<()>),
    /// Close all connections; told when none is left.
    CloseAll(Sender<()>),
    /// End. No other shard will use this one's links or ring any more.
    Leave,
}

/// Why a command, or a call of [`Handle`](crate::server::Handle), was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The mailbox is full: the shard is behind. Try again later.
    Busy,
    /// The shard has ended.
    Ended,
    /// The configuration does not enable what it is about.
    Disabled,
    /// What it says is out of bounds; its documentation names them.
    Invalid,
    /// The hub's answer, as a backend gets it over HTTP.
    Failed(ErrorCode),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Busy => "a shard is behind, try again later",
            Self::Ended => "the server has ended",
            Self::Disabled => "the configuration does not enable it",
            Self::Invalid => "an argument is out of bounds",
            Self::Failed(error) => error.message,
        })
    }
}

impl std::error::Error for Refused {}

/// The way into one shard from any thread.
#[derive(Clone, Debug)]
pub struct Mailbox {
    commands: Sender<Command>,
    doorbell: Doorbell,
    sleeper: Arc<Sleeper>,
}

impl Mailbox {
    /// The way to whoever receives from the other end of `commands`.
    pub fn new(commands: Sender<Command>, doorbell: Doorbell, sleeper: Arc<Sleeper>) -> Self {
        Self { commands, doorbell, sleeper }
    }

    /// Hands a command over and wakes the shard if it sleeps. Never blocks.
    ///
    /// # Errors
    /// When the mailbox is full or the shard has ended.
    pub fn send(&self, command: Command) -> Result<(), Refused> {
        self.commands.try_send(command).map_err(|error| match error {
            TrySendError::Full(_) => Refused::Busy,
            TrySendError::Disconnected(_) => Refused::Ended,
        })?;
        self.wake();
        Ok(())
    }

    /// Hands a command over, waiting for room. For the server's own end, not for publishers.
    pub fn send_waiting(&self, command: Command) {
        // The shard is gone when this fails, and nothing is left to tell it.
        let _ = self.commands.send(command);
        self.wake();
    }

    fn wake(&self) {
        if self.sleeper.claim_wake() {
            self.doorbell.ring();
        }
    }
}

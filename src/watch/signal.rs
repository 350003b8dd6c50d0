//! A flag that another thread raises, and waiting for it together with a socket and a deadline.
//!
//! Every place where the client can block waits here, so that one `raise` pre-empts them all.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

/// Shared by its clones. Raising it twice is raising it once.
///
/// It is an eventfd and nothing beside it, so there is no second state that could disagree.
#[derive(Clone, Debug)]
pub(super) struct Signal(Arc<OwnedFd>);

impl Signal {
    pub(super) fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Arc::new(event)))
    }

    pub(super) fn raise(&self) {
        // Fails only when the counter is full, and then it is raised.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    pub(super) fn is_raised(&self) -> bool {
        let mut descriptor = [PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN)];
        poll(&mut descriptor, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) == Ok(1)
    }

    /// Lowers it; whether it was raised.
    pub(super) fn take(&self) -> bool {
        rustix::io::read(&self.0, &mut [0; 8]).is_ok()
    }
}

/// What a wait ended by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waited {
    /// A signal is raised; it comes before all else.
    Raised,
    /// The socket is ready, or has failed: the next operation on it tells.
    Ready,
    TimedOut,
}

/// Until when, and for which signals, to wait.
#[derive(Clone, Debug)]
pub(super) struct Patience {
    /// `None` waits for ever.
    pub(super) deadline: Option<Instant>,
    pub(super) signals: Vec<Signal>,
}

impl Patience {
    pub(super) fn new(patience: Duration, signals: &[&Signal]) -> Self {
        Self {
            deadline: Some(Instant::now() + patience),
            signals: signals.iter().map(|&signal| signal.clone()).collect(),
        }
    }

    pub(super) fn is_raised(&self) -> bool {
        self.signals.iter().any(Signal::is_raised)
    }

    pub(super) fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }

    /// Waits without a socket.
    pub(super) fn sleep(&self) -> io::Result<Waited> {
        self.wait(None)
    }

    /// Waits until `socket` is ready for what the flags say.
    pub(super) fn wait_for(&self, socket: BorrowedFd<'_>, flags: PollFlags) -> io::Result<Waited> {
        self.wait(Some(PollFd::from_borrowed_fd(socket, flags)))
    }

    fn wait(&self, socket: Option<PollFd<'_>>) -> io::Result<Waited> {
        let mut descriptors: Vec<PollFd<'_>> = self
            .signals
            .iter()
            .map(|signal| PollFd::from_borrowed_fd(signal.0.as_fd(), PollFlags::IN))
            .collect();
        descriptors.extend(socket);
        loop {
            let left = self.deadline.map(|deadline| {
                let left = deadline.saturating_duration_since(Instant::now());
                // A time that the kernel cannot hold is one that nobody waits for.
                Timespec::try_from(left)
                    .unwrap_or(Timespec { tv_sec: i64::from(i32::MAX), tv_nsec: 0 })
            });
            match poll(&mut descriptors, left.as_ref()) {
                Ok(0) if self.is_over() => return Ok(Waited::TimedOut),
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => {
                    let mut signals = descriptors.iter().take(self.signals.len());
                    let is_raised = signals.any(|signal| !signal.revents().is_empty());
                    return Ok(if is_raised { Waited::Raised } else { Waited::Ready });
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_raised_signal_ends_every_wait_until_it_is_taken() {
        let signal = Signal::new().unwrap();
        let patience = Patience::new(LONG, &[&signal]);
        let other = signal.clone();
        let raiser = thread::spawn(move || other.raise());
        assert_eq!(patience.sleep().unwrap(), Waited::Raised);
        assert_eq!(patience.sleep().unwrap(), Waited::Raised);
        raiser.join().unwrap();
        assert!(signal.take());
        assert!(!signal.take());
        let patience = Patience::new(Duration::ZERO, &[&signal]);
        assert_eq!(patience.sleep().unwrap(), Waited::TimedOut);
    }

    #[test]
    fn a_ready_socket_ends_a_wait_unless_a_signal_is_raised() {
        let (mut one, other) = UnixStream::pair().unwrap();
        let signal = Signal::new().unwrap();
        let patience = Patience::new(LONG, &[&signal]);
        one.write_all(b"x").unwrap();
        let wait = || patience.wait_for(other.as_fd(), PollFlags::IN).unwrap();
        assert_eq!(wait(), Waited::Ready);
        signal.raise();
        assert_eq!(wait(), Waited::Raised);
    }

    #[test]
    fn without_either_it_times_out() {
        let (_one, other) = UnixStream::pair().unwrap();
        let patience = Patience::new(Duration::from_millis(1), &[]);
        let waited = patience.wait_for(other.as_fd(), PollFlags::IN).unwrap();
        assert_eq!(waited, Waited::TimedOut);
        assert!(patience.is_over());
    }
}

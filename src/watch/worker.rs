//! The client's thread: asked for a wake, it watches by the policy until there is one.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::endpoint::Endpoint;
use super::heartbeat::{HELLO_TIMEOUT, REQUEST_TIMEOUT};
use super::messages::{DeviceInfo, Wake, error_text};
use super::policy::{Action, ConnectFailure, Policy};
use super::signal::{Patience, Signal, Waited};
use super::stream::{Attempt, Dialers, Watched};
use super::{Retry, Status, Stopped};

/// What the owner may choose.
pub(super) struct Options {
    pub(super) jitter_max: Duration,
    pub(super) spacing_min: Duration,
    pub(super) event_bytes_max: usize,
    pub(super) on_status: Box<dyn FnMut(Status) + Send>,
    pub(super) on_retry: Box<dyn FnMut(&Retry) + Send>,
}

/// What the thread owns.
pub(super) struct Worker {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) dialers: Dialers,
    pub(super) options: Options,
    pub(super) cancel: Signal,
    /// Raised by the owner for every wake that it wants.
    pub(super) ask: Signal,
    /// One answer for each; closed when the client is shut down.
    pub(super) answers: async_channel::Sender<Result<Wake, Stopped>>,
    pub(super) device: Arc<OnceLock<DeviceInfo>>,
    /// Of the last wake that named one.
    pub(super) session_id: Option<String>,
    pub(super) last_attempt: Option<Instant>,
    /// The last one that was told.
    pub(super) status: Option<Status>,
}

impl Worker {
    pub(super) fn run(mut self) {
        let stopped = loop {
            match self.asked().and_then(|()| self.next_wake()) {
                // There is room: the owner asks for one at a time.
                Ok(wake) => drop(self.answers.try_send(Ok(wake))),
                Err(stopped) => break stopped,
            }
        };
        let Self { mut options, mut status, dialers, answers, .. } = self;
        tell(&mut status, Status::ShuttingDown, &mut options);
        drop(dialers);
        tell(&mut status, Status::Shutdown, &mut options);
        // Without room there is a wake that was not fetched; behind it the end shows.
        let _ = answers.try_send(Err(stopped));
    }

    /// Waits until the owner wants a wake.
    fn asked(&mut self) -> Result<(), Stopped> {
        let signals = vec![self.cancel.clone(), self.ask.clone()];
        // A failure of the wait is found again by whatever waits next.
        let _ = Patience { deadline: None, signals }.sleep();
        self.ask.take();
        if self.cancel.is_raised() { Err(Stopped::Cancelled) } else { Ok(()) }
    }

    fn next_wake(&mut self) -> Result<Wake, Stopped> {
        self.tell(Status::Connecting);
        if self.device.get().is_none() {
            self.fetch_device()?;
        }
        let mut policy = self.fresh_policy();
        loop {
            let since_last = self.last_attempt.map(|at| at.elapsed());
            self.pause(policy.spacing(since_last))?;
            self.last_attempt = Some(Instant::now());
            let (action, reason) = match self.watch(&policy) {
                Watched::Cancelled => return Err(Stopped::Cancelled),
                Watched::Wake(wake) => {
                    if wake.session_id.is_some() {
                        self.session_id.clone_from(&wake.session_id);
                    }
                    return Ok(wake);
                }
                Watched::Refused(failure, why) => {
                    (policy.connect_failed(failure, self.random()), why)
                }
                Watched::Ended(hello, exit, why) => {
                    policy.connected();
                    let random = self.random();
                    (policy.stream_ended(hello.lease, hello.interval, exit, random), why)
                }
            };
            self.act(action, reason)?;
        }
    }

    fn watch(&mut self, policy: &Policy) -> Watched {
        let Self { endpoint, dialers, options, cancel, session_id, status, .. } = self;
        let event_bytes_max = options.event_bytes_max;
        let hello_timeout = HELLO_TIMEOUT;
        let attempt = Attempt { endpoint, dialers, cancel, event_bytes_max, hello_timeout };
        attempt.run(session_id.as_deref(), policy.previous_lease(), || {
            tell(status, Status::Connected, options);
        })
    }

    /// Which device this is: without it nothing is watched.
    fn fetch_device(&mut self) -> Result<(), Stopped> {
        let mut policy = self.fresh_policy();
        let request = self.endpoint.device_info();
        loop {
            let patience = Patience::new(REQUEST_TIMEOUT, &[&self.cancel]);
            let (failure, reason) = match self.dialers.control.ask(&request, &patience) {
                Ok(answer) if answer.head.status == 200 => {
                    match serde_json::from_slice(&answer.body) {
                        Ok(device) => {
                            // Nobody else sets it.
                            let _ = self.device.set(device);
                            return Ok(());
                        }
                        Err(error) => {
                            (ConnectFailure::Other, format!("malformed device info: {error}"))
                        }
                    }
                }
                Ok(answer) => {
                    let status = answer.head.status;
                    let failure = match status {
                        401 => ConnectFailure::Unauthorized,
                        _ => ConnectFailure::Other,
                    };
                    let text = error_text(&answer.body);
                    (failure, format!("the server answered {status} for device info{text}"))
                }
                Err(_) if self.cancel.is_raised() => return Err(Stopped::Cancelled),
                Err(fault) => (ConnectFailure::Other, format!("no device info: {fault}")),
            };
            let action = policy.connect_failed(failure, self.random());
            self.act(action, reason)?;
        }
    }

    /// Does what the policy says, as far as the next attempt.
    fn act(&mut self, action: Action, reason: String) -> Result<(), Stopped> {
        let after = match action {
            Action::Stop(stopped) => return Err(stopped),
            Action::Reconnect(after) => after,
            Action::Backoff(after) => {
                self.tell(Status::Connecting);
                after
            }
        };
        (self.options.on_retry)(&Retry { reason, after });
        self.pause(after)
    }

    fn pause(&self, duration: Duration) -> Result<(), Stopped> {
        match Patience::new(duration, &[&self.cancel]).sleep() {
            Ok(Waited::Raised) => Err(Stopped::Cancelled),
            _ => Ok(()),
        }
    }

    fn fresh_policy(&self) -> Policy {
        Policy::new(self.options.jitter_max, self.options.spacing_min)
    }

    /// Places the jitter; without any, no number is needed.
    fn random(&self) -> u64 {
        let mut bytes = [0; 8];
        if self.options.jitter_max > Duration::ZERO {
            // Without random numbers the jitter is none, which is no harm.
            let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
        }
        u64::from_ne_bytes(bytes)
    }

    fn tell(&mut self, status: Status) {
        tell(&mut self.status, status, &mut self.options);
    }
}

/// Tells the owner of a status that differs from the last one.
fn tell(last: &mut Option<Status>, status: Status, options: &mut Options) {
    if last.replace(status) != Some(status) {
        (options.on_status)(status);
    }
}

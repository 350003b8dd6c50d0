//! Tells the backend which channels are occupied and vacated, on threads of its own.
//!
//! A channel belongs to one lane, by its hash; a lane is one thread with one request at a time, so
//! the notices of a channel arrive in order. What waits, is taken back, sent again or dropped is
//! [`crate::proxy::notices`]'s.

use std::{
    hash::Hasher,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use siphasher::sip::SipHasher13;

use super::endpoint::{self, Endpoint, Proxy, Trust};
use crate::{
    protocol::Name,
    proxy::notices::{Notice, Notices, Occupancy, WAITING_MAX},
};

/// Threads of one notifier.
const LANES: usize = 4;
/// Notices on their way to one lane: what may come while one request lasts.
const ON_THE_WAY_MAX: usize = WAITING_MAX;
/// How long a lane that has nothing to do waits for something.
const IDLE: Duration = Duration::from_secs(3600);

/// The way to the lanes, for shards. They end when the last one is dropped, with what waits.
#[derive(Clone, Debug)]
pub struct Notifier {
    lanes: Arc<[Sender<Notice>]>,
    dropped: Arc<AtomicU64>,
}

impl Notifier {
    /// Starts the lanes.
    ///
    /// # Errors
    /// What is wrong with the proxy, or that the system has no threads left.
    pub fn start(proxy: &Proxy, trust: &Trust, vacated_delay: Duration) -> io::Result<Self> {
        let agent = endpoint::agent(std::slice::from_ref(proxy), trust, LANES);
        let endpoint = agent.and_then(|agent| Endpoint::new(proxy, &agent));
        let endpoint = Arc::new(endpoint.map_err(io::Error::other)?);
        let dropped = Arc::new(AtomicU64::new(0));
        let mut lanes = Vec::with_capacity(LANES);
        for number in 0..LANES {
            let (sender, arriving) = unbounded();
            let lane = Lane {
                endpoint: Arc::clone(&endpoint),
                arriving,
                notices: Notices::new(vacated_delay),
                dropped: Arc::clone(&dropped),
                epoch: Instant::now(),
            };
            std::thread::Builder::new()
                .name(format!("notices-{number}"))
                .spawn(move || lane.work())?;
            lanes.push(sender);
        }
        Ok(Self { lanes: lanes.into(), dropped })
    }

    /// A channel changed just now. Of one channel this is called in order, by its home. Never
    /// blocks; a notice for which there is no room is counted as dropped.
    pub fn tell(&self, channel: Name, state: Occupancy) {
        let time_unix_ms = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_millis() as u64);
        // Keys do not matter: who chose names to fill one lane would be late in that one alone.
        let mut hasher = SipHasher13::new();
        hasher.write(channel.as_bytes());
        let lane = &self.lanes[hasher.finish() as usize % self.lanes.len()];
        let notice = Notice { channel, state, time_unix_ms };
        // A bounded queue would take all its memory at once.
        if lane.len() >= ON_THE_WAY_MAX || lane.send(notice).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notices dropped since the start: given up after their last attempt, or for want of room.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// One thread.
struct Lane {
    endpoint: Arc<Endpoint>,
    arriving: Receiver<Notice>,
    notices: Notices,
    dropped: Arc<AtomicU64>,
    epoch: Instant,
}

impl Lane {
    fn now_ms(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64
    }

    /// Until nobody can tell anything any more.
    fn work(mut self) {
        while self.take() {
            let now_ms = self.now_ms();
            let Some(batch) = self.notices.due(now_ms) else { continue };
            match self.endpoint.notify(batch) {
                Ok(()) => self.notices.confirmed(),
                Err((_, error)) => {
                    let now_ms = self.now_ms();
                    let given_up = self.notices.failed(now_ms);
                    let proxy = self.endpoint.name.as_str();
                    tracing::warn!(proxy, %error, given_up, "the backend did not take notices");
                }
            }
            let dropped = self.notices.take_dropped();
            self.dropped.fetch_add(dropped, Ordering::Relaxed);
        }
    }

    /// Waits until something comes or is due, and takes what came; false at the end.
    fn take(&mut self) -> bool {
        let now_ms = self.now_ms();
        let wait = match self.notices.next_ms() {
            Some(due_ms) => Duration::from_millis(due_ms.saturating_sub(now_ms)),
            None => IDLE,
        };
        match self.arriving.recv_timeout(wait) {
            Ok(notice) => {
                let now_ms = self.now_ms();
                self.notices.changed(now_ms, notice);
                // One request's worth, so that a stream of them does not put off what is due.
                for notice in self.arriving.try_iter().take(ON_THE_WAY_MAX) {
                    self.notices.changed(now_ms, notice);
                }
                true
            }
            Err(RecvTimeoutError::Timeout) => true,
            Err(RecvTimeoutError::Disconnected) => false,
        }
    }
}

//! The turn: take what is there, let the core decide, carry it out, sleep when nothing is left.
//!
//! A shard sleeps in its own ring, so everything that can wake it arrives there: completions of
//! its sockets, MSG_RING from other shards, the doorbell of other threads, and the timeout.

use std::{
    net::{Shutdown, TcpListener},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use crossbeam_channel::{Receiver, Sender};
use rustix::io::Errno;

use super::{Threads, links::Ports, ports::Command, sleep::Sleeper};
use crate::{
    core::{
        Core, Flush, How, LinkMessage, Lookup, Notice, OutsideAnswer, Process, Question, ReadEnd,
        Shell,
    },
    frame::Segment,
    hub::{ConnRef, ShardId},
    limits::SLEEP_MS_MAX,
    protocol::{KeyUse, Now},
    sys::{
        doorbell::Doorbell,
        ring::{self, Completion, Key, Ring, RingAddress, Sizes},
    },
};

/// Looks at the ring for new completions before a turn goes on to the links.
const DRAINS_PER_TURN: usize = 64;
/// Commands of other threads taken in one turn.
const COMMANDS_PER_TURN: usize = 1_024;
/// Messages taken from one link in one turn: what the ring of a link holds.
const LINK_MESSAGES_PER_TURN: usize = crate::limits::LINK_ENTRIES;
/// Pause before accepting is tried again when descriptors ran out.
const ACCEPT_RETRY_MS: u64 = 100;
/// How long a shard that slept to the end waits for the claim of whoever brought it something.
const CLAIM_TIME: Duration = Duration::from_millis(100);

/// Everything that a shard starts with.
pub struct Start {
    /// Its number.
    pub shard: ShardId,
    /// What all shards share.
    pub process: Arc<Process>,
    /// Seed of its random generator.
    pub seed: [u8; 32],
    /// The size of its ring.
    pub sizes: Sizes,
    /// Its listening socket.
    pub listener: TcpListener,
    /// Its ends of all links.
    pub ports: Ports<LinkMessage>,
    /// Everybody's sleep states, by shard.
    pub sleepers: Vec<Arc<Sleeper>>,
    /// Everybody's rings, by shard, filled in before anybody is told to go.
    pub rings: Arc<Vec<OnceLock<RingAddress>>>,
    /// Says that all shards have their ring; disconnected when one has none.
    pub go: Receiver<()>,
    /// What other threads say.
    pub commands: Receiver<Command>,
    /// What wakes the shard when they say it.
    pub doorbell: Doorbell,
    /// What it may have done outside.
    pub threads: Threads,
    /// Turns made, for the watchdog.
    pub turns: Arc<AtomicU64>,
    /// The start of the process's monotonic time.
    pub epoch: Instant,
    /// Told when the shard has its ring, or why it has none.
    pub ready: Sender<std::io::Result<()>>,
}

/// Runs a shard until it is told to leave. To be called inside its glommio executor.
pub async fn run(start: Start) {
    let mut ring = match Ring::new(start.sizes) {
        Ok(ring) => ring,
        Err(error) => {
            // Whoever started this has given up when nobody listens.
            let _ = start.ready.send(Err(error));
            return;
        }
    };
    let own = &start.rings[usize::from(start.shard)];
    own.set(ring.address()).expect("a shard has one ring");
    let _ = start.ready.send(Ok(()));
    if start.go.recv().is_err() {
        return;
    }
    ring.listen_doorbell(&start.doorbell);
    ring.listen(start.listener);
    let now = now(start.epoch);
    let mut shard = Shard {
        core: Core::new(start.shard, start.process, start.seed, now),
        shell: RingShell {
            ring,
            ports: start.ports,
            sleepers: start.sleepers,
            rings: start.rings,
            pushed: Vec::new(),
            answers: Answers::default(),
            shard: start.shard,
            threads: start.threads,
            wakes: 0,
        },
        own: usize::from(start.shard),
        commands: start.commands,
        turns: start.turns,
        epoch: start.epoch,
        accept_retry_ms: None,
        refusing: None,
        quiet: None,
        emptied: None,
        accepting: true,
        leave: false,
    };
    shard.turns().await;
}

fn now(epoch: Instant) -> Now {
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Now { monotonic_ms: epoch.elapsed().as_millis() as u64, unix_s: unix.as_secs() }
}

struct Shard {
    core: Core,
    shell: RingShell,
    own: usize,
    commands: Receiver<Command>,
    turns: Arc<AtomicU64>,
    epoch: Instant,
    /// When to try accepting again after descriptors ran out.
    accept_retry_ms: Option<u64>,
    refusing: Option<Sender<()>>,
    quiet: Option<Sender<()>>,
    emptied: Option<Sender<()>>,
    accepting: bool,
    leave: bool,
}

impl Shard {
    async fn turns(&mut self) {
        while !self.leave {
            let now = now(self.epoch);
            self.turns.fetch_add(1, Ordering::Relaxed);
            self.retry_accept(now);
            self.take_completions(now);
            let links_left = self.take_links(now);
            let commands_left = self.take_commands(now);
            let due_left = self.core.tick(now);
            let flush = self.core.flush(now, &mut self.shell);
            self.report();
            glommio::executor().yield_task_queue_now().await;
            if flush.more || links_left || commands_left || due_left {
                self.enter(Ring::reap);
            } else if !self.leave {
                self.sleep(now, &flush);
            }
        }
    }

    /// A wait hands over only some of the completions that are there: ask again until nothing new
    /// comes, or a burst would go out in many small sends.
    fn take_completions(&mut self, now: Now) {
        for _ in 0..DRAINS_PER_TURN {
            while let Some(completion) = self.shell.ring.next() {
                self.complete(now, completion);
            }
            if !self.shell.ring.has_more() {
                return;
            }
            self.enter(Ring::reap);
        }
    }

    fn complete(&mut self, now: Now, completion: Completion) {
        match completion {
            Completion::Accepted(socket) => match self.core.accepted(now) {
                Some(conn) => self.shell.ring.adopt(key(conn), socket),
                None => self.shell.ring.reject(socket),
            },
            Completion::AcceptEnded(error) => self.accept_ended(now, &error),
            Completion::Received { key, data, more } => {
                let conn = conn(key);
                self.core.received(now, conn, self.shell.ring.bytes_mut(&data));
                self.shell.ring.give_back(data);
                if !more {
                    self.core.read_ended(now, conn, ReadEnd::Again);
                }
            }
            Completion::ReceiveEnded { key, why } => {
                let end = match why {
                    ring::ReadEnd::Eof => ReadEnd::Eof,
                    ring::ReadEnd::NoBuffers => ReadEnd::Again,
                    ring::ReadEnd::Cancelled | ring::ReadEnd::Error(_) => ReadEnd::Failed,
                };
                self.core.read_ended(now, conn(key), end);
            }
            Completion::Sent { key, result } => {
                self.core.sent(now, conn(key), result.map_err(Errno::raw_os_error));
            }
            Completion::ShutDown { key } => self.core.shut_down(now, conn(key)),
            Completion::Closed { key } => self.core.released(conn(key)),
            Completion::Woken | Completion::Doorbell | Completion::CancelDone { .. } => {}
            Completion::WakeFailed(errno) => {
                tracing::error!(%errno, "another shard's ring is gone");
            }
        }
    }

    fn accept_ended(&mut self, now: Now, error: &std::io::Error) {
        let errno = error.raw_os_error().map(Errno::from_raw_os_error);
        match errno {
            // Whatever ended it: it must not begin again.
            _ if self.refusing.is_some() => self.stop_listening(),
            Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                self.accept_retry_ms = Some(now.monotonic_ms + ACCEPT_RETRY_MS);
                tracing::warn!(%error, "accepting pauses; raise the limit of open files (nofile)");
            }
            _ => self.shell.ring.rearm_accept(),
        }
    }

    /// Nobody is accepted any more: the port is free for the next server.
    fn stop_listening(&mut self) {
        self.shell.ring.close_listener();
        self.accepting = false;
    }

    /// Accepts again when the pause is over, also on a shard that never sleeps.
    fn retry_accept(&mut self, now: Now) {
        if self.accept_retry_ms.is_some_and(|retry_ms| retry_ms <= now.monotonic_ms) {
            self.accept_retry_ms = None;
            self.shell.ring.rearm_accept();
        }
    }

    fn take_links(&mut self, now: Now) -> bool {
        let mut left = false;
        for from in (0..self.shell.ports.shards()).filter(|&from| from != self.own) {
            for taken in 0.. {
                if taken == LINK_MESSAGES_PER_TURN {
                    left = true;
                    break;
                }
                let Some(message) = self.shell.ports.take(from) else { break };
                self.core.link(now, from as ShardId, message);
            }
        }
        left
    }

    fn take_commands(&mut self, now: Now) -> bool {
        for _ in 0..COMMANDS_PER_TURN {
            let Ok(command) = self.commands.try_recv() else { return false };
            match command {
                Command::Call { call, reply } => {
                    let id = reply.map_or(0, |reply| self.shell.answers.expect(reply));
                    self.core.outside(now, id, call);
                }
                Command::Refuse(done) => {
                    self.core.drain_begin();
                    self.shell.ring.stop_accept();
                    self.refusing = Some(done);
                    // In a pause there is nothing to stop, and no end of it will be reported.
                    if self.accept_retry_ms.take().is_some() {
                        self.stop_listening();
                    }
                }
                Command::Quiet(done) => {
                    self.core.drain_mark();
                    self.quiet = Some(done);
                }
                Command::CloseAll(done) => {
                    self.core.drain_close();
                    self.emptied = Some(done);
                }
                Command::Leave => self.leave = true,
            }
        }
        true
    }

    /// Tells who drains the server how far this shard is.
    fn report(&mut self) {
        // Who asked is gone when a send fails: the deadline of the drain has passed.
        if !self.accepting
            && let Some(done) = &self.refusing
        {
            let _ = done.try_send(());
        }
        if self.core.drain_is_quiet()
            && let Some(done) = self.quiet.take()
        {
            let _ = done.try_send(());
        }
        if self.emptied.is_some() && self.core.counts().connections == 0 {
            let _ = self.emptied.take().map(|done| done.try_send(()));
        }
    }

    fn sleep(&mut self, now: Now, flush: &Flush) {
        let sleeper = Arc::clone(&self.shell.sleepers[self.own]);
        sleeper.announce();
        if !self.shell.ports.all_empty() || !self.commands.is_empty() {
            sleeper.cancel();
            self.enter(Ring::reap);
            return;
        }
        let until = |deadline_ms: u64| deadline_ms.saturating_sub(now.monotonic_ms);
        let mut wait_ms = flush.deadline_ms.map_or(SLEEP_MS_MAX, until).min(SLEEP_MS_MAX);
        if flush.link_full {
            wait_ms = wait_ms.min(1);
        }
        if let Some(retry_ms) = self.accept_retry_ms {
            wait_ms = wait_ms.min(until(retry_ms));
        }
        let timeout = Duration::from_millis(wait_ms);
        self.enter(|ring| ring.wait(timeout));
        let late = wait_ms == SLEEP_MS_MAX
            && !self.shell.ports.all_empty()
            && self.epoch.elapsed().as_millis() as u64 >= now.monotonic_ms + SLEEP_MS_MAX;
        if late && !sleeper.is_claimed() {
            // Where shards wait for a CPU, a sender may stand between its push and its claim.
            self.enter(|ring| ring.wait(CLAIM_TIME));
        }
        let missed = sleeper.awake() && late;
        let counters = self.core.counters();
        counters.sleeps += 1;
        counters.sleeps_missed_work += u64::from(missed);
        counters.wakes_sent = self.shell.wakes;
        counters.ring_enters = self.shell.ring.syscalls();
        counters.ring_overflows = self.shell.ring.completion_overflows();
    }

    /// What the kernel refuses here no retry would cure: the shard cannot go on, nor the others
    /// without it.
    fn enter(&mut self, enter: impl FnOnce(&mut Ring) -> std::io::Result<()>) {
        if let Err(error) = enter(&mut self.shell.ring) {
            eprintln!("tiderace: shard {}: io_uring failed: {error}; aborting", self.own);
            std::process::abort();
        }
    }
}

/// The core's hands: the ring, the links, and the answers to other threads.
struct RingShell {
    ring: Ring,
    ports: Ports<LinkMessage>,
    sleepers: Vec<Arc<Sleeper>>,
    rings: Arc<Vec<OnceLock<RingAddress>>>,
    /// Shards that got something since their last wake.
    pushed: Vec<ShardId>,
    answers: Answers,
    shard: ShardId,
    threads: Threads,
    wakes: u64,
}

impl Shell for RingShell {
    fn receive(&mut self, conn: ConnRef) {
        self.ring.receive(key(conn));
    }

    fn send(&mut self, conn: ConnRef, segment: Segment, from: u32, to: u32) {
        self.ring.send(key(conn), segment, from, to);
    }

    fn shutdown(&mut self, conn: ConnRef, how: How) {
        let how = match how {
            How::Write => Shutdown::Write,
            How::Both => Shutdown::Both,
        };
        self.ring.shutdown(key(conn), how);
    }

    fn release(&mut self, conn: ConnRef) {
        self.ring.close(key(conn));
    }

    fn push(&mut self, to: ShardId, message: LinkMessage) -> Result<(), LinkMessage> {
        self.ports.push(usize::from(to), message)?;
        if self.pushed.last() != Some(&to) {
            self.pushed.push(to);
        }
        Ok(())
    }

    fn links_flushed(&mut self) {
        let mut woke = false;
        for to in self.pushed.drain(..) {
            if self.sleepers[usize::from(to)].claim_wake() {
                let ring = self.rings[usize::from(to)].get().expect("all rings are made");
                self.ring.wake(*ring);
                self.wakes += 1;
                woke = true;
            }
        }
        if woke {
            // Ahead of all sends. An error shows again at the end of the turn.
            let _ = self.ring.submit();
        }
    }

    fn look_up(&mut self, lookup: Lookup) -> bool {
        self.threads.look_up(self.shard, lookup)
    }

    fn ask(&mut self, question: Question) -> bool {
        self.threads.ask(self.shard, question)
    }

    fn notify(&mut self, notice: Notice) {
        self.threads.notify(notice);
    }

    fn fetch_keys(&mut self, of: KeyUse) {
        self.threads.fetch_keys(of);
    }

    fn answer(&mut self, id: u64, answer: OutsideAnswer) {
        self.answers.give(id, answer);
    }
}

/// Who waits for the answers to calls of other threads.
#[derive(Default)]
struct Answers {
    waiting: std::collections::HashMap<u64, Sender<OutsideAnswer>>,
    next: u64,
}

impl Answers {
    fn expect(&mut self, reply: Sender<OutsideAnswer>) -> u64 {
        self.next += 1;
        self.waiting.insert(self.next, reply);
        self.next
    }

    fn give(&mut self, id: u64, answer: OutsideAnswer) {
        if let Some(reply) = self.waiting.remove(&id) {
            // Never blocks: the asker left room for its one answer, or is gone.
            let _ = reply.try_send(answer);
        }
    }
}

fn key(conn: ConnRef) -> Key {
    Key { slot: conn.slot, generation: conn.generation }
}

fn conn(key: Key) -> ConnRef {
    ConnRef { slot: key.slot, generation: key.generation }
}

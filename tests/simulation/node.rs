//! A process without its threads: cores on fake kernels and fake links, and the one loop of turns.

use std::sync::Arc;

use tiderace::{
    auth::Terms,
    core::{
        Core, How, LinkMessage, Lookup, Notice, OutsideAnswer, OutsideCall, Process, Question,
        Shell,
    },
    frame::Segment,
    hub::{ConnRef, ShardId},
    protocol::{KeyUse, Now},
    proxy::{BackendAnswer, Failure, answers::Refusal, calls::BackendCall},
};

use super::{
    expiry,
    faults::Mutation,
    kernel::{Completion, Kernel},
    links::Links,
    random::Random,
};

/// The error with which the backend refuses what it does not want.
pub const DENIED: u16 = 403;

/// Who looks at a node while it works, and is everybody outside it.
pub trait Observer {
    /// A core has taken one input.
    fn input(&mut self, _: &mut Node) {}
    /// A core is about to take what came over a link.
    fn comes(&mut self, _: &Node, _shard: usize, _: &LinkMessage) {}
    /// A core has carried out what it decided.
    fn flushed(&mut self, _: &mut Node, _shard: usize) {}
    /// Bytes reached a client.
    fn heard(&mut self, node: &mut Node, client: usize, bytes: &[u8]);
    /// A client that reads is at the end of what the server will ever send it.
    fn finished(&mut self, node: &mut Node, client: usize);
    /// The descriptor of a connection is closed.
    fn released(&mut self, shard: usize, conn: ConnRef);
    /// A thread that is no shard is answered.
    fn answered(&mut self, id: u64, answer: OutsideAnswer);
}

/// The cores' hands: what the ring and the real links are in a process.
struct Hands<'a> {
    shard: usize,
    kernel: &'a mut Kernel,
    links: &'a mut Links,
    answers: &'a mut Vec<(u64, OutsideAnswer)>,
    asked: &'a mut Vec<Question>,
}

impl Shell for Hands<'_> {
    fn receive(&mut self, conn: ConnRef) {
        self.kernel.receive(conn);
    }

    fn send(&mut self, conn: ConnRef, segment: Segment, from: u32, to: u32) {
        self.kernel.send(conn, segment, from, to);
    }

    fn shutdown(&mut self, conn: ConnRef, how: How) {
        self.kernel.shutdown(conn, how);
    }

    fn release(&mut self, conn: ConnRef) {
        self.kernel.release(conn);
    }

    fn push(&mut self, to: ShardId, message: LinkMessage) -> Result<(), LinkMessage> {
        self.links.push(self.shard, usize::from(to), message)
    }

    fn look_up(&mut self, _: Lookup) -> bool {
        false
    }

    /// Some find the backend busy.
    fn ask(&mut self, question: Question) -> bool {
        let is_busy = question.id.is_multiple_of(17);
        if !is_busy {
            self.asked.push(question);
        }
        !is_busy
    }

    fn notify(&mut self, notice: Notice) {
        panic!("nobody wants to know of channels: {notice:?}");
    }

    fn fetch_keys(&mut self, of: KeyUse) {
        panic!("there are no key sets: {of:?}");
    }

    fn links_flushed(&mut self) {}

    fn answer(&mut self, id: u64, answer: OutsideAnswer) {
        self.answers.push((id, answer));
    }
}

/// All shards of a process, and what is between them and below them.
pub struct Node {
    pub random: Random,
    pub now: Now,
    pub process: Arc<Process>,
    pub cores: Vec<Core>,
    pub kernels: Vec<Kernel>,
    pub links: Links,
    /// What each shard has asked the backend, in no order.
    pub asked: Vec<Vec<Question>>,
    /// The backend answers nothing any more.
    pub unanswered: bool,
    /// What it grants may end.
    pub expiring: bool,
    /// When each shard wants to be called at the latest, in monotonic milliseconds.
    pub deadlines: Vec<Option<u64>>,
    /// What happened so far, to see that something did.
    pub events: u64,
    /// All bytes that clients got, in order: equal for equal seeds.
    pub trace: u64,
}

impl Node {
    pub fn new(
        process: Arc<Process>,
        now: Now,
        link_capacity: usize,
        mutation: Option<Mutation>,
        random: Random,
    ) -> Self {
        let shards = process.shards;
        let core = |shard: usize| {
            Core::new(shard as ShardId, Arc::clone(&process), [shard as u8; 32], now)
        };
        Self {
            now,
            cores: (0..shards).map(core).collect(),
            kernels: (0..shards).map(|_| Kernel::new(mutation)).collect(),
            links: Links::new(shards, link_capacity, mutation, random.clone()),
            asked: (0..shards).map(|_| Vec::new()).collect(),
            unanswered: false,
            expiring: false,
            deadlines: vec![None; shards],
            events: 0,
            trace: 0,
            process,
            random,
        }
    }

    pub fn shards(&self) -> usize {
        self.cores.len()
    }

    /// The shard that is the home of a channel, user or device.
    pub fn home(&self, name: &str) -> usize {
        usize::from(self.process.key.home(name, self.shards()))
    }

    /// One turn of a shard: some of what is there for it, or all; then a flush. Wherever the real
    /// turn has a bound, this one may stop as well.
    pub fn turn(&mut self, shard: usize, all: bool, observer: &mut impl Observer) {
        let now = self.now;
        let completions = if all { usize::MAX } else { self.random.below(8) };
        for _ in 0..completions {
            let Some(done) = self.kernels[shard].complete(&mut self.random) else { break };
            self.events += 1;
            self.complete(shard, done, observer);
            observer.input(self);
        }
        let shards = self.shards();
        let first = self.random.below(shards);
        for from in (0..shards).map(|at| (first + at) % shards) {
            let messages = if all { usize::MAX } else { self.random.below(5) };
            for _ in 0..messages {
                let Some(message) = self.links.take(from, shard) else { break };
                self.events += 1;
                observer.comes(self, shard, &message);
                self.cores[shard].link(now, from as ShardId, message);
                observer.input(self);
            }
        }
        self.backend_answers(shard, all, observer);
        while self.cores[shard].tick(now) && (all || self.random.chance(50)) {}
        observer.input(self);
        self.flush(shard, all, observer);
    }

    fn complete(&mut self, shard: usize, completion: Completion, observer: &mut impl Observer) {
        let (now, core) = (self.now, &mut self.cores[shard]);
        match completion {
            Completion::Received { conn, mut bytes, end } => {
                core.received(now, conn, &mut bytes);
                // The buffer is somebody else's from here on: nothing may have kept it.
                bytes.fill(0xdd);
                if let Some(end) = end {
                    core.read_ended(now, conn, end);
                }
            }
            Completion::ReadEnded(conn, end) => core.read_ended(now, conn, end),
            Completion::Sent(conn, result) => core.sent(now, conn, result),
            Completion::ShutDown(conn) => core.shut_down(now, conn),
            Completion::Released(conn) => {
                core.released(conn);
                observer.released(shard, conn);
            }
        }
    }

    /// The backend answers some of what it was asked, or fails to, in any order.
    fn backend_answers(&mut self, shard: usize, all: bool, observer: &mut impl Observer) {
        let answers = if all { usize::MAX } else { self.random.below(3) };
        for _ in 0..answers {
            let asked = self.asked[shard].len();
            if asked == 0 || self.unanswered {
                return;
            }
            let at = self.random.below(asked);
            let Question { id, call, .. } = self.asked[shard].swap_remove(at);
            let answer = match call {
                _ if self.random.chance(20) => BackendAnswer::Failed(Failure::Timeout),
                BackendCall::Connect { .. } => BackendAnswer::Connect(None),
                BackendCall::Rpc { data, .. } => BackendAnswer::Rpc(data),
                BackendCall::Subscribe { .. } | BackendCall::Publish { .. }
                    if self.random.chance(10) =>
                {
                    let refusal = Refusal::error(DENIED.into(), "no", false);
                    BackendAnswer::Refused(refusal.expect("a backend may say so"))
                }
                BackendCall::Subscribe { .. } => BackendAnswer::Subscribe(self.terms()),
                BackendCall::Publish { .. } => BackendAnswer::Publish(Box::default()),
                other => panic!("nobody asks for {other:?}"),
            };
            self.events += 1;
            self.cores[shard].outside(self.now, 0, OutsideCall::Answered { id, answer });
            observer.input(self);
        }
    }

    /// On what terms a backend lets somebody into a channel: perhaps until some time, of which the
    /// client is told by the data that comes with it.
    pub fn terms(&mut self) -> Box<Terms> {
        let mut terms = Box::<Terms>::default();
        if self.expiring && self.random.chance(40) {
            terms.expire_at_unix_s = expiry::moment(self.now.unix_s, &mut self.random);
            terms.data = Some(terms.expire_at_unix_s.to_string().into());
        }
        terms
    }

    fn flush(&mut self, shard: usize, all: bool, observer: &mut impl Observer) {
        let mut answers = Vec::new();
        loop {
            let kernel = &mut self.kernels[shard];
            let (links, asked) = (&mut self.links, &mut self.asked[shard]);
            let hands = &mut Hands { shard, kernel, links, answers: &mut answers, asked };
            let flush = self.cores[shard].flush(self.now, hands);
            self.deadlines[shard] = flush.deadline_ms;
            for (id, answer) in answers.drain(..) {
                observer.answered(id, answer);
            }
            observer.flushed(self, shard);
            if !flush.more || !all && self.random.chance(50) {
                return;
            }
        }
    }

    /// Bytes of sends reach the clients of a shard, which read them at once.
    pub fn carry(&mut self, shard: usize, observer: &mut impl Observer) {
        let slots: Vec<u32> = self.kernels[shard].sockets.keys().copied().collect();
        for slot in slots {
            while let Some(bytes) = self.kernels[shard].carry(slot, &mut self.random) {
                self.events += 1;
                for byte in &bytes {
                    self.trace = (self.trace ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
                }
                let client = self.kernels[shard].sockets[&slot].client;
                observer.heard(self, client, &bytes);
                if self.kernels[shard].hostile && self.random.chance(50) {
                    break;
                }
            }
            let Some(socket) = self.kernels[shard].sockets.get(&slot) else { continue };
            if socket.server_fin && !socket.stalled && !socket.client_reset {
                let client = socket.client;
                observer.finished(self, client);
            }
        }
    }

    /// Lets time pass up to the millisecond in which the next deadline comes, if it comes soon.
    pub fn until_next_deadline(&mut self) {
        let soon = self.now.monotonic_ms..self.now.monotonic_ms + 60_000;
        let next = self.deadlines.iter().flatten().min().filter(|next| soon.contains(next));
        self.now.monotonic_ms = next.copied().unwrap_or(self.now.monotonic_ms);
    }

    /// Nobody begins anything; what is under way goes on, without mishaps, until nothing moves.
    pub fn rest(&mut self, observer: &mut impl Observer) {
        self.kernels.iter_mut().for_each(|kernel| kernel.hostile = false);
        let mut quiet = 0;
        for _ in 0..100_000 {
            let before = self.events;
            for shard in 0..self.shards() {
                self.turn(shard, true, observer);
                self.carry(shard, observer);
            }
            quiet = if self.events == before { quiet + 1 } else { 0 };
            if quiet == 3 {
                assert!(self.links.are_empty(), "a link is stuck");
                self.kernels.iter_mut().for_each(|kernel| kernel.hostile = true);
                return;
            }
        }
        panic!("the world never comes to rest");
    }
}

//! Asks the product's backend, on threads that are no shards.
//!
//! Each proxy has a bounded queue and threads of its own, so that one that hangs takes none of the
//! others with it. A proxy begins with one thread; another is started when the last idle one gets
//! something to do, up to [`Bounds`]. What a call is and what its answer means is
//! [`crate::proxy`]'s.

mod endpoint;
mod notifier;
#[cfg(test)]
mod tests;

use std::{
    fmt, io,
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use crossbeam_channel::{Receiver, Sender, unbounded};

use self::endpoint::Endpoint;
pub(crate) use self::endpoint::in_words;
pub use self::{
    endpoint::{Proxy, Trust},
    notifier::Notifier,
};
use crate::{
    hub::ShardId,
    limits::LOOKUPS_IN_FLIGHT_MAX,
    proxy::{BackendAnswer, BackendCall, Failure, ProxyId},
};

/// How much is asked at the same time.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Calls of one proxy at the same time; each is a thread.
    pub per_proxy: usize,
    /// Calls of all proxies at the same time, beyond the one that each proxy always may make.
    pub in_all: usize,
    /// Calls that wait for a thread of their proxy; the next one is refused.
    pub waiting: usize,
}

impl Default for Bounds {
    /// 64 calls of a backend that answers in 20 ms are 3,200 per second.
    fn default() -> Self {
        Self { per_proxy: 64, in_all: 256, waiting: LOOKUPS_IN_FLIGHT_MAX }
    }
}

/// A call, and who asks since when.
#[derive(Debug)]
pub struct Question {
    /// The shard that gets the answer.
    pub shard: ShardId,
    /// Comes back with the answer.
    pub id: u64,
    /// What is asked.
    pub call: BackendCall,
    /// Who waited as long as the proxy's timeout in the queue is told so and not asked for.
    pub since: Instant,
}

/// The way to the threads, for shards. They end when the last one is dropped.
#[derive(Clone)]
pub struct Backend {
    /// One for each proxy. A bounded queue would take all its memory at once; shards that ask at
    /// the same instant may each be one over the bound.
    ways: Arc<[Sender<Question>]>,
    waiting_max: usize,
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Backend({} proxies)", self.ways.len())
    }
}

/// What the threads do with answers.
type Deliver = dyn Fn(ShardId, u64, BackendAnswer) + Send + Sync;

/// Threads that have not been started.
#[derive(Debug)]
pub struct Workers {
    queues: Vec<(Arc<Endpoint>, Receiver<Question>)>,
    bounds: Bounds,
}

impl Backend {
    /// The way to `proxies`, which are known by their place in this list. Nothing is asked before
    /// [`Workers::start`].
    ///
    /// # Errors
    /// What is wrong with a proxy, by its name.
    pub fn new(
        proxies: &[Proxy],
        trust: &Trust,
        bounds: Bounds,
    ) -> Result<(Self, Workers), String> {
        let agent = endpoint::agent(proxies, trust, bounds.per_proxy)?;
        let mut ways = Vec::with_capacity(proxies.len());
        let mut queues = Vec::with_capacity(proxies.len());
        for proxy in proxies {
            let endpoint = Arc::new(Endpoint::new(proxy, &agent)?);
            let (way, questions) = unbounded();
            ways.push(way);
            queues.push((endpoint, questions));
        }
        let backend = Self { ways: ways.into(), waiting_max: bounds.waiting };
        Ok((backend, Workers { queues, bounds }))
    }

    /// Has a proxy asked. Never blocks. The answer goes to whoever [`Workers::start`] was given.
    ///
    /// # Errors
    /// [`Failure::Busy`], when so many wait that it was not taken; no answer follows.
    pub fn ask(&self, proxy: ProxyId, question: Question) -> Result<(), Failure> {
        let way = self.ways.get(usize::from(proxy.0)).filter(|way| way.len() < self.waiting_max);
        way.and_then(|way| way.send(question).ok()).ok_or(Failure::Busy)
    }
}

impl Workers {
    /// Starts the threads; `deliver` is called on them, once for every question taken.
    ///
    /// # Errors
    /// When the system has no threads left.
    pub fn start(
        self,
        deliver: impl Fn(ShardId, u64, BackendAnswer) + Send + Sync + 'static,
    ) -> io::Result<()> {
        self.start_asking(Endpoint::ask, deliver)
    }

    fn start_asking(
        self,
        ask: fn(&Endpoint, &BackendCall) -> BackendAnswer,
        deliver: impl Fn(ShardId, u64, BackendAnswer) + Send + Sync + 'static,
    ) -> io::Result<()> {
        let deliver: Arc<Deliver> = Arc::new(deliver);
        let in_all = Arc::new(AtomicUsize::new(0));
        for (endpoint, questions) in self.queues {
            let crew = Arc::new(Crew {
                endpoint,
                questions,
                ask,
                deliver: Arc::clone(&deliver),
                bounds: self.bounds,
                threads: AtomicUsize::new(1),
                idle: AtomicUsize::new(1),
                in_all: Arc::clone(&in_all),
            });
            spawn(&crew)?;
        }
        Ok(())
    }
}

/// The threads of one proxy.
struct Crew {
    endpoint: Arc<Endpoint>,
    questions: Receiver<Question>,
    ask: fn(&Endpoint, &BackendCall) -> BackendAnswer,
    deliver: Arc<Deliver>,
    bounds: Bounds,
    /// Threads of this proxy.
    threads: AtomicUsize,
    /// Those of them that wait for a question, or are about to.
    idle: AtomicUsize,
    /// Threads of all proxies beyond the first of each.
    in_all: Arc<AtomicUsize>,
}

fn spawn(crew: &Arc<Crew>) -> io::Result<()> {
    let own = Arc::clone(crew);
    std::thread::Builder::new().name("backend".into()).spawn(move || own.work())?;
    Ok(())
}

impl Crew {
    /// Takes questions until nobody can ask any more. The thread counts as idle when it begins.
    fn work(self: Arc<Self>) {
        while let Ok(question) = self.questions.recv() {
            // Nobody is left for the next question: it must not wait for the answer to this one.
            if self.idle.fetch_sub(1, Ordering::Relaxed) == 1 {
                self.grow();
            }
            let Question { shard, id, call, since } = question;
            // Behind a backend that hangs nobody waits longer than for the backend itself.
            let answer = if since.elapsed() < self.endpoint.timeout {
                self.ask(&call)
            } else {
                self.endpoint.complain(call.method(), "those before it took too long");
                BackendAnswer::Failed(Failure::Busy)
            };
            (self.deliver)(shard, id, answer);
            self.idle.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Where a panic unwinds it is a failure like any other: a connection waits for the answer, and
    /// questions behind it for the thread.
    fn ask(&self, call: &BackendCall) -> BackendAnswer {
        let asked = panic::catch_unwind(AssertUnwindSafe(|| (self.ask)(&self.endpoint, call)));
        asked.unwrap_or_else(|_| {
            self.endpoint.complain(call.method(), "asking it panicked");
            BackendAnswer::Failed(Failure::Nonsense)
        })
    }

    /// Starts another thread, if there may be one.
    fn grow(self: &Arc<Self>) {
        let below = |max: usize| move |count: usize| (count < max).then_some(count + 1);
        let order = Ordering::Relaxed;
        if self.threads.fetch_update(order, order, below(self.bounds.per_proxy)).is_err() {
            return;
        }
        if self.in_all.fetch_update(order, order, below(self.bounds.in_all)).is_err() {
            self.threads.fetch_sub(1, order);
            return;
        }
        self.idle.fetch_add(1, order);
        if let Err(error) = spawn(self) {
            tracing::warn!(proxy = self.endpoint.name, %error, "no further thread for the backend");
            self.idle.fetch_sub(1, order);
            self.threads.fetch_sub(1, order);
            self.in_all.fetch_sub(1, order);
        }
    }
}

//! What a link between two shards costs: `cargo bench --bench link`.
//!
//! `frame`: two pinned threads in turn, one pushes a turn's worth of link messages, the other takes
//! them; time of both per message. `wake`: two threads that sleep in their own rings wake each
//! other in turn by MSG_RING; time of one way, and CPU of both threads per wake.

use std::{
    sync::{
        Arc, Barrier,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};
use tiderace::{
    core::LinkMessage,
    hub::{FromHome, Kind, LocalId, Published},
    limits::LINK_ENTRIES,
    shard::{
        links::{Ports, mesh},
        sleep::Sleeper,
    },
    sys::{
        cpu,
        ring::{Completion, Ring, Sizes},
    },
};

const FRAMES: u32 = 1_024_000;
/// Messages that one turn pushes.
const BATCH: u32 = 256;
const WAKES: u32 = 20_000;
const ROUNDS: usize = 5;
const SIZES: Sizes = Sizes {
    submission_entries: 64,
    completion_entries: 256,
    receive_buffers: 2,
    receive_buffer_bytes: 64,
};

fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Runs one closure per port on a CPU of its own; returns wall time and each thread's CPU time.
fn pair(work: impl Fn(usize, Ports<LinkMessage>) + Send + Sync + 'static) -> (Duration, Duration) {
    let cpus = cpu::available().expect("the kernel says which CPUs there are");
    assert!(cpus.len() >= 2, "two CPUs are needed");
    let work = Arc::new(work);
    let (report, reports) = mpsc::channel();
    let started = Arc::new(Barrier::new(2));
    for (me, ports) in mesh(2, LINK_ENTRIES).into_iter().enumerate() {
        let (work, report, started, cpu) =
            (Arc::clone(&work), report.clone(), Arc::clone(&started), cpus[me]);
        std::thread::spawn(move || {
            cpu::pin(cpu).expect("the CPU is ours");
            started.wait();
            let (wall, own) = (Instant::now(), thread_cpu());
            work(me, ports);
            report.send((wall.elapsed(), thread_cpu() - own)).expect("the bench waits");
        });
    }
    let (first, second) = (reports.recv().unwrap(), reports.recv().unwrap());
    (first.0.max(second.0), first.1 + second.1)
}

fn message(published: &Arc<Published>) -> LinkMessage {
    let local = LocalId { index: 0, generation: 0 };
    LinkMessage::FromHome(FromHome::Published { local, published: Arc::clone(published) })
}

/// Time that both threads spend on one message when a turn's worth is pushed and then taken; waiting
/// for the other's turn is not counted.
fn frames() -> Duration {
    let turn = Arc::new(AtomicUsize::new(0));
    let spent = Arc::new(AtomicU64::new(0));
    let sum = Arc::clone(&spent);
    pair(move |me, mut ports| {
        let published = Arc::new(empty_publication());
        for round in 0..FRAMES / BATCH {
            let mine = 2 * round as usize + me;
            while turn.load(Ordering::Acquire) != mine {
                std::hint::spin_loop();
            }
            let start = Instant::now();
            for _ in 0..BATCH {
                if me == 0 {
                    assert!(ports.push(1, message(&published)).is_ok(), "a batch fits");
                } else {
                    assert!(ports.take(0).is_some(), "the whole batch is there");
                }
            }
            spent.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
            turn.store(mine + 1, Ordering::Release);
        }
    });
    Duration::from_nanos(sum.load(Ordering::Relaxed))
}

fn wakes() -> (Duration, Duration) {
    let sleepers = Arc::new([Sleeper::new(), Sleeper::new()]);
    let (publish, published) = mpsc::channel();
    let receive = Arc::new(std::sync::Mutex::new(published));
    let gate = Arc::new(Barrier::new(2));
    pair(move |me, mut ports| {
        let other = 1 - me;
        let mut ring = Ring::new(SIZES).expect("io_uring works here");
        publish.send((me, ring.address())).expect("the other thread lives");
        gate.wait();
        let address = {
            let published = receive.lock().expect("nobody panicked");
            let (of, address) = published.recv().expect("two addresses");
            if of == me {
                publish.send((of, address)).expect("the other thread lives");
                published.recv().expect("two addresses").1
            } else {
                address
            }
        };
        let frame = Arc::new(empty_publication());
        for turn in 0..WAKES {
            if turn % 2 == me as u32 {
                assert!(ports.push(other, message(&frame)).is_ok(), "the link has room");
                if sleepers[other].claim_wake() {
                    ring.wake(address);
                    ring.submit().expect("the ring works");
                }
                continue;
            }
            while ports.take(other).is_none() {
                sleepers[me].announce();
                if !ports.is_empty(other) {
                    sleepers[me].cancel();
                    continue;
                }
                ring.wait(Duration::from_secs(1)).expect("the ring works");
                sleepers[me].awake();
                while let Some(completion) = ring.next() {
                    assert!(matches!(completion, Completion::Woken));
                }
            }
        }
        // Neither ring may go while the other still wakes it.
        gate.wait();
    })
}

fn report(name: &str, unit: &str, per: impl Fn() -> f64) {
    let mut values: Vec<f64> = (0..ROUNDS).map(|_| per()).collect();
    values.sort_by(f64::total_cmp);
    let (low, middle, high) = (values[0], values[ROUNDS / 2], values[ROUNDS - 1]);
    println!("{name}: {middle:.1} {unit} [{low:.1}-{high:.1}]");
}

/// A publication without any bytes: what is measured is the link.
fn empty_publication() -> Published {
    Published {
        kind: Kind::Publication,
        sequence: 1,
        position: None,
        frames: [None, None],
        epoch: None,
        payload: tiderace::protocol::Payload::Json,
        key: None,
        handling: None,
    }
}

fn main() {
    let nanos = |time: Duration, count: u32| time.as_nanos() as f64 / f64::from(count);
    report("frame, both threads", "ns", || nanos(frames(), FRAMES));
    report("wake, one way", "us", || nanos(wakes().0, WAKES) / 1_000.0);
    report("wake, CPU of both threads", "us", || nanos(wakes().1, WAKES) / 1_000.0);
}

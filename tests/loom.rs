//! All interleavings of the sleep handshake: no order of memory loses a wake, and without the
//! fences one does.

#![expect(unreachable_pub, reason = "the file under test is a module of the library")]

mod sync {
    pub use loom::sync::atomic::{AtomicBool, Ordering, fence};
}

#[path = "../src/shard/sleep.rs"]
mod sleep;

use std::process::Command;

use loom::sync::atomic::AtomicUsize;
use loom::sync::{Arc, Notify};
use loom::thread;
use sync::{AtomicBool, Ordering};

/// The handshake as the shard uses it.
trait Handshake: Send + Sync + 'static {
    fn announce(&self);
    fn cancel(&self);
    fn awake(&self);
    fn claim_wake(&self) -> bool;
}

impl Handshake for sleep::Sleeper {
    fn announce(&self) {
        self.announce();
    }

    fn cancel(&self) {
        self.cancel();
    }

    fn awake(&self) {
        self.awake();
    }

    fn claim_wake(&self) -> bool {
        self.claim_wake()
    }
}

/// The same without the fences: what must *not* pass.
struct Fenceless(AtomicBool);

impl Handshake for Fenceless {
    fn announce(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn cancel(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    fn awake(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    fn claim_wake(&self) -> bool {
        self.0.compare_exchange(true, false, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// One receiver and `senders` senders, each with its own queue. A queue is its count of messages,
/// with the orders that `rtrb` uses; a wake is a notification, as MSG_RING is. The receiver takes,
/// sleeps and wakes until it has all messages: a lost wake lets it sleep for ever, which loom
/// reports as a deadlock. It may also wake without a reason, as a shard does at a timeout.
fn all_messages_arrive<H: Handshake>(senders: usize, new: fn() -> H) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let sleeper = Arc::new(new());
        let wake = Arc::new(Notify::new());
        let queues: Arc<Vec<AtomicUsize>> =
            Arc::new((0..senders).map(|_| AtomicUsize::new(0)).collect());
        for index in 0..senders {
            let (sleeper, queues, wake) = (sleeper.clone(), queues.clone(), wake.clone());
            thread::spawn(move || {
                queues[index].store(1, Ordering::Release);
                if sleeper.claim_wake() {
                    wake.notify();
                }
            });
        }
        let look = || queues.iter().map(|queue| queue.load(Ordering::Acquire)).sum::<usize>();
        loop {
            let seen = look();
            if seen == senders {
                break;
            }
            sleeper.announce();
            if look() > seen {
                sleeper.cancel();
            } else {
                wake.wait();
                sleeper.awake();
            }
        }
    });
}

#[test]
fn one_sender_wakes_the_receiver() {
    all_messages_arrive(1, sleep::Sleeper::new);
}

#[test]
fn two_senders_wake_the_receiver() {
    all_messages_arrive(2, sleep::Sleeper::new);
}

#[test]
fn who_slept_to_the_end_knows_whether_a_wake_is_on_its_way() {
    loom::model(|| {
        let sleeper = Arc::new(sleep::Sleeper::new());
        let queue = Arc::new(AtomicUsize::new(0));
        let sender = {
            let (sleeper, queue) = (sleeper.clone(), queue.clone());
            thread::spawn(move || {
                queue.store(1, Ordering::Release);
                sleeper.claim_wake()
            })
        };
        sleeper.announce();
        if queue.load(Ordering::Acquire) == 0 {
            assert!(sender.join().unwrap());
            assert!(sleeper.is_claimed() && !sleeper.awake(), "the sender wakes it");
            sleeper.announce();
            assert!(sleeper.awake(), "nobody wakes it");
        }
    });
}

/// A test of the test. A deadlock of the model may abort the process, so it runs in one of its own.
#[test]
fn without_fences_a_wake_is_lost() {
    const INNER: &str = "TIDERACE_LOOM_WITHOUT_FENCES";
    if std::env::var_os(INNER).is_some() {
        return all_messages_arrive(1, || Fenceless(AtomicBool::new(false)));
    }
    let this = std::env::current_exe().unwrap();
    let output = Command::new(this)
        .args(["--exact", "without_fences_a_wake_is_lost", "--nocapture"])
        .env(INNER, "1")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && errors.contains("deadlock"), "{errors}");
}

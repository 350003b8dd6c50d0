//! Many worlds at once: seeds over all CPUs, and the first of them that fails.

use std::{
    cell::Cell,
    panic::{self, AssertUnwindSafe},
    sync::{
        Mutex, Once, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

/// A number that the environment gives.
pub fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {value}")))
}

/// Lives the worlds that the environment asks for: `SIM_SEED` alone, or `SIM_SEEDS` of them from
/// `SIM_FIRST` on; `worlds` of them where it does not say. Sums up what they did.
///
/// # Panics
/// When one of them fails; says which, and how the test called `name` lives it again.
pub fn live_all<S: Default + Send>(
    name: &str,
    worlds: u64,
    live: impl Fn(u64) -> S + Sync,
    and: impl Fn(S, S) -> S + Sync,
) -> S {
    if let Some(seed) = number("SIM_SEED") {
        return live(seed);
    }
    let first = number("SIM_FIRST").unwrap_or(0);
    let end = first + number("SIM_SEEDS").unwrap_or(worlds);
    let next = AtomicU64::new(first);
    let failed = AtomicU64::new(u64::MAX);
    let total = Mutex::new(S::default());
    let worker = || {
        let mut sum = S::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end.min(failed.load(Ordering::Relaxed)) {
                break;
            }
            match panic::catch_unwind(AssertUnwindSafe(|| live(seed))) {
                Ok(summary) => sum = and(sum, summary),
                Err(_) => {
                    failed.fetch_min(seed, Ordering::Relaxed);
                }
            }
        }
        let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
        *total = and(std::mem::take(&mut total), sum);
    };
    thread::scope(|scope| {
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        (0..cpus).for_each(|_| drop(scope.spawn(worker)));
    });
    let failed = failed.into_inner();
    assert_eq!(
        failed,
        u64::MAX,
        "the world of seed {failed} failed; live it again with\n\
         SIM_SEED={failed} tests/simulate {name}"
    );
    total.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// How many worlds were lived until one failed, `worlds` at most.
pub fn first_failure<S>(worlds: u64, live: impl Fn(u64) -> S) -> Option<u64> {
    silence_expected();
    EXPECTED.set(true);
    let fails = |seed: &u64| panic::catch_unwind(AssertUnwindSafe(|| live(*seed))).is_err();
    let first = (0..worlds).find(fails);
    EXPECTED.set(false);
    first.map(|seed| seed + 1)
}

thread_local! {
    /// A failure on this thread is what the test wants, and not worth a line.
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

fn silence_expected() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !EXPECTED.get() {
                before(info);
            }
        }));
    });
}

//! Worlds of one to seven cores in one thread each, from a seed: everything real but the shell.
//!
//! `tests/simulate` lives them as CI does: optimised, on all CPUs, with the feature `simulation`, which
//! brings the product's own mutations and bounds that small worlds reach. Without it, as in `cargo
//! test`, a few worlds are lived with the bounds of the product.

#![allow(unreachable_pub, reason = "`pub` says what other files of this test use")]

mod simulation {
    pub mod backend;
    pub mod centrifuge;
    pub mod client;
    pub mod crowd;
    mod emulated;
    mod ends;
    pub mod expiry;
    pub mod faults;
    pub mod features;
    pub mod fleet;
    pub mod kernel;
    pub mod letters;
    pub mod lines;
    pub mod links;
    pub mod members;
    pub mod node;
    pub mod oracle;
    pub mod plain;
    pub mod positions;
    pub mod random;
    mod scenarios;
    pub mod scene;
    pub mod seeds;
    pub mod settings;
    pub mod story;
    pub mod stream;
    pub mod watch;
    pub mod window;
    pub mod wire;
    pub mod wishes;
    pub mod world;
}

use simulation::{
    faults::{Mutation, Wrong},
    seeds::{first_failure, live_all},
    story, watch,
};

/// Worlds of an ordinary run.
const WORLDS: u64 = if cfg!(feature = "simulation") { 10_000 } else { 200 };
/// Worlds of devices of an ordinary run.
const LEASE_WORLDS: u64 = if cfg!(feature = "simulation") { 10_000 } else { 100 };
/// Worlds within which every mutation must be noticed.
const MUTATED_WORLDS: u64 = 10_000;

#[test]
fn worlds_keep_every_promise() {
    let live = |seed| story::live(seed, Wrong::NOTHING);
    let total = live_all("worlds_keep", WORLDS, live, story::Summary::and);
    println!("{total:?}");
    if simulation::seeds::number("SIM_SEED").is_none() {
        let seen = [total.deliveries, total.acknowledged, total.slow, total.waited];
        assert!(seen.iter().all(|times| *times > 0), "{total:?}");
        let seen = [total.expired, total.addressed, total.orders, total.limited];
        assert!(seen.iter().all(|times| *times > 0), "{total:?}");
        let seen = [total.subs_refreshed, total.hours];
        assert!(seen.iter().all(|times| *times > 0), "{total:?}");
        let seen = [total.letters, total.counted, total.exact, total.users_set, total.unanswered];
        assert!(seen.iter().all(|times| *times > 0), "{total:?}");
        let seen = [total.recovered, total.unrecovered, total.memberships, total.subs_expired];
        assert!(seen.iter().all(|times| *times > 0), "{total:?}");
        if cfg!(feature = "simulation") {
            let seen = [total.gaps, total.lost, total.left_out];
            assert!(seen.iter().all(|times| *times > 0), "{total:?}");
        }
    }
}

#[test]
fn a_seed_is_one_world() {
    for seed in 0..10 {
        let lived = [(); 2].map(|()| story::live(seed, Wrong::NOTHING));
        assert_eq!(lived[0], lived[1], "seed {seed}");
    }
}

#[test]
fn leases_keep_every_promise() {
    let live = |seed| watch::live(seed, Wrong::NOTHING);
    let total = live_all("leases_keep", LEASE_WORLDS, live, watch::Summary::and);
    println!("{total:?}");
    if simulation::seeds::number("SIM_SEED").is_none() {
        let seen = [total.hellos, total.handovers, total.conflicts, total.expired];
        assert!(seen.iter().all(|times| *times > 0), "{total:?}");
        let seen = [total.wakes_read, total.wakes_confirmed, total.wakes_repeated];
        assert!(seen.iter().all(|times| *times > 0), "{total:?}");
        let seen = [total.drained, total.drained_apart];
        assert!(seen.iter().all(|times| *times > 0), "{total:?}");
    }
}

#[test]
fn a_seed_is_one_world_of_leases() {
    for seed in 0..10 {
        let lived = [(); 2].map(|()| watch::live(seed, Wrong::NOTHING));
        assert_eq!(lived[0], lived[1], "seed {seed}");
    }
}

/// Each of these mistakes fails a world soon; says how soon.
fn notice_all<S>(mistakes: impl IntoIterator<Item = Wrong>, live: impl Fn(u64, Wrong) -> S) {
    let mut unnoticed = Vec::new();
    for wrong in mistakes {
        match first_failure(MUTATED_WORLDS, |seed| live(seed, wrong)) {
            Some(worlds) => println!("{wrong:?}: noticed after {worlds} worlds"),
            None => unnoticed.push(wrong),
        }
    }
    assert!(unnoticed.is_empty(), "unnoticed in {MUTATED_WORLDS} worlds: {unnoticed:?}");
}

#[test]
fn every_mutation_is_noticed() {
    notice_all(Mutation::OF_CHANNELS.map(Wrong::fake), story::live);
}

#[test]
fn every_mutation_of_leases_is_noticed() {
    notice_all(Mutation::OF_LEASES.map(Wrong::fake), watch::live);
}

#[cfg(feature = "simulation")]
#[test]
fn every_mutation_of_the_product_is_noticed() {
    let product = |mutation| Wrong { fake: None, product: Some(mutation) };
    notice_all(tiderace::mutations::Mutation::ALL.map(product), story::live);
}

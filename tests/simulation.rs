//! Worlds of one to three cores in one thread, from a seed: everything real but the shell.
//!
//! `SIM_SEEDS=n` lives that many worlds; `SIM_SEED=s` lives the one of a failure again:
//! `SIM_SEED=7 cargo test --test simulation -- --nocapture worlds`.

#![allow(unreachable_pub, reason = "`pub` says what other files of this test use")]

mod simulation {
    pub mod backend;
    pub mod centrifuge;
    pub mod client;
    pub mod faults;
    pub mod kernel;
    pub mod links;
    pub mod oracle;
    pub mod plain;
    pub mod random;
    mod scenarios;
    pub mod scene;
    pub mod settings;
    pub mod story;
    pub mod watch;
    pub mod wire;
    pub mod world;
}

use std::panic::catch_unwind;

use simulation::{
    faults::Mutation,
    story::{Summary, live},
    watch,
};

/// Worlds of an ordinary run.
const WORLDS: u64 = 1_000;
/// Worlds of devices of an ordinary run.
const LEASE_WORLDS: u64 = 400;
/// Worlds within which every mutation must be noticed.
const MUTATED_WORLDS: u64 = 60;

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {value}")))
}

#[test]
fn worlds_keep_every_promise() {
    if let Some(seed) = number("SIM_SEED") {
        println!("{:?}", live(seed, None));
        return;
    }
    let mut total = Summary::default();
    for seed in 0..number("SIM_SEEDS").unwrap_or(WORLDS) {
        let Ok(summary) = catch_unwind(|| live(seed, None)) else {
            panic!(
                "the world of seed {seed} failed; live it again with\n\
                 SIM_SEED={seed} cargo test --test simulation -- --nocapture worlds"
            );
        };
        total = total.and(summary);
    }
    println!("{total:?}");
    assert!(total.deliveries > 0 && total.acknowledged > 0 && total.slow > 0, "{total:?}");
}

#[test]
fn a_seed_is_one_world() {
    for seed in 0..10 {
        assert_eq!(live(seed, None), live(seed, None), "seed {seed}");
    }
}

#[test]
fn every_mutation_is_noticed() {
    for mutation in Mutation::ALL {
        let noticed =
            (0..MUTATED_WORLDS).any(|seed| catch_unwind(|| live(seed, Some(mutation))).is_err());
        assert!(noticed, "{mutation:?} went unnoticed in {MUTATED_WORLDS} worlds");
    }
}

#[test]
fn leases_keep_every_promise() {
    if let Some(seed) = number("SIM_SEED") {
        println!("{:?}", watch::live(seed, None));
        return;
    }
    let mut total = watch::Summary::default();
    for seed in 0..number("SIM_SEEDS").unwrap_or(LEASE_WORLDS) {
        let Ok(summary) = catch_unwind(|| watch::live(seed, None)) else {
            panic!(
                "the world of seed {seed} failed; live it again with\n\
                 SIM_SEED={seed} cargo test --test simulation -- --nocapture leases"
            );
        };
        total.hellos += summary.hellos;
        total.handovers += summary.handovers;
        total.conflicts += summary.conflicts;
        total.expired += summary.expired;
        total.wakes_read += summary.wakes_read;
        total.wakes_confirmed += summary.wakes_confirmed;
        total.wakes_repeated += summary.wakes_repeated;
        total.drained += summary.drained;
        total.drained_apart += summary.drained_apart;
    }
    println!("{total:?}");
    let seen = [total.hellos, total.handovers, total.conflicts, total.expired];
    assert!(seen.iter().all(|times| *times > 0), "{total:?}");
    let seen = [total.wakes_read, total.wakes_confirmed, total.wakes_repeated];
    assert!(seen.iter().all(|times| *times > 0), "{total:?}");
    let seen = [total.drained, total.drained_apart];
    assert!(seen.iter().all(|times| *times > 0), "{total:?}");
}

#[test]
fn a_seed_is_one_world_of_leases() {
    for seed in 0..10 {
        assert_eq!(watch::live(seed, None), watch::live(seed, None), "seed {seed}");
    }
}

#[test]
fn every_mutation_of_leases_is_noticed() {
    for mutation in watch::Mutation::ALL {
        let noticed = (0..MUTATED_WORLDS)
            .any(|seed| catch_unwind(|| watch::live(seed, Some(mutation))).is_err());
        assert!(noticed, "{mutation:?} went unnoticed in {MUTATED_WORLDS} worlds");
    }
}

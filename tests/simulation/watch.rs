//! Worlds of dormant devices: agents that fight for leases, drop and come back, and wakes for them.
//!
//! After every step at most one stream of a device is live on all shards together, and it is the
//! one that the home names. At rest every question is answered and no wake is lost.

use std::{collections::BTreeSet, sync::Arc};

use tiderace::{
    auth::{Devices, SignedDevices},
    core::{Core, WatchSettings},
    metrics::Counters,
    protocol::Now,
};

use super::{
    faults::{Switched, Wrong},
    fleet::{DEVICES, Fleet, SECRET, WAKE_TTL_S},
    node::Node,
    random::Random,
    settings::{self, Shape},
};

const TTL_MS: u64 = 9_000;
const INTERVAL_MS: u64 = 3_000;
const DRAIN_MS: u64 = 2_000;

/// What a world did, to see that it did something and did the same again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub trace: u64,
    pub hellos: u64,
    pub handovers: u64,
    pub conflicts: u64,
    pub expired: u64,
    pub wakes_read: u64,
    pub wakes_confirmed: u64,
    pub wakes_repeated: u64,
    pub drained: u64,
    pub drained_apart: u64,
}

impl Summary {
    /// This world's and another one's together.
    pub fn and(self, other: Self) -> Self {
        Self {
            trace: self.trace ^ other.trace,
            hellos: self.hellos + other.hellos,
            handovers: self.handovers + other.handovers,
            conflicts: self.conflicts + other.conflicts,
            expired: self.expired + other.expired,
            wakes_read: self.wakes_read + other.wakes_read,
            wakes_confirmed: self.wakes_confirmed + other.wakes_confirmed,
            wakes_repeated: self.wakes_repeated + other.wakes_repeated,
            drained: self.drained + other.drained,
            drained_apart: self.drained_apart + other.drained_apart,
        }
    }
}

struct World {
    node: Node,
    fleet: Fleet,
    /// Steps for which a shard does nothing.
    paused: Vec<usize>,
}

impl World {
    fn new(seed: u64, wrong: Wrong) -> Self {
        let mut random = Random::new(seed);
        let shards = *random.pick(if wrong.is_something() { &[2, 3, 7] } else { &[1, 2, 3, 7] });
        let now = Now { monotonic_ms: 1_000_000, unix_s: settings::START_S };
        let shape = Shape::roomy(shards);
        let mut process = settings::process(shape, &mut random, now, &Arc::default());
        let settings = &mut Arc::get_mut(&mut process).expect("nobody else has it").settings;
        settings.watch = Some(WatchSettings {
            watch_path: "/watch".into(),
            heartbeat_path: "/beat".into(),
            device_info_path: "/info".into(),
            devices: Devices::Signed(Box::new(SignedDevices::new(SECRET))),
            lease_ttl_ms: TTL_MS,
            heartbeat_interval_ms: INTERVAL_MS,
            device_wait_ms: 1_000,
            drain_spread_ms: DRAIN_MS,
        });
        let capacity = *random.pick(&[1, 2, 3, 4, 64]);
        Self {
            node: Node::new(process, now, capacity, wrong.fake, random),
            fleet: Fleet::new(),
            paused: vec![0; shards],
        }
    }

    fn step(&mut self) {
        self.paused.iter_mut().for_each(|steps| *steps = steps.saturating_sub(1));
        let Self { node, fleet, paused } = self;
        let shard = node.random.below(node.shards());
        match node.random.below(200) {
            0..=89 if paused[shard] == 0 => node.turn(shard, false, fleet),
            0..=129 => node.carry(shard, fleet),
            130..=176 => fleet.somebody_acts(node),
            177 => paused[shard] = node.random.pause(),
            178..=179 => fleet.wake(node, None),
            180..=195 => node.now.monotonic_ms += node.random.below(700) as u64,
            196 => node.now.unix_s += settings::HOUR_S,
            197 => node.until_next_deadline(),
            _ => {
                let long = node.random.pick(&[INTERVAL_MS, TTL_MS, 5 * TTL_MS]);
                node.now.monotonic_ms += *long;
            }
        }
    }

    /// A counter of all shards.
    fn sum(&self, of: fn(&Counters) -> u64) -> u64 {
        self.node.cores.iter().map(|core| of(&core.counts().counters)).sum()
    }

    fn summary(&self) -> Summary {
        let Fleet { hellos, read, .. } = &self.fleet;
        Summary {
            trace: self.node.trace,
            hellos: hellos.iter().map(|of_device| of_device.len() as u64).sum(),
            handovers: self.sum(|counters| counters.lease_handovers),
            conflicts: self.sum(|counters| counters.lease_conflicts),
            expired: self.sum(|counters| counters.leases_expired),
            wakes_read: read.values().sum(),
            wakes_confirmed: self.sum(|counters| counters.device_wakes_confirmed),
            wakes_repeated: read.values().filter(|times| **times > 1).count() as u64,
            drained: 0,
            drained_apart: 0,
        }
    }

    /// Everybody reads again, nobody begins anything, until nothing moves.
    fn settle(&mut self) {
        for kernel in &mut self.node.kernels {
            kernel.sockets.values_mut().for_each(|socket| socket.stalled = false);
        }
        self.node.rest(&mut self.fleet);
    }

    fn everybody_leaves(&mut self) {
        for client in 0..self.fleet.clients.len() {
            if !self.fleet.clients[client].left {
                self.fleet.leave(&mut self.node, client);
            }
        }
        self.settle();
    }

    /// The server ends: streams end within their time, each in order, and nothing is left.
    fn drain(mut self) -> Summary {
        for shard in 0..self.node.cores.len() {
            self.fleet.draining = true;
            self.node.cores[shard].drain_begin();
            for _ in 0..self.node.random.below(30) {
                self.step();
            }
        }
        self.node.cores.iter_mut().for_each(Core::drain_mark);
        self.settle();
        let live: usize = self.node.cores.iter_mut().map(|core| core.live_streams().len()).sum();
        let began_ms = self.node.now.monotonic_ms;
        self.node.cores.iter_mut().for_each(Core::drain_close);
        let mut ends = BTreeSet::new();
        let mut left = live;
        while left > 0 {
            self.settle();
            let now: usize = self.node.cores.iter_mut().map(|core| core.live_streams().len()).sum();
            if now < left {
                ends.insert(self.node.now.monotonic_ms);
            }
            left = now;
            self.node.now.monotonic_ms += 50;
            let late = self.node.now.monotonic_ms - began_ms;
            assert!(left == 0 || late <= DRAIN_MS + 200, "{left} streams stay");
        }
        self.everybody_leaves();
        for _ in 0..3 {
            self.node.now.monotonic_ms += WAKE_TTL_S * 1_000;
            self.settle();
        }
        for core in &self.node.cores {
            assert!(core.is_empty(), "something is left: {:?} {:?}", core.counts(), core.leases());
        }
        Summary { drained: live as u64, drained_apart: u64::from(ends.len() > 1), ..self.summary() }
    }

    /// Nobody is there any more, and time goes on until nothing is left of anything.
    fn end(mut self) -> Summary {
        self.everybody_leaves();
        // Each device can be watched again, whatever became of its agents.
        self.node.now.monotonic_ms += TTL_MS;
        self.settle();
        for agent in 0..DEVICES {
            self.fleet.agents[agent].leases.clear();
            let before = self.fleet.hellos[agent].len();
            self.fleet.watch(&mut self.node, agent);
            self.settle();
            assert_eq!(self.fleet.hellos[agent].len(), before + 1, "device {agent} is not granted");
        }
        self.everybody_leaves();
        // No wake is lost: each is confirmed, or still waits.
        for session in self.fleet.asked.clone() {
            self.fleet.wake(&mut self.node, Some(session));
        }
        self.settle();
        let states: Vec<&str> = self.fleet.sessions.values().map(String::as_str).collect();
        assert!(states.iter().all(|state| ["confirmed", "pending"].contains(state)), "{states:?}");
        let asked = self.sum(|counters| counters.device_wakes);
        assert_eq!(asked, self.fleet.sessions.len() as u64, "a session is one wake");
        let waiting = states.iter().filter(|state| **state == "pending").count() as u64;
        self.everybody_leaves();
        for _ in 0..3 {
            self.node.now.monotonic_ms += WAKE_TTL_S * 1_000;
            self.settle();
        }
        for core in &self.node.cores {
            assert!(core.is_empty(), "something is left: {:?} {:?}", core.counts(), core.leases());
        }
        assert_eq!(self.sum(|counters| counters.device_wakes_expired), waiting);
        self.summary()
    }
}

/// Lives a world from its seed to its end; panics where something does not hold.
pub fn live(seed: u64, wrong: Wrong) -> Summary {
    let _switched = Switched::on(wrong);
    let mut world = World::new(seed, wrong);
    for _ in 0..world.node.random.between(1, 3) {
        for _ in 0..world.node.random.between(50, 700) {
            world.step();
        }
        world.settle();
        world.fleet.check_answers();
    }
    if world.node.random.chance(20) { world.drain() } else { world.end() }
}

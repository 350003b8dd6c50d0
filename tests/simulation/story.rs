//! The life of a world from its seed: traffic, truth at rest, and one of its ends.

use super::{faults::Mutation, world::World};

/// What a world did, to see that it did something and did the same again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub trace: u64,
    pub events: u64,
    pub deliveries: u64,
    pub acknowledged: u64,
    pub slow: u64,
}

impl Summary {
    /// This world's and another one's together.
    pub fn and(self, other: Self) -> Self {
        Self {
            trace: self.trace ^ other.trace,
            events: self.events + other.events,
            deliveries: self.deliveries + other.deliveries,
            acknowledged: self.acknowledged + other.acknowledged,
            slow: self.slow + other.slow,
        }
    }
}

/// Lives a world from its seed to its end; panics where something does not hold.
pub fn live(seed: u64, mutation: Option<Mutation>) -> Summary {
    let mut world = World::new(seed, mutation);
    for _ in 0..world.random.between(1, 6) {
        world.connect();
    }
    for _ in 0..world.random.between(1, 3) {
        for _ in 0..world.random.between(50, 800) {
            world.step();
        }
        if world.random.chance(70) {
            world.settle();
            world.check_truth();
        }
    }
    if world.random.chance(50) {
        everybody_leaves(&mut world);
    } else {
        drain(&mut world);
    }
    world.check_empty();
    Summary {
        trace: world.trace,
        events: world.events,
        deliveries: world.oracle.deliveries,
        acknowledged: world.oracle.acknowledged,
        slow: world.slow,
    }
}

fn everybody_leaves(world: &mut World) {
    for client in 0..world.clients.len() {
        if world.clients[client].over && world.random.chance(30) {
            continue;
        }
        if world.random.chance(20) {
            world.stall(client, true);
        }
        world.leave(client);
        if world.random.chance(30) {
            let shard = world.random.below(world.shards());
            world.turn(shard, false);
        }
    }
}

/// As the server does it: all refuse, then all mark, and when all are quiet all close.
fn drain(world: &mut World) {
    let shards = world.shards();
    for shard in 0..shards {
        some_steps(world);
        world.cores[shard].drain_begin();
        world.draining = true;
    }
    for shard in 0..shards {
        some_steps(world);
        world.cores[shard].drain_mark();
    }
    for _ in 0..20_000 {
        if (0..shards).all(|shard| world.cores[shard].drain_is_quiet()) {
            break;
        }
        world.step();
    }
    for shard in 0..shards {
        assert!(world.cores[shard].drain_is_quiet(), "the markers of the drain are stuck");
        some_steps(world);
        world.cores[shard].drain_close();
    }
    world.settle();
    for client in &world.clients {
        if !client.leaving && matches!(client.code, Some(3001 | 1001)) {
            for window in client.peer.wanted_windows() {
                world.oracle.complete(window);
            }
        }
    }
    everybody_leaves(world);
}

fn some_steps(world: &mut World) {
    for _ in 0..world.random.below(30) {
        world.step();
    }
}

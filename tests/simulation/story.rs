//! The life of a world from its seed: traffic, truth at rest, and one of its ends.

use super::{
    faults::{Switched, Wrong},
    window::Window,
    world::World,
};

/// What a world did, to see that it did something and did the same again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub trace: u64,
    pub events: u64,
    pub deliveries: u64,
    pub acknowledged: u64,
    pub slow: u64,
    /// Connections that waited for a descriptor.
    pub waited: u64,
    /// Connections whose token expired.
    pub expired: u64,
    /// Subscriptions that were not refreshed in time, and those that were refreshed.
    pub subs_expired: u64,
    pub subs_refreshed: u64,
    /// Times that the wall clock was set at rest.
    pub hours: u64,
    /// Connections that a thread reached by name.
    pub addressed: u64,
    /// Subscriptions that recovered, and that could not.
    pub recovered: u64,
    pub unrecovered: u64,
    /// Subscriptions that were told of a gap, and connections that ended for one.
    pub gaps: u64,
    pub lost: u64,
    /// Subscriptions that missed publications without having a position.
    pub left_out: u64,
    /// Joins and leaves that somebody was told.
    pub memberships: u64,
    /// What backends wanted of users.
    pub orders: u64,
    /// Questions that the backend did not answer while who asked was there.
    pub unanswered: u64,
    /// Connections that were too many.
    pub limited: u64,
    /// Messages to many that somebody got, those of which the count was compared, and exactly.
    pub letters: u64,
    pub counted: u64,
    pub exact: u64,
    /// Users that connections got, and did not get.
    pub users_set: u64,
    pub users_refused: u64,
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
            waited: self.waited + other.waited,
            expired: self.expired + other.expired,
            subs_expired: self.subs_expired + other.subs_expired,
            subs_refreshed: self.subs_refreshed + other.subs_refreshed,
            hours: self.hours + other.hours,
            addressed: self.addressed + other.addressed,
            recovered: self.recovered + other.recovered,
            unrecovered: self.unrecovered + other.unrecovered,
            gaps: self.gaps + other.gaps,
            lost: self.lost + other.lost,
            left_out: self.left_out + other.left_out,
            memberships: self.memberships + other.memberships,
            orders: self.orders + other.orders,
            limited: self.limited + other.limited,
            unanswered: self.unanswered + other.unanswered,
            letters: self.letters + other.letters,
            counted: self.counted + other.counted,
            exact: self.exact + other.exact,
            users_set: self.users_set + other.users_set,
            users_refused: self.users_refused + other.users_refused,
        }
    }
}

/// Lives a world from its seed to its end; panics where something does not hold.
pub fn live(seed: u64, wrong: Wrong) -> Summary {
    let _switched = Switched::on(wrong);
    let mut world = World::new(seed, wrong);
    for _ in 0..world.random().between(1, 6) {
        world.connect();
    }
    for _ in 0..world.random().between(1, 3) {
        for _ in 0..world.random().between(50, 800) {
            world.step();
        }
        if world.random().chance(70) {
            world.settle();
            world.check_truth();
            if world.random().chance(50) {
                world.sends_in_peace();
            }
            if world.node.expiring && !world.crowd.calm && world.random().chance(80) {
                world.an_hour_passes();
            }
        }
    }
    // What is asked from here on nobody answers, or too late.
    world.node.unanswered = world.random().chance(30);
    for _ in 0..world.random().below(100) {
        world.step();
    }
    let asked: usize = world.node.asked.iter().map(Vec::len).sum();
    let unanswered = if world.node.unanswered { asked as u64 } else { 0 };
    if world.random().chance(50) {
        everybody_leaves(&mut world);
    } else {
        drain(&mut world);
    }
    world.check_empty();
    world.node.unanswered = false;
    world.check_empty();
    Summary {
        unanswered,
        trace: world.node.trace,
        events: world.node.events,
        deliveries: world.crowd.oracle.deliveries,
        acknowledged: world.crowd.oracle.acknowledged,
        slow: world.crowd.slow,
        waited: world.waited,
        expired: world.crowd.expired,
        subs_expired: world.crowd.oracle.subs_expired,
        subs_refreshed: world.crowd.oracle.subs_refreshed,
        hours: world.hours,
        addressed: world.crowd.oracle.addresses.len() as u64,
        recovered: world.crowd.oracle.recovered,
        unrecovered: world.crowd.oracle.unrecovered,
        gaps: world.crowd.oracle.gaps,
        lost: world.crowd.lost,
        left_out: world.crowd.oracle.left_out,
        memberships: world.crowd.oracle.memberships,
        orders: world.crowd.oracle.orders.len() as u64,
        limited: world.crowd.limited,
        letters: world.crowd.oracle.letters.got,
        counted: world.crowd.oracle.letters.counted,
        exact: world.crowd.oracle.letters.exact,
        users_set: world.crowd.oracle.letters.users_set,
        users_refused: world.crowd.oracle.letters.users_refused,
    }
}

fn everybody_leaves(world: &mut World) {
    for client in 0..world.crowd.clients.len() {
        if world.crowd.clients[client].over && world.random().chance(30) {
            continue;
        }
        if world.random().chance(20) {
            world.stall(client, true);
        }
        world.leave(client);
        if world.random().chance(30) {
            let shard = world.node.random.below(world.node.shards());
            world.turn(shard, false);
        }
    }
}

/// As the server does it: all refuse, then all mark, and when all are quiet all close.
fn drain(world: &mut World) {
    let shards = world.shards();
    let steps = *world.random().pick(&[1, 3, 30]);
    if world.random().chance(40) {
        world.node.links.capacity = 1;
        for _ in 0..world.random().below(30) {
            let shard = world.random().below(shards);
            world.outside_publishes(shard);
        }
    }
    for shard in 0..shards {
        some_steps(world, steps);
        world.node.cores[shard].drain_begin();
        world.crowd.draining = true;
    }
    for shard in 0..shards {
        some_steps(world, steps);
        world.node.cores[shard].drain_mark();
    }
    for _ in 0..20_000 {
        if (0..shards).all(|shard| world.node.cores[shard].drain_is_quiet()) {
            break;
        }
        world.step();
    }
    for shard in 0..shards {
        assert!(world.node.cores[shard].drain_is_quiet(), "the markers of the drain are stuck");
        some_steps(world, steps);
        world.node.cores[shard].drain_close();
    }
    some_steps(world, 30);
    world.settle();
    for client in &world.crowd.clients {
        if !client.leaving && matches!(client.code, Some(3001 | 1001)) {
            let drops = world.crowd.features.drops();
            // Who has lost a position and is not told in time recovers from what it saw.
            let told = |window: &&Window| !drops || window.position().is_none();
            for window in client.peer.wanted_windows().into_iter().filter(told) {
                world.crowd.oracle.complete(window);
            }
        }
    }
    everybody_leaves(world);
}

fn some_steps(world: &mut World, most: usize) {
    for _ in 0..world.random().below(most) {
        world.step();
    }
}

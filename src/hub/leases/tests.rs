//! Every duty of the lease machine, one change at a time.

use super::*;
use crate::protocol::watch::WakeEvent;

const TTL: u64 = 5_000;

/// One home and what it said.
struct Bench {
    leases: Leases,
    counters: Counters,
    now: u64,
}

fn id(number: u8) -> LeaseId {
    LeaseId([number; 16])
}

fn conn(number: u8) -> ConnRef {
    ConnRef { slot: number.into(), generation: 0 }
}

fn reply(number: u8) -> HttpReply {
    HttpReply { conn: conn(number), place: 0, keep_alive: true }
}

/// What a home said, in short: `granted 1`, `end 1`, always about the connection of that lease.
fn said(out: Out) -> Vec<String> {
    out.into_iter()
        .map(|(shard, message)| {
            let FromHome::Lease(answer) = message else { panic!("{message:?}") };
            let text = match *answer {
                LeaseAnswer::Granted { lease, conn, .. } => {
                    assert_eq!(conn.slot, u32::from(lease.0[0]));
                    format!("granted {}", lease.0[0])
                }
                LeaseAnswer::Conflict { lease, .. } => format!("conflict {}", lease.0[0]),
                LeaseAnswer::EndStream { lease, .. } => format!("end {}", lease.0[0]),
                LeaseAnswer::Wake { lease, event, .. } => {
                    format!("wake {} {}", lease.0[0], event.session.as_deref().unwrap_or("-"))
                }
                LeaseAnswer::Heartbeat { beat, .. } => format!("{beat:?}"),
                LeaseAnswer::Woken { caller: Caller::Http(_), .. } => "nobody asked so".into(),
                LeaseAnswer::Woken { status, caller: Caller::Outside(call) } => {
                    format!("{status:?} to {call}")
                }
                LeaseAnswer::Released { released, .. } => format!("released {released}"),
                LeaseAnswer::Listed { watchers, total, .. } => {
                    format!("{} of {total}", watchers.len())
                }
            };
            format!("{shard}: {text}")
        })
        .collect()
}

impl Bench {
    fn new() -> Self {
        Self { leases: Leases::new(TTL), counters: Counters::default(), now: 10_000 }
    }

    fn apply(&mut self, from: ShardId, request: LeaseRequest) -> Vec<String> {
        let mut out = Vec::new();
        self.leases.apply(self.now, from, request, &mut self.counters, &mut out);
        said(out)
    }

    /// A watch on the shard of the same number.
    fn acquire(&mut self, number: u8, previous: Option<u8>) -> Vec<String> {
        let (device, previous) = (Name::from("d"), previous.map(id));
        let (conn, lease) = (conn(number), id(number));
        self.apply(number.into(), LeaseRequest::Acquire { device, conn, lease, previous })
    }

    fn heartbeat(&mut self, number: u8) -> String {
        let (device, lease) = (Name::from("d"), Some(id(number)));
        self.apply(9, LeaseRequest::Heartbeat { device, lease, reply: reply(9) }).remove(0)
    }

    fn ended(&mut self, number: u8, ending: Ending) -> Vec<String> {
        let (device, lease) = (Name::from("d"), id(number));
        self.apply(number.into(), LeaseRequest::StreamEnded { device, lease, ending })
    }

    fn wake(&mut self, session: &str, ttl_ms: u64) -> Vec<String> {
        let session = (!session.is_empty()).then(|| Name::from(session));
        let event = WakeEvent { session, url: "u".into(), token: "t".into() };
        let (device, order) = (Name::from("d"), WakeOrder { event, ttl_ms });
        self.apply(8, LeaseRequest::Wake { device, order, caller: Caller::Outside(8) })
    }

    fn queued(&mut self, number: u8) -> Vec<String> {
        let (device, lease) = (Name::from("d"), id(number));
        self.apply(number.into(), LeaseRequest::WakeQueued { device, lease })
    }

    fn release(&mut self) -> Vec<String> {
        self.apply(8, LeaseRequest::Release { device: Name::from("d"), caller: Caller::Outside(8) })
    }

    fn due(&mut self) -> Vec<String> {
        let mut out = Vec::new();
        while self.leases.due(self.now, &mut self.counters, &mut out) {}
        said(out)
    }

    fn list(&mut self, after: Option<&str>, limit: usize) -> Vec<Watcher> {
        match self.leases.list(self.now, after.map(Name::from).as_ref(), limit, 0) {
            LeaseAnswer::Listed { watchers, .. } => watchers,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn one_lease_is_granted_and_others_conflict() {
    let mut bench = Bench::new();
    assert_eq!(bench.acquire(1, None), ["1: granted 1"]);
    assert_eq!(bench.acquire(2, None), ["2: conflict 2"]);
    assert_eq!(bench.acquire(3, Some(2)), ["3: conflict 3"], "a lease that was never granted");
    assert_eq!(bench.heartbeat(1), "9: Extended");
    assert_eq!(bench.heartbeat(2), "9: Conflict");
}

#[test]
fn a_stale_previous_lease_is_no_obstacle_where_none_is_active() {
    let mut bench = Bench::new();
    assert_eq!(bench.heartbeat(7), "9: Gone");
    assert!(bench.leases.is_empty(), "a heartbeat leaves nothing behind");
    assert_eq!(bench.acquire(1, Some(7)), ["1: granted 1"]);
}

#[test]
fn a_hand_over_waits_for_the_end_of_the_old_stream() {
    let mut bench = Bench::new();
    bench.acquire(1, None);
    assert_eq!(bench.acquire(2, Some(1)), ["1: end 1"], "no grant before the confirmation");
    assert_eq!(bench.heartbeat(1), "9: Conflict");
    assert_eq!(bench.ended(1, Ending::Other), ["2: granted 2"]);
    assert_eq!(bench.heartbeat(1), "9: Conflict");
    assert_eq!(bench.heartbeat(2), "9: Extended");
    assert_eq!(bench.ended(1, Ending::Other), [""; 0], "a second end is not known");
    assert_eq!((bench.counters.leases_granted, bench.counters.lease_handovers), (1, 1));
}

#[test]
fn a_lease_survives_its_stream_and_is_resumed() {
    let mut bench = Bench::new();
    bench.acquire(1, None);
    assert_eq!(bench.ended(1, Ending::Other), [""; 0]);
    assert_eq!(bench.acquire(2, None), ["2: conflict 2"], "the drop released nothing");
    assert_eq!(bench.heartbeat(1), "9: Extended");
    assert_eq!(bench.acquire(3, Some(1)), ["3: granted 3"], "nothing is left to wait for");
}

#[test]
fn the_last_of_several_resumes_gets_the_stream() {
    let mut bench = Bench::new();
    bench.acquire(1, None);
    assert_eq!(bench.acquire(2, Some(1)), ["1: end 1"]);
    assert_eq!(bench.acquire(3, Some(1)), ["2: conflict 2"]);
    assert_eq!(bench.acquire(4, Some(2)), ["4: conflict 4"], "2 was never granted");
    assert_eq!(bench.ended(1, Ending::Other), ["3: granted 3"]);
}

#[test]
fn a_grant_that_nobody_was_told_of_is_taken_back() {
    let mut bench = Bench::new();
    bench.acquire(1, None);
    assert_eq!(bench.ended(1, Ending::NotStarted), [""; 0]);
    assert!(bench.leases.is_empty());
    bench.acquire(2, None);
    bench.ended(2, Ending::Other);
    assert_eq!(bench.acquire(3, Some(2)), ["3: granted 3"]);
    bench.ended(3, Ending::NotStarted);
    assert_eq!(bench.heartbeat(2), "9: Extended", "the lease before it holds again");
    assert_eq!(bench.acquire(4, Some(2)), ["4: granted 4"]);
}

#[test]
fn a_lease_that_expired_meanwhile_does_not_come_back() {
    let mut bench = Bench::new();
    bench.acquire(1, None);
    bench.ended(1, Ending::Other);
    bench.now += TTL - 1;
    bench.acquire(2, Some(1));
    bench.now += 1;
    bench.ended(2, Ending::NotStarted);
    assert_eq!(bench.heartbeat(1), "9: Gone");
    assert!(bench.leases.is_empty());
}

#[test]
fn expiry_is_at_the_ttl_after_the_last_heartbeat_exactly() {
    let mut bench = Bench::new();
    bench.acquire(1, None);
    bench.now += TTL - 1;
    assert_eq!(bench.due(), [""; 0]);
    assert_eq!(bench.heartbeat(1), "9: Extended");
    bench.now += TTL - 1;
    assert_eq!(bench.due(), [""; 0], "the first deadline moved with the heartbeat");
    assert_eq!(bench.leases.next_ms(), Some(bench.now + 1));
    bench.now += 1;
    assert_eq!(bench.due(), ["1: end 1"]);
    assert_eq!(bench.heartbeat(1), "9: Gone");
    assert_eq!((bench.leases.len(), bench.counters.leases_expired), (0, 1));
    assert!(!bench.leases.is_empty(), "the stream's end is awaited");
    bench.ended(1, Ending::Other);
    assert!(bench.leases.is_empty());
    assert_eq!(bench.leases.next_ms(), None);
}

#[test]
fn expiry_does_not_depend_on_who_looks_first() {
    let mut bench = Bench::new();
    bench.acquire(1, None);
    bench.now += TTL;
    assert_eq!(bench.acquire(2, None), ["1: end 1"], "expired, though nobody had looked");
    assert_eq!(bench.heartbeat(1), "9: Conflict", "somebody else is about to get it");
    assert_eq!(bench.acquire(3, Some(1)), ["3: conflict 3"], "2 was first");
    assert_eq!(bench.ended(1, Ending::Other), ["2: granted 2"]);
}

#[test]
fn expiry_during_a_hand_over_changes_nothing_for_who_waits() {
    let mut bench = Bench::new();
    bench.acquire(1, None);
    bench.acquire(2, Some(1));
    bench.now += TTL;
    assert_eq!(bench.due(), [""; 0]);
    assert_eq!(bench.ended(1, Ending::ByDevice), ["2: granted 2"]);
    bench.now += TTL - 1;
    assert_eq!(bench.heartbeat(2), "9: Extended", "its time began with its grant");
}

#[test]
fn a_clock_that_jumps_expires_all_of_them_in_bounded_steps() {
    let mut bench = Bench::new();
    for number in 0..600_u64 {
        let device = Name::from(format!("d{number}"));
        let lease = LeaseId(u128::from(number).to_le_bytes());
        let request = LeaseRequest::Acquire { device, conn: conn(0), lease, previous: None };
        bench.leases.apply(bench.now, 0, request, &mut bench.counters, &mut Vec::new());
    }
    bench.now += 1_000_000;
    let mut out = Vec::new();
    assert!(bench.leases.due(bench.now, &mut bench.counters, &mut out));
    assert_eq!(out.len(), DUE_PER_TURN);
    while bench.leases.due(bench.now, &mut bench.counters, &mut out) {}
    assert_eq!((out.len(), bench.leases.len()), (600, 0));
}

#[test]
fn a_wake_releases_the_lease_and_is_confirmed_by_the_end_of_the_stream() {
    let mut bench = Bench::new();
    bench.acquire(1, None);
    assert_eq!(bench.wake("s", 5_000), ["1: wake 1 s"]);
    assert_eq!(bench.wake("s", 5_000), ["8: Sent to 8"], "the same session is the same wake");
    assert_eq!(bench.queued(1), ["8: Sent to 8"]);
    assert_eq!(bench.queued(1), [""; 0]);
    assert_eq!(bench.ended(1, Ending::ByDevice), [""; 0]);
    assert_eq!(bench.wake("s", 5_000), ["8: Confirmed to 8"]);
    assert_eq!(bench.heartbeat(1), "9: Gone");
    assert_eq!(bench.acquire(2, None), ["2: granted 2"], "the device has forgotten its lease");
    let counters = &bench.counters;
    assert_eq!((counters.device_wakes, counters.device_wakes_sent), (1, 1));
    assert_eq!((counters.device_wakes_confirmed, counters.lease_conflicts), (1, 0));
}

#[test]
fn one_stream_carries_one_wake() {
    let mut bench = Bench::new();
    bench.acquire(1, None);
    assert_eq!(bench.wake("a", 5_000), ["1: wake 1 a"]);
    assert_eq!(bench.wake("b", 5_000), ["8: Pending to 8"]);
    bench.ended(1, Ending::ByDevice);
    assert_eq!(bench.acquire(2, None), ["2: granted 2", "2: wake 2 b"], "the next one has its own");
}

#[test]
fn a_wake_for_nobody_is_held_for_its_time_or_refused() {
    let mut bench = Bench::new();
    assert_eq!(bench.wake("now", 0), ["8: NoWatcher to 8"]);
    assert!(bench.leases.is_empty());
    assert_eq!(bench.wake("a", 50), ["8: Pending to 8"]);
    assert_eq!(bench.wake("b", 100), ["8: Pending to 8"]);
    bench.now += 50;
    assert_eq!(bench.due(), [""; 0]);
    assert_eq!(bench.acquire(1, None), ["1: granted 1", "1: wake 1 b"], "a had its time");
    assert_eq!(bench.counters.device_wakes_expired, 1);
    bench.ended(1, Ending::ByDevice);
    assert_eq!(bench.wake("b", 0), ["8: Confirmed to 8"]);
    bench.now += 60_000;
    bench.due();
    assert!(bench.leases.is_empty(), "confirmed ones are forgotten too");
}

#[test]
fn a_wake_without_time_reaches_a_device_that_watches_now() {
    let mut bench = Bench::new();
    bench.acquire(1, None);
    assert_eq!(bench.wake("", 0), ["1: wake 1 -"]);
    assert_eq!(bench.ended(1, Ending::Other), ["8: NoWatcher to 8"], "it was never queued");
    assert_eq!(bench.counters.device_wakes_expired, 1);
    assert!(bench.leases.is_empty());
}

#[test]
fn an_unconfirmed_wake_is_sent_again_at_the_next_watch_and_paced() {
    let mut bench = Bench::new();
    bench.acquire(1, None);
    bench.wake("s", 10_000);
    bench.queued(1);
    bench.ended(1, Ending::Other);
    assert_eq!(bench.wake("s", 10_000), ["8: Pending to 8"]);
    assert_eq!(bench.acquire(2, None), ["2: granted 2"], "a second after the first at the soonest");
    bench.now += 999;
    assert_eq!(bench.due(), [""; 0]);
    bench.now += 1;
    assert_eq!(bench.leases.next_ms(), Some(bench.now));
    assert_eq!(bench.due(), ["2: wake 2 s"]);
    bench.queued(2);
    bench.ended(2, Ending::Other);
    bench.acquire(3, None);
    bench.now += 1_999;
    assert_eq!(bench.due(), [""; 0], "two seconds after the second");
    bench.now += 1;
    assert_eq!(bench.due(), ["3: wake 3 s"]);
    assert_eq!(bench.counters.device_wakes, 1);
}

#[test]
fn a_device_that_comes_back_with_the_lease_did_not_take_the_wake() {
    let mut bench = Bench::new();
    bench.acquire(1, None);
    bench.wake("s", 10_000);
    bench.queued(1);
    bench.ended(1, Ending::ByDevice);
    bench.now += 1_000;
    assert_eq!(bench.acquire(2, Some(1)), ["2: granted 2", "2: wake 2 s"]);
}

#[test]
fn a_device_that_was_told_gone_may_have_missed_the_wake() {
    let mut bench = Bench::new();
    bench.acquire(1, None);
    bench.wake("s", 10_000);
    bench.queued(1);
    assert_eq!(bench.heartbeat(1), "9: Gone");
    bench.ended(1, Ending::ByDevice);
    assert_eq!(bench.wake("s", 10_000), ["8: Pending to 8"]);
}

#[test]
fn a_wake_during_a_hand_over_goes_to_the_new_stream() {
    let mut bench = Bench::new();
    bench.acquire(1, None);
    bench.acquire(2, Some(1));
    assert_eq!(bench.wake("s", 10_000), ["8: Pending to 8"]);
    assert_eq!(bench.ended(1, Ending::Other), ["2: granted 2", "2: wake 2 s"]);
}

#[test]
fn a_watch_behind_a_wake_waits_for_the_woken_stream() {
    let mut bench = Bench::new();
    bench.acquire(1, None);
    bench.wake("s", 10_000);
    bench.queued(1);
    assert_eq!(bench.acquire(2, None), ["1: end 1"]);
    assert_eq!(bench.ended(1, Ending::ByDevice), ["2: granted 2"]);
    assert_eq!(bench.wake("s", 10_000), ["8: Confirmed to 8"]);
}

#[test]
fn a_wake_at_the_instant_of_expiry_finds_no_lease() {
    let mut bench = Bench::new();
    bench.acquire(1, None);
    bench.now += TTL;
    assert_eq!(bench.wake("s", 10_000), ["1: end 1", "8: Pending to 8"]);
    assert_eq!(bench.ended(1, Ending::Other), [""; 0]);
    assert_eq!(bench.acquire(2, Some(1)), ["2: granted 2", "2: wake 2 s"]);
}

#[test]
fn a_release_ends_the_stream_and_is_no_obstacle() {
    let mut bench = Bench::new();
    assert_eq!(bench.release(), ["8: released false"]);
    bench.acquire(1, None);
    assert_eq!(bench.release(), ["1: end 1", "8: released true"]);
    assert_eq!(bench.heartbeat(1), "9: Gone");
    assert_eq!(bench.acquire(2, Some(1)), [""; 0]);
    assert_eq!(bench.ended(1, Ending::Other), ["2: granted 2"]);
}

#[test]
fn wakes_are_bounded() {
    let mut bench = Bench::new();
    for number in 0..crate::limits::WAKES_PER_DEVICE_MAX {
        assert_eq!(bench.wake(&number.to_string(), 100), ["8: Pending to 8"]);
    }
    assert_eq!(bench.wake("more", 100), ["8: Refused to 8"]);
    assert_eq!(bench.wake("0", 100), ["8: Pending to 8"], "a known one is no new one");
    bench.now += 100;
    bench.due();
    assert_eq!(bench.wake("more", 100), ["8: Pending to 8"]);
    bench.leases.wakes = WAKES_PER_SHARD_MAX;
    assert_eq!(bench.wake("last", 100), ["8: Refused to 8"]);
}

#[test]
fn lists_have_pages_in_the_order_of_names() {
    let mut bench = Bench::new();
    for number in 0..5_u8 {
        let device = Name::from(format!("d{number}"));
        let lease = id(number);
        bench.apply(0, LeaseRequest::Acquire { device, conn: conn(number), lease, previous: None });
    }
    bench.wake("held", 5_000);
    bench.now += 100;
    let device = Name::from("d1");
    bench.apply(0, LeaseRequest::Heartbeat { device, lease: Some(id(1)), reply: reply(0) });
    bench.now += 50;
    let ended = (Name::from("d2"), id(2), Ending::Other);
    let (device, lease, ending) = ended;
    bench.apply(0, LeaseRequest::StreamEnded { device, lease, ending });
    let names = |watchers: &[Watcher]| -> Vec<String> {
        watchers.iter().map(|watcher| watcher.device.to_string()).collect()
    };
    let page = bench.list(None, 3);
    assert_eq!(names(&page), ["d0", "d1", "d2"], "who only has a wake is no watcher");
    assert_eq!((page[0].lease_age_ms, page[0].heartbeat_age_ms), (150, 150));
    assert_eq!((page[1].lease_age_ms, page[1].heartbeat_age_ms), (150, 50));
    assert_eq!((page[1].connected, page[2].connected), (true, false));
    assert_eq!(names(&bench.list(Some("d2"), 3)), ["d3", "d4"]);
    assert_eq!(bench.leases.len(), 5);
}

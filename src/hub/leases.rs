//! The truth of the devices that live on this shard: who holds a device's lease, and its wakes.
//!
//! A device has at most one live stream: the one that its home names. So a grant waits until the
//! shard of the stream before it has confirmed that it writes no more, and a stream counts until
//! then, whatever became of its lease. The end of a stream releases nothing, because a device
//! resumes with the lease that it held; a wake does, because a device forgets its lease on one.

mod messages;
mod wakes;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

pub use messages::{
    Beat, Caller, Ending, HttpReply, LeaseAnswer, LeaseRequest, WakeOrder, WakeStatus, Watcher,
};
use wakes::{Resolved, Wakes};

use super::{ConnRef, FromHome, ShardId};
use crate::{
    limits::{WAKES_PER_SHARD_MAX, WATCHERS_PER_PAGE_MAX, bound},
    metrics::Counters,
    protocol::{Name, watch::LeaseId},
};

/// Devices whose deadlines are looked at in one go.
const DUE_PER_TURN: usize = bound(256, 2);

/// Messages of a home to shards, in order.
type Out = Vec<(ShardId, FromHome)>;

/// The devices of one home.
#[derive(Debug)]
pub struct Leases {
    /// Ordered, so that lists have pages; a device that holds nothing is not in it.
    devices: BTreeMap<Name, Device>,
    /// When to look at which device: its `look_ms`, at most one entry of each.
    deadlines: BTreeSet<(u64, Name)>,
    ttl_ms: u64,
    leases: u64,
    wakes: usize,
}

#[derive(Debug)]
struct Device {
    lease: Option<Lease>,
    /// Granted, and its end not confirmed.
    stream: Option<Stream>,
    /// Gets the next grant, when the stream's end is confirmed.
    waiting: Option<Asker>,
    wakes: Wakes,
    /// The entry of this device in `deadlines`, no later than what it waits for: a heartbeat moves
    /// the lease's end and not the entry, which is set anew when it comes.
    look_ms: u64,
}

impl Default for Device {
    fn default() -> Self {
        Self {
            lease: None,
            stream: None,
            waiting: None,
            wakes: Wakes::default(),
            look_ms: u64::MAX,
        }
    }
}

#[derive(Clone, Debug)]
struct Lease {
    id: LeaseId,
    granted_ms: u64,
    heartbeat_ms: u64,
    expires_ms: u64,
}

#[derive(Debug)]
struct Stream {
    shard: ShardId,
    conn: ConnRef,
    lease: LeaseId,
    /// It has nothing to do any more but to confirm its end.
    ending: bool,
    /// A wake was sent on it.
    woken: bool,
    /// A heartbeat with its lease came after the wake and was told that the lease is gone: the
    /// device may have ended the stream for that.
    doubtful: bool,
    /// The lease that this one replaced, valid again if nobody was told of this one.
    before: Option<Lease>,
}

#[derive(Clone, Copy, Debug)]
struct Asker {
    shard: ShardId,
    conn: ConnRef,
    lease: LeaseId,
}

impl Leases {
    /// No devices. A lease lasts `ttl_ms` from its grant or its last heartbeat.
    pub fn new(ttl_ms: u64) -> Self {
        Self { devices: BTreeMap::new(), deadlines: BTreeSet::new(), ttl_ms, leases: 0, wakes: 0 }
    }

    /// Applies one request of shard `from` at `now_ms` of the monotonic clock.
    pub fn apply(
        &mut self,
        now_ms: u64,
        from: ShardId,
        request: LeaseRequest,
        counters: &mut Counters,
        out: &mut Out,
    ) {
        let device = match &request {
            LeaseRequest::Acquire { device, .. }
            | LeaseRequest::Heartbeat { device, .. }
            | LeaseRequest::StreamEnded { device, .. }
            | LeaseRequest::WakeQueued { device, .. }
            | LeaseRequest::Wake { device, .. }
            | LeaseRequest::Release { device, .. } => Arc::clone(device),
            LeaseRequest::List { after, limit, list } => {
                let answer = self.list(now_ms, after.as_ref(), *limit, *list);
                send(out, from, answer);
                return;
            }
        };
        self.with(now_ms, device, counters, out, |turn, device| match request {
            LeaseRequest::Acquire { conn, lease, previous, .. } => {
                turn.acquire(device, Asker { shard: from, conn, lease }, previous);
            }
            LeaseRequest::Heartbeat { lease, reply, .. } => {
                let beat = turn.heartbeat(device, lease);
                send(turn.out, from, LeaseAnswer::Heartbeat { reply, beat });
            }
            LeaseRequest::StreamEnded { lease, ending, .. } => {
                turn.stream_ended(device, from, lease, ending);
            }
            LeaseRequest::WakeQueued { lease, .. } => {
                if let Some((shard, caller)) = device.wakes.queued(lease) {
                    send(turn.out, shard, LeaseAnswer::Woken { caller, status: WakeStatus::Sent });
                }
            }
            LeaseRequest::Wake { order, caller, .. } => {
                turn.wake(device, order, (from, caller));
            }
            LeaseRequest::Release { caller, .. } => {
                let released = device.lease.take().is_some();
                turn.counters.leases_released += u64::from(released);
                turn.log("released", device);
                turn.end_stream(device);
                send(turn.out, from, LeaseAnswer::Released { caller, released });
            }
            LeaseRequest::List { .. } => unreachable!("answered above"),
        });
    }

    /// Looks at devices whose deadline has come, a bounded number; returns whether more wait.
    pub fn due(&mut self, now_ms: u64, counters: &mut Counters, out: &mut Out) -> bool {
        for _ in 0..DUE_PER_TURN {
            if self.next_ms().is_none_or(|next| next > now_ms) {
                return false;
            }
            let Some((_, name)) = self.deadlines.pop_first() else { return false };
            self.with(now_ms, name, counters, out, |_, device| device.look_ms = u64::MAX);
        }
        self.next_ms().is_some_and(|next| next <= now_ms)
    }

    /// When [`Leases::due`] should be called next.
    pub fn next_ms(&self) -> Option<u64> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Active leases.
    pub fn len(&self) -> u64 {
        self.leases
    }

    /// Whether nothing is known of any device.
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }

    /// The stream that the device's home counts, to be checked by tests.
    pub fn stream(&self, device: &str) -> Option<(ShardId, LeaseId)> {
        let stream = self.devices.get(device)?.stream.as_ref()?;
        Some((stream.shard, stream.lease))
    }

    /// Lets `act` change a device, between what time has done to it and what follows from it.
    fn with(
        &mut self,
        now_ms: u64,
        name: Name,
        counters: &mut Counters,
        out: &mut Out,
        act: impl FnOnce(&mut Turn<'_>, &mut Device),
    ) {
        let wakes_free = WAKES_PER_SHARD_MAX.saturating_sub(self.wakes);
        let device = self.devices.entry(Arc::clone(&name)).or_default();
        let (leases, wakes) = (u64::from(device.lease.is_some()), device.wakes.len());
        let ttl_ms = self.ttl_ms;
        let mut turn = Turn { now_ms, name: &name, ttl_ms, wakes_free, counters, out };
        turn.expire(device);
        act(&mut turn, device);
        turn.offer(device);
        turn.expire_wakes(device);
        self.leases = self.leases + u64::from(device.lease.is_some()) - leases;
        self.wakes = self.wakes + device.wakes.len() - wakes;
        let idle = device.is_idle();
        let next_ms = if idle { u64::MAX } else { device.next_ms() };
        if idle || next_ms < device.look_ms {
            let entry = (std::mem::replace(&mut device.look_ms, next_ms), Arc::clone(&name));
            self.deadlines.remove(&entry);
            if next_ms != u64::MAX {
                self.deadlines.insert((next_ms, Arc::clone(&name)));
            }
        }
        if idle {
            self.devices.remove(&name);
        }
    }

    fn list(&self, now_ms: u64, after: Option<&Name>, limit: usize, list: u64) -> LeaseAnswer {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let holders = self
            .devices
            .range::<Name, _>((from, Bound::Unbounded))
            .filter_map(|(name, device)| Some((name, device, device.lease.as_ref()?)))
            .filter(|(_, _, lease)| lease.expires_ms > now_ms);
        let watchers = holders
            .take(limit.min(WATCHERS_PER_PAGE_MAX))
            .map(|(name, device, lease)| Watcher {
                device: Arc::clone(name),
                lease_age_ms: now_ms.saturating_sub(lease.granted_ms),
                heartbeat_age_ms: now_ms.saturating_sub(lease.heartbeat_ms),
                connected: device.stream.as_ref().is_some_and(|stream| stream.lease == lease.id),
            })
            .collect();
        LeaseAnswer::Listed { list, watchers, total: self.leases }
    }
}

impl Device {
    fn is_idle(&self) -> bool {
        self.lease.is_none()
            && self.stream.is_none()
            && self.waiting.is_none()
            && self.wakes.is_empty()
    }

    /// The stream on which a wake may be sent.
    fn sendable(&self) -> Option<&Stream> {
        let lease = self.lease.as_ref()?.id;
        self.stream.as_ref().filter(|stream| !stream.ending && stream.lease == lease)
    }

    fn next_ms(&self) -> u64 {
        let expires_ms = self.lease.as_ref().map_or(u64::MAX, |lease| lease.expires_ms);
        expires_ms.min(self.wakes.next_ms(self.sendable().is_some()))
    }
}

/// One change of one device, and where its effects go.
struct Turn<'a> {
    now_ms: u64,
    name: &'a Name,
    ttl_ms: u64,
    /// Wakes that the home still has room for.
    wakes_free: usize,
    counters: &'a mut Counters,
    out: &'a mut Out,
}

impl Turn<'_> {
    fn log(&self, what: &str, device: &Device) {
        tracing::debug!(
            device = &**self.name,
            lease = ?device.lease.as_ref().map(|lease| lease.id),
            stream = ?device.stream.as_ref().map(|stream| (stream.shard, stream.lease)),
            "lease {what}"
        );
    }

    fn expire_wakes(&mut self, device: &mut Device) {
        let expired = device.wakes.expire(self.now_ms);
        if expired > 0 {
            tracing::debug!(device = &**self.name, expired, "wakes: their time has passed");
            self.counters.device_wakes_expired += expired;
        }
    }

    fn expire(&mut self, device: &mut Device) {
        if device.lease.as_ref().is_some_and(|lease| lease.expires_ms <= self.now_ms) {
            self.log("expired", device);
            device.lease = None;
            self.counters.leases_expired += 1;
            self.end_stream(device);
        }
    }

    fn acquire(&mut self, device: &mut Device, asker: Asker, previous: Option<LeaseId>) {
        if let Some(previous) = previous
            && device.wakes.came_back(self.now_ms, previous)
        {
            self.log("of a wake came back: the wake is held again", device);
        }
        let granted = match &device.lease {
            Some(active) => previous == Some(active.id),
            // Without a lease the first who asks gets it, also while a stream's end is awaited.
            None => device.waiting.is_none(),
        };
        if !granted {
            self.conflict(device, asker);
            return;
        }
        if let Some(superseded) = device.waiting.take() {
            self.conflict(device, superseded);
        }
        if device.stream.is_none() {
            self.grant(device, asker);
            return;
        }
        self.log("waits for the end of the stream before it", device);
        device.waiting = Some(asker);
        self.end_stream(device);
    }

    fn conflict(&mut self, device: &Device, asker: Asker) {
        self.log("refused: another is active", device);
        self.counters.lease_conflicts += 1;
        let Asker { shard, conn, lease } = asker;
        send(self.out, shard, LeaseAnswer::Conflict { conn, lease });
    }

    fn grant(&mut self, device: &mut Device, asker: Asker) {
        let Asker { shard, conn, lease } = asker;
        let before = device.lease.replace(Lease {
            id: lease,
            granted_ms: self.now_ms,
            heartbeat_ms: self.now_ms,
            expires_ms: self.now_ms.saturating_add(self.ttl_ms),
        });
        match &before {
            Some(_) => self.counters.lease_handovers += 1,
            None => self.counters.leases_granted += 1,
        }
        let stream =
            Stream { shard, conn, lease, ending: false, woken: false, doubtful: false, before };
        device.stream = Some(stream);
        self.log("granted", device);
        let device = Arc::clone(self.name);
        send(self.out, shard, LeaseAnswer::Granted { conn, device, lease });
    }

    fn heartbeat(&mut self, device: &mut Device, lease: Option<LeaseId>) -> Beat {
        let beat = match &mut device.lease {
            // Who asks for the lease's stream will get a lease of its own.
            _ if device.waiting.is_some() => Beat::Conflict,
            Some(active) if lease == Some(active.id) => {
                active.heartbeat_ms = self.now_ms;
                active.expires_ms = self.now_ms.saturating_add(self.ttl_ms);
                Beat::Extended
            }
            Some(_) => Beat::Conflict,
            None => Beat::Gone,
        };
        if let Some(stream) = device.stream.as_mut().filter(|s| lease == Some(s.lease)) {
            // Whoever sends it has read the hello.
            stream.before = None;
            stream.doubtful |= beat != Beat::Extended;
        }
        self.counters.heartbeats += 1;
        self.counters.heartbeats_refused += u64::from(beat != Beat::Extended);
        if beat != Beat::Extended {
            self.log("not extended", device);
        }
        beat
    }

    fn end_stream(&mut self, device: &mut Device) {
        if let Some(stream) = device.stream.as_mut().filter(|stream| !stream.ending) {
            stream.ending = true;
            let Stream { shard, conn, lease, .. } = *stream;
            send(self.out, shard, LeaseAnswer::EndStream { conn, lease });
        }
    }

    fn stream_ended(&mut self, device: &mut Device, from: ShardId, id: LeaseId, ending: Ending) {
        let known = |stream: &mut Stream| stream.lease == id && stream.shard == from;
        let Some(stream) = device.stream.take_if(known) else { return };
        self.log("has no stream any more", device);
        if ending == Ending::NotStarted && device.lease.as_ref().is_some_and(|l| l.id == id) {
            device.lease = stream.before.filter(|before| before.expires_ms > self.now_ms);
        }
        let taken = stream.woken && ending == Ending::ByDevice && !stream.doubtful;
        if let Some((resolved, asker)) = device.wakes.stream_ended(self.now_ms, id, taken) {
            self.counters.device_wakes_confirmed += u64::from(resolved == Resolved::Confirmed);
            tracing::debug!(device = &**self.name, ?resolved, "wake: its stream ended");
            let status = match resolved {
                Resolved::Confirmed => WakeStatus::Confirmed,
                Resolved::Held => WakeStatus::Pending,
                Resolved::Expired => WakeStatus::NoWatcher,
            };
            if let Some((shard, caller)) = asker {
                send(self.out, shard, LeaseAnswer::Woken { caller, status });
            }
        }
        if let Some(asker) = device.waiting.take() {
            self.grant(device, asker);
        }
    }

    fn wake(&mut self, device: &mut Device, order: WakeOrder, asker: (ShardId, Caller)) {
        let (shard, caller) = asker;
        let known = order.event.session.as_deref().and_then(|session| device.wakes.status(session));
        if let Some(status) = known {
            send(self.out, shard, LeaseAnswer::Woken { caller, status });
            return;
        }
        if self.wakes_free == 0 || !device.wakes.push(self.now_ms, order, asker) {
            send(self.out, shard, LeaseAnswer::Woken { caller, status: WakeStatus::Refused });
            return;
        }
        self.counters.device_wakes += 1;
        self.offer(device);
        if let Some(((shard, caller), status)) = device.wakes.not_sent(self.now_ms) {
            tracing::debug!(device = &**self.name, ?status, "wake: the device does not watch");
            send(self.out, shard, LeaseAnswer::Woken { caller, status });
        }
    }

    /// Sends the next wake that is due, if there is one and a stream for it.
    fn offer(&mut self, device: &mut Device) {
        let Some((shard, conn, lease)) = device.sendable().map(|s| (s.shard, s.conn, s.lease))
        else {
            return;
        };
        let Some(event) = device.wakes.send(self.now_ms, lease) else { return };
        device.lease = None;
        if let Some(stream) = &mut device.stream {
            stream.woken = true;
            stream.before = None;
        }
        self.counters.device_wakes_sent += 1;
        self.log("released by a wake", device);
        send(self.out, shard, LeaseAnswer::Wake { conn, lease, event });
    }
}

fn send(out: &mut Out, to: ShardId, answer: LeaseAnswer) {
    out.push((to, FromHome::Lease(Box::new(answer))));
}

#[cfg(test)]
mod tests;

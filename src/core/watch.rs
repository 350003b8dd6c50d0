//! Watch streams of this shard's connections: asked for, granted by a home, woken, ended.
//!
//! A response's head is written with the grant, so what is refused before is an ordinary answer.
//! A stream that ends in order leaves its connection to the next request: agents watch again on
//! the same one at once, and would lose a race against a silent close.

use std::{collections::BTreeMap, sync::Arc};

use rand_chacha::rand_core::Rng;

use super::{Core, OutsideAnswer, Session, connection::Http};
use crate::{
    api::watch::{self as api, WatchAnswer, WatchCall, WatcherPage},
    auth::{Devices, Verdict},
    codec::{chunked, http, sse},
    codes::CloseReason,
    hub::{
        Beat, Caller, ConnRef, Ending, HttpReply, LeaseAnswer, LeaseRequest, ShardId, ToHome,
        Watcher,
    },
    limits::{LOOKUPS_IN_FLIGHT_MAX, REQUESTS_IN_FLIGHT_MAX, STREAM_INPUT_BYTES_MAX},
    protocol::{
        Name, Now,
        watch::{self, LeaseId},
    },
};

/// What the configuration decided about watching.
#[derive(Debug)]
pub struct WatchSettings {
    /// Where streams are asked for.
    pub watch_path: String,
    /// Where heartbeats go.
    pub heartbeat_path: String,
    /// Where agents learn who they are.
    pub device_info_path: String,
    /// Whose tokens are whose, until [`OutsideCall::Devices`] says otherwise.
    ///
    /// [`OutsideCall::Devices`]: super::OutsideCall::Devices
    pub devices: Devices,
    /// Milliseconds for which a lease lasts without a heartbeat.
    pub lease_ttl_ms: u64,
    /// Milliseconds between heartbeats, as devices are told; comments come twice as often.
    pub heartbeat_interval_ms: u64,
    /// Milliseconds for which a device waits for a viewer, as devices are told.
    pub device_wait_ms: u64,
    /// Milliseconds over which the ends of streams are spread when the server ends.
    pub drain_spread_ms: u64,
}

/// A token that only the backend can tell about. Ends in [`OutsideCall::Verified`].
///
/// [`OutsideCall::Verified`]: super::OutsideCall::Verified
#[derive(Debug)]
pub struct Lookup {
    /// Comes back with the verdict.
    pub id: u64,
    /// The token.
    pub token: String,
}

/// What a device asks for.
#[derive(Debug)]
pub(super) enum What {
    Stream { previous: Option<LeaseId> },
    Heartbeat(Result<Option<LeaseId>, &'static str>),
    DeviceInfo,
}

/// A request of a device; holds nothing of the request's bytes.
#[derive(Debug)]
pub(super) struct Asked {
    /// Or why not: a status, the method that is allowed, and a sentence.
    what: Result<What, (u16, &'static str, &'static str)>,
    token: Option<String>,
    keep_alive: bool,
}

impl WatchSettings {
    /// What a request asks of the watch endpoints, if it is for one.
    pub(super) fn asked(&self, request: &http::Request<'_>) -> Option<Asked> {
        let path = request.path;
        // There is nothing to ask for the head of alone, and no body may follow it.
        if request.method == "HEAD" {
            return None;
        }
        let (method, what) = match path {
            _ if path == self.watch_path => {
                ("GET", What::Stream { previous: watch::previous_lease(request.query) })
            }
            _ if path == self.heartbeat_path => {
                ("POST", What::Heartbeat(watch::heartbeat_lease(request.body)))
            }
            _ if path == self.device_info_path => ("GET", What::DeviceInfo),
            _ => return None,
        };
        let what = match &what {
            _ if request.method != method => Err((405, method, "method not allowed")),
            What::Stream { .. } if request.version == 0 => {
                Err((505, "", "a stream needs the chunked coding of HTTP/1.1"))
            }
            _ => Ok(what),
        };
        let authorization = request.header("authorization");
        let token = authorization.and_then(watch::device_token).map(str::to_owned);
        Some(Asked { what, token, keep_alive: request.keep_alive })
    }
}

/// How far a watch request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nobody has said yet whose the token is.
    Verifying,
    /// The home of the device has not answered.
    Asking,
    /// The home names this stream.
    Live,
    /// A wake is in the queue: the device ends the stream, or the deadline does.
    Woken,
}

/// A connection whose last request was for a stream.
#[derive(Debug)]
pub(super) struct Watch {
    device: Name,
    lease: LeaseId,
    place: u32,
    stage: Stage,
    keep_alive: bool,
    /// The device ended it behind a wake, and had taken all that was queued.
    by_device: bool,
    deadline_ms: u64,
    /// When it has to leave, in a drain.
    leave_ms: u64,
}

impl Watch {
    fn has_begun(&self) -> bool {
        matches!(self.stage, Stage::Live | Stage::Woken)
    }

    pub(super) fn deadline_ms(&self) -> u64 {
        self.deadline_ms.min(self.leave_ms)
    }

    /// The peer's FIN came; `taken` says that nothing was left to send.
    pub(super) fn finished_by_device(&mut self, taken: bool) {
        self.by_device = taken && self.stage == Stage::Woken;
    }
}

/// A request that waits for the backend's word about its token.
#[derive(Debug)]
struct Waiting {
    reply: HttpReply,
    what: What,
}

/// A list of watchers that some homes have not answered yet.
#[derive(Debug)]
struct List {
    caller: Caller,
    limit: usize,
    missing: usize,
    watchers: Vec<Watcher>,
    total: u64,
}

/// What the watch endpoints of a shard wait for.
#[derive(Debug, Default)]
pub(super) struct WatchState {
    /// Instead of those of the settings.
    pub(super) devices: Option<Arc<Devices>>,
    lookups: BTreeMap<u64, Waiting>,
    /// For the shell to hand to the threads that ask the backend.
    pub(super) asked: Vec<Lookup>,
    lists: BTreeMap<u64, List>,
    next_id: u64,
    /// Streams between hello and end.
    pub(super) streams: u64,
}

impl WatchState {
    pub(super) fn is_empty(&self) -> bool {
        self.lookups.is_empty() && self.lists.is_empty() && self.streams == 0
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

impl Core {
    /// Follows a request of a device up to whoever knows whose its token is.
    pub(super) fn watch_asked(&mut self, now: Now, conn: ConnRef, asked: Asked) {
        let Asked { what, token, keep_alive } = asked;
        // What is told 503 at the end of the server is told the end of its connection too.
        let keep_alive = keep_alive && !self.drain.has_begun();
        let connection = self.slots.at(conn.slot);
        let place = connection.writer.reserve();
        let reply = HttpReply { conn, place, keep_alive };
        if let Session::Http(http) = &mut connection.session {
            http.last |= !keep_alive;
            http.device = true;
        }
        let what = match what {
            Ok(what) => what,
            Err((status, allow, text)) => {
                let extra = [("Allow", allow)];
                let extra = if allow.is_empty() { &[][..] } else { &extra[..] };
                self.refuse_device(now, reply, status, extra, "bad_request", text);
                return;
            }
        };
        if self.drain.has_begun() {
            self.device_unavailable(now, reply, "the server shuts down");
            return;
        }
        let Some(token) = token else {
            let text = "Authorization: DeviceToken or Bearer is missing";
            self.refuse_device(now, reply, 401, &[], "unauthorized", text);
            return;
        };
        if let What::Stream { .. } = what {
            let stage = Stage::Verifying;
            self.wheel.clear(conn.slot);
            self.slots.at(conn.slot).session = Session::Watch(Watch {
                device: Name::from(""),
                lease: LeaseId([0; 16]),
                place,
                stage,
                keep_alive,
                by_device: false,
                deadline_ms: u64::MAX,
                leave_ms: u64::MAX,
            });
        }
        let settings = self.process.settings.watch.as_ref();
        let verdict = match self.watch.devices.as_deref().or(settings.map(|s| &s.devices)) {
            Some(devices) => devices.verify(&token, now.unix_s),
            None => Some(Verdict::Unavailable),
        };
        let waiting = Waiting { reply, what };
        match verdict {
            Some(verdict) => self.judged(now, waiting, verdict),
            None if self.watch.lookups.len() >= LOOKUPS_IN_FLIGHT_MAX => {
                self.judged(now, waiting, Verdict::Unavailable);
            }
            None => {
                let id = self.watch.id();
                self.watch.lookups.insert(id, waiting);
                self.watch.asked.push(Lookup { id, token });
            }
        }
    }

    /// The backend's word about a token has come, or will not.
    pub(super) fn verified(&mut self, now: Now, id: u64, verdict: Verdict) {
        if let Some(waiting) = self.watch.lookups.remove(&id) {
            self.judged(now, waiting, verdict);
        }
    }

    fn judged(&mut self, now: Now, waiting: Waiting, verdict: Verdict) {
        let Waiting { reply, what } = waiting;
        let device = match verdict {
            Verdict::Device(device) => device,
            Verdict::Invalid => {
                self.counters.device_tokens_refused += 1;
                let text = "the device token is not valid";
                self.refuse_device(now, reply, 401, &[], "unauthorized", text);
                return;
            }
            Verdict::Unavailable => {
                self.device_unavailable(now, reply, "device tokens cannot be verified now");
                return;
            }
        };
        let home = self.home_of(&device.id);
        match what {
            What::DeviceInfo => self.answer_device(now, reply, 200, &[], JSON, &device.to_json()),
            What::Heartbeat(Err(text)) => {
                self.refuse_device(now, reply, 400, &[], "bad_request", text);
            }
            What::Heartbeat(Ok(lease)) => {
                let device = Name::from(device.id);
                self.to_lease(home, LeaseRequest::Heartbeat { device, lease, reply });
            }
            What::Stream { previous } => {
                let mut id = [0; 16];
                self.random.fill_bytes(&mut id);
                let lease = LeaseId(id);
                let Some(watch) = self.watch_of(reply.conn).filter(|w| w.place == reply.place)
                else {
                    return;
                };
                let device = Name::from(device.id);
                watch.device = Name::clone(&device);
                watch.lease = lease;
                watch.stage = Stage::Asking;
                let conn = reply.conn;
                self.to_lease(home, LeaseRequest::Acquire { device, conn, lease, previous });
            }
        }
    }

    /// The watch of an open connection.
    fn watch_of(&mut self, conn: ConnRef) -> Option<&mut Watch> {
        match &mut self.slots.get(conn).filter(|connection| connection.is_open())?.session {
            Session::Watch(watch) => Some(watch),
            _ => None,
        }
    }

    /// The begun stream of a lease.
    fn stream_of(&mut self, conn: ConnRef, lease: LeaseId) -> Option<&mut Watch> {
        self.watch_of(conn).filter(|watch| watch.lease == lease && watch.has_begun())
    }

    #[expect(clippy::wrong_self_convention, reason = "it sends to a home, it converts nothing")]
    fn to_lease(&mut self, home: ShardId, request: LeaseRequest) {
        self.to_home(home, ToHome::Lease(Box::new(request)));
    }

    /// Applies what a home says about a lease.
    pub(super) fn lease_answered(&mut self, now: Now, answer: LeaseAnswer) {
        match answer {
            LeaseAnswer::Granted { conn, device, lease } => {
                self.stream_granted(now, conn, device, lease);
            }
            LeaseAnswer::Conflict { conn, lease } => {
                if let Some(watch) = self.watch_of(conn).filter(|watch| watch.lease == lease) {
                    let reply =
                        HttpReply { conn, place: watch.place, keep_alive: watch.keep_alive };
                    self.refuse_device(now, reply, 409, &[], "conflict", OTHER_HOLDS);
                }
            }
            LeaseAnswer::EndStream { conn, lease } => {
                if self.stream_of(conn, lease).is_some() {
                    self.end_stream(now, conn);
                }
            }
            LeaseAnswer::Wake { conn, lease, event } => {
                let Some(watch) = self.stream_of(conn, lease) else { return };
                watch.stage = Stage::Woken;
                let device = Name::clone(&watch.device);
                self.watch_deadline(now, conn, self.interval_ms());
                self.queue(conn, |out| watch::write_wake(out, &event));
                // A stream that is closed as a slow consumer confirms its end, not the wake.
                if self.slots.get(conn).is_some_and(|connection| !connection.slow) {
                    let home = self.home_of(&device);
                    self.to_lease(home, LeaseRequest::WakeQueued { device, lease });
                }
            }
            LeaseAnswer::Heartbeat { reply, beat } => match beat {
                Beat::Extended => self.answer_device(now, reply, 200, &[], "", b""),
                Beat::Conflict => {
                    self.refuse_device(now, reply, 409, &[], "conflict", OTHER_HOLDS);
                }
                Beat::Gone => {
                    self.refuse_device(now, reply, 410, &[], "gone", "no lease is active");
                }
            },
            LeaseAnswer::Woken { caller, status } => {
                self.answer_caller(now, caller, WatchAnswer::Woken(status));
            }
            LeaseAnswer::Released { caller, released } => {
                self.answer_caller(now, caller, WatchAnswer::Released(released));
            }
            LeaseAnswer::Listed { list, watchers, total } => {
                self.listed(now, list, watchers, total);
            }
        }
    }

    /// The stream begins, or, where nobody is left to begin it, its end is confirmed.
    fn stream_granted(&mut self, now: Now, conn: ConnRef, device: Name, lease: LeaseId) {
        let asked = |watch: &&mut Watch| watch.lease == lease && watch.stage == Stage::Asking;
        let Some(watch) = self.watch_of(conn).filter(asked) else {
            let (home, ending) = (self.home_of(&device), Ending::NotStarted);
            self.to_lease(home, LeaseRequest::StreamEnded { device, lease, ending });
            return;
        };
        watch.stage = Stage::Live;
        let (place, keep_alive) = (watch.place, watch.keep_alive);
        let (interval_ms, device_wait_ms) = match &self.process.settings.watch {
            Some(settings) => (settings.heartbeat_interval_ms, settings.device_wait_ms),
            None => (0, 0),
        };
        let mut out = Vec::with_capacity(384);
        sse::write_head(&mut out, keep_alive);
        watch::write_hello(&mut out, lease, interval_ms, device_wait_ms);
        self.fill(conn, place, out);
        self.watch.streams += 1;
        // A reconnecting fleet would else get its comments in step for ever.
        let spread_ms = u64::from(self.random.next_u32()) % (interval_ms / 4).max(1);
        self.watch_deadline(now, conn, interval_ms / 2 - spread_ms);
    }

    fn interval_ms(&self) -> u64 {
        self.process.settings.watch.as_ref().map_or(0, |settings| settings.heartbeat_interval_ms)
    }

    fn watch_deadline(&mut self, now: Now, conn: ConnRef, after_ms: u64) {
        if let Some(watch) = self.watch_of(conn) {
            watch.deadline_ms = now.monotonic_ms + after_ms;
            let deadline_ms = watch.deadline_ms();
            self.wheel.set(conn.slot, deadline_ms);
        }
    }

    /// A stream's deadline: time for a comment, or for its end.
    pub(super) fn watch_due(&mut self, now: Now, conn: ConnRef) {
        let Some(watch) = self.watch_of(conn) else { return };
        if watch.stage == Stage::Woken || watch.leave_ms <= now.monotonic_ms {
            self.end_stream(now, conn);
            return;
        }
        // Who has not read the last one needs no further sign of life.
        if self.slots.at(conn.slot).writer.is_idle() {
            self.queue(conn, |out| out.extend_from_slice(sse::COMMENT));
        }
        self.watch_deadline(now, conn, self.interval_ms() / 2);
    }

    /// Ends a begun stream in order and leaves the connection to the next request.
    fn end_stream(&mut self, now: Now, conn: ConnRef) {
        let Some(connection) = self.slots.get(conn) else { return };
        let Session::Watch(watch) = &connection.session else { return };
        let keep_alive = watch.keep_alive;
        connection.writer.push_own(|out| out.extend_from_slice(chunked::END));
        // What was discarded may have been the beginning of a request.
        let readable = keep_alive && connection.discarded_bytes == 0 && !self.drain.has_begun();
        if !readable {
            self.close(now, conn, CloseReason::NORMAL);
            return;
        }
        if let Session::Watch(watch) = self.to_requests(now, conn, false) {
            self.watch_over(watch);
        }
        self.mark(conn.slot);
    }

    /// The connection reads HTTP requests again, unless `last` says that none may follow.
    #[expect(clippy::wrong_self_convention, reason = "the connection goes there")]
    fn to_requests(&mut self, now: Now, conn: ConnRef, last: bool) -> Session {
        let deadline_ms = now.monotonic_ms + self.process.settings.idle_timeout_ms;
        let reader = http::Reader::new();
        let http = Http { reader, deadline_ms, refused: false, device: true, last };
        self.wheel.set(conn.slot, deadline_ms);
        std::mem::replace(&mut self.slots.at(conn.slot).session, Session::Http(http))
    }

    /// A connection does not watch any more: confirms the end of a stream that had begun.
    pub(super) fn watch_over(&mut self, watch: Watch) {
        if !watch.has_begun() {
            return;
        }
        self.watch.streams -= 1;
        let ending = if watch.by_device { Ending::ByDevice } else { Ending::Other };
        let Watch { device, lease, .. } = watch;
        let home = self.home_of(&device);
        self.to_lease(home, LeaseRequest::StreamEnded { device, lease, ending });
    }

    /// Takes input of a connection that is answered by a stream: nothing is expected, a little is
    /// ignored.
    pub(super) fn unexpected_input(&mut self, now: Now, conn: ConnRef, bytes: usize) {
        let connection = self.slots.at(conn.slot);
        connection.discarded_bytes = connection.discarded_bytes.saturating_add(bytes as u32);
        if connection.discarded_bytes > STREAM_INPUT_BYTES_MAX {
            self.close(now, conn, CloseReason::BAD_REQUEST);
        }
    }

    /// In a drain: whether the connection leaves at a time of its own. A fleet whose streams end
    /// together comes back together, for agents have no jitter. Connections for their heartbeats
    /// stay to the end, to answer 503.
    pub(super) fn leaves_later(&mut self, now: Now, conn: ConnRef) -> bool {
        let spread_ms =
            self.process.settings.watch.as_ref().map_or(0, |settings| settings.drain_spread_ms);
        let after_ms = u64::from(self.random.next_u32()) % spread_ms.max(1);
        let Some(connection) = self.slots.get(conn).filter(|c| c.is_open()) else { return false };
        let deadline_ms = match &mut connection.session {
            Session::Watch(watch) if watch.has_begun() => {
                watch.leave_ms = now.monotonic_ms + after_ms;
                watch.deadline_ms()
            }
            Session::Http(http) if http.device && self.watch.streams > 0 => {
                http.deadline_ms = now.monotonic_ms + spread_ms;
                http.deadline_ms
            }
            _ => return false,
        };
        self.wheel.set(conn.slot, deadline_ms);
        true
    }

    /// Begins what a backend asked about devices.
    pub(super) fn watch_call(&mut self, now: Now, caller: Caller, call: WatchCall) {
        match call {
            WatchCall::Wake { device, order } => {
                let home = self.home_of(&device);
                self.to_lease(home, LeaseRequest::Wake { device, order, caller });
            }
            WatchCall::Release { device } => {
                let home = self.home_of(&device);
                self.to_lease(home, LeaseRequest::Release { device, caller });
            }
            WatchCall::Watchers { after, limit } => {
                if self.watch.lists.len() >= REQUESTS_IN_FLIGHT_MAX {
                    self.answer_caller(now, caller, WatchAnswer::Busy);
                    return;
                }
                let (list, missing) = (self.watch.id(), self.process.shards);
                let watchers = Vec::new();
                self.watch.lists.insert(list, List { caller, limit, missing, watchers, total: 0 });
                for home in 0..missing {
                    let after = after.clone();
                    self.to_lease(home as ShardId, LeaseRequest::List { after, limit, list });
                }
            }
        }
    }

    fn listed(&mut self, now: Now, id: u64, watchers: Vec<Watcher>, total: u64) {
        let Some(list) = self.watch.lists.get_mut(&id) else { return };
        list.watchers.extend(watchers);
        list.total += total;
        list.missing -= 1;
        if list.missing > 0 {
            return;
        }
        let Some(list) = self.watch.lists.remove(&id) else { return };
        let List { caller, limit, mut watchers, total, .. } = list;
        watchers.sort_by(|one, other| one.device.cmp(&other.device));
        // Every home gave as many as fit on the page, so the first of all are complete.
        let more = watchers.len() >= limit;
        watchers.truncate(limit);
        let page = WatcherPage { watchers, total, more };
        self.answer_caller(now, caller, WatchAnswer::Watchers(page));
    }

    fn answer_caller(&mut self, now: Now, caller: Caller, answer: WatchAnswer) {
        match caller {
            Caller::Http(reply) => {
                let (status, body) = api::response(&answer);
                let extra = if status == 503 { RETRY } else { &[] };
                self.answer_device(now, reply, status, extra, JSON, &body);
            }
            Caller::Outside(id) => self.outside_answers.push((id, OutsideAnswer::Watch(answer))),
        }
    }

    fn device_unavailable(&mut self, now: Now, reply: HttpReply, text: &str) {
        self.refuse_device(now, reply, 503, RETRY, "unavailable", text);
    }

    fn refuse_device(
        &mut self,
        now: Now,
        reply: HttpReply,
        status: u16,
        extra: &[(&str, &str)],
        code: &str,
        text: &str,
    ) {
        self.answer_device(now, reply, status, extra, JSON, &watch::error_body(text, code));
    }

    /// Puts a whole answer into the place of its request.
    fn answer_device(
        &mut self,
        now: Now,
        reply: HttpReply,
        status: u16,
        extra: &[(&str, &str)],
        content_type: &str,
        body: &[u8],
    ) {
        let HttpReply { conn, place, keep_alive } = reply;
        if self.watch_of(conn).is_some_and(|watch| watch.place == place) {
            let unread = self.slots.at(conn.slot).discarded_bytes > 0;
            self.to_requests(now, conn, !keep_alive || unread);
        }
        let mut out = Vec::with_capacity(body.len() + 192);
        http::write_response(&mut out, status, content_type, extra, body, keep_alive);
        self.fill_place(now, conn, place, out);
    }

    /// Looks at leases whose time has come; returns whether more wait.
    pub(super) fn leases_due(&mut self, now: Now) -> bool {
        let mut out = std::mem::take(&mut self.home_out);
        let left = self.leases.due(now.monotonic_ms, &mut self.counters, &mut out);
        self.home_out = out;
        self.send_from_home();
        self.settle(now);
        left
    }

    /// Applies a request about a lease that lives here.
    pub(super) fn apply_lease(&mut self, now: Now, from: ShardId, request: LeaseRequest) {
        let counters = &mut self.counters;
        self.leases.apply(now.monotonic_ms, from, request, counters, &mut self.home_out);
    }

    /// Begun streams of this shard by device, to be checked by tests.
    pub fn live_streams(&mut self) -> Vec<(Name, LeaseId)> {
        let mut streams = Vec::new();
        for slot in 0..self.slots.end() {
            let connection = self.slots.at(slot);
            if let (true, Session::Watch(watch)) = (connection.is_open(), &connection.session)
                && watch.has_begun()
            {
                streams.push((Name::clone(&watch.device), watch.lease));
            }
        }
        streams
    }
}

const JSON: &str = "application/json";
const RETRY: &[(&str, &str)] = &[("Retry-After", "1")];
const OTHER_HOLDS: &str = "another lease of the device is active";

//! HTTP of one connection: the API, health, the page, and upgrades to WebSocket.

use super::{
    Core, Session,
    endpoints::{Asked as Transport, asks_for_protobuf},
    gathers::{Asker, Form},
    settings,
    watch::Asked,
};
use crate::{
    api::{
        self, Call, shapes,
        watch::{self, WatchCall},
    },
    auth::origin,
    codec::{
        handshake,
        http::{self, Event, Limits, Request},
        websocket,
    },
    codes::CloseReason,
    hub::{Caller, ConnRef, HttpReply},
    limits::HTTP_HEAD_BYTES_MAX,
    protocol::{
        Now, Upgrade,
        centrifuge::{self, Arrival},
        handler::Handler,
    },
};
use rand_chacha::rand_core::Rng;

/// Requests of one connection whose answers are outstanding; the next one is told 503.
const PIPELINED_REQUESTS_MAX: u32 = 1_024;

/// What one request leads to; holds nothing of the request's bytes.
enum Route {
    Respond { status: u16, content_type: &'static str, body: Vec<u8>, keep_alive: bool },
    Call { call: Call, keep_alive: bool, form: Form },
    WatchCall { call: WatchCall, keep_alive: bool },
    Watch(Asked),
    Transport(Transport, Option<Box<Arrival>>),
    Centrifuge { response: Vec<u8>, unidirectional: bool, arrival: Option<Box<Arrival>> },
    Handler { response: Vec<u8>, handler: Box<dyn Handler> },
    Reject(http::Rejection),
}

enum Read {
    Starved {
        partial: bool,
    },
    Continue,
    /// `head`: the answer has the header of its body alone (RFC 9110 section 9.3.2).
    Route {
        route: Route,
        head: bool,
    },
}

impl Core {
    /// Reads one request; false when the input is used up or the connection reads no more.
    pub(super) fn read_http(&mut self, now: Now, conn: ConnRef, input: &mut &mut [u8]) -> bool {
        let settings = &self.process.settings;
        let connection = self.slots.at(conn.slot);
        let unfilled = connection.writer.unfilled();
        let draining = self.drain.has_begun();
        let Session::Http(http) = &mut connection.session else { return false };
        if http.last {
            self.discard(now, conn, input.len());
            return false;
        }
        let limits =
            Limits { head_bytes_max: HTTP_HEAD_BYTES_MAX, body_bytes_max: settings.body_bytes_max };
        let read = match http.reader.feed(input, &limits) {
            Ok(None) => Read::Starved { partial: http.reader.buffered_bytes() > 0 },
            Ok(Some(Event::Continue)) => Read::Continue,
            Ok(Some(Event::Request(request))) => {
                let no_room = |message, keep_alive| Route::Respond {
                    status: 503,
                    content_type: JSON,
                    body: shapes::error_response(503, message),
                    keep_alive,
                };
                let route = if http.refused {
                    no_room("the server has no room for connections", false)
                } else if unfilled >= PIPELINED_REQUESTS_MAX {
                    no_room("too many requests without an answer", request.keep_alive)
                } else {
                    match settings.route(&request) {
                        // Some connections stay for a while: nobody would close what begins there.
                        Route::Centrifuge { .. } | Route::Handler { .. } if draining => {
                            no_room("the server shuts down", false)
                        }
                        route => route,
                    }
                };
                Read::Route { route, head: request.method == "HEAD" }
            }
            Err(rejection) => Read::Route { route: Route::Reject(rejection), head: false },
        };
        match read {
            Read::Starved { partial } => {
                let started = http.deadline_ms > now.monotonic_ms + settings.request_timeout_ms;
                if partial && started {
                    http.deadline_ms = now.monotonic_ms + settings.request_timeout_ms;
                    self.wheel.set(conn.slot, http.deadline_ms);
                }
                false
            }
            Read::Continue => {
                self.queue(conn, http::write_continue);
                true
            }
            Read::Route { route, head } => {
                http.deadline_ms = now.monotonic_ms + settings.idle_timeout_ms;
                self.counters.messages_received += 1;
                self.follow(now, conn, route, head);
                true
            }
        }
    }

    fn follow(&mut self, now: Now, conn: ConnRef, route: Route, head: bool) {
        match route {
            Route::Respond { status, content_type, body, keep_alive } => {
                let extra: &[(&str, &str)] = match status {
                    405 => &[("Allow", "POST")],
                    503 => &[("Retry-After", "1")],
                    _ => &[],
                };
                self.queue(conn, |out| {
                    http::write_response(out, status, content_type, extra, &body, keep_alive);
                    if head {
                        out.truncate(out.len() - body.len());
                    }
                });
                if !keep_alive {
                    self.end_requests(now, conn);
                }
            }
            Route::Reject(rejection) => {
                self.queue(conn, |out| http::write_rejection(out, &rejection));
                self.end_requests(now, conn);
            }
            Route::Call { call, keep_alive, form } => {
                let connection = self.slots.at(conn.slot);
                let place = connection.writer.reserve();
                if let Session::Http(http) = &mut connection.session {
                    http.last |= !keep_alive;
                }
                let reply = HttpReply { conn, place, keep_alive };
                self.call(now, Asker::Http { reply, form }, call);
            }
            Route::WatchCall { call, keep_alive } => {
                let connection = self.slots.at(conn.slot);
                let place = connection.writer.reserve();
                if let Session::Http(http) = &mut connection.session {
                    http.last |= !keep_alive;
                }
                let reply = HttpReply { conn, place, keep_alive };
                self.watch_call(now, Caller::Http(reply), call);
            }
            Route::Watch(asked) => self.watch_asked(now, conn, asked),
            Route::Transport(Transport::Open(open), arrival) => {
                self.open_stream(now, conn, open, arrival);
            }
            Route::Transport(Transport::Emulate(emulate), _) => self.emulate(now, conn, emulate),
            Route::Transport(Transport::Answer(answer), _) => {
                self.answer_request(now, conn, answer);
            }
            Route::Centrifuge { response, unidirectional, arrival } => {
                self.queue(conn, |out| out.extend_from_slice(&response));
                let mut client = [0; 16];
                self.random.fill_bytes(&mut client);
                let spread = self.random.next_u32();
                let policy = &self.process.settings.policy;
                let mut session =
                    centrifuge::Session::new(now, client, spread, policy).arrived(arrival);
                if unidirectional {
                    session = session.unidirectional();
                }
                self.wheel.set(conn.slot, session.deadline_ms());
                let reader = websocket::Reader::new();
                self.slots.at(conn.slot).session = Session::Centrifuge { reader, session };
            }
            Route::Handler { response, handler } => {
                self.queue(conn, |out| out.extend_from_slice(&response));
                self.open_handler(now, conn, handler);
            }
        }
    }

    /// No more requests: the connection ends when what is owed is out.
    pub(super) fn end_requests(&mut self, now: Now, conn: ConnRef) {
        let Some(connection) = self.slots.get(conn) else { return };
        let owed = connection.writer.unfilled() > 0;
        match &mut connection.session {
            Session::Http(http) if owed => http.last = true,
            _ => self.close(now, conn, CloseReason::NORMAL),
        }
    }

    /// Puts the answer of a call into its place.
    pub(super) fn respond(
        &mut self,
        now: Now,
        conn: ConnRef,
        place: u32,
        keep_alive: bool,
        status: u16,
        body: &[u8],
    ) {
        let mut out = Vec::with_capacity(body.len() + 160);
        http::write_response(&mut out, status, JSON, &[], body, keep_alive);
        self.fill_place(now, conn, place, out);
    }

    /// Puts a whole response into its place; behind the last one the connection ends.
    pub(super) fn fill_place(&mut self, now: Now, conn: ConnRef, place: u32, response: Vec<u8>) {
        self.fill(conn, place, response);
        let Some(connection) = self.slots.get(conn) else { return };
        let last = matches!(&connection.session, Session::Http(http) if http.last);
        if last && connection.writer.unfilled() == 0 {
            self.close(now, conn, CloseReason::NORMAL);
        }
    }

    /// A request did not come in time. Who began one is told; who idled is not.
    pub(super) fn request_timed_out(&mut self, now: Now, conn: ConnRef) {
        let connection = self.slots.at(conn.slot);
        let Session::Http(http) = &mut connection.session else { return };
        if connection.writer.unfilled() > 0 {
            http.deadline_ms = now.monotonic_ms + self.process.settings.idle_timeout_ms;
            return;
        }
        if http.reader.buffered_bytes() > 0 {
            let body = shapes::error_response(408, "the request was not complete in time");
            self.queue(conn, |out| http::write_response(out, 408, JSON, &[], &body, false));
        }
        self.close(now, conn, CloseReason::NORMAL);
    }
}

const JSON: &str = "application/json";

/// The answer to a request that is not taken.
fn refuse(request: &Request<'_>, status: u16, message: &str) -> Route {
    Route::Respond {
        status,
        content_type: JSON,
        body: shapes::error_response(status, message),
        keep_alive: request.keep_alive,
    }
}

impl super::Settings {
    fn route(&self, request: &Request<'_>) -> Route {
        let keep_alive = request.keep_alive;
        let respond = |status, content_type, body: Vec<u8>| Route::Respond {
            status,
            content_type,
            body,
            keep_alive,
        };
        let handler = self.routes.iter().find(|route| route.path == request.path);
        let path = request.path;
        let watch = self.watch.as_ref().and_then(|watch| watch.asked(request));
        match handler {
            Some(route) => self.handler(request, route),
            None if let Some(unidirectional) = self.endpoints.websocket_at(path) => {
                self.upgrade(request, |response| self.centrifuge(request, response, unidirectional))
            }
            None if let Some(asked) = self.endpoints.asked(request, &self.allowed_origins) => {
                Route::Transport(asked, self.policy.arrival(request))
            }
            None if let Some(asked) = watch => Route::Watch(asked),
            None if let Some(name) = self.api_method(path) => self.api(request, name),
            None if self.metrics_path.as_deref() == Some(path) => match request.method {
                "GET" => Route::Call { call: Call::Info, keep_alive, form: Form::Metrics },
                _ => refuse(request, 405, "method not allowed"),
            },
            None if self.health_path.as_deref() == Some(path) => match request.method {
                "GET" | "HEAD" => respond(200, JSON, b"{}".to_vec()),
                _ => refuse(request, 405, "method not allowed"),
            },
            None => match &self.page {
                Some(page) if path == "/" && request.method == "GET" => {
                    respond(200, "text/html; charset=utf-8", page.clone().into_bytes())
                }
                _ => refuse(request, 404, "not found"),
            },
        }
    }

    /// What stands behind the API's prefix, if the path has it: a method's name, if there is any.
    fn api_method<'a>(&self, path: &'a str) -> Option<&'a str> {
        let rest = path.strip_prefix(&*self.api_prefix).filter(|_| self.api_enabled)?;
        if rest.is_empty() { Some(rest) } else { rest.strip_prefix('/') }
    }

    fn api(&self, request: &Request<'_>, name: &str) -> Route {
        let keep_alive = request.keep_alive;
        let respond =
            |status, body| Route::Respond { status, content_type: JSON, body, keep_alive };
        let authorized = self.api_insecure
            || self.api_key.as_ref().is_some_and(|key| {
                let (own, standard) =
                    (request.header("x-api-key"), request.header("authorization"));
                api::authorized(key, own, standard, request.query)
            });
        if !authorized {
            return respond(401, shapes::error_response(401, "unauthorized"));
        }
        if watch::is_method(name) {
            if self.watch.is_none() {
                let error = watch::unavailable();
                return respond(error.status, error.body);
            }
            return match watch::parse(name, request.method, request.body) {
                Ok(call) => Route::WatchCall { call, keep_alive },
                Err(error) => respond(error.status, error.body),
            };
        }
        let max = self.policy.channels.max_length;
        let mode = self.api_error_mode.of_request(name, request.header("x-centrifugo-error-mode"));
        match api::parse(mode, request.method, name, request.body, max) {
            Ok(call) => Route::Call { call, keep_alive, form: Form::Api(mode) },
            Err(error) => respond(error.status, error.body),
        }
    }

    /// Asks the embedder's factory, which may refuse.
    fn handler(&self, request: &Request<'_>, route: &settings::Route) -> Route {
        let upgrade = match self.handshake(request) {
            Ok(upgrade) => upgrade,
            Err(answer) => return *answer,
        };
        match (route.handler)(&Upgrade::new(request, &upgrade.protocols)) {
            Ok(handler) => {
                let mut response = Vec::with_capacity(192);
                let protocol = handler.subprotocol();
                handshake::write_switching_protocols(&mut response, &upgrade, protocol);
                Route::Handler { response, handler }
            }
            Err(refusal) => Route::Respond {
                status: refusal.status(),
                content_type: JSON,
                body: refusal.into_body(),
                keep_alive: request.keep_alive,
            },
        }
    }

    fn centrifuge(&self, request: &Request<'_>, response: Vec<u8>, unidirectional: bool) -> Route {
        let arrival = self.policy.arrival(request);
        Route::Centrifuge { response, unidirectional, arrival }
    }

    fn upgrade(&self, request: &Request<'_>, route: impl FnOnce(Vec<u8>) -> Route) -> Route {
        let upgrade = match self.handshake(request) {
            Ok(upgrade) => upgrade,
            Err(answer) => return *answer,
        };
        let offers = |wanted| upgrade.protocols.iter().copied().find(|name| *name == wanted);
        let protocol = offers("centrifuge-json");
        let only_protobuf = protocol.is_none() && offers("centrifuge-protobuf").is_some();
        if only_protobuf || asks_for_protobuf(request.query) {
            let message =
                "Protobuf is not spoken here: use the subprotocol centrifuge-json, or none";
            return refuse(request, 400, message);
        }
        let mut response = Vec::with_capacity(192);
        handshake::write_switching_protocols(&mut response, &upgrade, protocol);
        route(response)
    }

    /// A handshake from an origin that is allowed, or the answer to what is none.
    fn handshake<'a>(
        &self,
        request: &'a Request<'_>,
    ) -> Result<handshake::Upgrade<'a>, Box<Route>> {
        let origin = request.header("origin");
        if !origin::is_allowed(origin, request.host(), &self.allowed_origins) {
            return Err(Box::new(refuse(request, 403, "the origin is not allowed")));
        }
        match handshake::upgrade(request) {
            Ok(Some(upgrade)) => Ok(upgrade),
            Ok(None) => Err(Box::new(refuse(request, 426, "this is a WebSocket endpoint"))),
            Err(rejection) => Err(Box::new(Route::Reject(rejection))),
        }
    }
}

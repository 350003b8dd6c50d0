//! Centrifuge sessions in HTTP responses that do not end by themselves, and what their clients say
//! in requests beside them.

use rand_chacha::rand_core::Rng;

use super::{
    Core, LinkMessage, Session,
    connection::Connection,
    endpoints::{Answer, Emulate, Headers, Open},
};
use crate::{
    api::error_response,
    channels::{Channels, NameFault},
    codec::{chunked, http, sse, transport::Transport, websocket::write_close},
    codes::CloseReason,
    hub::ConnRef,
    protocol::{
        Begin, Effect, ErrorCode, Name, Now, Recovered, Request,
        centrifuge::{self, Arrival, disconnect_push},
        emulation::{EmulationRequest, SessionId},
    },
};

/// Milliseconds after which a bare `EventSource` whose stream ended asks again, and how much later at
/// most: they have no jitter of their own, and a drain ends many of them together.
const RETRY_MS: u32 = 1_000;
const RETRY_SPREAD_MS: u32 = 2_000;

/// Who asked for a channel of a namespace that does not exist may not connect: close codes have no
/// other word for it, but the answer in place of the stream has.
const UNKNOWN_CHANNEL: CloseReason =
    CloseReason { reason: ErrorCode::UNKNOWN_CHANNEL.message, ..CloseReason::PERMISSION_DENIED };

/// A response that carries a session.
pub(super) struct Stream {
    pub(super) transport: Transport,
    /// Who knows it may speak for the client.
    secret: [u8; 16],
    /// While it is open whether there will be a stream at all. Boxed: none of them stay so.
    head: Option<Box<Head>>,
}

/// The beginning of a response whose status is not known yet: it takes the place of the answer to
/// the connect request.
struct Head {
    /// The channel that it is about.
    channel: Name,
    /// How the stream begins, if there is one.
    begin: Vec<u8>,
    /// What an answer without a stream says to pages of other origins.
    headers: Headers,
}

/// What a client of a stream said to another shard than its own.
#[derive(Debug)]
pub struct Emulated {
    session: SessionId,
    data: String,
}

impl Emulated {
    /// Bytes that this pins while it waits.
    pub(super) fn cost_bytes(&self) -> usize {
        self.data.len()
    }
}

impl Session {
    /// Takes what its stream is not about out of what a connect leads to, where the backend had to
    /// be asked about that.
    pub(super) fn narrow(&self, channels: &Channels, effects: &mut Vec<Effect>) {
        if let Self::Stream { stream, .. } = self
            && let Some(head) = &stream.head
        {
            only_channel(effects, channels, &head.channel);
        }
    }

    /// How the response begins, where that was left open; it is not open any more.
    pub(super) fn take_head(&mut self) -> Option<Vec<u8>> {
        match self {
            Self::Stream { stream, .. } => Some(stream.head.take()?.begin),
            _ => None,
        }
    }
}

impl Connection {
    /// What the peer is told at the end, behind all else; `text` is the reason.
    pub(super) fn farewell(&mut self, told: CloseReason, text: &str) -> Option<Vec<u8>> {
        let transport = self.session.transport();
        let mut out = Vec::new();
        // Codes of WebSocket itself, and that the peer has left, are nothing to be told in a push.
        let is_told = told.code >= 3000 && told != CloseReason::CONNECTION_CLOSED;
        match &mut self.session {
            Session::Centrifuge { session, .. } => {
                if is_told && session.is_unidirectional() {
                    transport.write(&mut out, &disconnect_push(told.code, text));
                }
                write_close(&mut out, told.code, text);
            }
            Session::Handler { .. } => write_close(&mut out, told.code, text),
            Session::Stream { stream, .. } => {
                if let Some(head) = stream.head.take() {
                    return Some(refusal(told, text, &head.headers));
                }
                match transport {
                    Transport::Events if is_told => {
                        let told = centrifuge::disconnect(told.code, text);
                        sse::write_event(&mut out, "disconnect", &String::from_utf8_lossy(&told));
                    }
                    _ if is_told => transport.write(&mut out, &disconnect_push(told.code, text)),
                    _ => {}
                }
                out.extend_from_slice(chunked::END);
            }
            Session::Http(_) | Session::Watch(_) | Session::Closing { .. } | Session::None => {
                return None;
            }
        }
        Some(out)
    }
}

/// The answer in place of a stream that will not be.
fn refusal(told: CloseReason, text: &str, headers: &Headers) -> Vec<u8> {
    let status = match told {
        CloseReason::INVALID_TOKEN | CloseReason::CONNECTION_EXPIRED => 401,
        CloseReason::PERMISSION_DENIED => 403,
        UNKNOWN_CHANNEL => 404,
        CloseReason::BAD_REQUEST => 400,
        CloseReason::CONNECTION_LIMIT
        | CloseReason::CHANNEL_LIMIT
        | CloseReason::TOO_MANY_REQUESTS => 429,
        CloseReason::INTERNAL_SERVER_ERROR => 500,
        _ => 503,
    };
    let mut out = Vec::new();
    let body = error_response(status, text);
    http::write_response(&mut out, status, JSON, &borrowed(headers), &body, false);
    out
}

fn borrowed(headers: &Headers) -> Vec<(&str, &str)> {
    headers.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

fn begin(transport: Transport, headers: &Headers, spread: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    let content_type =
        if transport.is_event_stream() { "text/event-stream" } else { "application/x-ndjson" };
    sse::write_stream_head(&mut out, content_type, &borrowed(headers), false);
    match transport {
        Transport::Events => {
            let retry = format!("retry: {}\n\n", RETRY_MS + spread % RETRY_SPREAD_MS);
            chunked::write_chunk(&mut out, retry.len(), |out| out.extend(retry.as_bytes()));
        }
        // An empty line, which means nothing: some clients wait for a first byte of the body.
        _ if transport.is_event_stream() => {
            chunked::write_chunk(&mut out, 2, |out| out.extend_from_slice(b"\r\n"));
        }
        _ => {}
    }
    out
}

impl Core {
    /// Begins a stream, or refuses it.
    pub(super) fn open_stream(
        &mut self,
        now: Now,
        conn: ConnRef,
        open: Open,
        arrival: Option<Box<Arrival>>,
    ) {
        let Open { transport, text, channel, headers } = open;
        // A stream behind an answer that is not there yet would hold it up at its own end.
        let behind = self.slots.at(conn.slot).writer.unfilled() > 0;
        if behind || self.drain.has_begun() {
            let message =
                if behind { "requests wait for their answers" } else { "the server shuts down" };
            let body = error_response(503, message);
            let (head, keep_alive) = (false, false);
            self.answer_request(now, conn, Answer { status: 503, headers, body, head, keep_alive });
            return;
        }
        let (mut client, mut secret) = ([0; 16], [0; 16]);
        self.random.fill_bytes(&mut client);
        self.random.fill_bytes(&mut secret);
        let spread = self.random.next_u32();
        let settings = &self.process.settings;
        let mut session =
            centrifuge::Session::new(now, client, spread, &settings.policy).arrived(arrival);
        let mut effects = Vec::new();
        if transport.is_unidirectional() {
            session = session.unidirectional();
            session.connect_request(now, &settings.policy, &text, &mut effects);
        } else {
            session.received(now, &settings.policy, &text, &mut effects);
        }
        self.wheel.set(conn.slot, session.deadline_ms());
        let begin = begin(transport, &headers, spread);
        let head = if let Some(channel) = channel {
            only_channel(&mut effects, &settings.policy.channels, &channel);
            let channel = Name::from(channel);
            Some(Box::new(Head { channel, begin, headers }))
        } else {
            self.queue(conn, |out| out.extend_from_slice(&begin));
            None
        };
        let stream = Box::new(Stream { transport, secret, head });
        self.slots.at(conn.slot).session = Session::Stream { stream, session };
        self.run(now, conn, &mut effects);
    }

    /// Answers a request whose answer is known, in its order.
    pub(super) fn answer_request(&mut self, now: Now, conn: ConnRef, answer: Answer) {
        let Answer { status, headers, body, head, keep_alive } = answer;
        let mut headers = borrowed(&headers);
        if status == 503 {
            headers.push(("Retry-After", "1"));
        }
        self.queue(conn, |out| {
            http::write_response(out, status, JSON, &headers, &body, keep_alive);
            if head {
                out.truncate(out.len() - body.len());
            }
        });
        if !keep_alive {
            self.end_requests(now, conn);
        }
    }

    /// Passes on what a client of a stream says: 404 for another node's, 204 for all sessions, so
    /// that nobody learns which ones there are.
    pub(super) fn emulate(&mut self, now: Now, conn: ConnRef, emulate: Emulate) {
        let Emulate { request, headers, keep_alive } = emulate;
        let EmulationRequest { session, node, data } = request;
        let known = node.is_empty() || node == self.process.settings.policy.node;
        let session = SessionId::parse(&session)
            .filter(|session| known && usize::from(session.connection.shard) < self.process.shards);
        let full = session.is_some_and(|session| {
            let shard = session.connection.shard;
            shard != self.shard && self.congestion.is_full(shard)
        });
        let (status, body) = match (known, full) {
            (false, _) => (404, error_response(404, "unknown node")),
            (true, true) => (503, error_response(503, "too many requests")),
            (true, false) => (204, Vec::new()),
        };
        let head = false;
        self.answer_request(now, conn, Answer { status, headers, body, head, keep_alive });
        match session.filter(|_| !full) {
            None => {}
            Some(session) if session.connection.shard == self.shard => {
                self.emulated(now, &Emulated { session, data });
            }
            Some(session) => {
                let message = LinkMessage::Emulated(Box::new(Emulated { session, data }));
                self.push(session.connection.shard, message);
            }
        }
    }

    /// Takes what a client of a stream on this shard said, as if it had come over a WebSocket.
    pub(super) fn emulated(&mut self, now: Now, emulated: &Emulated) {
        let Emulated { session: id, data } = emulated;
        let conn = ConnRef { slot: id.connection.slot, generation: id.connection.generation };
        let Some(connection) = self.slots.get(conn).filter(|connection| connection.is_open())
        else {
            return;
        };
        let Session::Stream { stream, session } = &mut connection.session else { return };
        if !stream.transport.is_emulated() || !id.opens(&stream.secret) {
            return;
        }
        let mut effects = Vec::new();
        session.received(now, &self.process.settings.policy, data, &mut effects);
        self.counters.messages_received += 1;
        self.run(now, conn, &mut effects);
    }

    /// What names the session of a stream to requests beside it; empty for all others.
    pub(super) fn session_id(&mut self, conn: ConnRef) -> String {
        match self.slots.get(conn).map(|connection| &connection.session) {
            Some(Session::Stream { stream, .. }) => {
                let connection = super::requests::connection_ref(self.shard, conn);
                SessionId { connection, secret: stream.secret }.to_string()
            }
            _ => String::new(),
        }
    }
}

/// A stream is about one channel, whatever else its client may be in by itself; who may not be in
/// that one is refused, as is who named one that cannot be: also by a token or a backend that
/// grants it, which is an internal error to streams about more than that.
fn only_channel(effects: &mut Vec<Effect>, channels: &Channels, channel: &str) {
    let fault = channels.named(channel).err().map(|fault| match fault {
        NameFault::Malformed => CloseReason::BAD_REQUEST,
        NameFault::UnknownNamespace => UNKNOWN_CHANNEL,
    });
    for effect in effects {
        match effect {
            Effect::Request { request: Request::Connect { subscriptions, .. }, .. } => {
                subscriptions.retain(|(name, _)| **name == *channel);
                if subscriptions.is_empty() {
                    let reason = fault.unwrap_or(CloseReason::PERMISSION_DENIED);
                    *effect = Effect::Close(reason);
                }
            }
            Effect::Close(reason) if *reason == CloseReason::INTERNAL_SERVER_ERROR => {
                *reason = fault.unwrap_or(*reason);
            }
            _ => {}
        }
    }
}

/// What a bare `EventSource` is sent first: where it is, so that it knows when it comes back, and
/// what it missed; or that it could not be told.
pub(super) fn events_at_begin(begin: Option<&Begin>) -> Vec<u8> {
    /// What a history keeps of a publication, as far as an event says it.
    #[derive(serde::Deserialize)]
    struct Kept<'a> {
        #[serde(borrow)]
        data: &'a serde_json::value::RawValue,
        #[serde(default)]
        offset: u64,
    }
    let mut out = Vec::new();
    let Some(Begin { position, recovered }) = begin else {
        out.extend_from_slice(sse::COMMENT);
        return out;
    };
    let epoch = &*position.epoch;
    let mut run = Vec::new();
    match recovered {
        Recovered::All(publications) => {
            for publication in publications {
                let kept: Kept<'_> =
                    serde_json::from_slice(publication).expect("the home encoded it");
                let (at, data) = (Some((epoch, kept.offset)), kept.data.get().as_bytes());
                Transport::put_event(&mut run, at, data);
            }
        }
        Recovered::Not => run.extend_from_slice(b"event: unrecovered\ndata: {}\n"),
        Recovered::NotAsked => {}
    }
    run.extend_from_slice(format!("id: {epoch}:{}\n\n", position.offset).as_bytes());
    chunked::write_chunk(&mut out, run.len(), |out| out.extend_from_slice(&run));
    out
}

const JSON: &str = "application/json";

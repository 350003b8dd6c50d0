//! One watch, from its request to what ended it, with the heartbeats beside it.

use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{io, mem};

use super::connection::{Connection, Dialer, Fault};
use super::endpoint::Endpoint;
use super::heartbeat::{self, Answer, Heartbeats, REQUEST_TIMEOUT};
use super::messages::{Hello, Wake, error_text};
use super::policy::{ConnectFailure, HeartbeatExit, StreamExit};
use super::response::{Body, Head};
use super::signal::{Patience, Signal, Waited};
use super::sse::{Event, Item, Parser};

/// What came of one attempt to watch.
#[derive(Debug)]
pub(super) enum Watched {
    /// No `hello` came; why, for the policy and for people.
    Refused(ConnectFailure, String),
    /// The stream of this `hello` ended without a wake.
    Ended(Hello, StreamExit, String),
    Wake(Wake),
    Cancelled,
}

/// The two connections of a device, kept from one attempt to the next.
#[derive(Debug)]
pub(super) struct Dialers {
    pub(super) stream: Dialer,
    /// For the device's description and for heartbeats.
    pub(super) control: Dialer,
}

/// What an attempt needs.
pub(super) struct Attempt<'a> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) dialers: &'a mut Dialers,
    pub(super) cancel: &'a Signal,
    pub(super) event_bytes_max: usize,
    /// [`heartbeat::HELLO_TIMEOUT`], but for tests.
    pub(super) hello_timeout: Duration,
}

impl Attempt<'_> {
    /// Watches once. `connected` is called for the `hello`. When this returns, the stream is no longer
    /// read and its heartbeats have ended.
    pub(super) fn run(
        mut self,
        session_id: Option<&str>,
        previous_lease: Option<&str>,
        connected: impl FnOnce(),
    ) -> Watched {
        let request = self.endpoint.watch(session_id, previous_lease);
        let (stream, hello) = match self.connect(&request) {
            Ok(connected) => connected,
            Err(_) if self.cancel.is_raised() => return Watched::Cancelled,
            Err(Refusal(failure, why)) => return Watched::Refused(failure, why),
        };
        let began = Instant::now();
        connected();
        let pulse = match Pulse::start(&mut self, &hello, began) {
            Ok(pulse) => pulse,
            Err(error) => {
                let exit = StreamExit::Error { ran_for: began.elapsed() };
                return Watched::Ended(hello, exit, format!("no thread for heartbeats: {error}"));
            }
        };
        let outcome = self.follow(stream, &hello, &pulse, began);
        // Before anything else is done, and before the end of the stream is told to anybody.
        let (lost, control) = pulse.stop();
        if let Some(control) = control {
            self.dialers.control = control;
        }
        if self.cancel.is_raised() {
            return Watched::Cancelled;
        }
        if let Some(lost) = lost {
            return Watched::Ended(hello, StreamExit::Heartbeat(lost), describe(lost).to_owned());
        }
        match outcome {
            Ok(wake) => Watched::Wake(wake),
            Err((exit, why)) => Watched::Ended(hello, exit, why),
        }
    }

    /// From the request to the `hello`, all within one deadline.
    fn connect(&mut self, request: &[u8]) -> Result<(Stream, Hello), Refusal> {
        let patience = Patience::new(self.hello_timeout, &[self.cancel]);
        let (connection, head) = self.dialers.stream.request(request, &patience)?;
        if head.status >= 400 {
            let answer = self.dialers.stream.finish(connection, head)?;
            let status = answer.head.status;
            let failure = match status {
                401 => ConnectFailure::Unauthorized,
                409 => ConnectFailure::Conflict,
                _ => ConnectFailure::Other,
            };
            let why = format!("the server answered {status}{}", error_text(&answer.body));
            return Err(Refusal(failure, why));
        }
        if head.content_type != "text/event-stream" {
            return Err(Refusal(ConnectFailure::UnexpectedContentType, no_stream(&head)));
        }
        let body = head.body();
        let parser = Parser::new(self.event_bytes_max);
        let mut stream = Stream { connection, head, body, parser, bytes: Vec::new(), used: 0 };
        loop {
            let event = match stream.next()? {
                Next::Item(Item::Event(event)) | Next::Last(event) => event,
                Next::Item(Item::Comment) => continue,
                Next::End => return Err(Fault::Ended.into()),
            };
            if event.name == "hello" {
                return match Hello::parse(&event.data) {
                    Ok(hello) => Ok((stream, hello)),
                    Err(error) => {
                        let why = format!("the server's hello is malformed: {error}");
                        Err(Refusal(ConnectFailure::Other, why))
                    }
                };
            }
        }
    }

    /// From the `hello` to the wake, or to what came instead.
    fn follow(
        &mut self,
        mut stream: Stream,
        hello: &Hello,
        pulse: &Pulse,
        began: Instant,
    ) -> Result<Wake, (StreamExit, String)> {
        let timeout = heartbeat::read_timeout(hello.interval);
        let failed = |why: String| (StreamExit::Error { ran_for: began.elapsed() }, why);
        loop {
            // Anew after every sign of life.
            let patience = Patience::new(timeout, &[self.cancel, &pulse.ended]);
            stream.connection.set_patience(patience);
            let next = match stream.next() {
                Ok(next) => next,
                Err(Broken::Connection(Fault::TimedOut)) => {
                    let why = format!("the server was silent for {timeout:?}");
                    return Err((StreamExit::ReadTimeout, why));
                }
                Err(broken) => return Err(failed(broken.to_string())),
            };
            let event = match next {
                Next::Item(Item::Event(event)) | Next::Last(event) => event,
                Next::Item(Item::Comment) => continue,
                Next::End => {
                    self.dialers.stream.keep(stream.connection, &stream.head);
                    return Err((StreamExit::Ended, "the server ended the stream".into()));
                }
            };
            if event.name == "wake" {
                return Wake::parse(&event.data, hello.device_wait)
                    .map_err(|error| failed(format!("the server's wake is malformed: {error}")));
            }
        }
    }
}

fn no_stream(head: &Head) -> String {
    let status = head.status;
    match (&head.location, head.content_type.as_str()) {
        (Some(location), _) if (300..400).contains(&status) => format!(
            "the server answered {status} and points to {location:?}: redirections are not followed, \
             give the URL it points to"
        ),
        (_, "") => {
            format!("the server answered {status} with no content type, not an event stream")
        }
        (_, found) => format!("the server answered {status} with {found}, not an event stream"),
    }
}

/// Why there was no `hello`.
struct Refusal(ConnectFailure, String);

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self(ConnectFailure::Other, fault.to_string())
    }
}

impl From<Broken> for Refusal {
    fn from(broken: Broken) -> Self {
        Self(ConnectFailure::Other, broken.to_string())
    }
}

/// Why a stream cannot be read on.
enum Broken {
    Connection(Fault),
    TooLarge(super::sse::TooLarge),
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connection(fault) => fault.fmt(f),
            Self::TooLarge(error) => error.fmt(f),
        }
    }
}

/// What a stream says next.
enum Next {
    Item(Item),
    /// An event that was complete but for its empty line when the stream ended in order.
    Last(Event),
    /// It ended in order.
    End,
}

/// A response that is a stream of events.
struct Stream {
    connection: Connection,
    head: Head,
    body: Body,
    parser: Parser,
    /// Of the body, received together; the first `used` of them are parsed.
    bytes: Vec<u8>,
    used: usize,
}

impl Stream {
    fn next(&mut self) -> Result<Next, Broken> {
        loop {
            let mut input = &self.bytes[self.used..];
            let item = self.parser.next(&mut input).map_err(Broken::TooLarge)?;
            self.used = self.bytes.len() - input.len();
            if let Some(item) = item {
                return Ok(Next::Item(item));
            }
            match self.connection.read(&mut self.body).map_err(Broken::Connection)? {
                Some(bytes) => (self.bytes, self.used) = (bytes, 0),
                None => {
                    // Of the parser nothing is left, so the next call is at the end again.
                    let parser = mem::replace(&mut self.parser, Parser::new(0));
                    return Ok(parser.end().map_or(Next::End, Next::Last));
                }
            }
        }
    }
}

fn describe(exit: HeartbeatExit) -> &'static str {
    match exit {
        HeartbeatExit::Conflict => "a heartbeat was answered 409: another watcher has the device",
        HeartbeatExit::Gone => "a heartbeat was answered 410: the lease is not active",
        HeartbeatExit::Unauthorized => "a heartbeat was answered 401",
        HeartbeatExit::Failed => "no heartbeat succeeded for three intervals",
        HeartbeatExit::Cancelled => "the heartbeats were cancelled",
    }
}

/// The heartbeats of one lease, on a thread of their own: an answer that takes its time must not keep
/// the stream from being read.
struct Pulse {
    stop: Signal,
    /// Raised when they ended, for whatever reason.
    ended: Signal,
    thread: JoinHandle<(HeartbeatExit, Dialer)>,
}

impl Pulse {
    fn start(attempt: &mut Attempt<'_>, hello: &Hello, began: Instant) -> io::Result<Self> {
        let (stop, ended) = (Signal::new()?, Signal::new()?);
        let endpoint = attempt.endpoint.clone();
        let control = attempt.dialers.control.lend();
        let mut beating = Beating {
            request: endpoint.heartbeat(&hello.lease),
            heartbeats: Heartbeats::new(hello.interval),
            began,
            signals: [stop.clone(), attempt.cancel.clone()],
            control,
        };
        let at_end = RaiseAtEnd(ended.clone());
        let thread = thread::Builder::new().name("watch-heartbeat".into()).spawn(move || {
            let _at_end = at_end;
            let exit = beating.run();
            (exit, beating.control)
        })?;
        Ok(Self { stop, ended, thread })
    }

    /// Ends them and waits for it: what ended them before, if anything, and their connection.
    fn stop(self) -> (Option<HeartbeatExit>, Option<Dialer>) {
        let had_ended = self.ended.is_raised();
        self.stop.raise();
        match self.thread.join() {
            Ok((exit, control)) => (had_ended.then_some(exit), Some(control)),
            Err(_) => (Some(HeartbeatExit::Failed), None),
        }
    }
}

/// Raises its signal when the thread ends, by a panic too.
struct RaiseAtEnd(Signal);

impl Drop for RaiseAtEnd {
    fn drop(&mut self) {
        self.0.raise();
    }
}

struct Beating {
    request: Vec<u8>,
    heartbeats: Heartbeats,
    /// The time of the `hello`.
    began: Instant,
    signals: [Signal; 2],
    control: Dialer,
}

impl Beating {
    fn run(&mut self) -> HeartbeatExit {
        loop {
            let due = self.began + self.heartbeats.due();
            let patience = Patience { deadline: Some(due), signals: self.signals.to_vec() };
            match patience.sleep() {
                Ok(Waited::Raised) => return HeartbeatExit::Cancelled,
                Ok(_) => {}
                Err(_) => return HeartbeatExit::Failed,
            }
            self.heartbeats.send(self.began.elapsed());
            let answer = self.send();
            if self.signals.iter().any(Signal::is_raised) {
                return HeartbeatExit::Cancelled;
            }
            if let Some(exit) = self.heartbeats.finish(answer, self.began.elapsed()) {
                return exit;
            }
        }
    }

    fn send(&mut self) -> Answer {
        let [stop, cancel] = &self.signals;
        let patience = Patience::new(REQUEST_TIMEOUT, &[stop, cancel]);
        match self.control.ask(&self.request, &patience) {
            Ok(answer) => Answer::of_status(answer.head.status, answer.head.location.is_some()),
            Err(_) => Answer::Retry,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;
    use std::sync::Arc;

    use super::*;
    use crate::watch::endpoint::BASE_DEFAULT;

    /// What comes of one attempt at a server that sends a head and then `text` for as long as it is read.
    fn watch(text: &'static [u8], hello_timeout: Duration) -> Watched {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            socket
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
                .unwrap();
            while socket.write_all(text).is_ok() {}
        });
        let endpoint = Arc::new(Endpoint::new(&url, BASE_DEFAULT, "t").unwrap());
        let dialer = || Dialer::new(Arc::clone(&endpoint), None);
        let mut dialers = Dialers { stream: dialer(), control: dialer() };
        let cancel = Signal::new().unwrap();
        let attempt = Attempt {
            endpoint: &endpoint,
            dialers: &mut dialers,
            cancel: &cancel,
            event_bytes_max: 100,
            hello_timeout,
        };
        let watched = attempt.run(None, None, || ());
        drop(dialers);
        server.join().unwrap();
        watched
    }

    #[test]
    fn neither_comments_nor_other_events_extend_the_time_for_the_hello() {
        for text in [&b":\n\n"[..], b"event: wake\ndata: {}\n\n", b"retry: 1\n"] {
            let watched = watch(text, Duration::from_millis(20));
            let Watched::Refused(ConnectFailure::Other, why) = &watched else {
                panic!("{watched:?}");
            };
            assert_eq!(why, "the server did not answer in time");
        }
    }

    #[test]
    fn an_event_above_the_bound_ends_the_attempt() {
        let watched = watch(b"data: 0123456789\n", Duration::from_secs(60));
        let Watched::Refused(ConnectFailure::Other, why) = &watched else {
            panic!("{watched:?}");
        };
        assert!(why.contains("100 bytes"), "{why}");
    }
}

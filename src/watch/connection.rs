//! One connection to the server, TCP or TLS, whose every wait has a deadline and can be pre-empted.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use std::{fmt, thread};

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use socket2::{Domain, Protocol, Socket, Type};

use super::endpoint::Endpoint;
use super::response::{Body, Head, Malformed, Piece};
use super::signal::{Patience, Signal, Waited};

/// Bytes that one read takes at most.
const READ_BYTES_MAX: usize = 16 << 10;

/// Why a connection is of no use any more.
#[derive(Debug)]
pub(super) enum Fault {
    /// A signal was raised: somebody does not want this any longer.
    Raised,
    TimedOut,
    /// The server ended the connection where more had to come.
    Ended,
    Network(String),
    Malformed(Malformed),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Raised => f.write_str("cancelled"),
            Self::TimedOut => f.write_str("the server did not answer in time"),
            Self::Ended => f.write_str("the server closed the connection early"),
            Self::Network(text) => f.write_str(text),
            Self::Malformed(malformed) => malformed.fmt(f),
        }
    }
}

impl From<Malformed> for Fault {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // Our patience, not the kernel's: that a connection died is another thing than silence.
            io::ErrorKind::TimedOut if error.raw_os_error().is_none() => Self::TimedOut,
            io::ErrorKind::UnexpectedEof => Self::Ended,
            _ => Self::Network(error.to_string()),
        }
    }
}

/// A nonblocking socket that blocks as long as its patience lasts.
#[derive(Debug)]
struct PatientSocket {
    tcp: TcpStream,
    patience: Patience,
}

impl PatientSocket {
    /// Does `operation` as soon as the socket is ready for it.
    fn patiently<T>(
        &self,
        flags: PollFlags,
        mut operation: impl FnMut(&TcpStream) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            match operation(&self.tcp) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                outcome => return outcome,
            }
            match self.patience.wait_for(self.tcp.as_fd(), flags)? {
                Waited::Ready => {}
                Waited::TimedOut => return Err(io::ErrorKind::TimedOut.into()),
                // Not `Interrupted`, after which callers try again.
                Waited::Raised => return Err(io::Error::other("cancelled")),
            }
        }
    }
}

impl Read for PatientSocket {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.patiently(PollFlags::IN, |mut tcp| tcp.read(bytes))
    }
}

impl Write for PatientSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.patiently(PollFlags::OUT, |mut tcp| tcp.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
enum Transport {
    Plain(PatientSocket),
    Tls(Box<StreamOwned<ClientConnection, PatientSocket>>),
}

/// An open connection with the bytes that were read ahead of what was asked for.
#[derive(Debug)]
pub(super) struct Connection {
    transport: Transport,
    /// Received and not yet used.
    ahead: Vec<u8>,
    /// Whether anything has come since the last request was sent.
    has_answered: bool,
}

impl Connection {
    /// Resolves the host and connects to the first of its addresses that answers.
    pub(super) fn open(
        endpoint: &Endpoint,
        tls: Option<&Arc<ClientConfig>>,
        patience: &Patience,
    ) -> Result<Self, Fault> {
        let addresses = resolve(&endpoint.host, endpoint.port, patience)?;
        let mut last = Fault::Network(format!("{} has no address", endpoint.host));
        for (index, address) in addresses.iter().enumerate() {
            // A share of what is left for each, so that one silent address does not use up all.
            let share = patience.deadline.map(|deadline| {
                let now = Instant::now();
                let shares = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
                now + deadline.saturating_duration_since(now) / shares
            });
            let one = Patience { deadline: share, signals: patience.signals.clone() };
            match connect(*address, one) {
                Ok(mut socket) => {
                    socket.patience = patience.clone();
                    let transport = secure(socket, endpoint, tls)?;
                    return Ok(Self { transport, ahead: Vec::new(), has_answered: false });
                }
                Err(Fault::Raised) => return Err(Fault::Raised),
                Err(Fault::Network(text)) => {
                    last = Fault::Network(format!("cannot connect to {address}: {text}"));
                }
                Err(fault) => last = fault,
            }
        }
        Err(last)
    }

    /// For all that is waited for from here on.
    pub(super) fn set_patience(&mut self, patience: Patience) {
        self.socket_mut().patience = patience;
    }

    /// Sends a request and reads the head of its response.
    pub(super) fn request(&mut self, request: &[u8]) -> Result<Head, Fault> {
        self.has_answered = false;
        self.checked(|transport| match transport {
            Transport::Plain(socket) => socket.write_all(request),
            Transport::Tls(stream) => stream.write_all(request).and_then(|()| stream.flush()),
        })?;
        loop {
            if let Some((head, head_bytes)) = Head::parse(&self.ahead)? {
                self.ahead.drain(..head_bytes);
                return Ok(head);
            }
            if !self.fill()? {
                return Err(Fault::Ended);
            }
        }
    }

    /// The next bytes of `body`; `None` at its end, announced or, where it may be so, by the end of
    /// the connection.
    pub(super) fn read(&mut self, body: &mut Body) -> Result<Option<Vec<u8>>, Fault> {
        loop {
            let mut input = self.ahead.as_slice();
            let piece = body.next(&mut input)?;
            let bytes = match piece {
                Some(Piece::Data(data)) => Some(data.to_vec()),
                Some(Piece::End) | None => None,
            };
            let is_ended = piece == Some(Piece::End);
            let used = self.ahead.len() - input.len();
            self.ahead.drain(..used);
            if is_ended || bytes.is_some() {
                return Ok(bytes);
            }
            if !self.fill()? {
                return if body.may_end() { Ok(None) } else { Err(Fault::Ended) };
            }
        }
    }

    /// Whether anything came since the last request was sent.
    pub(super) fn has_answered(&self) -> bool {
        self.has_answered
    }

    /// Whether the connection is silent, as one must be that waits for its next request.
    pub(super) fn is_silent(&mut self) -> bool {
        let now = Patience { deadline: Some(Instant::now()), signals: Vec::new() };
        let waited = now.wait_for(self.socket_mut().tcp.as_fd(), PollFlags::IN);
        self.ahead.is_empty() && matches!(waited, Ok(Waited::TimedOut))
    }

    /// Reads more; false at the end of the connection.
    fn fill(&mut self) -> Result<bool, Fault> {
        // A server that never stops sending must not outrun the deadline or a signal.
        let patience = &self.socket_mut().patience;
        if patience.is_raised() {
            return Err(Fault::Raised);
        }
        if patience.is_over() {
            return Err(Fault::TimedOut);
        }
        let before = self.ahead.len();
        self.ahead.resize(before + READ_BYTES_MAX, 0);
        let ahead = &mut self.ahead[before..];
        let read = match &mut self.transport {
            Transport::Plain(socket) => socket.read(ahead),
            Transport::Tls(stream) => stream.read(ahead),
        };
        self.ahead.truncate(before + *read.as_ref().unwrap_or(&0));
        let read = self.checked(|_| read)?;
        self.has_answered |= read > 0;
        Ok(read > 0)
    }

    /// Does `operation`; if it failed after a signal was raised, it failed for that.
    fn checked<T>(
        &mut self,
        operation: impl FnOnce(&mut Transport) -> io::Result<T>,
    ) -> Result<T, Fault> {
        let outcome = operation(&mut self.transport);
        outcome.map_err(|error| {
            if self.socket_mut().patience.is_raised() { Fault::Raised } else { error.into() }
        })
    }

    fn socket_mut(&mut self) -> &mut PatientSocket {
        match &mut self.transport {
            Transport::Plain(socket) => socket,
            Transport::Tls(stream) => &mut stream.sock,
        }
    }
}

/// The addresses of `host`.
///
/// The system's resolver cannot be interrupted, so it gets a thread that is left behind if it takes
/// too long. Its own timeouts end that thread.
fn resolve(host: &str, port: u16, patience: &Patience) -> Result<Vec<SocketAddr>, Fault> {
    if let Ok(address) = host.parse() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let done = Signal::new()?;
    let (sender, receiver) = mpsc::channel();
    let query = (host.to_owned(), port);
    let raised = done.clone();
    thread::Builder::new().name("watch-resolve".into()).spawn(move || {
        let addresses = std::net::ToSocketAddrs::to_socket_addrs(&query);
        // Nobody listens any more if it took too long.
        let _ = sender.send(addresses.map(Vec::from_iter));
        raised.raise();
    })?;
    let mut with_done = patience.clone();
    with_done.signals.push(done);
    match with_done.sleep()? {
        _ if patience.is_raised() => Err(Fault::Raised),
        Waited::TimedOut => Err(Fault::TimedOut),
        _ => match receiver.recv() {
            Ok(Ok(addresses)) => Ok(addresses),
            Ok(Err(error)) => Err(Fault::Network(format!("cannot resolve {host}: {error}"))),
            Err(_) => Err(Fault::Network(format!("cannot resolve {host}"))),
        },
    }
}

fn connect(address: SocketAddr, patience: Patience) -> Result<PatientSocket, Fault> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&address.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => {
            match patience.wait_for(socket.as_fd(), PollFlags::OUT)? {
                Waited::Raised => return Err(Fault::Raised),
                Waited::TimedOut => return Err(Fault::TimedOut),
                Waited::Ready => {}
            }
            if let Some(error) = socket.take_error()? {
                return Err(error.into());
            }
        }
        Err(error) => return Err(error.into()),
    }
    Ok(PatientSocket { tcp: socket.into(), patience })
}

/// Does the handshake of TLS, if the URL asks for it.
fn secure(
    mut socket: PatientSocket,
    endpoint: &Endpoint,
    tls: Option<&Arc<ClientConfig>>,
) -> Result<Transport, Fault> {
    let Some(tls) = tls else { return Ok(Transport::Plain(socket)) };
    let name = ServerName::try_from(endpoint.host.clone())
        .map_err(|_| Fault::Network(format!("{} cannot be in a certificate", endpoint.host)))?;
    let mut session = ClientConnection::new(Arc::clone(tls), name)
        .map_err(|error| Fault::Network(error.to_string()))?;
    while session.is_handshaking() {
        if let Err(error) = session.complete_io(&mut socket) {
            return Err(match error.kind() {
                _ if socket.patience.is_raised() => Fault::Raised,
                io::ErrorKind::TimedOut => Fault::TimedOut,
                _ => Fault::Network(format!("no TLS with {}: {error}", endpoint.host)),
            });
        }
    }
    Ok(Transport::Tls(Box::new(StreamOwned::new(session, socket))))
}

/// How long a connection may wait for its next request.
const IDLE_MAX: Duration = Duration::from_secs(90);

/// Bytes of a body that is read as a whole.
const BODY_BYTES_MAX: usize = 64 << 10;

/// A response with its whole body.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) head: Head,
    pub(super) body: Vec<u8>,
}

/// Opens connections to one server, and keeps one that is not in use.
#[derive(Debug)]
pub(super) struct Dialer {
    endpoint: Arc<Endpoint>,
    tls: Option<Arc<ClientConfig>>,
    idle: Option<(Connection, Instant)>,
}

impl Dialer {
    /// `tls` for endpoints of `https` URLs, and only for them.
    pub(super) fn new(endpoint: Arc<Endpoint>, tls: Option<Arc<ClientConfig>>) -> Self {
        Self { endpoint, tls, idle: None }
    }

    /// The same for another thread, which gets the kept connection.
    pub(super) fn lend(&mut self) -> Self {
        let Self { endpoint, tls, idle } = self;
        Self { endpoint: Arc::clone(endpoint), tls: tls.clone(), idle: idle.take() }
    }

    /// Sends `request` and reads the head of the response, on the kept connection if it still lives.
    ///
    /// A server may close a kept connection at any time. If one ends before anything of the response
    /// came, the request is sent once more on a new one: all requests of this protocol may be repeated.
    pub(super) fn request(
        &mut self,
        request: &[u8],
        patience: &Patience,
    ) -> Result<(Connection, Head), Fault> {
        let kept = self.idle.take().filter(|(_, since)| since.elapsed() < IDLE_MAX);
        if let Some(mut connection) = kept.map(|(connection, _)| connection)
            && connection.is_silent()
        {
            connection.set_patience(patience.clone());
            match connection.request(request) {
                Ok(head) => return Ok((connection, head)),
                Err(Fault::Ended | Fault::Network(_)) if !connection.has_answered() => {}
                Err(fault) => return Err(fault),
            }
        }
        let mut connection = Connection::open(&self.endpoint, self.tls.as_ref(), patience)?;
        let head = connection.request(request)?;
        Ok((connection, head))
    }

    /// Reads the rest of a response, whose connection is kept if it can be.
    pub(super) fn finish(
        &mut self,
        mut connection: Connection,
        head: Head,
    ) -> Result<Answer, Fault> {
        let mut reader = head.body();
        let mut body = Vec::new();
        while let Some(bytes) = connection.read(&mut reader)? {
            body.extend_from_slice(&bytes);
            if body.len() > BODY_BYTES_MAX {
                return Err(Malformed("body of a response above 64 KiB").into());
            }
        }
        self.keep(connection, &head);
        Ok(Answer { head, body })
    }

    /// Keeps a connection whose response has been read to its end.
    pub(super) fn keep(&mut self, connection: Connection, head: &Head) {
        if head.keep_alive {
            self.idle = Some((connection, Instant::now()));
        }
    }

    /// Sends a request and reads the whole response.
    pub(super) fn ask(&mut self, request: &[u8], patience: &Patience) -> Result<Answer, Fault> {
        let (connection, head) = self.request(request, patience)?;
        self.finish(connection, head)
    }
}

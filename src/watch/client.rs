//! The client as its owner holds it: how it is built, asked for wakes, and cancelled.

use std::error::Error;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use std::{fmt, io, thread};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::connection::Dialer;
use super::endpoint::{BASE_DEFAULT, Endpoint};
use super::messages::{DeviceInfo, Wake};
use super::signal::Signal;
use super::sse::EVENT_BYTES_MAX;
use super::stream::Dialers;
use super::worker::{Options, Worker};
use super::{Retry, Status, Stopped};

/// Why a client cannot be made.
#[derive(Debug)]
pub enum BuildError {
    /// The URL, the base or the token is of no use; why.
    Endpoint(&'static str),
    /// There is no certificate to check the server's with; what was found instead.
    Certificates(String),
    /// The system gave no thread or no descriptor.
    System(io::Error),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint(text) => f.write_str(text),
            Self::Certificates(text) => write!(f, "no certificates to trust: {text}"),
            Self::System(error) => write!(f, "cannot start the watch client: {error}"),
        }
    }
}

impl Error for BuildError {}

impl From<io::Error> for BuildError {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// What a client is made of; begun by [`Client::builder`].
#[must_use = "a builder builds nothing by itself"]
pub struct Builder {
    url: String,
    token: String,
    base: String,
    certificates: Option<Vec<u8>>,
    options: Options,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Builder {
    /// The path of the watches instead of [`BASE_DEFAULT`], behind the path of the URL.
    pub fn base(mut self, base: impl Into<String>) -> Self {
        self.base = base.into();
        self
    }

    /// Trusts these certificates (PEM) instead of the system's. By default the system's store decides,
    /// and `SSL_CERT_FILE` and `SSL_CERT_DIR` replace it.
    pub fn certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.certificates = Some(pem.into());
        self
    }

    /// Extends every wait before an attempt, those of zero length too, by a random time up to this
    /// one. Off by default. With it, a server that loses many streams at once is asked again over a
    /// span of time rather than in one moment.
    pub fn jitter(mut self, jitter_max: Duration) -> Self {
        self.options.jitter_max = jitter_max;
        self
    }

    /// Begins attempts to watch at least this far apart, wakes between them included. Off by default:
    /// a server that ends every stream at once is asked again without delay, as the protocol says.
    pub fn spacing(mut self, spacing_min: Duration) -> Self {
        self.options.spacing_min = spacing_min;
        self
    }

    /// Ends a stream that sends an event above this many bytes, instead of [`EVENT_BYTES_MAX`].
    pub fn event_bytes_max(mut self, event_bytes_max: usize) -> Self {
        self.options.event_bytes_max = event_bytes_max;
        self
    }

    /// Called with every change of the status, on the client's thread: it must not block. A panic of it
    /// ends the client.
    pub fn on_status(mut self, on_status: impl FnMut(Status) + Send + 'static) -> Self {
        self.options.on_status = Box::new(on_status);
        self
    }

    /// Called before every retry, in the same way.
    pub fn on_retry(mut self, on_retry: impl FnMut(&Retry) + Send + 'static) -> Self {
        self.options.on_retry = Box::new(on_retry);
        self
    }

    /// Starts the client's thread. Nothing is sent before the first wake is asked for.
    ///
    /// # Errors
    ///
    /// The URL, the base or the token is malformed, or the system lacks certificates or threads.
    pub fn build(self) -> Result<Client, BuildError> {
        let Self { url, token, base, certificates, options } = self;
        let endpoint = Endpoint::new(&url, &base, &token).map_err(BuildError::Endpoint)?;
        let tls = if endpoint.is_tls { Some(tls(certificates.as_deref())?) } else { None };
        let endpoint = Arc::new(endpoint);
        let dialer = || Dialer::new(Arc::clone(&endpoint), tls.clone());
        let (answers, receiver) = async_channel::bounded(1);
        let cancel = CancelHandle(Signal::new()?);
        let ask = Signal::new()?;
        let device = Arc::new(OnceLock::new());
        let worker = Worker {
            dialers: Dialers { stream: dialer(), control: dialer() },
            endpoint,
            options,
            cancel: cancel.0.clone(),
            ask: ask.clone(),
            answers,
            device: Arc::clone(&device),
            session_id: None,
            last_attempt: None,
            status: None,
        };
        thread::Builder::new().name("watch".into()).spawn(move || worker.run())?;
        Ok(Client { cancel, ask, is_asked: false, answers: receiver, device, stopped: None })
    }
}

/// The configuration of TLS that trusts `certificates`, or else the system's.
fn tls(certificates: Option<&[u8]>) -> Result<Arc<ClientConfig>, BuildError> {
    let mut roots = RootCertStore::empty();
    let mut complaint = String::from("the system's store is empty");
    if let Some(pem) = certificates {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let found = found.map_err(|error| BuildError::Certificates(error.to_string()))?;
        "the given ones hold none".clone_into(&mut complaint);
        roots.add_parsable_certificates(found);
    } else {
        let found = rustls_native_certs::load_native_certs();
        if let Some(error) = found.errors.first() {
            complaint = error.to_string();
        }
        roots.add_parsable_certificates(found.certs);
    }
    if roots.is_empty() {
        return Err(BuildError::Certificates(complaint));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| BuildError::Certificates(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Ends a client from anywhere.
#[derive(Clone, Debug)]
pub struct CancelHandle(Signal);

impl CancelHandle {
    /// Whatever the client waits for, it stops waiting. Safe to call more than once.
    pub fn cancel(&self) {
        self.0.raise();
    }
}

/// A device that watches. Dropped, it is cancelled, without waiting for the end.
#[derive(Debug)]
pub struct Client {
    cancel: CancelHandle,
    /// Raised to ask for a wake.
    ask: Signal,
    /// Whether a wake was asked for and not yet received.
    is_asked: bool,
    answers: async_channel::Receiver<Result<Wake, Stopped>>,
    device: Arc<OnceLock<DeviceInfo>>,
    stopped: Option<Stopped>,
}

impl Client {
    /// Begins a client for the server at `url` (`https://host[:port][/prefix]`; plain `http` shows the
    /// token to the network) and the device that `token` stands for.
    pub fn builder(url: impl Into<String>, token: impl Into<String>) -> Builder {
        Builder {
            url: url.into(),
            token: token.into(),
            base: BASE_DEFAULT.into(),
            certificates: None,
            options: Options {
                jitter_max: Duration::ZERO,
                spacing_min: Duration::ZERO,
                event_bytes_max: EVENT_BYTES_MAX,
                on_status: Box::new(|_| ()),
                on_retry: Box::new(|_| ()),
            },
        }
    }

    /// Watches until the device is wanted. The device watches while this is awaited, and not between two
    /// calls: join the session, and ask again after it.
    ///
    /// Dropping the future does not end the watch: the next call goes on with it, and no wake is lost.
    ///
    /// # Errors
    ///
    /// The client has stopped, for good: every later call says so too.
    pub async fn next_wake(&mut self) -> Result<Wake, Stopped> {
        self.ask()?;
        let answer = self.answers.recv().await;
        self.accept(answer)
    }

    /// The same for a thread that runs no executor; it blocks.
    ///
    /// # Errors
    ///
    /// As of [`Client::next_wake`].
    pub fn next_wake_blocking(&mut self) -> Result<Wake, Stopped> {
        self.ask()?;
        let answer = self.answers.recv_blocking();
        self.accept(answer)
    }

    /// Which device the token stands for. Known from the first connect on.
    pub fn device(&self) -> Option<&DeviceInfo> {
        self.device.get()
    }

    /// A handle that ends this client from elsewhere.
    pub fn cancel_handle(&self) -> CancelHandle {
        self.cancel.clone()
    }

    /// Ends the client and waits until nothing of it is left.
    pub async fn shutdown(self) {
        self.cancel.cancel();
        while self.answers.recv().await.is_ok() {}
    }

    /// The same for a thread that runs no executor; it blocks.
    pub fn shutdown_blocking(self) {
        self.cancel.cancel();
        while self.answers.recv_blocking().is_ok() {}
    }

    fn ask(&mut self) -> Result<(), Stopped> {
        if let Some(stopped) = self.stopped {
            return Err(stopped);
        }
        if !self.is_asked {
            self.is_asked = true;
            self.ask.raise();
        }
        Ok(())
    }

    fn accept(
        &mut self,
        answer: Result<Result<Wake, Stopped>, async_channel::RecvError>,
    ) -> Result<Wake, Stopped> {
        self.is_asked = false;
        let gone = if self.cancel.0.is_raised() { Stopped::Cancelled } else { Stopped::Panicked };
        let outcome = answer.unwrap_or(Err(gone));
        self.stopped = outcome.as_ref().err().copied();
        outcome
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build_error(builder: Builder) -> String {
        builder.build().unwrap_err().to_string()
    }

    #[test]
    fn what_cannot_work_is_said_at_once() {
        assert!(build_error(Client::builder("devices.example", "t")).contains("https://"));
        assert!(build_error(Client::builder("http://a", "")).contains("token"));
        assert!(build_error(Client::builder("http://a", "t").base("x")).contains("base"));
        let text = build_error(Client::builder("https://a", "t").certificates("none"));
        assert!(text.contains("certificates"), "{text}");
    }

    #[test]
    fn the_token_is_not_in_debug_output() {
        let builder = Client::builder("http://a", "tide-7f3a");
        assert!(!format!("{builder:?}").contains("7f3a"));
        assert!(!format!("{:?}", builder.build().unwrap()).contains("7f3a"));
    }
}

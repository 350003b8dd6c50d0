//! The server: starts, pins, drains and joins the shards.

mod direct;
mod handle;
mod proxies;
mod tokens;

pub use handle::Handle;
pub(crate) use tokens::token_options;

use std::{
    fmt,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use crossbeam_channel::{Receiver, Sender, bounded};
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};

use self::{
    proxies::{Proxies, Ways},
    tokens::Verifiers,
};
use crate::{
    api::{ErrorMode, ProcessStats},
    auth::{DeviceTable, Devices, SignedDevices, Verdict},
    backend::{self, Backend, Bounds, Trust, Workers},
    config::{self, Config, Fault},
    core::{Endpoint, Endpoints, OutsideCall, Process, Route, Settings, WatchSettings},
    hub::HashKey,
    limits::{CLOSE_TIMEOUT_MS, LINK_ENTRIES, SHARDS_MAX},
    protocol::{Keepalive, Now, Refusal, Upgrade, centrifuge::Policy, handler::Handler},
    proxy::{BackendAnswer, ProxyId},
    shard::{self, Command, Mailbox, Threads, links, sleep::Sleeper},
    sys::{cpu, doorbell::Doorbell, requirements, ring::Sizes, sockets},
};

/// Commands of other threads that one shard has not taken yet.
const MAILBOX_COMMANDS: usize = 16_384;
/// Connections that the kernel completed and a shard has not accepted yet.
const LISTEN_BACKLOG: i32 = 16_384;
/// How long a port may be in use by a server that was killed just before.
const PORT_RELEASE: Duration = Duration::from_secs(2);
/// Pause between two looks at whether the shards still turn; each does at least once a second.
const LOOK: Duration = Duration::from_secs(2);
/// A shard that made no turn in so many looks stands still for good.
const STALLED_LOOKS: u32 = 5;
/// The longest that anything lasts. An embedder's durations may be without any end; from here on that
/// makes no difference, and no deadline is beyond what the clocks can say.
const DURATION_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Milliseconds that an HTTP connection may wait between requests, at least.
const IDLE_TIMEOUT_MS: u64 = 75_000;
/// The proxy that knows device tokens, in the list of all proxies.
const DEVICES: ProxyId = ProxyId(0);
/// What is said when an executor ended before its shard began.
const EXECUTOR_FAILED: &str = "a shard's executor did not start (what it said stands above); most likely \
     locked memory is short: raise `ulimit -l` or LimitMEMLOCK=, see tuning/check";
/// What glommio registers for its own rings, of which tiderace uses none: its default is 10 MiB.
const EXECUTOR_MEMORY_BYTES: usize = 64 << 10;

/// Why a server did not start.
#[derive(Debug)]
pub enum Error {
    /// The machine lacks something; each problem says what to do.
    Requirements(Vec<requirements::Problem>),
    /// The table of devices cannot be used; the text says where and why.
    Devices(String),
    /// Tokens cannot be verified as configured; the text names the option.
    Tokens(String),
    /// A proxy to the backend cannot be used; the text says which and why.
    Backend(String),
    /// The address cannot be listened on; the text says why and what to do.
    Listen(String),
    /// A shard did not start.
    Shard(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requirements(problems) => {
                let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
                f.write_str(&lines.join("\n"))
            }
            Self::Devices(text)
            | Self::Tokens(text)
            | Self::Backend(text)
            | Self::Listen(text)
            | Self::Shard(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {}

/// A server that has not started.
pub struct Builder {
    config: Config,
    page: Option<&'static str>,
    routes: Vec<Route>,
}

impl Builder {
    /// A page for `GET /`; `{{API_KEY}}` in it becomes the key of the HTTP API.
    #[must_use]
    pub fn page(mut self, html: &'static str) -> Self {
        self.page = Some(html);
        self
    }

    /// A WebSocket endpoint of the embedder's own at exactly this path; a built-in path is replaced.
    ///
    /// `handler` sees each handshake before it is answered: path, query, headers, cookies, and the
    /// subprotocols that are offered. It makes the connection's handler, or refuses with a status and
    /// a JSON body. It is called on the connection's shard, which waits for it: it must not block, as
    /// the handler itself must not. What is no sound handshake (RFC 6455 section 4.2.1), or comes from
    /// an origin that `client.allowed_origins` does not allow, never gets there.
    #[must_use]
    pub fn websocket<H: Handler + 'static>(
        mut self,
        path: &str,
        handler: impl Fn(&Upgrade<'_>) -> Result<H, Refusal> + Send + Sync + 'static,
    ) -> Self {
        let handler = Arc::new(move |upgrade: &Upgrade<'_>| {
            handler(upgrade).map(|handler| Box::new(handler) as Box<dyn Handler>)
        });
        self.routes.push(Route { path: path.into(), handler });
        self
    }

    /// Checks the machine, listens, and starts the shards.
    ///
    /// # Errors
    /// What is missing, in words that say what to do. Nothing runs then.
    pub fn start(self) -> Result<Server, Error> {
        let cpus = cpu::available().map_err(|error| Error::Shard(error.to_string()))?;
        let shards = self.config.shards.map_or(cpus.len(), Into::into).min(SHARDS_MAX);
        let wanted = self.config.client.connection_limit.map_or(0, Into::into);
        let (fatal, warnings): (Vec<_>, Vec<_>) =
            requirements::check(wanted, shards).into_iter().partition(|problem| problem.fatal);
        for problem in warnings {
            tracing::warn!("{problem}");
        }
        if !fatal.is_empty() {
            return Err(Error::Requirements(fatal));
        }
        let (address, listeners) = listen(self.config.http_server.listen(), shards)?;
        let epoch = Instant::now();
        let sizes = Sizes {
            submission_entries: 1_024,
            completion_entries: 16_384,
            receive_buffers: self.config.engine.receive_buffers,
            receive_buffer_bytes: self.config.engine.receive_buffer_bytes,
        };
        let shutdown_timeout = self.config.shutdown.timeout.min(DURATION_MAX);
        let token = &self.config.watch.token;
        let devices_file = token.table_file.as_deref().filter(|_| self.config.watch.enabled);
        let devices_file = devices_file.map(Arc::from);
        let backend = devices_proxy(&self.config)
            .map(|proxy| Backend::new(&[proxy], &Trust::System, Bounds::default()))
            .transpose()
            .map_err(Error::Backend)?;
        let mut threads = Threads {
            devices: backend.as_ref().map(|(backend, _)| (backend.clone(), DEVICES)),
            ..Threads::default()
        };
        let proxies = Proxies::new(&self.config)?;
        let key_sets = tokens::key_sets(&self.config.client);
        let process = Arc::new(self.process(shards, &proxies)?);
        let Ways { backend: proxied, notifiers } = proxies.start()?;
        threads.notifiers = notifiers;
        threads.backend = proxied.as_ref().map(|(backend, _)| backend.clone());
        tokens::fetch(key_sets, &process, &mut threads)?;
        let crews = Crews {
            devices: backend.map(|(_, workers)| workers),
            backend: proxied.map(|(_, workers)| workers),
        };
        let mailboxes = Arc::from([]);
        let mut server = Server {
            address,
            handle: Handle { process: Arc::clone(&process), mailboxes, devices_file },
            shards: Vec::new(),
            shutdown_timeout,
            watchdog: None,
        };
        server.start_shards(process, listeners, &cpus, sizes, epoch, threads)?;
        crews.start(&server.handle)?;
        Ok(server)
    }

    fn process(self, shards: usize, proxies: &Proxies) -> Result<Process, Error> {
        let random = random_bytes();
        let half = |at: usize| u64::from_le_bytes(random[at..at + 8].try_into().expect("8 bytes"));
        let uid = uuid::Builder::from_random_bytes(random[16..].try_into().expect("16 bytes"))
            .into_uuid()
            .to_string();
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let watch =
            watch_settings(&self.config).map_err(|fault| Error::Devices(fault.to_string()))?;
        let verifiers = tokens::verifiers(&self.config.client)
            .map_err(|fault| Error::Tokens(fault.to_string()))?;
        let mut settings =
            settings(self.config, verifiers, proxies, watch, self.page, self.routes, uid.clone());
        settings.connections_max = settings.connections_max.min(descriptors(shards));
        Ok(Process {
            key: HashKey(half(0), half(8)),
            shards,
            connections: AtomicUsize::new(0),
            refusals: AtomicUsize::new(0),
            started: Now { monotonic_ms: 0, unix_s: unix.as_secs() },
            settings,
            epoch_prefix: uid[..8].into(),
            uid,
        })
    }
}

/// Threads that ask backends and have not been started.
struct Crews {
    devices: Option<Workers>,
    backend: Option<Workers>,
}

impl Crews {
    /// Starts them; what they are told goes to the shards of this server.
    fn start(self, handle: &Handle) -> Result<(), Error> {
        let deliver = |call: fn(u64, BackendAnswer) -> OutsideCall| {
            let mailboxes = Arc::clone(&handle.mailboxes);
            move |shard: u16, id: u64, answer: BackendAnswer| {
                let call = call(id, answer);
                mailboxes[usize::from(shard)].send_waiting(Command::Call { call, reply: None });
            }
        };
        let refuse = |error| Error::Shard(format!("no thread for the backend: {error}"));
        if let Some(workers) = self.devices {
            let verified = |id, answer| {
                let verdict = match answer {
                    BackendAnswer::Device(verdict) => verdict,
                    _ => Verdict::Unavailable,
                };
                OutsideCall::Verified { id, verdict }
            };
            workers.start(deliver(verified)).map_err(refuse)?;
        }
        if let Some(workers) = self.backend {
            let answered = |id, answer| OutsideCall::Answered { id, answer };
            workers.start(deliver(answered)).map_err(refuse)?;
        }
        Ok(())
    }
}

/// Whether proxies, tokens and devices can be used as they are configured; nothing is started.
///
/// # Errors
/// The option for which the server would refuse to start.
pub(crate) fn check(config: &Config) -> Result<(), Fault> {
    tokens::verifiers(&config.client)?;
    Proxies::of(config).check()?;
    if let Some(proxy) = devices_proxy(config) {
        proxies::check_endpoint(proxy.name.clone(), &proxy)?;
    }
    watch_settings(config).map(|_| ())
}

/// The proxy that knows device tokens, if there is one.
fn devices_proxy(config: &Config) -> Option<backend::Proxy> {
    let token = &config.watch.token;
    Some(backend::Proxy {
        name: "watch.token.proxy_endpoint".into(),
        endpoint: token.proxy_endpoint.clone().filter(|_| config.watch.enabled)?,
        timeout: token.proxy_timeout.min(DURATION_MAX),
        ..backend::Proxy::default()
    })
}

/// The table of devices in `watch.token.table_file`.
fn read_devices(file: &str) -> Result<Devices, Fault> {
    let refuse = |error| Fault::new("watch.token.table_file", format!("{file}: {error}"));
    let json = std::fs::read(file).map_err(|error| refuse(error.to_string()))?;
    let random = random_bytes();
    let half = |at: usize| u64::from_le_bytes(random[at..at + 8].try_into().expect("8 bytes"));
    Ok(Devices::Table(DeviceTable::parse(&json, (half(0), half(8))).map_err(refuse)?))
}

/// Milliseconds of a configured duration.
fn ms(duration: Duration) -> u64 {
    duration.min(DURATION_MAX).as_millis() as u64
}

/// Watching in the units of the core, if it is enabled.
fn watch_settings(config: &Config) -> Result<Option<WatchSettings>, Fault> {
    let config::Watch { enabled, base_path, token, .. } = &config.watch;
    if !enabled {
        return Ok(None);
    }
    let devices = match (&token.hmac_secret_key, &token.table_file) {
        (Some(key), _) => Devices::Signed(Box::new(SignedDevices::new(key.expose()))),
        (None, Some(file)) => read_devices(file)?,
        (None, None) => Devices::Backend,
    };
    Ok(Some(WatchSettings {
        watch_path: format!("{base_path}/watch"),
        heartbeat_path: format!("{base_path}/watch/heartbeat"),
        device_info_path: config.watch.device_info_path.clone(),
        devices,
        lease_ttl_ms: ms(config.watch.lease_ttl),
        heartbeat_interval_ms: ms(config.watch.heartbeat_interval),
        device_wait_ms: ms(config.watch.device_wait_for_viewer),
        drain_spread_ms: drain_spread_ms(ms(config.shutdown.timeout)),
    }))
}

/// Milliseconds over which a drain of `timeout_ms` sends devices away: three quarters, or what leaves
/// those that leave last, and never answer a FIN, the time to be gone. That is half, at least.
fn drain_spread_ms(timeout_ms: u64) -> u64 {
    let rest_ms = (CLOSE_TIMEOUT_MS + 1_000).min(timeout_ms / 2).max(timeout_ms / 4);
    timeout_ms - rest_ms
}

/// Descriptors that are left for connections.
fn descriptors(shards: usize) -> usize {
    let open_files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let open_files = open_files.map_or(usize::MAX, |limit| limit as usize);
    open_files.saturating_sub(requirements::reserved_descriptors(shards))
}

/// The configuration in the units of the core.
fn settings(
    config: Config,
    verifiers: Verifiers,
    proxies: &Proxies,
    watch: Option<WatchSettings>,
    page: Option<&str>,
    routes: Vec<Route>,
    uid: String,
) -> Settings {
    let endpoints = endpoints(&config);
    let keepalive = Keepalive {
        ping_interval_ms: ms(config.handlers.ping_interval),
        silence_timeout_ms: ms(config.handlers.silence_timeout),
    };
    let client = config.client;
    let api_key = config.http_api.key.as_ref().map(|key| key.expose().to_owned());
    let page = page.map(|html| html.replace("{{API_KEY}}", &script_text(api_key.as_deref())));
    Settings {
        connections_max: client.connection_limit.map_or(usize::MAX, usize::from),
        queue_bytes_max: client.queue_max_size,
        history_bytes_max: config.engine.history_bytes_max,
        recovery_publications_max: client.recovery_max_publication_limit,
        user_connections_max: client.user_connection_limit.map(Into::into),
        single_connection: client.subscribe_to_user_personal_channel.enabled
            && client.subscribe_to_user_personal_channel.single_connection,
        message_bytes_max: config.websocket.message_size_limit,
        body_bytes_max: config.http_api.max_request_body_size,
        subscriptions_max: client.channel_limit,
        request_timeout_ms: ms(client.stale_close_delay).max(1),
        // Heartbeats of an agent share a connection: it outlives the pause between them.
        idle_timeout_ms: watch
            .as_ref()
            .map_or(0, |watch| watch.heartbeat_interval_ms + 30_000)
            .max(IDLE_TIMEOUT_MS),
        notices: proxies.notifies(),
        policy: Policy {
            insecure: client.insecure,
            anonymous: client.allow_anonymous_connect_without_token,
            disallow_anonymous_tokens: client.disallow_anonymous_connection_tokens,
            user_id_header: client.user_id_http_header,
            proxies: proxies.routes.clone(),
            tokens: verifiers.connections,
            subscription_tokens: verifiers.subscriptions,
            ping_interval_ms: ms(client.ping_interval),
            pong_timeout_ms: ms(client.pong_timeout),
            stale_close_ms: ms(client.stale_close_delay),
            channels: Arc::new(config.channel.channels()),
            history_publications_max: client.history_max_publication_limit,
            personal_namespace: Some(client.subscribe_to_user_personal_channel)
                .filter(|personal| personal.enabled)
                .map(|personal| personal.personal_channel_namespace),
            expired_close_delay_s: ms(client.expired_close_delay) / 1000,
            expired_sub_close_delay_s: ms(client.expired_sub_close_delay) / 1000,
            version: env!("CARGO_PKG_VERSION").into(),
            node: uid,
        },
        allowed_origins: client.allowed_origins,
        api_key,
        api_insecure: config.http_api.insecure,
        api_enabled: !config.http_api.disabled,
        api_prefix: config.http_api.handler_prefix,
        api_error_mode: match config.http_api.error_mode {
            config::ErrorMode::Body => ErrorMode::Body,
            config::ErrorMode::Transport => ErrorMode::Transport,
        },
        watch,
        metrics_path: Some(config.prometheus.handler_prefix).filter(|_| config.prometheus.enabled),
        health_path: Some(config.health.handler_prefix).filter(|_| config.health.enabled),
        page,
        endpoints,
        routes,
        keepalive,
        node_name: Some(config.node.name).filter(|name| !name.is_empty()).unwrap_or_else(node_name),
        process_stats,
    }
}

/// Where clients connect.
fn endpoints(config: &Config) -> Endpoints {
    let at = |enabled: bool, path: &str, body_bytes_max: usize| {
        enabled.then(|| Endpoint { path: path.to_owned(), body_bytes_max })
    };
    let Config { websocket, sse, http_stream, uni_websocket, uni_sse, uni_http_stream, .. } =
        config;
    let (emulation, events) = (&config.emulation, &config.events);
    let below = format!("{}/", events.handler_prefix.trim_end_matches('/'));
    Endpoints {
        websocket: at(!websocket.disabled, &websocket.handler_prefix, websocket.message_size_limit),
        sse: at(sse.enabled, &sse.handler_prefix, sse.max_request_body_size),
        http_stream: at(
            http_stream.enabled,
            &http_stream.handler_prefix,
            http_stream.max_request_body_size,
        ),
        emulation: at(
            sse.enabled || http_stream.enabled,
            &emulation.handler_prefix,
            emulation.max_request_body_size,
        ),
        uni_websocket: at(
            uni_websocket.enabled,
            &uni_websocket.handler_prefix,
            uni_websocket.message_size_limit,
        ),
        uni_sse: at(uni_sse.enabled, &uni_sse.handler_prefix, uni_sse.max_request_body_size),
        uni_http_stream: at(
            uni_http_stream.enabled,
            &uni_http_stream.handler_prefix,
            uni_http_stream.max_request_body_size,
        ),
        events: at(events.enabled, &below, 0),
    }
}

/// A key as the inside of a string literal of a script in a page.
fn script_text(key: Option<&str>) -> String {
    let quoted = serde_json::to_string(key.unwrap_or("")).expect("a string is always JSON");
    quoted[1..quoted.len() - 1].replace('<', "\\u003c")
}

/// What the process uses: resident memory now, CPU on average since its start.
fn process_stats(uptime: Duration) -> ProcessStats {
    let own = std::process::id();
    let rss_bytes = cpu::resident_bytes(own).unwrap_or(0);
    let seconds = cpu::process_seconds(own).unwrap_or(0.0);
    ProcessStats { cpu_percent: 100.0 * seconds / uptime.as_secs_f64().max(0.001), rss_bytes }
}

fn node_name() -> String {
    let system = rustix::system::uname();
    format!("{}_{}", system.nodename().to_string_lossy(), std::process::id())
}

fn random_bytes() -> [u8; 32] {
    let mut bytes = [0; 32];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    assert_eq!(filled, Ok(bytes.len()), "the kernel's random generator is up");
    bytes
}

/// Finds out that nobody listens on `wanted`. A server that was killed may still: the kernel
/// dismantles its rings, which hold the listeners, a moment after the process is gone.
fn await_port(wanted: SocketAddr) -> std::io::Result<()> {
    let until = Instant::now() + PORT_RELEASE;
    loop {
        match sockets::listener(wanted, false, 1) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                if Instant::now() >= until {
                    return Err(error);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(error),
        }
    }
}

/// One listening socket per shard. The first is bound alone, because a port that another process
/// listens on with SO_REUSEPORT would silently be shared.
fn listen(wanted: SocketAddr, shards: usize) -> Result<(SocketAddr, Vec<TcpListener>), Error> {
    let failed = |error| Error::Listen(requirements::explain_bind(wanted, &error));
    if wanted.port() != 0 {
        await_port(wanted).map_err(failed)?;
    }
    let first = sockets::listener(wanted, true, LISTEN_BACKLOG).map_err(failed)?;
    let address = first.local_addr().map_err(failed)?;
    let mut listeners = vec![first];
    for _ in 1..shards {
        listeners.push(sockets::listener(address, true, LISTEN_BACKLOG).map_err(failed)?);
    }
    Ok((address, listeners))
}

/// A running server. Dropping it without [`Server::shutdown`] leaves it running.
pub struct Server {
    address: SocketAddr,
    handle: Handle,
    shards: Vec<ExecutorJoinHandle<()>>,
    shutdown_timeout: Duration,
    watchdog: Option<Sender<()>>,
}

impl Server {
    /// A server with this configuration.
    pub fn builder(config: Config) -> Builder {
        Builder { config, page: None, routes: Vec::new() }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The way in for any thread of this process.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    fn start_shards(
        &mut self,
        process: Arc<Process>,
        listeners: Vec<TcpListener>,
        cpus: &[usize],
        sizes: Sizes,
        epoch: Instant,
        threads: Threads,
    ) -> Result<(), Error> {
        let shards = process.shards;
        let rings: Arc<Vec<OnceLock<_>>> = Arc::new((0..shards).map(|_| OnceLock::new()).collect());
        let sleepers: Vec<_> = (0..shards).map(|_| Arc::new(Sleeper::new())).collect();
        let mut gates = Vec::with_capacity(shards);
        let mut mailboxes = Vec::with_capacity(shards);
        let mut turns = Vec::with_capacity(shards);
        let ports = links::mesh(shards, LINK_ENTRIES);
        for (shard, (listener, ports)) in listeners.into_iter().zip(ports).enumerate() {
            let (sender, commands) = bounded(MAILBOX_COMMANDS);
            let doorbell = Doorbell::new().map_err(|error| Error::Shard(error.to_string()))?;
            let sleeper = Arc::clone(&sleepers[shard]);
            mailboxes.push(Mailbox::new(sender, doorbell.clone(), sleeper));
            let (ready, readiness) = bounded(1);
            let (open, go) = bounded(1);
            gates.push((readiness, open));
            let counter = Arc::new(AtomicU64::new(0));
            turns.push(Arc::clone(&counter));
            let start = shard::Start {
                shard: shard as u16,
                process: Arc::clone(&process),
                seed: random_bytes(),
                sizes,
                listener,
                ports,
                sleepers: sleepers.clone(),
                rings: Arc::clone(&rings),
                go,
                commands,
                doorbell,
                threads: threads.clone(),
                turns: counter,
                epoch,
                ready,
            };
            let executor = LocalExecutorBuilder::new(Placement::Fixed(cpus[shard % cpus.len()]))
                .name(&format!("shard-{shard}"))
                .io_memory(EXECUTOR_MEMORY_BYTES)
                .ring_depth(16)
                .spawn(move || async move {
                    let _guard = AbortOnPanic;
                    shard::run(start).await;
                })
                .map_err(|error| Error::Shard(format!("shard {shard} did not start: {error}")))?;
            self.shards.push(executor);
        }
        // Those who wait for the others end when an error drops their gate.
        for (readiness, _) in &gates {
            readiness.recv().map_err(|_| Error::Shard(EXECUTOR_FAILED.into()))?.map_err(
                |error| Error::Shard(format!("a shard's io_uring was not made: {error}")),
            )?;
        }
        for (_, open) in gates {
            open.send(()).expect("a shard that is ready waits for this");
        }
        self.handle.mailboxes = mailboxes.into();
        self.watchdog = Some(watch(turns));
        Ok(())
    }

    /// Ends the server: no new connections, publishes refused, what was acknowledged delivered,
    /// clients closed with 3001, handlers with 1001. Returns when all is over or the configured
    /// time (`shutdown.timeout`) has passed; returns whether everybody left in time.
    pub fn shutdown(self) -> bool {
        let deadline = Instant::now() + self.shutdown_timeout;
        let in_time = self.step(deadline, Command::Refuse)
            && self.step(deadline, Command::Quiet)
            && self.step(deadline, Command::CloseAll);
        if !in_time {
            tracing::warn!("not all connections were closed in time");
            return false;
        }
        drop(self.watchdog);
        for mailbox in self.handle.mailboxes.iter() {
            mailbox.send_waiting(Command::Leave);
        }
        for shard in self.shards {
            if shard.join().is_err() {
                tracing::error!("a shard's executor failed at its end");
            }
        }
        true
    }

    fn step(&self, deadline: Instant, command: impl Fn(Sender<()>) -> Command) -> bool {
        let (done, finished): (_, Receiver<()>) = bounded(self.handle.mailboxes.len());
        for mailbox in self.handle.mailboxes.iter() {
            mailbox.send_waiting(command(done.clone()));
        }
        self.handle.mailboxes.iter().all(|_| finished.recv_deadline(deadline).is_ok())
    }
}

/// The shards' state is each other's: one that panics takes the process with it, before its ring's
/// memory is unwound under the kernel.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// Aborts the process when a shard stands still: the others would wait for it for ever, quietly.
///
/// Counted in looks and not by the clock: a process that was stopped and goes on finds its shards
/// where they were, and they need a moment.
fn watch(turns: Vec<Arc<AtomicU64>>) -> Sender<()> {
    let (stop, stopped) = bounded(0);
    std::thread::spawn(move || {
        let mut last = vec![0; turns.len()];
        let mut looks_unchanged = vec![0; turns.len()];
        while let Err(crossbeam_channel::RecvTimeoutError::Timeout) = stopped.recv_timeout(LOOK) {
            for (shard, turns) in turns.iter().enumerate() {
                let now = turns.load(Ordering::Relaxed);
                looks_unchanged[shard] =
                    if now == last[shard] { looks_unchanged[shard] + 1 } else { 0 };
                last[shard] = now;
                if looks_unchanged[shard] == STALLED_LOOKS {
                    eprintln!("tiderace: shard {shard} stands still; aborting");
                    std::process::abort();
                }
            }
        }
    });
    stop
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_leaves_time_to_those_who_leave_last() {
        for (timeout_ms, spread_ms) in
            [(0, 0), (6_000, 3_000), (16_000, 10_000), (24_000, 18_000), (30_000, 22_500)]
        {
            assert_eq!(drain_spread_ms(timeout_ms), spread_ms, "{timeout_ms}");
        }
    }
}

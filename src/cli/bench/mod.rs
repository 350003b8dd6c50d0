//! `tiderace bench`: a load generator for this server and its peers, on one thread, that knows when
//! it is the limit.

mod broadcast;
mod centrifuge;
mod channels;
mod connect;
mod connections;
mod echo;
mod fanout;
mod idle;
mod measure;
mod members;
mod pace;
mod proc;
mod protocol;
mod report;
mod stamp;
mod target;
mod watch;
mod wire;

use std::io;
use std::time::Duration;

use connections::{Clock, Connections};
use measure::{Server, Stopwatch};
use pace::Pace;
use protocol::Protocol;
use target::Upgrade;

const CONNECTIONS_MAX: u32 = 20_000;
const SECONDS_MAX: f64 = 120.0;

/// Loads a WebSocket server and reports what it delivered, how late, and who was the limit.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    case: Case,
}

#[derive(clap::Subcommand, Clone, Debug)]
enum Case {
    /// Round trips: each connection gets its own messages back.
    Echo {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        pace: Pace,
    },
    /// Few publish, every connection receives.
    Fanout {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        pace: Pace,
        /// How many of the connections publish, in turn.
        #[arg(long, value_name = "M", default_value_t = 1)]
        publishers: u32,
    },
    /// N x N: every connection publishes one message to all, all N x N deliveries are awaited, and
    /// again.
    Broadcast {
        #[command(flatten)]
        common: Common,
        /// Bytes of a payload, its time stamp of 16 included.
        #[arg(long, value_name = "BYTES", default_value_t = 20)]
        size: usize,
    },
    /// Connections that do nothing: bytes of server memory for each (needs --server-pid).
    Idle {
        #[command(flatten)]
        common: Common,
        /// Centrifuge: connect only, instead of subscribing each connection to the channel.
        #[arg(long)]
        no_subscribe: bool,
    },
    /// Centrifuge: many channels, or many subscriptions to few: memory of each (needs --server-pid), and
    /// latency of publications that are spread over them.
    Channels {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        flags: channels::Flags,
    },
    /// Centrifuge: one channel whose members come and go while one of them publishes.
    Members {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        flags: members::Flags,
    },
    /// Connections established per second; --connections of them are under way at once.
    Connect {
        #[command(flatten)]
        common: Common,
        /// Keep what is established, until there are --connections, with so many under way at once.
        #[arg(long, value_name = "IN_FLIGHT",
              value_parser = clap::value_parser!(u32).range(1..=4_096))]
        keep: Option<u32>,
    },
    /// Dormant devices that hold watch streams: memory and CPU of each, and how soon they are woken.
    ///
    /// First a heartbeat interval at rest, then --warmup and --duration with wakes. --target is
    /// http://host:port.
    #[command(mut_arg("connections", |arg| arg.default_value("15000")))]
    #[command(mut_arg("protocol", |arg| arg.hide(true)), mut_arg("channel", |arg| arg.hide(true)))]
    #[command(mut_arg("token", |arg| arg.hide(true)), mut_arg("sample", |arg| arg.hide(true)))]
    Watch {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        flags: watch::Flags,
    },
}

/// Flags of every case.
#[derive(clap::Args, Clone, Debug)]
struct Common {
    /// Where to connect: ws://host:port/path; a loopback address.
    #[arg(long, value_name = "URL")]
    target: String,

    /// What is spoken.
    #[arg(long, value_enum, default_value_t = Protocol::Centrifuge)]
    protocol: Protocol,

    /// Number of connections.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = connections)]
    connections: usize,

    /// Centrifuge: the channel (for echo, the prefix of each connection's own).
    #[arg(long, default_value = "bench")]
    channel: String,

    /// Centrifuge: the connection token.
    #[arg(long, env = "TIDERACE_BENCH_TOKEN", hide_env_values = true)]
    token: Option<String>,

    /// Seconds that are measured.
    #[arg(long, value_name = "S", default_value_t = 10.0)]
    duration: f64,

    /// Seconds of load before that.
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    warmup: f64,

    /// Print one JSON object on stdout and the summary on stderr.
    #[arg(long)]
    json: bool,

    /// The server's process: its CPU and memory are reported.
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,

    /// The core that the server alone is pinned to: its whole busy time is reported.
    #[arg(long, value_name = "CPU")]
    server_cpu: Option<usize>,

    /// Pin the generator to this core.
    #[arg(long, value_name = "CPU")]
    client_cpu: Option<usize>,

    /// Poll without ever sleeping: no wake-up of the generator in the measured latencies.
    #[arg(long)]
    spin: bool,

    /// Time deliveries on each K-th connection only; a power of two. By default all for echo, about
    /// 32 connections for fanout and broadcast.
    #[arg(long, value_name = "K")]
    sample: Option<usize>,

    /// Permit a target that is not this machine.
    #[arg(long)]
    allow_remote: bool,
}

fn connections(text: &str) -> Result<usize, String> {
    match text.parse::<u32>() {
        Ok(count @ 1..=CONNECTIONS_MAX) => Ok(count as usize),
        _ => Err(format!("between 1 and {CONNECTIONS_MAX}")),
    }
}

impl Common {
    fn validate(&self) -> Result<(), Error> {
        let range = |name: &str, value: f64, from: f64| {
            if (from..=SECONDS_MAX).contains(&value) {
                return Ok(());
            }
            Err(Error::Usage(format!("--{name} must be between {from} and {SECONDS_MAX} seconds")))
        };
        range("duration", self.duration, 0.01)?;
        range("warmup", self.warmup, 0.0)?;
        if self.sample.is_some_and(|sample| !sample.is_power_of_two()) {
            return Err(Error::Usage("--sample must be a power of two".into()));
        }
        Ok(())
    }

    /// For cases that make no sense without channels.
    fn of_channels(&self) -> Result<(), Error> {
        match self.protocol {
            Protocol::Centrifuge => Ok(()),
            Protocol::Plain => Err(Error::Usage("--protocol plain has no channels".into())),
        }
    }

    /// Deliveries are timed on each so-manieth connection: as asked for, else on about `timed` of
    /// them.
    fn sample(&self, timed: usize) -> usize {
        let every = (self.connections / timed).max(1);
        // The largest power of two that is not above it.
        self.sample.unwrap_or(1 << every.ilog2())
    }

    fn stopwatch(&self, now: u64) -> Stopwatch {
        let server = Server { pid: self.server_pid, cpu: self.server_cpu };
        let seconds = Duration::from_secs_f64;
        Stopwatch::start(now, seconds(self.warmup), seconds(self.duration), server)
    }

    /// The poll and the upgrade; `channel` names what the connection of a slot subscribes when it
    /// connects.
    fn prepare(
        &self,
        channel: impl Fn(usize) -> Option<String> + 'static,
    ) -> Result<Connections, Error> {
        let upgrade = Upgrade::parse(&self.target, self.allow_remote)?;
        let (protocol, token) = (self.protocol, self.token.clone());
        let greeting = Box::new(move |slot| {
            protocol::greeting(protocol, token.as_deref(), channel(slot).as_deref())
        });
        proc::allow_sockets(self.connections)?;
        if let Some(cpu) = self.client_cpu {
            proc::pin(cpu)?;
        }
        Connections::new(Clock::start(), self.protocol, upgrade, greeting, self.spin)
    }

    /// All connections, established and subscribed.
    fn establish(
        &self,
        channel: impl Fn(usize) -> Option<String> + 'static,
    ) -> Result<Connections, Error> {
        let mut connections = self.prepare(channel)?;
        let progress = indicatif::ProgressBar::new(self.connections as u64);
        let outcome =
            connections.establish(self.connections, |ready| progress.set_position(ready as u64));
        progress.finish_and_clear();
        outcome.map(|()| connections)
    }
}

/// Why a run has no result.
#[derive(Debug)]
pub(crate) enum Error {
    /// A flag is out of its range, or asks for what the machine does not have.
    Usage(String),
    /// The URL is not one that may be loaded.
    Target {
        /// As given.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// The system refused a resource.
    System {
        /// Which one.
        what: &'static str,
        /// What it said.
        error: io::Error,
    },
    /// Not all connections could be established.
    Establish {
        /// So many were.
        ready: usize,
        /// So many were asked for.
        count: usize,
        /// Why the first one failed.
        text: String,
    },
    /// A closed loop waits for a delivery that does not come.
    Stalled {
        /// So many came before.
        deliveries: u64,
        /// The first error before, if there was one.
        first: Option<String>,
    },
    /// No connection is left, or none that may publish; with the first reason.
    AllLost(Option<String>),
}

impl Error {
    /// For `map_err`.
    fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::System { what, error }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Usage(text) => f.write_str(text),
            Self::Target { url, why } => write!(f, "--target {url}: {why}"),
            Self::System { what, error } => write!(f, "the system refused {what}: {error}"),
            Self::Establish { ready, count, text } => {
                write!(f, "{ready} of {count} connections were established: {text}")
            }
            Self::Stalled { deliveries, first } => {
                write!(f, "no delivery for {} s after {deliveries}", measure::STALL_SECONDS_MAX)?;
                first.as_ref().map_or(Ok(()), |first| write!(f, "; the first error: {first}"))
            }
            Self::AllLost(first) => {
                let first = first.as_deref().unwrap_or("no reason is known");
                write!(f, "the connections that the load needs are gone: {first}")
            }
        }
    }
}

impl std::error::Error for Error {}

/// Runs one case and prints its result on stdout.
pub(crate) fn run(args: BenchArgs) -> Result<(), Error> {
    let (json, report) = match args.case {
        Case::Echo { common, pace } => {
            common.validate()?;
            pace.validate()?;
            let prefix = common.channel.clone();
            let connections = common.establish(move |slot| Some(echo::channel(&prefix, slot)))?;
            (common.json, echo::run(&common, &pace, connections)?)
        }
        Case::Fanout { common, pace, publishers } => {
            common.validate()?;
            pace.validate()?;
            let publishers = publishers as usize;
            if !(1..=common.connections).contains(&publishers) {
                return Err(Error::Usage(
                    "--publishers must be between 1 and --connections".into(),
                ));
            }
            let channel = common.channel.clone();
            let connections = common.establish(move |_| Some(channel.clone()))?;
            (common.json, fanout::run(&common, &pace, publishers, connections)?)
        }
        Case::Broadcast { common, size } => {
            common.validate()?;
            pace::size(size)?;
            let channel = common.channel.clone();
            let connections = common.establish(move |_| Some(channel.clone()))?;
            (common.json, broadcast::run(&common, size, connections)?)
        }
        Case::Idle { common, no_subscribe } => {
            common.validate()?;
            let before = idle::memory(&common)?;
            let channel = (!no_subscribe).then(|| common.channel.clone());
            let connections = common.establish(move |_| channel.clone())?;
            let opening_ns = connections.clock.now();
            (common.json, idle::run(&common, connections, before, opening_ns)?)
        }
        Case::Channels { common, flags } => {
            common.validate()?;
            common.of_channels()?;
            flags.validate()?;
            let before = idle::memory(&common)?;
            let connections = common.establish(|_| None)?;
            (common.json, channels::run(&common, &flags, connections, before)?)
        }
        Case::Members { common, flags } => {
            common.validate()?;
            common.of_channels()?;
            flags.validate()?;
            let (channel, members) = (common.channel.clone(), common.connections);
            let all = Common { connections: members + flags.movers(), ..common.clone() };
            let connections =
                all.establish(move |slot| (slot < members).then(|| channel.clone()))?;
            (common.json, members::run(&common, &flags, connections)?)
        }
        Case::Connect { mut common, keep } => {
            common.validate()?;
            if keep.is_some() {
                // Every connection counts.
                common.warmup = 0.0;
            }
            let connections = common.prepare(|_| None)?;
            (common.json, connect::run(&common, keep.map(|keep| keep as usize), connections)?)
        }
        Case::Watch { common, flags } => {
            common.validate()?;
            flags.validate()?;
            (common.json, watch::run(&common, &flags)?)
        }
    };
    report.print(json)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn outcome(flags: &str) -> Result<(), String> {
        let args = std::iter::once("bench").chain(flags.split(' '));
        let program = Program::try_parse_from(args).map_err(|error| error.to_string())?;
        run(program.bench).map_err(|error| error.to_string())
    }

    #[test]
    fn flags_out_of_bounds_are_refused_in_their_own_terms() {
        let cases = [
            ("echo --target ws://192.0.2.1:1/", "--allow-remote"),
            ("echo --target ws://127.0.0.1:1/ --duration 121", "--duration must be"),
            ("echo --target ws://127.0.0.1:1/ --warmup=-1", "--warmup"),
            ("echo --target ws://127.0.0.1:1/ --connections 20001", "20000"),
            ("echo --target ws://127.0.0.1:1/ --sample 3", "power of two"),
            ("echo --target ws://127.0.0.1:1/ --rate 5 --window 2", "cannot be used with"),
            ("echo --target ws://127.0.0.1:1/ --size 15", "--size"),
            ("broadcast --target ws://127.0.0.1:1/ --size 15", "--size"),
            ("fanout --target ws://127.0.0.1:1/ --publishers 101", "--publishers"),
            ("channels --target ws://127.0.0.1:1/ --protocol plain", "no channels"),
            ("channels --target ws://127.0.0.1:1/ --shared --history 3", "cannot be used with"),
            ("channels --target ws://127.0.0.1:1/ --rate=-1", "--rate"),
            ("members --target ws://127.0.0.1:1/ --moves 0.01", "--moves must be"),
            ("members --target ws://127.0.0.1:1/ --protocol plain", "no channels"),
            ("watch --target ws://127.0.0.1:1 --token-secret s", "must begin with http://"),
            ("watch --target http://127.0.0.1:1 --token-secret s --ramp 121", "--ramp"),
            ("watch --target http://127.0.0.1:1 --token-secret s --drain", "--server-pid"),
        ];
        for (flags, part) in cases {
            let error = outcome(flags).unwrap_err();
            assert!(error.contains(part), "{flags}: {error}");
        }
    }

    #[test]
    fn about_so_many_connections_are_timed() {
        let program = Program::try_parse_from(["bench", "idle", "--target", "ws://127.0.0.1:1/"]);
        let Case::Idle { mut common, .. } = program.unwrap().bench.case else { panic!("idle") };
        for (connections, every) in
            [(1, 1), (100, 1), (200, 2), (320, 2), (1_000, 8), (20_000, 128)]
        {
            common.connections = connections;
            assert_eq!(common.sample(100), every);
        }
        assert_eq!(common.sample(common.connections), 1);
    }
}

//! The end of a server with thousands of agents: each is sent away in order, and comes back to the next server.
//!
//! The agents are clients of the library, a thousand in a process: two threads and six descriptors each
//! are more than one process may have. The next server listens at the same address while the first one
//! still ends, as in a restart without a pause.

mod support;

use std::collections::HashMap;
use std::env;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use support::watch::{SECRET, environment, until_confirmed, wake};
use support::{DEADLINE, Server};
use tiderace::auth::tokens::sign_connection;
use tiderace::watch::{Client, Status};
use tokio::{runtime, task};

const AGENTS: usize = 5_000;
const FLEETS: usize = 5;
/// What the server makes of its `shutdown.timeout`: the rest is for those who leave last to be gone.
const SPREAD: Duration = Duration::from_secs(10);
const SHUTDOWN_TIMEOUT: &str = "16s";
/// Tells this program, started anew, that it is a fleet of agents: which ones, and of which server.
const FLEET: &str = "TIDERACE_TEST_FLEET";
/// What stands before the lines that a fleet prints.
const MARK: &str = "agent ";

/// What an agent did.
#[derive(Debug)]
struct Event {
    agent: usize,
    /// Since 1970.
    at: Duration,
    what: What,
}

#[derive(Debug, PartialEq, Eq)]
enum What {
    /// It has a lease.
    Connected,
    /// It tries again; why.
    Retry(String),
    /// It was woken for a session.
    Woken(String),
}

impl Event {
    fn print(agent: usize, what: &What) {
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        let what = match what {
            What::Connected => "connected ",
            What::Retry(reason) => &format!("retry {reason}"),
            What::Woken(session) => &format!("woken {session}"),
        };
        println!("{MARK}{agent} {} {what}", at.as_micros());
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix(MARK)?.splitn(4, ' ');
        let agent = words.next()?.parse().ok()?;
        let at = Duration::from_micros(words.next()?.parse().ok()?);
        let what = match (words.next()?, words.next()?.to_owned()) {
            ("connected", _) => What::Connected,
            ("retry", reason) => What::Retry(reason),
            ("woken", session) => What::Woken(session),
            _ => return None,
        };
        Some(Self { agent, at, what })
    }
}

fn device(agent: usize) -> String {
    format!("d{agent}")
}

/// Agents in one process; dropped, they end.
struct Fleet(Child);

impl Fleet {
    /// Starts this program as the agents of a server.
    fn start(test: &str, number: usize, server: SocketAddr, events: Sender<Event>) -> Self {
        let mut command = Command::new(env::current_exe().expect("a test runs"));
        command.args(["--exact", test, "--nocapture"]).env(FLEET, format!("{number} {server}"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it runs already");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        thread::spawn(move || {
            for event in stdout.lines().map_while(Result::ok).filter_map(|l| Event::parse(&l)) {
                // Nobody may listen any more.
                let _ = events.send(event);
            }
        });
        Self(child)
    }

    /// Is a fleet, until stdin ends: so it ends with whoever started it, in whatever way.
    fn be(what: &str) {
        let (number, server) = what.split_once(' ').expect("a number and an address");
        let number: usize = number.parse().expect("a number");
        let url = format!("http://{server}");
        thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().build().expect("no I/O");
            let agents = task::LocalSet::new();
            for agent in (number..AGENTS).step_by(FLEETS) {
                agents.spawn_local(Self::agent(url.clone(), agent));
            }
            runtime.block_on(agents);
        });
        let _ = std::io::stdin().read(&mut [0]);
    }

    async fn agent(url: String, agent: usize) {
        let token = sign_connection(SECRET, &device(agent), None, None);
        let client = Client::builder(url, token)
            .on_status(move |status| {
                if status == Status::Connected {
                    Event::print(agent, &What::Connected);
                }
            })
            .on_retry(move |retry| Event::print(agent, &What::Retry(retry.reason.clone())));
        let mut client = client.build().expect("threads and descriptors");
        loop {
            let wake = client.next_wake().await.expect("nobody cancels it");
            Event::print(agent, &What::Woken(wake.session_id.unwrap_or_default()));
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// All agents, and what they have done so far.
struct Agents {
    events: Receiver<Event>,
    _fleets: Vec<Fleet>,
}

impl Agents {
    fn start(test: &str, server: SocketAddr) -> Self {
        let (sender, events) = channel();
        let fleet = |number| Fleet::start(test, number, server, sender.clone());
        Self { _fleets: (0..FLEETS).map(fleet).collect(), events }
    }

    /// Waits until `count` of what they do is as wanted; returns all that they do until then.
    fn until(&self, count: usize, wanted: impl Fn(&What) -> bool) -> Vec<Event> {
        let mut events = Vec::new();
        let mut missing = count;
        while missing > 0 {
            let Ok(event) = self.events.recv_timeout(DEADLINE) else {
                panic!("{missing} of {count} are missing");
            };
            missing -= usize::from(wanted(&event.what));
            events.push(event);
        }
        events
    }
}

/// When the lease of each device was granted, since that of the first.
fn grants(server: &Server) -> HashMap<String, Duration> {
    let mut grants = HashMap::new();
    let mut after = Value::Null;
    let began = Instant::now();
    loop {
        let page = server.api("watchers", &json!({"limit": 1_000, "after": after}));
        let now = Duration::from_secs(3_600) + began.elapsed();
        for watcher in page["result"]["watchers"].as_array().expect("a list") {
            let device = watcher["device"].as_str().expect("a name").to_owned();
            let age = Duration::from_secs_f64(watcher["lease_age"].as_f64().expect("seconds"));
            assert_eq!(grants.insert(device, now - age), None, "a device has one lease");
        }
        after = page["result"]["after"].clone();
        if after.is_null() {
            return grants;
        }
    }
}

/// The most that lie in any tenth of the time of the drain; it is printed, too.
fn busiest_tenth(what: &str, times: impl Iterator<Item = Duration>) -> usize {
    let mut times: Vec<Duration> = times.collect();
    times.sort();
    let until = |from: usize| times.partition_point(|time| *time < times[from] + SPREAD / 10);
    let busiest = (0..times.len()).map(|from| until(from) - from).max().unwrap_or_default();
    let whole = times[times.len() - 1] - times[0];
    println!("{} {what} within {whole:.1?}, at most {busiest} in {:?}", times.len(), SPREAD / 10);
    busiest
}

#[test]
fn agents_move_to_the_next_server_without_a_stampede() {
    if let Ok(fleet) = env::var(FLEET) {
        Fleet::be(&fleet);
        return;
    }
    // Each agent has two connections.
    support::raise_open_files(2 * AGENTS as u64 + 2_000);
    let environment = environment(&[("TIDERACE_SHUTDOWN_TIMEOUT", SHUTDOWN_TIMEOUT)]);
    let ending = Server::dev(&environment);
    let agents = Agents::start("agents_move_to_the_next_server_without_a_stampede", ending.address);
    agents.until(AGENTS, |what| *what == What::Connected);
    assert_eq!(ending.metric("watch_streams"), AGENTS as u64);

    let address = ending.address.to_string();
    ending.terminate();
    let next = Server::start(&["--dev", "--shards", "2", "--listen", &address], &environment);
    let in_order = What::Retry("the server ended the stream".into());
    let moves = agents.until(AGENTS, |what| *what == in_order);
    next.wait_until("all agents", |info| {
        info["metrics"]["items"]["watch_streams"] == AGENTS as f64
    });
    let (status, stderr) = ending.wait();
    assert!(status.success() && !stderr.contains("not all connections"), "{stderr}");

    let mut ends = HashMap::new();
    for Event { agent, at, what } in moves {
        match what {
            _ if what == in_order => {
                assert_eq!(ends.insert(agent, at), None, "{agent} ended twice")
            }
            // The first ones may be back before the next server is there.
            What::Retry(reason) if ends.contains_key(&agent) => {
                assert!(reason.contains("cannot connect"), "{agent}: {reason}");
            }
            What::Connected if ends.contains_key(&agent) => {}
            what => panic!("{agent}: {what:?} before the server ended its stream"),
        }
    }
    // Evenly spread they are 500; a machine that stands still adds what it delays.
    let busiest = busiest_tenth("streams ended", ends.into_values());
    assert!(busiest < AGENTS / 3, "{busiest} of {AGENTS} streams ended in a tenth of the time");
    let grants = grants(&next);
    assert_eq!(grants.len(), AGENTS);
    let busiest = busiest_tenth("agents came back", grants.into_values());
    assert!(busiest < AGENTS / 2, "{busiest} of {AGENTS} came back in a tenth of the time");

    for (name, count) in [
        ("watch_streams", AGENTS),
        ("leases", AGENTS),
        ("leases_granted", AGENTS),
        ("lease_handovers", 0),
        ("lease_conflicts", 0),
        ("leases_expired", 0),
    ] {
        assert_eq!(next.metric(name), count as u64, "{name}");
    }
    for agent in (0..AGENTS).step_by(AGENTS / 10) {
        assert_eq!(wake(&next, &device(agent), "ras_1"), "sent");
        until_confirmed(&next, &device(agent), "ras_1");
    }
    agents.until(10, |what| *what == What::Woken("ras_1".into()));
}

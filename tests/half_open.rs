//! Watches over a network that swallows packets: neither side is told anything, both believe in the connection.
//!
//! Each scenario runs over two such networks. One is a relay in this process that keeps its sockets open
//! and passes nothing on; it can be had everywhere. The other is a pair of network interfaces between two
//! network namespaces, whose frames go to an address that nobody has: there the kernels, too, get neither
//! acknowledgements nor resets. Where the machine gives an ordinary user no namespaces, that one is
//! skipped, and stderr says why.

mod support;

use std::env;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use support::http::Connection;
use support::watch::{Agent, BRISK, SECRET, environment, until_confirmed, wake, watch, watchers};
use support::{DEADLINE, Server};
use tiderace::auth::tokens::sign_connection;

/// Heartbeats each second, and a lease that outlives the cut.
const PATIENT: &[(&str, &str)] =
    &[("TIDERACE_WATCH_HEARTBEAT_INTERVAL", "1s"), ("TIDERACE_WATCH_LEASE_TTL", "60s")];

/// What lies between the agent and the server.
trait Network {
    /// From here on nothing arrives, in either direction, and nobody is told.
    fn cut(&self);
    /// From here on what is sent arrives again.
    fn mend(&self);
}

/// A server, and the agent of the device `d`, whose only way there is the network.
struct World {
    agent: Agent,
    server: Server,
    network: Box<dyn Network>,
}

/// Makes a world whose server is configured so.
type Make = fn(&[(&'static str, &'static str)]) -> World;

impl World {
    /// Waits until the agent gives its stream up and tries again at once.
    fn agent_noticed_silence(&self) {
        let retry = self.agent.wait_for("retry", |event| event["event"] == "retry");
        let reason = retry["reason"].as_str().expect("a text");
        assert!(reason.contains("silent"), "{retry}");
        assert_eq!(retry["after_ms"], 0, "silence is no reason to wait");
    }

    fn item(&self, name: &str) -> u64 {
        self.server.metric(name)
    }
}

fn the_agent_resumes(make: Make) {
    let world = make(PATIENT);
    let World { agent, server, network } = &world;
    agent.connected();
    network.cut();
    world.agent_noticed_silence();
    let listed = watchers(server);
    assert_eq!(listed["watchers"][0]["connected"], true, "the server was told nothing: {listed}");
    assert_eq!(world.item("watch_streams"), 1);
    network.mend();

    server.wait_until("the hand-over", |info| {
        let items = &info["metrics"]["items"];
        items["lease_handovers"] == 1.0 && items["watch_streams"] == 1.0
    });
    assert_eq!(watchers(server)["total"], 1);
    let heartbeats = world.item("heartbeats");
    server.wait_until("heartbeats of the new lease", |info| {
        info["metrics"]["items"]["heartbeats"].as_f64() > Some(heartbeats as f64)
    });
    assert_eq!(wake(server, "d", "ras_1"), "sent");
    agent.command_printed("ras_1 wss://room t");
    until_confirmed(server, "d", "ras_1");
    agent.connected();
    for name in ["leases_expired", "lease_conflicts", "heartbeats_refused"] {
        assert_eq!(world.item(name), 0, "{name}");
    }
    assert_eq!(world.item("device_wakes_sent"), 1);
    assert_eq!(world.agent.end(), Vec::<String>::new(), "it was woken once");
}

fn a_wake_is_not_lost(make: Make) {
    let world = make(PATIENT);
    let World { agent, server, network } = &world;
    agent.connected();
    network.cut();
    let mut status = wake(server, "d", "ras_1");
    assert_eq!(status, "sent", "the server has a stream and cannot know better");
    let began = Instant::now();
    while status != "pending" {
        assert_eq!(status, "sent", "nobody took it");
        assert!(began.elapsed() < DEADLINE, "the server waits for an answer for ever");
        thread::yield_now();
        status = wake(server, "d", "ras_1");
    }
    world.agent_noticed_silence();
    assert_eq!(agent.output.try_iter().next(), None, "nothing arrived");
    assert_eq!(world.item("device_wakes_confirmed"), 0);
    network.mend();

    agent.command_printed("ras_1 wss://room t");
    until_confirmed(server, "d", "ras_1");
    agent.connected();
    assert_eq!((world.item("device_wakes"), world.item("device_wakes_sent")), (1, 2));
    assert_eq!(world.item("device_wakes_confirmed"), 1);
    assert_eq!(world.agent.end(), Vec::<String>::new(), "it was woken once");
}

fn another_agent_takes_over(make: Make) {
    let world = make(BRISK);
    let World { agent, server, network } = &world;
    agent.connected();
    let Err(mut connection) = watch(Connection::open(server.address), "d") else {
        panic!("two streams of one device");
    };
    network.cut();
    let began = Instant::now();
    let mut next = loop {
        match watch(connection, "d") {
            Ok(stream) => break stream,
            // Until the lease has expired, every answer is 409.
            Err(same) => connection = same,
        }
        assert!(began.elapsed() < DEADLINE, "a dead stream holds the device for ever");
        thread::yield_now();
    };
    assert_eq!((world.item("leases_expired"), world.item("watch_streams")), (1, 1));
    assert_eq!(watchers(server)["total"], 1);
    network.mend();

    agent.refused();
    assert_eq!(wake(server, "d", "ras_1"), "sent");
    let event = next.event();
    assert!(event.starts_with("event: wake\n") && event.contains("ras_1"), "{event}");
    assert_eq!(world.agent.end(), Vec::<String>::new(), "who lost the lease is not woken");
}

#[test]
fn the_agent_resumes_through_a_relay() {
    the_agent_resumes(relayed);
}

#[test]
fn a_wake_is_not_lost_in_a_relay() {
    a_wake_is_not_lost(relayed);
}

#[test]
fn another_agent_takes_over_from_one_behind_a_relay() {
    another_agent_takes_over(relayed);
}

#[test]
fn the_agent_resumes_through_a_wire() {
    in_namespace("the_agent_resumes_through_a_wire", the_agent_resumes);
}

#[test]
fn a_wake_is_not_lost_in_a_wire() {
    in_namespace("a_wake_is_not_lost_in_a_wire", a_wake_is_not_lost);
}

#[test]
fn another_agent_takes_over_from_one_behind_a_wire() {
    in_namespace("another_agent_takes_over_from_one_behind_a_wire", another_agent_takes_over);
}

/// A server, and an agent that sees it through a relay.
fn relayed(environment: &[(&'static str, &'static str)]) -> World {
    let server = support::watch::server(environment);
    let relay = Relay::start(server.address);
    let agent = Agent::start(relay.address, "d");
    World { agent, server, network: Box::new(relay) }
}

/// Passes bytes on, until it is cut: the connections that it has then are dead for ever, though both of
/// their sides stay open and are read. New ones wait until it is mended.
struct Relay {
    address: SocketAddr,
    state: Arc<(Mutex<RelayState>, Condvar)>,
}

#[derive(Clone, Copy, Default)]
struct RelayState {
    is_cut: bool,
    /// Connections that were made before are dead.
    cuts: u32,
}

impl Relay {
    fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let state: Arc<(Mutex<RelayState>, Condvar)> = Arc::default();
        let relay = Self { address, state: Arc::clone(&state) };
        thread::spawn(move || {
            for device in listener.incoming().map_while(Result::ok) {
                let state = Arc::clone(&state);
                thread::spawn(move || Self::connect(&device, server, &state));
            }
        });
        relay
    }

    fn state(state: &Mutex<RelayState>) -> std::sync::MutexGuard<'_, RelayState> {
        state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connect(device: &TcpStream, server: SocketAddr, shared: &(Mutex<RelayState>, Condvar)) {
        let (state, mended) = shared;
        let guard = Self::state(state);
        let guard = mended.wait_while(guard, |state| state.is_cut).expect("nobody panics with it");
        let cuts = guard.cuts;
        drop(guard);
        // A server that has ended refuses; the device sees its connection closed.
        let Ok(server) = TcpStream::connect(server) else { return };
        let lives = || Self::state(state).cuts == cuts;
        thread::scope(|scope| {
            scope.spawn(|| pass(device, &server, lives));
            pass(&server, device, lives);
        });
    }

    fn change(&self, change: impl FnOnce(&mut RelayState)) {
        change(&mut Self::state(&self.state.0));
        self.state.1.notify_all();
    }
}

/// Passes on what comes, its end too, while the connection lives; afterwards it is read and lost.
fn pass(mut from: &TcpStream, mut to: &TcpStream, lives: impl Fn() -> bool) {
    let mut bytes = [0; 4_096];
    loop {
        let count = from.read(&mut bytes).unwrap_or(0);
        if lives() && (count == 0 || to.write_all(&bytes[..count]).is_err()) {
            // It may be closed on both sides by now.
            let _ = to.shutdown(Shutdown::Write);
            return;
        }
        if count == 0 {
            return;
        }
    }
}

impl Network for Relay {
    fn cut(&self) {
        self.change(|state| (state.is_cut, state.cuts) = (true, state.cuts + 1));
    }

    fn mend(&self) {
        self.change(|state| state.is_cut = false);
    }
}

/// Says to the test program, which starts itself anew, that it is in namespaces of its own.
const INSIDE: &str = "TIDERACE_TEST_INSIDE_NAMESPACE";

/// Runs a scenario in a network namespace of its own: the one test of this file that is called so.
fn in_namespace(test: &str, scenario: fn(Make)) {
    if env::var_os(INSIDE).is_some() {
        run(&["ip", "link", "set", "lo", "up"]);
        scenario(wired);
        return;
    }
    let unshare = ["unshare", "--user", "--map-root-user", "--net"];
    // All that a scenario needs, but for the server.
    let probe = "ip link add name a0 type veth peer name b0 && exec nsenter -t $$ -n true";
    if let Err(why) = outcome(&[&unshare[..], &["sh", "-c", probe]].concat(), &[]) {
        // Not by a macro, whose output is shown for tests that fail.
        let _ = writeln!(io::stderr(), "skipped: {test}: no network namespaces here: {why}");
        return;
    }
    let this = env::current_exe().expect("a test runs");
    let this = this.to_str().expect("a path of UTF-8");
    let again = [this, "--exact", test, "--nocapture", "--test-threads=1"];
    match outcome(&[&unshare[..], &again[..]].concat(), &[(INSIDE, "1")]) {
        Ok(said) => assert!(said.contains("ok. 1 passed"), "{said}"),
        Err(why) => panic!("{why}"),
    }
}

/// Runs a program to its end: what it printed, as the error of one that failed.
fn outcome(arguments: &[&str], variables: &[(&str, &str)]) -> Result<String, String> {
    let mut command = Command::new(arguments[0]);
    command.args(&arguments[1..]).envs(variables.iter().copied());
    let output = command.output().map_err(|error| format!("{}: {error}", arguments[0]))?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    if output.status.success() { Ok(said) } else { Err(said) }
}

fn run(arguments: &[&str]) {
    if let Err(why) = outcome(arguments, &[]) {
        panic!("{arguments:?}: {why}");
    }
}

/// The two ends of the wire: interface, address, and hardware address.
const SERVER_END: (&str, &str, &str) = ("server0", "192.0.2.1", "02:00:00:00:00:01");
const DEVICE_END: (&str, &str, &str) = ("device0", "192.0.2.2", "02:00:00:00:00:02");
const NOBODY: &str = "02:00:00:00:00:99";

/// A server in this network namespace, and an agent in one of its own, with a wire between the two.
fn wired(more: &[(&'static str, &'static str)]) -> World {
    let (interface, address, hardware) = SERVER_END;
    let (its_interface, its_address, its_hardware) = DEVICE_END;
    // The process whose namespace it is becomes the agent; the interface comes while it waits.
    let script = format!(
        "read go && ip addr add {its_address}/24 dev {its_interface} && \
         ip link set {its_interface} up && {} && exec \"$0\" \"$@\"",
        neighbour(DEVICE_END, SERVER_END, hardware).join(" ")
    );
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", &script, env!("CARGO_BIN_EXE_tiderace")]);
    command.args(Agent::arguments(&format!("http://{address}:8000")));
    command.env("TIDERACE_WATCH_TOKEN", sign_connection(SECRET, "d", None, None));
    command.stdin(Stdio::piped());
    let mut agent = Agent::spawn(command);
    let pid = agent.child.id();
    let wire = Wire { agent: pid.to_string() };
    wire.until_apart();
    let near = ["name", interface, "address", hardware, "type", "veth", "peer"];
    let far = ["name", its_interface, "address", its_hardware, "netns", &wire.agent];
    run(&[&["ip", "link", "add"], &near[..], &far[..]].concat());
    run(&["ip", "addr", "add", &format!("{address}/24"), "dev", interface]);
    run(&["ip", "link", "set", interface, "up"]);
    run(&neighbour(SERVER_END, DEVICE_END, its_hardware));

    let listen = format!("{address}:8000");
    let own = [("TIDERACE_CLIENT_TOKEN_HMAC_SECRET_KEY", SECRET)];
    let environment = [&environment(more)[..], &own[..]].concat();
    let server = Server::start(&["--shards", "2", "--listen", &listen], &environment);
    let mut stdin = agent.child.stdin.take().expect("it is piped");
    stdin.write_all(b"go\n").expect("it waits for this");
    World { agent, server, network: Box::new(wire) }
}

/// The command that tells one end of the wire the hardware address of the other, for good: nobody asks
/// for it, and so nobody notices that it is nobody's.
fn neighbour<'a>(
    (interface, ..): (&'a str, &str, &str),
    (_, address, _): (&str, &'a str, &str),
    hardware: &'a str,
) -> [&'a str; 10] {
    let entry = ["dev", interface, "nud", "permanent"];
    let [dev, name, nud, permanent] = entry;
    ["ip", "neigh", "replace", address, "lladdr", hardware, dev, name, nud, permanent]
}

/// Two interfaces that are each other's peers, in two network namespaces.
struct Wire {
    /// The process in the other one.
    agent: String,
}

impl Wire {
    /// Waits until the agent's process has left this network namespace.
    fn until_apart(&self) {
        let namespace = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/net"));
        let own = namespace("self").expect("its own is known");
        let began = Instant::now();
        while namespace(&self.agent).expect("it waits") == own {
            assert!(began.elapsed() < DEADLINE, "no namespace for the agent");
            thread::yield_now();
        }
    }

    /// Sends the frames of both ends to these hardware addresses.
    fn aim(&self, at_device: &str, at_server: &str) {
        run(&neighbour(SERVER_END, DEVICE_END, at_device));
        let enter = ["nsenter", "-t", &self.agent, "-n"];
        run(&[&enter[..], &neighbour(DEVICE_END, SERVER_END, at_server)].concat());
    }
}

impl Network for Wire {
    fn cut(&self) {
        self.aim(NOBODY, NOBODY);
    }

    fn mend(&self) {
        self.aim(DEVICE_END.2, SERVER_END.2);
    }
}

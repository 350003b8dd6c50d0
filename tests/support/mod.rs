//! A built server as its users run it: one process, its address, its key, its end.

// Every test file compiles this module for itself and uses another part of it.
#![allow(dead_code, unreachable_pub)]

pub mod backend;
pub mod clients;
pub mod embedded;
pub mod http;
pub mod relay;
pub mod stream;
pub mod watch;
pub mod websocket;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use serde_json::{Value, json};

/// After so long something hangs. Nothing is ever asserted to be faster than that.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The built program, with nothing of the environment that would configure it.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tiderace"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("TIDERACE_") || text.starts_with("CENTRIFUGO_") {
            command.env_remove(name);
        }
    }
    command
}

/// `tiderace serve` with `arguments` and variables of the environment; at a free port of this machine
/// unless they say where.
pub fn serve(arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = program();
    command.arg("serve").args(arguments);
    if !arguments.contains(&"--listen") {
        command.args(["--listen", "127.0.0.1:0"]);
    }
    command.envs(environment.iter().copied());
    command
}

/// A running server; dropped, it is killed.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    pub api_key: String,
    stderr: Option<JoinHandle<String>>,
}

impl Server {
    /// A server of two shards in development mode.
    pub fn dev(environment: &[(&str, &str)]) -> Self {
        Self::start(&["--dev", "--shards", "2"], environment)
    }

    /// Starts a server and waits until it listens.
    pub fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::spawn(serve(arguments, environment))
    }

    /// Runs `command` and waits until it listens. The key is what it prints in development mode, or
    /// what its environment says.
    pub fn spawn(mut command: Command) -> Self {
        let api_key = command.get_envs().find(|(name, _)| *name == "TIDERACE_HTTP_API_KEY");
        let mut api_key =
            api_key.and_then(|(_, key)| key.and_then(OsStr::to_str)).map(String::from);
        let dev = command.get_args().any(|argument| argument == "--dev");
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it is built");
        let stderr = collect(child.stderr.take().expect("it is piped"));
        let stdout = lines(BufReader::new(child.stdout.take().expect("it is piped")));
        let next = || stdout.recv_timeout(DEADLINE).ok();
        let first = next();
        let Some(address) = first.as_deref().and_then(|l| l.strip_prefix("listening on http://"))
        else {
            let _ = child.kill();
            let _ = child.wait();
            panic!("no server: {first:?}\n{}", stderr.join().unwrap_or_default());
        };
        let address = address.parse().expect("an address is announced");
        while dev && api_key.is_none() {
            let line = next().expect("the key of the HTTP API is announced");
            api_key = line.strip_prefix("API key: ").map(String::from);
        }
        Self { child, address, api_key: api_key.unwrap_or_default(), stderr: Some(stderr) }
    }

    /// Calls a method of the HTTP API; the parsed body of an answer 200.
    pub fn api(&self, method: &str, body: &Value) -> Value {
        http::Connection::open(self.address).api(&self.api_key, method, body)
    }

    /// Publishes over the HTTP API.
    pub fn publish(&self, channel: &str, data: &Value) {
        let answer = self.api("publish", &json!({"channel": channel, "data": data}));
        assert!(answer["result"].is_object() && answer["error"].is_null(), "{answer}");
    }

    /// What the node says of itself.
    pub fn info(&self) -> Value {
        let mut info = self.api("info", &json!({}));
        info["result"]["nodes"][0].take()
    }

    /// A measurement; what was never counted is 0.
    pub fn metric(&self, name: &str) -> u64 {
        self.info()["metrics"]["items"][name].as_f64().unwrap_or_default() as u64
    }

    /// Asks for the node's description until it is as wanted.
    pub fn wait_until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let info = self.info();
            if wanted(&info) {
                return info;
            }
            assert!(began.elapsed() < DEADLINE, "{what} did not come: {info:#}");
            thread::yield_now();
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells the server to end.
    pub fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("it runs");
    }

    /// Waits for the end of the process: its status and all that it wrote to stderr.
    pub fn wait(mut self) -> (ExitStatus, String) {
        let status = wait(&mut self.child);
        let stderr = self.stderr.take().expect("taken once").join().expect("it only reads");
        (status, stderr)
    }

    /// Ends the server in order.
    pub fn stop(self) -> (ExitStatus, String) {
        self.terminate();
        self.wait()
    }

    /// Bytes of resident memory: now, and at their highest.
    pub fn resident_bytes(&self) -> (u64, u64) {
        let path = format!("/proc/{}/status", self.pid());
        let status = std::fs::read_to_string(path).expect("it runs");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).expect("it is there");
            kib.parse::<u64>().expect("a number") << 10
        };
        (field("VmRSS:"), field("VmHWM:"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking()
            && let Some(stderr) = self.stderr.take()
        {
            eprintln!("the server's stderr:\n{}", stderr.join().unwrap_or_default());
        }
    }
}

/// Waits for a process that ends by itself, at most [`DEADLINE`].
pub fn wait(child: &mut Child) -> ExitStatus {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("it is our child") {
            return status;
        }
        if began.elapsed() > DEADLINE {
            let _ = child.kill();
            panic!("process {} did not end", child.id());
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Runs a command that must end by itself: its status, stdout and stderr.
pub fn run(mut command: Command) -> (ExitStatus, String, String) {
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it can be run");
    let stderr = collect(child.stderr.take().expect("it is piped"));
    let stdout = collect(child.stdout.take().expect("it is piped"));
    let status = wait(&mut child);
    (status, stdout.join().expect("it only reads"), stderr.join().expect("it only reads"))
}

/// The lines of a stream, as they come.
pub fn lines(reader: impl BufRead + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in reader.lines().map_while(Result::ok) {
            // Nobody may listen any more; the stream is read to its end all the same.
            let _ = sender.send(line);
        }
    });
    receiver
}

fn collect(mut reader: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = reader.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Lets this process, and the servers that it starts, open so many files.
pub fn raise_open_files(wanted: u64) {
    let limit = getrlimit(Resource::Nofile);
    let maximum = limit.maximum;
    assert!(maximum.is_none_or(|maximum| maximum >= wanted), "`ulimit -Hn` is below {wanted}");
    if limit.current.is_some_and(|current| current < wanted) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).expect("allowed");
    }
}

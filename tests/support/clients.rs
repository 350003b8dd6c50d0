//! Clients as their makers publish them, told what to do line by line: `tests/run` installs them.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{DEADLINE, Server, lines};

/// The key of tokens that the clients sign.
pub const SECRET: &str = "a secret of 32 bytes for the tests";

/// The transports of the npm package that speak JSON over HTTP/1.1.
pub const TRANSPORTS: [&str; 3] = ["websocket", "sse", "http_stream"];

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

pub fn target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("a folder of target").to_owned()
}

/// A script of `tests/clients` in Node.
pub fn node(script: &str, arguments: &[&str]) -> Command {
    let installed = scripts().join("node_modules/centrifuge").exists();
    assert!(installed, "the clients are not installed: run tests/run");
    let mut command = Command::new("node");
    command.arg(scripts().join(script)).args(arguments);
    command
}

/// A script of `tests/clients` in Python.
pub fn python(script: &str, arguments: &[&str]) -> Command {
    let python = target().join("clients/bin/python");
    assert!(python.exists(), "the clients are not installed: run tests/run");
    let mut command = Command::new(python);
    command.arg(scripts().join(script)).args(arguments);
    command
}

/// Debian's Chromium.
pub fn browser() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<_> = std::env::split_paths(&path).collect();
    ["chromium", "chromium-browser", "google-chrome"]
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)))
        .find(|path| path.exists())
        .expect("no Chromium in PATH: run tests/run")
}

/// A server of two shards outside development, with these namespaces, for the test of this name: users
/// have tokens, anonymous ones may connect, the key of the HTTP API is "k".
pub fn configured(test: &str, namespaces: &str) -> Server {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}.toml"));
    let text = format!(
        "shards = 2\n[client]\nallow_anonymous_connect_without_token = true\n\
         [client.token]\nhmac_secret_key = \"{SECRET}\"\n[http_api]\nkey = \"k\"\n\
         [sse]\nenabled = true\n[http_stream]\nenabled = true\n[events]\nenabled = true\n{namespaces}"
    );
    fs::write(&path, text).expect("the directory of the tests is there");
    let mut server = Server::start(&["--config", path.to_str().expect("UTF-8")], &[]);
    server.api_key = "k".into();
    server
}

/// A client in another process; dropped, it is killed.
pub struct Told {
    child: Child,
    commands: ChildStdin,
    events: Receiver<String>,
    /// What came and was not asked for yet.
    seen: VecDeque<Value>,
    is_python: bool,
}

impl Told {
    fn start(mut command: Command) -> Self {
        let is_python = !command.get_program().to_string_lossy().ends_with("node");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it is installed");
        let commands = child.stdin.take().expect("it is piped");
        let events = lines(BufReader::new(child.stdout.take().expect("it is piped")));
        Self { child, commands, events, seen: VecDeque::new(), is_python }
    }

    /// The npm package `centrifuge`, and `eventsource`, in Node.
    pub fn node(server: SocketAddr) -> Self {
        Self::start(node("told.mjs", &[&server.to_string(), SECRET]))
    }

    /// The npm package `centrifuge`, and `EventSource`, on a page of the server in Chromium.
    pub fn browser(server: SocketAddr) -> Self {
        let browser = browser();
        let path = browser.to_str().expect("UTF-8");
        Self::start(node("told.mjs", &[&server.to_string(), SECRET, path]))
    }

    /// The Python package `centrifuge-python`.
    pub fn python(server: SocketAddr) -> Self {
        Self::start(python("drive.py", &[&server.to_string(), SECRET]))
    }

    /// The Python package `cent`.
    pub fn backend(server: &Server) -> Self {
        Self::start(python("asks.py", &[&server.address.to_string(), &server.api_key]))
    }

    /// A product on Node's HTTP server, at this port of this machine (0: any); and the port.
    pub fn product(port: u16) -> (Self, u16) {
        let mut product = Self::start(node("product.mjs", &[&port.to_string()]));
        let port = product.next("listening")["port"].as_u64().and_then(|port| port.try_into().ok());
        (product, port.expect("a port"))
    }

    pub fn is_python(&self) -> bool {
        self.is_python
    }

    /// Says what to do, and waits for what it led to: a member `result`, or `error`.
    pub fn ask(&mut self, command: &Value) -> Value {
        writeln!(self.commands, "{command}").expect("it reads");
        self.next("answer")
    }

    /// Like [`ask`](Self::ask), of what must go well.
    pub fn tell(&mut self, command: &Value) -> Value {
        let mut answer = self.ask(command);
        assert!(answer["error"].is_null(), "{command}: {answer}");
        answer["result"].take()
    }

    /// A call of `cent`.
    pub fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.tell(&json!([method, parameters]))
    }

    /// The next event of this name. Others stay for later.
    pub fn next(&mut self, name: &str) -> Value {
        if let Some(at) = self.seen.iter().position(|event| event["event"] == name) {
            return self.seen.remove(at).expect("it is there");
        }
        let began = Instant::now();
        loop {
            let left = DEADLINE.saturating_sub(began.elapsed());
            let event = self.read(left).unwrap_or_else(|| panic!("no {name}: {:?}", self.seen));
            if event["event"] == name {
                return event;
            }
            self.seen.push_back(event);
        }
    }

    /// How many events of this name came and were not asked for.
    pub fn left(&self, name: &str) -> usize {
        self.seen.iter().filter(|event| event["event"] == name).count()
    }

    /// The next publication: of one of its own subscriptions, or of one that the server made.
    pub fn publication(&mut self, kind: &str) -> Value {
        let event = self.next(kind);
        event.get("pub").cloned().unwrap_or(event)
    }

    /// The data of all publications until "end" comes.
    pub fn until_end(&mut self, kind: &str) -> Vec<Value> {
        std::iter::repeat_with(|| self.publication(kind)["data"].take())
            .take_while(|data| data != "end")
            .collect()
    }

    fn read(&mut self, patience: Duration) -> Option<Value> {
        let line = self.events.recv_timeout(patience).ok()?;
        Some(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}")))
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

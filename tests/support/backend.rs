//! A backend of a product: says over real HTTP what it is told to say, and shows what it was asked.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

use serde_json::{Value, json};

use super::DEADLINE;

/// One request.
#[derive(Debug)]
pub struct Seen {
    pub path: String,
    headers: Vec<(String, String)>,
    pub body: Value,
}

impl Seen {
    /// The value of a header, its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }
}

/// What is answered.
#[derive(Clone, Debug)]
pub enum Say {
    /// A body with this status.
    Status(u16, String),
    /// Nothing, until the backend says something else on this path.
    Nothing,
}

impl Say {
    pub fn result(result: &Value) -> Self {
        Self::Status(200, json!({ "result": result }).to_string())
    }
}

type Script = Arc<Mutex<BTreeMap<String, Say>>>;

/// The server; its threads live as long as the process.
pub struct Backend {
    pub address: SocketAddr,
    script: Script,
    seen: Receiver<Seen>,
}

impl Backend {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let script = Script::default();
        let (sender, seen) = channel();
        let shared = Arc::clone(&script);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (script, sender) = (Arc::clone(&shared), sender.clone());
                thread::spawn(move || serve(stream, &script, &sender));
            }
        });
        Self { address, script, seen }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What it answers on this path from now on.
    pub fn say(&self, path: &str, say: Say) {
        self.script.lock().expect("nobody panicked").insert(path.to_owned(), say);
    }

    /// The next request.
    pub fn seen(&self) -> Seen {
        self.seen.recv_timeout(DEADLINE).expect("the backend is asked")
    }

    /// The next request on this path; others before it are passed over.
    pub fn seen_on(&self, path: &str) -> Seen {
        loop {
            let seen = self.seen();
            if seen.path == path {
                return seen;
            }
        }
    }
}

fn serve(stream: TcpStream, script: &Script, sender: &Sender<Seen>) {
    let mut stream = BufReader::new(stream);
    while let Some(seen) = read(&mut stream) {
        let say = script.lock().expect("nobody panicked").get(&seen.path).cloned();
        // Nobody may look at requests any more.
        let _ = sender.send(seen);
        let (status, body) = match say {
            Some(Say::Status(status, body)) => (status, body),
            None => (404, "{}".to_owned()),
            Some(Say::Nothing) => {
                // The asker hangs up.
                let _ = stream.read(&mut [0]);
                return;
            }
        };
        let head = format!("HTTP/1.1 {status} said\r\nContent-Length: {}\r\n\r\n", body.len());
        if stream.get_mut().write_all((head + &body).as_bytes()).is_err() {
            return;
        }
    }
}

fn read(stream: &mut BufReader<TcpStream>) -> Option<Seen> {
    let mut line = || {
        let mut line = String::new();
        let bytes = stream.read_line(&mut line).ok()?;
        (bytes > 0).then(|| line.trim_end().to_owned())
    };
    let path = line()?.split(' ').nth(1)?.to_owned();
    let mut headers = Vec::new();
    let mut length = 0;
    loop {
        let line = line()?;
        let Some((name, value)) = line.split_once(": ") else { break };
        let name = name.to_ascii_lowercase();
        if name == "content-length" {
            length = value.parse().ok()?;
        }
        headers.push((name, value.to_owned()));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    Some(Seen { path, headers, body })
}

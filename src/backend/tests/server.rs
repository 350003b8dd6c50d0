//! A small real HTTP server that says what it is told to say and shows what it was asked.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use crossbeam_channel::{Receiver, unbounded};
use serde_json::Value;

use super::DEADLINE;

/// One request.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) method: String,
    pub(super) path: String,
    headers: Vec<(String, String)>,
    pub(super) body: String,
    /// Number of the connection it came on.
    pub(super) connection: usize,
    /// Number of the request, on all connections.
    pub(super) number: usize,
}

impl Seen {
    /// All values of a header, its name in lower case.
    pub(super) fn header(&self, name: &str) -> Vec<&str> {
        let of_name = self.headers.iter().filter(|(field, _)| field == name);
        of_name.map(|(_, value)| value.as_str()).collect()
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("a JSON body")
    }
}

/// What it answers, byte by byte; `None`: it hangs up.
type Script = dyn Fn(&Seen) -> Option<String> + Send + Sync;

/// A server until the process ends.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    requests: Receiver<Seen>,
}

/// The bytes of an answer with this status line and body.
pub(super) fn answer(status: &str, body: &str) -> Option<String> {
    let length = body.len();
    Some(format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}"))
}

/// Status 200.
pub(super) fn ok(body: &str) -> Option<String> {
    answer("200 OK", body)
}

impl Server {
    pub(super) fn start(script: impl Fn(&Seen) -> Option<String> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let (seen, requests) = unbounded();
        let script: Arc<Script> = Arc::new(script);
        let count = Arc::new(AtomicUsize::new(0));
        thread::spawn(move || {
            for (connection, stream) in listener.incoming().map_while(Result::ok).enumerate() {
                let (seen, script, count) = (seen.clone(), Arc::clone(&script), Arc::clone(&count));
                thread::spawn(move || {
                    let mut stream = BufReader::new(stream);
                    while let Some(mut request) = read(&mut stream, connection) {
                        request.number = count.fetch_add(1, Ordering::SeqCst);
                        let _ = seen.send(request.clone());
                        let Some(answer) = script(&request) else { return };
                        if stream.get_mut().write_all(answer.as_bytes()).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, requests }
    }

    /// The next request.
    pub(super) fn seen(&self) -> Seen {
        self.requests.recv_timeout(DEADLINE).expect("it is asked")
    }

    /// Requests that nobody looked at.
    pub(super) fn unseen(&self) -> usize {
        self.requests.len()
    }
}

/// Reads one request; `None` at the end of the connection.
pub(super) fn read(stream: &mut impl BufRead, connection: usize) -> Option<Seen> {
    let mut line = || {
        let mut line = String::new();
        let bytes = stream.read_line(&mut line).ok()?;
        (bytes > 0).then(|| line.trim_end().to_owned())
    };
    let first = line()?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut headers = Vec::new();
    loop {
        let line = line()?;
        let Some((name, value)) = line.split_once(": ") else { break };
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let mut seen = Seen { method, path, headers, body: String::new(), connection, number: 0 };
    let length = seen.header("content-length").first().map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    seen.body = String::from_utf8(body).ok()?;
    Some(seen)
}

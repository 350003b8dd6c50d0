//! A way to a server that can be interrupted: what goes through it is cut, and comes back when mended.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

pub struct Relay {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    is_shut: bool,
    streams: Vec<TcpStream>,
}

impl Relay {
    pub fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let relay = Self { address, state: Arc::default() };
        let state = Arc::clone(&relay.state);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let mut state = lock(&state);
                // Dropped, the connection of a client is closed.
                if !state.is_shut
                    && let Ok(server) = TcpStream::connect(server)
                {
                    for stream in [&client, &server] {
                        state.streams.push(stream.try_clone().expect("an open file more"));
                    }
                    let back =
                        [&server, &client].map(|s| s.try_clone().expect("an open file more"));
                    thread::spawn(move || pass(&client, &server));
                    thread::spawn(move || pass(&back[0], &back[1]));
                }
            }
        });
        relay
    }

    /// Nobody comes through any more; who has come stays.
    pub fn shut(&self) {
        lock(&self.state).is_shut = true;
    }

    /// The same, and all connections break.
    pub fn cut(&self) {
        let mut state = lock(&self.state);
        state.is_shut = true;
        for stream in state.streams.drain(..) {
            // The peer may have ended it.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub fn mend(&self) {
        lock(&self.state).is_shut = false;
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Passes on what comes, its end too.
fn pass(mut from: &TcpStream, mut to: &TcpStream) {
    let mut bytes = [0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

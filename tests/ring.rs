//! The ring against the real kernel: loopback sockets, short buffers, late completions, wakes
//! between threads.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use tiderace::frame::Segment;
use tiderace::shard::links::{Ports, mesh};
use tiderace::shard::sleep::Sleeper;
use tiderace::sys::doorbell::Doorbell;
use tiderace::sys::ring::{Accepted, Completion, Key, ReadEnd, Received, Ring, RingAddress, Sizes};
use tiderace::sys::sockets;

const SIZES: Sizes = Sizes {
    submission_entries: 64,
    completion_entries: 256,
    receive_buffers: 8,
    receive_buffer_bytes: 4096,
};
const KEY: Key = Key { slot: 3, generation: 1 };
const MIB: usize = 1 << 20;

fn listener() -> (TcpListener, SocketAddr) {
    let any = (Ipv4Addr::LOCALHOST, 0).into();
    let listener = sockets::listener(any, false, sockets::BACKLOG).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// The next completion; a test that hangs fails after some seconds instead.
fn next(ring: &mut Ring) -> Completion {
    for _ in 0..20 {
        if let Some(completion) = ring.next() {
            return completion;
        }
        ring.wait(Duration::from_secs(1)).unwrap();
    }
    panic!("no completion came")
}

fn accepted(ring: &mut Ring) -> Accepted {
    match next(ring) {
        Completion::Accepted(socket) => socket,
        other => panic!("{other:?}"),
    }
}

fn received(ring: &mut Ring) -> (Key, Received, bool) {
    match next(ring) {
        Completion::Received { key, data, more } => (key, data, more),
        other => panic!("{other:?}"),
    }
}

fn sent(ring: &mut Ring) -> Result<u32, Errno> {
    match next(ring) {
        Completion::Sent { key: KEY, result } => result,
        other => panic!("{other:?}"),
    }
}

/// A ring with one connection in the slot of `KEY`, and the peer's side of it.
fn connected(sizes: Sizes) -> (Ring, TcpStream) {
    let (listener, address) = listener();
    let mut ring = Ring::new(sizes).unwrap();
    ring.listen(listener);
    let client = TcpStream::connect(address).unwrap();
    let socket = accepted(&mut ring);
    ring.adopt(KEY, socket);
    (ring, client)
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|index| (index % 251) as u8).collect()
}

#[test]
fn a_connection_from_accept_to_close() {
    let (listener, address) = listener();
    let mut ring = Ring::new(SIZES).unwrap();
    ring.listen(listener);
    let mut client = TcpStream::connect(address).unwrap();
    let socket = accepted(&mut ring);
    assert_eq!(socket.peer().unwrap(), client.local_addr().unwrap());
    ring.adopt(KEY, socket);
    ring.receive(KEY);
    for round in 0..100_u8 {
        client.write_all(&[round; 10]).unwrap();
        let (key, data, more) = received(&mut ring);
        assert_eq!((key, more), (KEY, true));
        let bytes = ring.bytes_mut(&data);
        bytes[0] = b'>';
        let answer = Segment::from(bytes.to_vec());
        ring.give_back(data);
        ring.send(KEY, answer, 0, 10);
        assert_eq!(sent(&mut ring), Ok(10));
        let mut echo = [0; 10];
        client.read_exact(&mut echo).unwrap();
        assert_eq!((echo[0], echo[1..] == [round; 9]), (b'>', true));
    }
    ring.shutdown(KEY, Shutdown::Write);
    assert!(matches!(next(&mut ring), Completion::ShutDown { key: KEY }));
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    drop(client);
    let end = next(&mut ring);
    assert!(matches!(end, Completion::ReceiveEnded { key: KEY, why: ReadEnd::Eof }), "{end:?}");
    ring.close(KEY);
    assert!(matches!(next(&mut ring), Completion::Closed { key: KEY }));
    assert_eq!(ring.operations_in_flight(), 1, "the accept alone");
}

#[test]
fn a_rejected_connection_is_closed() {
    let (listener, address) = listener();
    let mut ring = Ring::new(SIZES).unwrap();
    ring.listen(listener);
    let mut client = TcpStream::connect(address).unwrap();
    let socket = accepted(&mut ring);
    ring.reject(socket);
    ring.submit().unwrap();
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn accepting_stops_and_goes_on() {
    let (listener, address) = listener();
    let mut ring = Ring::new(SIZES).unwrap();
    ring.listen(listener);
    for _ in 0..3 {
        let _client = TcpStream::connect(address).unwrap();
        drop(accepted(&mut ring));
        ring.stop_accept();
        ring.stop_accept();
        match next(&mut ring) {
            Completion::AcceptEnded(error) => {
                assert_eq!(Errno::from_io_error(&error), Some(Errno::CANCELED));
            }
            other => panic!("{other:?}"),
        }
        ring.rearm_accept();
        ring.rearm_accept();
    }
    ring.stop_accept();
    assert!(matches!(next(&mut ring), Completion::AcceptEnded(_)));
    ring.close_listener();
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn no_buffers_left_loses_no_bytes() {
    let (mut ring, mut client) =
        connected(Sizes { receive_buffers: 2, receive_buffer_bytes: 512, ..SIZES });
    let expected = pattern(MIB);
    let source = expected.clone();
    let writer = thread::spawn(move || client.write_all(&source).map(|()| client));
    let (mut all, mut held, mut shortages) = (Vec::new(), Vec::new(), 0);
    ring.receive(KEY);
    while all.len() < MIB {
        match next(&mut ring) {
            Completion::Received { data, more, .. } => {
                all.extend_from_slice(ring.bytes_mut(&data));
                held.push(data);
                if !more {
                    held.drain(..).for_each(|data| ring.give_back(data));
                    ring.receive(KEY);
                }
            }
            Completion::ReceiveEnded { key: KEY, why: ReadEnd::NoBuffers } => {
                shortages += 1;
                held.drain(..).for_each(|data| ring.give_back(data));
                ring.receive(KEY);
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(all == expected);
    assert!(shortages > 100, "{shortages}");
    drop(writer.join().unwrap().unwrap());
}

#[test]
fn a_large_send_makes_progress_in_pieces() {
    let (mut ring, mut client) = connected(SIZES);
    let expected = pattern(8 * MIB);
    let bytes = Segment::from(expected.clone());
    ring.send(KEY, bytes.clone(), 0, 8 * MIB as u32);
    assert_eq!(bytes.holders(), 2, "the ring keeps what it sends");
    let mut done = sent(&mut ring).unwrap();
    assert_eq!(bytes.holders(), 1);
    assert!(done < 8 * MIB as u32, "nobody reads yet");
    let reader = thread::spawn(move || {
        let mut all = Vec::new();
        client.read_to_end(&mut all).map(|_| all)
    });
    while done < 8 * MIB as u32 {
        ring.send(KEY, bytes.clone(), done, 8 * MIB as u32);
        done += sent(&mut ring).unwrap();
    }
    ring.shutdown(KEY, Shutdown::Write);
    assert!(reader.join().unwrap().unwrap() == expected);
}

#[test]
fn a_shutdown_ends_a_send_in_flight() {
    let (mut ring, _client) = connected(SIZES);
    let bytes = Segment::from(vec![1; 32 * MIB]);
    let length = 32 * MIB as u32;
    // The socket takes what fits, then the next send waits for a peer that does not read.
    let first = sent_after(&mut ring, &bytes, 0, length).unwrap();
    ring.send(KEY, bytes.clone(), first, length);
    ring.shutdown(KEY, Shutdown::Both);
    let (mut end, mut shut) = (None, false);
    while end.is_none() || !shut {
        match next(&mut ring) {
            Completion::Sent { key: KEY, result } => end = Some(result),
            Completion::ShutDown { key: KEY } => shut = true,
            other => panic!("{other:?}"),
        }
    }
    match end.unwrap() {
        Ok(count) => assert!(count < length - first),
        Err(error) => assert_eq!(error, Errno::PIPE),
    }
    assert_eq!(bytes.holders(), 1);
    ring.close(KEY);
    assert!(matches!(next(&mut ring), Completion::Closed { key: KEY }));
}

fn sent_after(ring: &mut Ring, bytes: &Segment, from: u32, to: u32) -> Result<u32, Errno> {
    ring.send(KEY, bytes.clone(), from, to);
    sent(ring)
}

#[test]
fn a_send_to_a_gone_peer_fails_and_raises_no_signal() {
    let (mut ring, client) = connected(SIZES);
    drop(client);
    let bytes = Segment::from(vec![1; 1000]);
    let failed = (0..1000).find_map(|_| sent_after(&mut ring, &bytes, 0, 1000).err());
    assert!(matches!(failed, Some(Errno::PIPE | Errno::CONNRESET)), "{failed:?}");
}

#[test]
fn late_completions_name_the_former_tenant() {
    let (listener, address) = listener();
    let mut ring = Ring::new(SIZES).unwrap();
    ring.listen(listener);
    let mut former = TcpStream::connect(address).unwrap();
    let socket = accepted(&mut ring);
    ring.adopt(KEY, socket);
    ring.receive(KEY);
    ring.close(KEY);
    assert!(matches!(next(&mut ring), Completion::Closed { key: KEY }));

    let successor = Key { slot: KEY.slot, generation: KEY.generation + 1 };
    let mut latter = TcpStream::connect(address).unwrap();
    let socket = accepted(&mut ring);
    ring.adopt(successor, socket);
    ring.receive(successor);
    for (client, key, text) in [(&mut former, KEY, b"old"), (&mut latter, successor, b"new")] {
        client.write_all(text).unwrap();
        let (whose, data, _) = received(&mut ring);
        assert_eq!((whose, &*ring.bytes_mut(&data)), (key, text.as_slice()));
        ring.give_back(data);
    }
    ring.cancel_receive(KEY);
    let (mut ended, mut cancelled) = (false, false);
    while !ended || !cancelled {
        match next(&mut ring) {
            Completion::ReceiveEnded { key: KEY, why: ReadEnd::Cancelled } => ended = true,
            Completion::CancelDone { key: KEY } => cancelled = true,
            other => panic!("{other:?}"),
        }
    }
    latter.write_all(b"still").unwrap();
    let (whose, data, more) = received(&mut ring);
    assert_eq!((whose, more), (successor, true));
    ring.give_back(data);
}

#[test]
#[should_panic(expected = "a socket of this generation")]
fn a_former_tenant_cannot_act() {
    let (mut ring, _client) = connected(SIZES);
    ring.receive(Key { generation: KEY.generation + 1, ..KEY });
}

#[test]
fn dropping_a_ring_ends_everything_in_flight() {
    let (mut ring, mut client) = connected(SIZES);
    let bytes = Segment::from(vec![1; 32 * MIB]);
    ring.listen_doorbell(&Doorbell::new().unwrap());
    ring.receive(KEY);
    let first = sent_after(&mut ring, &bytes, 0, 32 * MIB as u32).unwrap();
    ring.send(KEY, bytes.clone(), first, 32 * MIB as u32);
    ring.submit().unwrap();
    assert_eq!(ring.operations_in_flight(), 4, "accept, doorbell, receive, send");
    client.write_all(&pattern(100)).unwrap();
    assert_eq!(bytes.holders(), 2);
    drop(ring);
    assert_eq!(bytes.holders(), 1, "freed, not leaked");
    // The peer gets what was sent and the end of the connection, in whichever form.
    let _ = client.read_to_end(&mut Vec::new());
}

#[test]
fn dropping_a_ring_ends_what_was_never_submitted() {
    let (mut ring, _client) = connected(Sizes { submission_entries: 2, ..SIZES });
    let bytes = Segment::from(vec![1; 32 * MIB]);
    ring.receive(KEY);
    ring.send(KEY, bytes.clone(), 0, 32 * MIB as u32);
    drop(ring);
    assert_eq!(bytes.holders(), 1);
}

#[test]
fn more_operations_than_the_queues_hold() {
    let sizes = Sizes { submission_entries: 4, completion_entries: 8, ..SIZES };
    let mut ring = Ring::new(sizes).unwrap();
    let own = ring.address();
    (0..1000).for_each(|_| ring.wake(own));
    for _ in 0..1000 {
        assert!(matches!(next(&mut ring), Completion::Woken));
    }
    assert!(ring.completion_overflows() > 0);
    assert!(!ring.has_more() && ring.next().is_none());
}

#[test]
fn a_doorbell_rings_from_another_thread() {
    let bell = Doorbell::new().unwrap();
    bell.ring();
    let mut ring = Ring::new(SIZES).unwrap();
    ring.listen_doorbell(&bell);
    assert!(matches!(next(&mut ring), Completion::Doorbell), "rung before anybody listened");
    let (ask, asked) = mpsc::channel();
    let ringer = thread::spawn(move || asked.iter().for_each(|()| bell.ring()));
    for _ in 0..200 {
        ask.send(()).unwrap();
        assert!(matches!(next(&mut ring), Completion::Doorbell));
        assert!(ring.next().is_none());
    }
    drop(ask);
    ringer.join().unwrap();
}

#[test]
fn a_wait_ends_at_its_timeout() {
    let mut ring = Ring::new(SIZES).unwrap();
    let timeout = Duration::from_millis(20);
    let start = Instant::now();
    ring.wait(timeout).unwrap();
    assert!(start.elapsed() >= timeout);
    assert!(ring.next().is_none());
    assert_eq!(ring.syscalls(), 1);
    ring.submit().unwrap();
    assert_eq!(ring.syscalls(), 1, "nothing to submit");
}

/// No answer takes this long, however busy the machine is.
const LOST: Duration = Duration::from_secs(20);

/// One side of a ping-pong: takes messages, answers each, sleeps as a shard does.
struct Player {
    ring: Ring,
    ports: Ports<u32>,
    sleepers: [Arc<Sleeper>; 2],
    addresses: [RingAddress; 2],
    me: usize,
    wakes: u32,
}

impl Player {
    fn push(&mut self, message: u32) {
        let other = 1 - self.me;
        self.ports.push(other, message).unwrap();
        if self.sleepers[other].claim_wake() {
            self.ring.wake(self.addresses[other]);
            self.ring.submit().unwrap();
        }
    }

    /// The next message of the other side; whoever waits that long for it has lost a wake.
    fn take(&mut self) -> u32 {
        loop {
            while let Some(completion) = self.ring.next() {
                assert!(matches!(completion, Completion::Woken), "{completion:?}");
            }
            if let Some(message) = self.ports.take(1 - self.me) {
                return message;
            }
            let sleeper = &self.sleepers[self.me];
            sleeper.announce();
            if !self.ports.all_empty() {
                sleeper.cancel();
                continue;
            }
            let before = Instant::now();
            self.ring.wait(LOST).unwrap();
            sleeper.awake();
            let woken = self.ring.next().is_some();
            assert!(woken || before.elapsed() < LOST, "a wake was lost");
            self.wakes += u32::from(woken);
        }
    }
}

#[test]
fn no_wake_is_lost_between_two_threads() {
    const ROUNDS: u32 = 20_000;
    let (publish, published) = mpsc::channel();
    let sleepers = [Arc::new(Sleeper::new()), Arc::new(Sleeper::new())];
    let finished = Arc::new(Barrier::new(2));
    let cpus = tiderace::sys::cpu::available().unwrap();
    let players: Vec<_> = mesh(2, 4)
        .into_iter()
        .enumerate()
        .map(|(me, ports)| {
            let (sleepers, publish) = (sleepers.clone(), publish.clone());
            let (give, addresses) = mpsc::channel::<[RingAddress; 2]>();
            let finished = Arc::clone(&finished);
            let cpu = cpus[me % cpus.len()];
            let player = thread::spawn(move || {
                tiderace::sys::cpu::pin(cpu).unwrap();
                let ring = Ring::new(SIZES).unwrap();
                publish.send((me, ring.address())).unwrap();
                let addresses = addresses.recv().unwrap();
                let mut player = Player { ring, ports, sleepers, addresses, me, wakes: 0 };
                for round in 0..ROUNDS {
                    if round % 2 == me as u32 {
                        player.push(round);
                    } else {
                        assert_eq!(player.take(), round);
                    }
                }
                // Neither ring may go while the other still wakes it.
                finished.wait();
                assert!(player.wakes > 0, "nobody ever slept");
            });
            (player, give)
        })
        .collect();
    let mut addresses: Vec<_> = published.iter().take(2).collect();
    addresses.sort_by_key(|(me, _)| *me);
    let addresses = [addresses[0].1, addresses[1].1];
    for (_, give) in &players {
        give.send(addresses).unwrap();
    }
    for (player, _) in players {
        player.join().unwrap();
    }
}

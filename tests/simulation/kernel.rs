//! The fake kernel of one core: sockets, the operations outstanding on them, and how they end.
//!
//! It checks what a real kernel would punish silently: two receives or sends on one socket, bytes
//! that change under a send, operations on a descriptor that is closed or about to be.

use std::{
    collections::{BTreeMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
};

use tiderace::{
    core::{How, ReadEnd},
    frame::Segment,
    hub::ConnRef,
};

use super::{faults::Mutation, random::Random};

const ECONNRESET: i32 = 104;
const EPIPE: i32 = 32;

/// A send that the kernel works on.
struct Sending {
    segment: Segment,
    from: usize,
    to: usize,
    /// Bytes that the peer has.
    taken: usize,
    checksum: u64,
}

/// One connection as the kernel sees it: the peer's bytes in, ours out.
pub struct Socket {
    pub conn: ConnRef,
    pub client: usize,
    /// What the client sent and nobody received yet.
    pub inbound: Vec<u8>,
    /// The client sends no more.
    pub client_fin: bool,
    /// The client reset the connection.
    pub client_reset: bool,
    /// The client does not read.
    pub stalled: bool,
    /// We said FIN, after all bytes of our sends.
    pub server_fin: bool,
    both_shut: bool,
    receive: bool,
    send: Option<Sending>,
    shutdowns: Vec<How>,
    release: bool,
}

impl Socket {
    /// Operations that have not completed.
    pub fn outstanding(&self) -> usize {
        usize::from(self.receive)
            + usize::from(self.send.is_some())
            + self.shutdowns.len()
            + usize::from(self.release)
    }
}

/// A completion.
#[derive(Debug)]
pub enum Completion {
    Received { conn: ConnRef, bytes: Vec<u8>, end: Option<ReadEnd> },
    ReadEnded(ConnRef, ReadEnd),
    Sent(ConnRef, Result<u32, i32>),
    ShutDown(ConnRef),
    Released(ConnRef),
}

/// The sockets of one core, by slot.
pub struct Kernel {
    pub sockets: BTreeMap<u32, Socket>,
    mutation: Option<Mutation>,
    /// Whose slot was freed last: what the mutation of late completions aims at.
    freed: Option<u32>,
    /// Whether operations end in other ways than the plain one.
    pub hostile: bool,
}

impl Kernel {
    pub fn new(mutation: Option<Mutation>) -> Self {
        Self { sockets: BTreeMap::new(), mutation, freed: None, hostile: true }
    }

    pub fn open(&mut self, conn: ConnRef, client: usize) {
        let socket = Socket {
            conn,
            client,
            inbound: Vec::new(),
            client_fin: false,
            client_reset: false,
            stalled: false,
            server_fin: false,
            both_shut: false,
            receive: false,
            send: None,
            shutdowns: Vec::new(),
            release: false,
        };
        let before = self.sockets.insert(conn.slot, socket);
        assert!(before.is_none(), "slot {} has a tenant", conn.slot);
    }

    fn socket(&mut self, conn: ConnRef) -> &mut Socket {
        let socket = self.sockets.get_mut(&conn.slot).expect("an operation on a closed socket");
        assert_eq!(socket.conn, conn, "an operation of a former tenant");
        assert!(!socket.release, "an operation behind the close of its descriptor");
        socket
    }

    pub fn receive(&mut self, conn: ConnRef) {
        let socket = self.socket(conn);
        assert!(!socket.receive, "two receives on one socket");
        socket.receive = true;
    }

    pub fn send(&mut self, conn: ConnRef, segment: Segment, from: u32, to: u32) {
        let socket = self.socket(conn);
        assert!(socket.send.is_none(), "two sends on one socket");
        assert!(!socket.server_fin, "a send behind our FIN");
        let (from, to) = (from as usize, to as usize);
        assert!(from < to && to <= segment.len(), "an empty send");
        let checksum = checksum(&segment[from..to]);
        socket.send = Some(Sending { segment, from, to, taken: 0, checksum });
    }

    pub fn shutdown(&mut self, conn: ConnRef, how: How) {
        let socket = self.socket(conn);
        if how == How::Write {
            assert!(socket.send.is_none(), "FIN in the middle of a send");
        }
        socket.shutdowns.push(how);
        assert!(socket.shutdowns.len() <= 2, "a shutdown for each way at most");
    }

    pub fn release(&mut self, conn: ConnRef) {
        let socket = self.socket(conn);
        assert_eq!(socket.outstanding(), 0, "a close under operations");
        socket.release = true;
    }

    /// Bytes of a send on their way to its reading client: some of them, or all.
    pub fn carry(&mut self, slot: u32, random: &mut Random) -> Option<Vec<u8>> {
        let hostile = self.hostile;
        let socket = self.sockets.get_mut(&slot)?;
        if socket.stalled || socket.client_reset || socket.both_shut {
            return None;
        }
        let sending = socket.send.as_mut()?;
        let left = sending.to - sending.from - sending.taken;
        if left == 0 {
            return None;
        }
        let some = if hostile && random.chance(30) { random.between(1, left) } else { left };
        let first = sending.from + sending.taken;
        sending.taken += some;
        Some(sending.segment[first..first + some].to_vec())
    }

    /// Something that completes now, looked for from a random socket on.
    pub fn complete(&mut self, random: &mut Random) -> Option<Completion> {
        let slots: Vec<u32> = self.sockets.keys().copied().collect();
        if slots.is_empty() {
            return None;
        }
        let start = random.below(slots.len());
        (0..slots.len()).find_map(|at| {
            let slot = slots[(start + at) % slots.len()];
            self.complete_on(slot, random)
        })
    }

    fn complete_on(&mut self, slot: u32, random: &mut Random) -> Option<Completion> {
        let (hostile, mutation) = (self.hostile, self.mutation);
        let socket = self.sockets.get_mut(&slot)?;
        let conn = socket.conn;
        if mutation == Some(Mutation::LateCompletion)
            && self.freed.take_if(|freed| *freed == slot).is_some()
        {
            return Some(Completion::ReadEnded(conn, ReadEnd::Failed));
        }
        if socket.release {
            self.sockets.remove(&slot);
            self.freed = Some(slot);
            return Some(Completion::Released(conn));
        }
        let first = random.below(3);
        (0..3).find_map(|at| match (first + at) % 3 {
            0 => complete_receive(socket, hostile, mutation, random),
            1 => complete_send(socket, hostile, mutation, random),
            _ => complete_shutdown(socket),
        })
    }
}

fn complete_receive(
    socket: &mut Socket,
    hostile: bool,
    mutation: Option<Mutation>,
    random: &mut Random,
) -> Option<Completion> {
    if !socket.receive {
        return None;
    }
    let conn = socket.conn;
    if socket.client_reset {
        socket.receive = false;
        return Some(Completion::ReadEnded(conn, ReadEnd::Failed));
    }
    if !socket.inbound.is_empty() {
        let all = socket.inbound.len();
        let some = if hostile && random.chance(50) { random.between(1, all) } else { all };
        let mut bytes: Vec<u8> = socket.inbound.drain(..some).collect();
        if mutation == Some(Mutation::ReceiveDoubles) && random.chance(5) {
            bytes.extend_from_within(..);
        }
        let end = (hostile && random.chance(10)).then_some(ReadEnd::Again);
        socket.receive = end.is_none();
        return Some(Completion::Received { conn, bytes, end });
    }
    let end = match () {
        () if socket.both_shut || socket.client_fin => ReadEnd::Eof,
        () if hostile && random.chance(1) => ReadEnd::Again,
        () => return None,
    };
    socket.receive = false;
    Some(Completion::ReadEnded(conn, end))
}

fn complete_send(
    socket: &mut Socket,
    hostile: bool,
    mutation: Option<Mutation>,
    random: &mut Random,
) -> Option<Completion> {
    let sending = socket.send.as_mut()?;
    let length = sending.to - sending.from;
    let result = if socket.client_reset || socket.both_shut {
        match sending.taken {
            0 if hostile && random.chance(30) => Ok(0),
            0 => Err(if socket.client_reset { ECONNRESET } else { EPIPE }),
            taken => Ok(taken as u32),
        }
    } else if sending.taken == length
        || sending.taken > 0 && hostile && !socket.stalled && random.chance(20)
    {
        let overstated = mutation == Some(Mutation::SendOverstates) && sending.taken < length;
        Ok(sending.taken as u32 + u32::from(overstated))
    } else {
        return None;
    };
    let sending = socket.send.take().expect("looked at above");
    let now = checksum(&sending.segment[sending.from..sending.to]);
    assert_eq!(now, sending.checksum, "bytes changed while the kernel read them");
    Some(Completion::Sent(socket.conn, result))
}

fn complete_shutdown(socket: &mut Socket) -> Option<Completion> {
    if socket.shutdowns.is_empty() {
        return None;
    }
    match socket.shutdowns.remove(0) {
        How::Write => socket.server_fin = true,
        How::Both => (socket.server_fin, socket.both_shut) = (true, true),
    }
    Some(Completion::ShutDown(socket.conn))
}

fn checksum(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

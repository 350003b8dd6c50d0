//! Everybody outside the server: clients of all kinds, threads that are no shard, and the oracle.

use std::collections::BTreeMap;

use tiderace::{
    core::{Core, LinkMessage, OutsideAnswer},
    hub::{ConnRef, ShardId, ToHome},
    metrics::Counts,
};

use super::{
    client::Client,
    node::{Node, Observer},
    oracle::{Oracle, name},
    settings,
};

/// The close code of those whose end a thread that is no shard asked for.
pub const ASKED: u16 = 4_321;

/// Clients and the truth as they know it.
pub struct Crowd {
    pub clients: Vec<Client>,
    pub oracle: Oracle,
    /// Names of the channels that there are.
    pub channels: Vec<String>,
    /// Whether so little time passes that no deadline comes by itself.
    pub calm: bool,
    pub draining: bool,
    /// Ends that only a full queue explains.
    pub slow: u64,
    /// Ends of connections whose token expired.
    pub expired: u64,
    /// Ends that were asked for from outside.
    pub ends_asked: u64,
    /// Publications of threads that are no shard.
    pub outside: BTreeMap<u64, usize>,
}

impl Crowd {
    pub fn new(channels: usize, calm: bool) -> Self {
        Self {
            clients: Vec::new(),
            oracle: Oracle::new(channels),
            channels: (0..channels).map(name).collect(),
            calm,
            draining: false,
            slow: 0,
            expired: 0,
            ends_asked: 0,
            outside: BTreeMap::new(),
        }
    }

    /// A client is at its connection's end: who did not want that must have been told why, or be
    /// one of those whose queue was full.
    fn end(&mut self, client: usize) {
        let client = &mut self.clients[client];
        let was_live = client.is_live();
        client.over = true;
        match client.code {
            _ if !was_live || client.peer.may_be_ended() => {}
            Some(3008 | 1013) => self.slow += 1,
            Some(3001 | 1001) if self.draining => {}
            Some(3005) if !self.calm => self.expired += 1,
            Some(3012 | 3502) if !self.calm => {}
            Some(ASKED) => {
                assert!(self.ends_asked > 0, "nobody asked for the end");
                self.ends_asked -= 1;
            }
            None if !self.calm || self.draining && client.peer.is_http() => {}
            None => self.slow += 1,
            code => panic!("a client that did nothing wrong was closed with {code:?}"),
        }
    }

    /// After a flush core and kernel agree about every connection, and no queue is over its bound
    /// by more than the one thing that was queued last.
    fn check_connections(&self, node: &mut Node, shard: usize) {
        let bound = node.process.settings.queue_bytes_max + settings::ENTRY_BYTES_MAX;
        let core = &mut node.cores[shard];
        for socket in node.kernels[shard].sockets.values() {
            let operations = core.operations_of(socket.conn).map(usize::from);
            assert_eq!(operations, Some(socket.outstanding()), "{:?}", socket.conn);
            let queued = core.queued_bytes_of(socket.conn).expect("it exists");
            assert!(queued <= bound, "{queued} bytes wait for {:?}", socket.conn);
        }
    }

    /// At any time what a home knows of a shard is what the shard knows, but for what is under way:
    /// each join is followed by one leave, and none is lost.
    fn check_interest(&self, node: &Node, shard: usize) {
        for channel in &self.channels {
            let home = node.home(channel);
            let known = node.cores[home].home().interest(channel, shard as ShardId);
            let mut expected = i64::from(known);
            let waiting = node.cores[shard].waiting(home as ShardId);
            for message in node.links.messages(shard, home).chain(waiting) {
                match message {
                    LinkMessage::ToHome(ToHome::Join(join)) if *join.channel == **channel => {
                        expected += 1;
                    }
                    LinkMessage::ToHome(ToHome::Leave { channel: of, .. }) if **of == **channel => {
                        expected -= 1;
                    }
                    _ => {}
                }
            }
            let own = i64::from(node.cores[shard].local().subscriptions(channel));
            assert_eq!(own, expected, "{channel} on shard {shard}, home {home} knows {known}");
        }
    }

    /// The truth of the clients against the cores' account of it, when nothing is under way.
    pub fn check_truth(&mut self, node: &Node) {
        let mut subscribers = vec![0; self.channels.len()];
        let mut users: Vec<&str> = Vec::new();
        let mut connected = 0;
        for client in self.clients.iter().filter(|client| client.is_live()) {
            assert!(client.reader.is_between_messages(), "half a message came");
            client.peer.settled();
            for (channel, window) in client.peer.windows() {
                self.oracle.complete(window);
                subscribers[channel] += 1;
            }
            if let Some(user) = client.peer.user() {
                connected += 1;
                users.push(user);
            }
        }
        users.retain(|user| !user.is_empty());
        users.sort_unstable();
        users.dedup();
        for (name, expected) in self.channels.iter().zip(&subscribers) {
            let known = node.cores[node.home(name)].home().subscribers(name);
            assert_eq!(known, *expected, "subscribers of {name} by its home and by its clients");
        }
        let counts: Vec<_> = node.cores.iter().map(Core::counts).collect();
        let sum = |of: fn(&Counts) -> u64| counts.iter().map(of).sum::<u64>();
        assert_eq!(sum(|counts| counts.clients), connected, "clients");
        assert_eq!(sum(|counts| counts.subscriptions), u64::from(subscribers.iter().sum::<u32>()));
        assert_eq!(sum(|counts| counts.users), users.len() as u64, "users {users:?}");
        let sockets: Vec<usize> = node.kernels.iter().map(|kernel| kernel.sockets.len()).collect();
        assert_eq!(settings::connections(&node.process), sockets.iter().sum::<usize>());
        for (counts, sockets) in counts.iter().zip(sockets) {
            assert_eq!(counts.connections, sockets as u64);
        }
        let closed = sum(|counts| counts.counters.slow_consumers_closed);
        assert!(self.slow <= closed, "{} ends that {closed} slow consumers explain", self.slow);
    }
}

impl Observer for Crowd {
    fn flushed(&mut self, node: &mut Node, shard: usize) {
        self.check_connections(node, shard);
        self.check_interest(node, shard);
    }

    fn heard(&mut self, node: &mut Node, client: usize, bytes: &[u8]) {
        let client = &mut self.clients[client];
        let answer = client.read(bytes, &mut self.oracle, &mut node.random);
        let sockets = &mut node.kernels[client.shard].sockets;
        let socket = sockets.get_mut(&client.conn.slot).expect("it carried");
        if !socket.client_fin {
            socket.inbound.extend(answer);
        }
    }

    /// A client must know why by now, and mostly says FIN as well.
    fn finished(&mut self, node: &mut Node, client: usize) {
        let Client { shard, conn, over, .. } = self.clients[client];
        if !over {
            node.events += 1;
            let fin = node.random.chance(80);
            let socket = node.kernels[shard].sockets.get_mut(&conn.slot).expect("it has its FIN");
            socket.client_fin |= fin;
            self.end(client);
        }
    }

    fn released(&mut self, shard: usize, conn: ConnRef) {
        let its = |client: &Client| client.shard == shard && client.conn == conn;
        if let Some(client) = self.clients.iter().position(its) {
            self.end(client);
        }
    }

    fn answered(&mut self, id: u64, answer: OutsideAnswer) {
        let OutsideAnswer::Called(outcome) = answer else { panic!("{answer:?}") };
        let channel = self.outside.remove(&id).expect("one answer to a call");
        self.oracle.tick();
        match outcome {
            Ok(_) => self.oracle.acknowledged(channel, id),
            Err(_) => self.oracle.refused(channel, id),
        }
    }
}

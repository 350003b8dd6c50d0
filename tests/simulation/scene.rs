//! A world with a script: connections whose bytes a test writes and reads itself.

use tiderace::hub::ConnRef;

use super::{
    oracle::name,
    random::Random,
    settings::Shape,
    wire::{self, Reader, Said},
    world::World,
};

struct Connection {
    shard: usize,
    conn: ConnRef,
    reader: Reader,
}

/// The world and its connections, by number.
pub struct Scene {
    pub world: World,
    connections: Vec<Connection>,
}

impl Scene {
    pub fn new(shape: Shape) -> Self {
        let mut world = World::of(shape, Random::new(0), None);
        world.node.kernels.iter_mut().for_each(|kernel| kernel.hostile = false);
        Self { world, connections: Vec::new() }
    }

    /// A channel whose home is that shard.
    pub fn channel_of(&self, shard: usize) -> String {
        let mut names = (0..).map(name);
        names.find(|name| self.home_of(name) == shard).expect("names do not end")
    }

    /// The home of a channel.
    pub fn home_of(&self, channel: &str) -> usize {
        usize::from(self.world.node.process.key.home(channel, self.world.shards()))
    }

    /// A connection that has sent nothing.
    pub fn open(&mut self, shard: usize) -> usize {
        let conn =
            self.world.node.cores[shard].accepted(self.world.node.now).expect("there is room");
        let number = self.connections.len();
        self.world.node.kernels[shard].open(conn, usize::MAX);
        self.connections.push(Connection { shard, conn, reader: Reader::default() });
        number
    }

    /// A Centrifuge client that is connected; its connect command had the number 1.
    pub fn client(&mut self, shard: usize) -> usize {
        let client = self.open(shard);
        self.say(client, wire::upgrade("/connection/websocket"));
        self.tell(client, r#"{"id":1,"connect":{}}"#);
        self.rest();
        let heard = self.hear(client);
        assert!(heard.len() == 2 && heard[1].contains("connect"), "{heard:?}");
        client
    }

    /// Such a client in a channel; the command had the number 2.
    pub fn subscriber(&mut self, shard: usize, channel: &str) -> usize {
        let client = self.client(shard);
        self.tell(client, &format!(r#"{{"id":2,"subscribe":{{"channel":"{channel}"}}}}"#));
        self.rest();
        assert_eq!(self.hear(client), [r#"{"id":2,"subscribe":{}}"#]);
        client
    }

    /// Where a client's connection is.
    pub fn place_of(&self, client: usize) -> (usize, ConnRef) {
        let Connection { shard, conn, .. } = self.connections[client];
        (shard, conn)
    }

    /// Writes bytes of a client.
    pub fn say(&mut self, client: usize, bytes: Vec<u8>) {
        let Connection { shard, conn, .. } = self.connections[client];
        let socket =
            self.world.node.kernels[shard].sockets.get_mut(&conn.slot).expect("it is open");
        socket.inbound.extend(bytes);
    }

    /// Breaks a client's connection.
    pub fn reset(&mut self, client: usize) {
        let Connection { shard, conn, .. } = self.connections[client];
        let socket = self.world.node.kernels[shard].sockets.get_mut(&conn.slot);
        if let Some(socket) = socket.filter(|socket| socket.conn == conn) {
            socket.client_reset = true;
        }
    }

    /// Writes a WebSocket message of a client.
    pub fn tell(&mut self, client: usize, text: &str) {
        let bytes = wire::text(text, &mut self.world.node.random);
        self.say(client, bytes);
    }

    /// What a client was sent since the last call: lines of messages, `200 body` of responses,
    /// `close 1000`. Nobody else reads the client's bytes.
    pub fn hear(&mut self, client: usize) -> Vec<String> {
        let Connection { shard, conn, ref mut reader } = self.connections[client];
        let mut lines = Vec::new();
        while let Some(bytes) =
            self.world.node.kernels[shard].carry(conn.slot, &mut self.world.node.random)
        {
            reader.feed(&bytes);
            self.world.turn(shard, true);
        }
        let text = |bytes| String::from_utf8(bytes).expect("everything here is text");
        while let Some(said) = reader.next() {
            match said {
                Said::Response { status, body } => lines.push(format!("{status} {}", text(body))),
                Said::Close(code) => lines.push(format!("close {code}")),
                Said::Text(bytes) => lines.extend(text(bytes).split('\n').map(str::to_owned)),
                other => panic!("not in a script: {other:?}"),
            }
        }
        lines
    }

    /// What a client was sent since the last call, as it came.
    pub fn hear_bytes(&mut self, client: usize) -> String {
        let Connection { shard, conn, .. } = self.connections[client];
        let mut heard = Vec::new();
        while let Some(bytes) =
            self.world.node.kernels[shard].carry(conn.slot, &mut self.world.node.random)
        {
            heard.extend(bytes);
            self.world.turn(shard, true);
        }
        String::from_utf8(heard).expect("everything here is text")
    }

    /// Turns of all shards until nothing moves.
    pub fn rest(&mut self) {
        let mut quiet = 0;
        while quiet < 2 {
            let before = self.world.node.events;
            (0..self.world.shards()).for_each(|shard| self.world.turn(shard, true));
            quiet = if self.world.node.events == before { quiet + 1 } else { 0 };
        }
    }
}

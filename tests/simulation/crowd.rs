//! Everybody outside the server: clients of all kinds, threads that are no shard, and the oracle.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroUsize,
};

use tiderace::{
    core::{Core, LinkMessage, OutsideAnswer},
    hub::{ConnRef, FromHome, Position, ShardId, ToHome},
    limits::LINK_BACKLOG_BYTES_MAX,
    metrics::Counts,
    protocol::Delivery,
};

use super::{
    client::Client,
    features::Features,
    letters::{Present, To, Told},
    node::{Node, Observer},
    oracle::{Oracle, Will, name},
    settings,
    window::Window,
    wishes::Memory,
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
    /// Nobody has come, gone or asked for anything since the last rest.
    pub peace: bool,
    /// Ends that only a full queue explains.
    pub slow: u64,
    /// Ends of connections whose token expired.
    pub expired: u64,
    /// Ends that were asked for from outside.
    pub ends_asked: u64,
    /// Publications of threads that are no shard.
    pub outside: BTreeMap<u64, To>,
    pub features: Features,
    /// Where clients were whose connections ended.
    pub memories: Vec<Memory>,
    /// Ends of connections that lost a position.
    pub lost: u64,
    /// Ends of connections that were too many.
    pub limited: u64,
    /// What a backend said last that others see of a connection.
    pub infos: HashMap<(ShardId, ConnRef), String>,
    /// Subscribers without a position that a gap came by.
    gone_by: u64,
    /// Where each channel's stream stood last, and since when.
    tops: Vec<Option<(Position, u64)>>,
}

impl Crowd {
    pub fn new(channels: usize, calm: bool, features: Features) -> Self {
        Self {
            clients: Vec::new(),
            oracle: Oracle::new(channels),
            channels: (0..channels).map(name).collect(),
            calm,
            draining: false,
            peace: false,
            slow: 0,
            expired: 0,
            ends_asked: 0,
            outside: BTreeMap::new(),
            features,
            memories: Vec::new(),
            lost: 0,
            limited: 0,
            infos: HashMap::new(),
            gone_by: 0,
            tops: vec![None; channels],
        }
    }

    /// The last client whose connection has this name.
    pub fn client_of(&self, name: &str) -> Option<usize> {
        let named = |Client { shard, conn, .. }: &Client| {
            format!("{shard}-{}-{}", conn.slot, conn.generation) == name
        };
        self.clients.iter().rposition(named)
    }

    /// A client is at its connection's end: who did not want that must have been told why, or be
    /// one of those whose queue was full.
    fn end(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let was_live = client.is_live();
        client.over = true;
        let memory = client.peer.memory();
        if !memory.is_empty() {
            self.memories.push(memory);
        }
        let now = self.oracle.tick();
        self.oracle.letters.over(index, now);
        let user = client.peer.user();
        let disconnect = |will| will == Will::Disconnect;
        let features = self.features;
        match client.code {
            _ if !was_live || client.peer.may_be_ended() => {}
            Some(3008 | 1013) => self.slow += 1,
            Some(3001 | 1001) if self.draining => {}
            Some(3005) if !self.calm => self.expired += 1,
            Some(3012 | 3502) if !self.calm => {}
            Some(3006) if !self.calm => {
                let is_over =
                    |window: &Window| window.server_side && window.is_over(&self.oracle.clocks);
                let subscribe = |will| matches!(will, Will::Subscribe(_));
                let may_be = client.peer.windows().iter().any(|(_, window)| is_over(window))
                    || self.oracle.was_ordered_of(index, subscribe);
                assert!(may_be, "nothing that it did not ask for is over");
                self.oracle.subs_expired += 1;
            }
            Some(3503) if self.oracle.was_ordered_of(index, disconnect) => {}
            Some(3010) if features.history.is_some() => self.lost += 1,
            Some(3504) if features.user_connections_max.is_some() && user.is_none() => {
                self.limited += 1;
            }
            Some(3505) if features.max_subscribers.is_some() && user.is_none() => {
                self.limited += 1;
            }
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

    /// What waits before links is bounded: to what is full no publication was added.
    fn check_backlogs(&self, node: &Node, shard: usize) {
        for to in 0..node.shards() {
            let waiting = node.cores[shard].waiting(to as ShardId);
            let bytes = waiting.map(LinkMessage::publication_bytes).filter(|bytes| *bytes > 0);
            let bytes: Vec<usize> = bytes.collect();
            // What was not full a home may have filled with one publication to all channels.
            let before = bytes.len().saturating_sub(self.channels.len());
            let was_full = bytes[..before].iter().sum::<usize>() >= LINK_BACKLOG_BYTES_MAX;
            assert!(!was_full, "too much waits for shard {to}: {bytes:?}");
        }
    }

    /// Histories have no more bytes and entries than they may, and nothing that is over.
    fn check_histories(&mut self, node: &Node, shard: usize) {
        let Some(history) = self.features.history else { return };
        let (home, now_ms) = (node.cores[shard].home(), node.now.monotonic_ms);
        let all = home.histories();
        // The records of channels with subscribers stay, for which everything else goes.
        let fits = all.bytes <= history.bytes_max || all.entries == 0;
        assert!(fits, "{all:?} in {} bytes", history.bytes_max);
        for (channel, known) in self.channels.iter().zip(&mut self.tops) {
            let Some((top, entries)) = home.kept(channel) else { continue };
            let since = known.filter(|(at, _)| *at == top).map_or(now_ms, |(_, since)| since);
            *known = Some((top, since));
            assert!(entries <= history.size, "{entries} entries of {channel}");
            let is_over = now_ms >= since + history.ttl_ms;
            assert!(entries == 0 || !is_over, "{channel} keeps what came at {since} at {now_ms}");
        }
    }

    /// No user has more connections than it may.
    fn check_limits(&self, node: &Node, shard: usize) {
        let Some(max) = self.features.user_connections_max else { return };
        for user in settings::users().iter().filter(|user| node.home(&user.name) == shard) {
            let known = node.cores[shard].home().connections_of(&user.name).len();
            assert!(known <= max, "{} has {known} connections", user.name);
        }
    }

    /// The truth of the clients against the cores' account of it, when nothing is under way.
    pub fn check_truth(&mut self, node: &Node) {
        self.oracle.clocks.show(node.now);
        let counts: Vec<_> = node.cores.iter().map(Core::counts).collect();
        let sum = |of: fn(&Counts) -> u64| counts.iter().map(of).sum::<u64>();
        let mut subscribers = vec![0; self.channels.len()];
        let mut missing = 0;
        for client in self.clients.iter().filter(|client| client.is_live()) {
            assert!(client.reader.is_between_messages(), "half a message came");
            client.peer.settled();
            for (channel, window) in client.peer.windows() {
                missing += self.oracle.complete(window);
                let is_late = |expiry| self.oracle.clocks.is_long_over(expiry);
                let expiry = window.expiry;
                assert!(!expiry.is_some_and(is_late), "{expiry:?} of {:?}", self.oracle.clocks);
                // Where nothing was lost in a gap.
                if self.features.is_latest() && self.gone_by == 0 {
                    self.oracle.has_newest(window);
                }
                subscribers[channel] += 1;
            }
        }
        self.check_losses(&counts, missing);
        for (name, expected) in self.channels.iter().zip(&subscribers) {
            let known = node.cores[node.home(name)].home().subscribers(name);
            assert_eq!(known, *expected, "subscribers of {name} by its home and by its clients");
            let max = self.features.max_subscribers.map_or(usize::MAX, NonZeroUsize::get);
            assert!(known as usize <= max, "{name} has {known} subscribers");
        }
        assert_eq!(sum(|counts| counts.subscriptions), u64::from(subscribers.iter().sum::<u32>()));
        self.check_users(node, &counts);
        let mut dropped = sum(|counts| counts.counters.memberships_dropped);
        if self.features.drops() {
            dropped += sum(|counts| counts.counters.slow_consumer_bytes_dropped);
        }
        (0..self.channels.len()).for_each(|channel| self.check_members(node, channel, dropped));
        self.check_orders();
        self.check_letters();
        let sockets: Vec<usize> = node.kernels.iter().map(|kernel| kernel.sockets.len()).collect();
        assert_eq!(settings::connections(&node.process), sockets.iter().sum::<usize>());
        for (counts, sockets) in counts.iter().zip(sockets) {
            assert_eq!(counts.connections, sockets as u64);
        }
        let closed = sum(|counts| counts.counters.slow_consumers_closed);
        assert!(self.slow <= closed, "{} ends that {closed} slow consumers explain", self.slow);
        let lost = sum(|counts| counts.counters.positions_lost);
        let told = self.lost + self.oracle.gaps;
        assert!(told <= lost, "{told} gaps that {lost} lost positions explain");
    }

    /// Everybody without a position whom a gap came by is counted, and every publication that was
    /// overtaken: at least those that are `missing` now. Each hole is one or the other.
    fn check_losses(&self, counts: &[Counts], missing: u64) {
        let sum = |of: fn(&Counts) -> u64| counts.iter().map(of).sum::<u64>();
        let missed = sum(|counts| counts.counters.publications_missed);
        let overtaken = sum(|counts| counts.counters.publications_overtaken);
        assert_eq!(missed, self.gone_by, "subscribers that a gap came by");
        assert!(overtaken == 0 || self.features.drops(), "{overtaken} were overtaken");
        let holes = self.oracle.holes;
        assert!(holes <= missed + overtaken, "{holes} holes of {missed} gaps and {overtaken}");
        if missed == 0 {
            assert!(missing <= overtaken, "{missing} are missing, {overtaken} were overtaken");
        }
    }

    /// Every home knows the connections of its users, and nobody else.
    fn check_users(&self, node: &Node, counts: &[Counts]) {
        let mut connected = 0;
        let mut users: BTreeMap<&str, Vec<(ShardId, ConnRef)>> = BTreeMap::new();
        let clients = self.clients.iter().enumerate();
        for (index, client) in clients.filter(|(_, client)| client.is_live()) {
            connected += u64::from(client.peer.user().is_some());
            if let Some(user) = self.oracle.letters.user_of(index) {
                users.entry(user).or_default().push((client.shard as ShardId, client.conn));
            }
        }
        for (user, connections) in &mut users {
            connections.sort_unstable_by_key(|(shard, conn)| (*shard, conn.slot));
            let known = node.cores[node.home(user)].home().connections_of(user);
            assert_eq!(known, connections, "connections of {user}");
        }
        let sum = |of: fn(&Counts) -> u64| counts.iter().map(of).sum::<u64>();
        assert_eq!(sum(|counts| counts.clients), connected, "clients");
        assert_eq!(sum(|counts| counts.users), users.len() as u64, "users {users:?}");
    }

    /// Who is to be seen in a channel, and what those were told who asked who comes and goes.
    fn check_members(&self, node: &Node, channel: usize, dropped: u64) {
        let live = self.clients.iter().filter(|client| client.is_live());
        let there: Vec<_> = live
            .filter_map(|client| {
                let (_, id) = client.peer.connected()?;
                let windows = client.peer.windows();
                let (_, window) = windows.into_iter().find(|(of, _)| *of == channel)?;
                let user = client.peer.user()?.to_owned();
                let info = self.infos.get(&(client.shard as ShardId, client.conn));
                let info = info.map_or(String::new(), |info| format!(r#","conn_info":{info}"#));
                let shown = format!(r#"{{"user":"{user}","client":"{id}"{info}}}"#);
                Some((user, id.clone(), window, shown))
            })
            .collect();
        let name = &self.channels[channel];
        let mut known: Vec<String> = node.cores[node.home(name)]
            .home()
            .present(name)
            .iter()
            .map(|info| String::from_utf8_lossy(&info.json).into_owned())
            .collect();
        known.sort_unstable();
        let mut shown: Vec<&str> = there.iter().map(|(_, _, _, shown)| &**shown).collect();
        shown.sort_unstable();
        assert!(
            !self.features.presence && known.is_empty() || known == shown,
            "in {name} are {known:?}, not {shown:?}"
        );
        let clients: Vec<String> = there.iter().map(|(_, id, ..)| id.clone()).collect();
        let by_user = self.features.by_user;
        let users: Vec<String> = there.iter().map(|(user, ..)| user.clone()).collect();
        for (_, id, window, _) in &there {
            let Some(members) = &window.members else { continue };
            let late = there.iter().filter(|(_, _, other, _)| other.asked_at > window.opened_at);
            let late: Vec<String> = late.map(|(_, id, ..)| id.clone()).collect();
            let (all, late) = if by_user { (&users, &Vec::new()) } else { (&clients, &late) };
            let is_true = members.is_true(all, late);
            assert!(is_true || dropped > 0, "{id} was told {members:?}, and there are {all:?}");
        }
        assert!(self.oracle.skipped == 0 || dropped > 0, "somebody came or went twice");
    }

    /// Everybody has got what was for all, for its user and for its channels, and was counted.
    fn check_letters(&mut self) {
        let live = self.clients.iter().enumerate().filter(|(_, client)| client.is_live());
        let present = live.map(|(index, client)| {
            let windows = client.peer.windows().into_iter();
            let channels = windows.map(|(channel, window)| (channel, window.opened_at)).collect();
            Present { client: index, channels }
        });
        let present: Vec<Present> = present.collect();
        let now = self.oracle.tick();
        self.oracle.letters.check(&present, self.peace, now);
    }

    /// What backends wanted of everybody who was there has happened.
    fn check_orders(&self) {
        for client in self.clients.iter().filter(|client| client.is_live()) {
            let Some((connected_at, id)) = client.peer.connected() else { continue };
            let user = client.peer.user().unwrap_or_default();
            let orders = self.oracle.orders.iter();
            for order in orders.filter(|order| order.user == user && order.at > *connected_at) {
                let windows = client.peer.windows();
                let is_in = |channel: usize, before: u64| {
                    let its = |(of, window): &(usize, &Window)| {
                        *of == channel && window.opened_at < before
                    };
                    windows.iter().any(its)
                };
                match order.will {
                    Will::Disconnect => panic!("{id} is still there after {order:?}"),
                    Will::Unsubscribe(channel) => {
                        assert!(!is_in(channel, order.at), "{id} is in it after {order:?}");
                    }
                    Will::Subscribe(_) | Will::Refresh => {}
                }
            }
        }
    }
}

impl Observer for Crowd {
    fn comes(&mut self, node: &Node, shard: usize, message: &LinkMessage) {
        if let LinkMessage::FromHome(FromHome::Gap { local }) = message {
            self.gone_by += node.cores[shard].without_position(*local) as u64;
        }
    }

    fn flushed(&mut self, node: &mut Node, shard: usize) {
        self.check_connections(node, shard);
        self.check_interest(node, shard);
        self.check_limits(node, shard);
        self.check_backlogs(node, shard);
        self.check_histories(node, shard);
    }

    fn heard(&mut self, node: &mut Node, client: usize, bytes: &[u8]) {
        self.oracle.clocks.show(node.now);
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
        self.oracle.clocks.show(node.now);
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
        let to = self.outside.remove(&id).expect("one answer to a call");
        self.oracle.tick();
        match (answer, to) {
            (OutsideAnswer::Called(Ok(_)), To::Channel(channel)) => {
                self.oracle.acknowledged(channel, id);
            }
            (OutsideAnswer::Called(Err(_)), To::Channel(channel)) => {
                self.oracle.refused(channel, id);
            }
            (OutsideAnswer::Delivered(outcome), to) => {
                let counted = |of: Delivery| Told::Counted(of.queued, of.failed);
                self.oracle.told(id, &to, outcome.map_or(Told::Refused, counted));
            }
            (answer, to) => panic!("{answer:?} to a call for {to:?}"),
        }
    }
}

//! Who of this shard's connections gets what, and the segment that a turn's publications become.

use std::collections::HashMap;

use super::{Format, HashKey, Kind, LocalId, Published, SubRef, segment::Open};
use crate::{
    channels::SlowConsumer,
    codec::transport::Transport,
    frame::Range,
    limits::GENERATION_FIRST,
    mutations::{self, Mutation},
    protocol::Name,
};

const NONE: u32 = u32::MAX;

/// What members of one list have in common: all of them get the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListKey {
    /// How the home encodes publications for them.
    pub format: Format,
    /// What is put around that.
    pub transport: Transport,
    /// They are told who comes and goes.
    pub join_leave: bool,
    /// What happens to those who read too slowly; the same in all lists of a channel.
    pub slow_consumer: SlowConsumer,
}

impl ListKey {
    /// Subscribers on `transport` that are not told who comes and goes.
    pub const fn new(transport: Transport) -> Self {
        let format = match transport {
            Transport::Plain | Transport::Events => Format::Plain,
            _ => Format::Centrifuge,
        };
        let slow_consumer = SlowConsumer::Disconnect;
        Self { format, transport, join_leave: false, slow_consumer }
    }
}

/// A member of a channel's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The connection's slot. Members are open: closing leaves all channels first.
    pub slot: u32,
    sub: u32,
}

impl Member {
    /// Its subscription.
    pub fn sub(self) -> u32 {
        self.sub
    }
}

/// What waits for the home's grant.
#[derive(Clone, Copy, Debug)]
pub struct Pending {
    /// The peer's number of the subscribe command.
    pub command: u32,
    /// The answer's place in the connection's queue.
    pub place: u32,
}

/// A subscription that became active.
#[derive(Clone, Copy, Debug)]
pub struct Active {
    /// The connection's slot.
    pub slot: u32,
    /// What was waiting.
    pub pending: Pending,
}

/// A segment ready for all members of a list.
#[derive(Debug)]
pub struct Sealed {
    /// The channel.
    pub channel: u32,
    /// Which of its lists.
    pub list: u32,
    /// The bytes.
    pub range: Range,
    /// Publications in it.
    pub publications: u32,
}

/// Channels and subscriptions of this shard's connections.
#[derive(Debug)]
pub struct Local {
    names: HashMap<Name, u32, HashKey>,
    channels: Vec<Channel>,
    channels_free: Vec<u32>,
    subs: Vec<Subscription>,
    subs_free: Vec<u32>,
    /// What this turn brought so far; a list has at most one entry that it points to.
    open: Vec<Open>,
    active: u64,
}

#[derive(Debug)]
struct Channel {
    /// `None` while the place is free.
    name: Option<Name>,
    generation: u32,
    /// Pending and active ones: the record lives as long as one is left.
    subscriptions: u32,
    /// Nearly every channel has one kind of subscribers, so the first list costs no allocation.
    first: List,
    /// Lists of other kinds that it had since it is used: there are few kinds.
    more: Vec<List>,
}

#[derive(Debug)]
struct List {
    key: ListKey,
    members: Vec<Member>,
    open: u32,
}

impl List {
    fn new(key: ListKey) -> Self {
        Self { key, members: Vec::new(), open: NONE }
    }
}

impl Channel {
    fn list(&self, list: u32) -> &List {
        if list == 0 { &self.first } else { &self.more[list as usize - 1] }
    }

    fn list_mut(&mut self, list: u32) -> &mut List {
        if list == 0 { &mut self.first } else { &mut self.more[list as usize - 1] }
    }

    /// The place of the list of this kind, if there was one.
    fn find(&self, key: ListKey) -> Option<u32> {
        let place = std::iter::once(&self.first).chain(&self.more).position(|l| l.key == key);
        place.map(|place| place as u32)
    }

    fn find_or_insert(&mut self, key: ListKey) -> u32 {
        if let Some(list) = self.find(key) {
            return list;
        }
        if self.first.members.is_empty() && self.first.open == NONE {
            self.first = List::new(key);
            return 0;
        }
        self.more.push(List::new(key));
        self.more.len() as u32
    }
}

const _: () = assert!(size_of::<Channel>() <= 80, "a channel with one subscriber is most of them");

#[derive(Debug)]
struct Subscription {
    generation: u32,
    slot: u32,
    channel: u32,
    /// Place in the channel's list; `NONE` before the grant.
    member: u32,
    /// Next subscription of the same connection.
    next: u32,
    key: ListKey,
    pending: Pending,
}

const _: () = assert!(size_of::<Subscription>() <= 32, "a subscription is half a cache line");

impl Local {
    /// No channels.
    pub fn new(key: HashKey) -> Self {
        Self {
            names: HashMap::with_hasher(key),
            channels: Vec::new(),
            channels_free: Vec::new(),
            subs: Vec::new(),
            subs_free: Vec::new(),
            open: Vec::new(),
            active: 0,
        }
    }

    /// Records an attempt of `slot`, at the head of its list of subscriptions `first`.
    pub fn join(
        &mut self,
        slot: u32,
        first: &mut u32,
        name: &Name,
        key: ListKey,
        pending: Pending,
    ) -> (SubRef, LocalId, Name) {
        let channel = self.channel(name, key);
        let record = &mut self.channels[channel as usize];
        record.subscriptions += 1;
        let local = LocalId { index: channel, generation: record.generation };
        let shared = record.name.clone().expect("a used channel has a name");
        let sub = Subscription {
            generation: GENERATION_FIRST,
            slot,
            channel,
            member: NONE,
            next: *first,
            key,
            pending,
        };
        let index = match self.subs_free.pop() {
            Some(index) => {
                let generation = self.subs[index as usize].generation;
                self.subs[index as usize] = Subscription { generation, ..sub };
                index
            }
            None => {
                self.subs.push(sub);
                (self.subs.len() - 1) as u32
            }
        };
        *first = index;
        (SubRef { index, generation: self.subs[index as usize].generation }, local, shared)
    }

    fn channel(&mut self, name: &Name, key: ListKey) -> u32 {
        if let Some(&channel) = self.names.get(name) {
            return channel;
        }
        let record = Channel {
            name: Some(Name::clone(name)),
            generation: GENERATION_FIRST,
            subscriptions: 0,
            first: List::new(key),
            more: Vec::new(),
        };
        let channel = match self.channels_free.pop() {
            Some(channel) => {
                let generation = self.channels[channel as usize].generation;
                self.channels[channel as usize] = Channel { generation, ..record };
                channel
            }
            None => {
                self.channels.push(record);
                (self.channels.len() - 1) as u32
            }
        };
        self.names.insert(Name::clone(name), channel);
        channel
    }

    /// The subscription of a connection to a channel, pending or active.
    pub fn find(&self, first: u32, name: &str) -> Option<u32> {
        let channel = *self.names.get(name)?;
        self.find_in(first, channel)
    }

    /// Whether a subscription, found before, is active.
    pub fn is_active(&self, sub: u32) -> bool {
        self.subs[sub as usize].member != NONE
    }

    /// What waits for the grant of a subscription, found before, that is not active.
    pub fn pending(&self, sub: u32) -> Option<Pending> {
        (!self.is_active(sub)).then(|| self.subs[sub as usize].pending)
    }

    /// What the home's grant names, unless it came too late.
    pub fn granted(&self, sub: SubRef) -> Option<u32> {
        let record = self.subs.get(sub.index as usize)?;
        let known = record.generation == sub.generation
            || mutations::is_on(Mutation::SkipsSubscriptionGeneration);
        (known && record.member == NONE).then_some(sub.index)
    }

    /// Makes a granted subscription a member of its channel. What the channel's open segment
    /// holds is not for it: that must have been sealed before.
    pub fn activate(&mut self, sub: u32) -> Active {
        debug_assert!(self.open_of(sub).is_none() || mutations::is_on(Mutation::SkipsSealAtGrant));
        let record = &mut self.subs[sub as usize];
        let channel = &mut self.channels[record.channel as usize];
        let list = channel.find_or_insert(record.key);
        let list = channel.list_mut(list);
        record.member = list.members.len() as u32;
        list.members.push(Member { slot: record.slot, sub });
        self.active += 1;
        Active { slot: record.slot, pending: record.pending }
    }

    /// Ends a subscription of the connection whose list starts at `first`. An open segment of its
    /// list must have been sealed before: it was for this member too.
    pub fn leave(&mut self, first: &mut u32, sub: u32) -> (Name, SubRef, ListKey) {
        debug_assert!(!self.is_active(sub) || self.open_of(sub).is_none());
        self.unlink(first, sub);
        let record = &mut self.subs[sub as usize];
        let left = SubRef { index: sub, generation: record.generation };
        record.generation = record.generation.wrapping_add(1);
        let (channel, key, member) = (record.channel, record.key, record.member);
        record.member = NONE;
        self.subs_free.push(sub);
        let record = &mut self.channels[channel as usize];
        if member != NONE {
            self.active -= 1;
            let list = record.find(key).expect("a member is in a list");
            let list = record.list_mut(list);
            list.members.swap_remove(member as usize);
            if let Some(moved) = list.members.get(member as usize) {
                self.subs[moved.sub as usize].member = member;
            }
        }
        record.subscriptions -= 1;
        let name = record.name.clone().expect("a used channel has a name");
        if record.subscriptions == 0 {
            record.name = None;
            record.generation = record.generation.wrapping_add(1);
            record.first.members = Vec::new();
            record.more = Vec::new();
            self.names.remove(&name);
            self.channels_free.push(channel);
        }
        (name, left, key)
    }

    /// A channel that somebody here is subscribed to, or tries to.
    pub fn known(&self, name: &str) -> Option<u32> {
        self.names.get(name).copied()
    }

    /// The channel of a subscription, found before.
    pub fn name_of(&self, sub: u32) -> Name {
        let channel = self.subs[sub as usize].channel as usize;
        self.channels[channel].name.clone().expect("a used channel has a name")
    }

    /// What names the attempt of a subscription, found before.
    pub fn ref_of(&self, sub: u32) -> SubRef {
        SubRef { index: sub, generation: self.subs[sub as usize].generation }
    }

    /// The connection's slot of a subscription, found before.
    pub fn slot_of(&self, sub: u32) -> u32 {
        self.subs[sub as usize].slot
    }

    /// The subscriptions of a connection whose list of them starts at `first`.
    pub fn subscriptions_of(&self, first: u32) -> impl Iterator<Item = u32> {
        let there = |sub: u32| (sub != NONE).then_some(sub);
        std::iter::successors(there(first), move |&sub| there(self.subs[sub as usize].next))
    }

    /// Of such a connection the channels, as far as its subscriptions are active.
    pub fn channels_of(&self, first: u32) -> Vec<Name> {
        let all = self.subscriptions_of(first);
        all.filter(|&sub| self.is_active(sub)).map(|sub| self.name_of(sub)).collect()
    }

    /// Everybody in a channel, whatever they want of it.
    pub fn all_members(&self, channel: u32) -> Vec<Member> {
        let channel = &self.channels[channel as usize];
        let lists = std::iter::once(&channel.first).chain(&channel.more);
        lists.flat_map(|list| &list.members).copied().collect()
    }

    fn unlink(&mut self, first: &mut u32, sub: u32) {
        let next = self.subs[sub as usize].next;
        if *first == sub {
            *first = next;
            return;
        }
        let mut at = *first;
        while self.subs[at as usize].next != sub {
            at = self.subs[at as usize].next;
        }
        self.subs[at as usize].next = next;
    }

    /// What names a channel that is there, also when it may be gone.
    pub fn id_of(&self, channel: u32) -> LocalId {
        LocalId { index: channel, generation: self.channels[channel as usize].generation }
    }

    /// What names the channel of a subscription, found before.
    pub fn id_of_its(&self, sub: u32) -> LocalId {
        self.id_of(self.subs[sub as usize].channel)
    }

    /// The subscription of a connection to a channel that is there.
    pub fn find_in(&self, first: u32, channel: u32) -> Option<u32> {
        self.subscriptions_of(first).find(|&sub| self.subs[sub as usize].channel == channel)
    }

    /// The channel that the home means, unless it is gone.
    pub fn channel_of(&self, local: LocalId) -> Option<u32> {
        let record = self.channels.get(local.index as usize)?;
        (record.generation == local.generation && record.name.is_some()).then_some(local.index)
    }

    /// How many lists a channel has; they are numbered from 0.
    pub fn lists(&self, channel: u32) -> u32 {
        self.channels[channel as usize].more.len() as u32 + 1
    }

    /// Who is in a list.
    pub fn key(&self, channel: u32, list: u32) -> ListKey {
        self.channels[channel as usize].list(list).key
    }

    /// Whether a publication would make the open segment of a list too long; seal it first then.
    pub fn is_full(&self, channel: u32, list: u32, published: &Published) -> bool {
        let list = self.channels[channel as usize].list(list);
        let frame = &published.frames[list.key.format as usize];
        list.open != NONE
            && frame.as_ref().is_some_and(|frame| self.open[list.open as usize].is_full(frame))
    }

    /// Adds a publication to what this turn brings to a list, if anybody is in it.
    pub fn append(&mut self, channel: u32, list: u32, published: &Published) {
        let number = list;
        let list = self.channels[channel as usize].list_mut(list);
        let Some(frame) = &published.frames[list.key.format as usize] else { return };
        let told = published.kind == Kind::Publication || list.key.join_leave;
        if list.members.is_empty() || !told {
            return;
        }
        if list.open == NONE {
            list.open = self.open.len() as u32;
            let transport = list.key.transport;
            self.open.push(Open::begin(channel, number, transport, published, frame));
        } else {
            self.open[list.open as usize].append(published, frame);
        }
    }

    /// The open segment that a subscription's list has, if any.
    pub fn open_of(&self, sub: u32) -> Option<usize> {
        let record = &self.subs[sub as usize];
        let channel = &self.channels[record.channel as usize];
        let open = channel.list(channel.find(record.key)?).open;
        (open != NONE).then_some(open as usize)
    }

    /// The open segment of a list, if any.
    pub fn open_at(&self, channel: u32, list: u32) -> Option<usize> {
        let open = self.channels[channel as usize].list(list).open;
        (open != NONE).then_some(open as usize)
    }

    /// How many segments this turn opened; `seal` takes their numbers.
    pub fn opened(&self) -> usize {
        self.open.len()
    }

    /// Ends a segment of this turn; `None` when that was done before.
    pub fn seal(&mut self, open: usize) -> Option<Sealed> {
        let open = &mut self.open[open];
        let range = open.seal()?;
        let Open { channel, list, publications, .. } = *open;
        self.channels[channel as usize].list_mut(list).open = NONE;
        Some(Sealed { channel, list, range, publications })
    }

    /// Forgets the numbers of this turn's segments, all of which are sealed.
    pub fn turn_ended(&mut self) {
        debug_assert!(self.open.iter().all(Open::is_sealed));
        self.open.clear();
    }

    /// Who gets what is published to a list.
    pub fn members(&self, channel: u32, list: u32) -> &[Member] {
        &self.channels[channel as usize].list(list).members
    }

    /// Subscriptions to a channel, pending and active ones, to be asked by tests.
    pub fn subscriptions(&self, name: &str) -> u32 {
        self.names.get(name).map_or(0, |channel| self.channels[*channel as usize].subscriptions)
    }

    /// Active subscriptions.
    pub fn active(&self) -> u64 {
        self.active
    }

    /// Whether nobody subscribes or tries to.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

/// A connection's list of subscriptions when it has none.
pub const NO_SUBSCRIPTIONS: u32 = NONE;

#[cfg(test)]
mod tests {
    use super::*;

    use crate::{
        codec::websocket::Opcode,
        frame::Frame,
        hub::{Epoch, Position},
        limits::SEGMENT_BYTES_MAX,
        protocol::Payload,
    };

    const KEY: ListKey = ListKey::new(Transport::Websocket);

    fn empty() -> Published {
        Published {
            kind: Kind::Publication,
            sequence: 1,
            position: None,
            epoch: None,
            payload: Payload::Json,
            frames: [None, None],
            key: None,
            handling: None,
        }
    }

    fn local() -> Local {
        Local::new(HashKey(1, 2))
    }

    fn join(local: &mut Local, slot: u32, first: &mut u32, channel: &str) -> (SubRef, LocalId) {
        let pending = Pending { command: slot, place: 0 };
        let (sub, id, _) = local.join(slot, first, &Name::from(channel), KEY, pending);
        (sub, id)
    }

    /// A member, as the grant makes it.
    fn member(local: &mut Local, slot: u32, channel: &str) -> (u32, u32) {
        let mut first = NONE;
        let (sub, _) = join(local, slot, &mut first, channel);
        let index = local.granted(sub).unwrap();
        local.activate(index);
        (first, index)
    }

    /// A member of another list.
    fn member_of(local: &mut Local, slot: u32, key: ListKey) -> (u32, u32) {
        let mut first = NONE;
        let pending = Pending { command: 0, place: 0 };
        let (sub, ..) = local.join(slot, &mut first, &Name::from("c"), key, pending);
        local.activate(sub.index);
        (first, sub.index)
    }

    /// A publication encoded in both formats, as the same bytes.
    fn published(payload: &[u8]) -> Published {
        let encode = || {
            Some(Frame::encode(Opcode::Text, payload.len(), |out| out.extend_from_slice(payload)))
        };
        Published { frames: [encode(), encode()], ..empty() }
    }

    fn slots(local: &Local, channel: u32) -> Vec<u32> {
        local.members(channel, 0).iter().map(|member| member.slot).collect()
    }

    #[test]
    fn a_subscription_is_a_member_from_its_grant_on() {
        let mut local = local();
        let mut first = NO_SUBSCRIPTIONS;
        let (sub, id) = join(&mut local, 7, &mut first, "c");
        let channel = local.channel_of(id).unwrap();
        assert_eq!(local.find(first, "c"), Some(sub.index));
        assert!(local.pending(sub.index).is_some_and(|pending| pending.command == 7));
        assert!(slots(&local, channel).is_empty() && local.active() == 0);
        let index = local.granted(sub).unwrap();
        assert_eq!(local.activate(index).slot, 7);
        assert_eq!((slots(&local, channel), local.active()), (vec![7], 1));
        assert!(local.pending(index).is_none() && local.granted(sub).is_none(), "granted once");
    }

    #[test]
    fn a_late_grant_finds_neither_the_left_subscription_nor_the_next_one() {
        let mut local = local();
        let mut first = NO_SUBSCRIPTIONS;
        let (old, old_channel) = join(&mut local, 7, &mut first, "c");
        local.leave(&mut first, old.index);
        assert_eq!((first, local.granted(old)), (NO_SUBSCRIPTIONS, None));
        assert!(local.is_empty() && local.channel_of(old_channel).is_none());
        let (new, new_channel) = join(&mut local, 8, &mut first, "c");
        assert_eq!((new.index, new_channel.index), (old.index, old_channel.index), "reused");
        assert_eq!((local.granted(old), local.granted(new)), (None, Some(new.index)));
        assert!(local.channel_of(old_channel).is_none(), "a late publication is not for it");
        assert!(local.channel_of(new_channel).is_some());
    }

    #[test]
    fn leaving_keeps_the_places_of_the_others() {
        let mut local = local();
        let mut members: Vec<_> = (0..5).map(|slot| member(&mut local, slot, "c")).collect();
        let channel = local.names["c"];
        for leaving in [0, 4, 1] {
            let (first, sub) = &mut members[leaving];
            local.leave(first, *sub);
        }
        let mut left = slots(&local, channel);
        left.sort_unstable();
        assert_eq!((left, local.active()), (vec![2, 3], 2));
        for leaving in [3, 2] {
            let (first, sub) = &mut members[leaving];
            local.leave(first, *sub);
        }
        assert!(local.is_empty());
    }

    #[test]
    fn a_connection_finds_its_own_subscriptions_only() {
        let mut local = local();
        let (mut one, mut other) = (NONE, NONE);
        for channel in ["a", "b", "c"] {
            join(&mut local, 1, &mut one, channel);
        }
        join(&mut local, 2, &mut other, "b");
        let middle = local.find(one, "b").unwrap();
        assert_ne!(Some(middle), local.find(other, "b"));
        assert_eq!((local.find(other, "a"), local.find(one, "d")), (None, None));
        local.leave(&mut one, middle);
        assert_eq!(local.find(one, "b"), None);
        assert!(local.find(one, "a").is_some() && local.find(one, "c").is_some());
        assert!(local.find(other, "b").is_some());
    }

    #[test]
    fn publications_of_a_turn_are_one_message_for_centrifuge_clients() {
        let mut local = local();
        member(&mut local, 1, "c");
        let channel = local.names["c"];
        local.append(channel, 0, &published(b"1"));
        let alone = local.seal(0).unwrap();
        assert_eq!((alone.range.bytes(), alone.publications), (&b"\x81\x011"[..], 1));
        assert!(local.seal(0).is_none(), "sealed once");
        local.append(channel, 0, &published(b"2"));
        local.append(channel, 0, &published(b"3"));
        let open = local.open_at(channel, 0).unwrap();
        let joined = local.seal(open).unwrap();
        assert_eq!((joined.range.bytes(), joined.publications), (&b"\x81\x032\n3"[..], 2));
        assert_eq!(local.opened(), 2);
        local.turn_ended();
        assert_eq!((local.opened(), local.open_at(channel, 0)), (0, None));
    }

    #[test]
    fn a_plain_message_stays_a_message_of_its_own() {
        let mut local = local();
        member_of(&mut local, 1, ListKey::new(Transport::Plain));
        let channel = local.names["c"];
        local.append(channel, 0, &empty());
        assert_eq!(local.opened(), 0, "it is not encoded for that list");
        local.append(channel, 0, &published(b"1"));
        local.append(channel, 0, &published(b"2"));
        assert_eq!(local.seal(0).unwrap().range.bytes(), b"\x81\x011\x81\x012");
    }

    #[test]
    fn subscribers_of_different_kinds_get_different_bytes() {
        let mut local = local();
        let keys = [Transport::Websocket, Transport::Sse, Transport::UniSse, Transport::Events];
        let keys = keys.map(ListKey::new);
        let joins = ListKey { join_leave: true, ..keys[0] };
        let mut all: Vec<_> = keys.iter().chain([&joins, &keys[1]]).zip(0..).collect();
        let mut members: Vec<_> =
            all.iter().map(|(key, slot)| member_of(&mut local, *slot, **key)).collect();
        let channel = local.names["c"];
        assert_eq!(local.lists(channel), 5);
        assert_eq!((0..5).map(|list| local.members(channel, list).len()).max(), Some(2));
        for list in 0..local.lists(channel) {
            local.append(channel, list, &published(br#"{"push":{"channel":"c"}}"#));
        }
        let sealed: Vec<_> = (0..local.opened()).map(|open| local.seal(open).unwrap()).collect();
        let sse = format!("{:x}\r\ndata: {}\n\n\r\n", 32, r#"{"push":{"channel":"c"}}"#);
        assert_eq!(sealed[1].range.bytes(), sse.as_bytes());
        assert_eq!(sealed[2].range.bytes(), b"17\r\ndata: {\"channel\":\"c\"}\n\n\r\n");
        assert_eq!(sealed[3].range.bytes(), sse.as_bytes(), "the payload alone");
        assert_eq!(sealed[4].range.bytes(), sealed[0].range.bytes());
        local.turn_ended();

        // The first list empties and is used for another kind.
        all.remove(0);
        let (mut first, sub) = members.remove(0);
        assert_eq!(local.leave(&mut first, sub).2, keys[0]);
        let lines = ListKey::new(Transport::HttpStream);
        member_of(&mut local, 9, lines);
        assert_eq!((local.lists(channel), local.key(channel, 0)), (5, lines));
        for ((mut first, sub), (key, _)) in members.into_iter().zip(all) {
            assert_eq!(local.leave(&mut first, sub).2, *key);
        }
        assert_eq!((local.active(), slots(&local, channel)), (1, vec![9]));
    }

    #[test]
    fn events_carry_their_position_and_json() {
        let mut local = local();
        member_of(&mut local, 1, ListKey::new(Transport::Events));
        let channel = local.names["c"];
        for (offset, payload) in [(7, Payload::Json), (8, Payload::Text), (9, Payload::Binary)] {
            let position = Some(Position { offset, epoch: Epoch::new(0, 0) });
            let epoch = Some("e".into());
            let event = Published { position, epoch, payload, ..published(b"1") };
            local.append(channel, 0, &event);
        }
        let sealed = local.seal(0).unwrap();
        let text = str::from_utf8(sealed.range.bytes()).unwrap();
        let events = "id: e:7\ndata: 1\n\nid: e:8\ndata: \"1\"\n\nid: e:9\ndata: \"MQ==\"\n\n";
        assert_eq!(text, format!("{:x}\r\n{events}\r\n", events.len()));
    }

    #[test]
    fn a_segment_is_bounded() {
        let mut local = local();
        member(&mut local, 1, "c");
        let channel = local.names["c"];
        let half = published(&vec![b'x'; SEGMENT_BYTES_MAX / 2]);
        assert!(!local.is_full(channel, 0, &half), "nothing is open");
        local.append(channel, 0, &half);
        assert!(local.is_full(channel, 0, &half), "two halves and their headers");
        assert!(!local.is_full(channel, 0, &published(b"1")));
    }
}

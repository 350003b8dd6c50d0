//! Who of this shard's connections gets what, and the segment that a turn's publications become.

use std::collections::HashMap;

use super::{Format, HashKey, LocalId, SubRef};
use crate::{
    codec::websocket::{Opcode, SERVER_HEADER_BYTES_MAX, put_header},
    frame::{Frame, Range},
    limits::SEGMENT_BYTES_MAX,
    protocol::Name,
};

const NONE: u32 = u32::MAX;

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
    pub format: Format,
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
    lists: [List; 2],
}

#[derive(Debug)]
struct List {
    members: Vec<Member>,
    open: u32,
}

#[derive(Debug)]
struct Open {
    channel: u32,
    format: Format,
    publications: u32,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// Sealed before the turn's end.
    Sealed,
    One(Frame),
    Joined(Vec<u8>),
}

#[derive(Debug)]
struct Subscription {
    generation: u32,
    slot: u32,
    channel: u32,
    /// Place in the channel's list; `NONE` before the grant.
    member: u32,
    /// Next subscription of the same connection.
    next: u32,
    format: Format,
    pending: Pending,
}

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
        format: Format,
        pending: Pending,
    ) -> (SubRef, LocalId, Name) {
        let channel = self.channel(name);
        let record = &mut self.channels[channel as usize];
        record.subscriptions += 1;
        let local = LocalId { index: channel, generation: record.generation };
        let shared = record.name.clone().expect("a used channel has a name");
        let sub = Subscription {
            generation: 0,
            slot,
            channel,
            member: NONE,
            next: *first,
            format,
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

    fn channel(&mut self, name: &Name) -> u32 {
        if let Some(&channel) = self.names.get(name) {
            return channel;
        }
        let lists = [(); 2].map(|()| List { members: Vec::new(), open: NONE });
        let record =
            Channel { name: Some(Name::clone(name)), generation: 0, subscriptions: 0, lists };
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
        std::iter::successors((first != NONE).then_some(first), |&sub| {
            let next = self.subs[sub as usize].next;
            (next != NONE).then_some(next)
        })
        .find(|&sub| self.subs[sub as usize].channel == channel)
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
        (record.generation == sub.generation && record.member == NONE).then_some(sub.index)
    }

    /// Makes a granted subscription a member of its channel. What the channel's open segment
    /// holds is not for it: that must have been sealed before.
    pub fn activate(&mut self, sub: u32) -> Active {
        debug_assert!(self.open_of(sub).is_none());
        let record = &mut self.subs[sub as usize];
        let list = &mut self.channels[record.channel as usize].lists[record.format as usize];
        record.member = list.members.len() as u32;
        list.members.push(Member { slot: record.slot, sub });
        self.active += 1;
        Active { slot: record.slot, pending: record.pending }
    }

    /// Ends a subscription of the connection whose list starts at `first`. An open segment of its
    /// list must have been sealed before: it was for this member too.
    pub fn leave(&mut self, first: &mut u32, sub: u32) -> (Name, SubRef, Format) {
        debug_assert!(!self.is_active(sub) || self.open_of(sub).is_none());
        self.unlink(first, sub);
        let record = &mut self.subs[sub as usize];
        let left = SubRef { index: sub, generation: record.generation };
        record.generation = record.generation.wrapping_add(1);
        let (channel, format, member) = (record.channel, record.format, record.member);
        record.member = NONE;
        self.subs_free.push(sub);
        let list = &mut self.channels[channel as usize].lists[format as usize];
        if member != NONE {
            self.active -= 1;
            list.members.swap_remove(member as usize);
            if let Some(moved) = list.members.get(member as usize) {
                self.subs[moved.sub as usize].member = member;
            }
        }
        let record = &mut self.channels[channel as usize];
        record.subscriptions -= 1;
        let name = record.name.clone().expect("a used channel has a name");
        if record.subscriptions == 0 {
            record.name = None;
            record.generation = record.generation.wrapping_add(1);
            record.lists.iter_mut().for_each(|list| list.members = Vec::new());
            self.names.remove(&name);
            self.channels_free.push(channel);
        }
        (name, left, format)
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

    /// The connection's slot of a subscription, found before.
    pub fn slot_of(&self, sub: u32) -> u32 {
        self.subs[sub as usize].slot
    }

    /// The subscription that follows in its connection's list.
    pub fn next_of(&self, sub: u32) -> Option<u32> {
        let next = self.subs[sub as usize].next;
        (next != NONE).then_some(next)
    }

    /// Everybody in a channel, whatever they want of it.
    pub fn all_members(&self, channel: u32) -> Vec<Member> {
        let lists = &self.channels[channel as usize].lists;
        lists.iter().flat_map(|list| &list.members).copied().collect()
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

    /// The channel that the home means, unless it is gone.
    pub fn channel_of(&self, local: LocalId) -> Option<u32> {
        let record = self.channels.get(local.index as usize)?;
        (record.generation == local.generation && record.name.is_some()).then_some(local.index)
    }

    /// Whether `frame` would make the open segment of a list too long; seal it first then.
    pub fn is_full(&self, channel: u32, format: Format, frame: &Frame) -> bool {
        let open = self.channels[channel as usize].lists[format as usize].open;
        open != NONE
            && match &self.open[open as usize].content {
                Content::Sealed => false,
                Content::One(one) => one.wire().len() + frame.wire().len() > SEGMENT_BYTES_MAX,
                Content::Joined(bytes) => bytes.len() + frame.wire().len() > SEGMENT_BYTES_MAX,
            }
    }

    /// Adds a publication to what this turn brings to a list.
    pub fn append(&mut self, channel: u32, format: Format, frame: &Frame) {
        let list = &mut self.channels[channel as usize].lists[format as usize];
        if list.members.is_empty() {
            return;
        }
        if list.open == NONE {
            list.open = self.open.len() as u32;
            let content = Content::One(frame.clone());
            self.open.push(Open { channel, format, publications: 1, content });
            return;
        }
        let open = &mut self.open[list.open as usize];
        open.publications += 1;
        if let Content::One(one) = &open.content {
            open.content = Content::Joined(begin(format, one, frame));
        }
        let Content::Joined(bytes) = &mut open.content else {
            unreachable!("an open segment has content")
        };
        match format {
            Format::Centrifuge => {
                bytes.push(b'\n');
                bytes.extend_from_slice(frame.payload());
            }
            Format::Plain => bytes.extend_from_slice(frame.wire()),
        }
    }

    /// The open segment that a subscription's list has, if any.
    pub fn open_of(&self, sub: u32) -> Option<usize> {
        let record = &self.subs[sub as usize];
        let open = self.channels[record.channel as usize].lists[record.format as usize].open;
        (open != NONE).then_some(open as usize)
    }

    /// The open segment of a list, if any.
    pub fn open_at(&self, channel: u32, format: Format) -> Option<usize> {
        let open = self.channels[channel as usize].lists[format as usize].open;
        (open != NONE).then_some(open as usize)
    }

    /// How many segments this turn opened; `seal` takes their numbers.
    pub fn opened(&self) -> usize {
        self.open.len()
    }

    /// Ends a segment of this turn; `None` when that was done before.
    pub fn seal(&mut self, open: usize) -> Option<Sealed> {
        let open = &mut self.open[open];
        let range = match std::mem::replace(&mut open.content, Content::Sealed) {
            Content::Sealed => return None,
            Content::One(frame) => frame.into_segment(),
            Content::Joined(mut bytes) => match open.format {
                Format::Centrifuge => {
                    let from = put_header(&mut bytes, SERVER_HEADER_BYTES_MAX, Opcode::Text);
                    let to = bytes.len();
                    Range::new(bytes.into(), from, to)
                }
                Format::Plain => Range::whole(bytes),
            },
        };
        let Open { channel, format, publications, .. } = *open;
        self.channels[channel as usize].lists[format as usize].open = NONE;
        Some(Sealed { channel, format, range, publications })
    }

    /// Forgets the numbers of this turn's segments, all of which are sealed.
    pub fn turn_ended(&mut self) {
        debug_assert!(self.open.iter().all(|open| matches!(open.content, Content::Sealed)));
        self.open.clear();
    }

    /// Who gets what is published to a list.
    pub fn members(&self, channel: u32, format: Format) -> &[Member] {
        &self.channels[channel as usize].lists[format as usize].members
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

fn begin(format: Format, one: &Frame, next: &Frame) -> Vec<u8> {
    let capacity = 2 * (one.wire().len() + next.wire().len()) + SERVER_HEADER_BYTES_MAX;
    let mut bytes = Vec::with_capacity(capacity);
    match format {
        Format::Centrifuge => {
            bytes.resize(SERVER_HEADER_BYTES_MAX, 0);
            bytes.extend_from_slice(one.payload());
        }
        Format::Plain => bytes.extend_from_slice(one.wire()),
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMAT: Format = Format::Centrifuge;

    fn local() -> Local {
        Local::new(HashKey(1, 2))
    }

    fn join(local: &mut Local, slot: u32, first: &mut u32, channel: &str) -> (SubRef, LocalId) {
        let pending = Pending { command: slot, place: 0 };
        let (sub, id, _) = local.join(slot, first, &Name::from(channel), FORMAT, pending);
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

    fn frame(payload: &[u8]) -> Frame {
        Frame::encode(Opcode::Text, payload.len(), |out| out.extend_from_slice(payload))
    }

    fn slots(local: &Local, channel: u32) -> Vec<u32> {
        local.members(channel, FORMAT).iter().map(|member| member.slot).collect()
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
        local.append(channel, FORMAT, &frame(b"1"));
        let alone = local.seal(0).unwrap();
        assert_eq!((alone.range.bytes(), alone.publications), (&b"\x81\x011"[..], 1));
        assert!(local.seal(0).is_none(), "sealed once");
        local.append(channel, FORMAT, &frame(b"2"));
        local.append(channel, FORMAT, &frame(b"3"));
        let open = local.open_at(channel, FORMAT).unwrap();
        let joined = local.seal(open).unwrap();
        assert_eq!((joined.range.bytes(), joined.publications), (&b"\x81\x032\n3"[..], 2));
        assert_eq!(local.opened(), 2);
        local.turn_ended();
        assert_eq!((local.opened(), local.open_at(channel, FORMAT)), (0, None));
    }

    #[test]
    fn a_plain_message_stays_a_message_of_its_own() {
        let mut local = local();
        let pending = Pending { command: 0, place: 0 };
        let mut first = NONE;
        let (sub, ..) = local.join(1, &mut first, &Name::from("c"), Format::Plain, pending);
        local.activate(sub.index);
        let channel = local.names["c"];
        local.append(channel, FORMAT, &frame(b"0"));
        assert_eq!(local.opened(), 0, "nobody is in that list");
        local.append(channel, Format::Plain, &frame(b"1"));
        local.append(channel, Format::Plain, &frame(b"2"));
        assert_eq!(local.seal(0).unwrap().range.bytes(), b"\x81\x011\x81\x012");
    }

    #[test]
    fn a_segment_is_bounded() {
        let mut local = local();
        member(&mut local, 1, "c");
        let channel = local.names["c"];
        let half = frame(&vec![b'x'; SEGMENT_BYTES_MAX / 2]);
        assert!(!local.is_full(channel, FORMAT, &half), "nothing is open");
        local.append(channel, FORMAT, &half);
        assert!(local.is_full(channel, FORMAT, &half), "two halves and their headers");
        assert!(!local.is_full(channel, FORMAT, &frame(b"1")));
    }
}

//! The truth of the channels and users that live on this shard.
//!
//! Everything is applied in the order in which it arrived and answered in the order in which it
//! was applied. The home never joins publications: whoever delivers does.

use std::{collections::HashMap, sync::Arc};

use data_encoding::BASE64;

use super::{
    ConnRef, Format, FromHome, HashKey, HomeAnswer, LocalId, Publication, Published, ReplyTo,
    ShardId, ToHome,
};
use crate::{
    codec::websocket::Opcode,
    frame::Frame,
    limits::SHARDS_MAX,
    protocol::{ErrorCode, Name, Payload, centrifuge},
};

/// Which shards' links are full of publications: who homes a channel refuses what would go there.
#[derive(Clone, Debug)]
pub struct Congestion([u64; SHARDS_MAX / 64]);

impl Congestion {
    /// No link is full.
    pub const NONE: Self = Self([0; SHARDS_MAX / 64]);

    /// Says whether the link to `shard` is full.
    pub fn set(&mut self, shard: ShardId, full: bool) {
        let (word, bit) = (usize::from(shard) / 64, shard % 64);
        self.0[word] = self.0[word] & !(1 << bit) | u64::from(full) << bit;
    }

    /// Whether the link to `shard` is full.
    pub fn is_full(&self, shard: ShardId) -> bool {
        self.0[usize::from(shard) / 64] >> (shard % 64) & 1 == 1
    }
}

/// Channels and users of this home.
#[derive(Debug)]
pub struct Home {
    channels: HashMap<Name, Channel, HashKey>,
    users: HashMap<Name, Vec<(ShardId, ConnRef)>, HashKey>,
    frames_encoded: u64,
}

#[derive(Debug, Default)]
struct Channel {
    sequence: u64,
    interest: Vec<Interest>,
}

/// One shard's subscribers of a channel: joins minus leaves.
#[derive(Debug)]
struct Interest {
    shard: ShardId,
    local: LocalId,
    joined: [u32; 2],
}

impl Home {
    /// An empty home.
    pub fn new(key: HashKey) -> Self {
        Self {
            channels: HashMap::with_hasher(key),
            users: HashMap::with_hasher(key),
            frames_encoded: 0,
        }
    }

    /// Applies one message of shard `from`; what follows from it goes to `out` in order.
    ///
    /// `Count` and `Marker` concern the whole shard, `Lease` the leases: they never come here.
    pub fn apply(
        &mut self,
        from: ShardId,
        message: ToHome,
        congestion: &Congestion,
        out: &mut Vec<(ShardId, FromHome)>,
    ) {
        match message {
            ToHome::Join { sub, channel, local, format } => {
                self.join(from, channel, local, format);
                out.push((from, FromHome::Granted(sub)));
            }
            ToHome::Leave { channel, format } => self.leave(from, &channel, format),
            ToHome::Publish { publication, reply } => {
                let answer = self.publish(&publication, congestion, out);
                if reply != ReplyTo::Nobody {
                    out.push((from, FromHome::Answer { reply, answer }));
                }
            }
            ToHome::Broadcast { broadcast, reply } => {
                let ReplyTo::Gather { index, generation, .. } = reply else {
                    unreachable!("a broadcast is gathered");
                };
                for (part, channel) in broadcast.channels {
                    let data = broadcast.data.clone();
                    let publication =
                        Publication { channel, data, payload: Payload::Json, info: None };
                    let answer = self.publish(&publication, congestion, out);
                    let reply = ReplyTo::Gather { index, generation, part };
                    out.push((from, FromHome::Answer { reply, answer }));
                }
            }
            ToHome::UserJoin { user, conn, reply } => {
                self.users.entry(user).or_default().push((from, conn));
                out.push((from, FromHome::Answer { reply, answer: HomeAnswer::Registered }));
            }
            ToHome::UserLeave { user, conn } => {
                if let Some(connections) = self.users.get_mut(&user) {
                    connections.retain(|known| *known != (from, conn));
                    if connections.is_empty() {
                        self.users.remove(&user);
                    }
                }
            }
            ToHome::Count { .. } | ToHome::Lease(_) | ToHome::Marker(_) => {
                unreachable!("the core answers these")
            }
        }
    }

    fn join(&mut self, shard: ShardId, channel: Name, local: LocalId, format: Format) {
        let channel = self.channels.entry(channel).or_default();
        let interest = match channel.interest.iter_mut().find(|known| known.shard == shard) {
            Some(known) => known,
            None => {
                channel.interest.push(Interest { shard, local, joined: [0; 2] });
                channel.interest.last_mut().expect("just pushed")
            }
        };
        interest.local = local;
        interest.joined[format as usize] += 1;
    }

    fn leave(&mut self, shard: ShardId, name: &Name, format: Format) {
        let Some(channel) = self.channels.get_mut(name) else { return };
        let Some(at) = channel.interest.iter().position(|known| known.shard == shard) else {
            return;
        };
        let joined = &mut channel.interest[at].joined;
        joined[format as usize] = joined[format as usize].saturating_sub(1);
        if *joined == [0; 2] {
            channel.interest.swap_remove(at);
        }
        if channel.interest.is_empty() {
            self.channels.remove(name);
        }
    }

    /// All or nothing: where one interested shard cannot take it, the publisher is told instead.
    fn publish(
        &mut self,
        publication: &Publication,
        congestion: &Congestion,
        out: &mut Vec<(ShardId, FromHome)>,
    ) -> HomeAnswer {
        let Some(channel) = self.channels.get_mut(&publication.channel) else {
            return HomeAnswer::Published;
        };
        if channel.interest.iter().any(|interest| congestion.is_full(interest.shard)) {
            return HomeAnswer::Failed(ErrorCode::TOO_MANY_REQUESTS);
        }
        channel.sequence += 1;
        let frames = Format::ALL.map(|format| {
            let wanted =
                channel.interest.iter().any(|interest| interest.joined[format as usize] > 0);
            wanted.then(|| encode(format, publication))
        });
        self.frames_encoded += frames.iter().flatten().count() as u64;
        let published = Arc::new(Published { sequence: channel.sequence, frames });
        for interest in &channel.interest {
            let published = Arc::clone(&published);
            out.push((interest.shard, FromHome::Published { local: interest.local, published }));
        }
        HomeAnswer::Published
    }

    /// Channels with at least one subscriber anywhere.
    pub fn channels(&self) -> usize {
        self.channels.len()
    }

    /// Users with at least one connection anywhere.
    pub fn users(&self) -> usize {
        self.users.len()
    }

    /// Publications encoded so far, each format once.
    pub fn frames_encoded(&self) -> u64 {
        self.frames_encoded
    }

    /// One shard's subscribers of a channel by the home's account, to be asked by tests.
    pub fn interest(&self, channel: &str, shard: ShardId) -> u32 {
        let interest = self.channels.get(channel).into_iter().flat_map(|known| &known.interest);
        interest.filter(|known| known.shard == shard).flat_map(|known| known.joined).sum()
    }

    /// Subscribers of a channel by the home's account: joins minus leaves of all shards.
    pub fn subscribers(&self, channel: &str) -> u32 {
        self.channels
            .get(channel)
            .map_or(0, |channel| channel.interest.iter().flat_map(|interest| interest.joined).sum())
    }
}

fn encode(format: Format, publication: &Publication) -> Frame {
    let Publication { channel, data, payload, info } = publication;
    match (format, payload) {
        (Format::Plain, Payload::Binary) => {
            Frame::encode(Opcode::Binary, data.len(), |out| out.extend_from_slice(data))
        }
        (Format::Plain, _) => {
            Frame::encode(Opcode::Text, data.len(), |out| out.extend_from_slice(data))
        }
        (Format::Centrifuge, payload) => {
            let quoted;
            let data = match payload {
                Payload::Json => &data[..],
                Payload::Text => {
                    let text = String::from_utf8_lossy(data);
                    quoted = serde_json::to_vec(&text).expect("a string is always JSON");
                    &quoted
                }
                Payload::Binary => {
                    quoted = format!("\"{}\"", BASE64.encode(data)).into_bytes();
                    &quoted
                }
            };
            let info = info.as_deref();
            let capacity = 64 + channel.len() + data.len() + info.map_or(0, <[u8]>::len);
            Frame::encode(Opcode::Text, capacity, |out| {
                centrifuge::encode_publication(out, channel, data, info);
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::hub::{Broadcast, SubRef};

    const LOCAL: LocalId = LocalId { index: 3, generation: 1 };

    fn home() -> Home {
        Home::new(HashKey(1, 2))
    }

    fn apply(home: &mut Home, from: ShardId, message: ToHome) -> Vec<(ShardId, FromHome)> {
        let mut out = Vec::new();
        home.apply(from, message, &Congestion::NONE, &mut out);
        out
    }

    fn join(index: u32, format: Format) -> ToHome {
        let sub = SubRef { index, generation: 0 };
        ToHome::Join { sub, channel: "c".into(), local: LOCAL, format }
    }

    fn leave(format: Format) -> ToHome {
        ToHome::Leave { channel: "c".into(), format }
    }

    fn publish(channel: &str, reply: ReplyTo) -> ToHome {
        let (data, payload) = (Bytes::from_static(b"7"), Payload::Json);
        let publication = Publication { channel: channel.into(), data, payload, info: None };
        ToHome::Publish { publication: Box::new(publication), reply }
    }

    fn gather(part: u32) -> ReplyTo {
        ReplyTo::Gather { index: 0, generation: 0, part }
    }

    /// What was said to whom, in short.
    fn said(out: &[(ShardId, FromHome)]) -> Vec<String> {
        let short = |(to, message): &(ShardId, FromHome)| match message {
            FromHome::Granted(sub) => format!("{to} granted {}", sub.index),
            FromHome::Published { local, published } => {
                let formats = published.frames.each_ref().map(Option::is_some);
                format!("{to} published {} in {} as {formats:?}", published.sequence, local.index)
            }
            FromHome::Answer { reply: ReplyTo::Gather { part, .. }, answer } => {
                format!("{to} answer {part} {answer:?}")
            }
            FromHome::Answer { answer, .. } => format!("{to} answer {answer:?}"),
            FromHome::Lease(answer) => unreachable!("leases are elsewhere: {answer:?}"),
        };
        out.iter().map(short).collect()
    }

    #[test]
    fn publications_go_to_interested_shards_once_and_before_the_answer() {
        let mut home = home();
        assert_eq!(said(&apply(&mut home, 1, join(5, Format::Centrifuge))), ["1 granted 5"]);
        apply(&mut home, 2, join(6, Format::Centrifuge));
        apply(&mut home, 2, join(7, Format::Centrifuge));
        assert_eq!(home.subscribers("c"), 3);
        let out = apply(&mut home, 0, publish("c", gather(4)));
        assert_eq!(
            said(&out),
            [
                "1 published 1 in 3 as [true, false]",
                "2 published 1 in 3 as [true, false]",
                "0 answer 4 Published"
            ]
        );
        assert_eq!(home.frames_encoded(), 1, "one encoding for three subscribers on two shards");
        let silent = apply(&mut home, 0, publish("c", ReplyTo::Nobody));
        assert_eq!(said(&silent).len(), 2);
        apply(&mut home, 1, leave(Format::Centrifuge));
        let out = apply(&mut home, 0, publish("c", ReplyTo::Nobody));
        assert_eq!(said(&out), ["2 published 3 in 3 as [true, false]"]);
    }

    #[test]
    fn each_format_that_somebody_wants_is_encoded() {
        let mut home = home();
        apply(&mut home, 0, join(1, Format::Plain));
        apply(&mut home, 1, join(1, Format::Centrifuge));
        let out = apply(&mut home, 0, publish("c", ReplyTo::Nobody));
        let FromHome::Published { published, .. } = &out[0].1 else { panic!("{out:?}") };
        let [centrifuge, plain] = published.frames.each_ref().map(|frame| {
            String::from_utf8(frame.as_ref().expect("both are wanted").payload().to_vec()).unwrap()
        });
        assert_eq!(centrifuge, r#"{"push":{"channel":"c","pub":{"data":7}}}"#);
        assert_eq!(plain, "7");
        assert_eq!(home.frames_encoded(), 2);
    }

    #[test]
    fn what_is_no_json_becomes_a_json_string_for_centrifuge_clients() {
        let encoded = |payload, data: &'static [u8]| {
            let data = Bytes::from_static(data);
            let publication = Publication { channel: "c".into(), data, payload, info: None };
            let frame = encode(Format::Centrifuge, &publication);
            String::from_utf8(frame.payload().to_vec()).unwrap()
        };
        assert!(encoded(Payload::Text, b"a\"\n").contains(r#""data":"a\"\n""#));
        assert!(encoded(Payload::Binary, &[0, 255]).contains(r#""data":"AP8=""#));
    }

    #[test]
    fn a_channel_vanishes_with_its_last_leave_and_unknown_leaves_do_nothing() {
        let mut home = home();
        apply(&mut home, 0, leave(Format::Plain));
        apply(&mut home, 0, join(1, Format::Centrifuge));
        apply(&mut home, 1, leave(Format::Centrifuge));
        apply(&mut home, 0, leave(Format::Plain));
        assert_eq!((home.channels(), home.subscribers("c")), (1, 1));
        apply(&mut home, 0, leave(Format::Centrifuge));
        assert_eq!((home.channels(), home.subscribers("c")), (0, 0));
        let out = apply(&mut home, 0, publish("c", gather(0)));
        assert_eq!(said(&out), ["0 answer 0 Published"], "nobody is there to get it");
        assert_eq!(home.channels(), 0, "publishing makes no channel");
    }

    #[test]
    fn one_full_link_refuses_the_publication_for_all() {
        let mut home = home();
        apply(&mut home, 0, join(1, Format::Centrifuge));
        apply(&mut home, 1, join(1, Format::Centrifuge));
        let mut congestion = Congestion::NONE;
        congestion.set(1, true);
        let mut out = Vec::new();
        home.apply(0, publish("c", gather(0)), &congestion, &mut out);
        assert!(
            matches!(&out[..], [(0, FromHome::Answer { answer: HomeAnswer::Failed(error), .. })]
                if *error == ErrorCode::TOO_MANY_REQUESTS),
            "{out:?}"
        );
        assert_eq!(home.frames_encoded(), 0);
        congestion.set(1, false);
        out.clear();
        home.apply(0, publish("c", gather(0)), &congestion, &mut out);
        assert_eq!(said(&out)[0], "0 published 1 in 3 as [true, false]", "no number was lost");
    }

    #[test]
    fn every_part_of_a_broadcast_is_answered() {
        let mut home = home();
        apply(&mut home, 1, join(1, Format::Centrifuge));
        let channels = vec![(0, "x".into()), (4, "c".into())];
        let broadcast = Box::new(Broadcast { channels, data: Bytes::from_static(b"7") });
        let out = apply(&mut home, 0, ToHome::Broadcast { broadcast, reply: gather(0) });
        assert_eq!(
            said(&out),
            ["0 answer 0 Published", "1 published 1 in 3 as [true, false]", "0 answer 4 Published"]
        );
    }

    #[test]
    fn a_user_is_there_while_one_connection_is() {
        let mut home = home();
        let user = |slot| (Name::from("u"), ConnRef { slot, generation: 0 });
        for (shard, slot) in [(0, 1), (1, 1)] {
            let (user, conn) = user(slot);
            let reply = ReplyTo::Command { conn, place: 0, command: 1 };
            let out = apply(&mut home, shard, ToHome::UserJoin { user, conn, reply });
            assert_eq!(said(&out), [format!("{shard} answer Registered")]);
        }
        let mut leave = |shard, slot| {
            let (user, conn) = user(slot);
            assert!(apply(&mut home, shard, ToHome::UserLeave { user, conn }).is_empty());
            home.users()
        };
        assert_eq!([leave(0, 2), leave(0, 1), leave(0, 1), leave(1, 1)], [1, 1, 1, 0]);
    }

    #[test]
    fn congestion_knows_every_shard_apart() {
        let mut congestion = Congestion::NONE;
        let last = (SHARDS_MAX - 1) as ShardId;
        congestion.set(last, true);
        congestion.set(63, true);
        congestion.set(63, false);
        let full: Vec<ShardId> = (0..=last).filter(|&shard| congestion.is_full(shard)).collect();
        assert_eq!(full, [last]);
    }
}

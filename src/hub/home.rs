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

//! Counters of one shard: a plain struct that the shard owns, summed over shards when asked.

use std::collections::BTreeMap;

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident),* $(,)?) => {
        /// What one shard counted since its start.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[doc = $doc])+ pub $name: u64,)*
        }

        impl Counters {
            /// Every counter: its name, what it counts as a sentence, and how much that is.
            pub fn items(
                &self,
            ) -> [(&'static str, &'static str, u64); [$(stringify!($name)),*].len()] {
                [$((stringify!($name), concat!($($doc),+).trim_ascii_start(), self.$name)),*]
            }

            /// Adds what another shard counted.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

counters! {
    /// Connections accepted.
    connections_accepted,
    /// Connections answered 503 because the table was full.
    connections_refused,
    /// Connections that their peers ended, with a close frame of any code, a FIN or a reset.
    connections_closed_by_peer,
    /// WebSocket and HTTP messages read.
    messages_received,
    /// Publications encoded by homes, each format once.
    frames_encoded,
    /// Queue entries made for subscribers times the publications in them.
    deliveries,
    /// Publications refused because a link was full.
    publications_refused,
    /// Subscriptions whose position was lost, and who were told.
    positions_lost,
    /// Subscribers without a position that a gap was not told to.
    publications_missed,
    /// Announcements of who came and went that a full link did not take.
    memberships_dropped,
    /// Publications that a slow subscriber lost to newer ones, by the policy of their channel.
    publications_overtaken,
    /// Connections closed because their queue was over its bound.
    slow_consumers_closed,
    /// Bytes dropped unsent from the queues of slow consumers.
    slow_consumer_bytes_dropped,
    /// Leases granted to devices without one.
    leases_granted,
    /// Leases handed over from one stream of a device to the next.
    lease_handovers,
    /// Watches refused because another lease was active.
    lease_conflicts,
    /// Leases that ended because no heartbeat came in time.
    leases_expired,
    /// Leases taken away by the backend.
    leases_released,
    /// Heartbeats that reached the home of their device.
    heartbeats,
    /// Of these, refused because another lease or none was active.
    heartbeats_refused,
    /// Wakes asked for, each session of a device once.
    device_wakes,
    /// Wakes put on a stream; one may be sent several times.
    device_wakes_sent,
    /// Wakes whose device ended its stream on them.
    device_wakes_confirmed,
    /// Wakes whose time passed without that.
    device_wakes_expired,
    /// Requests of devices with a token that is not valid.
    device_tokens_refused,
    /// Sends given to the kernel.
    sends,
    /// Times that a receive found no free buffer and was armed again.
    receive_buffers_exhausted,
    /// Times that a message waited behind a full link.
    link_waits,
    /// Wakes sent to sleeping shards.
    wakes_sent,
    /// Times that the shard slept.
    sleeps,
    /// Sleeps that ended at their ceiling although work was there and nobody was about to wake the
    /// shard: must stay 0.
    sleeps_missed_work,
    /// Calls of `io_uring_enter`.
    ring_enters,
    /// Completions that went through the kernel's overflow list.
    ring_overflows,
}

/// What there is on one shard, for `info`.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// The shard.
    pub shard: u16,
    /// Connected clients.
    pub clients: u64,
    /// Open connections of any kind.
    pub connections: u64,
    /// Active subscriptions.
    pub subscriptions: u64,
    /// Channels that live here.
    pub channels: u64,
    /// Users that live here.
    pub users: u64,
    /// Leases of devices that live here.
    pub leases: u64,
    /// Open watch streams.
    pub watch_streams: u64,
    /// Whether an anonymous client is connected here.
    pub anonymous: bool,
    /// Counters.
    pub counters: Counters,
    /// Connections that the server decided to close, by code.
    pub closed: BTreeMap<u16, u64>,
}

//! What the channels and users of a world have beyond publications.

use std::{num::NonZeroUsize, time::Duration};

use tiderace::channels::{ChannelOptions, RecoveryMode, SlowConsumer};

use super::{random::Random, window::Promise};

/// The tag that says which publications stand for the same thing, where the newest is enough.
pub const KEY: &str = "of";
/// What it says; empty: there is no tag.
pub const KEYS: [&str; 4] = ["", "a", "b", "c"];

/// What channels keep.
#[derive(Clone, Copy, Debug)]
pub struct History {
    pub size: usize,
    pub ttl_ms: u64,
    pub meta_ttl_ms: u64,
    /// Bytes of all histories of a shard.
    pub bytes_max: usize,
    /// Of what was missed the newest is enough.
    pub cache: bool,
    /// Everybody recovers, also who does not ask.
    pub forced: bool,
}

/// What differs between worlds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Features {
    pub history: Option<History>,
    pub presence: bool,
    pub join_leave: bool,
    /// Of joins and leaves a user's first and last are told.
    pub by_user: bool,
    pub max_subscribers: Option<NonZeroUsize>,
    pub user_connections_max: Option<usize>,
    /// The backend is asked who connects without a token.
    pub asks: bool,
    /// The backend is asked who subscribes and what clients publish.
    pub proxied: bool,
    /// Subscriptions may end by themselves.
    pub expiring: bool,
    /// What happens to who reads too slowly.
    pub slow_consumer: SlowConsumer,
}

impl History {
    /// That keeps everything.
    pub const LASTING: Self = Self {
        size: 100_000,
        ttl_ms: 3_600_000,
        meta_ttl_ms: 3_600_000,
        bytes_max: 64 << 20,
        cache: false,
        forced: false,
    };

    fn any(random: &mut Random) -> Self {
        let (cache, forced) = (random.chance(10), random.chance(20));
        if random.chance(30) {
            return Self { cache, forced, ..Self::LASTING };
        }
        Self {
            size: *random.pick(&[1, 5, 100]),
            ttl_ms: *random.pick(&[30, 5_000, 600_000]),
            meta_ttl_ms: *random.pick(&[30, 8_000, 600_000]),
            bytes_max: *random.pick(&[700, 2_000, 5_000, 64 << 10]),
            cache,
            forced,
        }
    }

    /// Whether everything that was published is kept for who recovers.
    pub fn is_lasting(self) -> bool {
        self.size == Self::LASTING.size
    }
}

impl Features {
    /// Any of them, or none.
    pub fn any(random: &mut Random) -> Self {
        if random.chance(30) {
            return Self::default();
        }
        let history = random.chance(70).then(|| History::any(random));
        Self {
            history,
            presence: random.chance(50),
            join_leave: random.chance(50),
            by_user: random.chance(30),
            max_subscribers: random.chance(20).then(|| NonZeroUsize::MIN.saturating_add(1)),
            user_connections_max: random.chance(20).then_some(1),
            asks: random.chance(40),
            proxied: random.chance(30),
            expiring: random.chance(40),
            slow_consumer: *random.pick(&[
                SlowConsumer::Disconnect,
                SlowConsumer::Disconnect,
                SlowConsumer::DropOldest,
                SlowConsumer::Latest,
            ]),
        }
    }

    /// Whether publications may be dropped of who reads too slowly.
    pub fn drops(self) -> bool {
        self.slow_consumer != SlowConsumer::Disconnect
    }

    /// Whether of what who reads too slowly missed the newest of every key comes.
    pub fn is_latest(self) -> bool {
        self.slow_consumer == SlowConsumer::Latest
    }

    /// What who has no position is promised.
    pub fn promise(self) -> Promise {
        if self.history.is_some() || self.drops() {
            Promise::WhatComes
        } else {
            Promise::Everything
        }
    }

    /// As options of the channels.
    pub fn options(self) -> ChannelOptions {
        let mut options = ChannelOptions {
            allow_subscribe_for_client: true,
            allow_subscribe_for_anonymous: true,
            allow_publish_for_client: true,
            allow_publish_for_subscriber: true,
            allow_publish_for_anonymous: true,
            allow_presence_for_client: true,
            allow_presence_for_anonymous: true,
            allow_history_for_client: true,
            allow_history_for_anonymous: true,
            presence: self.presence,
            join_leave: self.join_leave,
            join_leave_by_user: self.by_user,
            max_subscribers: self.max_subscribers,
            subscribe_proxy_enabled: self.proxied,
            publish_proxy_enabled: self.proxied,
            slow_consumer: self.slow_consumer,
            conflation_tag: if self.is_latest() { KEY.to_owned() } else { String::new() },
            ..ChannelOptions::default()
        };
        if let Some(history) = self.history {
            options.history_size = history.size;
            options.history_ttl = Duration::from_millis(history.ttl_ms);
            options.history_meta_ttl = Duration::from_millis(history.meta_ttl_ms);
            options.allow_positioning = true;
            options.allow_recovery = true;
            options.force_recovery = history.forced;
            if history.cache {
                options.force_recovery_mode = RecoveryMode::Cache;
            }
        }
        options
    }
}

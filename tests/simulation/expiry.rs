//! Until when subscriptions live: what their clients and backends want, and what the clocks say.

use serde_json::json;
use tiderace::protocol::Now;

use super::{
    oracle::name,
    random::Random,
    settings::{self, HOUR_S},
};

/// Seconds for which a subscription may still be refreshed when it is over.
pub const DELAY_S: u64 = 25;
/// Milliseconds in which the server must see that the wall clock was set.
pub const NOTICED_MS: u64 = 61_000;

/// Both clocks, and when the wall clock was set.
#[derive(Debug, Default)]
pub struct Clocks {
    now: Now,
    set: Vec<Now>,
}

/// When a subscription must have been refreshed, and when its client was told so.
#[derive(Clone, Copy, Debug)]
pub struct Expiry {
    pub at_unix_s: u64,
    told_ms: u64,
}

impl Clocks {
    /// This is the time now.
    pub fn show(&mut self, now: Now) {
        if now.unix_s != self.now.unix_s {
            self.set.push(now);
        }
        self.now = now;
    }

    pub fn unix_s(&self) -> u64 {
        self.now.unix_s
    }

    /// A client is told of an expiry.
    pub fn expiry(&self, at_unix_s: u64) -> Expiry {
        Expiry { at_unix_s, told_ms: self.now.monotonic_ms }
    }

    /// Whether what was told of an expiry, in seconds, was true at some time since `asked_unix_s`.
    pub fn is_true(&self, at_unix_s: u64, ttl_s: u64, asked_unix_s: u64) -> bool {
        let left_s = |unix_s: u64| at_unix_s.saturating_sub(unix_s);
        (left_s(self.now.unix_s)..=left_s(asked_unix_s)).contains(&ttl_s)
    }

    /// Whether a subscription that was not refreshed may have ended.
    pub fn is_over(&self, expiry: Expiry) -> bool {
        self.now.unix_s >= expiry.at_unix_s + DELAY_S
    }

    /// Whether it must have ended.
    pub fn is_long_over(&self, expiry: Expiry) -> bool {
        let mut over = self.set.iter().filter(|set| set.unix_s >= expiry.at_unix_s + DELAY_S);
        let since_ms = over.next().map(|set| set.monotonic_ms.max(expiry.told_ms));
        since_ms.is_some_and(|since_ms| self.now.monotonic_ms > since_ms + NOTICED_MS)
    }
}

/// A moment that comes when the wall clock is set next, or a little later, or some times later.
pub fn moment(unix_s: u64, random: &mut Random) -> u64 {
    let hours = *random.pick(&[0, 0, 0, 1, 2]);
    let seconds = [HOUR_S / 2, HOUR_S - DELAY_S, HOUR_S - DELAY_S + 1, HOUR_S];
    unix_s + hours * HOUR_S + random.pick(&seconds)
}

/// What a client wants: any moment, one that is over, or 0, which never comes.
pub fn any(unix_s: u64, random: &mut Random) -> u64 {
    match random.below(10) {
        0 => 0,
        1 => unix_s - random.below(2) as u64,
        _ => moment(unix_s, random),
    }
}

/// A user's token for a channel, for as long as that; 0: for ever. It says so in its data too.
pub fn token(user: &str, channel: usize, at_unix_s: u64, random: &mut Random) -> String {
    let mut claims = json!({ "sub": user, "channel": name(channel) });
    if at_unix_s != 0 {
        let claim = *random.pick(&["exp", "expire_at"]);
        claims[claim] = at_unix_s.into();
        claims["data"] = at_unix_s.into();
    }
    settings::token(&claims)
}

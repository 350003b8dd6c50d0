//! Whether the peer of a plain WebSocket connection is still there: pings, and the silence after them.

use super::Now;

const NEVER: u64 = u64::MAX;

/// How a handler's connections are watched.
#[derive(Clone, Copy, Debug)]
pub struct Keepalive {
    /// Milliseconds between two pings of one connection (RFC 6455 section 5.5.2). 0 sends none.
    pub ping_interval_ms: u64,
    /// Milliseconds of silence after which the peer is taken for gone; anything that it sends is a
    /// sign of life, a pong as well as a part of a message. 0 waits for ever.
    pub silence_timeout_ms: u64,
}

/// The deadlines of one connection.
#[derive(Clone, Copy, Debug)]
pub struct Liveness {
    ping_at_ms: u64,
    gone_at_ms: u64,
}

/// What a deadline asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// The peer was heard meanwhile.
    Nothing,
    /// It is pinged.
    Ping,
    /// It is taken for gone.
    Gone,
}

impl Liveness {
    /// A connection that was opened now. Its pings are ahead of others' by `spread` / 2^32 of the
    /// interval, so that connections that came together are not pinged together.
    pub fn new(now: Now, spread: u32, keepalive: &Keepalive) -> Self {
        let share = (u128::from(keepalive.ping_interval_ms) * u128::from(spread)) >> 32;
        let first = keepalive.ping_interval_ms - share as u64;
        let mut liveness = Self { ping_at_ms: after(now, first), gone_at_ms: NEVER };
        liveness.heard(now, keepalive);
        liveness
    }

    /// The peer sent something.
    pub fn heard(&mut self, now: Now, keepalive: &Keepalive) {
        self.gone_at_ms = after(now, keepalive.silence_timeout_ms);
    }

    /// When the connection must be looked at next.
    pub fn deadline_ms(&self) -> u64 {
        self.ping_at_ms.min(self.gone_at_ms)
    }

    /// A deadline has come.
    pub fn due(&mut self, now: Now, keepalive: &Keepalive) -> Due {
        if self.gone_at_ms <= now.monotonic_ms {
            return Due::Gone;
        }
        if self.ping_at_ms <= now.monotonic_ms {
            self.ping_at_ms = after(now, keepalive.ping_interval_ms);
            return Due::Ping;
        }
        Due::Nothing
    }
}

fn after(now: Now, delay_ms: u64) -> u64 {
    if delay_ms == 0 { NEVER } else { now.monotonic_ms.saturating_add(delay_ms) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEPALIVE: Keepalive = Keepalive { ping_interval_ms: 30_000, silence_timeout_ms: 60_000 };

    fn at(ms: u64) -> Now {
        Now { monotonic_ms: ms, unix_s: 0 }
    }

    #[test]
    fn a_silent_peer_is_pinged_once_and_then_taken_for_gone() {
        let mut liveness = Liveness::new(at(0), 0, &KEEPALIVE);
        assert_eq!(liveness.deadline_ms(), 30_000);
        assert_eq!(liveness.due(at(29_999), &KEEPALIVE), Due::Nothing);
        assert_eq!(liveness.due(at(30_000), &KEEPALIVE), Due::Ping);
        assert_eq!(liveness.deadline_ms(), 60_000);
        assert_eq!(liveness.due(at(60_000), &KEEPALIVE), Due::Gone);
    }

    #[test]
    fn whoever_says_anything_lives_and_is_pinged_all_the_same() {
        let mut liveness = Liveness::new(at(0), 0, &KEEPALIVE);
        for ping in 1..10 {
            assert_eq!(liveness.due(at(ping * 30_000), &KEEPALIVE), Due::Ping);
            liveness.heard(at(ping * 30_000 + 1), &KEEPALIVE);
        }
        assert_eq!(liveness.due(at(9 * 30_000 + 2), &KEEPALIVE), Due::Nothing);
    }

    #[test]
    fn first_pings_are_spread_over_an_interval() {
        let first = |spread| Liveness::new(at(0), spread, &KEEPALIVE).deadline_ms();
        assert_eq!([first(0), first(1 << 31), first(u32::MAX)], [30_000, 15_000, 1]);
    }

    #[test]
    fn zeros_wait_for_ever() {
        let keepalive = Keepalive { ping_interval_ms: 0, silence_timeout_ms: 0 };
        let mut liveness = Liveness::new(at(0), 7, &keepalive);
        liveness.heard(at(1), &keepalive);
        assert_eq!(liveness.deadline_ms(), NEVER);
    }
}

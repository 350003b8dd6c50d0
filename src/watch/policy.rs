//! What the client does after each way in which an attempt to watch can end: again now, later, or never.
//!
//! PURE. Boundaries are inclusive: a stream that ran for exactly one interval was healthy.

use std::time::Duration;

use super::Stopped;

/// The first delay of the backoff, and the one after every successful connect.
pub const BACKOFF_MIN: Duration = Duration::from_secs(1);

/// The longest delay of the backoff.
pub const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// The fixed delay after a conflict and after an answer that is no event stream.
pub const CONFLICT_DELAY: Duration = Duration::from_secs(30);

/// Why no `hello` came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectFailure {
    /// 401, with a complete body.
    Unauthorized,
    /// 409, with a complete body: another watcher has the device.
    Conflict,
    /// A success that is no `text/event-stream`.
    UnexpectedContentType,
    /// All else: the network, other statuses, a malformed or late `hello`, an end before it.
    Other,
}

/// Why the heartbeats of a stream ended by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeartbeatExit {
    /// 409: another lease is active.
    Conflict,
    /// 410: this lease is not active, and no other is.
    Gone,
    /// 401.
    Unauthorized,
    /// None succeeded for three intervals.
    Failed,
    /// They were told to end while nothing else had ended the stream.
    Cancelled,
}

/// Why a stream ended after its `hello`, unless by a wake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamExit {
    /// Nothing that counts as life came for two and a half intervals.
    ReadTimeout,
    /// The server ended the response in order.
    Ended,
    /// The transport failed or the server sent what is no event; how long it ran since its `hello`.
    Error {
        /// Time since the `hello`.
        ran_for: Duration,
    },
    /// The heartbeats ended first.
    Heartbeat(HeartbeatExit),
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Watch again after this time, zero unless jitter is configured; the client still counts as connected.
    Reconnect(Duration),
    /// Watch again after this time; the client counts as connecting.
    Backoff(Duration),
    /// Never again.
    Stop(Stopped),
}

/// The state between attempts: how long the next backoff is, and which lease to hand over.
///
/// One value serves from one wake to the next; after a wake a fresh one begins.
#[derive(Clone, Debug)]
pub struct Policy {
    backoff: Duration,
    previous_lease: Option<String>,
    jitter_max: Duration,
    spacing_min: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self::new(Duration::ZERO, Duration::ZERO)
    }
}

impl Policy {
    /// A fresh state. Zero switches either option off, which is how agents in the field behave.
    ///
    /// `jitter_max` extends every wait, those of zero length too, by a random time up to this one, so
    /// that a server which loses many streams at once is not asked by all in the same moment.
    /// `spacing_min` is the least time between the beginnings of two attempts: a floor under the paths
    /// that watch again without delay.
    pub fn new(jitter_max: Duration, spacing_min: Duration) -> Self {
        Self { backoff: BACKOFF_MIN, previous_lease: None, jitter_max, spacing_min }
    }

    /// The lease that the next attempt hands over.
    pub fn previous_lease(&self) -> Option<&str> {
        self.previous_lease.as_deref()
    }

    /// How long an attempt has to wait that would begin now, `since_last` after the one before it.
    pub fn spacing(&self, since_last: Option<Duration>) -> Duration {
        since_last.map_or(Duration::ZERO, |since_last| self.spacing_min.saturating_sub(since_last))
    }

    /// An attempt got its `hello`.
    pub fn connected(&mut self) {
        self.previous_lease = None;
        self.backoff = BACKOFF_MIN;
    }

    /// An attempt got none. `random` is any number; it places the jitter.
    pub fn connect_failed(&mut self, failure: ConnectFailure, random: u64) -> Action {
        match failure {
            ConnectFailure::Unauthorized => Action::Stop(Stopped::Unauthorized),
            ConnectFailure::Conflict => {
                self.previous_lease = None;
                Action::Backoff(self.jittered(CONFLICT_DELAY, random))
            }
            ConnectFailure::UnexpectedContentType => {
                Action::Backoff(self.jittered(CONFLICT_DELAY, random))
            }
            ConnectFailure::Other => self.back_off(random),
        }
    }

    /// The stream of `lease`, whose heartbeats were `interval` apart, ended.
    pub fn stream_ended(
        &mut self,
        lease: String,
        interval: Duration,
        exit: StreamExit,
        random: u64,
    ) -> Action {
        use HeartbeatExit::{Cancelled, Conflict, Failed, Gone, Unauthorized};
        match exit {
            StreamExit::Heartbeat(Unauthorized) => return Action::Stop(Stopped::Unauthorized),
            StreamExit::Heartbeat(Cancelled) => return Action::Stop(Stopped::Cancelled),
            StreamExit::Heartbeat(Conflict) => {
                return Action::Backoff(self.jittered(CONFLICT_DELAY, random));
            }
            StreamExit::Heartbeat(Gone) => {}
            StreamExit::Error { ran_for } if ran_for < interval => {
                self.previous_lease = Some(lease);
                return self.back_off(random);
            }
            StreamExit::ReadTimeout
            | StreamExit::Ended
            | StreamExit::Error { .. }
            | StreamExit::Heartbeat(Failed) => self.previous_lease = Some(lease),
        }
        Action::Reconnect(self.jittered(Duration::ZERO, random))
    }

    /// Waits as long as the backoff says, and twice as long the next time.
    fn back_off(&mut self, random: u64) -> Action {
        let delay = self.backoff;
        self.backoff = (delay * 2).min(BACKOFF_MAX);
        Action::Backoff(self.jittered(delay, random))
    }

    fn jittered(&self, delay: Duration, random: u64) -> Duration {
        let nanoseconds_max = u64::try_from(self.jitter_max.as_nanos()).unwrap_or(u64::MAX);
        let share = (u128::from(random) * u128::from(nanoseconds_max)) >> 64;
        // A share of a number of 64 bits is one of at most 64 bits.
        delay + Duration::from_nanos(share as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(5);
    const NANOSECOND: Duration = Duration::from_nanos(1);
    const NOW: Action = Action::Reconnect(Duration::ZERO);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn backoff(secs: u64) -> Action {
        Action::Backoff(seconds(secs))
    }

    /// A policy with previous lease `old` whose next backoff is 4 s.
    fn used() -> Policy {
        let mut policy = Policy::default();
        policy.connected();
        policy.stream_ended("old".into(), INTERVAL, StreamExit::Ended, 0);
        for expected in [1, 2] {
            assert_eq!(policy.connect_failed(ConnectFailure::Other, 0), backoff(expected));
        }
        policy
    }

    #[test]
    fn every_failure_to_connect() {
        use ConnectFailure::{Conflict, Other, Unauthorized, UnexpectedContentType};
        // failure, action, lease afterwards, next backoff
        for (failure, action, lease, next) in [
            (Unauthorized, Action::Stop(Stopped::Unauthorized), Some("old"), 4),
            (Conflict, backoff(30), None, 4),
            (UnexpectedContentType, backoff(30), Some("old"), 4),
            (Other, backoff(4), Some("old"), 8),
        ] {
            let mut policy = used();
            assert_eq!(policy.connect_failed(failure, 0), action, "{failure:?}");
            assert_eq!(policy.previous_lease(), lease, "{failure:?}");
            assert_eq!(policy.backoff, seconds(next), "{failure:?}");
        }
    }

    #[test]
    fn every_end_of_a_stream() {
        use HeartbeatExit::{Cancelled, Conflict, Failed, Gone, Unauthorized};
        let error = |ran_for| StreamExit::Error { ran_for };
        // exit, action, lease afterwards, next backoff
        for (exit, action, lease, next) in [
            (StreamExit::ReadTimeout, NOW, Some("new"), 1),
            (StreamExit::Ended, NOW, Some("new"), 1),
            (error(Duration::ZERO), backoff(1), Some("new"), 2),
            (error(INTERVAL - NANOSECOND), backoff(1), Some("new"), 2),
            (error(INTERVAL), NOW, Some("new"), 1),
            (error(INTERVAL + NANOSECOND), NOW, Some("new"), 1),
            (error(INTERVAL * 1000), NOW, Some("new"), 1),
            (StreamExit::Heartbeat(Conflict), backoff(30), None, 1),
            (StreamExit::Heartbeat(Gone), NOW, None, 1),
            (StreamExit::Heartbeat(Unauthorized), Action::Stop(Stopped::Unauthorized), None, 1),
            (StreamExit::Heartbeat(Failed), NOW, Some("new"), 1),
            (StreamExit::Heartbeat(Cancelled), Action::Stop(Stopped::Cancelled), None, 1),
        ] {
            let mut policy = used();
            policy.connected();
            assert_eq!(policy.stream_ended("new".into(), INTERVAL, exit, 0), action, "{exit:?}");
            assert_eq!(policy.previous_lease(), lease, "{exit:?}");
            assert_eq!(policy.backoff, seconds(next), "{exit:?}");
        }
    }

    #[test]
    fn a_fresh_policy_hands_nothing_over_and_begins_at_one_second() {
        let mut policy = Policy::default();
        assert_eq!(policy.previous_lease(), None);
        assert_eq!(policy.connect_failed(ConnectFailure::Other, 0), backoff(1));
    }

    #[test]
    fn the_backoff_doubles_up_to_thirty_seconds() {
        let mut policy = Policy::default();
        for expected in [1, 2, 4, 8, 16, 30, 30] {
            assert_eq!(policy.connect_failed(ConnectFailure::Other, 0), backoff(expected));
        }
    }

    #[test]
    fn a_connect_resets_the_backoff_and_clears_the_lease() {
        let mut policy = used();
        policy.connected();
        assert_eq!(policy.previous_lease(), None);
        assert_eq!(policy.connect_failed(ConnectFailure::Other, 0), backoff(1));
    }

    #[test]
    fn failures_between_two_streams_keep_the_lease() {
        let mut policy = used();
        policy.connect_failed(ConnectFailure::UnexpectedContentType, 0);
        policy.connect_failed(ConnectFailure::Other, 0);
        assert_eq!(policy.previous_lease(), Some("old"));
    }

    #[test]
    fn fixed_delays_leave_the_backoff_as_it_was() {
        let mut policy = used();
        policy.connect_failed(ConnectFailure::Conflict, 0);
        policy.connect_failed(ConnectFailure::UnexpectedContentType, 0);
        assert_eq!(policy.connect_failed(ConnectFailure::Other, 0), backoff(4));
    }

    #[test]
    fn short_streams_that_connect_never_get_beyond_the_first_delay() {
        let mut policy = Policy::default();
        for _ in 0..3 {
            policy.connected();
            let exit = StreamExit::Error { ran_for: Duration::ZERO };
            assert_eq!(policy.stream_ended("l".into(), INTERVAL, exit, 0), backoff(1));
        }
    }

    #[test]
    fn a_short_stream_lengthens_the_next_failure_to_connect() {
        let mut policy = Policy::default();
        policy.connected();
        let exit = StreamExit::Error { ran_for: Duration::ZERO };
        policy.stream_ended("l".into(), INTERVAL, exit, 0);
        assert_eq!(policy.connect_failed(ConnectFailure::Other, 0), backoff(2));
    }

    #[test]
    fn jitter_extends_every_wait_by_less_than_its_bound() {
        let jitter = seconds(10);
        for (random, least, most) in
            [(0, 0, 0), (u64::MAX / 2, 4_999, 5_000), (u64::MAX, 9_999, 10_000)]
        {
            let mut policy = Policy::new(jitter, Duration::ZERO);
            let range = |base: u64| base * 1000 + least..=base * 1000 + most;
            let Action::Backoff(conflict) = policy.connect_failed(ConnectFailure::Conflict, random)
            else {
                panic!("a conflict waits");
            };
            assert!(range(30).contains(&(conflict.as_millis() as u64)), "{conflict:?}");
            let Action::Reconnect(ended) =
                policy.stream_ended("l".into(), INTERVAL, StreamExit::Ended, random)
            else {
                panic!("an ended stream is watched again");
            };
            assert!(range(0).contains(&(ended.as_millis() as u64)), "{ended:?}");
        }
    }

    #[test]
    fn spacing_is_what_is_missing_between_two_attempts() {
        let policy = Policy::new(Duration::ZERO, seconds(2));
        assert_eq!(policy.spacing(None), Duration::ZERO, "the first attempt");
        assert_eq!(policy.spacing(Some(Duration::ZERO)), seconds(2));
        assert_eq!(policy.spacing(Some(seconds(2) - NANOSECOND)), NANOSECOND);
        assert_eq!(policy.spacing(Some(seconds(2))), Duration::ZERO);
        assert_eq!(Policy::default().spacing(Some(Duration::ZERO)), Duration::ZERO, "off");
    }
}

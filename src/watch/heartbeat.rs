//! When the heartbeats of a lease are due, what their answers mean, and when a stream counts as dead.
//!
//! PURE: times are those since the `hello`.

use std::time::Duration;

use super::policy::HeartbeatExit;

/// For the request, the response's head and the `hello` together; comments do not extend it.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(30);

/// For one heartbeat, or one question for the device, from connecting to the end of the answer.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a stream may be without life.
pub fn read_timeout(interval: Duration) -> Duration {
    interval * 5 / 2
}

/// What an answer to a heartbeat means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The lease goes on.
    Extended,
    /// It does not, for good.
    Lost(HeartbeatExit),
    /// Nothing is known; the next one tells.
    Retry,
}

impl Answer {
    /// By the status of a complete answer. One that breaks off is [`Answer::Retry`], and so is a
    /// redirection to somewhere (`redirects`): it is not followed.
    pub fn of_status(status: u16, redirects: bool) -> Self {
        match status {
            401 => Self::Lost(HeartbeatExit::Unauthorized),
            409 => Self::Lost(HeartbeatExit::Conflict),
            410 => Self::Lost(HeartbeatExit::Gone),
            400.. => Self::Retry,
            300..400 if redirects => Self::Retry,
            _ => Self::Extended,
        }
    }
}

/// The schedule of one lease's heartbeats, one at a time.
#[derive(Clone, Debug)]
pub struct Heartbeats {
    interval: Duration,
    due: Duration,
    /// The `hello`, until one succeeded.
    last_success: Duration,
}

impl Heartbeats {
    /// The first one is due one interval after the `hello`.
    pub fn new(interval: Duration) -> Self {
        Self { interval, due: interval, last_success: Duration::ZERO }
    }

    /// When the next one is to be sent.
    pub fn due(&self) -> Duration {
        self.due
    }

    /// One is sent now. Of several that are due by now, this one stands for all: the next is due at
    /// the next whole interval.
    pub fn send(&mut self, now: Duration) {
        let begun = now.as_nanos() / self.interval.as_nanos() + 1;
        self.due = self.interval * u32::try_from(begun).unwrap_or(u32::MAX);
    }

    /// One was answered, or failed; why they end, if they do.
    pub fn finish(&mut self, answer: Answer, now: Duration) -> Option<HeartbeatExit> {
        match answer {
            Answer::Extended => {
                self.last_success = now;
                None
            }
            Answer::Lost(exit) => Some(exit),
            Answer::Retry => {
                let silence = now.saturating_sub(self.last_success);
                (silence >= self.interval * 3).then_some(HeartbeatExit::Failed)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MILLISECOND: Duration = Duration::from_millis(1);

    #[test]
    fn statuses() {
        use Answer::{Extended, Lost, Retry};
        for (status, answer) in [
            (200, Extended),
            (204, Extended),
            (302, Extended),
            (304, Extended),
            (400, Retry),
            (401, Lost(HeartbeatExit::Unauthorized)),
            (404, Retry),
            (409, Lost(HeartbeatExit::Conflict)),
            (410, Lost(HeartbeatExit::Gone)),
            (429, Retry),
            (500, Retry),
            (503, Retry),
        ] {
            assert_eq!(Answer::of_status(status, false), answer, "{status}");
        }
        assert_eq!(Answer::of_status(307, true), Retry);
        assert_eq!(Answer::of_status(410, true), Lost(HeartbeatExit::Gone));
    }

    #[test]
    fn they_are_due_at_whole_intervals_after_the_hello() {
        let mut heartbeats = Heartbeats::new(SECOND);
        assert_eq!(heartbeats.due(), SECOND);
        heartbeats.send(SECOND);
        assert_eq!(heartbeats.due(), 2 * SECOND);
        heartbeats.send(2 * SECOND + 300 * MILLISECOND);
        assert_eq!(heartbeats.due(), 3 * SECOND, "a late one delays no other");
    }

    #[test]
    fn of_late_ones_one_is_sent_and_the_rest_skipped() {
        let mut heartbeats = Heartbeats::new(SECOND);
        heartbeats.send(SECOND);
        heartbeats.finish(Answer::Extended, 4 * SECOND + 500 * MILLISECOND);
        assert_eq!(heartbeats.due(), 2 * SECOND, "overdue: at once");
        heartbeats.send(4 * SECOND + 500 * MILLISECOND);
        assert_eq!(heartbeats.due(), 5 * SECOND);
        heartbeats.send(5 * SECOND);
        assert_eq!(heartbeats.due(), 6 * SECOND, "exactly on time is not late");
    }

    #[test]
    fn without_any_success_the_third_failure_ends_them() {
        let mut heartbeats = Heartbeats::new(SECOND);
        assert_eq!(heartbeats.finish(Answer::Retry, SECOND), None);
        assert_eq!(heartbeats.finish(Answer::Retry, 2 * SECOND), None);
        assert_eq!(heartbeats.finish(Answer::Retry, 3 * SECOND), Some(HeartbeatExit::Failed));
    }

    #[test]
    fn three_intervals_after_the_last_success_is_the_boundary() {
        let mut heartbeats = Heartbeats::new(SECOND);
        let success = SECOND + 10 * MILLISECOND;
        assert_eq!(heartbeats.finish(Answer::Extended, success), None);
        let third = success + 3 * SECOND;
        assert_eq!(heartbeats.finish(Answer::Retry, third - Duration::from_nanos(1)), None);
        assert_eq!(heartbeats.finish(Answer::Retry, third), Some(HeartbeatExit::Failed));
    }

    #[test]
    fn a_success_begins_the_count_anew() {
        let mut heartbeats = Heartbeats::new(SECOND);
        heartbeats.finish(Answer::Retry, SECOND);
        heartbeats.finish(Answer::Retry, 2 * SECOND);
        heartbeats.finish(Answer::Extended, 3 * SECOND);
        assert_eq!(heartbeats.finish(Answer::Retry, 4 * SECOND), None);
    }

    #[test]
    fn a_lost_lease_ends_them_at_once() {
        let mut heartbeats = Heartbeats::new(SECOND);
        let lost = Answer::Lost(HeartbeatExit::Gone);
        assert_eq!(heartbeats.finish(lost, SECOND), Some(HeartbeatExit::Gone));
    }

    #[test]
    fn the_read_timeout_is_two_and_a_half_intervals() {
        assert_eq!(read_timeout(SECOND), 2500 * MILLISECOND);
    }
}

//! How fast messages are sent: so many in flight (closed loop), or so many per second (open loop).

use super::Error;
use super::stamp::STAMP_BYTES;

/// Flags of the cases that send messages.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Pace {
    /// Bytes of a payload, its time stamp of 16 included.
    #[arg(long, value_name = "BYTES", default_value_t = 64)]
    pub(super) size: usize,

    /// Closed loop: messages in flight (per connection for echo, in all for fanout); 1 without
    /// --rate.
    #[arg(long, value_name = "W", conflicts_with = "rate",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    window: Option<u32>,

    /// Open loop: messages per second in all; latency counts from when a message was due, not from
    /// when it left.
    #[arg(long, value_name = "R")]
    pub(super) rate: Option<f64>,
}

impl Pace {
    /// Messages in flight of a closed loop.
    pub(super) fn window(&self) -> u32 {
        self.window.unwrap_or(1)
    }

    pub(super) fn validate(&self) -> Result<(), Error> {
        size(self.size)?;
        match self.rate {
            Some(rate) if !(0.1..=10_000_000.0).contains(&rate) => {
                Err(Error::Usage("--rate must be between 0.1 and 10,000,000".into()))
            }
            _ => Ok(()),
        }
    }
}

/// Refuses payloads that cannot carry the time stamp or that are beyond 16 MiB.
pub(super) fn size(bytes: usize) -> Result<(), Error> {
    if (STAMP_BYTES..=16 * 1024 * 1024).contains(&bytes) {
        return Ok(());
    }
    Err(Error::Usage(format!("--size must be between {STAMP_BYTES} and 16,777,216")))
}

/// When each message of an open loop is due. It never slips: a late generator sends the overdue
/// ones at once.
pub(super) struct Schedule {
    start: u64,
    rate: f64,
    sent: u64,
}

impl Schedule {
    pub(super) fn new(start: u64, rate: f64) -> Self {
        Self { start, rate, sent: 0 }
    }

    /// When the next message is due.
    pub(super) fn next(&self) -> u64 {
        self.start + (self.sent as f64 * 1e9 / self.rate) as u64
    }

    /// The intended time of the next message, if it has come; the message counts as sent then.
    pub(super) fn due(&mut self, now: u64) -> Option<u64> {
        let next = self.next();
        (next <= now).then(|| {
            self.sent += 1;
            next
        })
    }

    pub(super) fn sent(&self) -> u64 {
        self.sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_schedule_catches_up_with_the_intended_times() {
        let mut schedule = Schedule::new(1_000, 1e6);
        assert_eq!(schedule.due(999), None);
        assert_eq!(schedule.due(1_000), Some(1_000));
        assert_eq!(schedule.due(1_000), None);
        let late: Vec<u64> = std::iter::from_fn(|| schedule.due(4_500)).collect();
        assert_eq!(late, [2_000, 3_000, 4_000]);
        assert_eq!((schedule.sent(), schedule.next()), (4, 5_000));
    }

    #[test]
    fn payloads_hold_at_least_the_stamp() {
        assert!(size(15).is_err());
        assert!(size(16).is_ok());
        assert!(size(17 << 20).is_err());
    }
}

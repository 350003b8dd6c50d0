//! What a completion says about its operation: kind, slot and generation in 64 bits.

/// Slots are 28 bits wide in the `user_data` of an operation.
pub const SLOTS_MAX: u32 = 1 << 28;

/// Names one tenant of one slot. Echoed in its completions, however late.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Key {
    /// Below [`SLOTS_MAX`].
    pub slot: u32,
    /// Distinguishes the tenants that a slot has one after the other.
    pub generation: u32,
}

/// What an operation was: the top four bits of its `user_data`.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(super) enum Kind {
    Receive = 1,
    Send,
    Shutdown,
    Close,
    CancelReceive,
    Accept,
    StopAccept,
    Reject,
    Wake,
    Woken,
    Doorbell,
    CancelAll,
}

impl Kind {
    pub(super) const ALL: [Kind; 12] = [
        Kind::Receive,
        Kind::Send,
        Kind::Shutdown,
        Kind::Close,
        Kind::CancelReceive,
        Kind::Accept,
        Kind::StopAccept,
        Kind::Reject,
        Kind::Wake,
        Kind::Woken,
        Kind::Doorbell,
        Kind::CancelAll,
    ];

    pub(super) const fn alone(self) -> u64 {
        (self as u64) << 60
    }

    pub(super) const fn of(self, key: Key) -> u64 {
        self.alone() | (key.slot as u64) << 32 | key.generation as u64
    }

    pub(super) fn read(user_data: u64) -> Option<(Kind, Key)> {
        let kind = *Kind::ALL.get(((user_data >> 60) as usize).checked_sub(1)?)?;
        let slot = (user_data >> 32) as u32 & (SLOTS_MAX - 1);
        Some((kind, Key { slot, generation: user_data as u32 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_data_carries_kind_slot_and_generation() {
        for kind in Kind::ALL {
            for (slot, generation) in [(0, 0), (SLOTS_MAX - 1, u32::MAX), (7, 1 << 31)] {
                let key = Key { slot, generation };
                let (read, read_key) = Kind::read(kind.of(key)).unwrap();
                assert_eq!((read as u8, read_key), (kind as u8, key));
            }
        }
        assert!(Kind::read(0).is_none() && Kind::read(u64::MAX).is_none());
    }
}

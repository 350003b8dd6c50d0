//! The receive buffers of a ring: the kernel takes one for each piece that arrives and gets it back
//! in the same turn.
//!
//! A buffer belongs either to the kernel (it stands in the buffer ring) or to this process
//! (`held`), never to both. Only held buffers are ever turned into slices.

use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// The one buffer group of a ring.
pub(super) const GROUP: u16 = 0;

/// The kernel's limit for the entries of one buffer ring.
const COUNT_MAX: u16 = 1 << 15;

/// Anonymous memory, zeroed, page-aligned; a page costs nothing before it is first touched.
struct Pages {
    start: NonNull<u8>,
    bytes: usize,
}

impl Pages {
    fn new(bytes: usize) -> io::Result<Pages> {
        // SAFETY: an anonymous private mapping at an address of the kernel's choice aliases
        // nothing.
        let start = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )?
        };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Pages { start, bytes })
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made in `new`. Whoever owns a `Pages` drops it only when
        // neither kernel nor process refers to it any more (`Ring::drop` waits for all operations
        // first).
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok());
    }
}

/// All receive buffers of one ring.
pub(super) struct Buffers {
    entries: Pages,
    data: Pages,
    count: u16,
    buffer_bytes: u32,
    /// Free-running index of the next entry to publish; the kernel sees it by a release store.
    tail: u16,
    /// Buffers that this process has, by id.
    held: Vec<bool>,
}

impl Buffers {
    /// Maps `count` buffers (rounded up to a power of two, at most 32,768) of `buffer_bytes` each.
    /// The kernel knows nothing of them before [`Buffers::register`].
    pub(super) fn new(count: u16, buffer_bytes: u32) -> io::Result<Buffers> {
        let count = count.clamp(1, COUNT_MAX).next_power_of_two();
        let buffer_bytes = buffer_bytes.max(1);
        let entries = Pages::new(usize::from(count) * size_of::<BufRingEntry>())?;
        let data = Pages::new(usize::from(count) * buffer_bytes as usize)?;
        let held = vec![true; usize::from(count)];
        Ok(Buffers { entries, data, count, buffer_bytes, tail: 0, held })
    }

    /// Hands all buffers to the kernel as the buffer group of `ring`.
    pub(super) fn register(&mut self, ring: &IoUring) -> io::Result<()> {
        let address = self.entries.start.as_ptr() as u64;
        // SAFETY: the entries are page-aligned, hold `count` entries, and live until the ring has
        // no operation left: `Ring` owns both and frees the buffers last, or never.
        unsafe { ring.submitter().register_buf_ring_with_flags(address, self.count, GROUP, 0)? };
        (0..self.count).for_each(|id| self.publish(id));
        Ok(())
    }

    /// Notes that the kernel has filled buffer `id`: from here on it belongs to this process.
    pub(super) fn take(&mut self, id: u16) {
        assert!(!self.held[usize::from(id)], "the kernel filled a buffer that it did not have");
        self.held[usize::from(id)] = true;
    }

    /// The first `bytes` of a held buffer.
    pub(super) fn bytes_mut(&mut self, id: u16, bytes: u32) -> &mut [u8] {
        assert!(self.held[usize::from(id)], "these bytes were given back");
        assert!(bytes <= self.buffer_bytes, "more bytes than a buffer has");
        // SAFETY: `held` says that the kernel does not have this buffer, so nothing writes to it;
        // `&mut self` excludes a second slice; id < count (index above) and bytes <= buffer_bytes
        // keep it inside the mapping, which is initialised (zeroed by the kernel).
        unsafe {
            let start = self.data.start.as_ptr().add(usize::from(id) * self.buffer_bytes as usize);
            std::slice::from_raw_parts_mut(start, bytes as usize)
        }
    }

    /// Gives a held buffer to the kernel. Visible to it at once: a receive armed later finds it.
    pub(super) fn publish(&mut self, id: u16) {
        assert!(self.held[usize::from(id)], "these bytes were given back already");
        self.held[usize::from(id)] = false;
        let base = self.entries.start.as_ptr().cast::<BufRingEntry>();
        let place = usize::from(self.tail & (self.count - 1));
        // SAFETY: place < count, inside the mapping, which is aligned for entries. The kernel reads
        // entries below the published tail only, and at most `count` are published at a time,
        // because a buffer is published only while held; so nobody reads this entry now. The
        // setters leave the tail alone, which overlays the first entry.
        unsafe {
            let entry = &mut *base.add(place);
            entry.set_addr(
                self.data.start.as_ptr() as u64 + u64::from(id) * u64::from(self.buffer_bytes),
            );
            entry.set_len(self.buffer_bytes);
            entry.set_bid(id);
        }
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail lies inside the mapping, is aligned for u16, and while shared with the
        // kernel it is accessed atomically only; release orders the entry before it.
        unsafe {
            let tail = AtomicU16::from_ptr(BufRingEntry::tail(base).cast_mut());
            tail.store(self.tail, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_rounded_and_bounded() {
        assert_eq!(Buffers::new(3, 64).unwrap().count, 4);
        assert_eq!(Buffers::new(0, 0).unwrap().count, 1);
        assert_eq!(Buffers::new(u16::MAX, 1).unwrap().count, COUNT_MAX);
    }

    #[test]
    fn held_buffers_do_not_overlap() {
        let mut buffers = Buffers::new(4, 100).unwrap();
        for id in 0..4 {
            buffers.bytes_mut(id, 100).fill(id as u8 + 1);
        }
        for id in 0..4 {
            assert!(buffers.bytes_mut(id, 100).iter().all(|&byte| byte == id as u8 + 1));
        }
    }

    #[test]
    #[should_panic(expected = "given back")]
    fn a_published_buffer_is_out_of_reach() {
        let mut buffers = Buffers::new(4, 100).unwrap();
        buffers.publish(2);
        buffers.bytes_mut(2, 1);
    }
}

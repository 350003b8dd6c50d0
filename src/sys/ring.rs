//! One io_uring per shard behind a safe interface: sockets by slot, completions by value.
//!
//! What must hold, so that no safe caller can make the kernel touch memory that is not its own:
//! 1. The bytes of a send live in `Memory::slots` from the submission until the completion; one
//!    send per slot.
//! 2. Receive buffers belong to the kernel or to the process, never to both (`buffers.rs`).
//! 3. Every operation that is submitted is counted until its last completion; when the ring is
//!    dropped it cancels all and waits for zero. If zero does not come the memory is leaked, not
//!    freed.
//! 4. The ring never leaves the thread that made it (`SINGLE_ISSUER`): it is `!Send`.
//!
//! Everything else (at most one receive per socket, closing only what has no operation left) is for
//! the shard to keep; breaking it loses order or bytes of that connection, not memory safety.

use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::net::{Shutdown, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode};
use rustix::io::Errno;

use super::buffers::{Buffers, GROUP};
pub use super::completion::{Accepted, Completion, ReadEnd, Received};
use super::doorbell::Doorbell;
use super::user_data::Kind;
pub use super::user_data::{Key, SLOTS_MAX};
use crate::frame::Segment;

/// Linux's `SOCK_CLOEXEC`. Accepted sockets stay *blocking*: with `O_NONBLOCK` some operations
/// would answer `EAGAIN` where the ring should wait.
const ACCEPT_FLAGS: i32 = rustix::net::SocketFlags::CLOEXEC.bits() as i32;
const MSG_NOSIGNAL: i32 = rustix::net::SendFlags::NOSIGNAL.bits() as i32;
const POLL_IN: u32 = rustix::event::PollFlags::IN.bits() as u32;

/// How long a dropped ring waits for its operations before it leaks their memory.
const SETTLE_AT_MOST: Duration = Duration::from_secs(5);

/// How large a ring is.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Operations that can be queued between two system calls; more are submitted early.
    pub submission_entries: u32,
    /// Completions that can wait without overflow (rounded up to a power of two; at least twice the
    /// submissions).
    pub completion_entries: u32,
    /// Receive buffers shared by all sockets of the ring (rounded up to a power of two, at most
    /// 32,768).
    pub receive_buffers: u16,
    /// Bytes of each receive buffer.
    pub receive_buffer_bytes: u32,
}

/// Lets other rings wake this one. Must not be used after its ring was dropped: the number could
/// name another ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RingAddress(RawFd);

#[derive(Default)]
struct Slot {
    socket: Option<OwnedFd>,
    generation: u32,
    /// Read by the kernel while it is here.
    sending: Option<Segment>,
}

/// Everything that the kernel may read or write while operations are in flight.
struct Memory {
    buffers: Buffers,
    slots: Vec<Slot>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Accepting {
    Idle,
    Armed,
    Stopping,
}

/// The ring of one shard: made, used and dropped on the shard's thread.
pub struct Ring {
    ring: IoUring,
    memory: ManuallyDrop<Memory>,
    /// Operations that found the submission queue full; in order, ahead of all later ones.
    waiting: VecDeque<Entry>,
    listener: Option<TcpListener>,
    accepting: Accepting,
    doorbell: Option<Doorbell>,
    /// Operations without their last completion. Wakes are not counted: they refer to no memory.
    in_flight: usize,
    settle_at_most: Duration,
    syscalls: u64,
    overflows: u64,
}

impl Ring {
    /// Makes a ring that belongs to the calling thread.
    ///
    /// # Errors
    /// io_uring is missing, forbidden, or too old (see [`super::requirements`]), or memory is
    /// short.
    pub fn new(sizes: Sizes) -> io::Result<Ring> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(sizes.completion_entries.max(2 * sizes.submission_entries))
            .dontfork()
            .build(sizes.submission_entries)?;
        let mut buffers = Buffers::new(sizes.receive_buffers, sizes.receive_buffer_bytes)?;
        buffers.register(&ring)?;
        Ok(Ring {
            ring,
            memory: ManuallyDrop::new(Memory { buffers, slots: Vec::new() }),
            waiting: VecDeque::new(),
            listener: None,
            accepting: Accepting::Idle,
            doorbell: None,
            in_flight: 0,
            settle_at_most: SETTLE_AT_MOST,
            syscalls: 0,
            overflows: 0,
        })
    }

    /// Where other rings find this one.
    #[must_use]
    pub fn address(&self) -> RingAddress {
        RingAddress(self.ring.as_raw_fd())
    }

    /// Takes the listening socket of the shard and starts to accept. At most once per ring.
    pub fn listen(&mut self, listener: TcpListener) {
        assert!(self.listener.is_none(), "a ring has one listener");
        self.listener = Some(listener);
        self.rearm_accept();
    }

    /// Starts to accept again after [`Completion::AcceptEnded`]. Does nothing while accepting, or
    /// without a listener.
    pub fn rearm_accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        if self.accepting != Accepting::Idle {
            return;
        }
        let accept = opcode::AcceptMulti::new(Fd(listener.as_raw_fd())).flags(ACCEPT_FLAGS);
        self.accepting = Accepting::Armed;
        self.push(accept.build().user_data(Kind::Accept.alone()));
    }

    /// Stops accepting; connections that arrived before are still reported, then
    /// [`Completion::AcceptEnded`]. Nothing is reported if accepting had ended already. The
    /// listener stays open, see [`Ring::close_listener`].
    pub fn stop_accept(&mut self) {
        if self.accepting == Accepting::Armed {
            self.accepting = Accepting::Stopping;
            let cancel = CancelBuilder::user_data(Kind::Accept.alone());
            let cancel = opcode::AsyncCancel2::new(cancel).build();
            self.push(cancel.user_data(Kind::StopAccept.alone()));
        }
    }

    /// Closes the listener; the kernel resets connections that nobody accepted. Call it after
    /// accepting has ended.
    pub fn close_listener(&mut self) {
        assert!(self.accepting == Accepting::Idle, "an accept still refers to the listener");
        self.listener = None;
    }

    /// Binds an accepted socket to a slot, which must have none.
    pub fn adopt(&mut self, key: Key, socket: Accepted) {
        assert!(key.slot < SLOTS_MAX, "slots have 28 bits");
        let index = key.slot as usize;
        if index >= self.memory.slots.len() {
            self.memory.slots.resize_with(index + 1, Slot::default);
        }
        let slot = &mut self.memory.slots[index];
        assert!(slot.socket.is_none(), "the slot has a socket");
        slot.socket = Some(socket.socket);
        slot.generation = key.generation;
    }

    /// Closes an accepted socket that no slot wants. Reports nothing.
    pub fn reject(&mut self, socket: Accepted) {
        self.push(close(socket.socket).user_data(Kind::Reject.alone()));
    }

    /// Arms the receive of a socket: from now on bytes are reported as they come, until the receive
    /// ends. At most one per socket may be armed, or bytes come in the wrong order.
    pub fn receive(&mut self, key: Key) {
        let receive = opcode::RecvMulti::new(self.operand(key), GROUP).build();
        self.push(receive.user_data(Kind::Receive.of(key)));
    }

    /// Ends the receive of a socket. Bytes may still be reported before its end is.
    pub fn cancel_receive(&mut self, key: Key) {
        let cancel = CancelBuilder::user_data(Kind::Receive.of(key));
        let cancel = opcode::AsyncCancel2::new(cancel).build();
        self.push(cancel.user_data(Kind::CancelReceive.of(key)));
    }

    /// Sends `bytes[from..to]`, which must not be empty. One send per slot at a time; the ring
    /// keeps the bytes until its completion.
    pub fn send(&mut self, key: Key, bytes: Segment, from: u32, to: u32) {
        let part = &bytes[from as usize..to as usize];
        assert!(!part.is_empty(), "an empty send would look like the end of the connection");
        let send = opcode::Send::new(self.operand(key), part.as_ptr(), to - from)
            .flags(MSG_NOSIGNAL)
            .build()
            .user_data(Kind::Send.of(key));
        let slot = &mut self.memory.slots[key.slot as usize];
        assert!(slot.sending.is_none(), "one send per slot");
        // The bytes stay where they are: only the count of `Segment` moves here.
        slot.sending = Some(bytes);
        self.push(send);
    }

    /// Ends one or both directions of a socket, after everything that was asked for before. A send
    /// in flight ends with a short count or an error when the writing side ends.
    ///
    /// It is a system call of its own: an operation would be passed to a helper thread.
    pub fn shutdown(&mut self, key: Key, how: Shutdown) {
        use rustix::net::Shutdown as How;
        let how = match how {
            Shutdown::Read => How::Read,
            Shutdown::Write => How::Write,
            Shutdown::Both => How::Both,
        };
        // An error shows again at the next submission, which reports it.
        let _ = self.submit();
        // The only failure is ENOTCONN: the peer has reset the connection, which is what was wanted.
        let _ = rustix::net::shutdown(self.socket(key), how);
        self.push(opcode::Nop::new().build().user_data(Kind::Shutdown.of(key)));
    }

    /// Closes the socket of a slot. Operations in flight on it would keep the connection alive in
    /// the kernel: end them first.
    pub fn close(&mut self, key: Key) {
        self.socket(key);
        let socket = self.memory.slots[key.slot as usize].socket.take();
        let socket = socket.expect("the slot has a socket");
        self.push(close(socket).user_data(Kind::Close.of(key)));
    }

    /// Queues a wake of another ring, which sees [`Completion::Woken`]. Reports nothing unless it
    /// fails.
    pub fn wake(&mut self, other: RingAddress) {
        let wake = opcode::MsgRingData::new(Fd(other.0), 0, Kind::Woken.alone(), None)
            .build()
            .flags(Flags::SKIP_SUCCESS)
            .user_data(Kind::Wake.alone());
        self.enqueue(wake);
    }

    /// Reports the rings of `bell` from now on, for as long as the ring lives. At most once per
    /// ring.
    pub fn listen_doorbell(&mut self, bell: &Doorbell) {
        assert!(self.doorbell.is_none(), "a ring has one doorbell");
        self.doorbell = Some(bell.clone());
        self.arm_doorbell();
    }

    fn arm_doorbell(&mut self) {
        if let Some(bell) = &self.doorbell {
            let poll = opcode::PollAdd::new(Fd(bell.descriptor()), POLL_IN).multi(true).build();
            self.push(poll.user_data(Kind::Doorbell.alone()));
        }
    }

    /// Submits what is queued, without waiting. No system call if nothing is.
    ///
    /// # Errors
    /// Only those that no retry would cure; a kernel short of memory or with an overflowing queue
    /// is no error, the rest stays queued.
    pub fn submit(&mut self) -> io::Result<()> {
        while self.refill() > 0 {
            let submitted = self.enter(0, EnterFlags::empty(), None)?;
            if submitted == 0 || self.waiting.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// Submits what is queued and waits until at least one completion is there, at most `timeout`.
    /// Neither a timeout nor a signal is an error.
    ///
    /// # Errors
    /// As [`Ring::submit`].
    pub fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        self.refill();
        let timeout = Timespec::from(timeout);
        self.enter(1, EnterFlags::GETEVENTS, Some(&timeout)).map(drop)
    }

    /// Submits what is queued and fetches completions that the kernel holds back
    /// ([`Ring::has_more`]), without waiting.
    ///
    /// # Errors
    /// As [`Ring::submit`].
    pub fn reap(&mut self) -> io::Result<()> {
        self.refill();
        self.enter(0, EnterFlags::GETEVENTS, None).map(drop)
    }

    /// Whether [`Ring::reap`] would bring more completions. No system call.
    #[must_use]
    pub fn has_more(&self) -> bool {
        // SAFETY: no other view of the submission queue exists: each lives inside one method of
        // `Ring`, which is !Sync.
        let queue = unsafe { self.ring.submission_shared() };
        queue.taskrun() || queue.cq_overflow()
    }

    /// Takes one completion. No system call.
    #[expect(clippy::should_implement_trait, reason = "a ring is not an iterator: it goes on")]
    pub fn next(&mut self) -> Option<Completion> {
        loop {
            let entry = self.ring.completion().next()?;
            let (user_data, result, flags) = (entry.user_data(), entry.result(), entry.flags());
            let (kind, key) = Kind::read(user_data).expect("only this module writes user_data");
            let more = cqueue::more(flags);
            if !more && !matches!(kind, Kind::Wake | Kind::Woken) {
                self.in_flight -= 1;
            }
            let result = u32::try_from(result).map_err(|_| Errno::from_raw_os_error(-result));
            let buffer = cqueue::buffer_select(flags);
            if let Some(completion) = self.interpret(kind, key, result, more, buffer) {
                return Some(completion);
            }
        }
    }

    fn interpret(
        &mut self,
        kind: Kind,
        key: Key,
        result: Result<u32, Errno>,
        more: bool,
        buffer: Option<u16>,
    ) -> Option<Completion> {
        Some(match kind {
            Kind::Receive => self.received(key, result, more, buffer),
            Kind::Send => {
                self.memory.slots[key.slot as usize].sending = None;
                Completion::Sent { key, result }
            }
            Kind::Shutdown => Completion::ShutDown { key },
            Kind::Close => Completion::Closed { key },
            Kind::CancelReceive => Completion::CancelDone { key },
            Kind::Accept => return self.accepted(result, more),
            Kind::Wake => Completion::WakeFailed(result.err()?),
            Kind::Woken => Completion::Woken,
            Kind::Doorbell => {
                if !more {
                    self.arm_doorbell();
                }
                Completion::Doorbell
            }
            Kind::StopAccept | Kind::Reject | Kind::CancelAll => return None,
        })
    }

    fn received(
        &mut self,
        key: Key,
        result: Result<u32, Errno>,
        more: bool,
        buffer: Option<u16>,
    ) -> Completion {
        if let Some(buffer) = buffer {
            self.memory.buffers.take(buffer);
        }
        let why = match (result, buffer) {
            (Ok(bytes @ 1..), Some(buffer)) => {
                return Completion::Received { key, data: Received { buffer, bytes }, more };
            }
            (Ok(_), _) => ReadEnd::Eof,
            (Err(Errno::NOBUFS), _) => ReadEnd::NoBuffers,
            (Err(Errno::CANCELED), _) => ReadEnd::Cancelled,
            (Err(error), _) => ReadEnd::Error(error),
        };
        if let Some(buffer) = buffer {
            self.memory.buffers.publish(buffer);
        }
        Completion::ReceiveEnded { key, why }
    }

    fn accepted(&mut self, result: Result<u32, Errno>, more: bool) -> Option<Completion> {
        let stopping = self.accepting == Accepting::Stopping;
        if !more {
            self.accepting = Accepting::Idle;
        }
        match result {
            Ok(descriptor) => {
                // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
                let socket = unsafe { OwnedFd::from_raw_fd(descriptor as RawFd) };
                if !more {
                    // An accept that ends with a connection (the completion queue overflowed) goes
                    // on. If it is being stopped, the new one is stopped at once, so that its end
                    // is reported exactly once.
                    self.rearm_accept();
                    if stopping {
                        self.stop_accept();
                    }
                }
                Some(Completion::Accepted(Accepted { socket }))
            }
            Err(error) if more => {
                debug_assert!(false, "an accept goes on after {error}");
                None
            }
            Err(error) => Some(Completion::AcceptEnded(error.into())),
        }
    }

    /// The bytes that arrived; writable, because WebSocket payloads are unmasked in place.
    pub fn bytes_mut(&mut self, received: &Received) -> &mut [u8] {
        self.memory.buffers.bytes_mut(received.buffer, received.bytes)
    }

    /// Returns a receive buffer to the kernel. A receive that is armed afterwards finds it.
    pub fn give_back(&mut self, received: Received) {
        self.memory.buffers.publish(received.buffer);
    }

    /// How often the ring was entered while completions had overflowed their queue. Nothing is lost
    /// then, but multishot operations end and must be armed again.
    #[must_use]
    pub fn completion_overflows(&self) -> u64 {
        self.overflows
    }

    /// Calls of `io_uring_enter` so far.
    #[must_use]
    pub fn syscalls(&self) -> u64 {
        self.syscalls
    }

    /// Operations that still have a completion to come; multishot ones count as one.
    #[must_use]
    pub fn operations_in_flight(&self) -> usize {
        self.in_flight
    }

    fn operand(&self, key: Key) -> Fd {
        Fd(self.socket(key).as_raw_fd())
    }

    fn socket(&self, key: Key) -> &OwnedFd {
        let slot = self.memory.slots.get(key.slot as usize);
        let slot = slot.filter(|slot| slot.generation == key.generation);
        let socket = slot.and_then(|slot| slot.socket.as_ref());
        socket.expect("the slot has a socket of this generation")
    }

    fn push(&mut self, operation: Entry) {
        self.in_flight += 1;
        self.enqueue(operation);
    }

    fn enqueue(&mut self, operation: Entry) {
        if self.waiting.is_empty() && self.try_enqueue(&operation) {
            return;
        }
        self.waiting.push_back(operation);
        // An error shows again at the next submission, which reports it.
        let _ = self.submit();
    }

    fn try_enqueue(&mut self, operation: &Entry) -> bool {
        // SAFETY: what the operation refers to lives until its completion: bytes of a send are in
        // `memory.slots`, receives take from `memory.buffers`, all else refers to descriptors only.
        // `memory` outlives all operations.
        unsafe { self.ring.submission().push(operation) }.is_ok()
    }

    /// Moves what waits into the submission queue; how many operations are queued there now.
    fn refill(&mut self) -> usize {
        while let Some(operation) = self.waiting.pop_front() {
            if !self.try_enqueue(&operation) {
                self.waiting.push_front(operation);
                break;
            }
        }
        self.ring.submission().len()
    }

    /// One system call; how many operations the kernel took.
    fn enter(
        &mut self,
        at_least: u32,
        mut flags: EnterFlags,
        timeout: Option<&Timespec>,
    ) -> io::Result<usize> {
        let queue = self.ring.submission();
        let queued = queue.len() as u32;
        if queue.cq_overflow() {
            self.overflows += 1;
            flags.insert(EnterFlags::GETEVENTS);
        }
        drop(queue);
        self.syscalls += 1;
        let submitter = self.ring.submitter();
        let entered = match timeout {
            Some(timeout) => {
                let args = SubmitArgs::new().timespec(timeout);
                flags.insert(EnterFlags::EXT_ARG);
                // SAFETY: the argument is what EXT_ARG announces (`SubmitArgs` is the kernel's
                // getevents_arg) and lives through the call.
                unsafe { submitter.enter(queued, at_least, flags.bits(), Some(&args)) }
            }
            // SAFETY: without EXT_ARG the argument is a signal mask; none is given.
            None => unsafe { submitter.enter::<()>(queued, at_least, flags.bits(), None) },
        };
        entered.or_else(|error| match Errno::from_io_error(&error) {
            // A timeout, a signal, or a kernel that wants its completions taken first: come again.
            Some(Errno::TIME | Errno::INTR | Errno::BUSY | Errno::AGAIN) => Ok(0),
            _ => Err(error),
        })
    }

    /// Cancels all operations and waits for their completions; whether all came.
    fn settle(&mut self) -> bool {
        let deadline = Instant::now() + self.settle_at_most;
        // Taken, so that nothing is armed again; kept open, because queued operations still name
        // their numbers.
        let _kept = (self.doorbell.take(), self.listener.take());
        while self.in_flight > 0 && Instant::now() < deadline {
            // Anew in each round: an operation may have been between two states when the last one
            // looked.
            let cancel = opcode::AsyncCancel2::new(CancelBuilder::any()).build();
            self.push(cancel.user_data(Kind::CancelAll.alone()));
            if self.wait(Duration::from_millis(50)).is_err() {
                return false;
            }
            while let Some(completion) = self.next() {
                if let Completion::Received { data, .. } = completion {
                    self.give_back(data);
                }
            }
        }
        self.in_flight == 0 && self.waiting.is_empty()
    }
}

/// Closes a descriptor when the kernel comes to it.
fn close(socket: OwnedFd) -> Entry {
    opcode::Close::new(Fd(socket.into_raw_fd())).build()
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.settle() && self.ring.submitter().unregister_buf_ring(GROUP).is_ok() {
            // SAFETY: no operation is in flight and none waits, and the kernel has let go of the
            // buffers: nothing refers to the memory any more. It is not used again: this is the end
            // of the ring. On every other path, a panic above included, it is leaked.
            unsafe { ManuallyDrop::drop(&mut self.memory) }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpStream};

    use super::*;
    use crate::sys::sockets;

    const SIZES: Sizes = Sizes {
        submission_entries: 8,
        completion_entries: 16,
        receive_buffers: 4,
        receive_buffer_bytes: 512,
    };

    fn next(ring: &mut Ring) -> Completion {
        for _ in 0..20 {
            if let Some(completion) = ring.next() {
                return completion;
            }
            ring.wait(Duration::from_secs(1)).unwrap();
        }
        panic!("no completion came")
    }

    fn connected() -> (Ring, TcpStream) {
        let any = (Ipv4Addr::LOCALHOST, 0).into();
        let listener = sockets::listener(any, false, sockets::BACKLOG).unwrap();
        let address = listener.local_addr().unwrap();
        let mut ring = Ring::new(SIZES).unwrap();
        ring.listen(listener);
        (ring, TcpStream::connect(address).unwrap())
    }

    #[test]
    fn an_operation_that_never_ends_leaks_its_memory() {
        let (mut ring, _client) = connected();
        let key = Key { slot: 0, generation: 0 };
        let Completion::Accepted(socket) = next(&mut ring) else { panic!("no connection") };
        ring.adopt(key, socket);
        let bytes = Segment::from(vec![1; 10]);
        ring.memory.slots[0].sending = Some(bytes.clone());
        // One more than the kernel knows of: its completion never comes.
        ring.in_flight += 1;
        ring.settle_at_most = Duration::from_millis(1);
        drop(ring);
        assert_eq!(bytes.holders(), 2, "freed under the kernel");
    }

    #[test]
    fn accepted_sockets_are_blocking_and_do_not_delay() {
        let (mut ring, _client) = connected();
        let Completion::Accepted(accepted) = next(&mut ring) else { panic!("no connection") };
        let socket = socket2::SockRef::from(&accepted.socket);
        assert!(socket.tcp_nodelay().unwrap() && !socket.nonblocking().unwrap());
        let flags = rustix::io::fcntl_getfd(&accepted.socket).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }

    #[test]
    fn a_wake_to_what_is_no_ring_is_reported() {
        let (mut ring, client) = connected();
        ring.wake(RingAddress(client.as_raw_fd()));
        loop {
            match next(&mut ring) {
                Completion::WakeFailed(error) => break assert_eq!(error, Errno::BADFD),
                Completion::Accepted(socket) => ring.reject(socket),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_dropped_received_loses_one_buffer_and_nothing_else() {
        let (mut ring, mut client) = connected();
        let key = Key { slot: 0, generation: 0 };
        let Completion::Accepted(socket) = next(&mut ring) else { panic!("no connection") };
        ring.adopt(key, socket);
        ring.receive(key);
        for round in 0..4 {
            std::io::Write::write_all(&mut client, &[round]).unwrap();
            let Completion::Received { data, .. } = next(&mut ring) else { panic!("no bytes") };
            assert_eq!(ring.bytes_mut(&data), [round]);
        }
        std::io::Write::write_all(&mut client, b"5").unwrap();
        let end = next(&mut ring);
        assert!(matches!(end, Completion::ReceiveEnded { why: ReadEnd::NoBuffers, .. }), "{end:?}");
    }
}

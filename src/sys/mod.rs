//! What the kernel offers, behind safe interfaces: the only place of the crate with `unsafe`.
//!
//! Why any `unsafe` is needed: io_uring reads and writes memory of the process *after* the call
//! that asked for it has returned, which no borrow can express. [`ring`] therefore owns every byte
//! that the kernel may touch until the kernel says that it is done, and `buffers` owns the memory
//! that receives write to. Everything else here is safe code; it lives here because it speaks to
//! the kernel.
#![allow(unsafe_code)]

mod buffers;
mod completion;
pub mod cpu;
pub mod doorbell;
pub mod requirements;
pub mod ring;
pub mod sockets;
mod user_data;

//! tiderace: a realtime server for Linux, one glommio executor per core over io_uring.

pub mod api;
pub mod auth;
pub mod close;
pub mod codec;
pub mod limits;
pub mod protocol;
pub mod shard;
#[doc(hidden)]
pub mod sys;

//! tiderace: a realtime server for Linux, one glommio executor per core over io_uring.

pub mod close;
pub mod codec;
pub mod limits;
pub mod protocol;

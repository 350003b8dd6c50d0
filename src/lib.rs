//! tiderace: a realtime server for Linux, one glommio executor per core over io_uring.

pub mod cli;
pub mod close;
pub mod config;
pub mod limits;
pub mod protocol;

//! tiderace: a realtime server for Linux, one glommio executor per core over io_uring.

pub mod api;
pub mod auth;
pub mod backend;
pub mod channels;
pub mod cli;
pub mod codec;
pub mod codes;
pub mod config;
pub mod core;
pub mod frame;
pub mod hub;
pub mod jwks;
pub mod limits;
pub mod metrics;
#[doc(hidden)]
pub mod mutations;
pub mod protocol;
pub mod proxy;
pub mod server;
pub mod shard;
#[doc(hidden)]
pub mod sys;
pub mod watch;

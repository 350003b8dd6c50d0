//! The HTTP API for backends, compatible with Centrifugo's: the pure half, requests and responses.

pub mod shapes;
pub mod watch;

pub use shapes::{
    ApiError, Call, NodeInfo, NodeMetrics, Outcome, ProcessStats, ShardInfo, authorized,
    broadcast_response, error_response, info_response, parse, publish_response,
};

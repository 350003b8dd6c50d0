//! The HTTP API for backends, compatible with Centrifugo's: the pure half, requests and responses.

mod batch;
mod call;
mod info;
mod key;
mod parse;
mod reply;
pub mod shapes;
pub mod watch;

pub use call::{
    Call, ConnectionsOf, Disconnect, History, Overrides, PublishOptions, StreamPosition, Subscribe,
    Target, Version,
};
pub use info::{NodeInfo, NodeMetrics, ProcessStats, ShardInfo};
pub use key::authorized;
pub use parse::parse;
pub use reply::{ConnectionInfo, HistoryResult, PresenceStats, PublishResult, Reply, TokenInfo};
pub use shapes::{ApiError, ErrorMode, Outcome, error_response, response};

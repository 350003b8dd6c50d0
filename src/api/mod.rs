//! The HTTP API for backends, compatible with Centrifugo's: the pure half, requests and responses.

mod batch;
mod call;
mod exposition;
mod info;
mod key;
mod legacy;
mod parse;
mod reply;
pub mod shapes;
pub mod watch;

pub use call::{Call, ConnectionsOf, Disconnect, Subscribe, Target};
pub use exposition::{CONTENT_TYPE as EXPOSITION_TYPE, exposition};
pub use info::{NodeInfo, NodeMetrics, ProcessStats, ShardInfo};
pub use key::authorized;
pub use parse::parse;
pub use reply::{PresenceStats, Reply};
pub use shapes::{ApiError, ErrorMode, error_response, response};

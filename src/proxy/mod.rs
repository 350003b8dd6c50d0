//! What the product's backend is asked about connections and channels, and what its answers mean.
//!
//! Centrifugo's event proxies (centrifugal.dev `docs/server/proxy.md`, centrifugo `internal/proxy`
//! and `internal/proxyproto/proxy.proto`): the pure half, shapes and decisions. The threads that
//! ask are [`crate::backend`].
//!
//! What follows when a call has no usable answer ([`Failure`]), by method; as Centrifugo does it:
//!
//! | method | [`Aftermath`] | after that |
//! |---|---|---|
//! | connect | reply error 100, temporary; unidirectional: close 3004 | the client backs off and tries again |
//! | subscribe | reply error 100, temporary | the client backs off and tries again |
//! | publish, rpc | reply error 100, temporary | the application is told |
//! | refresh, sub_refresh | what was to expire lives 60 s longer | it is asked about again |
//! | device token | HTTP 503 with `Retry-After` | the agent tries again |
//! | channel state | sent again with backoff, see [`notices`] | given up and counted |
//!
//! Error 111, temporary, takes the place of 100 where so many calls wait that it was not asked.
//!
//! And when the backend answers without a `result` and without a refusal: connect has no
//! credentials (anonymous where that is allowed, else closed), subscribe and publish are allowed as
//! they are, rpc is answered without data, refresh and sub_refresh mean that it expired. An `error`
//! or `disconnect` to a refresh counts as no result, for it would reach nobody.

pub mod answers;
pub mod calls;
pub mod headers;
pub mod notices;
pub mod routes;

pub use answers::BackendAnswer;
pub use calls::{BackendCall, Caller};
pub use headers::{HeaderRules, Headers};
pub use routes::Routes;

/// Seconds that a connection or subscription lives on when the backend cannot be asked about it.
pub const EXTENSION_S: u64 = 60;

/// One of the configured proxies, by its place in their list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProxyId(pub u16);

/// What kind of call it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// A client connects without a token.
    Connect,
    /// A connection is about to expire.
    Refresh,
    /// A client subscribes without a token.
    Subscribe,
    /// A client publishes.
    Publish,
    /// A subscription is about to expire.
    SubRefresh,
    /// A client calls a procedure.
    Rpc,
    /// Whose a device token is.
    Device,
}

impl Method {
    /// Its name in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Refresh => "refresh",
            Self::Subscribe => "subscribe",
            Self::Publish => "publish",
            Self::SubRefresh => "sub_refresh",
            Self::Rpc => "rpc",
            Self::Device => "device",
        }
    }

    /// What follows when there is no usable answer: the table of this module.
    pub const fn aftermath(self) -> Aftermath {
        match self {
            Self::Connect | Self::Subscribe | Self::Publish | Self::Rpc => Aftermath::Refuse,
            Self::Refresh | Self::SubRefresh => Aftermath::Extend { seconds: EXTENSION_S },
            Self::Device => Aftermath::Unavailable,
        }
    }
}

/// What becomes of a command or connection that the backend said nothing usable about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aftermath {
    /// The command is refused with error 100, temporary; a connection without replies is closed
    /// with 3004 instead.
    Refuse,
    /// It stays valid for so long and is asked about again.
    Extend {
        /// From now.
        seconds: u64,
    },
    /// The HTTP request is answered with status 503.
    Unavailable,
}

/// Why a call has no usable answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// It was not sent: those before it took as long as it may take itself.
    Busy,
    /// There was no connection, or it broke.
    Unreachable,
    /// The answer was not there in time.
    Timeout,
    /// The answer had this HTTP status.
    Status(u16),
    /// The answer was longer than is read.
    TooLarge,
    /// The answer was not what the method asks for.
    Nonsense,
}

impl Failure {
    /// Its name in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Status(_) => "status",
            Self::TooLarge => "too_large",
            Self::Nonsense => "nonsense",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_may_try_again_and_who_is_connected_stays() {
        for method in [Method::Connect, Method::Subscribe, Method::Publish, Method::Rpc] {
            assert_eq!(method.aftermath(), Aftermath::Refuse);
        }
        for method in [Method::Refresh, Method::SubRefresh] {
            assert_eq!(method.aftermath(), Aftermath::Extend { seconds: 60 });
        }
        assert_eq!(Method::Device.aftermath(), Aftermath::Unavailable);
    }
}

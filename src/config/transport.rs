//! Where clients connect, and by which transports.

use std::time::Duration;

use super::section::section;
use super::value::{duration, number, path, switch};

section! {
    /// `websocket`: the WebSocket transport.
    Websocket {
        /// There is no such endpoint.
        disabled: bool = false, switch;
        /// Its path.
        handler_prefix: String = "/connection/websocket".into(), path;
        /// Bytes of one message of a client.
        message_size_limit: usize = 65_536, |v| number(v, 128..=1 << 30);
    }
}

section! {
    /// `uni_websocket`: the unidirectional WebSocket transport.
    UniWebsocket {
        /// There is such an endpoint.
        enabled: bool = false, switch;
        /// Its path.
        handler_prefix: String = "/connection/uni_websocket".into(), path;
        /// Bytes of the one message of a client, its connect request.
        message_size_limit: usize = 65_536, |v| number(v, 128..=1 << 30);
        /// Without effect yet: pushes that are ready together share a message, one per line.
        join_push_messages: bool = false, switch;
        /// Without effect yet: the close frame alone tells why a connection ends.
        disable_disconnect_push: bool = false, switch;
    }
}

macro_rules! http_transports {
    ($($(#[$meta:meta])* $name:ident = $path:literal;)+) => {
        $(section! {
            $(#[$meta])*
            $name {
                /// There is such an endpoint.
                enabled: bool = false, switch;
                /// Its path.
                handler_prefix: String = $path.into(), path;
                /// Bytes of the body of a request.
                max_request_body_size: usize = 65_536, |v| number(v, 128..=1 << 30);
            }
        })+
    };
}

http_transports! {
    /// `sse`: the bidirectional transport over server-sent events.
    Sse = "/connection/sse";
    /// `http_stream`: the bidirectional transport over a streamed HTTP response.
    HttpStream = "/connection/http_stream";
    /// `uni_sse`: the unidirectional transport over server-sent events.
    UniSse = "/connection/uni_sse";
    /// `uni_http_stream`: the unidirectional transport over a streamed HTTP response.
    UniHttpStream = "/connection/uni_http_stream";
}

section! {
    /// `emulation`: where clients of `sse` and `http_stream` send to. It is there when one of the
    /// two is.
    Emulation {
        /// Its path.
        handler_prefix: String = "/emulation".into(), path;
        /// Bytes of the body of a request.
        max_request_body_size: usize = 65_536, |v| number(v, 128..=1 << 30);
    }
}

section! {
    /// `events`: a channel as plain server-sent events.
    Events {
        /// There are such endpoints.
        enabled: bool = false, switch;
        /// The path below which channels are.
        handler_prefix: String = "/events".into(), path;
    }
}

section! {
    /// `handlers`: the WebSocket endpoints of an embedding program.
    Handlers {
        /// Pause between two pings to a connection; 0 sends none.
        ping_interval: Duration = Duration::from_secs(30), duration;
        /// A connection from which nothing came for so long, no pong either, is closed with 1011; above
        /// ping_interval, and 0 waits for ever.
        silence_timeout: Duration = Duration::from_secs(60), duration;
    }
}

//! Fixed bounds, each with its unit in the name; the configurable ones live in `config`.

/// Shards of one process: the width of a link table row, far above any machine's CPU count.
pub const SHARDS_MAX: usize = 256;

/// Entries of one link's ring; what does not fit waits in the sender's backlog.
pub const LINK_ENTRIES: usize = 4096;

/// Bytes of publications that may wait behind one full link before publishers are refused.
pub const LINK_BACKLOG_BYTES_MAX: usize = 64 << 20;

/// Requests of one shard that wait for answers of other shards.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 65_536;

/// Commands of one connection whose answer is outstanding; the next one is refused with error 111.
/// Enough for the burst of a client that does not await each publish on a channel of another shard.
pub const COMMANDS_IN_FLIGHT_MAX: usize = 256;

/// Bytes given to the kernel by one send, so that a slow reader's progress shows.
pub const SEND_BYTES_MAX: usize = 256 << 10;

/// Bytes that publications of one turn are joined to before a new segment is begun.
pub const SEGMENT_BYTES_MAX: usize = 64 << 10;

/// Connections above the configured limit that are still accepted, to be told 503.
pub const REFUSALS_IN_FLIGHT_MAX: usize = 512;

/// Milliseconds for a whole close: our close frame, the peer's, and the TCP shutdown.
pub const CLOSE_TIMEOUT_MS: u64 = 5_000;

/// Milliseconds that a shard sleeps at most, a net under the wake handshake.
pub const SLEEP_MS_MAX: u64 = 1_000;

/// Bytes of one HTTP request line and header block.
pub const HTTP_HEAD_BYTES_MAX: usize = 16 << 10;

/// Header fields of one HTTP request.
pub const HTTP_HEADERS_MAX: usize = 64;

/// Subprotocols that one WebSocket handshake may offer.
pub const SUBPROTOCOLS_MAX: usize = 16;

const _: () = assert!(SEGMENT_BYTES_MAX <= SEND_BYTES_MAX, "a joined segment is one send");
